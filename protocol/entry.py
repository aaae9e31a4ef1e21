"""Entry: one signed, hash-linked statement in a log. Specification section "Entries".

    header  = CBOR array [version, space_id, author, log_id, class, seq, prev, lamport, time, kind,
                          payload_len, payload_hash, refs]
    id      = BLAKE2b-256(header)
    signature over the id, outside of it: signing again is not equivocation

The payload stays outside the header, bound by hash and length. It can be dropped and the chain still verifies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from itertools import pairwise

from protocol import cbor, keys
from protocol.errors import RemoteProtocolError
from protocol.limits import (
    HEADER_SIZE_MAX,
    KIND_MAX,
    LAMPORT_MAX,
    LOG_ID_SIZE,
    PAYLOAD_SIZE_MAX,
    REFS_MAX,
    SEQ_MAX,
    TIME_MAX,
    TIME_UNIT_SECONDS,
)

VERSION = 1
ID_SIZE = 32
HEADER_FIELDS = 13

_ID_PERSON = b"p2pnode id 1"
_PAYLOAD_PERSON = b"p2pnode pay 1"
_LOG_PERSON = b"p2pnode log 1"


class LogClass(IntEnum):
    """What a log may speak of, fixed by its first entry; lower classes are fetched first."""

    MEMBERSHIP = 0
    VOICE = 1
    REPORT = 2


class Kind(IntEnum):
    """What a payload says. Kinds not listed here are stored, forwarded and ignored."""

    FOUNDING = 0
    INVITE = 1
    CLAIM = 2
    GRANT = 3
    REPORT = 64


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What every entry of one log shares. `space` is None only in the log that founds the space."""

    space: bytes | None
    author: bytes
    log_id: bytes
    log_class: LogClass

    def head(self) -> bytes:
        """The leading bytes of every header of this log, array marker included."""
        shared = cbor.encode([VERSION, self.space, self.author, self.log_id, int(self.log_class)])
        return bytes([0x80 + HEADER_FIELDS]) + shared[1:]


@dataclass(frozen=True, slots=True)
class Header:
    """A header taken apart. `time` counts units of 15 minutes since 1970 and is only a claim."""

    log: LogIdentity
    seq: int
    prev: bytes | None
    lamport: int
    time: int
    kind: int
    payload_size: int
    payload_hash: bytes
    refs: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        return self.log.head() + tail(
            self.seq, self.prev, self.lamport, self.time, self.kind, self.payload_size, self.payload_hash, self.refs
        )


def log_key(space: bytes, log: LogIdentity) -> bytes:
    """17 bytes that name a log inside a space: its class, then BLAKE2b-128. Sorted, they come in order of class.

    The founding entry has a log to itself: a later entry under its log id is in another, so nothing can fork it.
    """
    cls = bytes([log.log_class])
    founding = b"founding" if log.space is None else b""
    return cls + keys.hash_of(_LOG_PERSON, space + log.author + cls + log.log_id + founding, 16)


def tail(
    seq: int,
    prev: bytes | None,
    lamport: int,
    time: int,
    kind: int,
    payload_size: int,
    payload_hash: bytes,
    refs: Sequence[bytes],
) -> bytes:
    """The bytes of a header behind what its log shares: eight CBOR items."""
    return cbor.encode([seq, prev, lamport, time, kind, payload_size, payload_hash, list(refs)])[1:]


def entry_id(header: bytes) -> bytes:
    """The 32-byte id of the entry with this encoded header."""
    return blake2b(header, digest_size=ID_SIZE, person=_ID_PERSON).digest()


def payload_hash(payload: bytes) -> bytes:
    """The 32 bytes that bind a payload to its header."""
    return blake2b(payload, digest_size=32, person=_PAYLOAD_PERSON).digest()


def time_units(now: float) -> int:
    """A wall clock in seconds, rounded down to the unit that headers carry."""
    return max(0, min(int(now) // TIME_UNIT_SECONDS, TIME_MAX))


def decode_header_untrusted(data: bytes) -> Header:
    """The header in `data`. Raises RemoteProtocolError unless it is exactly one valid header of this version:

    deterministic CBOR, 13 fields of the right type and size, seq >= 1, prev exactly when seq > 1, space absent only in
    a founding entry, at most 4 distinct refs in rising order.
    """
    value = cbor.decode_untrusted(data, HEADER_SIZE_MAX)
    if type(value) is not list or len(value) != HEADER_FIELDS:
        raise RemoteProtocolError("header: not an array of 13")
    version, space, author, log_id, cls, seq, prev, lamport, time, kind, size, digest, refs = value
    if version != VERSION or type(version) is not int:
        raise RemoteProtocolError("header: version")
    log = check_log_untrusted(space, author, log_id, cls)
    check_fields_untrusted(log, seq, prev, lamport, time, kind, refs)
    check_payload_binding_untrusted(size, digest)
    return Header(log, seq, prev, lamport, time, kind, size, digest, tuple(refs))


def check_log_untrusted(space: object, author: object, log_id: object, cls: object) -> LogIdentity:
    """The log that these four header fields name. Raises RemoteProtocolError for a wrong type or size."""
    if space is not None and not _is_bytes(space, ID_SIZE):
        raise RemoteProtocolError("header: space")
    if not _is_bytes(author, keys.KEY_SIZE) or not _is_bytes(log_id, LOG_ID_SIZE):
        raise RemoteProtocolError("header: author or log id")
    if not _is_int(cls, 0, max(LogClass)):
        raise RemoteProtocolError("header: class")
    return LogIdentity(space, author, log_id, LogClass(cls))  # type: ignore[arg-type]  # checked above


def check_fields_untrusted(
    log: LogIdentity, seq: object, prev: object, lamport: object, time: object, kind: object, refs: object
) -> None:
    """Raises RemoteProtocolError unless these header fields have the types and ranges of a valid header."""
    if not _is_int(seq, 1, SEQ_MAX):
        raise RemoteProtocolError("header: seq")
    if (prev is None) != (seq == 1) or (prev is not None and not _is_bytes(prev, ID_SIZE)):
        raise RemoteProtocolError("header: prev")
    if not _is_int(lamport, 1, LAMPORT_MAX) or not _is_int(time, 0, TIME_MAX) or not _is_int(kind, 0, KIND_MAX):
        raise RemoteProtocolError("header: lamport, time or kind")
    if (log.space is None) != (seq == 1 and kind == Kind.FOUNDING and log.log_class == LogClass.MEMBERSHIP):
        raise RemoteProtocolError("header: space id is absent exactly in a founding entry")
    check_refs_untrusted(refs)


def check_refs_untrusted(refs: object) -> None:
    """Raises RemoteProtocolError unless these are at most 4 distinct entry ids in rising order."""
    if type(refs) is not list or len(refs) > REFS_MAX:
        raise RemoteProtocolError("header: refs")
    if not all(_is_bytes(ref, ID_SIZE) for ref in refs) or any(a >= b for a, b in pairwise(refs)):
        raise RemoteProtocolError("header: refs")


def check_payload_binding_untrusted(size: object, digest: object) -> None:
    """Raises RemoteProtocolError unless these can be a payload's length and hash."""
    if not _is_int(size, 0, PAYLOAD_SIZE_MAX) or not _is_bytes(digest, 32):
        raise RemoteProtocolError("header: payload length or hash")


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_bytes(value: object, size: int) -> bool:
    return type(value) is bytes and len(value) == size
