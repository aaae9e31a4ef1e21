"""Frames: the units in which a session's stream is read, and the strict first look at what is in them.

frame = type (1 byte) || length (3 bytes, big-endian) || body
record content = frame*            a frame never crosses a record, so nothing is decoded beyond 64 KiB
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, TypeVar

from protocol import cbor
from protocol.entry import LogClass
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import FRAME_BODY_MAX, FRAME_HEADER_SIZE, LOG_KEY_SIZE


class Type(IntEnum):
    """The first byte of a frame that passes between members."""

    RECONCILE_OPEN = 1
    RECONCILE = 2
    POSITION = 3
    SAME = 4
    DECLINE = 5
    END = 6
    PROBE = 7
    WANT = 8
    RUN = 9
    PAYLOADS = 10
    TOTALS = 11
    DIGEST = 12
    REKEY = 13
    WELCOME = 14
    JOINED = 15
    CLOSE = 16


T = TypeVar("T", bound=IntEnum)


def frame(kind: IntEnum, body: bytes) -> bytes:
    """One frame. Raises LocalProtocolError for a body that no record holds."""
    if len(body) > FRAME_BODY_MAX:
        raise LocalProtocolError("frame longer than a record")
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def split_untrusted(content: bytes, types: type[T]) -> Iterator[tuple[T, bytes]]:
    """The frames of one record's content. Raises RemoteProtocolError for a type not among these, or one cut short."""
    for number, body in parts_untrusted(content):
        try:
            kind = types(number)
        except ValueError:
            raise RemoteProtocolError("frame: unknown type") from None
        yield kind, body


def parts_untrusted(content: bytes, *, padded: bool = False) -> Iterator[tuple[int, bytes]]:
    """The same where a reader passes over types that it does not know, and zeros may follow the last frame.

    `padded`: those are there, and are no frames. A type 0 before the last byte that is not zero is one.
    """
    at = 0
    end = len(content.rstrip(b"\0")) if padded else len(content)  # looked for once: a frame may be only four bytes long
    while at < end:
        length = int.from_bytes(content[at + 1 : at + FRAME_HEADER_SIZE], "big")
        body = content[at + FRAME_HEADER_SIZE : at + FRAME_HEADER_SIZE + length]
        if at + FRAME_HEADER_SIZE > len(content) or len(body) != length:
            raise RemoteProtocolError("frame: cut short")
        yield content[at], body
        at += FRAME_HEADER_SIZE + length


# Parts of bodies


def need(condition: bool) -> bool:
    """True, or RemoteProtocolError."""
    if not condition:
        raise RemoteProtocolError("message: malformed")
    return True


def list_untrusted(body: bytes, count_max: int) -> list[Any]:
    """The array that a frame's body is, of at most `count_max` items. Raises RemoteProtocolError."""
    value = cbor.decode_untrusted(body, FRAME_BODY_MAX)
    need(type(value) is list and len(value) <= count_max)
    return value  # type: ignore[no-any-return]  # checked above


def tuple_untrusted(body: bytes, count: int) -> list[Any]:
    """The array of exactly `count` items that a frame's body is. Raises RemoteProtocolError."""
    value = list_untrusted(body, count)
    need(len(value) == count)
    return value


def is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def is_bytes(value: Any, size: int) -> bool:
    return type(value) is bytes and len(value) == size


def is_key(value: Any) -> bool:
    return is_bytes(value, LOG_KEY_SIZE) and value[0] <= max(LogClass)
