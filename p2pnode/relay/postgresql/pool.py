"""Pool: a few connections to one database, each lent to one worker thread at a time.

A connection that broke is replaced for whoever comes next. What was under way on it is not tried again here: only the
caller knows whether that is harmless.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
import trio
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from p2pnode.store.errors import StoreDamaged, StoreFailed, StoreFull, StoreRefused
from p2pnode.store.file import Schema

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA: Final = Schema(0x70327032, "p2pnode.relay.postgresql")  # the number is that of the lock under which it migrates

# How long a server may be silent. What the operator's own words say about it goes first.
_PATIENCE: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# A relay that froze within a transaction lets go of its topic before the others give up.
_SESSION: Final = """
SET search_path = p2pnode_relay;
SET synchronous_commit = on;
SET idle_in_transaction_session_timeout = '10s';
SET lock_timeout = '20s';
SET statement_timeout = '60s'
"""


def connect(address: str) -> Connection:
    """A connection that commits each statement unless told otherwise; every COMMIT that returns is on the disk."""
    with translated():
        parts: dict[str, Any] = {**_PATIENCE, **conninfo_to_dict(address)}
        connection = psycopg.connect(autocommit=True, **parts)
        try:
            connection.execute(_SESSION)
        except BaseException:
            connection.close()
            raise
        return connection


def migrate(connection: Connection) -> None:
    """Applies every migration above the database's version, each in one transaction; relays that start take turns."""
    steps = SCHEMA.migrations()
    for number, script in enumerate(steps, 1):
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA.application_id,))
            version = _version(connection)
            if version > len(steps):
                raise StoreRefused("newer")
            if version < number:
                connection.execute(script.encode())
                connection.execute("UPDATE version SET number = %s", (number,))


def _version(connection: Connection) -> int:
    (schema, table) = _row(connection, "SELECT to_regnamespace('p2pnode_relay'), to_regclass('version')")
    if schema is None:
        return 0
    if table is None:
        raise StoreRefused("foreign")
    (version,) = _row(connection, "SELECT number FROM version")
    assert isinstance(version, int)
    return version


def _row(connection: Connection, sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row


class Pool:
    """Connects when there is need, and keeps what it has."""

    def __init__(self, address: str, size: int) -> None:
        self._address = address
        self._one_each = trio.CapacityLimiter(size)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, in a thread. It ends even where its caller is being cancelled."""
        return await trio.to_thread.run_sync(self._lend, work, limiter=self._one_each)

    async def close(self) -> None:
        """Waits for what is under way."""
        for _ in range(int(self._one_each.total_tokens)):
            await self._one_each.acquire_on_behalf_of(object())
        self._drop()

    def _lend(self, work: Callable[[Connection], T]) -> T:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = connect(self._address)
        try:
            with translated():
                return work(connection)
        finally:
            if connection.closed:
                self._drop()  # those that lay idle have hardly fared better
            elif connection.info.transaction_status is TransactionStatus.IDLE:
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()

    def _drop(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turns what a server says of itself and its disk into ours: the class of the error, never its text."""
    try:
        yield
    except errors.DiskFull as error:
        raise StoreFull from error
    except (errors.DataCorrupted, errors.IndexCorrupted) as error:
        raise StoreDamaged from error
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.InternalError,
        errors.InsufficientPrivilege,
    ) as error:
        raise StoreFailed(type(error).__name__) from error
