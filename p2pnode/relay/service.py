"""Relay: a blind helper at work. It listens, answers whoever knows its key, and keeps nothing but sealed messages.

    shelf   what is kept                door      how many may come in
    visit   one caller's requests       meeting   two callers joined

Its key is all that a caller needs beside the address, and without it the port is silent. Its log has no address, no
topic and no size in it.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial

import trio

from p2pnode import events
from p2pnode.ambient import Ambient
from p2pnode.door import Door, is_loopback
from p2pnode.link import Link
from p2pnode.relay.allowance import DAY_SECONDS, Allowance, RelayLimits
from p2pnode.relay.meeting import MeetingPoint
from p2pnode.relay.shelf import Shelf
from p2pnode.relay.visit import Visit, Waiting
from p2pnode.store.errors import StoreError
from protocol.noise import KeyPair
from protocol.relaying import RelayConnection

EXPIRE_SECONDS = 3600.0  # between two looks at what has had its day
JUMP_SECONDS = 30 * DAY_SECONDS  # a clock that goes so far at once is wrong, or was
JUMP_DAYS_HELD = 7  # before such a clock is believed: somebody, or the network, may set it right


@dataclass(slots=True)
class _WatchedClock:
    """The machine's clock, beside one that only counts: what lies here is not let go of because a battery was empty."""

    ahead: float  # of the one that counts, as it is believed
    _doubted: float | None = None  # since when

    def believed(self, now: float, counted: float) -> bool:
        """Whether the day may be taken from the clock."""
        if abs(now - counted - self.ahead) > JUMP_SECONDS:
            if self._doubted is None:
                self._doubted = counted
            if counted - self._doubted < JUMP_DAYS_HELD * DAY_SECONDS:
                return False
        self._doubted = None
        self.ahead = now - counted
        return True


class Relay:
    """One process's worth of a relay."""

    def __init__(self, shelf: Shelf, key: KeyPair, limits: RelayLimits, ambient: Ambient) -> None:
        self.door = Door(limits.links)
        self._shelf = shelf
        self._key = key
        self._limits = limits
        self._ambient = ambient
        self._waiting = Waiting()
        self._allowance = Allowance(limits, ambient.entropy)
        self._meeting = MeetingPoint(limits)
        self._inside: Counter[str] = Counter()  # visits by address, for as long as they last

    async def run(self) -> None:
        """Passes on news and lets go of what has had its day, until cancelled."""
        stop = self._shelf.heard(self._waiting.tell)
        clock = _WatchedClock(self._ambient.now() - trio.current_time())
        try:
            while True:
                try:
                    if clock.believed(self._ambient.now(), trio.current_time()):
                        gone = await self._shelf.expire(int(self._ambient.now() // DAY_SECONDS))
                        events.log("relay.expired", messages=gone)
                    else:
                        events.log("relay.clock_jumped")
                except StoreError as error:
                    events.log("relay.store_failed", error=type(error).__name__)
                await trio.sleep(EXPIRE_SECONDS)
        finally:
            stop()

    async def receive(self, stream: trio.SocketStream) -> None:
        """Serves one incoming stream to its end."""
        try:
            address = stream.socket.getpeername()[0]
        except OSError:  # called, and gone before we looked
            return await trio.aclose_forcefully(stream)
        crowd = self._inside[address] >= self._limits.visits_per_address_max and not is_loopback(address)
        if crowd or not self.door.admits(address):
            return await trio.aclose_forcefully(stream)
        self.door.inside += 1
        self._inside[address] += 1
        reason = "cancelled"
        try:
            reason = await self._serve(stream, address)
        finally:
            self.door.inside -= 1
            self._inside[address] -= 1
            self._inside += Counter()  # forgets who is gone
            await trio.aclose_forcefully(stream)
            events.log("relay.visit_over", reason=reason)
        return None

    async def _serve(self, stream: trio.SocketStream, address: str) -> str:
        link: Link[RelayConnection]
        ambient = self._ambient
        connection = RelayConnection.listen(
            self._key, entropy=ambient.entropy, now=trio.current_time(), wall=ambient.now()
        )
        # An event may be a whole message: nothing is read before what was read has been handled.
        link = Link(stream, connection, self._limits.links, begin=self.door.turn(), batches_max=0)
        visit = Visit(
            *(self._shelf, self._waiting, self._allowance, self._limits, ambient, address),
            on_met=partial(self.door.met, link),
        )
        visit.attach(link)
        self.door.enter(link, address)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(visit.keep_time)
                await link.run(visit)
                nursery.cancel_scope.cancel()
        except* StoreError as group:
            events.log("relay.store_failed", error=type(group.exceptions[0]).__name__)
        finally:
            self.door.met(link)
            visit.over()
        if visit.meeting is not None and link.reason == "released":
            return "meeting " + await self._meeting.join(stream, connection, visit.meeting)
        return link.reason
