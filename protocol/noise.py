"""Noise: the handshakes and ciphers of the Noise Protocol Framework, revision 34, in its own words.

    CipherState      k, n                  encrypts one direction; refuses the nonce 2^64 - 1
    SymmetricState   ck, h, a CipherState  what both ends have agreed on so far
    HandshakeState   s, e, rs, re, psks    walks a message pattern, token by token
    Transport        what a finished handshake becomes: one CipherState each way

Functions are 25519, ChaChaPoly and BLAKE2b, and nothing else. A pattern is data, parsed from the specification's
notation; `psk` modifiers may stand at any position and several times. The ephemeral key pair is an argument: there is
no randomness in here. A HandshakeState that met an error is dead, whatever the error was.
"""

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

from protocol import keys
from protocol.errors import LocalProtocolError, RemoteProtocolError

MESSAGE_SIZE_MAX = 65_535
NONCE_MAX = 2**64 - 1  # reserved by the specification: rekey uses it

_HASH_SIZE = 64
_TOKENS = frozenset({"e", "s", "ee", "es", "se", "ss", "psk"})
_PSK = re.compile(r"psk(\d)")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair."""

    secret: bytes = field(repr=False)
    public: bytes

    @classmethod
    def from_secret(cls, secret: bytes) -> "KeyPair":
        return cls(secret, keys.dh_public(secret))

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> "KeyPair":
        return cls.from_secret(entropy(keys.KEY_SIZE))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A handshake pattern with its modifiers: who must know whose key beforehand, and the tokens of each message."""

    name: str
    initiator_pre: bool
    responder_pre: bool
    messages: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, name: str, notation: str) -> "Pattern":
        """A pattern from its name with modifiers (`XXpsk0+psk3`) and the notation of the pattern without them."""
        pre, _, body = notation.rpartition("...")
        arrows = [line.split(maxsplit=1) for line in body.strip().splitlines()]
        messages = [tokens.replace(",", " ").split() for _, tokens in arrows]
        if any(arrow != ("<-", "->")[index % 2 == 0] for index, (arrow, _) in enumerate(arrows)):
            raise LocalProtocolError("noise: messages must alternate, beginning with ->")
        if not all(token in _TOKENS for tokens in messages for token in tokens):
            raise LocalProtocolError("noise: unknown token")
        for position in map(int, _PSK.findall(name)):
            if position == 0:
                messages[0].insert(0, "psk")
            else:
                messages[position - 1].append("psk")
        knows = {line.strip() for line in pre.splitlines() if line.strip()}
        if not knows <= {"-> s", "<- s"}:
            raise LocalProtocolError("noise: pre-messages other than s")
        return cls(name, "-> s" in knows, "<- s" in knows, tuple(map(tuple, messages)))


XX = """
    -> e
    <- e, ee, s, es
    -> s, se
"""
NK = """
    <- s
    ...
    -> e, es
    <- e, ee
"""


class CipherState:
    """One direction's key and nonce. Without a key it passes bytes through, as the specification has it."""

    __slots__ = ("_key", "nonce")

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key
        self.nonce = 0

    def has_key(self) -> bool:
        return self._key is not None

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        """Raises LocalProtocolError once all nonces are used up."""
        if self._key is None:
            return plaintext
        ciphertext = keys.seal(self._key, self._next_nonce(), plaintext, ad)
        self.nonce += 1
        return ciphertext

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes) -> bytes:
        """Raises RemoteProtocolError for what is not authentic, LocalProtocolError once all nonces are used up."""
        if self._key is None:
            return ciphertext
        plaintext = keys.unseal(self._key, self._next_nonce(), ciphertext, ad)
        self.nonce += 1
        return plaintext

    def rekey(self) -> None:
        """Replaces the key by one that does not lead back to it. The nonce goes on."""
        if self._key is None:
            raise LocalProtocolError("noise: rekey without a key")
        self._key = keys.seal(self._key, _nonce(NONCE_MAX), bytes(keys.KEY_SIZE), b"")[: keys.KEY_SIZE]

    def _next_nonce(self) -> bytes:
        if self.nonce >= NONCE_MAX:
            raise LocalProtocolError("noise: nonces used up")
        return _nonce(self.nonce)


