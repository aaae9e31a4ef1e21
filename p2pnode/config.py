"""Settings of one node: drawn at `init`, kept in the home as TOML, read and resolved once when the daemon starts.

The file is small and strict: a key nobody knows is refused, because a misspelt `lan = "off"` that is ignored would
betray its owner. Profile `home` listens on the LAN's addresses and to LAN discovery; `field` does neither.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from p2pnode import paths
from p2pnode.ambient import Ambient
from p2pnode.failures import CommandError, Exit
from protocol import invite
from protocol.errors import InputRefused
from protocol.invite import Address

PROFILES = ("home", "field")
LAN_MODES = ("off", "listen", "announce")
PROXY_SCHEMES = ("", "socks5", "socks5h")
LAN_HOST = "lan"  # stands for every private address this machine has at the time

PORT_FIRST = 10_240  # drawn between the well-known ports and the kernel's ephemeral ones
PORT_LAST = 32_767
SETTINGS_SIZE_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Proxy:
    """A SOCKS5 server. Its host is an IP address: finding it asks no DNS."""

    host: str
    port: int

    def __str__(self) -> str:
        return str(Address(self.host, self.port))


@dataclass(frozen=True, slots=True)
class Stored:
    """What the settings file holds."""

    profile: str
    lan: str
    listen: tuple[Address, ...]
    log: bool
    proxy: Proxy | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a daemon is told before it starts, except its key."""

    home: Path
    socket: Path
    store: Path
    key: Path
    log: Path | None
    listen: tuple[Address, ...]
    lan: str
    profile: str
    proxy: Proxy | None  # with one, `lan` is off and `listen` only loopback


def drawn(profile: str, ambient: Ambient, *, proxy: Proxy | None = None) -> Stored:
    """The settings of a new home; the port is drawn once and kept, so that peers can come back."""
    if profile == "field":
        return Stored(profile, lan="off", listen=(), log=False, proxy=proxy)
    port = PORT_FIRST + int(ambient.random() * (PORT_LAST - PORT_FIRST + 1))
    return Stored(profile, lan="listen", listen=(Address(LAN_HOST, port),), log=True, proxy=proxy)


def write(home: str, stored: Stored) -> None:
    """Put the settings into the home, whole or not at all."""
    addresses = ", ".join(f'"{address}"' for address in stored.listen)
    text = (
        f'profile = "{stored.profile}" # home, field\n'
        f'lan = "{stored.lan}" # off, listen, announce\n'
        f'listen = [{addresses}] # "HOST:PORT"; "lan:PORT" is every private address of this machine\n'
        f'proxy = "{stored.proxy or ""}" # SOCKS5 server, "127.0.0.1:9050": every connection goes through it or fails\n'
        f"log = {str(stored.log).lower()} # events without names, texts, keys or addresses, in {paths.LOG}\n"
    )
    target = os.path.join(home, paths.SETTINGS)
    fresh = target + ".new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, target)


def read(home: str) -> Stored:
    """The settings of a home, every key and value checked."""
    path = os.path.join(home, paths.SETTINGS)
    try:
        with open(path, "rb") as file:
            text = file.read(SETTINGS_SIZE_MAX + 1)
    except FileNotFoundError as error:
        raise CommandError(Exit.FAILED, "home.not_initialised", home=home) from error
    except OSError as error:
        raise CommandError(Exit.FAILED, "home.unusable", home=home, reason=error.strerror) from error
    if len(text) > SETTINGS_SIZE_MAX:
        raise _refused(path, "size")
    try:
        table = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise CommandError(Exit.REFUSED, "settings.unreadable", path=path) from error
    return _checked(path, table)


def resolve(
    home: str,
    socket: str,
    *,
    listen: Sequence[str] | None = None,
    lan: str | None = None,
    proxy: str | None = None,
) -> Settings:
    """The settings file with what the command line says put over it."""
    stored = read(home)
    through = stored.proxy if proxy is None else _proxy_or_off(proxy)
    wanted = stored.listen if listen is None else tuple(address(text) for text in listen if text != "off")
    if through is not None:
        lan = "off"
        if listen is None:  # what `init` drew
            wanted = tuple(one for one in wanted if one.host != LAN_HOST)
        _check_loopback(wanted)
    return Settings(
        home=Path(home),
        socket=Path(socket),
        store=Path(home, paths.STORE),
        key=Path(home, paths.KEY),
        log=Path(home, paths.LOG) if stored.log else None,
        listen=wanted,
        lan=stored.lan if lan is None else lan,
        profile=stored.profile,
        proxy=through,
    )


def address(text: str) -> Address:
    """HOST:PORT or [HOST]:PORT; port 0 lets the system choose."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    plain = host.isascii() and host.isprintable() and not set(host) & set(' "\\/[]')
    if not (colon and host and plain and (bracketed or ":" not in host)):
        raise CommandError(Exit.REFUSED, "address.malformed")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise CommandError(Exit.REFUSED, "address.malformed")
    return Address(host, int(port))


def proxy(text: str) -> Proxy:
    """IP:PORT or [IP]:PORT, also as the URL socks5://IP:PORT."""
    scheme, _, place = text.rpartition("://")
    try:
        found = invite.parse_address(place)
        ip_address(found.host)
    except (InputRefused, ValueError) as error:
        raise CommandError(Exit.REFUSED, "proxy.malformed") from error
    if scheme not in PROXY_SCHEMES:
        raise CommandError(Exit.REFUSED, "proxy.malformed")
    return Proxy(found.host, found.port)


def _proxy_or_off(text: str) -> Proxy | None:
    return None if text == "off" else proxy(text)


def _check_loopback(addresses: Iterable[Address]) -> None:
    """Behind a proxy: only what an onion service on this machine reaches."""
    for one in addresses:
        try:
            is_loopback = ip_address(one.host).is_loopback
        except ValueError:  # a name: not even looked up
            is_loopback = False
        if not is_loopback:
            raise CommandError(Exit.REFUSED, "proxy.listen", address=str(one))


def _checked(path: str, table: dict[str, object]) -> Stored:
    unknown = sorted(set(table) - {"profile", "lan", "listen", "log", "proxy"})
    if unknown:
        raise CommandError(Exit.REFUSED, "settings.unknown", path=path, name=unknown[0])
    match table:
        case {"profile": str(profile), "lan": str(lan), "listen": list(listen), "log": bool(log)}:
            if profile not in PROFILES:
                raise _refused(path, "profile")
            if lan not in LAN_MODES:
                raise _refused(path, "lan")
            try:
                addresses = tuple(address(str(text)) for text in listen)
            except CommandError as error:
                raise _refused(path, "listen") from error
            return Stored(profile, lan, addresses, log, _checked_proxy(path, table.get("proxy", "")))
        case _:
            missing = {"profile", "lan", "listen", "log"} - set(table)
            raise _refused(path, min(missing) if missing else "type")


def _checked_proxy(path: str, value: object) -> Proxy | None:
    """A file without the key is of a version that had none."""
    if value == "":
        return None
    try:
        return proxy(str(value))
    except CommandError as error:
        raise _refused(path, "proxy") from error


def _refused(path: str, name: str) -> CommandError:
    return CommandError(Exit.REFUSED, "settings.refused", path=path, name=name)
