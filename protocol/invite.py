"""Invite: the one string that a person hands to another so that the other's node can join a space.

    text  = base32, lower case, no padding, of
    bytes = version (1) || length of body (2, big-endian) || body || checksum (4)
    body  = CBOR array [space, join secret, admission seed, expiry, [address, …], [[relay address, relay key], …]]

The alphabet is a to z and 2 to 7: no chat program reads mark-up, a link or an emoji into it, a phone that makes the
first letter a capital does no harm, and upper case fits the compact mode of a QR code. White space and the invisible
characters that programs insert are skipped. There is no readable prefix: a string found on a phone names no program.

The join secret has 32 bytes because it takes the place of an epoch secret as it stands; it is drawn for this invite
alone and independent of the admission seed, since every member learns the one and none may learn the other. The expiry
is in the invite entry too, where it is enforced; here it gives the newcomer a clear answer without a network.

Whoever holds the string can join in its owner's place, so no error repeats any of it. Specification "Invitations".
"""

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

from protocol import cbor, keys
from protocol.entry import ID_SIZE
from protocol.errors import InputRefused, LocalProtocolError, RemoteProtocolError

VERSION = 1
ADDRESSES_MAX = 8  # addresses, and relays, in one invitation: each is dialled
TEXT_SIZE_MAX = 16_384  # characters looked at, white space included; the longest invitation has fewer than 8,192

