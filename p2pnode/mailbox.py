"""Mailbox: what a node does with the topics of one relay of one space: read everything, append exactly what is lacking.

    look back     the topics of the weeks before, and of the week to come (clocks differ), each read to its end
    stay          the topic of this week: read to its end, append what no live topic holds, wait for news

A node reads before it appends, so what somebody else has put there meanwhile is not put there again, and neither is
what it put there itself before its connection, or its daemon, was cut off. It appends behind a random delay: who is
there at the moment of writing would be who wrote. One connection for each topic: the relay cannot tell which belong
together.

A relay that was restored from a copy, or that shows members different messages, keeps nobody from anything but time:
the node says what it saw, reads the topic from its beginning and appends what is not there.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf

import trio

from p2pnode import events, packing
from p2pnode.ambient import Ambient
from p2pnode.calling import CallFailed, RelayAt, RelayRefused, dial
from p2pnode.exchange import Exchange, News
from p2pnode.socks import Dialler
from p2pnode.space import Space
from p2pnode.store import Lack, StoreError
from p2pnode.topic import OpenTopic
from protocol.limits import WAIT_SECONDS_MAX
from protocol.mailbox import LIVE_WEEKS, topic_of, week_of
from protocol.relay_messages import Reason

BACKOFF_SECONDS_MIN = 1.0
BACKOFF_SECONDS_MAX = 900.0
REFUSED_SECONDS = 900.0  # a relay that takes nothing is asked again after this
LOOK_BACK_SECONDS = 6 * 3600.0
HURRIED_SECONDS = 60.0  # who asks again within this has the weeks before looked at already


@dataclass(frozen=True, slots=True)
class Pace:
    """How a node of this profile moves."""

    append_delay_seconds_max: float  # what is new waits a random time up to this
    pause_seconds_max: float  # between two topics, so that they do not come in one bunch


@dataclass(slots=True)
class Told:
    """How it stands with a mailbox, for people."""

    state: str = "new"  # reading, appending, waiting; or why not: a slug of CallFailed or `store`
    seen: float | None = None  # when the relay answered last, UTC
    waiting: int = 0  # entries that lie here and not there
    waiting_since: float | None = None
    refusal: str | None = None  # why the relay did not take them
    warnings: set[str] = field(default_factory=set)  # restored, equivocates, damaged, refused
    settled: bool = False  # with the last pass everything was read, and everything appended


class Mailbox:
    """One relay of one space. `run` never ends by itself."""

    def __init__(
        self,
        exchange: Exchange,
        space: Space,
        relay_no: int,
        at: RelayAt,
        dialler: Dialler,
        ambient: Ambient,
        pace: Pace,
    ) -> None:
        self.told = Told()
        self.passed = trio.Event()  # set with the first pass after it was hurried, whether it came to its end or failed
        self._exchange = exchange
        self._store = exchange.store
        self._space = space
        self._relay_no = relay_no
        self._at = at
        self._dialler = dialler
        self._ambient = ambient
        self._pace = pace
        self._wake = trio.Event()
        self._due = inf  # when to append
        self._looked_back = -inf
        self._members: object = None
        self._hurries = 0

    @property
    def owes(self) -> bool:
        """Whether something has come since the last pass that waits for its delay."""
        return self.told.state == "waiting" and self.told.refusal is None and self._due < inf

    def hurry(self) -> None:
        """Somebody asks for it: everything is looked at now, and appended without delay."""
        self._hurries += 1
        if self.passed.is_set():  # who waits already is told with the same pass
            self.passed = trio.Event()
        if trio.current_time() - self._looked_back > HURRIED_SECONDS:
            self._looked_back = -inf
        self._due = trio.current_time()
        self._wake.set()

    async def run(self) -> None:
        """Reads and appends until cancelled."""
        stop = self._exchange.listen(self._heard)
        self._append_soon()
        backoff = BACKOFF_SECONDS_MIN
        try:
            while True:
                hurries = self._hurries
                try:
                    await self._round()
                    backoff = BACKOFF_SECONDS_MIN
                    continue
                except CallFailed as error:
                    self.told.state = error.reason
                    events.log("mailbox.failed", reason=error.reason)
                except StoreError as error:
                    self.told.state = "store"
                    events.log("store.failed", error=type(error).__name__)
                with suppress(StoreError):
                    await self._note_waiting()
                self._pass(hurries, settled=False)
                with trio.move_on_after(backoff * (0.5 + self._ambient.random())):
                    await self._wake.wait()
                self._wake = trio.Event()
                backoff = BACKOFF_SECONDS_MIN if self._hurries > hurries else min(2 * backoff, BACKOFF_SECONDS_MAX)
        finally:
            stop()
            self.passed.set()  # nobody waits for a relay that was removed

    def _heard(self, news: News) -> None:
        if news.space is self._space:
            self._append_soon()

    def _append_soon(self) -> None:
        if self._due == inf:
            self._due = trio.current_time() + self._ambient.random() * self._pace.append_delay_seconds_max
            self._wake.set()

    def _append_lost(self, topic: OpenTopic) -> None:
        """What the relay has let go of, or lost, is appended again by whoever holds it."""
        if topic.lost:
            topic.lost = False
            self._append_soon()

    def _pass(self, hurries: int, *, settled: bool) -> None:
        """A pass is over that began after so many hurries."""
        self.told.settled = settled
        if hurries == self._hurries:
            self.passed.set()

    # One round: look back, then stay

    async def _round(self) -> None:
        """Ends when the week, or the epoch, does, or when it is time to look back again. Raises CallFailed."""
        self._append_soon()  # what lay in a week that is over lies there no more
        week, epoch = week_of(self._ambient.now()), len(self._space.epochs)
        await self._store.relays.keep_live(self._relay_no, epoch, range(week - LIVE_WEEKS + 1, week + 2))
        if trio.current_time() - self._looked_back >= LOOK_BACK_SECONDS:
            begun = trio.current_time()
            for other in (*range(week - LIVE_WEEKS + 1, week), week + 1):
                async with self._visit(epoch, other):
                    pass
                await trio.sleep(self._ambient.random() * self._pace.pause_seconds_max)
            self._looked_back = begun
        async with self._visit(epoch, week) as topic:
            while (week, epoch) == (week_of(self._ambient.now()), len(self._space.epochs)):
                hurries = self._hurries
                if self._due <= trio.current_time():
                    await self._append(topic, epoch, week)
                if trio.current_time() - self._looked_back >= LOOK_BACK_SECONDS:
                    return
                self._pass(hurries, settled=not self.told.waiting)
                await self._wait(topic)

    @asynccontextmanager
    async def _visit(self, epoch: int, week: int) -> AsyncIterator[OpenTopic]:
        """A topic, everything in it taken."""
        key = self._at.key
        topic = topic_of(self._space.epochs[epoch - 1], key, week)
        row = await self._store.relays.topic(self._relay_no, epoch, week)
        async with dial(self._dialler, self._at, topic.key, self._ambient) as call:
            self.told.state = "reading"  # not before it answers: until then it is as it was
            self.told.seen = self._ambient.now()
            found = OpenTopic(
                self._exchange, self._space, call, topic, row.no, row.cursor, self.told.warnings, first=row.first
            )
            try:
                await found.read()
                await found.read_again()
                self._append_lost(found)
                yield found
            except RelayRefused as error:  # of a READ
                raise CallFailed(f"refused-{error.reason.name.lower()}") from error

    async def _wait(self, topic: OpenTopic) -> None:
        """Until something is new there, or to be done here."""
        self.told.state = "waiting"
        begun = trio.current_time()
        until = min(self._due - begun, WAIT_SECONDS_MAX * (0.5 + 0.5 * self._ambient.random()))
        seconds = max(1, int(until))
        page = await topic.call.read(topic.topic.key, topic.cursor.number, wait_seconds=seconds, until=self._wake)
        if not page.messages:
            with trio.move_on_at(begun + seconds):  # a relay that did not wait does not keep us busy
                await self._wake.wait()
        self._wake = trio.Event()
        self.told.seen = self._ambient.now()
        if await topic.take(page):
            await topic.read()
        self._append_lost(topic)
        members = self._space.members
        if members is not self._members:  # somebody may belong now whose entries were left lying
            self._members = members
            await topic.read_again()
            if self._store.relays.waits_elsewhere(self._relay_no, topic.no):
                self._looked_back = -inf

    # Appending

    async def _append(self, topic: OpenTopic, epoch: int, week: int) -> None:
        """Puts there what no live topic holds."""
        due, self._due = self._due, inf
        lacks = await self._note_waiting()
        if not lacks:
            return
        self.told.state = "appending"
        try:
            await self._append_to(topic, lacks)
        except (CallFailed, StoreError):
            self._due = due  # it has waited: the rest goes with the next call
            raise
        except RelayRefused as error:
            self.told.refusal = error.reason.name.lower().replace("_", "-")
            self._due = trio.current_time() + REFUSED_SECONDS
            if error.reason is Reason.NO_NEW_TOPICS and topic.cursor.number == 0:
                await self._append_elsewhere(epoch, week)
        await self._note_waiting()

    async def _append_to(self, topic: OpenTopic, lacks: list[Lack]) -> None:
        size_max = topic.call.terms.message_size_max
        if size_max < packing.MESSAGE_SIZE_MIN:
            raise CallFailed("too-small")
        sealed = packing.messages(self._store, self._space, lacks, size_max, topic.cursor, self._ambient.entropy)
        for packed in sealed:
            await topic.append(packed)
            self.told.waiting = max(0, self.told.waiting - sum(map(len, packed.runs)))
            self.told.seen = self._ambient.now()
        self.told.refusal = None

    async def _append_elsewhere(self, epoch: int, week: int) -> None:
        """A relay that is nearly full opens no new topic: those of the weeks before are read too, and still open."""
        for other in range(week - 1, week - LIVE_WEEKS, -1):
            row = await self._store.relays.topic(self._relay_no, epoch, other)
            if row.cursor.number:
                async with self._visit(epoch, other) as topic:
                    lacks = await self._note_waiting()
                    try:
                        await self._append_to(topic, lacks)
                    except RelayRefused as error:
                        self.told.refusal = error.reason.name.lower().replace("_", "-")
                return

    async def _note_waiting(self) -> list[Lack]:
        """What lies here and not there, counted for people."""
        left_out = self._store.left_out(self._space.no)
        lacks = await self._store.relays.lacking(self._space.no, self._relay_no, left_out)
        self.told.waiting = sum(lack.last - lack.first + 1 for lack in lacks)
        if not lacks:
            self.told.waiting_since = self.told.refusal = None
        elif self.told.waiting_since is None:
            self.told.waiting_since = self._ambient.now()
        return lacks
