"""SQLite: the shelf of a relay that is alone with its disk, one encrypted file as a node's store is.

Appends that come while the writer waits for the disk share the next transaction, and the one wait that it ends with:
each is answered after its COMMIT. See p2pnode/store/statements.py for why what is many leaves as one row.
"""

import json
import threading
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Final, Self

import apsw
import trio

from p2pnode.relay.shelf import (
    REMEMBERED_DAYS,
    Listener,
    Listeners,
    Outcome,
    Page,
    Put,
    Quotas,
    Refusal,
    Topic,
    Totals,
    topic_of,
)
from p2pnode.store.database import Answer, Database
from p2pnode.store.errors import StoreDamaged, StoreFull
from p2pnode.store.file import Schema
from p2pnode.store.statements import one
from protocol.mailbox import message_hash

SCHEMA: Final = Schema(0x70327231, "p2pnode.relay")  # "p2r1"
NUMBER_BITS: Final = 32  # a topic and a number share one row number, as a log and a seq do

BATCH_SIZE_MAX = 4 * 1024 * 1024  # from here on a batch takes no more: half of the writer's page cache
GONE_MESSAGES_MAX = 256  # let go of in one transaction, so that nobody's append waits for long
GONE_SIZE_MAX = 4 * 1024 * 1024


class SqliteShelf:
    """Made by `open`; the only one on its file."""

    def __init__(self, database: Database, quotas: Quotas, *, on_error: Callable[[str], None]) -> None:
        self._database = database
        self._quotas = quotas
        self._on_error = on_error
        self._listeners = Listeners()
        self._batch: _Batch | None = None
        self.heard: Callable[[Listener], Callable[[], None]] = self._listeners.add

    @classmethod
    def open(
        cls,
        path: Path | str,
        key: bytes,
        quotas: Quotas,
        *,
        create: bool = True,
        inline: bool = False,
        on_error: Callable[[str], None] = lambda event: None,
    ) -> Self:
        """Opens the shelf under its raw 32-byte key, as Store.open does and with the same errors."""
        database = Database(Path(path), key, create=create, inline=inline, on_error=on_error, schema=SCHEMA)
        return cls(database, quotas, on_error=on_error)

    async def append(self, topic: bytes, message: bytes, *, today: int, keep_until: int) -> int | Refusal:
        await trio.lowlevel.checkpoint_if_cancelled()
        put = Put(topic, message, today, keep_until)
        batch = self._batch
        place = None if batch is None else batch.add(put)
        if batch is None or place is None:
            batch = self._batch = _Batch()
            place = batch.add(put)
            assert place is not None
            batch.answer = self._database.order(partial(self._carry_out, batch), durable=True, urgent=True)
        try:
            number, is_new = (await batch.answer.wait())[place]
        except (StoreFull, StoreDamaged):
            if batch.count == 1:
                raise
            # Only one of them may be too long for the disk, or of a topic that is damaged.
            alone = partial(_put_all, puts=[put], quotas=self._quotas)
            ((number, is_new),) = await self._database.write(alone, durable=True, urgent=True)
        if is_new:
            self._listeners.tell(topic)
        return number

    def _carry_out(self, batch: "_Batch", db: apsw.Connection) -> list[Outcome]:
        return _put_all(db, batch.close(), self._quotas)

    async def read(self, topic: bytes, after: int, *, count_max: int, size_max: int) -> Page:
        return await self._database.query(lambda db: _page(db, topic, after, count_max, size_max))

    async def remember_handshake(self, tag: bytes, week: int) -> bool:
        return await self._database.write(lambda db: _remember_handshake(db, tag, week), durable=False, urgent=True)

    async def expire(self, today: int) -> int:
        """A topic of which a page is damaged stays as it is, and does not keep the others from going on."""
        gone = 0
        for key in await self._database.query(lambda db: _due(db, today)):
            again = True
            while again:
                try:
                    # A power cut may bring back what went: it goes again on the next day.
                    some, again = await self._database.write(partial(_let_go, key=key, today=today), durable=False)
                except StoreDamaged:
                    self._on_error("relay.topic_damaged")
                    break
                gone += some
        return gone

    async def sizes(self) -> Totals:
        return self._database.peek(_totals)

    async def close(self) -> None:
        await self._database.close()