_HEAD_SIZE = 3
_CHECKSUM_SIZE = 4
_CHECKSUM_PERSON = b"p2pnode string 1"
_EXPIRES_MAX = 2**53 - 1
_INVISIBLE = dict.fromkeys([0x00AD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF])
_ALPHABET = re.compile("[a-z2-7]*")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*(?!\d+\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node can be dialled; made by `parse_address`. `host` is an IPv4 or IPv6 address or a lower-case name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Relay:
    """Where a relay can be dialled and the public key that it must prove. As text HOST:PORT/KEY."""

    address: Address
    key: bytes

    def __str__(self) -> str:
        return f"{self.address}/{_base32(self.key)}"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the string holds. It never holds an epoch secret: that is handed over once a member has answered."""

    space: bytes
    join_secret: bytes = field(repr=False)
    admission_seed: bytes = field(repr=False)
    expires_s: int
    addresses: tuple[Address, ...] = ()
    relays: tuple[Relay, ...] = ()


def parse_address(text: str, option: str = "address") -> Address:
    """The address in HOST:PORT or [IPV6]:PORT.

    Raises InputRefused with reason `malformed`, `port` or, for an address that stands for no single machine,
    `unspecified`.
    """
    host, colon, digits = text.strip().rpartition(":")
    if not colon or not host:
        raise InputRefused(option, "malformed")
    if not re.fullmatch("[1-9][0-9]{0,4}", digits) or int(digits) > 65_535:
        raise InputRefused(option, "port", 65_535)
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]", host)
    try:
        ip = ipaddress.IPv6Address(bracketed[1]) if bracketed else ipaddress.IPv4Address(host)
    except ValueError:
        name = host.lower().removesuffix(".")
        if not _HOST_NAME.fullmatch(name):
            raise InputRefused(option, "malformed") from None
        return Address(name, int(digits))
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:  # Python versions spell these differently
        ip = ip.ipv4_mapped
    if ip.is_unspecified or ip.is_multicast:
        raise InputRefused(option, "unspecified")
    return Address(str(ip), int(digits))


def parse_relay(text: str, option: str = "relay") -> Relay:
    """The relay in HOST:PORT/KEY, its key in base32. Raises InputRefused like `parse_address`, or `key`."""
    where, slash, key = text.strip().rpartition("/")
    if not slash:
        raise InputRefused(option, "malformed")
    try:
        decoded = _unbase32(key.lower())
    except InputRefused:
        raise InputRefused(option, "key") from None
    if not _is_bytes(decoded) or _base32(decoded) != key.lower():
        raise InputRefused(option, "key")
    return Relay(parse_address(where, option), decoded)


def encode(invitation: Invitation) -> str:
    """The string to hand over. Raises InputRefused for too many addresses or relays."""
    sizes = (len(invitation.space), len(invitation.join_secret), len(invitation.admission_seed))
    if sizes != (ID_SIZE, keys.KEY_SIZE, keys.KEY_SIZE) or not 0 <= invitation.expires_s <= _EXPIRES_MAX:
        raise LocalProtocolError("invitation out of range")
    if len(invitation.addresses) > ADDRESSES_MAX:
        raise InputRefused("address", "too-many", ADDRESSES_MAX)
    if len(invitation.relays) > ADDRESSES_MAX:
        raise InputRefused("relay", "too-many", ADDRESSES_MAX)
    body = cbor.encode(
        [
            invitation.space,
            invitation.join_secret,
            invitation.admission_seed,
            invitation.expires_s,
            [str(address) for address in invitation.addresses],
            [[str(relay.address), relay.key] for relay in invitation.relays],
        ]
    )
    framed = bytes([VERSION]) + len(body).to_bytes(2, "big") + body
    return _base32(framed + _checksum(framed))


def decode(text: str) -> Invitation:
    """The invitation in a string that a person pasted, with whatever white space came along.

    Raises InputRefused for the field `invite` with one of these reasons: `truncated` (the end is missing), `too-long`
    (something was pasted behind it), `characters` (not an invitation), `checksum` (a character was changed),
    `version` (made by a newer program), `malformed` (its maker broke the rules).
    """
    if len(text) > TEXT_SIZE_MAX:
        raise InputRefused("invite", "too-long", TEXT_SIZE_MAX)
    text = "".join(text.translate(_INVISIBLE).split()).lower()
    data = _unbase32(text)
    if len(data) < _HEAD_SIZE:
        raise InputRefused("invite", "truncated")
    if data[0] != VERSION:
        raise InputRefused("invite", "version", VERSION)
    end = _HEAD_SIZE + int.from_bytes(data[1:_HEAD_SIZE], "big")
    if len(data) < end + _CHECKSUM_SIZE:
        raise InputRefused("invite", "truncated")
    if len(data) > end + _CHECKSUM_SIZE:
        raise InputRefused("invite", "too-long")
    if data[end:] != _checksum(data[:end]) or _base32(data) != text:  # leftover bits are zero
        raise InputRefused("invite", "checksum")
    try:
        return _body_untrusted(data[_HEAD_SIZE:end])
    except (RemoteProtocolError, InputRefused):
        raise InputRefused("invite", "malformed") from None


def _checksum(framed: bytes) -> bytes:
    return keys.hash_of(_CHECKSUM_PERSON, framed, _CHECKSUM_SIZE)


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _unbase32(text: str) -> bytes:
    if not _ALPHABET.fullmatch(text):
        raise InputRefused("invite", "characters")
    try:
        return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error:  # no whole number of bytes has this many characters
        raise InputRefused("invite", "truncated") from None


def _body_untrusted(body: bytes) -> Invitation:
    """Raises RemoteProtocolError or InputRefused unless these are the fields of an invitation."""
    value = cbor.decode_untrusted(body, TEXT_SIZE_MAX)
    if type(value) is not list or len(value) != 6:
        raise RemoteProtocolError("invitation: not an array of 6")
    space, join_secret, seed, expires_s, addresses, relays = value
    if not all(_is_bytes(secret) for secret in (space, join_secret, seed)):
        raise RemoteProtocolError("invitation: space or secrets")
    if type(expires_s) is not int or not 0 <= expires_s <= _EXPIRES_MAX:
        raise RemoteProtocolError("invitation: expiry")
    if any(type(items) is not list or len(items) > ADDRESSES_MAX for items in (addresses, relays)):
        raise RemoteProtocolError("invitation: addresses or relays")
    if any(type(item) is not list or len(item) != 2 or not _is_bytes(item[1]) for item in relays):
        raise RemoteProtocolError("invitation: relay")
    return Invitation(
        space,
        join_secret,
        seed,
        expires_s,
        tuple(_address_untrusted(item) for item in addresses),
        tuple(Relay(_address_untrusted(address), key) for address, key in relays),
    )


def _address_untrusted(value: Any) -> Address:
    if type(value) is not str:
        raise RemoteProtocolError("invitation: address")
    address = parse_address(value)
    if str(address) != value:
        raise RemoteProtocolError("invitation: address not in its one spelling")
    return address


def _is_bytes(value: Any) -> bool:
    return type(value) is bytes and len(value) == keys.KEY_SIZE
