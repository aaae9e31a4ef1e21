"""Link: one byte stream, one connection, and the pump between them.

    stream -> connection.receive -> events -> conversation.handle
    conversation.serve -> connection.data_to_send -> stream

A link ends quietly whatever the peer or the network does; only our own bugs leave it as exceptions. Back-pressure is
what it is made of: events wait in a short channel, so a slow store stops the reading; unsent bytes stop the serving.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import trio

from protocol.errors import RemoteProtocolError
from protocol.limits import Limits

READ_SIZE = 256 * 1024
EVENT_BATCHES_MAX = 8  # event lists between reading and handling
GREEDY_TIMES = 2  # of what we would serve by ourselves may wait unsent: only who asks and does not read gets there


class Spoken(Protocol):
    """A session without its I/O: between members, or with a relay."""

    deadline: float

    @property
    def ended(self) -> bool:
        """Whether the peer has said that it is done."""

    @property
    def unsent_size(self) -> int:
        """Bytes that wait for `data_to_send`."""

    def receive(self, data: bytes, now: float, /) -> Sequence[Any]:
        """What these bytes mean. Raises RemoteProtocolError when the peer broke a rule."""

    def data_to_send(self, now: float, /) -> bytes:
        """Everything to be written now."""

    def close(self) -> None:
        """Ends our side of the stream."""


class Conversation(Protocol):
    """Whoever talks through a link."""

    async def handle(self, events: Sequence[Any], /) -> None:
        """Acts on events, in order."""

    async def serve(self) -> bool:
        """Puts one more piece into the connection; False when there is nothing to send now."""


S = TypeVar("S", bound=Spoken)


class Link(Generic[S]):
    """Pumps until one side ends it; `reason` then says why, in one stable word. It is not read before `begin`."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        connection: S,
        limits: Limits,
        *,
        begin: float = float("-inf"),
        batches_max: int = EVENT_BATCHES_MAX,
    ) -> None:
        self.connection = connection
        self.reason = "open"
        self._stream = stream
        self._limits = limits
        self._begin = begin
        self._batches_max = batches_max
        self._awake = trio.Event()
        self._scope = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._broken = False
        self._closing = False
        self._released = False

    def wake(self) -> None:
        """There may be something to send."""
        self._awake.set()

    def close(self) -> None:
        """Ends the session after what is already in the connection has been written."""
        self._closing = True
        self.connection.close()
        self.wake()

    def drop(self, reason: str) -> None:
        """Ends the link at once."""
        if self.reason == "open":
            self.reason = reason
        self._scope.cancel()

    def release(self) -> None:
        """Ends the link at once and leaves its stream open: the session has become something else."""
        self._released = True
        self.drop("released")

    async def run(self, conversation: Conversation) -> None:
        """Returns when the link is over and its stream is closed, unless it was released."""
        send, receive = trio.open_memory_channel[Sequence[Any]](self._batches_max)
        try:
            with self._scope:
                await trio.sleep_until(self._begin)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, send)
                    nursery.start_soon(self._write, conversation)
                    nursery.start_soon(self._watch_deadline)
                    await self._handle(receive, conversation)
        finally:
            if self.reason == "open":
                self.reason = "cancelled"
            if not self._released:
                await trio.aclose_forcefully(self._stream)

    async def _read(self, batches: "trio.MemorySendChannel[Sequence[Any]]") -> None:
        """Until the stream ends, which ends the reading alone: what has been read is still handled."""
        async with batches:
            while not self._broken:
                with trio.CancelScope() as self._reading:
                    try:
                        data = bytes(await self._stream.receive_some(READ_SIZE))  # memory streams give bytearrays
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        self._broken = True
                        return
                if self._reading.cancelled_caught or not data:
                    return
                try:
                    events = self.connection.receive(data, trio.current_time())
                except RemoteProtocolError:
                    self.drop("refused")
                    return
                self.wake()
                if events:
                    await batches.send(events)

    async def _handle(self, batches: "trio.MemoryReceiveChannel[Sequence[Any]]", conversation: Conversation) -> None:
        async for events in batches:
            more = list(events)
            with suppress(trio.WouldBlock, trio.EndOfChannel):  # what has come meanwhile shares a transaction
                while True:
                    more += batches.receive_nowait()
            try:
                await conversation.handle(more)
            except RemoteProtocolError:
                self.drop("refused")
                return
            self.wake()
            if self.connection.unsent_size > GREEDY_TIMES * self._limits.outgoing_bytes_max:
                self.drop("greedy")
                return
            if self.connection.ended and not self._closing:
                self.close()
        if not self._closing or self._broken:  # else our own last words are still on their way
            self._over("broken" if self._broken else "cut")

    async def _write(self, conversation: Conversation) -> None:
        while True:
            room = self._limits.outgoing_bytes_max
            while not self._closing and self.connection.unsent_size < room and await conversation.serve():
                await trio.lowlevel.checkpoint()
            data = self.connection.data_to_send(trio.current_time())
            if data:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._broken = True
                    self._reading.cancel()
                    return
            elif self._closing:
                self._over("closed")
                return
            else:
                await self._awake.wait()
                self._awake = trio.Event()

    def _over(self, reason: str) -> None:
        """The stream is done. After the peer's goodbye it does not matter which of our tasks sees it first."""
        self.drop("ended" if self.connection.ended else reason)

    async def _watch_deadline(self) -> None:
        while True:
            await trio.sleep_until(self.connection.deadline)
            if trio.current_time() >= self.connection.deadline:
                self.drop("timeout")
                return
