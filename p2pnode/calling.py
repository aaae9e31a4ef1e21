"""Calling: a node at a relay. One session for each topic or token, so that the relay cannot tell what belongs together.

    async with calling.dial(dialler, relay, circuit, ambient) as call:
        page = await call.read(topic, after)
        number = await call.append(topic, message, days)

A relay may say anything. What breaks the rules, or comes too late, ends the call as a `CallFailed` with a word for
people; what a relay merely refuses is a `RelayRefused`. Neither ever leaves here as anything else.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from p2pnode.ambient import Ambient
from p2pnode.socks import Dialler, Failure
from protocol.errors import RemoteProtocolError
from protocol.limits import HANDSHAKE_SECONDS
from protocol.mailbox import Topic
from protocol.relay_handshake import Terms
from protocol.relay_messages import Answer, Append, Appended, Meet, Met, Page, Read, Reason, Refused, Request
from protocol.relaying import RelayConnection

READ_SIZE = 256 * 1024
ANSWER_SECONDS = 90.0  # for a page or an append over a slow path, beyond what the relay was asked to wait
CLOSE_SECONDS = 1.0


class CallFailed(Exception):
    """The call cannot go on; `reason` is a slug: a `Failure` of the dialler, silent, slow, cut or broke-rules."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RelayRefused(Exception):
    """The relay does not do what it was asked; the call goes on."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RelayAt:
    """Where a relay answers, and the key that it must prove."""

    address: tuple[str, int]
    key: bytes


@asynccontextmanager
async def dial(dialler: Dialler, relay: RelayAt, circuit: bytes, ambient: Ambient) -> "AsyncIterator[Call]":
    """A call whose relay has proven its key. Raises CallFailed."""
    stream = await dialler.open(relay.address, circuit)
    if isinstance(stream, Failure):
        raise CallFailed(stream)
    call: Call | None = None
    try:
        call = Call(stream, relay.key, ambient)
        await call.begin()
        yield call
        await call.end()
    finally:
        if call is None or not call.handed_over:
            await trio.aclose_forcefully(stream)


class Call:
    """An open session with a relay; requests are answered in their order."""

    def __init__(self, stream: trio.abc.Stream, relay_key: bytes, ambient: Ambient) -> None:
        self.terms: Terms
        self.handed_over = False
        self._stream = stream
        self._answers: deque[Answer | Terms] = deque()
        try:
            self._connection = RelayConnection.dial(
                relay_key, entropy=ambient.entropy, now=trio.current_time(), wall=ambient.now()
            )
        except RemoteProtocolError as error:
            raise CallFailed("broke-rules") from error

    async def begin(self) -> None:
        """The handshake."""
        await self._flush()
        terms = await self._next(HANDSHAKE_SECONDS, late="silent")
        assert isinstance(terms, Terms)
        self.terms = terms

    async def read(self, topic: bytes, after: int, *, wait_seconds: int = 0, until: trio.Event | None = None) -> Page:
        """What the topic holds behind `after`; with nothing there, what comes within the time, or before `until`."""
        await self._ask(Read(topic, after, wait_seconds))
        if until is None:
            return _page(await self._next(ANSWER_SECONDS + wait_seconds))
        answer = await self._next_or(until, ANSWER_SECONDS + wait_seconds)
        if answer is not None:
            return _page(answer)
        await self._ask(Read(topic, after, 0))  # at this the relay answers the one that waits too
        waited = _page(await self._next(ANSWER_SECONDS))
        asked = _page(await self._next(ANSWER_SECONDS))
        return waited if waited.messages else asked

    async def append(self, topic: Topic, message: bytes, days: int) -> int:
        """The number under which the message lies on the relay's disk. Raises RelayRefused."""
        await self._ask(Append(topic.key, topic.sign(message), days, message))
        answer = await self._next(ANSWER_SECONDS)
        if not isinstance(answer, Appended):
            raise _unexpected(answer)
        return answer.number

    async def meet(self, token: bytes, wait_seconds: int) -> tuple[trio.abc.Stream, bool]:
        """The other's stream, and whether we lead. The call is over then. Raises RelayRefused where nobody came."""
        await self._ask(Meet(token, wait_seconds))
        answer = await self._next(ANSWER_SECONDS + wait_seconds)
        if not isinstance(answer, Met):
            raise _unexpected(answer)
        self.handed_over = True
        return Continued(self._stream, self._connection.leftover), answer.leads

    async def end(self) -> None:
        """Says goodbye, as far as that still matters."""
        if not self.handed_over:
            self._connection.close()
            with trio.move_on_after(CLOSE_SECONDS), suppress(CallFailed):
                await self._flush()

    # Both ways

    async def _ask(self, request: Request) -> None:
        self._connection.send(request)
        await self._flush()

    async def _flush(self) -> None:
        data = self._connection.data_to_send(trio.current_time())
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise CallFailed("cut") from None
        except trio.TooSlowError:
            raise CallFailed("slow") from None

    async def _next(self, seconds: float, *, late: str = "slow") -> Answer | Terms:
        answer = await self._heard(seconds, late)
        if isinstance(answer, CallFailed):
            raise answer
        return answer

    async def _next_or(self, until: trio.Event, seconds: float) -> Answer | Terms | None:
        """The next answer; None when `until` came first."""
        heard: list[Answer | Terms | CallFailed] = []
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await until.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            heard.append(await self._heard(seconds, "slow"))
            nursery.cancel_scope.cancel()
        if not heard:
            return None
        if isinstance(heard[0], CallFailed):
            raise heard[0]
        return heard[0]

    async def _heard(self, seconds: float, late: str) -> Answer | Terms | CallFailed:
        with trio.move_on_after(seconds):
            while not self._answers:
                try:
                    data = bytes(await self._stream.receive_some(READ_SIZE))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return CallFailed("cut")
                if not data:
                    return CallFailed("cut")
                try:
                    found = self._connection.receive(data, trio.current_time())
                except RemoteProtocolError:
                    return CallFailed("broke-rules")
                for event in found:
                    if isinstance(event, Terms | Page | Appended | Refused | Met):
                        self._answers.append(event)
                if self._connection.ended and not self._answers:
                    return CallFailed("cut")
            return self._answers.popleft()
        return CallFailed(late)


class Continued(trio.abc.Stream):
    """A stream of which something has been read already."""

    def __init__(self, stream: trio.abc.Stream, read: bytes) -> None:
        self._stream = stream
        self._read = read

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._read:
            await trio.lowlevel.checkpoint()
            size = len(self._read) if max_bytes is None else max_bytes
            read, self._read = self._read[:size], self._read[size:]
            return read
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _page(answer: Answer | Terms) -> Page:
    if not isinstance(answer, Page):
        raise _unexpected(answer)
    return answer


def _unexpected(answer: Answer | Terms) -> RelayRefused | CallFailed:
    return RelayRefused(answer.reason) if isinstance(answer, Refused) else CallFailed("broke-rules")
