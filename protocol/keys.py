"""Keys, signatures and hashes under names that keep their purposes apart. The only importer of PyNaCl here.

Every hash is BLAKE2b with a `person` of its own, every signature covers a purpose before its 32 bytes, every derived
key names what it is for: bytes made for one purpose are noise for every other.

A signature is valid exactly when libsodium's crypto_sign_open says so. Other libraries accept small-order keys or
unreduced scalars; a network whose nodes disagree about one signature splits.
"""

from hashlib import blake2b
from hmac import compare_digest

from nacl import bindings
from nacl.exceptions import BadSignatureError, CryptoError

from protocol.errors import LocalProtocolError, RemoteProtocolError

KEY_SIZE = 32
SIGNATURE_SIZE = 64
TAG_SIZE = 16

# Purposes of signatures.
SIGN_ENTRY = b"p2pnode entry 1"
SIGN_CLAIM = b"p2pnode claim 1"
SIGN_INVITE = b"p2pnode invite 1"
SIGN_APPEND = b"p2pnode append 1"


def hash_of(person: bytes, data: bytes, size: int = 32) -> bytes:
    """BLAKE2b of `data`, `size` bytes, personalised with at most 16 bytes."""
    return blake2b(data, digest_size=size, person=person).digest()


def keyed_hash(key: bytes, person: bytes, data: bytes, size: int = 32) -> bytes:
    """BLAKE2b of `data` under a key of at most 64 bytes."""
    return blake2b(data, key=key, digest_size=size, person=person).digest()


def derive(secret: bytes, purpose: bytes) -> bytes:
    """A 32-byte key that is good for one purpose (at most 16 bytes) and tells nothing about the secret."""
    return blake2b(b"", key=secret, digest_size=KEY_SIZE, person=purpose).digest()


def equal(left: bytes, right: bytes) -> bool:
    """Constant-time comparison."""
    return compare_digest(left, right)


# Signatures (Ed25519)


def signer_public(seed: bytes) -> bytes:
    """The public key of a 32-byte signing seed."""
    return bindings.crypto_sign_seed_keypair(seed)[0]


def signer_secret(seed: bytes) -> bytes:
    """libsodium's 64-byte secret key of a seed: what `sign` wants, computed once per key."""
    return bindings.crypto_sign_seed_keypair(seed)[1]


def sign(secret: bytes, purpose: bytes, message: bytes) -> bytes:
    """64-byte signature over purpose || message; `secret` from signer_secret, messages are short (a hash)."""
    return bindings.crypto_sign(purpose + message, secret)[:SIGNATURE_SIZE]


def verified(public: bytes, purpose: bytes, message: bytes, signature: bytes) -> bool:
    """Whether libsodium accepts the signature. Any bytes may be given."""
    if len(public) != KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        return False
    try:
        bindings.crypto_sign_open(signature + purpose + message, public)
    except BadSignatureError:
        return False
    return True


# Diffie-Hellman (X25519)


def dh_public(secret: bytes) -> bytes:
    """The public key of a 32-byte X25519 secret."""
    return bindings.crypto_scalarmult_base(secret)


def dh(secret: bytes, public: bytes) -> bytes:
    """The shared 32 bytes. Raises RemoteProtocolError for a low-order public key (all-zero output)."""
    if len(public) != KEY_SIZE:
        raise RemoteProtocolError("dh: key of wrong size")
    try:
        return bindings.crypto_scalarmult(secret, public)
    except CryptoError as error:
        raise RemoteProtocolError("dh: low-order key") from error


# Authenticated encryption (ChaCha20-Poly1305, IETF)


def seal(key: bytes, nonce: bytes, plaintext: bytes, ad: bytes) -> bytes:
    """Ciphertext and 16-byte tag; the 12-byte nonce is used once per key."""
    if len(nonce) != 12:
        raise LocalProtocolError("nonce must be 12 bytes")
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key)


def unseal(key: bytes, nonce: bytes, ciphertext: bytes, ad: bytes) -> bytes:
    """The plaintext. Raises RemoteProtocolError when the tag does not fit, whatever the length."""
    if len(ciphertext) < TAG_SIZE:  # the binding would raise ValueError
        raise RemoteProtocolError("aead: shorter than its tag")
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, ad, nonce, key)
    except CryptoError as error:
        raise RemoteProtocolError("aead: not authentic") from error


# Streams (libsodium's secretstream, XChaCha20-Poly1305)

STREAM_HEADER_SIZE = 24
STREAM_OVERHEAD = 17  # bytes that a piece grows by

_FINAL = bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_MORE = bindings.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE


class Stream:
    """One direction of a secretstream: pieces sealed or unsealed in order. A header is used once per key.

    libsodium draws the header itself when it seals; the state it makes of one is the same either way, so ours is an
    argument, and whoever knows the header and the key can make the same bytes again.
    """

    __slots__ = ("_state",)

    def __init__(self, key: bytes, header: bytes) -> None:
        self._state = bindings.crypto_secretstream_xchacha20poly1305_state()
        bindings.crypto_secretstream_xchacha20poly1305_init_pull(self._state, header, key)

    def seal(self, piece: bytes, *, final: bool) -> bytes:
        """The next piece, 17 bytes longer."""
        tag = _FINAL if final else _MORE
        return bindings.crypto_secretstream_xchacha20poly1305_push(self._state, piece, tag=tag)

    def unseal(self, sealed: bytes) -> tuple[bytes, bool]:
        """The piece, and whether it is the final one. Raises RemoteProtocolError for what is not the next piece."""
        if len(sealed) < STREAM_OVERHEAD:
            raise RemoteProtocolError("stream: shorter than its tag")
        try:
            piece, tag = bindings.crypto_secretstream_xchacha20poly1305_pull(self._state, sealed)
        except CryptoError as error:
            raise RemoteProtocolError("stream: not authentic") from error
        return piece, tag == _FINAL
