"""News: tells the other relays on a database of topics that got messages, and hears of theirs.

It is told of only after the COMMIT, in a transaction of its own that does not wait for the disk: PostgreSQL lets the
transactions that NOTIFY commit one after another, and each append would wait for the disk behind all others.

One thread has one connection. Where that breaks, nobody knows what was said meanwhile: as soon as there is a new one,
every topic counts as news.
"""

import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg

from p2pnode.relay.postgresql.pool import Connection, connect
from p2pnode.store.errors import StoreError

RETRY_SECONDS = 1.0
GATHER_SECONDS = 0.005  # between two times of telling: a relay that is busy tells of many topics at once

_LISTEN = "SET synchronous_commit = off; LISTEN p2pnode_relay"
_NOTIFY = "SELECT pg_notify('p2pnode_relay', encode(key, 'hex')) FROM unnest(%b::bytea[]) AS key"
_ALL = "SELECT key FROM topic WHERE newest > gone"


class News:
    """Started by the constructor, which returns when it listens. `heard` is called in its thread."""

    def __init__(
        self, address: str, heard: Callable[[Sequence[bytes]], None], *, on_error: Callable[[str], None]
    ) -> None:
        """Raises StoreError."""
        self._address = address
        self._heard = heard
        self._on_error = on_error
        self._lock = threading.Lock()
        self._untold: set[bytes] = set()
        self._closing = False
        self._asleep, self._alarm = socket.socketpair()
        self._asleep.setblocking(False)
        try:
            connection = self._listening()
        except BaseException:
            self._asleep.close()
            self._alarm.close()
            raise
        self._thread = threading.Thread(target=self._serve, args=(connection,), name="news", daemon=True)
        self._thread.start()

    def tell(self, topic: bytes) -> None:
        """Lets the others know, soon."""
        with self._lock:
            wake = not self._untold
            self._untold.add(topic)
        if wake:
            self._alarm.send(b"!")

    def close(self) -> None:
        """Ends the thread; what is untold stays untold."""
        self._closing = True
        self._alarm.send(b"!")
        self._thread.join()
        self._asleep.close()
        self._alarm.close()

    def _serve(self, connection: Connection | None) -> None:
        while not self._closing:
            try:
                if connection is None:
                    connection = self._listening()
                    self._heard([key for (key,) in connection.cursor(binary=True).execute(_ALL)])
                self._pass_on(connection)
            except (StoreError, psycopg.Error) as error:
                self._on_error(f"relay.news_failed error={type(error).__name__}")
                if connection is not None:
                    connection.close()
                    connection = None
                self._sleep(None)
        if connection is not None:
            connection.close()

    def _listening(self) -> Connection:
        connection = connect(self._address)
        try:
            connection.execute(_LISTEN)
        except BaseException:
            connection.close()
            raise
        return connection

    def _pass_on(self, connection: Connection) -> None:
        own = connection.info.backend_pid  # those here were told without a detour
        while not self._closing:
            self._tell_others(connection)
            heard = [bytes.fromhex(note.payload) for note in connection.notifies(timeout=0) if note.pid != own]
            if heard:
                self._heard(heard)
            self._sleep(connection)

    def _tell_others(self, connection: Connection) -> None:
        with self._lock:
            topics, self._untold = self._untold, set()
        if not topics:
            return
        try:
            connection.execute(_NOTIFY, (list(topics),))
        except BaseException:
            with self._lock:
                self._untold |= topics
            raise
        time.sleep(GATHER_SECONDS)

    def _sleep(self, connection: Connection | None) -> None:
        """Until there is something to tell or to hear; without a connection, until it is time to try again."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._asleep, selectors.EVENT_READ)
            if connection is not None:
                selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.select(None if connection is not None else RETRY_SECONDS)
        with suppress(BlockingIOError):
            while self._asleep.recv(64):
                pass
