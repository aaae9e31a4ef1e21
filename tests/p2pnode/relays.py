"""Relays in a world: real ones over real shelves, each behind a mouth that may lie.

    relay = await Relays.at(world, tmp_path).opened("honest")     # answers at an address of its own
    await outpost(ana, relay)                                     # ana uses it from now on
    relay.lie = Lie(say=lambda said: [Refused(Reason.FULL)])      # instead of what the relay would have answered

The mouth holds the relay's key and stands between the relay and one caller. It passes every request on and says what
comes back, unless the lie has something else to say: other answers, bytes that are the content of a record, nothing
for ever, or that the line is cut. It keeps no rule of the protocol that the test does not keep.
"""

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import trio

from p2pnode.mailbox import Mailbox
from p2pnode.relay.allowance import RelayLimits
from p2pnode.relay.service import Relay
from p2pnode.relay.shelf import Quotas
from p2pnode.relay.sqlite import SqliteShelf
from p2pnode.rendezvous import Rendezvous
from protocol import invite
from protocol.errors import RemoteProtocolError
from protocol.mailbox import Topic, topic_of, week_of
from protocol.noise import KeyPair
from protocol.relay_handshake import Called, Terms
from protocol.relay_messages import Answer, Append, Close, Meet, Met, Read, Request, encode
from protocol.relaying import RelayConnection
from tests.p2pnode.worlds import KEY, Home, Plug, SeededAmbient, World, joined

PORT = 443
VECTORS = Path(__file__).parents[1] / "vectors" / "relay.json"


class Act(Enum):
    """What a mouth may do instead of saying something."""

    HANG = "hang"
    CUT = "cut"


Said = Answer | bytes | Act


@dataclass(frozen=True)
class Asked:
    """A request of one caller, and what the relay answers to it; None: it was not passed on."""

    dialler: str
    request: Request
    answer: Answer | None


@dataclass(frozen=True)
class Lie:
    """What a relay says instead of the truth. As it stands it is the truth."""

    say: Callable[[Asked], Iterable[Said]] = lambda asked: () if asked.answer is None else (asked.answer,)
    passes_on: Callable[[str, Request], bool] = lambda dialler, request: True
    terms: Callable[[Terms], Terms] = lambda terms: terms
    greeting: bytes | None = None  # instead of the answer to a first message
    story: Callable[[str], int] = lambda dialler: 0  # which of the relay's shelves somebody is shown
    joins: Callable[[Plug], bool] = lambda stream: False  # whether it takes a stream that was to be joined to another


TRUTH = Lie()


