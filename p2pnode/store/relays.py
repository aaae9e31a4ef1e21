"""Relays: the mailboxes of each space, how far this node has read in them, and which entries lie there.

What a mailbox holds is the union of its live topics. It is written down message by message, so that what expires there
is known to be gone and is posted again by whoever holds it. Several statements of many rows are one each, see
statements.py.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import apsw

from p2pnode.store.database import Database
from p2pnode.store.statements import cut, one, rows
from protocol.frontier import LogState, State
from protocol.limits import LOG_KEY_SIZE
from protocol.mailbox import BEGINNING, Cursor


@dataclass(frozen=True, slots=True)
class RelayRow:
    """A relay of a space: where it answers, and the key that it must prove."""

    no: int
    host: str
    port: int
    key: bytes


@dataclass(frozen=True, slots=True)
class TopicRow:
    """A topic that is read, and how far; `first` is the oldest message that the relay still kept then."""

    no: int
    cursor: Cursor
    first: int


class Content(IntEnum):
    """What a message holds of a stretch of a log."""

    HEADERS = 0
    WHOLE = 1
    BRANCH = 2  # another branch than ours, from `first` on


@dataclass(frozen=True, slots=True)
class Posted:
    """Entries `first` to `last` of a log lie in message `number` of a topic."""

    number: int
    key: bytes
    first: int
    last: int
    content: Content


@dataclass(frozen=True, slots=True)
class Lack:
    """Entries of a log that we hold and a mailbox does not; `fork` where the other branch is to go with them."""

    key: bytes
    first: int
    last: int
    fork: int | None


class Relays:
    """The part of the store that is about relays and bundles."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # The relays of a space

    def of(self, space_no: int) -> list[RelayRow]:
        """In the order in which they were added."""
        sql = "SELECT no, host, port, key FROM relay WHERE space = ? ORDER BY no"
        return [RelayRow(*row) for row in self._database.peek(lambda db: rows(db, sql, space_no))]

    async def add(self, space_no: int, host: str, port: int, key: bytes) -> RelayRow:
        """Keeps a relay; one that is known under its key has moved. Durable when it returns."""

        def job(db: apsw.Connection) -> RelayRow:
            sql = "INSERT INTO relay (space, host, port, key) VALUES (?, ?, ?, ?)"
            sql += " ON CONFLICT DO UPDATE SET host = excluded.host, port = excluded.port RETURNING no"
            return RelayRow(one(db, sql, space_no, host, port, key), host, port, key)

        return await self._database.write(job, durable=True, urgent=True)

    async def remove(self, relay_no: int) -> None:
        """Forgets a relay and what lies there."""

        def job(db: apsw.Connection) -> None:
            _drop_topics(db, "relay = ?", relay_no)
            db.execute("DELETE FROM relay WHERE no = ?", (relay_no,))

        await self._database.write(job, durable=True, urgent=True)

    # Topics

    async def topic(self, relay_no: int, epoch: int, week: int) -> TopicRow:
        """A topic and how far it was read: nothing of it where it is new."""

        def job(db: apsw.Connection) -> TopicRow:
            new = (relay_no, epoch, week, BEGINNING.number, BEGINNING.hash, 1)
            db.execute("INSERT OR IGNORE INTO topic VALUES (NULL, ?, ?, ?, ?, ?, ?)", new)
            sql = "SELECT no, number, hash, first FROM topic WHERE relay = ? AND epoch = ? AND week = ?"
            no, number, hash, first = one(db, sql, relay_no, epoch, week)
            return TopicRow(no, Cursor(number, hash), first)

        return await self._database.write(job, durable=False)

    async def keep_live(self, relay_no: int, epoch: int, weeks: range) -> None:
        """Forgets the topics of a relay that nobody reads any more, and what lay there."""
        where = "relay = ? AND NOT (epoch = ? AND week BETWEEN ? AND ?)"
        values = (relay_no, epoch, weeks.start, weeks.stop - 1)
        await self._database.write(lambda db: _drop_topics(db, where, *values), durable=False)

    async def read_on(
        self, space_no: int, topic_no: int, cursor: Cursor, first: int, posted: Iterable[Posted], reread: Iterable[int]
    ) -> None:
        """A topic was read up to a cursor: what its messages hold, and which of them are to be read again.

        `first` is the oldest message that the relay still keeps: what older ones held lies there no more.
        """
        lines = json.dumps([[p.number, p.key.hex(), p.first, p.last, int(p.content)] for p in posted])
        numbers = [(topic_no, number) for number in reread]

        def job(db: apsw.Connection) -> None:
            db.execute(_INSERT_POSTED, (lines, topic_no, space_no))
            db.executemany("INSERT OR IGNORE INTO reread VALUES (?, ?)", numbers)
            for table in ("posted", "reread"):
                db.execute(f"DELETE FROM {table} WHERE topic = ? AND number < ?", (topic_no, first))  # noqa: S608
            values = (cursor.number, cursor.hash, first, topic_no)
            db.execute("UPDATE topic SET number = ?, hash = ?, first = ? WHERE no = ?", values)

        await self._database.write(job, durable=False)

    async def begin_again(self, topic_no: int) -> None:
        """The relay does not hold what it said it held: nothing of the topic counts as read or posted."""

        def job(db: apsw.Connection) -> None:
            values = (BEGINNING.number, BEGINNING.hash, 1, topic_no)
            db.execute("UPDATE topic SET number = ?, hash = ?, first = ? WHERE no = ?", values)
            for table in ("posted", "reread"):
                db.execute(f"DELETE FROM {table} WHERE topic = ?", (topic_no,))  # noqa: S608

        await self._database.write(job, durable=False)

    def to_reread(self, topic_no: int, limit: int) -> list[int]:
        """Messages of which something could not be taken when they were read, oldest first.

        Of more than `limit` it is others each time: those that never can be taken do not stand before the rest.
        """
        sql = "SELECT number FROM reread WHERE topic = ? ORDER BY random() LIMIT ?"
        return sorted(number for (number,) in self._database.peek(lambda db: rows(db, sql, topic_no, limit)))

    def waits_elsewhere(self, relay_no: int, topic_no: int) -> bool:
        """Whether another topic of the relay has messages to be read again."""
        sql = "SELECT EXISTS (SELECT 1 FROM reread JOIN topic AS t ON t.no = topic WHERE relay = ? AND t.no != ?)"
        return bool(self._database.peek(lambda db: one(db, sql, relay_no, topic_no)))

    async def reread_done(self, topic_no: int, numbers: Iterable[int]) -> None:
        """These were read again and taken."""
        done = [(topic_no, number) for number in numbers]
        job = "DELETE FROM reread WHERE topic = ? AND number = ?"
        await self._database.write(lambda db: db.executemany(job, done) and None, durable=False)

    # What is where

    async def lacking(self, space_no: int, relay_no: int, left_out: Collection[bytes]) -> list[Lack]:
        """The entries that we hold and that a relay's live topics do not: membership as it grew, then the rest."""
        return await self._database.query(lambda db: _lacking(db, space_no, relay_no, left_out))

    def lies_at(self, space_no: int, id: bytes) -> list[int]:
        """The numbers of the relays at which a listed report lies, as far as this node has read."""
        return [no for (no,) in self._database.peek(lambda db: rows(db, _LIES_AT, space_no, id[:8], id))]

    # The frontier that came with a bundle

    async def keep_theirs(self, space_no: int, frontier: Iterable[LogState], *, anew: bool) -> None:
        """A part of the frontier of whoever made the last bundle; `anew`, it takes the place of the one before."""
        states = [(space_no, s.key, s.high, s.newest, int(s.state)) for s in frontier]

        def job(db: apsw.Connection) -> None:
            if anew:
                db.execute("DELETE FROM theirs WHERE space = ?", (space_no,))
            db.executemany("INSERT OR REPLACE INTO theirs VALUES (?, ?, ?, ?, ?)", states)

        await self._database.write(job, durable=False)

    async def theirs(self, space_no: int) -> dict[bytes, LogState]:
        """That frontier; empty where no bundle has come."""
        sql = "SELECT key, high, newest, state FROM theirs WHERE space = ?"
        found = await self._database.query(lambda db: rows(db, sql, space_no))
        return {key: LogState(key, high, newest, State(state)) for key, high, newest, state in found}


