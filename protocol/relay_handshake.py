"""Relay handshake: Noise_NK under the same dress as between members: every byte looks random, strangers hear nothing.

    -> salt || M1      e, es                body []
    <- M4              e, ee                body [longest message, days]: the relay's terms

The relay proves that it holds the private half of the key in its address; the client proves nothing and is nobody:
there is no key of its own in this, and two sessions of one client have nothing in common. What masks the messages is
derived from the relay's public key, so a scanner that was not given the address sees a port that never answers.

Who recorded a first message and plays it again draws no answer either: the relay keeps its tag until the week has gone.
"""

from dataclasses import dataclass
from enum import Enum

from protocol import cbor, keys
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import HANDSHAKE_SALT_SIZE, KEEP_DAYS_MAX, MESSAGE_SIZE_MAX
from protocol.mask import (
    HELLO,
    LENGTH_SIZE,
    MASKED_SIZES,
    Entropy,
    Mask,
    Mode,
    SessionSecret,
    fill,
    unfill_untrusted,
    week_of,
)
from protocol.noise import NK, HandshakeState, KeyPair, Pattern, Transport

REPLAY_TAG_SIZE = 16
ANSWER = 4  # the number of the relay's message

_NK = Pattern.parse("NK", NK)
_REPLAY_PERSON = b"p2pnode replay 2"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a relay lets in: messages of at most so many bytes, kept for at most so many days."""

    message_size_max: int
    days_max: int


@dataclass(frozen=True, slots=True)
class Called:
    """A first message opened. Answer it only when its tag is new; keep the tag until `week` + 2 begins."""

    replay_tag: bytes
    week: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The session stands. `terms` are the relay's, `leftover` came behind the answer and belongs to the records."""

    transport: Transport
    terms: Terms
    leftover: bytes


class Caller:
    """The end that dials a relay whose key it was given. `now` is UTC in seconds."""

    __slots__ = ("_buffer", "_mask", "_noise", "_phase")

    def __init__(self, relay_key: bytes, ephemeral: KeyPair, entropy: Entropy, now: float) -> None:
        secret = _secret(relay_key)
        self._mask = Mask.of(secret, week_of(now), entropy(HANDSHAKE_SALT_SIZE))
        self._noise = HandshakeState(_NK, initiator=True, prologue=secret.prologue, e=ephemeral, rs=relay_key)
        self._buffer = b""
        self._phase = _Phase.START

    def start(self, entropy: Entropy) -> bytes:
        """The first message, salt included. Raises RemoteProtocolError when the address holds a low-order key."""
        _expect(self._phase is _Phase.START)
        self._phase = _Phase.WAITING
        return self._mask.salt + self._mask.hide(1, self._noise.write_message(fill(1, HELLO, entropy)))

    def receive(self, data: bytes) -> Answered | None:
        """None until the answer is whole. Raises RemoteProtocolError for anything but the answer."""
        _expect(self._phase is _Phase.WAITING)
        self._phase = _Phase.ENDED
        self._buffer += data
        message = self._mask.reveal_untrusted(ANSWER, self._buffer)
        if message is None:
            self._phase = _Phase.WAITING
            return None
        leftover = self._buffer[LENGTH_SIZE + len(message) :]
        terms = terms_untrusted(unfill_untrusted(self._noise.read_message(message)))
        return Answered(self._noise.split(), terms, leftover)


class Answerer:
    """The relay's end."""

    __slots__ = ("_buffer", "_candidates", "_key", "_mask", "_noise", "_now", "_phase")

    def __init__(self, key: KeyPair, now: float) -> None:
        self._key = key
        self._now = now
        self._buffer = b""
        self._candidates: list[tuple[int, Mask]] | None = None
        self._phase = _Phase.START
        self._mask: Mask
        self._noise: HandshakeState

    def receive(self, data: bytes) -> Called | None:
        """None until the first message is whole.

        Raises RemoteProtocolError when nothing that these bytes began with can become a session. The owner then reads
        and discards for a while, and says nothing.
        """
        phase, self._phase = self._phase, _Phase.ENDED
        if phase is _Phase.WAITING and data:
            raise RemoteProtocolError("handshake: bytes before our answer")
        _expect(phase is _Phase.START)
        self._buffer += data
        outcome = self._open_untrusted()
        self._phase = _Phase.START if outcome is None else _Phase.WAITING
        return outcome

    def answer(self, ephemeral: KeyPair, terms: Terms, entropy: Entropy) -> tuple[bytes, Transport]:
        """Our answer, and the session. Raises RemoteProtocolError when the caller's ephemeral key is low-order."""
        _expect(self._phase is _Phase.WAITING)
        self._phase = _Phase.ENDED
        self._noise.e = ephemeral
        body = cbor.encode([terms.message_size_max, terms.days_max])
        message = self._noise.write_message(fill(ANSWER, body, entropy))
        return self._mask.hide(ANSWER, message), self._noise.split()

    def _open_untrusted(self) -> Called | None:
        salt, data = self._buffer[:HANDSHAKE_SALT_SIZE], self._buffer[HANDSHAKE_SALT_SIZE:]
        if len(data) < MASKED_SIZES[1]:
            return None
        secret = _secret(self._key.public)
        if self._candidates is None:
            now = week_of(self._now)
            self._candidates = [(week, Mask.of(secret, week, salt)) for week in (now, now - 1, now + 1)]
        waiting = []
        for week, mask in self._candidates:
            try:
                message = mask.reveal_untrusted(1, data)
                if message is None:
                    waiting.append((week, mask))
                    continue
                noise = HandshakeState(_NK, initiator=False, prologue=secret.prologue, s=self._key)
                body = unfill_untrusted(noise.read_message(message))
            except RemoteProtocolError:
                continue
            if body != [] or len(data) > LENGTH_SIZE + len(message):
                raise RemoteProtocolError("handshake: first message is not one")
            self._mask, self._noise, self._buffer = mask, noise, b""
            return Called(keys.hash_of(_REPLAY_PERSON, salt + message[: keys.KEY_SIZE], REPLAY_TAG_SIZE), week)
        if not waiting:
            raise RemoteProtocolError("handshake: not for us")
        self._candidates = waiting
        return None


def terms_untrusted(body: cbor.Value) -> Terms:
    """A relay's terms, whatever it says it would take. Raises RemoteProtocolError for what are none."""
    if type(body) is not list or len(body) != 2 or any(type(number) is not int for number in body):
        raise RemoteProtocolError("handshake: malformed terms")
    size, days = body
    if not (1 <= size <= MESSAGE_SIZE_MAX and 1 <= days <= KEEP_DAYS_MAX):
        raise RemoteProtocolError("handshake: terms out of range")
    return Terms(size, days)


class _Phase(Enum):
    START = 0
    WAITING = 1
    ENDED = 2


def _secret(relay_key: bytes) -> SessionSecret:
    return SessionSecret(relay_key, Mode.RELAY, relay_key)


def _expect(condition: bool) -> None:
    if not condition:
        raise LocalProtocolError("handshake: not now")
