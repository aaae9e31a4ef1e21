"""Database: three connections to one file, and how the event loop reaches them.

The writer belongs to its own thread and does every change. The reader serves `query`, one caller at a time, in a
worker thread. The peek answers small questions in the event loop itself, where a point read costs less than the way to
a thread.

Once a write has been asked for it is awaited even by a task that is being cancelled: nobody is left not knowing
whether it happened.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import apsw
import trio

from p2pnode.store.errors import translated
from p2pnode.store.file import NODE, Schema, open_reader, open_writer
from p2pnode.store.writer import Result, Writer

T = TypeVar("T")


class Database:
    """`inline` does all work in the caller's thread: simulated time jumps while a thread works."""

    def __init__(
        self,
        path: Path,
        key: bytes,
        *,
        create: bool,
        inline: bool,
        on_error: Callable[[str], None],
        schema: Schema = NODE,
    ) -> None:
        """Raises StoreRefused, StoreLocked, StoreFull, StoreDamaged or StoreFailed."""
        self._inline = inline
        self._on_error = on_error
        self._connect = partial(open_reader, path, key)
        writing = open_writer(path, key, create=create, schema=schema)
        self._writer = Writer(writing, threaded=not inline, on_error=on_error)
        self._one_reader = trio.CapacityLimiter(1)
        try:
            self._reader = self._connect()
            self._peek = self._connect()
        except BaseException:
            self._writer.close()
            raise

    async def close(self) -> None:
        """Finishes every write that was asked for, then closes the file."""
        async with self._one_reader:
            self._peek.close()
            self._reader.close()
        await self.run(self._writer.close)

    @property
    def someone_waits(self) -> bool:
        """Whether a job waits for the one that runs now to end."""
        return self._writer.waiting

    async def write(
        self,
        job: Callable[[apsw.Connection], T],
        *,
        durable: bool,
        urgent: bool = False,
        settled: Callable[[bool], None] | None = None,
    ) -> T:
        """What `job` returns, once its transaction is committed; on the disk where `durable`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self.order(job, durable=durable, urgent=urgent, settled=settled).wait()

    def order(
        self,
        job: Callable[[apsw.Connection], T],
        *,
        durable: bool,
        urgent: bool = False,
        settled: Callable[[bool], None] | None = None,
    ) -> "Answer[T]":
        """The same without waiting yet."""
        answer = Answer[T]()
        soon = answer.set if self._inline else partial(_soon, trio.lowlevel.current_trio_token(), answer.set)
        self._writer.submit(job, soon, durable=durable, urgent=urgent, settled=settled)
        return answer

    def leave(self, job: Callable[[apsw.Connection], object]) -> None:
        """The same for a job whose outcome nobody waits for."""
        self._writer.submit(job, self._note, durable=False)

    async def query(self, read: Callable[[apsw.Connection], T]) -> T:
        """What `read` finds on one snapshot."""
        return await self.run(partial(snapshot, self._reader, read), self._one_reader)

    def peek(self, read: Callable[[apsw.Connection], T]) -> T:
        """What `read` finds, right here in the event loop: for statements over few rows."""
        with translated():
            return read(self._peek)

    async def run(self, function: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Runs what takes long in a worker thread."""
        if self._inline:
            await trio.lowlevel.checkpoint()
            return function()
        return await trio.to_thread.run_sync(function, limiter=limiter)

    def connect(self) -> apsw.Connection:
        """One more reading connection, for who needs it for long; close it."""
        return self._connect()

    def shrink(self) -> None:
        """Empties the page caches."""
        self.leave(_shrink)
        _shrink(self._peek)
        if self._one_reader.borrowed_tokens == 0:
            _shrink(self._reader)

    def _note(self, result: Result) -> None:
        if result.error is not None:
            self._on_error(f"store.write_failed error={type(result.error).__name__}")


class Answer(Generic[T]):
    """What a job will have returned."""

    def __init__(self) -> None:
        self._there = trio.Event()
        self._result = Result()

    def set(self, result: Result) -> None:
        self._result = result
        self._there.set()

    async def wait(self) -> T:
        with trio.CancelScope(shield=True):
            await self._there.wait()
        value: T = self._result.unwrap()
        return value


def snapshot(connection: apsw.Connection, read: Callable[[apsw.Connection], T]) -> T:
    """Reads within one transaction, so that several statements see the same."""
    with translated():
        connection.execute("BEGIN")
        try:
            return read(connection)
        finally:
            connection.execute("ROLLBACK")  # a COMMIT would fail once more over a damaged page that was got over


def _soon(token: trio.lowlevel.TrioToken, deliver: Callable[[Result], None], result: Result) -> None:
    with suppress(trio.RunFinishedError):  # nobody is left to tell
        token.run_sync_soon(deliver, result)


def _shrink(connection: apsw.Connection) -> None:
    connection.execute("PRAGMA shrink_memory")
