"""Machine: what this machine can do at most, measured in the same minutes as the figures that it bounds.

The last row adds the steps that no receiver can leave out (payload hash, entry id, its share of a signature, opening
the record, one row of the store) as one thread would do them one after another.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import apsw
from table import Row

from p2pnode.store.file import open_writer
from protocol import keys
from protocol.limits import CHECKPOINT_INTERVAL

SECONDS = 0.4  # of each measurement
ROWS = 50_000
PAYLOAD_SIZE = 500
WIRE_SIZE = 540
RECORD_SIZE = 64 * 1024
TCP_BYTES = 1024 * 1024 * 1024

_SENDER = """
import socket, sys
out = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
piece = bytes(64 * 1024)
for _ in range(int(sys.argv[2]) // len(piece)):
    out.sendall(piece)
out.close()
"""


def rows(root: Path) -> list[Row]:
    """The limits, one after another on an idle machine."""
    public, secret = keys.signer_public(bytes(32)), keys.signer_secret(bytes(32))
    digest, text, record = bytes(32), bytes(700), bytes(RECORD_SIZE)
    signature = keys.sign(secret, keys.SIGN_ENTRY, digest)
    verify = _per_second(lambda: keys.verified(public, keys.SIGN_ENTRY, digest, signature))
    hashes = _per_second(lambda: blake2b(text, digest_size=32, person=b"bench").digest())
    seals = _per_second(lambda: keys.seal(digest, bytes(12), record, b"")) * RECORD_SIZE
    stored = _stored_per_second(root / "limits.db")
    one = 2 / hashes + 1 / CHECKPOINT_INTERVAL / verify + WIRE_SIZE / seals + 1 / stored
    return [
        Row("Ed25519 verify, one thread", [verify], "/s"),
        Row("BLAKE2b of 700 bytes", [hashes], "/s"),
        Row("ChaCha20-Poly1305, 64 KiB records", [seals / 1e6], "MB/s"),
        Row("SQLite encrypted, rows of 532 bytes in one transaction", [stored], "rows/s"),
        Row("fdatasync of 4 KiB appended, where the homes lie", [_synced_per_second(root / "limits")], "/s"),
        Row("TCP loopback, both ends", [_loopback_bytes_per_second() / 1e6], "MB/s"),
        Row("pipeline limit: these steps for each entry, one thread", [1 / one], "entries/s"),
    ]


def _per_second(step: Callable[[], object]) -> float:
    step()
    count = 0
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < SECONDS:
        for _ in range(50):
            step()
        count += 50
    return count / passed


def _stored_per_second(path: Path) -> float:
    database = open_writer(path, bytes(32), create=True)
    try:
        database.execute("CREATE TABLE limits (no INTEGER PRIMARY KEY, id BLOB, payload BLOB)")
        payload = bytes(PAYLOAD_SIZE)
        values = [(number, bytes(32), payload) for number in range(ROWS)]
        begun = time.perf_counter()
        with database:
            database.executemany("INSERT INTO limits VALUES (?, ?, ?)", values)
        return ROWS / (time.perf_counter() - begun)
    finally:
        database.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        database.close()
        path.unlink()


def _synced_per_second(path: Path) -> float:
    with path.open("wb", buffering=0) as file:

        def append() -> None:
            file.write(bytes(4096))
            os.fdatasync(file.fileno())

        rate = _per_second(append)
    path.unlink()
    return rate


def _loopback_bytes_per_second() -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", _SENDER, str(listener.getsockname()[1]), str(TCP_BYTES)]
        with subprocess.Popen(command) as sender:
            incoming, _ = listener.accept()
            with incoming:
                buffer = bytearray(256 * 1024)
                begun = time.perf_counter()
                got = 0
                while part := incoming.recv_into(buffer):
                    got += part
                seconds = time.perf_counter() - begun
            sender.wait()
    return got / seconds
