"""Worlds: whole nodes in one process, joined in memory, in simulated time, the same every time for one seed.

    world = World(tmp_path, nursery)
    ana = await world.founder("ana")                  # a home with a store, a space and an author
    beto = await world.admitted("beto", by=ana)       # a member that holds nothing but its own claim
    meeting = await world.meet(beto, ana)             # beto dials; both links run until everybody is quiet
    assert meeting.called.said == [...]               # every message, in order

A meeting joins two sessions without sockets. For dialling, backoff and joining, `World.connect` takes the place of a
node's `Dialler.open`: every home has an address, and the world decides who reaches whom. Stores work inline, so
MockClock jumps only when nobody has anything left to do.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from p2pnode import exchange as exchange_module
from p2pnode.author import sign_run
from p2pnode.config import Settings
from p2pnode.link import Conversation, Link
from p2pnode.node import Node
from p2pnode.reception import Reception
from p2pnode.session import Session
from p2pnode.socks import Dialler, Failure
from p2pnode.space import Space
from p2pnode.store import Store, runs
from protocol import invite, keys, report
from protocol.board import Filter, Listed
from protocol.connection import Connection, Phase
from protocol.entry import Kind, LogClass, LogIdentity, time_units
from protocol.events import Event, SnapshotWanted
from protocol.handshake import LocalEnd, Opened
from protocol.limits import PAYLOAD_SIZE_MAX, Limits
from protocol.log import Run, rebuild
from protocol.mask import SessionSecret
from protocol.messages import Message
from protocol.noise import KeyPair
from protocol.reconcile import Snapshot
from protocol.report import Report
from protocol.statement import Role

START = 1_800_000_000.0
KEY = b"k" * 32
PORT = 4001
TINY = Limits(
    run_entries_max=3,
    run_size_max=PAYLOAD_SIZE_MAX,
    asked_max=2,
    pushes_max=2,
    reconcile_frame_max=4096,
)
_here: ContextVar["Home | None"] = ContextVar("home", default=None)  # whose task this is


class SeededAmbient:
    """The clock of trio's loop, shifted at will, and entropy from a seed."""

    def __init__(self, seed: str) -> None:
        self.ahead_seconds = 0.0
        self._drawn = random.Random(seed)

    def now(self) -> float:
        return START + trio.current_time() + self.ahead_seconds

    def entropy(self, size: int) -> bytes:
        return self._drawn.randbytes(size)

    def random(self) -> float:
        return self._drawn.random()


