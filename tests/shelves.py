"""Shelves: both engines behind one door, and a third shelf that is too simple to be wrong."""

import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from p2pnode.relay.shelf import REMEMBERED_DAYS, Page, Quotas, Refusal, Shelf, Totals
from p2pnode.relay.sqlite import SqliteShelf
from p2pnode.store.database import Database
from protocol.mailbox import BEGINNING, Cursor, chained, message_hash

KEY = b"k" * 32
TODAY = 20_000  # in the year 2024
LATER = TODAY + 30
QUOTAS = Quotas()


class Engine(Protocol):
    """One store, in which a test opens shelves."""

    name: str
    address: str  # by which another process opens the same

    def opened(self, quotas: Quotas = QUOTAS) -> AbstractAsyncContextManager[Shelf]:
        """A shelf; with one that is open already, where the engine lets two share a store, another."""

    async def fill(self, shelf: Shelf) -> Callable[[], Any]:
        """Leaves no space on the disk; the result, awaited, makes room again."""

    async def columns(self, shelf: Shelf) -> set[tuple[str, str, str]]:
        """Table, column and type of everything that is stored."""

    async def rows(self, shelf: Shelf, table: str) -> int:
        """How many there are."""


def topic(number: int) -> bytes:
    return bytes([number]) * 32


def letter(number: int, size: int = 300) -> bytes:
    """A message like no other."""
    return random.Random(number).randbytes(size)


def chain(messages: Iterable[bytes], start: Cursor = BEGINNING) -> Cursor:
    """The cursor behind these messages, as a reader computes it."""
    for message in messages:
        start = start.behind(message)
    return start


async def fill_topic(shelf: Shelf, key: bytes, count: int, *, first: int = 1, keep_until: int = LATER) -> None:
    for number in range(first, first + count):
        assert await shelf.append(key, letter(number), today=TODAY, keep_until=keep_until) == number


async def everything(shelf: Shelf, key: bytes, after: int = 0) -> tuple[Page, list[bytes]]:
    """The first page, and the messages of all pages; checks the running hash from each page to the next."""
    page = first = await shelf.read(key, after, count_max=7, size_max=50_000)
    read: list[bytes] = []
    while page.messages:
        read += page.messages
        end = chain(page.messages, Cursor(page.base, page.base_hash))
        page = await shelf.read(key, end.number, count_max=7, size_max=50_000)
        assert Cursor(page.base, page.base_hash) == end
    return first, read


@dataclass
class SqliteEngine:
    path: Path
    name: str = "sqlite"
    _open: SqliteShelf | None = None

    @property
    def address(self) -> str:
        return str(self.path)

    @property
    def database(self) -> Database:
        """What lies beneath the open shelf."""
        assert self._open is not None
        return self._open._database

    @asynccontextmanager
    async def opened(self, quotas: Quotas = QUOTAS) -> AsyncIterator[Shelf]:
        if self._open is not None:
            yield self._open
            return
        self._open = SqliteShelf.open(self.path, KEY, quotas)
        try:
            yield self._open
        finally:
            await self._open.close()
            self._open = None

    async def fill(self, shelf: Shelf) -> Callable[[], Any]:
        write = self.database.write
        await write(lambda db: db.pragma("max_page_count", db.pragma("page_count")), durable=True)
        return lambda: write(lambda db: db.pragma("max_page_count", 2**30), durable=True)

    async def columns(self, shelf: Shelf) -> set[tuple[str, str, str]]:
        sql = """
        SELECT m.name, c.name, lower(c.type) FROM sqlite_schema AS m JOIN pragma_table_xinfo(m.name) AS c
        WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'
        """
        return set(await self.database.query(lambda db: db.execute(sql).fetchall()))

    async def rows(self, shelf: Shelf, table: str) -> int:
        sql = f"SELECT count(*) FROM {table}"
        return int(await self.database.query(lambda db: db.execute(sql).get))


