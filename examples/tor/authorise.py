"""Lets one person reach an onion service that lets in only whom it knows. See service.torrc.

    python examples/tor/authorise.py NAME ADDRESS.onion [DIRECTORY]

Draws a key pair and writes NAME.auth for the service and NAME.auth_private for that person's tor.
"""

import base64
import os
import sys
from pathlib import Path

from nacl.public import PrivateKey


def main(name: str, address: str, directory: str = ".") -> None:
    secret = PrivateKey.generate()
    service = address.removesuffix(".onion")
    write(Path(directory, f"{name}.auth"), f"descriptor:x25519:{base32(bytes(secret.public_key))}\n")
    write(Path(directory, f"{name}.auth_private"), f"{service}:descriptor:x25519:{base32(bytes(secret))}\n")


def base32(key: bytes) -> str:
    return base64.b32encode(key).decode().rstrip("=")


def write(path: Path, line: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(line)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
