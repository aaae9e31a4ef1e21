"""Handshake: Noise_XXpsk0 dressed so that every byte looks random, and silent to whoever lacks the secret.

    -> salt || M1      e                    body []
    <- M2              e, ee, s, es         body [start nonce, digest or null]
    -> M3              s, se                body [start nonce, digest or null]

    M        = (length of the Noise message, 2 bytes || e, where the message begins with one) XOR pad || its rest
    pad      = BLAKE2b-512(salt || number of the message, 1 byte), keyed by the mask key
    mask key = BLAKE2b-256(version, 1 byte || mode, 1 byte || space || UTC week, 8 bytes), keyed by the session secret
    payload  = length of the body, 2 bytes || body, CBOR || fill, of random size and content
    psk        derived from the session secret; the prologue is CBOR [version, mode, space]

The session secret is the space's epoch secret or an invitation's join secret. What is not encrypted by Noise itself
(lengths, ephemeral keys with their constant top bit) is under a pad used once, so no bit of the stream has a pattern.
A wrong secret, mode, space, version or week all look the same: bytes that nobody here understands.

What an attacker can see. Without the secret: nothing but sizes, which are random; the responder writes no byte before
its owner calls `accept`, and its owner calls that only for a first message that opened and whose replay tag is new.
Who replays a first message to *another* member's node within two weeks draws an answer there once: that tells them
where it runs, and nothing else. Who changes a length in flight sees when we give up, hence the size of the fill.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from protocol import cbor, keys
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import HANDSHAKE_SALT_SIZE
from protocol.mask import (
    DIGEST_SIZE,
    HELLO,
    LENGTH_SIZE,
    MASKED_SIZES,
    START_NONCE_SIZE,
    Entropy,
    Mask,
    SessionSecret,
    fill,
    unfill_untrusted,
    week_of,
)
from protocol.noise import XX, HandshakeState, KeyPair, Pattern, Transport

REPLAY_TAG_SIZE = 16

_XXPSK0 = Pattern.parse("XXpsk0", XX)
_PSK_PURPOSE = b"p2pnode psk 1"
_REPLAY_PERSON = b"p2pnode replay 1"


@dataclass(frozen=True, slots=True)
class LocalEnd:
    """Our side: the static key pair of this (node, space), and a nonce drawn when the daemon started."""

    static: KeyPair
    start_nonce: bytes


@dataclass(frozen=True, slots=True)
class RemoteEnd:
    """The other side, and its frontier digest where it gave one."""

    static: bytes
    start_nonce: bytes
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A first message opened. Accept it only when its tag is new; keep the tag until `week` + 2 begins."""

    secret: SessionSecret
    replay_tag: bytes
    week: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The session stands. `outgoing` goes first; `leftover` came behind the handshake and belongs to the records."""

    outgoing: bytes
    transport: Transport
    remote: RemoteEnd
    leftover: bytes


class Initiator:
    """The end that dials. `now` is UTC in seconds, `entropy` gives as many random bytes as it is asked for."""

    __slots__ = ("_buffer", "_digest", "_entropy", "_local", "_mask", "_noise", "_phase")

    def __init__(
        self,
        secret: SessionSecret,
        local: LocalEnd,
        ephemeral: KeyPair,
        digest: bytes | None,
        entropy: Entropy,
        now: float,
    ) -> None:
        self._local = local
        self._digest = digest
        self._entropy = entropy
        self._mask = Mask.of(secret, week_of(now), entropy(HANDSHAKE_SALT_SIZE))
        self._noise = _handshake(secret, initiator=True)
        self._noise.s = local.static
        self._noise.e = ephemeral
        self._buffer = b""
        self._phase = _Phase.START

    def start(self) -> bytes:
        """The first message, salt included."""
        _expect(self._phase is _Phase.START)
        self._phase = _Phase.WAITING
        return self._mask.salt + self._mask.hide(1, self._noise.write_message(fill(1, HELLO, self._entropy)))

    def receive(self, data: bytes) -> Finished | None:
        """None until the answer is whole. Raises RemoteProtocolError for anything but the answer, and for ourselves."""
        _expect(self._phase is _Phase.WAITING)
        self._phase = _Phase.ENDED
        self._buffer += data
        message = self._mask.reveal_untrusted(2, self._buffer)
        if message is None:
            self._phase = _Phase.WAITING
            return None
        if len(self._buffer) > LENGTH_SIZE + len(message):
            raise RemoteProtocolError("handshake: bytes before our last message")
        remote = _remote_untrusted(self._noise, message, self._local)
        last = self._noise.write_message(fill(3, _body(self._local, self._digest), self._entropy))
        return Finished(self._mask.hide(3, last), self._noise.split(), remote, b"")


class Responder:
    """The end that is called and does not know yet by whom, nor under which of its secrets."""

    __slots__ = ("_buffer", "_candidates", "_entropy", "_local", "_mask", "_noise", "_now", "_phase", "_secrets")

    def __init__(self, secrets: Sequence[SessionSecret], entropy: Entropy, now: float) -> None:
        self._secrets = tuple(secrets)
        self._entropy = entropy
        self._now = now
        self._candidates: list[_Candidate] | None = None
        self._buffer = b""
        self._phase = _Phase.START
        self._mask: Mask
        self._noise: HandshakeState
        self._local: LocalEnd

    def receive(self, data: bytes) -> Opened | Finished | None:
        """None until a message is whole: Opened for the first, Finished for the last.

        Raises RemoteProtocolError when nothing that these bytes began with can become a session. The owner then reads
        and discards for a while, and says nothing.
        """
        phase, self._phase = self._phase, _Phase.ENDED
        self._buffer += data
        match phase:
            case _Phase.START:
                outcome: Opened | Finished | None = self._open_untrusted()
            case _Phase.OPENED:
                if data:
                    raise RemoteProtocolError("handshake: bytes before our answer")
                outcome = None
            case _Phase.WAITING:
                outcome = self._finish_untrusted()
            case _Phase.ENDED:
                raise LocalProtocolError("handshake: used after its end")
        if outcome is None:
            self._phase = phase
        return outcome

    def accept(self, local: LocalEnd, ephemeral: KeyPair, digest: bytes | None) -> bytes:
        """Our answer to the first message.

        Raises RemoteProtocolError, and no byte is written, when the initiator's ephemeral key is low-order.
        """
        _expect(self._phase is _Phase.OPENED)
        self._phase = _Phase.ENDED
        self._local = local
        self._noise.s = local.static
        self._noise.e = ephemeral
        answer = self._noise.write_message(fill(2, _body(local, digest), self._entropy))
        self._phase = _Phase.WAITING
        return self._mask.hide(2, answer)

    def _open_untrusted(self) -> Opened | None:
        salt, data = self._buffer[:HANDSHAKE_SALT_SIZE], self._buffer[HANDSHAKE_SALT_SIZE:]
        if len(data) < MASKED_SIZES[1]:
            return None
        if self._candidates is None:
            self._candidates = [
                _Candidate(secret, week, Mask.of(secret, week, salt))
                for secret in self._secrets
                for week in range(week_of(self._now) - 1, week_of(self._now) + 2)
            ]
        waiting = []
        for candidate in self._candidates:
            try:
                message = candidate.mask.reveal_untrusted(1, data)
                if message is None:
                    waiting.append(candidate)
                    continue
                noise = _handshake(candidate.secret, initiator=False)
                body = unfill_untrusted(noise.read_message(message))
            except RemoteProtocolError:
                continue
            if body != [] or len(data) > LENGTH_SIZE + len(message):
                raise RemoteProtocolError("handshake: first message is not one")
            self._mask, self._noise, self._buffer = candidate.mask, noise, b""
            self._phase = _Phase.OPENED
            tag = keys.hash_of(_REPLAY_PERSON, salt + message[: keys.KEY_SIZE], REPLAY_TAG_SIZE)
            return Opened(candidate.secret, tag, candidate.week)
        if not waiting:
            raise RemoteProtocolError("handshake: not for us")
        self._candidates = waiting
        return None

    def _finish_untrusted(self) -> Finished | None:
        message = self._mask.reveal_untrusted(3, self._buffer)
        if message is None:
            return None
        leftover = self._buffer[LENGTH_SIZE + len(message) :]
        remote = _remote_untrusted(self._noise, message, self._local)
        return Finished(b"", self._noise.split(), remote, leftover)


class _Phase(Enum):
    START = 0
    OPENED = 1
    WAITING = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class _Candidate:
    secret: SessionSecret
    week: int
    mask: Mask


def _handshake(secret: SessionSecret, *, initiator: bool) -> HandshakeState:
    psk = keys.derive(secret.secret, _PSK_PURPOSE)
    return HandshakeState(_XXPSK0, initiator=initiator, prologue=secret.prologue, psks=[psk])


def _body(local: LocalEnd, digest: bytes | None) -> bytes:
    return cbor.encode([local.start_nonce, digest])


def _remote_untrusted(noise: HandshakeState, message: bytes, local: LocalEnd) -> RemoteEnd:
    """Who wrote this second or third message. Raises RemoteProtocolError for what is malformed, and for ourselves."""
    body = unfill_untrusted(noise.read_message(message))
    static = noise.rs
    if static is None or type(body) is not list or len(body) != 2:
        raise RemoteProtocolError("handshake: malformed body")
    start_nonce, digest = body
    if type(start_nonce) is not bytes or len(start_nonce) != START_NONCE_SIZE:
        raise RemoteProtocolError("handshake: malformed start nonce")
    if digest is not None and (type(digest) is not bytes or len(digest) != DIGEST_SIZE):
        raise RemoteProtocolError("handshake: malformed digest")
    if start_nonce == local.start_nonce or static == local.static.public:
        raise RemoteProtocolError("handshake: met ourselves")
    return RemoteEnd(static, start_nonce, digest)


def _expect(condition: bool) -> None:
    if not condition:
        raise LocalProtocolError("handshake: not now")
