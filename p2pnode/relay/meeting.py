"""Meeting point: joins two callers who show the same token, and passes on what they say to each other.

What they say is a handshake and records of their own: the relay sees sizes and times. Each pair has so many bytes and
so much time. Who came first waits and answers; who came second leads.
"""

from contextlib import suppress
from dataclasses import dataclass, field

import trio

from p2pnode.relay.allowance import RelayLimits
from protocol.relay_messages import Meet, Met, Reason, Refused
from protocol.relaying import RelayConnection

CHUNK_SIZE = 64 * 1024
TELL_SECONDS = 60.0  # for our last word, or what was answered before: who does not read keeps no place


@dataclass(eq=False, slots=True)
class _Seat:
    """A caller at the meeting point."""

    stream: trio.abc.Stream
    connection: RelayConnection
    watch: trio.CancelScope = field(default_factory=trio.CancelScope)
    gone: bool = False
    partner: "_Seat | None" = None
    free: trio.Event = field(default_factory=trio.Event)  # nobody reads from its stream any more
    done: trio.Event = field(default_factory=trio.Event)  # the pair has parted

    async def tell(self, answer: Met | Refused) -> None:
        """The relay's last word to this caller."""
        self.connection.send(answer)
        if isinstance(answer, Refused):
            self.connection.close()
        await self.flush()

    async def flush(self) -> None:
        """What was answered so far. Raises trio.BrokenResourceError for a caller that is gone, or does not read."""
        data = self.connection.data_to_send(trio.current_time())
        with trio.move_on_after(TELL_SECONDS) as late:
            await self.stream.send_all(data)
        if late.cancelled_caught:
            raise trio.BrokenResourceError("a caller that does not read")


class MeetingPoint:
    """Everybody who waits, by token."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._waiting: dict[bytes, _Seat] = {}

    async def join(self, stream: trio.abc.Stream, connection: RelayConnection, meet: Meet) -> str:
        """Serves one caller to the end of its meeting; why it ended, in one word. The stream stays the caller's."""
        seat = _Seat(stream, connection)
        try:
            await seat.flush()
            other = self._waiting.pop(meet.token, None)
            if other is not None:
                return await self._lead(seat, other)
            if meet.wait_seconds == 0:
                await seat.tell(Refused(Reason.NOBODY))
                return "nobody"
            if len(self._waiting) >= self._limits.waiting_max:
                await seat.tell(Refused(Reason.FULL))
                return "full"
            return await self._wait(seat, meet)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return "broken"

    async def _wait(self, seat: _Seat, meet: Meet) -> str:
        self._waiting[meet.token] = seat
        try:
            with trio.move_on_after(meet.wait_seconds), seat.watch:
                await self._watch(seat)
        finally:
            if self._waiting.get(meet.token) is seat:
                del self._waiting[meet.token]
            seat.free.set()
        if seat.partner is not None:
            await seat.done.wait()
            return "met"
        if seat.gone:
            return "gone"
        await seat.tell(Refused(Reason.NOBODY))
        return "nobody"

    async def _watch(self, seat: _Seat) -> None:
        """Returns when a caller that waits is gone; one that speaks before it is joined is as good as that."""
        with suppress(trio.BrokenResourceError):
            await seat.stream.receive_some(1)
        seat.gone = True

    async def _lead(self, seat: _Seat, other: _Seat) -> str:
        other.partner = seat
        other.watch.cancel()
        try:
            await other.free.wait()
            if other.gone:
                await seat.tell(Refused(Reason.NOBODY))
                return "nobody"
            await other.tell(Met(leads=False))
            await seat.tell(Met(leads=True))
            await self._pass_on(seat.stream, other.stream)
            return "met"
        finally:
            other.done.set()

    async def _pass_on(self, one: trio.abc.Stream, two: trio.abc.Stream) -> None:
        left = self._limits.meeting_bytes_max

        async def pump(source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
            nonlocal left
            try:
                while left > 0 and (data := await source.receive_some(CHUNK_SIZE)):
                    left -= len(data)
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            scope.cancel()

        with trio.move_on_after(self._limits.meeting_seconds_max):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, one, two, nursery.cancel_scope)
                nursery.start_soon(pump, two, one, nursery.cancel_scope)