# Appending


class _Batch:
    """Appends that share a transaction. The event loop adds to it until the writer takes it up."""

    answer: Answer[list[Outcome]]

    def __init__(self) -> None:
        self.count = 0
        self._open = True
        self._puts: list[Put] = []
        self._size = 0
        self._lock = threading.Lock()

    def add(self, put: Put) -> int | None:
        """Its place among the outcomes; None when it is too late, or enough."""
        with self._lock:
            if not self._open or self._size >= BATCH_SIZE_MAX:
                return None
            self._puts.append(put)
            self._size += len(put.message)
            self.count += 1
            return self.count - 1

    def close(self) -> list[Put]:
        """Takes up what was added, and nothing more from now on."""
        with self._lock:
            self._open = False
            puts, self._puts = self._puts, []
        return puts


_SAME = "SELECT no & 0xffffffff FROM message WHERE no >> 32 = ? AND digest = ?"


def _put_all(db: apsw.Connection, puts: list[Put], quotas: Quotas) -> list[Outcome]:
    totals = _totals(db)
    outcomes = []
    for put in puts:
        outcome, totals = _put(db, put, quotas, totals)
        outcomes.append(outcome)
    sql = "UPDATE total SET topics = ?, messages = ?, bytes = ?"
    db.execute(sql, (totals.topics, totals.messages, totals.bytes))
    return outcomes


def _put(db: apsw.Connection, put: Put, quotas: Quotas, totals: Totals) -> tuple[Outcome, Totals]:
    topic = _topic(db, put.topic)
    digest = message_hash(put.message)
    same: int | None = one(db, _SAME, topic.no, digest)
    if same is not None:
        return (same, False), totals
    size = len(put.message)
    refusal = quotas.refusal(size, topic, totals)
    if refusal is not None:
        return (refusal, False), totals
    grown = topic.grown(put, digest)
    end, start = grown.end, grown.start
    no = topic.no
    if no is None:
        values = (put.topic, end.number, end.hash, start.number, start.hash, grown.size, grown.appended, grown.due)
        db.execute("INSERT INTO topic VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        no = db.last_insert_rowid()
    else:
        sql = "UPDATE topic SET newest = ?, hash = ?, bytes = ?, appended = ?, due = ? WHERE no = ?"
        db.execute(sql, (end.number, end.hash, grown.size, grown.appended, grown.due, no))
    message = (_row(no, end.number), digest, end.hash, put.keep_until, put.message)
    db.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?)", message)
    opened = int(topic.no is None)
    return (end.number, True), Totals(totals.topics + opened, totals.messages + 1, totals.bytes + size)


# Reading

_PAGE = """
WITH RECURSIVE fitting (no, size, upto) AS (
    SELECT no, length(body), length(body) FROM message WHERE no = :first
    UNION ALL
    SELECT message.no, length(body), upto + length(body) FROM fitting JOIN message ON message.no = fitting.no + 1
    WHERE message.no <= :last AND upto + length(body) <= :size_max
)
SELECT json_group_array(size), CAST(group_concat(body, '') AS BLOB) FROM fitting CROSS JOIN message USING (no)
"""  # numbers have no gaps: it goes from one to the next and stops where the page is full


