"""Ranges: a Negentropy V1 message taken apart, and the small parts that one is put together from.

    message = 0x61 range*
    range   = upper bound, mode, (nothing | fingerprint | id list); it begins where the one before it ends

The end of a message stands for "nothing more to say". Specification section "Reconciliation"; wire format:
negentropy-protocol-v1, by Doug Hoyte.
"""

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from protocol.errors import RemoteProtocolError

VERSION = 0x61
ITEM_SIZE = 32
FINGERPRINT_SIZE = 16
TIMESTAMP_SIZE = 8
KEY_SIZE = TIMESTAMP_SIZE + ITEM_SIZE
TIMESTAMP_INFINITE = 2**64 - 1
INFINITY = b"\xff" * TIMESTAMP_SIZE  # bounds are kept as timestamp (8 bytes) || id prefix, which sorts as they do
START = bytes(TIMESTAMP_SIZE)


class Mode(IntEnum):
    SKIP = 0
    FINGERPRINT = 1
    ID_LIST = 2


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing to say about the items up to `upper`."""

    upper: bytes


@dataclass(frozen=True, slots=True)
class Fingerprint:
    upper: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class IdList:
    """All that the sender holds in the range."""

    upper: bytes
    ids: list[bytes]


Range = Skip | Fingerprint | IdList


def ranges_untrusted(message: bytes) -> list[Range]:
    """The ranges of a message behind its version byte. Raises RemoteProtocolError unless it is well-formed:

    shortest varints, rising bounds with prefixes of at most 32 bytes, a known mode, as many ids as announced, none
    twice in its list, nothing beyond infinity.
    """
    reader = _Reader(message)
    ranges: list[Range] = []
    before = START
    while not reader.is_done:
        upper = reader.bound(int.from_bytes(before[:TIMESTAMP_SIZE], "big"))
        mode = reader.varint()
        match mode:
            case Mode.SKIP:
                range_: Range = Skip(upper)
            case Mode.FINGERPRINT:
                range_ = Fingerprint(upper, reader.take(FINGERPRINT_SIZE))
            case Mode.ID_LIST:
                range_ = IdList(upper, reader.ids(reader.varint()))
            case _:
                raise RemoteProtocolError("reconcile: mode")
        if upper.ljust(KEY_SIZE, b"\0") <= before.ljust(KEY_SIZE, b"\0") and range_ != _NOTHING_LEFT:
            raise RemoteProtocolError("reconcile: bounds do not rise")
        ranges.append(range_)
        before = upper
    return ranges


class _Reader:
    __slots__ = ("_at", "_data")

    def __init__(self, message: bytes) -> None:
        self._data = message
        self._at = 1

    @property
    def is_done(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise RemoteProtocolError("reconcile: cut short")
        part = self._data[self._at : end]
        self._at = end
        return part

    def varint(self) -> int:
        value = 0
        for count in range(_VARINT_SIZE_MAX):
            byte = self.take(1)[0]
            value = value << 7 | byte & 0x7F
            if (byte == 0x80 and count == 0) or value >= 2**64:
                break
            if byte < 0x80:
                return value
        raise RemoteProtocolError("reconcile: varint")

    def bound(self, timestamp: int) -> bytes:
        """A bound that follows one with this timestamp."""
        distance = self.varint()
        size = self.varint()
        if size > ITEM_SIZE or (distance == 0 and size > 0):
            raise RemoteProtocolError("reconcile: bound")
        prefix = self.take(size)
        if distance == 0:
            return INFINITY
        if timestamp + distance - 1 >= TIMESTAMP_INFINITE:
            raise RemoteProtocolError("reconcile: bound beyond infinity")
        return (timestamp + distance - 1).to_bytes(TIMESTAMP_SIZE, "big") + prefix

    def ids(self, count: int) -> list[bytes]:
        data = self.take(count * ITEM_SIZE)
        ids = [data[at : at + ITEM_SIZE] for at in range(0, len(data), ITEM_SIZE)]
        if len(set(ids)) != count:
            raise RemoteProtocolError("reconcile: id listed twice")
        return ids


def varint_bytes(value: int) -> bytes:
    """Base 128, most significant digit first, the high bit set on all but the last."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))


_VARINT_SIZE_MAX = 10
# A reference server that lists its last items in a message just full closes it with this, in vain but harmless.
_NOTHING_LEFT = Fingerprint(INFINITY, sha256(bytes(33)).digest()[:FINGERPRINT_SIZE])
