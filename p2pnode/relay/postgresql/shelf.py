"""The shelf itself: the statements, each of which may meet those of other relays.

A topic grows under the lock of its row, so its numbers have no gaps and its running hash has one story, whoever
appends. The totals come last in a transaction, and one topic is all that a transaction touches: nobody waits in a
circle. Bounds on the whole are looked up, not locked: as many appends as are under way may pass them together.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

import psycopg
import trio

from p2pnode.relay.postgresql.news import News
from p2pnode.relay.postgresql.pool import Connection, Pool, migrate
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
from p2pnode.store.errors import StoreDamaged
from protocol.mailbox import message_hash

CONNECTIONS: Final = 8  # of one relay; the server allows a hundred in all unless told otherwise
SHARDS: Final = 64
GONE_MESSAGES_MAX: Final = 256  # let go of in one transaction, so that nobody's append waits for long
GONE_SIZE_MAX: Final = 16 * 1024 * 1024


class PostgresqlShelf:
    """Made by `open`; any number of them may share a database."""

    def __init__(self, pool: Pool, quotas: Quotas, *, on_error: Callable[[str], None]) -> None:
        self._pool = pool
        self._quotas = quotas
        self._on_error = on_error
        self._listeners = Listeners()
        self._news: News
        self.heard: Callable[[Listener], Callable[[], None]] = self._listeners.add

    @classmethod
    async def open(
        cls,
        address: str,
        quotas: Quotas,
        *,
        connections: int = CONNECTIONS,
        on_error: Callable[[str], None] = lambda event: None,
    ) -> Self:
        """Opens the shelf in a database, named as libpq does; makes its tables where there are none.

        It keeps up to `connections` and one to listen. Raises StoreRefused (foreign, newer), StoreFull or StoreFailed.
        """
        shelf = cls(Pool(address, connections), quotas, on_error=on_error)
        try:
            await shelf._pool.run(migrate)
            heard = partial(_soon, trio.lowlevel.current_trio_token(), shelf._listeners)
            shelf._news = await trio.to_thread.run_sync(partial(News, address, heard, on_error=on_error))
        except BaseException:
            with trio.CancelScope(shield=True):
                await shelf._pool.close()
            raise
        return shelf

    async def append(self, topic: bytes, message: bytes, *, today: int, keep_until: int) -> int | Refusal:
        put = Put(topic, message, today, keep_until)
        number, is_new = await self._pool.run(partial(_append, put=put, quotas=self._quotas))
        if is_new:
            self._news.tell(topic)
            self._listeners.tell(topic)
        return number

    async def read(self, topic: bytes, after: int, *, count_max: int, size_max: int) -> Page:
        span = (topic, after, count_max, size_max)
        return await self._pool.run(lambda connection: _page(connection, *span))

    async def remember_handshake(self, tag: bytes, week: int) -> bool:
        return await self._pool.run(partial(_remember_handshake, tag=tag, week=week))

    async def expire(self, today: int) -> int:
        """A topic that is damaged stays as it is, and does not keep the others from going on."""
        gone = 0
        for key in await self._pool.run(partial(_due, today=today)):
            again = True
            while again:
                try:
                    some, again = await self._pool.run(partial(_let_go, key=key, today=today))
                except StoreDamaged:
                    self._on_error("relay.topic_damaged")
                    break
                gone += some
        return gone

    async def sizes(self) -> Totals:
        return await self._pool.run(_totals)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._news.close)
            await self._pool.close()


def _soon(token: trio.lowlevel.TrioToken, listeners: Listeners, topics: Sequence[bytes]) -> None:
    def tell() -> None:
        for topic in topics:
            listeners.tell(topic)

    with suppress(trio.RunFinishedError):  # nobody is left to tell
        token.run_sync_soon(tell)


# Appending


_COUNTED = """
SELECT sum(topics)::bigint, sum(messages)::bigint, sum(bytes)::bigint,
       (SELECT number FROM topic JOIN message ON message.topic = topic.no WHERE key = %(topic)b AND digest = %(digest)b)