def _page(db: apsw.Connection, key: bytes, after: int, count_max: int, size_max: int) -> Page:
    topic = _topic(db, key)
    base = topic.base(after)
    messages: tuple[bytes, ...] = ()
    if topic.no is not None and base < topic.end.number:
        last = min(base + count_max, topic.end.number)
        span = {"first": _row(topic.no, base + 1), "last": _row(topic.no, last), "size_max": size_max}
        shape, blob = db.execute(_PAGE, span).get
        sizes = json.loads(shape)
        ends = accumulate(sizes)
        messages = tuple([blob[end - size : end] for end, size in zip(ends, sizes, strict=True)])
    return Page(topic.start.number + 1, topic.end.number, base, _hash_at(db, topic, base), messages)


def _hash_at(db: apsw.Connection, topic: Topic, number: int) -> bytes:
    known = topic.hash_at(number)
    if known is not None:
        return known
    assert topic.no is not None
    found: bytes = one(db, "SELECT hash FROM message WHERE no = ?", _row(topic.no, number))
    return found


# Letting go

_GOING = """
WITH RECURSIVE going (no, size, upto) AS (
    SELECT no, length(body), length(body) FROM message WHERE no = :first AND keep_until <= :today
    UNION ALL
    SELECT message.no, length(body), upto + length(body) FROM going JOIN message ON message.no = going.no + 1
    WHERE message.no <= :last AND keep_until <= :today AND upto + length(body) <= :size_max
)
SELECT count(*), sum(size) FROM going
"""


def _due(db: apsw.Connection, today: int) -> list[bytes]:
    found = one(db, "SELECT json_group_array(hex(key)) FROM topic WHERE due <= ?", today)
    return [bytes.fromhex(key) for key in json.loads(found)]


def _let_go(db: apsw.Connection, key: bytes, today: int) -> tuple[int, bool]:
    """How many messages went, and whether more of this topic has to go."""
    topic = _topic(db, key)
    no = topic.no
    if no is None or topic.due > today:
        return 0, False
    if topic.messages == 0:
        db.execute("DELETE FROM topic WHERE no = ?", (no,))
        db.execute("UPDATE total SET topics = topics - 1")
        return 0, False
    first = topic.start.number + 1
    last = min(topic.start.number + GONE_MESSAGES_MAX, topic.end.number)
    span = {"first": _row(no, first), "last": _row(no, last), "today": today, "size_max": GONE_SIZE_MAX}
    count, size = db.execute(_GOING, span).get
    last = topic.start.number + count
    last_hash = _hash_at(db, topic, last)
    db.execute("DELETE FROM message WHERE no BETWEEN ? AND ?", (_row(no, first), _row(no, last)))
    due = one(db, "SELECT keep_until FROM message WHERE no = ?", _row(no, last + 1))
    if due is None:
        due = topic.appended + REMEMBERED_DAYS
    sql = "UPDATE topic SET gone = ?, gone_hash = ?, bytes = bytes - ?, due = ? WHERE no = ?"
    db.execute(sql, (last, last_hash, size, due, no))
    db.execute("UPDATE total SET messages = messages - ?, bytes = bytes - ?", (count, size))
    return count, due <= today


# Rows


def _row(topic: int, number: int) -> int:
    return topic << NUMBER_BITS | number


def _topic(db: apsw.Connection, key: bytes) -> Topic:
    sql = "SELECT no, newest, hash, gone, gone_hash, bytes, appended, due FROM topic WHERE key = ?"
    return topic_of(one(db, sql, key))


def _totals(db: apsw.Connection) -> Totals:
    return Totals(*one(db, "SELECT topics, messages, bytes FROM total"))


# Not a week's million in front of one stranger.
_FORGET = "DELETE FROM replay WHERE (week, tag) IN (SELECT week, tag FROM replay WHERE week < ? LIMIT 256)"


def _remember_handshake(db: apsw.Connection, tag: bytes, week: int) -> bool:
    """Those of weeks whose masks no longer open are forgotten, some at a time."""
    db.execute(_FORGET, (week - 2,))
    db.execute("INSERT OR IGNORE INTO replay VALUES (?, ?)", (week, tag))
    return db.changes() > 0
