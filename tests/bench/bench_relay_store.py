"""Relay store: how fast a relay's shelf takes messages and hands them out, on each engine, in one run.

An appender sends its next message when the one before is on the disk, and has a topic of its own. Both engines stand on
the disk on which the homes lie, with the settings that they come with; client and server share this machine.
"""

import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import postgresql
import trio
from context import Context
from daemons import BenchFailed
from table import Row

from p2pnode.relay.shelf import Quotas, Shelf
from p2pnode.relay.sqlite import SqliteShelf
from protocol.limits import PAGE_MESSAGES_MAX, PAGE_SIZE_MAX

KIB = 1024
COUNTS = {2 * KIB: 4000, 64 * KIB: 800}  # messages by their size
APPENDERS = (1, 8)
TODAY = 20_000
QUOTAS = Quotas()

Opener = Callable[[], Awaitable[Shelf]]


def rows(context: Context) -> list[Row]:
    """Appends that wait for the disk, by one and by eight at once; then everything read, page by page."""
    return [*_on_sqlite(context), *_on_postgresql(context)]


def _on_sqlite(context: Context) -> list[Row]:
    numbers = iter(range(context.runs))

    async def opened() -> Shelf:
        return SqliteShelf.open(context.root / f"shelf-{next(numbers)}.db", bytes(32), QUOTAS)

    return _measured(context, "SQLite", opened)


def _on_postgresql(context: Context) -> list[Row]:
    if reason := postgresql.absent():
        return [Row(f"PostgreSQL was not measured: {reason}", [0], "rows")]
    with _unrestricted(context.root), postgresql.server(context.root) as server:
        from p2pnode.relay.postgresql import PostgresqlShelf

        return _measured(context, "PostgreSQL", lambda: PostgresqlShelf.open(server.database(), QUOTAS))


@contextmanager
def _unrestricted(root: Path) -> Iterator[None]:
    """The server's user has to come through the directory."""
    mode = root.stat().st_mode
    root.chmod(mode | 0o011)
    try:
        yield
    finally:
        root.chmod(mode)


def _measured(context: Context, engine: str, opened: Opener) -> list[Row]:
    appends: dict[tuple[int, int], list[float]] = {(size, many): [] for size in COUNTS for many in APPENDERS}
    reads: dict[int, list[float]] = {size: [] for size in COUNTS}
    for number in range(context.runs):
        context.tell(f"relay store on {engine}, run {number + 1}")
        trio.run(_one_run, opened, context.scale, appends, reads)
    return [
        *(
            Row(f"{engine}: messages of {size // KIB} KiB, durable, {many} at once", rates, "appends/s")
            for (size, many), rates in appends.items()
        ),
        *(Row(f"{engine}: messages of {size // KIB} KiB, read", rates, "MB/s") for size, rates in reads.items()),
    ]


async def _one_run(
    opened: Opener, scale: int, appends: dict[tuple[int, int], list[float]], reads: dict[int, list[float]]
) -> None:
    shelf = await opened()
    try:
        for size, count in COUNTS.items():
            read: list[bytes] = []
            for many in APPENDERS:
                topics = [secrets.token_bytes(32) for _ in range(many)]
                messages = [os.urandom(size) for _ in range(count // scale)]
                appends[size, many].append(await _append_rate(shelf, topics, messages))
                read += topics
            reads[size].append(await _read_rate(shelf, read, size * 2 * (count // scale)))
    finally:
        await shelf.close()


async def _append_rate(shelf: Shelf, topics: Sequence[bytes], messages: Sequence[bytes]) -> float:
    async def append(topic: bytes, own: Sequence[bytes]) -> None:
        for message in own:
            await shelf.append(topic, message, today=TODAY, keep_until=TODAY + 60)

    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for place, topic in enumerate(topics):
            nursery.start_soon(append, topic, messages[place :: len(topics)])
    return len(messages) / (time.perf_counter() - begun)


async def _read_rate(shelf: Shelf, topics: Sequence[bytes], expected: int) -> float:
    """Megabytes per second."""
    size = 0
    begun = time.perf_counter()
    for topic in topics:
        after = 0
        while True:
            page = await shelf.read(topic, after, count_max=PAGE_MESSAGES_MAX, size_max=PAGE_SIZE_MAX)
            if not page.messages:
                break
            after = page.base + len(page.messages)
            size += sum(map(len, page.messages))
    if size != expected:
        raise BenchFailed("what was appended was not read")
    return size / (time.perf_counter() - begun) / 1e6
