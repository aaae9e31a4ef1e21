"""Shelf: where a relay keeps what it was given, whatever engine lies beneath.

A shelf holds topics, and in each of them messages numbered from 1 without gaps. It takes a message when the quotas let
it in, keeps it until its day has come, and lets go of the oldest first; what it has let go of, it still has counted.
Of time it knows the day and nothing finer; of people it knows nothing at all.

    append   the number of a message, once it is on the disk; the same message again gets the same number
    read     a page of what lies behind a cursor
    expire   lets go of what has had its day

What a shelf answers is decided here, so that every engine answers the same: sqlite.py for one machine, postgresql/ for
several relays that share one shelf.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from protocol.mailbox import BEGINNING, Cursor, chained

REMEMBERED_DAYS = 90  # a topic that was emptied is remembered so long after its last message; nobody reads it by then


class Refusal(Enum):
    """Why a message was not taken."""

    FULL = "full"
    TOPIC_FULL = "topic-full"
    NO_NEW_TOPICS = "no-new-topics"


@dataclass(frozen=True, slots=True)
class Totals:
    """What a shelf holds in all. Topics that were emptied and are remembered count."""

    topics: int
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much the operator lets in.

    A topic that is new is turned away when the shelf is fuller than `newcomers_percent`: a stranger who fills it with
    ever new ones leaves the rest to those that exist. Who had opened many before can take of that rest too; only the
    rate at which the relay takes messages from an address slows that.
    """

    topic_bytes_max: int = 256 * 1024 * 1024  # a large collective's week, reports and all
    topic_messages_max: int = 100_000  # one in six seconds for a week
    bytes_max: int = 8 * 1024 * 1024 * 1024  # what the smallest rented machine can spare
    messages_max: int = 4_000_000  # a row costs some 300 bytes beside its message: a gigabyte, were they all empty
    topics_max: int = 100_000  # as many rows, and as many names to tell readers of
    newcomers_percent: int = 80

    def refusal(self, size: int, topic: "Topic", totals: Totals) -> Refusal | None:
        """What stands against one more message of this size; None: nothing."""
        if topic.no is None and (totals.topics >= self.topics_max or self._crowded(totals)):
            return Refusal.NO_NEW_TOPICS
        if topic.messages >= self.topic_messages_max or topic.size + size > self.topic_bytes_max:
            return Refusal.TOPIC_FULL
        if totals.messages >= self.messages_max or totals.bytes + size > self.bytes_max:
            return Refusal.FULL
        return None

    def _crowded(self, totals: Totals) -> bool:
        return (
            totals.bytes * 100 > self.bytes_max * self.newcomers_percent
            or totals.messages * 100 > self.messages_max * self.newcomers_percent
        )


@dataclass(frozen=True, slots=True)
class Put:
    """A message on its way in."""

    topic: bytes
    message: bytes
    today: int
    keep_until: int


Outcome = tuple[int | Refusal, bool]  # of a Put: what its caller gets, and whether the topic has something new


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as its row says."""

    no: int | None  # None: there is no row
    end: Cursor  # behind the newest message
    start: Cursor  # behind the last one that went
    size: int  # bytes of the messages between the two
    appended: int  # the day of the newest
    due: int  # the day on which the oldest goes; where none is left, the row

    @property
    def messages(self) -> int:
        return self.end.number - self.start.number

    def base(self, after: int) -> int:
        """The number behind which a reader who has come as far as `after` goes on."""
        return self.end.number if after > self.end.number else max(after, self.start.number)

    def hash_at(self, number: int) -> bytes | None:
        """The running hash behind a message, where the row knows it."""
        return next((cursor.hash for cursor in (self.end, self.start) if cursor.number == number), None)

    def grown(self, put: Put, digest: bytes) -> "Topic":
        """The same with one more message."""
        end = Cursor(self.end.number + 1, chained(self.end.hash, digest))
        due = self.due if self.messages else put.keep_until
        return Topic(self.no, end, self.start, self.size + len(put.message), put.today, due)


UNKNOWN = Topic(None, BEGINNING, BEGINNING, 0, 0, 0)  # nothing was ever put into it, or nothing is known of that


def topic_of(row: tuple[Any, ...] | None) -> Topic:
    """From the columns no, newest, hash, gone, gone_hash, bytes, appended, due."""
    if row is None:
        return UNKNOWN
    no, newest, end_hash, gone, gone_hash, size, appended, due = row
    return Topic(no, Cursor(newest, end_hash), Cursor(gone, gone_hash), size, appended, due)


@dataclass(frozen=True, slots=True)
class Page:
    """What lies behind a cursor.

    The messages are numbered base + 1, base + 2, …; `base_hash` is the topic's running hash at `base`, which is where
    the reader stood, or right before the oldest message where some that it has not read are gone, or the newest where
    the reader has seen more than there is.
    """

    first: int  # the number of the oldest message still kept; newest + 1: none is
    newest: int  # the number of the newest there ever was; 0: there was none
    base: int
    base_hash: bytes
    messages: tuple[bytes, ...]


Listener = Callable[[bytes], None]


class Shelf(Protocol):
    """Every method belongs to the event loop. All raise StoreError: what was asked for counts as not done."""

    async def append(self, topic: bytes, message: bytes, *, today: int, keep_until: int) -> int | Refusal:
        """The number that the message got, on the disk when it returns.

        A message that the topic still keeps is not taken twice: it answers with the number that it has. Days count
        from 1970; the message is kept as long as the day is before `keep_until`, and longer behind one that is.
        """

    async def read(self, topic: bytes, after: int, *, count_max: int, size_max: int) -> Page:
        """As many messages behind `after` as both bounds let through, at least one where there is one.

        A topic that is unknown is one without messages.
        """

    async def remember_handshake(self, tag: bytes, week: int) -> bool:
        """Whether this first message of a week is new, and not a replay. It survives our death, not a power cut."""

    async def expire(self, today: int) -> int:
        """Lets go of the messages whose day has come, in each topic from the oldest to the first that must stay.

        Returns how many. Of a topic without messages the count and the running hash are kept for REMEMBERED_DAYS after
        its last one came: readers would take it for a relay restored from a copy.
        """

    def heard(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with every topic that gets a message, through whatever relay; the result ends that.

        A call may be one too many, never one too few, and is late where the engine was out of reach.
        """

    async def sizes(self) -> Totals:
        """What is held in all: counted as it comes and goes."""

    async def close(self) -> None:
        """Finishes what was asked for."""


class Listeners:
    """Those who want to hear of messages. Belongs to the event loop."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def add(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, topic: bytes) -> None:
        for listener in tuple(self._listeners):
            listener(topic)
