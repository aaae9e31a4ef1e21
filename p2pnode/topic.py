"""Topic: one topic of a relay over one call: read to its end, take what it holds, append to it.

    relay -> page -> unsealed -> proven, judged, COMMIT -> what lies there, COMMIT -> next page

The cursor moves behind the entries: whoever is killed in between reads a page twice, and takes nothing twice. What
could not be taken yet (its author, or what comes before it, is not known here) is marked to be read again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from p2pnode import events
from p2pnode.calling import Call, CallFailed
from p2pnode.exchange import Exchange
from p2pnode.packing import Packed
from p2pnode.space import Space
from p2pnode.store import Content, Declined, Outcome, Posted
from p2pnode.unpacking import Taking
from protocol.bundle import SALT_SIZE, Damaged, Found, Malformed, Opener, Seen, Unsealer
from protocol.limits import BUNDLE_CHUNK_SIZE
from protocol.log import Head, Run, Verdict
from protocol.mailbox import BEGINNING, LIVE_WEEKS, Cursor, Topic
from protocol.messages import RunMessage
from protocol.relay_messages import Page

KEEP_DAYS = LIVE_WEEKS * 7
REREAD_MAX = 64  # messages that are fetched once more in one look
PAGES_MAX = 1024  # read in one go, each up to PAGE_SIZE_MAX: four times what a topic holds at a usual relay
HASHES_MAX = 4096  # with which stories are compared; who appends has read to the end a moment before
RESTARTS_MAX = 2  # of one topic in one call: a relay that changes its story again and again is left alone


@dataclass(slots=True)
class OpenTopic:
    """A topic that is being read. `warnings` collects what the relay, or who appends, did wrong."""

    exchange: Exchange
    space: Space
    call: Call
    topic: Topic
    no: int
    cursor: Cursor
    warnings: set[str]
    first: int  # the oldest message that the relay still keeps
    lost: bool = False  # something that lay there does so no more
    _restarts: int = 0
    _hashes: dict[int, bytes] = field(default_factory=dict)  # running hashes of what this call has read last

    # Reading

    async def read(self) -> None:
        """Takes everything up to the topic's end. Raises CallFailed."""
        for _ in range(PAGES_MAX):
            if not await self.take(await self.call.read(self.topic.key, self.cursor.number)):
                return
        raise CallFailed("slow")  # a topic without an end: it goes on after a while

    async def take(self, page: Page) -> bool:
        """Takes a page that was asked for at the cursor; whether there may be more behind it."""
        if not await self._continues(page):
            return True
        self._know(self.cursor)
        taking = Taking(self.exchange, self.space)
        numbers: dict[int, int] = {}
        runs: list[Run] = []
        for message in page.messages:
            self.cursor = self.cursor.behind(message)
            self._know(self.cursor)
            for run in self._opened(message, self.cursor.number):
                numbers[id(run)] = self.cursor.number
                runs.append(run)
        ended = await taking.take(runs) + await taking.finish() if runs else []
        if taking.tally.refused:
            self._warn("refused")
        moved = page.messages or page.first != self.first
        self.lost |= page.first > self.first
        self.first = page.first
        if moved:
            posted = [entry for run, outcome in ended for entry in _lying(numbers[id(run)], run, outcome)]
            later = {numbers[id(run)] for run, outcome in ended if _waits(outcome)}
            await self.exchange.store.relays.read_on(self.space.no, self.no, self.cursor, self.first, posted, later)
        return bool(page.messages) and self.cursor.number < page.newest

    async def read_again(self) -> None:
        """Fetches what could not be taken before once more; what can be now is done with."""
        relays = self.exchange.store.relays
        for number in relays.to_reread(self.no, REREAD_MAX):
            page = await self.call.read(self.topic.key, number - 1)
            if page.base != number - 1 or not page.messages:
                await relays.reread_done(self.no, [number])  # it has expired
                continue
            taking = Taking(self.exchange, self.space)
            runs = list(self._opened(page.messages[0], number))
            ended = await taking.take(runs) + await taking.finish() if runs else []
            posted = [entry for run, outcome in ended for entry in _lying(number, run, outcome)]
            await relays.read_on(self.space.no, self.no, self.cursor, self.first, posted, ())
            if not any(_waits(outcome) for _, outcome in ended):
                await relays.reread_done(self.no, [number])

    async def _continues(self, page: Page) -> bool:
        """Whether the page goes on from our cursor; False where the topic begins anew."""
        cursor = self.cursor
        other_hash = page.base == cursor.number and page.hash != cursor.hash
        if page.newest < cursor.number or page.first < self.first or other_hash:
            self._restarts += 1
            if self._restarts > RESTARTS_MAX:
                raise CallFailed("broke-rules")
            self._warn("restored")
            await self.exchange.store.relays.begin_again(self.no)
            self.cursor, self.first, self.lost = BEGINNING, 1, True
            self._hashes.clear()
            return False
        if page.base != cursor.number:  # what lay between has expired
            self.cursor = Cursor(page.base, page.hash)
        return True

    def _opened(self, message: bytes, number: int) -> Iterator[Run]:
        """The runs in a message."""
        unsealer = Unsealer(message[:SALT_SIZE], [Opener(self.space.id, s) for s in reversed(self.space.epochs)])
        for at in range(SALT_SIZE, max(len(message), SALT_SIZE + 1), BUNDLE_CHUNK_SIZE):
            for found in unsealer.read_untrusted(message[at : at + BUNDLE_CHUNK_SIZE]):
                run = self._run_in(found, number)
                if run is not None:
                    yield run
        if not unsealer.whole:
            self._warn("damaged")

    def _run_in(self, found: Found, number: int) -> Run | None:
        match found:
            case RunMessage(unproven):
                return unproven
            case Seen(cursor):
                if cursor.number >= number or self._hashes.get(cursor.number, cursor.hash) != cursor.hash:
                    self._warn("equivocates")  # whoever appended this was told another story than we are
            case Damaged() | Malformed():
                self._warn("damaged")
            case _:
                pass
        return None

    def _know(self, cursor: Cursor) -> None:
        self._hashes[cursor.number] = cursor.hash
        if len(self._hashes) > HASHES_MAX:
            del self._hashes[next(iter(self._hashes))]

    def _warn(self, what: str) -> None:
        self.warnings.add(what)
        events.log("mailbox.warning", about=what)

    # Appending

    async def append(self, packed: Packed) -> None:
        """One message more, and what it holds lies there. Raises CallFailed or RelayRefused."""
        store = self.exchange.store
        number = await self.call.append(self.topic, packed.message, KEEP_DAYS)
        if number != self.cursor.number + 1:
            return await self.read()  # somebody was faster: ours lies there when it is read there
        self.cursor = self.cursor.behind(packed.message)
        self._know(self.cursor)
        posted: list[Posted] = []
        for run in packed.runs:
            if store.id_at(self.space.no, run.key, run.first_seq) == run.ids[0]:
                posted += _stretches(number, run)
            else:
                posted.append(Posted(number, run.key, run.first_seq, run.last_seq, Content.BRANCH))
        await store.relays.read_on(self.space.no, self.no, self.cursor, self.first, posted, ())
        return None