FROM total
"""
_OPEN = """
WITH opened AS (
    INSERT INTO topic (key, newest, hash, gone, gone_hash, bytes, appended, due)
    VALUES (%(topic)b, %(number)s, %(hash)b, %(gone)s, %(gone_hash)b, %(size)s, %(today)s, %(due)s)
    ON CONFLICT (key) DO NOTHING RETURNING no
), kept AS (
    INSERT INTO message SELECT no, %(number)s, %(digest)b, %(hash)b, %(keep_until)s, %(message)b FROM opened
)
UPDATE total SET topics = topics + 1, messages = messages + 1, bytes = bytes + %(size)s
WHERE shard = %(shard)s AND EXISTS (SELECT FROM opened)
"""
_EXTEND = """
WITH extended AS (
    UPDATE topic SET newest = %(number)s, hash = %(hash)b, bytes = bytes + %(size)s, appended = %(today)s, due = %(due)s
    WHERE key = %(topic)b RETURNING no
), kept AS (
    INSERT INTO message SELECT no, %(number)s, %(digest)b, %(hash)b, %(keep_until)s, %(message)b FROM extended
)
UPDATE total SET messages = messages + 1, bytes = bytes + %(size)s WHERE shard = %(shard)s
"""


def _append(connection: Connection, put: Put, quotas: Quotas) -> Outcome:
    digest = message_hash(put.message)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # each statement sees what the lock waited for
    while True:
        with connection.pipeline(), connection.transaction():
            locked = _find_topic(connection, put.topic, lock=True)
            counted = _find(connection, _COUNTED, topic=put.topic, digest=digest)
            topic = topic_of(locked.fetchone())
            *totals, same = _only(counted)
            if same is not None:
                return (same, False)
            refusal = quotas.refusal(len(put.message), topic, Totals(*totals))
            if refusal is not None:
                return (refusal, False)
            grown = topic.grown(put, digest)
            written = _find(
                connection,
                _OPEN if topic.no is None else _EXTEND,
                topic=put.topic,
                number=grown.end.number,
                hash=grown.end.hash,
                gone=grown.start.number,
                gone_hash=grown.start.hash,
                size=len(put.message),
                today=grown.appended,
                due=grown.due,
                digest=digest,
                keep_until=put.keep_until,
                message=put.message,
                shard=_shard(put.topic),
            )
        if written.rowcount:
            return (grown.end.number, True)
        # Another relay has opened the topic since we looked: now there is a row to lock.


# Reading

_PAGE = """
SELECT body
FROM (
    SELECT number, body, sum(octet_length(body)) OVER (ORDER BY number) AS upto
    FROM message WHERE topic = %(topic)s AND number BETWEEN %(first)s AND %(last)s
) AS behind
WHERE upto <= %(size_max)s OR number = %(first)s
ORDER BY number
"""


def _page(connection: Connection, key: bytes, after: int, count_max: int, size_max: int) -> Page:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with connection.pipeline(), connection.transaction():
        topic = topic_of(_find_topic(connection, key).fetchone())
        base = topic.base(after)
        messages: tuple[bytes, ...] = ()
        if topic.no is not None and base < topic.end.number:
            last = min(base + count_max, topic.end.number)
            found = _find(connection, _PAGE, topic=topic.no, first=base + 1, last=last, size_max=size_max)
            messages = tuple([body for (body,) in found.fetchall()])
        base_hash = _hash_at(connection, topic, base)
    return Page(topic.start.number + 1, topic.end.number, base, base_hash, messages)


def _hash_at(connection: Connection, topic: Topic, number: int) -> bytes:
    known = topic.hash_at(number)
    if known is not None:
        return known
    assert topic.no is not None
    sql = "SELECT hash FROM message WHERE topic = %(topic)s AND number = %(number)s"
    found: bytes = _only(_find(connection, sql, topic=topic.no, number=number))[0]
    return found


# Letting go

_GOING = """
SELECT count(*), sum(size)::bigint
FROM (
    SELECT number, octet_length(body) AS size, max(keep_until) OVER so_far AS until,
           sum(octet_length(body)) OVER so_far AS upto
    FROM message WHERE topic = %(topic)s AND number BETWEEN %(first)s AND %(last)s
    WINDOW so_far AS (ORDER BY number)
) AS oldest
WHERE until <= %(today)s AND (upto <= %(size_max)s OR number = %(first)s)
"""
_LET_GO = """
WITH deleted AS (
    DELETE FROM message WHERE topic = %(topic)s AND number <= %(last)s
), shrunk AS (
    UPDATE topic SET gone = %(last)s, gone_hash = %(hash)b, bytes = bytes - %(size)s, due = %(due)s WHERE no = %(topic)s
)
UPDATE total SET messages = messages - %(count)s, bytes = bytes - %(size)s WHERE shard = %(shard)s
"""
_FORGET_TOPIC = """
WITH forgotten AS (DELETE FROM topic WHERE no = %(topic)s)
UPDATE total SET topics = topics - 1 WHERE shard = %(shard)s
"""
_UNTIL = "SELECT keep_until FROM message WHERE topic = %(topic)s AND number = %(number)s"


def _due(connection: Connection, today: int) -> list[bytes]:
    return [key for (key,) in _find(connection, "SELECT key FROM topic WHERE due <= %(today)s", today=today)]


def _let_go(connection: Connection, key: bytes, today: int) -> tuple[int, bool]:
    """How many messages went, and whether more of this topic has to go."""
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    shard = _shard(key)
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = off")  # what a crash brings back goes again
        topic = topic_of(_find_topic(connection, key, lock=True).fetchone())
        no = topic.no
        if no is None or topic.due > today:
            return 0, False
        if topic.messages == 0:
            _find(connection, _FORGET_TOPIC, topic=no, shard=shard)
            return 0, False
        first = topic.start.number + 1
        last = min(topic.start.number + GONE_MESSAGES_MAX, topic.end.number)
        span = {"topic": no, "first": first, "last": last, "today": today, "size_max": GONE_SIZE_MAX}
        count, size = _only(_find(connection, _GOING, **span))
        last = topic.start.number + count
        next_one = _find(connection, _UNTIL, topic=no, number=last + 1).fetchone()
        due = next_one[0] if next_one is not None else topic.appended + REMEMBERED_DAYS
        changes = {"last": last, "hash": _hash_at(connection, topic, last), "due": due, "count": count, "size": size}
        _find(connection, _LET_GO, topic=no, shard=shard, **changes)
        return count, due <= today


# Handshakes

_FORGET_TAGS = """
WITH old AS MATERIALIZED (
    SELECT week, tag FROM replay WHERE week < %(week)s LIMIT 256 FOR UPDATE SKIP LOCKED
)
DELETE FROM replay USING old WHERE replay.week = old.week AND replay.tag = old.tag
"""  # not a week's million in front of one stranger
_REMEMBER_TAG = "INSERT INTO replay VALUES (%(week)s, %(tag)b) ON CONFLICT DO NOTHING"


def _remember_handshake(connection: Connection, tag: bytes, week: int) -> bool:
    """Those of weeks whose masks no longer open are forgotten, some at a time."""
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    with connection.pipeline(), connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = off")
        _find(connection, _FORGET_TAGS, week=week - 2)
        remembered = _find(connection, _REMEMBER_TAG, week=week, tag=tag)
    return remembered.rowcount > 0


# Rows

_TOPIC = "SELECT no, newest, hash, gone, gone_hash, bytes, appended, due FROM topic WHERE key = %(key)b"
_TOTALS = "SELECT sum(topics)::bigint, sum(messages)::bigint, sum(bytes)::bigint FROM total"


def _find_topic(connection: Connection, key: bytes, *, lock: bool = False) -> "psycopg.Cursor[tuple[Any, ...]]":
    return _find(connection, f"{_TOPIC} FOR UPDATE" if lock else _TOPIC, key=key)


def _totals(connection: Connection) -> Totals:
    return Totals(*_only(_find(connection, _TOTALS)))


def _find(connection: Connection, sql: str, **values: int | bytes) -> "psycopg.Cursor[tuple[Any, ...]]":
    """Asks; within a pipeline the answer is waited for when its rows are."""
    return connection.cursor(binary=True).execute(sql.encode(), values)


def _only(found: "psycopg.Cursor[tuple[Any, ...]]") -> tuple[Any, ...]:
    row = found.fetchone()
    assert row is not None
    return row


def _shard(key: bytes) -> int:
    return key[0] % SHARDS