class RelayHome:
    """One relay: everything that outlives a start of its process, and the process while it runs."""

    def __init__(self, world: World, path: Path, name: str, number: int, limits: RelayLimits, quotas: Quotas) -> None:
        self.name = name
        self.world = world
        self.ambient = SeededAmbient(f"relay {name}")
        self.key = KeyPair.from_secret(self.ambient.entropy(32))
        self.address = (f"198.51.100.{number}", PORT)
        self.lie = TRUTH
        self.asked: list[tuple[float, str, Request]] = []  # when, who, what
        self.is_up = False
        self.shelves: list[SqliteShelf] = []
        self.relays: list[Relay] = []
        self.paths = [path / f"{name}.shelf", path / f"{name}.other"]  # the second one for a second story
        self._limits = limits
        self._quotas = quotas
        self._nursery: trio.Nursery
        self._down: trio.Event
        world.places[self.address] = self._called

    @property
    def written(self) -> invite.Relay:
        """As people hand it on."""
        return invite.Relay(invite.Address(*self.address), self.key.public)

    @property
    def shelf(self) -> SqliteShelf:
        return self.shelves[0]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A process's life."""
        self.shelves = [SqliteShelf.open(path, KEY, self._quotas, inline=True) for path in self.paths]
        self.relays = [Relay(shelf, self.key, self._limits, self.ambient) for shelf in self.shelves]
        try:
            async with trio.open_nursery() as self._nursery:
                for relay in self.relays:
                    self._nursery.start_soon(relay.run)
                self.is_up, self._down = True, trio.Event()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.is_up = False
            with trio.CancelScope(shield=True):
                for shelf in self.shelves:
                    await shelf.close()
            self._down.set()

    async def start(self) -> None:
        await self.world.nursery.start(self.run)

    async def stop(self) -> None:
        """Ends the process in the middle of whatever it does."""
        self._nursery.cancel_scope.cancel()
        await self._down.wait()

    async def restored(self, copy: tuple[bytes, ...]) -> None:
        """Stops, puts back what a copy holds, and starts again."""
        await self.stop()
        for path, data in zip(self.paths, copy, strict=True):
            path.write_bytes(data)
            for beside in path.parent.glob(path.name + "-*"):
                beside.unlink()
        await self.start()

    async def copied(self) -> tuple[bytes, ...]:
        """A copy of what it keeps, taken while it is down for a moment."""
        await self.stop()
        copy = tuple(path.read_bytes() for path in self.paths)
        await self.start()
        return copy

    async def messages(self, key: bytes, *, story: int = 0) -> list[bytes]:
        """Everything that a topic keeps."""
        found: list[bytes] = []
        while True:
            page = await self.shelves[story].read(key, len(found), count_max=1000, size_max=2**20)
            if not page.messages:
                return found
            found += page.messages

    async def put(self, topic: Topic, message: bytes, *, story: int = 0, days: int = 60) -> int:
        """A message from whoever holds the topic's private half."""
        today = int(self.ambient.now() // 86_400)
        number = await self.shelves[story].append(topic.key, message, today=today, keep_until=today + days)
        assert isinstance(number, int)
        return number

    def requests(self, kind: type, dialler: str | None = None) -> list[Any]:
        return [request for _, who, request in self.asked if type(request) is kind and dialler in (None, who)]

    def _called(self, stream: Plug, dialler: str) -> bool:
        if self.is_up:
            self._nursery.start_soon(self._answer, stream, dialler)
        return self.is_up

    async def _answer(self, stream: Plug, dialler: str) -> None:
        try:
            await Mouth(self, dialler, stream).run()
        finally:
            await trio.aclose_forcefully(stream)


class Mouth:
    """Stands between a relay and one caller."""

    def __init__(self, home: RelayHome, dialler: str, outer: Plug) -> None:
        self._home = home
        self._lie = home.lie
        self._dialler = dialler
        self._outer_stream = outer
        self._listening = trio.CancelScope()
        self._pending: deque[Request] = deque()
        self._inner_stream, self._far = joined(hosts=("127.0.0.1", "127.0.0.1"))
        common: dict[str, Any] = {"entropy": home.ambient.entropy, "now": trio.current_time()}
        self._outer = RelayConnection.listen(home.key, wall=home.ambient.now(), **common)
        self._inner = RelayConnection.dial(home.key.public, wall=home.ambient.now(), **common)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._home.relays[self._lie.story(self._dialler)].receive, self._far)
            await _to_its_end(self._greet)
            nursery.start_soon(self._listen)
            await _to_its_end(self._hear_relay)
            nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        with self._listening:
            await _to_its_end(self._hear_caller)
            self._inner_stream.inner.receive_stream.close()

    async def _greet(self) -> None:
        while not any(isinstance(event, Called) for event in await self._heard()):
            pass
        await self._inner_stream.send_all(self._inner.data_to_send(trio.current_time()))
        terms: Terms | None = None
        while terms is None:
            terms = next((event for event in await self._answered() if isinstance(event, Terms)), None)
        if self._lie.greeting is not None:
            await self._outer_stream.send_all(self._lie.greeting)
            raise _Over
        self._outer.accept(self._lie.terms(terms), trio.current_time())
        await self._flush()

    async def _hear_caller(self) -> None:
        while True:
            for event in await self._heard():
                match event:
                    case Read() | Append() | Meet():
                        self._home.asked.append((trio.current_time(), self._dialler, event))
                        if self._lie.passes_on(self._dialler, event):
                            self._pending.append(event)
                            self._inner.send(event)
                            await self._inner_stream.send_all(self._inner.data_to_send(trio.current_time()))
                        else:
                            await self._say(Asked(self._dialler, event, None))
                    case Close():
                        raise _Over
                    case _:
                        pass

    async def _hear_relay(self) -> None:
        while True:
            for event in await self._answered():
                if not isinstance(event, Called | Terms | Close):
                    await self._say(Asked(self._dialler, self._pending.popleft(), event))  # type: ignore[arg-type]

    async def _say(self, asked: Asked) -> None:
        channel = self._outer._channel
        assert channel is not None
        waiting = self._outer._questions._waiting
        if waiting:
            waiting.popleft()  # whatever is said, it counts as an answer
        for said in self._lie.say(asked):
            match said:
                case Act.HANG:
                    await trio.sleep_forever()
                case Act.CUT:
                    raise _Over
                case bytes():
                    channel.put([said])
                case _:
                    channel.put(list(encode(said)))
            await self._flush()
            if isinstance(said, Met):
                await self._met()

    async def _met(self) -> None:
        if self._lie.joins(self._outer_stream):
            await trio.sleep_forever()
        self._listening.cancel()
        await trio.lowlevel.checkpoint()
        await self._outer_stream.send_all(self._inner.leftover)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pumped, self._outer_stream, self._inner_stream, nursery.cancel_scope)
            nursery.start_soon(pumped, self._inner_stream, self._outer_stream, nursery.cancel_scope)
        raise _Over

    async def _flush(self) -> None:
        await self._outer_stream.send_all(self._outer.data_to_send(trio.current_time()))

    async def _heard(self) -> list[Any]:
        return list(self._outer.receive(await _read(self._outer_stream), trio.current_time()))

    async def _answered(self) -> list[Any]:
        return list(self._inner.receive(await _read(self._inner_stream), trio.current_time()))


