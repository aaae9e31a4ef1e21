"""Sync: whom to meet next, and when. Listens, dials with backoff, keeps strangers in their place.

An address comes from a person (`peer add`), from an invitation, or from the LAN. It is dialled, last seen first, until
it answers; between tries the wait doubles from one second to five minutes, with jitter so that nodes do not march in
step. An address whose node is connected already, by whatever way, is left alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import trio

from p2pnode import events
from p2pnode.ambient import Ambient
from p2pnode.door import Door
from p2pnode.exchange import Exchange
from p2pnode.link import Link
from p2pnode.reception import Reception, Register
from p2pnode.session import DIGEST_INTERVAL_SECONDS
from p2pnode.socks import Dialler, Failure
from p2pnode.space import Space
from p2pnode.store import StoreError
from protocol.connection import Connection
from protocol.handshake import LocalEnd, RemoteEnd
from protocol.limits import Limits
from protocol.mask import SessionSecret

BACKOFF_SECONDS_MIN = 1.0
BACKOFF_SECONDS_MAX = 300.0
DIALS_MAX = 8
LAN_ADDRESS_SECONDS = 3600  # an address that the LAN told is forgotten after this


@dataclass(slots=True)
class Candidate:
    """An address at which a member of a space may answer."""

    space: Space
    address: tuple[str, int]
    by_hand: bool
    next_try: float = 0.0
    backoff: float = BACKOFF_SECONDS_MIN
    expires: float = inf
    static: bytes | None = None  # who answered there last
    dialling: bool = False
    failure: str | None = None
    seen: float | None = None  # when somebody answered there last, UTC


class Sync:
    """The links of a node."""

    def __init__(
        self,
        exchange: Exchange,
        spaces: Mapping[bytes, Space],
        dialler: Dialler,
        ambient: Ambient,
        limits: Limits,
        nursery: trio.Nursery,
    ) -> None:
        self.register = Register(exchange)
        self.candidates: dict[tuple[bytes, tuple[str, int]], Candidate] = {}
        self._exchange = exchange
        self._spaces = spaces
        self._dialler = dialler
        self._ambient = ambient
        self._limits = limits
        self._nursery = nursery
        self._changed = trio.Event()
        self.door = Door(limits)

    # Dialling

    def know(self, space: Space, address: tuple[str, int], *, by_hand: bool, seconds: float = inf) -> Candidate:
        """Adds an address, to be dialled at once."""
        candidate = self.candidates.setdefault((space.id, address), Candidate(space, address, by_hand))
        candidate.by_hand |= by_hand
        candidate.expires = max(trio.current_time() + seconds, candidate.expires if candidate.by_hand else 0.0)
        self.hurry()
        return candidate

    def hurry(self) -> None:
        """Dials everything that is not connected now, whatever its backoff."""
        for candidate in self.candidates.values():
            candidate.next_try = 0.0
            candidate.backoff = BACKOFF_SECONDS_MIN
        self._changed.set()

    async def compare_all(self) -> None:
        """Asks every peer what it holds; what differs is reconciled."""
        for session, link in list(self.register.sessions.values()):
            try:
                await session.compare()
            except StoreError as error:
                _note(error)
                link.drop("store")

    async def run(self) -> None:
        """Dials and compares until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._compare_now_and_then)
            await self._dial_all()

    async def _compare_now_and_then(self) -> None:
        while True:
            await trio.sleep(DIGEST_INTERVAL_SECONDS * (0.75 + 0.5 * self._ambient.random()))
            await self.compare_all()

    async def _dial_all(self) -> None:
        limiter = trio.CapacityLimiter(DIALS_MAX)
        while True:
            now = trio.current_time()
            for key in [key for key, candidate in self.candidates.items() if candidate.expires < now]:
                del self.candidates[key]
            soonest = inf
            for candidate in self.candidates.values():
                if candidate.dialling or self.connected(candidate):
                    continue
                if candidate.next_try <= now:
                    candidate.dialling = True
                    self._nursery.start_soon(self._dial, candidate, limiter)
                else:
                    soonest = min(soonest, candidate.next_try)
            with trio.move_on_at(soonest):
                await self._changed.wait()
            self._changed = trio.Event()

    def connected(self, candidate: Candidate) -> bool:
        """Whether the node that answered at this address last is connected."""
        return candidate.static is not None and (candidate.space.id, candidate.static) in self.register.sessions

    async def _dial(self, candidate: Candidate, limiter: trio.CapacityLimiter) -> None:
        def met(remote: RemoteEnd) -> None:
            candidate.static = remote.static
            candidate.seen = self._ambient.now()
            candidate.backoff = BACKOFF_SECONDS_MIN
            candidate.failure = None

        try:
            async with limiter:
                stream = await self._dialler.open(candidate.address, circuit=candidate.space.id)
            if isinstance(stream, Failure):
                candidate.failure = stream
                return
            candidate.failure = await self.lead(stream, candidate.space, met)
        except StoreError as error:
            _note(error)
            candidate.failure = "store"
        finally:
            candidate.dialling = False
            candidate.next_try = trio.current_time() + candidate.backoff * (0.5 + self._ambient.random())
            candidate.backoff = min(candidate.backoff * 2, BACKOFF_SECONDS_MAX)
            self._changed.set()

    async def lead(self, stream: trio.abc.Stream, space: Space, met: Callable[[RemoteEnd], None]) -> str:
        """Opens a session over a stream and serves it to its end; why it ended. Raises StoreError."""
        reception = Reception(self._exchange, self.register, self._spaces, self._ambient, met)
        try:
            digest = await self._exchange.store.digest(space.no)
        except StoreError:
            await trio.aclose_forcefully(stream)
            raise
        link = Link(stream, self.initiate(space.secret, space.local, digest), self._limits)
        reception.attach(link, digest)
        await self._run(link, reception, side="initiator")
        return link.reason

    async def follow(self, stream: trio.abc.Stream, space: Space) -> str:
        """Answers whoever leads at a meeting point, in this one space; why it ended."""
        reception = Reception(self._exchange, self.register, self._spaces, self._ambient, lambda _: None)
        link = Link(stream, self._respond([space.secret]), self._limits)
        reception.attach(link)
        await self._run(link, reception, side="responder")
        return link.reason

    def initiate(self, secret: SessionSecret, local: LocalEnd, digest: bytes | None) -> Connection:
        """A connection of ours under this secret."""
        return Connection.initiate(
            secret,
            local,
            digest,
            entropy=self._ambient.entropy,
            now=trio.current_time(),
            wall=self._ambient.now(),
            limits=self._limits,
        )

    # Listening

    async def receive(self, stream: trio.SocketStream) -> None:
        """Serves one incoming stream to its end."""
        link: Link[Connection]

        def met(_: RemoteEnd) -> None:
            self.door.met(link)

        reception = Reception(self._exchange, self.register, self._spaces, self._ambient, met)
        try:
            address = stream.socket.getpeername()[0]
            secrets = reception.secrets()
        except OSError:  # called, and gone before we looked
            return await trio.aclose_forcefully(stream)
        except StoreError as error:
            _note(error)
            return await trio.aclose_forcefully(stream)
        if not self.door.admits(address):
            return await trio.aclose_forcefully(stream)
        link = Link(stream, self._respond(secrets), self._limits, begin=self.door.turn())
        reception.attach(link)
        self.door.enter(link, address)
        try:
            await self._run(link, reception, side="responder")
        finally:
            self.door.met(link)
        return None

    def _respond(self, secrets: Sequence[SessionSecret]) -> Connection:
        return Connection.respond(
            secrets,
            entropy=self._ambient.entropy,
            now=trio.current_time(),
            wall=self._ambient.now(),
            limits=self._limits,
        )

    async def _run(self, link: Link[Connection], reception: Reception, *, side: str) -> None:
        """One link from its first byte to its last. A store that cannot take more ends it, and nothing else."""
        self.door.inside += 1
        try:
            await link.run(reception)
        except* StoreError as group:
            link.reason = "store"
            _note(group.exceptions[0])
        finally:
            self.door.inside -= 1
            reception.over()
            self._changed.set()  # its node may be one to dial now
            events.log("link.closed", reason=link.reason, side=side)


def _note(error: Exception) -> None:
    events.log("store.failed", error=type(error).__name__)