class Home:
    """One node: everything of it that outlives a start of its daemon, and the daemon while it runs."""

    def __init__(self, name: str, path: Path, ambient: SeededAmbient, limits: Limits) -> None:
        self.name = name
        self.path = path
        self.ambient = ambient
        self.limits = limits
        self.store: Store
        self.node: Node
        self.errors: list[str] = []
        self.is_up = False
        self._scope = trio.CancelScope()

    async def run(self, *tasks: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A daemon's life, with those of a node's tasks that are named here."""
        _here.set(self)
        self._scope = trio.CancelScope()
        settings = Settings(
            *(self.path.parent, self.path.with_suffix(".socket"), self.path, self.path.with_suffix(".key"), None),
            listen=(),
            lan="off",
            profile="field",
            proxy=None,
        )
        self.store = Store.open(self.path, KEY, inline=True, on_error=self.errors.append)
        try:
            spaces = [await Space.load(self.store, row, self.ambient) for row in await self.store.load_spaces()]
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.node = Node(settings, self.store, spaces, self.ambient, self.limits, nursery)
                    for task in tasks:
                        nursery.start_soon(self.node.sync.run if task == "sync" else getattr(self.node, task))
                    for space in spaces:
                        self.node.exchange.members_changed(space)
                        self.node.outposts.start(space)
                    self.is_up = True
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self.is_up = False
            with trio.CancelScope(shield=True):
                await self.store.close()

    def stop(self) -> None:
        """Ends the daemon in the middle of whatever it does."""
        self.is_up = False
        self._scope.cancel()

    @property
    def address(self) -> tuple[str, int]:
        return (f"10.0.{sum(self.name.encode()) % 250}.{len(self.name)}.{self.name}", PORT)

    @property
    def space(self) -> Space:
        """The one space of this home."""
        (space,) = self.node.spaces.values()
        return space

    @property
    def sessions(self) -> list[Session]:
        return [session for session, _ in self.node.sync.register.sessions.values()]

    # Writing

    async def publish(self, *titles: str, log_class: LogClass = LogClass.REPORT) -> Run:
        """Reports of this home's author, committed and announced as a command does it."""
        payloads = [(int(Kind.REPORT), self.report(title)) for title in titles]
        async with self.node.author.lock:
            run = await self.node.author.publish(self.space, log_class, payloads)
        self.node.exchange.announce_run(self.space, run)
        return run

    def report(self, title: str) -> bytes:
        return report.encode(Report(category="other", title=title), self.ambient.entropy(16))

    async def take(self, *runs: Run) -> None:
        """Runs that came here by some other way."""
        await self.node.exchange.take(self.space, runs)

    async def invite(self, *, seconds: int = 86_400, role: Role = Role.WRITER) -> invite.Invitation:
        address = invite.Address(*self.address)
        return invite.decode(await self.node.invite(self.space, [address], seconds, role))

    # Looking

    async def digest(self) -> bytes:
        return await self.store.digest(self.space.no)

    async def board(self) -> list[Listed]:
        """Every report as it is listed, without the store's own numbers."""
        while await self.store.index_some():
            pass
        now = int(self.ambient.now())
        listed = await self.store.list_reports(Filter(), limit=0, now_s=now, space_no=self.space.no)
        return [replace(one, no=0) for one in listed]

    async def titles(self) -> list[str]:
        return sorted(listed.report.title for listed in await self.board())

    def high(self, run: Run) -> int:
        """How far the log of a run is held here."""
        held = self.store.held(self.space.no, [run.key]).get(run.key)
        return 0 if held is None else held.head.high

    async def check(self) -> dict[str, int]:
        return await self.store.check(lambda done, total: None)


# Streams that can be cut


@dataclass
class Cable:
    """Both directions between two ends. `bytes_left` and `writes_left` say when it breaks; None: never."""

    bytes_left: int | None = None
    writes_left: int | None = None
    ends: list["Plug"] = field(default_factory=list)
    written: list[int] = field(default_factory=list)  # bytes of every write, in order
    is_cut: bool = False
    is_lost: bool = False  # nothing arrives any more, and nobody is told

    def cut(self) -> None:
        self.is_cut = True
        for end in self.ends:
            end.inner.send_stream.close()
            end.inner.receive_stream.close()

    def take(self, size: int) -> int:
        """How many of so many bytes still go through."""
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                return 0
        if self.bytes_left is None:
            return size
        allowed = min(size, self.bytes_left)
        self.bytes_left -= allowed
        return allowed


class Plug(trio.abc.HalfCloseableStream):
    """One end of a cable; looks enough like a socket's stream for `Sync.receive`."""

    def __init__(self, inner: Any, cable: Cable, remote_host: str) -> None:
        self.inner = inner
        self.cable = cable
        self.socket = SimpleNamespace(getpeername=lambda: (remote_host, PORT))
        self.deaf = False  # reads nothing more
        cable.ends.append(self)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.cable.is_cut:
            raise trio.BrokenResourceError
        if self.cable.is_lost:
            return
        allowed = self.cable.take(len(data))
        self.cable.written.append(allowed)
        await self.inner.send_all(bytes(data)[:allowed])
        if allowed < len(data):
            self.cable.cut()
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytearray:
        if self.deaf:
            await trio.sleep_forever()
        received: bytearray = await self.inner.receive_some(max_bytes)
        if self.deaf:
            await trio.sleep_forever()
        return received

    async def aclose(self) -> None:
        if self.cable.is_lost:
            await trio.lowlevel.checkpoint()
        else:
            await self.inner.aclose()


def joined(cable: Cable | None = None, *, lockstep: bool = False, hosts: tuple[str, str] = ("", "")) -> list[Plug]:
    """Both ends of a cable: the dialler's, then the other's."""
    pair = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
    cable = cable or Cable()
    return [Plug(pair[0], cable, hosts[1]), Plug(pair[1], cable, hosts[0])]


# Meetings


class End:
    """One side of a meeting, with everything that it said and heard."""

    def __init__(self, home: "Home | None", link: Link, conversation: Conversation) -> None:
        self.home = home
        self.link = link
        self.said: list[Message] = []
        self.transcript: list[tuple[End, Message]] = []  # of both ends, in order, once they have met
        self.heard: list[Event] = []
        self.conversation = conversation
        self.over = trio.Event()
        self._send = link.connection.send
        link.connection.send = self._say  # type: ignore[method-assign]

    def _say(self, message: Message) -> None:
        self.said.append(message)
        self.transcript.append((self, message))
        self._send(message)

    @property
    def reason(self) -> str:
        return self.link.reason

    @property
    def session(self) -> Session:
        assert isinstance(self.conversation, Reception)
        assert self.conversation.session is not None
        return self.conversation.session

    def said_of(self, *kinds: type) -> list[Any]:
        return [message for message in self.said if type(message) in kinds]

    # A conversation that listens

    async def handle(self, events: Sequence[Event]) -> None:
        self.heard += events
        await self.conversation.handle(events)

    async def serve(self) -> bool:
        return await self.conversation.serve()

    async def run(self) -> None:
        try:
            if self.home is None:
                await self.link.run(self)
            else:
                await self.home.node.sync._run(self.link, _Overheard(self), side="test")  # type: ignore[arg-type]
        finally:
            self.over.set()


class _Overheard:
    """The reception of an end, as its node sees it."""

    def __init__(self, end: End) -> None:
        self.handle, self.serve = end.handle, end.serve
        assert isinstance(end.conversation, Reception)
        self.over = end.conversation.over


@dataclass
class Meeting:
    """Two joined links. `dialler` leads the session."""

    dialler: End
    called: End
    cable: Cable

    def __post_init__(self) -> None:
        self.transcript = self.called.transcript = self.dialler.transcript

    @property
    def ends(self) -> tuple[End, End]:
        return (self.dialler, self.called)

    async def close(self) -> None:
        """The dialler says goodbye; returns when both links are over."""
        self.dialler.link.close()
        await self.ended()

    async def ended(self) -> None:
        for end in self.ends:
            await end.over.wait()


class Rogue:
    """The conversation of a member who says whatever a test makes it say. Answers nothing by itself."""

    def __init__(self, *, deaf: bool = False, react: Callable[["Rogue", Event], None] = lambda rogue, event: None):
        self.link: Link
        self.plug: Plug
        self.local: LocalEnd
        self.digest = b"\xdd" * 32
        self.heard: list[Event] = []
        self._deaf = deaf  # from the end of the handshake on
        self._react = react

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            self.heard.append(event)
            match event:
                case Opened():
                    self.link.connection.accept(self.local, self.digest)
                case SnapshotWanted():
                    self.link.connection.answer(Snapshot.seal(()))
            self._react(self, event)
        if self._deaf and self.link.connection.phase is Phase.OPEN:
            self.plug.deaf = True

    async def serve(self) -> bool:
        return False

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.link.connection.send(message)
        self.link.wake()

    def heard_of(self, kind: type) -> list[Any]:
        return [event for event in self.heard if type(event) is kind]


class World:
    """The homes, and the network between them. Made by `open`."""

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, *, seed: int = 0, limits: Limits | None = None) -> AsyncIterator["World"]:
        """Within it, nodes dial through the world, and no signature is checked in a thread."""
        kept = Dialler.open, exchange_module.PROVE_IN_THREADS_MIN
        async with trio.open_nursery() as nursery:
            world = cls(path, nursery, seed=seed, limits=limits)
            Dialler.open = lambda _, address, circuit: world.connect(address, circuit)  # type: ignore[method-assign]
            exchange_module.PROVE_IN_THREADS_MIN = 2**31
            try:
                yield world
            finally:
                nursery.cancel_scope.cancel()
                Dialler.open, exchange_module.PROVE_IN_THREADS_MIN = kept  # type: ignore[method-assign]

    def __init__(self, path: Path, nursery: trio.Nursery, *, seed: int = 0, limits: Limits | None = None) -> None:
        self.homes: dict[str, Home] = {}
        self.limits = limits or Limits()
        self.random = random.Random(f"world {seed}")
        self.seed = seed
        self.nursery = nursery
        self.cables: list[tuple[Home, Home, Cable]] = []
        self.reaches: Callable[[Home, Home], bool] = lambda dialler, called: True
        self.cable: Callable[[], Cable] = Cable
        self.connecting: Callable[[tuple[str, int]], Awaitable[Failure]] | None = None  # in place of `connect`
        self.dials: list[tuple[float, str, tuple[str, int]]] = []  # when, who, where
        self.circuits: list[tuple[str, tuple[str, int], bytes]] = []  # who, where, under which name
        self.places: dict[tuple[str, int], Callable[[Plug, str], bool]] = {}  # who answers where no home is
        self._path = path
        self._rogues = 0

    # Homes

    async def home(self, name: str, *tasks: str, limits: Limits | None = None) -> Home:
        """A home whose daemon has just started: a new one, or the one of this name again."""
        known = self.homes.get(name)
        if known is None:
            ambient = SeededAmbient(f"{self.seed} {name}")
            known = self.homes[name] = Home(name, self._path / f"{name}.db", ambient, limits or self.limits)
        await self.nursery.start(known.run, *tasks)
        return known

    async def founder(self, name: str, *tasks: str, limits: Limits | None = None) -> Home:
        home = await self.home(name, *tasks, limits=limits)
        await home.node.found("vecinos", name)
        return home

    async def admitted(self, name: str, *tasks: str, by: Home, limits: Limits | None = None) -> Home:
        """A new member whose claim `by` has, and has granted, without a session between them."""
        home = await self.claimant(name, *tasks, invitation=await by.invite(), epochs=by.space.epochs, limits=limits)
        await by.take(*claims_of(home))
        await by.node._grant_in(by.space)
        return home

    async def claimant(
        self,
        name: str,
        *tasks: str,
        invitation: invite.Invitation,
        epochs: Sequence[bytes],
        limits: Limits | None = None,
    ) -> Home:
        """A home that has claimed an invitation and been welcomed by somebody who is not here."""
        home = await self.home(name, *tasks, limits=limits)
        seed, claim = await home.node.newcomer._claim(invitation, name)
        row = await home.store.add_space(
            invitation.space,
            epochs=epochs,
            static_secret=home.ambient.entropy(32),
            author_seed=seed,
            founding=claim,
        )
        await home.node.enter(row)
        return home

    # Meeting without a network

    async def join(self, dialler: Home, called: Home, cable: Cable | None = None, *, lockstep: bool = False) -> Meeting:
        """Both links, running; nothing has been said yet."""
        left, right = joined(cable, lockstep=lockstep)
        return self._started(Meeting(await self._dialler(dialler, left), self._called(called, right), left.cable))

    async def _dialler(self, home: Home, stream: Plug) -> End:
        reception, digest = _reception(home), await home.digest()
        connection = home.node.sync.initiate(home.space.secret, home.space.local, digest)
        link = Link(stream, connection, home.limits)
        reception.attach(link, digest)
        return End(home, link, reception)

    def _called(self, home: Home, stream: Plug) -> End:
        reception = _reception(home)
        connection = Connection.respond(
            reception.secrets(),
            entropy=home.ambient.entropy,
            now=trio.current_time(),
            wall=home.ambient.now(),
            limits=home.limits,
        )
        link = Link(stream, connection, home.limits)
        reception.attach(link)
        return End(home, link, reception)

    async def meet(self, dialler: Home, called: Home, cable: Cable | None = None) -> Meeting:
        """The same, once nobody has anything left to say."""
        meeting = await self.join(dialler, called, cable)
        await quiet()
        return meeting

    async def sync(self, dialler: Home, called: Home, cable: Cable | None = None) -> Meeting:
        """A meeting from its first byte to its last."""
        meeting = await self.meet(dialler, called, cable)
        if meeting.dialler.reason == "open":
            await meeting.close()
        await meeting.ended()
        return meeting

    def intrude(
        self, called: Home, rogue: Rogue, *, secret: SessionSecret | None = None, lockstep: bool = False
    ) -> Meeting:
        """Somebody with a secret of the space dials a home."""
        left, right = joined(lockstep=lockstep)
        ambient = self._disguise(rogue)
        connection = Connection.initiate(
            secret or called.space.secret,
            rogue.local,
            rogue.digest,
            entropy=ambient.entropy,
            now=trio.current_time(),
            wall=called.ambient.now(),
            limits=Limits(),
        )
        rogue.link, rogue.plug = Link(left, connection, Limits()), left
        return self._started(Meeting(End(None, rogue.link, rogue), self._called(called, right), left.cable))

    async def lure(self, dialler: Home, rogue: Rogue) -> Meeting:
        """A home dials somebody with the secret of the space."""
        left, right = joined()
        ambient = self._disguise(rogue)
        connection = Connection.respond(
            [dialler.space.secret],
            entropy=ambient.entropy,
            now=trio.current_time(),
            wall=ambient.now(),
            limits=Limits(),
        )
        rogue.link, rogue.plug = Link(right, connection, Limits()), right
        return self._started(Meeting(await self._dialler(dialler, left), End(None, rogue.link, rogue), left.cable))

    def _disguise(self, rogue: Rogue) -> SeededAmbient:
        self._rogues += 1
        ambient = SeededAmbient(f"{self.seed} rogue {self._rogues}")
        rogue.local = LocalEnd(KeyPair.from_secret(ambient.entropy(32)), ambient.entropy(16))
        return ambient

    def _started(self, meeting: Meeting) -> Meeting:
        for end in meeting.ends:
            self.nursery.start_soon(end.run)
        return meeting

    # Meeting over the network

    @contextmanager
    def as_home(self, home: Home) -> Iterator[None]:
        """What this task does within it, the home does."""
        token = _here.set(home)
        try:
            yield
        finally:
            _here.reset(token)

    @staticmethod
    def at(invitation: invite.Invitation, *homes: Home) -> invite.Invitation:
        """The invitation with the addresses of these homes."""
        return replace(invitation, addresses=tuple(invite.Address(*home.address) for home in homes))

    async def connect(self, address: tuple[str, int], circuit: bytes = b"") -> Plug | Failure:
        """What `Dialler.open` is, in a world: the home of the task that calls it dials."""
        if self.connecting is not None:
            return await self.connecting(address)
        dialler = _here.get()
        assert dialler is not None
        self.dials.append((trio.current_time(), dialler.name, address))
        self.circuits.append((dialler.name, address, circuit))
        await trio.lowlevel.checkpoint()
        if address in self.places:
            left, right = joined(self.cable(), hosts=("127.0.0.1", "127.0.0.1"))
            return left if self.places[address](right, dialler.name) else Failure.UNREACHABLE
        called = next((home for home in self.homes.values() if home.address == address), None)
        if called is None or not called.is_up or not self.reaches(dialler, called):
            return Failure.UNREACHABLE
        cable = self.cable()
        left, right = joined(cable, hosts=("127.0.0.1", "127.0.0.1"))
        self.cables.append((dialler, called, cable))
        called.node._nursery.start_soon(called.node.sync.receive, right)
        return left

    def cut(self, between: Callable[[Home, Home], bool] = lambda dialler, called: True) -> None:
        """Cuts what goes over the network now."""
        for dialler, called, cable in self.cables:
            if between(dialler, called):
                cable.cut()
        self.cables = [line for line in self.cables if not line[2].is_cut]


