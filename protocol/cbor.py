"""Strict deterministic CBOR: the only door between bytes and values, and the only importer of cbor2.

The rule (RFC 8949 section 4.2.1, narrowed): definite lengths, shortest forms, no tags, no floats, no simple values
but true, false and null, text keys only, sorted. It is enforced in one way: cap the length, decode with everything
foreign refused, walk the exact types, encode again and compare bytes. Whatever passes has exactly one encoding, so
two nodes can never read one byte string differently.

cbor2's canonical order is the older length-first one; with keys of one major type both orders agree, which is why
keys are text and nothing else.
"""

from typing import Any, NoReturn

import cbor2

from protocol.errors import LocalProtocolError, RemoteProtocolError

# A value is int (of 64 bits, signed or not), bytes, str, bool, None, a list of values or a dict of str to value.
Value = Any

DEPTH_MAX = 8
INT_MAX = 2**64 - 1
INT_MIN = -(2**63)  # below that CBOR needs 65 bits, which few languages have

# Every tag that cbor2 6.3 decodes by itself. Some build regular expressions, dates or bignums from a peer's bytes.
_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)


def _deny(*_: object) -> NoReturn:
    raise ValueError("tag")


_DENIED = dict.fromkeys(_TAGS, _deny)


def encode(value: Value) -> bytes:
    """The one encoding of a value built from exact int, bytes, str, bool, None, list and dict[str, …].

    Raises LocalProtocolError for anything else that cbor2 cannot encode.
    """
    try:
        return cbor2.dumps(value, canonical=True)
    except (ValueError, TypeError, OverflowError, cbor2.CBOREncodeError) as error:
        raise LocalProtocolError("value has no deterministic encoding") from error


def decode_untrusted(data: bytes, size_max: int) -> Value:
    """The value of a byte string from a stranger, at most `size_max` bytes long.

    Raises RemoteProtocolError unless `data` is the deterministic encoding of exactly one value.
    """
    if len(data) > size_max:
        raise RemoteProtocolError("cbor: longer than allowed")
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_DENIED,
            tag_hook=_deny,
            allow_duplicate_keys=False,
            allow_indefinite=False,
            strict_hashable_types=True,
            max_depth=DEPTH_MAX,
        )
        _check_types(value)
        same = cbor2.dumps(value, canonical=True) == data
    except RemoteProtocolError:
        raise
    except Exception as error:  # cbor2 documents no closed set; a stranger's bytes must not choose our exception
        raise RemoteProtocolError("cbor: malformed") from error
    if not same:
        raise RemoteProtocolError("cbor: not the deterministic encoding")
    return value


def _check_types(value: Value) -> None:
    kind = type(value)
    if kind is int:
        if not INT_MIN <= value <= INT_MAX:
            raise RemoteProtocolError("cbor: integer out of range")
    elif kind is list:
        for item in value:
            _check_types(item)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise RemoteProtocolError("cbor: key is not text")
            _check_types(item)
    elif kind is not bytes and kind is not str and kind is not bool and value is not None:
        raise RemoteProtocolError("cbor: type not allowed")