_INSERT_POSTED = """
INSERT OR IGNORE INTO posted
SELECT ?2, value ->> 0, log.no, value ->> 2, value ->> 3, value ->> 4
FROM json_each(?1) CROSS JOIN log ON log.space = ?3 AND log.key = unhex(value ->> 1)
"""

_POSTED = """
SELECT json_group_array(json_array(log, first, last, kind)) FROM (
    SELECT p.log, p.first, p.last, p.kind FROM topic AS t JOIN posted AS p ON p.topic = t.no
    WHERE t.relay = ? ORDER BY p.log, p.first
)
"""

_LOGS = """
SELECT json_group_array(json_array(no, high, lamport, fork)), CAST(group_concat(key, '') AS BLOB)
FROM log WHERE space = ?
"""

_LIES_AT = """
SELECT DISTINCT t.relay FROM report AS r JOIN posted AS p ON p.log = r.entry >> 32 JOIN topic AS t ON t.no = p.topic
WHERE r.space = ? AND substr(r.id, 1, 8) = ? AND r.id = ? AND p.kind = 1
    AND r.entry & 0xFFFFFFFF BETWEEN p.first AND p.last
"""


def _drop_topics(db: apsw.Connection, where: str, *values: int) -> None:
    for table in ("posted", "reread"):
        db.execute(f"DELETE FROM {table} WHERE topic IN (SELECT no FROM topic WHERE {where})", values)  # noqa: S608
    db.execute(f"DELETE FROM topic WHERE {where}", values)  # noqa: S608  # conditions of this module, no input


