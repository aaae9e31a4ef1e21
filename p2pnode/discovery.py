"""LAN discovery: who of our spaces is on this network, and telling them that we are. Specification section "Beacon".

    off        nothing is opened, nothing sent, zeroconf not even imported
    listen     one constant query now and then; announcers are recognised by their beacon record
    announce   the same, and on every interface an announcement of its own: random instance and host name, that
               interface's address only, our port, a beacon record; new ones every hour, start, address and epoch

Every interface has a responder of its own (mdns.py), so that two networks cannot learn from our packets that they see
one machine. Responders hear in threads; there the record is tried against our keys, which costs strangers' inventions
microseconds and no memory. What remains is waited for in a bounded queue, and judged here, in trio's thread:

    our own announcement            ignored
    one tag at two addresses        somebody copied a record: neither is handed up, as long as the hour lasts
    the same announcer again        handed up once a minute

Losing a `Found` is harmless: its announcer is heard again at the next query.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import trio

from p2pnode import events
from p2pnode.ambient import Ambient
from p2pnode.interfaces import Hear, Interface, local_interfaces
from protocol import beacon

MODES = ("off", "listen", "announce")

POLL_SECONDS = 3.0  # addresses, keys and the hour are looked at this often
ASK_AGES_SECONDS = (0.0, 3.0, 8.0)  # queries after an interface or key came up: a flood or bad radio may eat one
ASK_SECONDS = 300.0  # and from then on
AGAIN_SECONDS = 60.0  # one announcer is not handed up more often
CLOSE_SECONDS = 3.0
PORT_MIN = 1024  # nobody makes us knock at system services
HEARD_MAX = 256  # recognised, not yet judged
SEEN_MAX = 1024  # tags remembered: a large network's
SEEN_SECONDS = 3 * 3600.0  # and no longer than a copy of a record could be good for
PORTS_PER_HOST_MAX = 8  # a member who invents announcers does not make us scan a machine's ports
FOUND_MAX = 64  # handed up, not yet taken
NAME_SIZE = 8  # random bytes in instance and host names: 64 bits never collide, so nothing probes for them


@dataclass(frozen=True, slots=True)
class Found:
    """A member of the space seems to listen here. Only the handshake proves it."""

    host: str
    port: int
    space: bytes


class Responder(Protocol):
    """What is needed of one interface: mdns.Responder, or a test's. OSError means that the interface is lost."""

    def ask(self) -> None: ...
    async def announce(self, instance: str, host: str, port: int, record: bytes) -> None: ...
    async def withdraw(self) -> None: ...
    async def close(self) -> None: ...


class Lan:
    """One node's presence on its local networks. `run` in a nursery, take from `found`, cancel to leave.

    `keys` gives the (space id, beacon key) pairs of now; without any, the network is left alone. `mode` may be `off`.
    """

    def __init__(
        self,
        mode: str,
        port: int,
        keys: Callable[[], Sequence[tuple[bytes, bytes]]],
        ambient: Ambient,
        *,
        interfaces: Callable[[], Sequence[Interface]] = local_interfaces,
        open_responder: Callable[[Interface, Hear], Awaitable[Responder]] | None = None,
    ) -> None:
        assert mode in MODES
        self._mode = mode
        self._port = port
        self._keys = keys
        self._ambient = ambient
        self._interfaces = interfaces
        self._open = open_responder or _open_mdns
        self._sites: dict[Interface, _Site] = {}
        self._known: tuple[tuple[bytes, bytes], ...] = ()  # of the last poll; read in the responders' threads too
        self._hour = 0
        self._ears = _Ears()
        self._announce_until = float("-inf")  # trio time
        self._wake = trio.Event()
        self._give, self.found = trio.open_memory_channel[Found](FOUND_MAX)

    def announce_for(self, seconds: float) -> None:
        """Announces for this long even in mode `listen`: `p2pnode sync` says "I am here" for a minute. Not in `off`."""
        self._announce_until = max(self._announce_until, trio.current_time() + seconds)
        self._wake.set()

    async def run(self) -> None:
        """Listens, and announces where the mode says so, until cancelled. Leaving takes 3 s at most."""
        if self._mode == "off":
            return
        token = trio.lowlevel.current_trio_token()
        try:
            while True:
                self._wake = trio.Event()
                await self._poll(token)
                with trio.move_on_after(POLL_SECONDS):
                    await self._wake.wait()
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                async with trio.open_nursery() as nursery:
                    for site in self._sites.values():
                        nursery.start_soon(site.responder.close)

    async def _poll(self, token: trio.lowlevel.TrioToken) -> None:
        """Makes sites, announcements and queries what addresses, keys and the hour ask for now."""
        known, self._hour = tuple(self._keys()), beacon.hour_of(self._ambient.now())
        if known != self._known:
            self._known = known
            for site in self._sites.values():
                site.up_since, site.asked = trio.current_time(), 0  # who was a stranger may be a member now
        try:
            present = list(self._interfaces()) if known else []
        except OSError:  # out of file descriptors: what is there stays
            present = list(self._sites)
        async with trio.open_nursery() as nursery:
            for interface in [gone for gone in self._sites if gone not in present]:
                nursery.start_soon(self._leave, interface)
            for interface in present:
                nursery.start_soon(self._tend, interface, token)

    async def _tend(self, interface: Interface, token: trio.lowlevel.TrioToken) -> None:
        try:
            if interface not in self._sites:
                hear = self._hearer(token)
                self._sites[interface] = _Site(await self._open(interface, hear), trio.current_time())
            site = self._sites[interface]
            await self._tend_announcement(site)
            site.ask_if_due(trio.current_time())
        except OSError:  # the address went away between two looks; the next poll tries anew
            events.log("lan.interface_lost")
            await self._leave(interface)

    async def _leave(self, interface: Interface) -> None:
        if (site := self._sites.get(interface)) is not None:
            await site.responder.close()  # when this is cancelled, `run` closes it once more
            del self._sites[interface]

    async def _tend_announcement(self, site: "_Site") -> None:
        announcing = self._mode == "announce" or trio.current_time() < self._announce_until
        wanted = (self._hour, self._known) if announcing else None
        if site.announced == wanted:
            return
        site.announced = wanted
        await site.responder.withdraw()
        if wanted is None:
            return
        instance, host = (self._ambient.entropy(NAME_SIZE).hex() for _ in range(2))
        epoch_keys = [key for _, key in self._known]
        record = beacon.make(epoch_keys, instance, self._port, self._hour, self._ambient.entropy)
        self._ears.own.append(instance)
        await site.responder.announce(instance, host, self._port, record)

    def _hearer(self, token: trio.lowlevel.TrioToken) -> Hear:
        def hear(instance: str, host: str, port: int, record: bytes) -> None:
            if port < PORT_MIN:
                return
            for recognised in beacon.recognise(record, instance, port, self._hour, self._known):
                self._ears.heard.append((instance, recognised.tag, Found(host, port, recognised.space)))
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(self._hand_up, idempotent=True)

        return hear

    def _hand_up(self) -> None:
        for found in self._ears.judge(trio.current_time()):
            with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                self._give.send_nowait(found)


