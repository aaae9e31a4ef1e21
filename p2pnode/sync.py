"""Sync: whom to meet next, and when. Listens, dials with backoff, keeps strangers in their place.

An address comes from a person (`peer add`), from an invitation, or from the LAN. It is dialled, last seen first, until
it answers; between tries the wait doubles from one second to five minutes, with jitter so that nodes do not march in
step. An address whose node is connected already, by whatever way, is left alone.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf

import trio

from p2pnode import events
from p2pnode.ambient import Ambient
from p2pnode.exchange import Exchange
from p2pnode.link import Link
from p2pnode.reception import Reception, Register
from p2pnode.session import DIGEST_INTERVAL_SECONDS
from p2pnode.space import Space
from p2pnode.store import StoreError
from protocol.connection import Connection
from protocol.handshake import LocalEnd, RemoteEnd
from protocol.limits import HANDSHAKE_SECONDS, Limits
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
        self, exchange: Exchange, spaces: Mapping[bytes, Space], ambient: Ambient, limits: Limits, nursery: trio.Nursery
    ) -> None:
        self.register = Register(exchange)
        self.candidates: dict[tuple[bytes, tuple[str, int]], Candidate] = {}
        self._exchange = exchange
        self._spaces = spaces
        self._ambient = ambient
        self._limits = limits
        self._nursery = nursery
        self._changed = trio.Event()
        self._strangers: dict[Link, str] = {}  # links without a finished handshake and their address, oldest first
        self._last_turn = -inf
        self._links = 0

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
                stream = await connect(candidate.address)
            if stream is None:
                candidate.failure = "unreachable"
                return
            reception = Reception(self._exchange, self.register, self._spaces, self._ambient, met)
            try:
                digest = await self._exchange.store.digest(candidate.space.no)
            except StoreError:
                await trio.aclose_forcefully(stream)
                raise
            link = Link(stream, self.initiate(candidate.space.secret, candidate.space.local, digest), self._limits)
            reception.attach(link, digest)
            await self._run(link, reception, side="initiator")
            candidate.failure = link.reason
        except StoreError as error:
            _note(error)
            candidate.failure = "store"
        finally:
            candidate.dialling = False
            candidate.next_try = trio.current_time() + candidate.backoff * (0.5 + self._ambient.random())
            candidate.backoff = min(candidate.backoff * 2, BACKOFF_SECONDS_MAX)
            self._changed.set()

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
        link: Link

        def met(_: RemoteEnd) -> None:
            self._strangers.pop(link, None)

        reception = Reception(self._exchange, self.register, self._spaces, self._ambient, met)
        try:
            address = stream.socket.getpeername()[0]
            secrets = reception.secrets()
        except OSError:  # called, and gone before we looked
            return await trio.aclose_forcefully(stream)
        except StoreError as error:
            _note(error)
            return await trio.aclose_forcefully(stream)
        if not self._admit(address):
            return await trio.aclose_forcefully(stream)
        connection = Connection.respond(
            secrets,
            entropy=self._ambient.entropy,
            now=trio.current_time(),
            wall=self._ambient.now(),
            limits=self._limits,
        )
        link = Link(stream, connection, self._limits, begin=self._turn())
        reception.attach(link)
        self._strangers[link] = address
        try:
            await self._run(link, reception, side="responder")
        finally:
            self._strangers.pop(link, None)
        return None

    async def _run(self, link: Link, reception: Reception, *, side: str) -> None:
        """One link from its first byte to its last. A store that cannot take more ends it, and nothing else."""
        self._links += 1
        try:
            await link.run(reception)
        except* StoreError as group:
            link.reason = "store"
            _note(group.exceptions[0])
        finally:
            self._links -= 1
            reception.over()
            self._changed.set()  # its node may be one to dial now
            events.log("link.closed", reason=link.reason, side=side)

    def _admit(self, address: str) -> bool:
        """Makes room for one more stranger, the oldest first; False when its own address has too many."""
        crowd = Counter(self._strangers.values())[address]
        if crowd >= self._limits.strangers_per_address_max and not ip_address(address.split("%")[0]).is_loopback:
            return False
        if len(self._strangers) >= self._limits.strangers_max:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.drop("crowded")
        return self._links < self._limits.sessions_max

    def _turn(self) -> float:
        """When the next first message may be tried: so many a second. Who comes with a crowd waits, and is heard."""
        rate, now = self._limits.handshakes_per_second, trio.current_time()
        latest = now + self._limits.strangers_max / rate  # more than these are never waiting
        self._last_turn = max(now - 1, min(self._last_turn + 1 / rate, latest))
        return self._last_turn


def _note(error: Exception) -> None:
    events.log("store.failed", error=type(error).__name__)


async def connect(address: tuple[str, int]) -> trio.SocketStream | None:
    """A TCP stream to an address, None when nobody answers there in time."""
    with trio.move_on_after(HANDSHAKE_SECONDS), suppress(OSError):
        return await trio.open_tcp_stream(*address)
    return None