def _lacking(db: apsw.Connection, space_no: int, relay_no: int, left_out: Collection[bytes]) -> list[Lack]:
    lines, blob = one(db, _LOGS, space_no)
    posted = json.loads(one(db, _POSTED, relay_no))
    held = {log: list(part) for log, part in groupby(posted, key=lambda line: line[0])}
    bare = {no for (no,) in rows(db, "SELECT DISTINCT no >> 32 FROM lack")}
    found: list[tuple[tuple[int, int], Lack]] = []
    for (no, high, lamport, fork), (key,) in zip(json.loads(lines), cut(blob, (LOG_KEY_SIZE,)), strict=True):
        if key in left_out:
            continue
        stretches = held.get(no, ())
        enough = (Content.HEADERS, Content.WHOLE) if no in bare else (Content.WHOLE,)
        proven = any(kind == Content.BRANCH and first <= (fork or 0) for _, first, _, kind in stretches)
        gaps = _gaps([(first, last) for _, first, last, kind in stretches if kind in enough], high)
        if fork is not None and not proven and not gaps:
            gaps = [(fork, high)]
        order = (key[0], lamport if key[0] == 0 else -lamport)
        found += [(order, Lack(key, first, last, None if proven else fork)) for first, last in gaps]
    found.sort(key=lambda pair: pair[0])
    return [lack for _, lack in found]


def _gaps(stretches: Sequence[tuple[int, int]], high: int) -> list[tuple[int, int]]:
    """What of 1 … high these stretches, sorted by their beginning, leave open."""
    gaps = []
    reached = 0
    for first, last in stretches:
        if min(first - 1, high) > reached:
            gaps.append((reached + 1, min(first - 1, high)))
        reached = max(reached, last)
    if reached < high:
        gaps.append((reached + 1, high))
    return gaps
