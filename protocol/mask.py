"""Mask: what hides the readable parts of a handshake, and the secret that both masks and opens it.

    M       = (length of the Noise message, 2 bytes || e, where the message begins with one) XOR pad || its rest
    pad     = BLAKE2b(salt || number of the message) keyed by the mask key
    mask key: BLAKE2b(version || mode || space || UTC week) keyed by the session secret
    payload = length of the body, 2 bytes || body, CBOR || fill, of random size and content

A pad is used once; under the wrong secret, mode, space or week the length is almost never one that a message has.
Messages 1, 2 and 3 are those of members; with a relay the first is 1 too, and 4 is the relay's answer. Between them
stands the relay's public key in the place of both the space and the secret: whoever has the address has the key.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from protocol import cbor, keys
from protocol.errors import RemoteProtocolError
from protocol.limits import HANDSHAKE_FILL_MAX, HANDSHAKE_MESSAGE_MAX, HANDSHAKE_WEEK_SECONDS

Entropy = Callable[[int], bytes]

VERSION = 1
START_NONCE_SIZE = 16
DIGEST_SIZE = 32

LENGTH_SIZE = 2
HELLO = cbor.encode([])
BODY_SIZE_MAX = len(cbor.encode([bytes(START_NONCE_SIZE), bytes(DIGEST_SIZE)]))

# Noise's own bytes in each message, its body's length included: e and s, tags.
FRAME_SIZES = {1: 32 + 16 + 2, 2: 32 + 48 + 16 + 2, 3: 48 + 16 + 2, 4: 32 + 16 + 2}
BODY_SIZES = {1: len(HELLO), 2: BODY_SIZE_MAX, 3: BODY_SIZE_MAX, 4: BODY_SIZE_MAX}
MASKED_SIZES = {
    1: LENGTH_SIZE + keys.KEY_SIZE,
    2: LENGTH_SIZE + keys.KEY_SIZE,
    3: LENGTH_SIZE,
    4: LENGTH_SIZE + keys.KEY_SIZE,
}

_MASK_PERSON = b"p2pnode mask 1"
_PAD_PERSON = b"p2pnode pad 1"

assert 2**16 % (HANDSHAKE_FILL_MAX + 1) == 0  # or some fills would be likelier
assert FRAME_SIZES[2] + BODY_SIZE_MAX + HANDSHAKE_FILL_MAX <= HANDSHAKE_MESSAGE_MAX


class Mode(IntEnum):
    """What a session is for."""

    MEMBER = 0
    JOIN = 1
    REKEY = 2
    RELAY = 3


@dataclass(frozen=True, slots=True)
class SessionSecret:
    """What both ends must hold to see each other: an epoch secret or a join secret of a space, for one mode.

    In mode relay both `space` and `secret` are the relay's public key.
    """

    space: bytes
    mode: Mode
    secret: bytes = field(repr=False)

    @property
    def prologue(self) -> bytes:
        return cbor.encode([VERSION, int(self.mode), self.space])


@dataclass(frozen=True, slots=True)
class Mask:
    """Hides what Noise leaves readable in the messages of one handshake."""

    key: bytes
    salt: bytes

    @classmethod
    def of(cls, secret: SessionSecret, week: int, salt: bytes) -> "Mask":
        # signed: a clock that says 1970 must not be an exception
        about = bytes([VERSION, secret.mode]) + secret.space + week.to_bytes(8, "big", signed=True)
        return cls(keys.keyed_hash(secret.secret, _MASK_PERSON, about), salt)

    def hide(self, number: int, message: bytes) -> bytes:
        size = MASKED_SIZES[number]
        wire = len(message).to_bytes(LENGTH_SIZE, "big") + message
        return self._xor(number, wire[:size]) + wire[size:]

    def reveal_untrusted(self, number: int, data: bytes) -> bytes | None:
        """The Noise message that `data` begins with, or None: more is needed. RemoteProtocolError: it never will be."""
        size = MASKED_SIZES[number]
        if len(data) < size:
            return None
        head = self._xor(number, data[:size])
        length = int.from_bytes(head[:LENGTH_SIZE], "big")
        if not FRAME_SIZES[number] + BODY_SIZES[number] <= length <= HANDSHAKE_MESSAGE_MAX:
            raise RemoteProtocolError("handshake: length that no message has")
        if len(data) < LENGTH_SIZE + length:
            return None
        return head[LENGTH_SIZE:] + data[size : LENGTH_SIZE + length]

    def _xor(self, number: int, data: bytes) -> bytes:
        pad = keys.keyed_hash(self.key, _PAD_PERSON, self.salt + bytes([number]), 64)
        return (int.from_bytes(data, "big") ^ int.from_bytes(pad[: len(data)], "big")).to_bytes(len(data), "big")


def week_of(now: float) -> int:
    """The week whose masks are used at a time, in seconds since 1970."""
    return int(now // HANDSHAKE_WEEK_SECONDS)


def fill(number: int, body: bytes, entropy: Entropy) -> bytes:
    """The payload of a message: its size does not depend on the body's, so that no body looks like any."""
    spare = int.from_bytes(entropy(2), "big") % (HANDSHAKE_FILL_MAX + 1)
    filling = entropy(BODY_SIZES[number] - len(body) + spare)
    return len(body).to_bytes(LENGTH_SIZE, "big") + body + filling


def unfill_untrusted(payload: bytes) -> cbor.Value:
    """The body in a payload. Raises RemoteProtocolError when it is none."""
    end = LENGTH_SIZE + int.from_bytes(payload[:LENGTH_SIZE], "big")
    if end > len(payload):
        raise RemoteProtocolError("handshake: body longer than its message")
    return cbor.decode_untrusted(payload[LENGTH_SIZE:end], BODY_SIZE_MAX)