class _Over(Exception):
    """One of the two lines has ended, or was cut."""


async def _read(stream: trio.abc.ReceiveStream) -> bytes:
    data = bytes(await stream.receive_some())
    if not data:
        raise _Over
    return data


async def _to_its_end(task: Callable[[], Awaitable[None]]) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError, _Over):
        await task()


async def pumped(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, scope: trio.CancelScope) -> None:
    """Passes bytes on until one end is gone, which ends the scope."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some():
            await sink.send_all(data)
    scope.cancel()


# Relays and homes


@dataclass
class Relays:
    """The relays of a world."""

    world: World
    path: Path
    homes: list[RelayHome] = field(default_factory=list)

    async def opened(self, name: str, *, limits: RelayLimits | None = None, quotas: Quotas | None = None) -> RelayHome:
        """One more, at work."""
        number = len(self.homes) + 1
        home = RelayHome(self.world, self.path, name, number, limits or RelayLimits(), quotas or Quotas())
        self.homes.append(home)
        await home.start()
        return home


@contextmanager
def mailboxes_alone() -> Iterator[None]:
    """Within it nobody meets at a relay: what arrives has lain in a mailbox."""
    kept = Rendezvous.run

    async def nowhere(_: Rendezvous) -> None:
        await trio.sleep_forever()

    Rendezvous.run = nowhere  # type: ignore[method-assign]
    try:
        yield
    finally:
        Rendezvous.run = kept  # type: ignore[method-assign]


async def uses(home: Home, *relays: RelayHome) -> list[Mailbox]:
    """These relays are the home's from now on."""
    with relays[0].world.as_home(home):
        return [(await home.node.outposts.add(home.space, relay.written)).mailbox for relay in relays]


def mailbox(home: Home, relay: RelayHome) -> Mailbox:
    """What a home does at a relay."""
    (found,) = [one for one in home.node.outposts.of(home.space) if one.address == relay.written]
    return found.mailbox


def topic(home: Home, relay: RelayHome, week: int = 0) -> Topic:
    """The space's topic at a relay, so many weeks from now."""
    return topic_of(home.space.epochs[-1], relay.key.public, week_of(home.ambient.now()) + week)


def later(relays: Relays, *, days: float) -> None:
    """Every clock says so many days more, and nothing else has happened."""
    for one in (*relays.world.homes.values(), *relays.homes):
        one.ambient.ahead_seconds += days * 86_400


async def words(home: Home, relay: RelayHome, seconds: float, *, every: float = 5.0) -> set[str]:
    """Everything that a home can tell people about a relay while so much time goes by."""
    told: set[str] = set()
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        said = mailbox(home, relay).told
        told |= {said.state, *said.warnings} | ({said.refusal} if said.refusal else set())
        await trio.sleep(every)
    return told


async def equal(*homes: Home) -> bool:
    """Whether all hold the same, with nothing wrong in any store."""
    digests = {await home.digest() for home in homes}
    return len(digests) == 1 and [(await home.check())["bad"] for home in homes] == [0] * len(homes)


def corpus() -> list[bytes]:
    """Contents of records that no relay says: the malformed frames of the vectors, and good ones cut short."""
    vectors = json.loads(VECTORS.read_text())
    contents = [bytes.fromhex(case["content"]) for case in vectors["invalid_frames"]]
    whole = [bytes.fromhex(case["frame"]) for case in vectors["frames"]]
    return contents + [frame[:size] for frame in whole for size in (1, 3, len(frame) - 1)]


def bodies() -> list[bytes]:
    """CBOR that is none, or not the one way to write it, in the place of every frame's body."""
    items = [bytes.fromhex(item) for item in ITEMS.split()]
    items += [b"\x81" * 10_000, b"\xa1\x00" * 5_000, b"\xc1" * 10_000]
    return [bytes([kind]) + len(item).to_bytes(3, "big") + item for kind in range(1, 10) for item in items]


# Lengths without end, items cut short, numbers written too long, tags, floats, text that is none.
ITEMS = """
9bffffffffffffffff 5bffffffffffffffff bbffffffffffffffff 5a7fffffff00 9a7fffffff 1c 1d 1e 3c 5c 7c 9c bc dc fc fd fe
f800 f818 ff 9f 9fff bf bfff 5f 5f00ff 7f 7f6161ff 8301 a100 a101 a2000000 61ff 62c328 63e28228 64f0288cbc 1800 1817
190000 1900ff 1a00000000 1a0000ffff 1b0000000000000000 1b00000000ffffffff 3800 5800 580100 7800 9800 b800 d800 f90000
f97e00 f97c00 fa00000000 fb0000000000000000 fb7ff8000000000000 c0 c11a00000000 c249ffffffffffffffffff d81c81d81d00
c34101 d9010080 d82300 d82500 d9d9f700 f4 f5 f6 f7 e0 f0 20 3903e7 8181818181818181818100 0000 8000 a000 80a0
"""
