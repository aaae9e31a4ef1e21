"""Visit: one caller of a relay, from its first message until it goes, or goes on to the meeting point.

Requests are answered in their order. A READ that finds nothing may wait: it is answered when its topic gets a message,
when its time is over, or when the caller asks for something else. Answers are made when there is room to send them.
"""

from collections import deque
from collections.abc import Callable, Sequence

import trio

from p2pnode import events
from p2pnode.ambient import Ambient
from p2pnode.link import Link
from p2pnode.relay.allowance import DAY_SECONDS, Allowance, RelayLimits
from p2pnode.relay.shelf import Refusal, Shelf
from p2pnode.store.errors import StoreError
from protocol.limits import PAGE_MESSAGES_MAX, PAGE_SIZE_MAX
from protocol.mailbox import may_append, message_hash
from protocol.relay_handshake import Called
from protocol.relay_messages import Append, Appended, Meet, Page, Read, Reason, Refused
from protocol.relaying import Event, RelayConnection

WAKE_SECONDS = 0.1
QUEUE_MAX = 2  # requests taken in before one of them is answered: each may hold a message

_REASONS = {
    Refusal.FULL: Reason.FULL,
    Refusal.TOPIC_FULL: Reason.TOPIC_FULL,
    Refusal.NO_NEW_TOPICS: Reason.NO_NEW_TOPICS,
}


class Waiting:
    """The visits that wait for news of a topic."""

    def __init__(self) -> None:
        self._visits: dict[bytes, set[Visit]] = {}

    def add(self, topic: bytes, visit: "Visit") -> None:
        self._visits.setdefault(topic, set()).add(visit)

    def discard(self, topic: bytes, visit: "Visit") -> None:
        visits = self._visits.get(topic, set())
        visits.discard(visit)
        if not visits:
            self._visits.pop(topic, None)

    def tell(self, topic: bytes) -> None:
        """The topic has got a message."""
        for visit in tuple(self._visits.get(topic, ())):
            visit.news()


class Visit:
    """The conversation of one link."""

    def __init__(
        self,
        shelf: Shelf,
        waiting: Waiting,
        allowance: Allowance,
        limits: RelayLimits,
        ambient: Ambient,
        address: str,
        on_met: Callable[[], None],
    ) -> None:
        self.meeting: Meet | None = None  # what the caller wants after this visit
        self._shelf = shelf
        self._waiting = waiting
        self._allowance = allowance
        self._limits = limits
        self._ambient = ambient
        self._address = address
        self._on_met = on_met
        self._link: Link[RelayConnection]
        self._queue: deque[Read | Append | Meet] = deque()
        self._less = trio.Event()
        self._read: Read | None = None  # the one that waits
        self._until = 0.0
        self._waits = trio.Event()
        self._news = False

    def attach(self, link: Link[RelayConnection]) -> None:
        """The link that this is the conversation of."""
        self._link = link

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Called(tag, week):
                    await self._called(tag, week)
                case Read() | Append() | Meet():
                    while len(self._queue) >= QUEUE_MAX:
                        self._less = trio.Event()
                        await self._less.wait()
                    self._queue.append(event)
                    self._link.wake()
                case _:
                    pass

    async def serve(self) -> bool:
        """Answers the next request; False when there is none, or the one there is waits."""
        if self._read is not None:
            if not (self._news or self._queue or trio.current_time() >= self._until):
                return False
            read, self._read = self._read, None
            self._waiting.discard(read.topic, self)
            await self._answer(read, waits=False)
            return True
        if not self._queue:
            return False
        request = self._queue.popleft()
        self._less.set()
        await self._answer(request, waits=not self._queue)
        return True

    async def keep_time(self) -> None:
        """Ends the waiting of READs whose time is over, until cancelled."""
        while True:
            await self._waits.wait()
            self._waits = trio.Event()
            while self._read is not None:
                await trio.sleep_until(self._until)
                self._link.wake()
                await trio.sleep(WAKE_SECONDS)  # for the answer to be made

    def news(self) -> None:
        """The topic that is waited for has got a message."""
        self._news = True
        self._link.wake()

    def over(self) -> None:
        """The link has ended."""
        if self._read is not None:
            self._waiting.discard(self._read.topic, self)

    async def _called(self, tag: bytes, week: int) -> None:
        connection = self._link.connection
        if not await self._shelf.remember_handshake(tag, week):
            return connection.refuse()
        connection.accept(self._limits.terms, trio.current_time())
        self._on_met()
        return None

    async def _answer(self, request: Read | Append | Meet, *, waits: bool) -> None:
        send = self._link.connection.send
        try:
            match request:
                case Read():
                    page = await self._page(request, waits=waits)
                    if page is not None:
                        send(page)
                case Append():
                    answer = await self._append(request)
                    send(Refused(answer) if isinstance(answer, Reason) else Appended(answer))  # a Reason is an int too
                case Meet():
                    self.meeting = request
                    self._link.release()
        except StoreError as error:
            events.log("relay.store_failed", error=type(error).__name__)
            send(Refused(Reason.FAILED))

    async def _page(self, read: Read, *, waits: bool) -> Page | None:
        """What to answer; None where the answer waits."""
        waits = waits and read.wait_seconds > 0
        if waits:  # before looking, or a message might slip in between
            self._news = False
            self._waiting.add(read.topic, self)
        try:
            found = await self._shelf.read(read.topic, read.after, count_max=PAGE_MESSAGES_MAX, size_max=PAGE_SIZE_MAX)
        except BaseException:
            self._waiting.discard(read.topic, self)
            raise
        if waits and not found.messages and found.base == read.after:
            self._read, self._until = read, trio.current_time() + read.wait_seconds
            self._waits.set()
            return None
        if waits:
            self._waiting.discard(read.topic, self)
        return Page(found.base, found.base_hash, found.first, found.newest, found.messages)

    async def _append(self, request: Append) -> int | Reason:
        message = request.message
        if len(message) > self._limits.message_size_max:
            return Reason.TOO_LONG
        if not may_append(request.topic, message_hash(message), request.signature):
            return Reason.UNSIGNED
        now = self._ambient.now()
        if not self._allowance.spend(self._address, len(message), now):
            return Reason.TOO_MUCH
        today = int(now // DAY_SECONDS)
        days = min(request.days, self._limits.days_max)
        fuzz = int(self._ambient.random() * (self._limits.fuzz_days_max + 1))
        put = await self._shelf.append(request.topic, message, today=today, keep_until=today + days + fuzz)
        return put if isinstance(put, int) else _REASONS[put]