@dataclass(slots=True)
class _Site:
    """One interface that is spoken to."""

    responder: Responder
    up_since: float
    asked: int = 0
    announced: tuple[int, tuple[tuple[bytes, bytes], ...]] | None = None

    def ask_if_due(self, now: float) -> None:
        """Three times at the start, then every few minutes."""
        first = len(ASK_AGES_SECONDS)
        due = ASK_AGES_SECONDS[self.asked] if self.asked < first else ASK_SECONDS * (self.asked - first + 1)
        if now >= self.up_since + due:
            self.asked += 1
            self.responder.ask()


@dataclass(slots=True)
class _Seen:
    found: Found
    first_at: float
    handed_at: float
    copied: bool = False


@dataclass(slots=True)
class _Ears:
    """What was recognised, and what became of it. All of it bounded: the oldest makes room."""

    heard: deque[tuple[str, bytes, Found]] = field(default_factory=lambda: deque(maxlen=HEARD_MAX))
    own: deque[str] = field(default_factory=lambda: deque(maxlen=HEARD_MAX))
    _seen: dict[bytes, _Seen] = field(default_factory=dict)

    def judge(self, now: float) -> list[Found]:
        """Takes everything heard; gives what may be dialled."""
        dialled: list[Found] = []
        while self.heard:
            instance, tag, found = self.heard.popleft()
            if instance not in self.own and self._is_due(tag, found, now):
                dialled.append(found)
        return dialled

    def _is_due(self, tag: bytes, found: Found, now: float) -> bool:
        seen = self._seen.get(tag)
        if seen is None:
            if not self._is_room_for(found, now):
                return False
            self._seen[tag] = _Seen(found, now, now)
            return True
        if _place(seen.found) != _place(found):
            seen.copied = True
        if seen.copied or now < seen.handed_at + AGAIN_SECONDS:
            return False
        seen.handed_at = now
        return True

    def _is_room_for(self, found: Found, now: float) -> bool:
        while self._seen:
            oldest = next(iter(self._seen))
            if len(self._seen) < SEEN_MAX and now < self._seen[oldest].first_at + SEEN_SECONDS:
                break
            del self._seen[oldest]
        ports = {seen.found.port for seen in self._seen.values() if seen.found.host == found.host}
        return found.port in ports or len(ports) < PORTS_PER_HOST_MAX


def _place(found: Found) -> tuple[str, int]:
    """Where it is, whichever of our interfaces it was heard on."""
    return found.host.partition("%")[0], found.port


async def _open_mdns(interface: Interface, hear: Hear) -> Responder:
    def load() -> None:
        from p2pnode import mdns  # noqa: F401  # 5 MB and 70 ms that only a node on a LAN pays, in a thread

    await trio.to_thread.run_sync(load)
    from p2pnode import mdns

    return await mdns.open_responder(interface, hear)
