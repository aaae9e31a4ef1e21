"""File: one encrypted SQLite file, how it is made, opened, checked and brought up to date.

Pages are sealed one by one (ChaCha20-Poly1305 with the page number) under a raw key; the file shows its salt and its
page size, nothing else. It stays in WAL mode, whose frames are sealed too.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import apsw

from p2pnode.store.errors import StoreDamaged, StoreFailed, StoreLocked, StoreRefused, translated

KEY_SIZE: Final = 32
PAGE_SIZE: Final = 4096
WRITER_CACHE_KIB: Final = 8192  # a batch of runs touches many leaves of the index over log keys
READER_CACHE_KIB: Final = 2048
WAL_PAGES: Final = 2000  # from this size on the writer moves the WAL into the file after a commit

_MAGIC = b"SQLite format 3\0"
# Bytes 16 to 23 of the file are not encrypted: page size, WAL both ways, 32 bytes of each page for nonce and tag.
_SHAPE = PAGE_SIZE.to_bytes(2, "big") + bytes([2, 2, 32, 64, 32, 32])


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file holds: the number by which it is known, and the package in whose folder `schema` its tables are."""

    application_id: int
    package: str

    def migrations(self) -> list[str]:
        """Every step from an empty file to the newest version, in order."""
        folder = resources.files(self.package) / "schema"
        files = sorted(folder.iterdir(), key=lambda file: file.name)
        return [file.read_text() for file in files if file.name[0] == "0"]


NODE: Final = Schema(0x70327031, "p2pnode.store")  # "p2p1"


def make(path: Path, key: bytes) -> None:
    """A new, empty store. Raises StoreRefused, StoreFull or StoreFailed."""
    open_writer(path, key, create=True).close()


def open_writer(path: Path, key: bytes, *, create: bool, schema: Schema = NODE) -> apsw.Connection:
    """The one connection that writes, on a file of the newest schema.

    Raises StoreRefused or StoreLocked and leaves the file as it was.
    """
    if getattr(apsw, "mc_version", None) is None:  # plain apsw would write everything in the clear
        raise StoreRefused("library")
    if create and not path.exists():
        _create(path, key, schema)
    _check_outside(path)
    connection = _connect(path, key, apsw.SQLITE_OPEN_READWRITE)
    try:
        # A key that does not fit must not move anybody's WAL into the file on close.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        _check_inside(connection, schema)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        with translated():
            connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
            connection.execute("PRAGMA wal_autocheckpoint=0")  # the writer does it, see writer.py
            connection.execute(f"PRAGMA journal_size_limit={WAL_PAGES * PAGE_SIZE * 4}")
            _migrate(connection, schema)
    except BaseException:
        connection.close(True)
        raise
    return connection


def open_reader(path: Path, key: bytes, *, cache_kib: int = READER_CACHE_KIB) -> apsw.Connection:
    """A connection that cannot write. The writer must be open already."""
    connection = _connect(path, key, apsw.SQLITE_OPEN_READONLY)
    with translated():
        connection.execute(f"PRAGMA cache_size=-{cache_kib}")
        connection.execute("PRAGMA query_only=ON")
    return connection


def set_synchronous(connection: apsw.Connection, durable: bool) -> None:
    """FULL: a COMMIT that returns is on the disk. NORMAL: it survives our death, not a power cut."""
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")


def _connect(path: Path, key: bytes, flags: int) -> apsw.Connection:
    assert len(key) == KEY_SIZE
    with translated():
        connection = apsw.Connection(str(path), flags=flags)
        connection.set_busy_timeout(5000)  # only ever waited for while another process has the file open
        connection.execute("PRAGMA cipher='chacha20'")
        connection.execute(f"PRAGMA key='raw:{key.hex()}'")
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    return connection


def _create(path: Path, key: bytes, schema: Schema) -> None:
    """Makes a store under another name first: one that is there under its own name is whole."""
    if any(Path(f"{path}{suffix}").exists() for suffix in ("-wal", "-shm")):
        raise StoreRefused("missing")  # a journal without its file: something was moved or deleted
    fresh = path.with_name(path.name + ".new")
    try:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{fresh}{suffix}").unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = _connect(fresh, key, apsw.SQLITE_OPEN_READWRITE)
        try:
            with translated():
                connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(f"PRAGMA application_id={schema.application_id}")
                _migrate(connection, schema)
        finally:
            connection.close(True)
        fresh.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreFailed(os.strerror(error.errno or 0)) from error


def _check_outside(path: Path) -> None:
    """Refuses what can be recognised from the first bytes, before SQLite touches the file."""
    try:
        with path.open("rb") as file:
            first = file.read(24)
    except FileNotFoundError as error:
        raise StoreRefused("missing") from error
    except OSError as error:
        raise StoreFailed(os.strerror(error.errno or 0)) from error
    if not first:
        raise StoreRefused("empty")
    if first.startswith(_MAGIC):
        raise StoreRefused("unencrypted")
    if first[16:] != _SHAPE:
        raise StoreRefused("foreign")


def _check_inside(connection: apsw.Connection, schema: Schema) -> None:
    try:
        with translated():
            application_id = _pragma(connection, "application_id")
            version = _pragma(connection, "user_version")
    except StoreDamaged as error:
        raise StoreLocked from error
    if application_id != schema.application_id:
        raise StoreRefused("foreign")
    if version > len(schema.migrations()):
        raise StoreRefused("newer")


def _pragma(connection: apsw.Connection, name: str) -> int:
    value = connection.pragma(name)
    assert isinstance(value, int)
    return value


def _migrate(connection: apsw.Connection, schema: Schema) -> None:
    """Applies every migration above the file's version, each in one transaction with the new version number."""
    for number, script in enumerate(schema.migrations(), 1):
        if number <= _pragma(connection, "user_version"):
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(script)
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(apsw.Error):
                connection.execute("ROLLBACK")
            raise