def _reception(home: Home) -> Reception:
    node = home.node
    return Reception(node.exchange, node.sync.register, node.spaces, home.ambient, lambda remote: None)


def claims_of(home: Home) -> list[Run]:
    """What a newcomer shows to be let in."""
    held = home.store._peek(lambda db: list(runs.membership_runs(db, home.space.no, home.space.id)))
    return [run for run in held if run.log.author == home.space.author]


def written(
    space: bytes,
    seed: bytes,
    payloads: Sequence[bytes],
    *,
    after: Run | None = None,
    log_id: bytes = b"\x08" * 8,
    log_class: LogClass = LogClass.REPORT,
    kind: int = Kind.REPORT,
    lamport: int | None = None,
) -> Run:
    """The next run of a log, signed with an author's seed: two of them behind the same run are a fork."""
    log = LogIdentity(space, keys.signer_public(seed), log_id, log_class)
    first, prev = (after.last_seq + 1, after.ids[-1]) if after is not None else (1, None)
    if lamport is None:
        lamport = after.lamports[-1] + 1 if after is not None else 1
    count = len(payloads)
    times, kinds = [time_units(START)] * count, [int(kind)] * count
    lamports = range(lamport, lamport + count)
    run = rebuild(space, log, first, prev, list(lamports), times, kinds, list(payloads), {}, {}, {})
    return sign_run(run, keys.signer_secret(seed))


def filed(*titles: str) -> list[bytes]:
    """Payloads of reports, each the same every time."""
    return [report.encode(Report(category="other", title=title), title.encode().ljust(16)[:16]) for title in titles]


async def quiet() -> None:
    """Until nobody can do anything before the clock moves."""
    await trio.testing.wait_all_tasks_blocked()