def _waits(outcome: Outcome | None) -> bool:
    """Whether something else has to be known before the run can be taken."""
    return outcome is not None and (outcome.verdict is Declined.UNWANTED or outcome.verdict is Verdict.EARLY)


def _lying(number: int, run: Run, outcome: Outcome | None) -> list[Posted]:
    """What of our logs lies in message `number`, going by what became of one of its runs."""
    match outcome:
        case Outcome(verdict=Verdict.EXTENDS | Verdict.KNOWN):
            return _stretches(number, run)
        case Outcome(verdict=Verdict.FORK, seq=seq):
            return [Posted(number, run.key, seq, run.last_seq, Content.BRANCH)]
        case Outcome(verdict=Verdict.HELD, head=Head(fork=int(fork))):
            return [Posted(number, run.key, fork, run.last_seq, Content.BRANCH)]
        case _:
            return []


def _stretches(number: int, run: Run) -> list[Posted]:
    """A run as stretches with payloads, and the whole of it where it lacks some."""
    if not run.lacks:
        return [Posted(number, run.key, run.first_seq, run.last_seq, Content.WHOLE)]
    found = [Posted(number, run.key, run.first_seq, run.last_seq, Content.HEADERS)]
    begun: int | None = None
    for index in range(len(run) + 1):
        present = index < len(run) and index not in run.lacks
        if present and begun is None:
            begun = index
        elif not present and begun is not None:
            found.append(Posted(number, run.key, run.first_seq + begun, run.first_seq + index - 1, Content.WHOLE))
            begun = None
    return found
