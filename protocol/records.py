"""Records: how a finished session cuts its stream, so that a watcher learns padded sizes and nothing else.

    record = AEAD(length of the body, 2 bytes) || AEAD(body)          18 + length + 16 bytes on the stream
    body   = count, 2 bytes || content, `count` bytes || zeros

Every body has the size that Padmé gives to its content, never less than RECORD_FLOOR. A reader takes no other size, so
one content has one record. Both parts count as messages of the Noise CipherState: a record that is lost, repeated or
out of order cannot be read. Numbers are big-endian.
"""

from collections.abc import Iterator

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.keys import TAG_SIZE
from protocol.limits import RECORD_BODY_MAX, RECORD_CONTENT_MAX, RECORD_FLOOR, REKEY_RECORDS, REKEY_SECONDS
from protocol.noise import NONCE_MAX, CipherState
from protocol.padding import padme

_COUNT_SIZE = 2
_LENGTH_SIZE = 2
_HEAD_SIZE = _LENGTH_SIZE + TAG_SIZE


def body_size(content_size: int) -> int:
    """The size of the body that holds `content_size` bytes."""
    return padme(max(content_size + _COUNT_SIZE, RECORD_FLOOR))


def _sizes() -> Iterator[int]:
    size = padme(RECORD_FLOOR)
    while size <= RECORD_BODY_MAX:
        yield size
        size = padme(size + 1)


_BODY_SIZES = frozenset(_sizes())

assert body_size(RECORD_CONTENT_MAX) == RECORD_BODY_MAX


class RecordWriter:
    """Seals contents for one direction of a session. `now` is any clock in seconds that never runs back."""

    __slots__ = ("_cipher", "_records", "_rekeyed")

    def __init__(self, cipher: CipherState, now: float) -> None:
        self._cipher = cipher
        self._records = 0
        self._rekeyed = now

    def write(self, content: bytes) -> bytes:
        """The record of at most RECORD_CONTENT_MAX bytes of content."""
        if len(content) > RECORD_CONTENT_MAX:
            raise LocalProtocolError("record: content too long")
        size = body_size(len(content))
        count = len(content).to_bytes(_COUNT_SIZE, "big")
        body = b"".join((count, content, bytes(size - _COUNT_SIZE - len(content))))
        head = self._cipher.encrypt_with_ad(b"", size.to_bytes(_LENGTH_SIZE, "big"))
        self._records += 1
        return head + self._cipher.encrypt_with_ad(b"", body)

    def rekey_due(self, now: float) -> bool:
        return self._records >= REKEY_RECORDS or now - self._rekeyed >= REKEY_SECONDS

    def rekey(self, now: float) -> None:
        """The next record is under a new key; the reader must have been told in the one before."""
        self._cipher.rekey()
        self._records = 0
        self._rekeyed = now


class RecordReader:
    """Opens the records of one direction of a session, in whatever pieces they arrive."""

    __slots__ = ("_broken", "_buffer", "_cipher", "_size")

    def __init__(self, cipher: CipherState) -> None:
        self._cipher = cipher
        self._buffer = bytearray()
        self._size: int | None = None  # of the body that is awaited; None: a head is
        self._broken = False

    def receive(self, data: bytes) -> Iterator[bytes]:
        """The contents of all records that are whole now, opened one by one as they are asked for.

        So a `rekey` between two of them takes effect at the right place, and what came before a bad record is not
        lost. What is not asked for stays for the next call; the owner exhausts the iterator before it reads on, and
        the buffer never holds more than one record and one piece. Raises RemoteProtocolError at the bad record.
        """
        self._buffer += data
        return self._contents()

    @property
    def leftover(self) -> bytes:
        """What has arrived behind the last whole record."""
        return bytes(self._buffer)

    def rekey(self) -> None:
        """The next record is under a new key."""
        self._cipher.rekey()

    def _contents(self) -> Iterator[bytes]:
        if self._broken:
            raise LocalProtocolError("record: read after a bad one")
        while (content := self._next()) is not None:
            yield content

    def _next(self) -> bytes | None:
        self._broken = True  # unless we come to a good end
        if self._size is None and len(self._buffer) >= _HEAD_SIZE:
            self._size = int.from_bytes(self._open(_HEAD_SIZE), "big")
            if self._size not in _BODY_SIZES:
                raise RemoteProtocolError("record: length that no padding gives")
        content = None
        if self._size is not None and len(self._buffer) >= self._size + TAG_SIZE:
            content = _unpad_untrusted(self._open(self._size + TAG_SIZE))
            self._size = None
        self._broken = False
        return content

    def _open(self, size: int) -> bytes:
        if self._cipher.nonce >= NONCE_MAX:
            raise RemoteProtocolError("record: peer used up its nonces")
        with memoryview(self._buffer) as view:
            sealed = bytes(view[:size])
        del self._buffer[:size]  # moves the start of the bytearray, not its bytes
        return self._cipher.decrypt_with_ad(b"", sealed)


def _unpad_untrusted(body: bytes) -> bytes:
    end = _COUNT_SIZE + int.from_bytes(body[:_COUNT_SIZE], "big")
    if len(body) != body_size(end - _COUNT_SIZE):
        raise RemoteProtocolError("record: padded to another size than its content's")
    if body.count(0, end) != len(body) - end:
        raise RemoteProtocolError("record: padding that is not zero")
    return body[_COUNT_SIZE:end]