@dataclass
class PostgresqlEngine:
    address: str
    name: str = "postgresql"
    errors: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def opened(self, quotas: Quotas = QUOTAS) -> AsyncIterator[Shelf]:
        from p2pnode.relay.postgresql import PostgresqlShelf

        shelf = await PostgresqlShelf.open(self.address, quotas, on_error=self.errors.append)
        try:
            yield shelf
        finally:
            await shelf.close()

    async def fill(self, shelf: Shelf) -> Callable[[], Any]:
        await self._execute(
            shelf,
            """
            CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER no_space BEFORE INSERT ON message FOR EACH ROW EXECUTE FUNCTION no_space()
            """,
        )
        return lambda: self._execute(shelf, "DROP TRIGGER no_space ON message")

    async def columns(self, shelf: Shelf) -> set[tuple[str, str, str]]:
        sql = """
        SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns
        WHERE table_schema = 'p2pnode_relay'
        """
        return set(await self._execute(shelf, sql))

    async def rows(self, shelf: Shelf, table: str) -> int:
        return int((await self._execute(shelf, f"SELECT count(*) FROM {table}"))[0][0])

    async def _execute(self, shelf: Shelf, sql: str) -> list[tuple[Any, ...]]:
        def work(connection: Any) -> list[tuple[Any, ...]]:
            found = connection.execute(sql)
            return found.fetchall() if found.description else []

        return await shelf._pool.run(work)  # type: ignore[attr-defined,no-any-return]


def engine_of(name: str, address: str) -> Engine:
    return SqliteEngine(Path(address)) if name == "sqlite" else PostgresqlEngine(address)


@dataclass
class _Kept:
    message: bytes
    keep_until: int


@dataclass
class _NaiveTopic:
    end: Cursor = BEGINNING
    start: Cursor = BEGINNING
    kept: list[_Kept] = field(default_factory=list)
    appended: int = 0


@dataclass
class NaiveShelf:
    """The same answers out of a list for each topic, counted anew each time."""

    quotas: Quotas
    topics: dict[bytes, _NaiveTopic] = field(default_factory=dict)

    def append(self, key: bytes, message: bytes, *, today: int, keep_until: int) -> int | Refusal:
        there = self.topics.get(key, _NaiveTopic())
        for place, kept in enumerate(there.kept, there.start.number + 1):
            if kept.message == message:
                return place
        held = self.sizes()
        quotas = self.quotas
        if key not in self.topics:
            percent = quotas.newcomers_percent / 100
            crowded = held.bytes > quotas.bytes_max * percent or held.messages > quotas.messages_max * percent
            if crowded or held.topics >= quotas.topics_max:
                return Refusal.NO_NEW_TOPICS
        own = sum(len(kept.message) for kept in there.kept)
        if len(there.kept) >= quotas.topic_messages_max or own + len(message) > quotas.topic_bytes_max:
            return Refusal.TOPIC_FULL
        if held.messages >= quotas.messages_max or held.bytes + len(message) > quotas.bytes_max:
            return Refusal.FULL
        self.topics[key] = there
        there.kept.append(_Kept(message, keep_until))
        there.end = Cursor(there.end.number + 1, chained(there.end.hash, message_hash(message)))
        there.appended = today
        return there.end.number

    def read(self, key: bytes, after: int, *, count_max: int, size_max: int) -> Page:
        there = self.topics.get(key, _NaiveTopic())
        cursors = [there.start]
        for kept in there.kept:
            cursors.append(cursors[-1].behind(kept.message))
        base = next((cursor for cursor in cursors if cursor.number >= after), there.end)
        behind = [kept.message for kept in there.kept[base.number - there.start.number :]][:count_max]
        while len(behind) > 1 and sum(map(len, behind)) > size_max:
            behind.pop()
        return Page(there.start.number + 1, there.end.number, base.number, base.hash, tuple(behind))

    def expire(self, today: int) -> int:
        gone = 0
        for key, there in list(self.topics.items()):
            while there.kept and there.kept[0].keep_until <= today:
                there.start = there.start.behind(there.kept.pop(0).message)
                gone += 1
            if not there.kept and there.appended + REMEMBERED_DAYS <= today:
                del self.topics[key]
        return gone

    def sizes(self) -> Totals:
        kept = [kept for there in self.topics.values() for kept in there.kept]
        return Totals(len(self.topics), len(kept), sum(len(one.message) for one in kept))