class SymmetricState:
    """The chaining key `ck` and the hash `h` of everything said so far."""

    __slots__ = ("_cipher", "_ck", "h")

    def __init__(self, protocol_name: bytes) -> None:
        if len(protocol_name) <= _HASH_SIZE:
            self.h = protocol_name.ljust(_HASH_SIZE, b"\0")
        else:
            self.h = blake2b(protocol_name).digest()
        self._ck = self.h
        self._cipher = CipherState()

    def has_key(self) -> bool:
        return self._cipher.has_key()

    def mix_key(self, material: bytes) -> None:
        self._ck, key = _hkdf(self._ck, material, 2)
        self._cipher = CipherState(key[: keys.KEY_SIZE])

    def mix_hash(self, data: bytes) -> None:
        self.h = blake2b(self.h + data).digest()

    def mix_key_and_hash(self, material: bytes) -> None:
        self._ck, mixed, key = _hkdf(self._ck, material, 3)
        self.mix_hash(mixed)
        self._cipher = CipherState(key[: keys.KEY_SIZE])

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt_with_ad(self.h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self._cipher.decrypt_with_ad(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """The initiator's sending direction, then the responder's."""
        first, second = _hkdf(self._ck, b"", 2)
        return CipherState(first[: keys.KEY_SIZE]), CipherState(second[: keys.KEY_SIZE])


@dataclass(frozen=True, slots=True)
class Transport:
    """A finished handshake: one cipher each way, the hash that names this session, and whose static key it was."""

    send: CipherState
    receive: CipherState
    handshake_hash: bytes = field(repr=False)
    remote_static: bytes | None


class HandshakeState:
    """One end of a handshake. Messages are written and read in turn until `finished`; then `split`, once.

    `s` and `e` may be set until they are first used: a responder need not choose them before it knows who calls.
    """

    __slots__ = ("_index", "_intact", "_pattern", "_psks", "_re", "_symmetric", "e", "initiator", "rs", "s")

    def __init__(
        self,
        pattern: Pattern,
        *,
        initiator: bool,
        prologue: bytes = b"",
        s: KeyPair | None = None,
        e: KeyPair | None = None,
        rs: bytes | None = None,
        psks: Sequence[bytes] = (),
    ) -> None:
        if sum(tokens.count("psk") for tokens in pattern.messages) != len(psks) or any(len(psk) != 32 for psk in psks):
            raise LocalProtocolError("noise: wrong number or size of psks")
        if (rs is not None) != (pattern.responder_pre if initiator else pattern.initiator_pre):
            raise LocalProtocolError("noise: the pattern says whether the other end's static key is known beforehand")
        self.initiator = initiator
        self.s = s
        self.e = e
        self.rs = rs
        self._re: bytes | None = None
        self._pattern = pattern
        self._psks = list(psks)
        self._index = 0
        self._intact = True
        self._symmetric = SymmetricState(f"Noise_{pattern.name}_25519_ChaChaPoly_BLAKE2b".encode())
        self._symmetric.mix_hash(prologue)
        if pattern.initiator_pre:
            self._symmetric.mix_hash(_have(s).public if initiator else _have(rs))
        if pattern.responder_pre:
            self._symmetric.mix_hash(_have(rs) if initiator else _have(s).public)

    @property
    def finished(self) -> bool:
        return self._intact and self._index == len(self._pattern.messages)

    def write_message(self, payload: bytes) -> bytes:
        """Our next message. Raises RemoteProtocolError when an earlier key of the peer turns out to be low-order."""
        parts: list[bytes] = []
        for token in self._begin(writing=True):
            match token:
                case "e":
                    parts.append(_have(self.e).public)
                    self._mix_ephemeral(parts[-1])
                case "s":
                    parts.append(self._symmetric.encrypt_and_hash(_have(self.s).public))
                case "psk":
                    self._symmetric.mix_key_and_hash(self._psks.pop(0))
                case _:
                    self._mix_dh(token)
        parts.append(self._symmetric.encrypt_and_hash(payload))
        message = b"".join(parts)
        if len(message) > MESSAGE_SIZE_MAX:
            raise LocalProtocolError("noise: message too long")
        self._intact = True
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the peer's next message. Raises RemoteProtocolError for anything that is not one."""
        tokens = self._begin(writing=False)
        if len(message) > MESSAGE_SIZE_MAX:
            raise RemoteProtocolError("noise: message too long")
        rest = message
        for token in tokens:
            match token:
                case "e":
                    self._re, rest = _cut(rest, keys.KEY_SIZE)
                    self._mix_ephemeral(self._re)
                case "s":
                    sealed, rest = _cut(rest, keys.KEY_SIZE + (keys.TAG_SIZE if self._symmetric.has_key() else 0))
                    self.rs = self._symmetric.decrypt_and_hash(sealed)
                case "psk":
                    self._symmetric.mix_key_and_hash(self._psks.pop(0))
                case _:
                    self._mix_dh(token)
        payload = self._symmetric.decrypt_and_hash(rest)
        self._intact = True
        return payload

    def split(self) -> Transport:
        """The ciphers of the session; the handshake is used up."""
        if not self.finished:
            raise LocalProtocolError("noise: split before the handshake is finished")
        self._intact = False  # a second split would use every nonce twice
        first, second = self._symmetric.split()
        send, receive = (first, second) if self.initiator else (second, first)
        return Transport(send, receive, self._symmetric.h, self.rs)

    def _begin(self, *, writing: bool) -> tuple[str, ...]:
        """The tokens of the next message. The handshake counts as broken until that message is through."""
        if not self._intact:
            raise LocalProtocolError("noise: handshake used after its end")
        if self.finished or (self._index % 2 == 0) == (self.initiator != writing):
            raise LocalProtocolError("noise: not our turn")
        self._intact = False
        self._index += 1
        return self._pattern.messages[self._index - 1]

    def _mix_ephemeral(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if "psk" in self._pattern.name:
            self._symmetric.mix_key(public)

    def _mix_dh(self, pair: str) -> None:
        """`pair` names the initiator's key, then the responder's."""
        ours, theirs = (pair[0], pair[1]) if self.initiator else (pair[1], pair[0])
        local = _have(self.e if ours == "e" else self.s)
        self._symmetric.mix_key(keys.dh(local.secret, _have(self._re if theirs == "e" else self.rs)))


def _nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "little")


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    key = hmac.digest(chaining_key, material, "blake2b")
    parts = [b""]
    for number in range(1, outputs + 1):
        parts.append(hmac.digest(key, parts[-1] + bytes([number]), "blake2b"))
    return parts[1:]


def _cut(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise RemoteProtocolError("noise: message cut short")
    return data[:size], data[size:]


def _have(value: _T | None) -> _T:
    if value is None:
        raise LocalProtocolError("noise: the pattern needs a key that was not given")
    return value
