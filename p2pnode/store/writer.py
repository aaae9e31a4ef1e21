"""Writer: the one thread that changes the database, and its queue.

Every change is a job: a function of the connection, run inside BEGIN IMMEDIATE … COMMIT and rolled back whole when it
raises. Since nobody else writes, no statement ever waits for a lock and SQLITE_BUSY cannot happen. Urgent jobs (what
a person waits for) go before the rest; a long job asks `waiting` and stops early.

The writer also moves the WAL into the file, after it has answered, so that the WAL stays a few megabytes long.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import apsw

from p2pnode.store.errors import StoreError, translated
from p2pnode.store.file import WAL_PAGES, set_synchronous

Job = Callable[[apsw.Connection], Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a job: its value, or what it raised."""

    value: Any = None
    error: BaseException | None = None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True, slots=True)
class _Order:
    job: Job
    durable: bool
    settled: Callable[[bool], None] | None
    done: Callable[[Result], None]


class Writer:
    """Runs jobs in their order.

    `settled` of an order is called in the thread with whether it was committed, before the next job; then `done`.
    """

    def __init__(self, connection: apsw.Connection, *, threaded: bool, on_error: Callable[[str], None]) -> None:
        self._connection = connection
        self._on_error = on_error
        self._durable: bool | None = None
        self._wal_pages = 0
        self._tidy_from = WAL_PAGES
        self._urgent: deque[_Order] = deque()
        self._ordinary: deque[_Order] = deque()
        self._closing = False
        self._changed = threading.Condition()
        connection.set_wal_hook(self._count_wal)
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for the job that runs now to end."""
        return bool(self._urgent or self._ordinary)

    def submit(
        self,
        job: Job,
        done: Callable[[Result], None],
        *,
        durable: bool,
        urgent: bool = False,
        settled: Callable[[bool], None] | None = None,
    ) -> None:
        """Queues a job; without a thread it runs here and now."""
        order = _Order(job, durable, settled, done)
        if self._thread is None:
            self._carry_out(order)
            return
        with self._changed:
            assert not self._closing, "the store is closed"
            (self._urgent if urgent else self._ordinary).append(order)
            self._changed.notify()

    def close(self) -> None:
        """Finishes what is in the queue, then closes the database."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._connection.set_wal_hook(None)
        try:
            with translated():
                self._connection.close()
        except StoreError as error:  # a full disk or a damaged page keeps the WAL from moving: it stays for next time
            self._on_error(f"store.close_failed error={type(error).__name__}")
            self._connection.close(True)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self.waiting:
                    if self._closing:
                        return
                    self._changed.wait()
                order = (self._urgent or self._ordinary).popleft()
            self._carry_out(order)
            del order  # not to hold on to a run until the next one comes

    def _carry_out(self, order: _Order) -> None:
        try:
            result = Result(self._transact(order.job, order.durable))
        except BaseException as error:  # whoever asked for the job gets it; the thread lives on
            result = Result(error=error)
        try:
            if order.settled is not None:
                order.settled(result.error is None)
        except BaseException as error:
            result = Result(error=error)
        order.done(result)
        self._tidy()

    def _transact(self, job: Job, durable: bool) -> Any:
        connection = self._connection
        with translated():
            if durable is not self._durable:
                set_synchronous(connection, durable)
                self._durable = durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                value = job(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # after a full disk SQLite has rolled back by itself
                    with suppress(apsw.Error):
                        connection.execute("ROLLBACK")
                raise
        return value

    def _tidy(self) -> None:
        """Moves the WAL into the file when it has grown; somebody who waits goes first, up to four times the size."""
        if self._wal_pages < self._tidy_from * (4 if self.waiting else 1):
            return
        try:
            with translated():
                frames, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except StoreError as error:  # the commits stand: the WAL keeps them until it works
            self._on_error(f"store.checkpoint_failed error={type(error).__name__}")
            frames, moved = 1, 0
        # What a reader of an older snapshot held back is tried again a little later, not after every commit.
        self._tidy_from = WAL_PAGES if moved >= frames else self._wal_pages + WAL_PAGES

    def _count_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK
