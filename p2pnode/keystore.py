"""The key that everything at rest hangs on, in one small file, wrapped by a passphrase or by none.

    wrapping key = Argon2id(NFKC(passphrase), salt; ops, memory)    or 32 bytes written beside it
    file         = JSON header (format, kdf, its parameters) + the master key, sealed with the header as associated data

So nobody can lower the parameters of a file and have it still open, and floors refuse parameters that were weak from
the beginning; ceilings refuse those that would stall the machine. Every file draws a new salt or wrapping key, which
makes every wrapping key unique; the nonce is therefore constant. A flipped bit anywhere is noticed.

A wrong, an empty and an endless passphrase all cost the same and get the same answer. Normalisation is NFKC and nothing
else: two spaces are not one, capitals count.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

from nacl import bindings

from p2pnode.failures import CommandError, Exit
from protocol import keys
from protocol.errors import RemoteProtocolError

FORMAT = "p2pnode key 1"
SALT_SIZE = 16
OPS = 16  # with 64 MiB about half a second: a million guesses cost an attacker most of a week of one core
OPS_MAX = 256
MEMORY_BYTES = 64 * 1024 * 1024
MEMORY_BYTES_MAX = 1024 * 1024 * 1024
FILE_SIZE_MAX = 4096
NONCE = bytes(12)


def create(path: Path, passphrase: str | None, entropy: Callable[[int], bytes]) -> bytes:
    """Draw a master key, keep it in a new file, return it. An existing file is never touched."""
    master = entropy(keys.KEY_SIZE)
    header: dict[str, object] = {"format": FORMAT, "kdf": "none", "key": entropy(keys.KEY_SIZE).hex()}
    if passphrase is not None:
        salt = entropy(SALT_SIZE).hex()
        header = {"format": FORMAT, "kdf": "argon2id", "ops": OPS, "memory_bytes": MEMORY_BYTES, "salt": salt}
    sealed = keys.seal(_wrapping_key(header, passphrase), NONCE, master, _associated(header))
    _write_new(path, json.dumps({**header, "sealed": sealed.hex()}, indent=1).encode() + b"\n")
    return master


def open(path: Path, passphrase: str | None) -> bytes:
    """The master key. Takes about half a second with a passphrase; a wrong one is Exit.LOCKED."""
    header, sealed = _read(path)
    try:
        return keys.unseal(_wrapping_key(header, passphrase), NONCE, sealed, _associated(header))
    except RemoteProtocolError:
        if header["kdf"] == "none":
            raise _damaged() from None
        raise CommandError(Exit.LOCKED, "key.wrong") from None


def needs_passphrase(path: Path) -> bool:
    """Whether the file was made with a passphrase."""
    header, _ = _read(path)
    return header["kdf"] == "argon2id"


def _wrapping_key(header: dict[str, object], passphrase: str | None) -> bytes:
    match header:
        case {"kdf": "none", "key": str(key)}:
            return bytes.fromhex(key)
        case {"kdf": "argon2id", "ops": int(ops), "memory_bytes": int(memory_bytes), "salt": str(salt)}:
            spoken = unicodedata.normalize("NFKC", passphrase or "").encode()
            algorithm = bindings.crypto_pwhash_ALG_ARGON2ID13
            return bindings.crypto_pwhash_alg(keys.KEY_SIZE, spoken, bytes.fromhex(salt), ops, memory_bytes, algorithm)
    raise _damaged()


def _associated(header: dict[str, object]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _read(path: Path) -> tuple[dict[str, object], bytes]:
    """Header and sealed key of a file whose every field was checked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise CommandError(Exit.FAILED, "key.absent", home=str(path.parent)) from error
    except OSError as error:
        raise CommandError(Exit.FAILED, "home.unusable", home=str(path.parent), reason=error.strerror) from error
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(FILE_SIZE_MAX + 1)
    try:
        header: dict[str, object] = json.loads(text) if len(text) <= FILE_SIZE_MAX else {}
    except (ValueError, RecursionError):
        raise _damaged() from None
    match header:
        case {"format": str(form), **__} if form != FORMAT:
            raise CommandError(Exit.FAILED, "key.foreign")
        case {"kdf": "none", "key": str(key), "sealed": str(sealed), **rest} if set(rest) == {"format"}:
            _hex(key, keys.KEY_SIZE)
        case {
            "kdf": "argon2id",
            "ops": int(ops),
            "memory_bytes": int(memory_bytes),
            "salt": str(salt),
            "sealed": str(sealed),
            **rest,
        } if set(rest) == {"format"}:
            if not (OPS <= ops <= OPS_MAX and MEMORY_BYTES <= memory_bytes <= MEMORY_BYTES_MAX):
                raise CommandError(Exit.FAILED, "key.weak")
            _hex(salt, SALT_SIZE)
        case _:
            raise _damaged()
    del header["sealed"]
    return header, _hex(sealed, keys.KEY_SIZE + keys.TAG_SIZE)


def _hex(text: str, size: int) -> bytes:
    try:
        decoded = bytes.fromhex(text)
    except ValueError:
        raise _damaged() from None
    if len(decoded) != size or decoded.hex() != text:
        raise _damaged()
    return decoded


def _write_new(path: Path, content: bytes) -> None:
    """Link a finished file into place: it appears whole, with its mode, and only where nothing was."""
    fresh = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError as error:
        raise CommandError(Exit.FAILED, "home.already", home=str(path.parent)) from error
    finally:
        os.unlink(fresh)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _damaged() -> CommandError:
    return CommandError(Exit.FAILED, "key.damaged")
