"""Daemon: a relay as a process. Opens its shelf, listens, and closes everything again.

master key -> key of the shelf, and the X25519 key by which callers know the relay
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from p2pnode import events, paths
from p2pnode.ambient import SystemAmbient
from p2pnode.complaint import understood
from p2pnode.failures import CommandError, Exit
from p2pnode.listening import Listening
from p2pnode.relay.allowance import RelayLimits
from p2pnode.relay.service import Relay
from p2pnode.relay.shelf import Quotas, Shelf
from p2pnode.relay.sqlite import SqliteShelf
from protocol import invite, keys
from protocol.invite import Address
from protocol.noise import KeyPair

GIB = 1024**3
_SHELF_PURPOSE = b"p2pnode shelf 1"
_RELAY_PURPOSE = b"p2pnode relay 1"


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the command line says. `store` is the URL of a PostgreSQL database; None: a file in the home."""

    home: Path
    listen: tuple[Address, ...]
    store: str | None
    quota_gib: float | None


async def run(settings: RelaySettings, master_key: bytes, *, ready: Callable[[list[str]], None]) -> None:
    """Runs a relay until SIGTERM or SIGINT. `ready` hears how it is written down, once it answers."""
    ambient = SystemAmbient()
    events.start(str(settings.home / paths.LOG))
    key = KeyPair.from_secret(keys.derive(master_key, _RELAY_PURPOSE))
    with understood():
        shelf = await _opened(settings, master_key)
    relay = Relay(shelf, key, RelayLimits(), ambient)
    try:
        async with trio.open_nursery() as nursery:
            listening = Listening(settings.listen, relay.receive, nursery)
            await listening.open()
            for task in (relay.run, listening.run):
                nursery.start_soon(task)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                events.log("relay.started")
                ready([str(invite.Relay(address, key.public)) for address in listening.addresses])
                async for _ in signals:
                    break
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await shelf.close()
            events.log("relay.stopped")


async def _opened(settings: RelaySettings, master_key: bytes) -> Shelf:
    quotas = Quotas()
    if settings.quota_gib is not None:
        size = int(settings.quota_gib * GIB)
        if size <= 0:
            raise CommandError(Exit.WRONG_USE, "relay.quota")
        quotas = replace(quotas, bytes_max=size, topic_bytes_max=min(quotas.topic_bytes_max, size))
    if settings.store is None:
        path = settings.home / paths.SHELF
        return SqliteShelf.open(path, keys.derive(master_key, _SHELF_PURPOSE), quotas, on_error=events.log)
    try:
        from p2pnode.relay.postgresql import PostgresqlShelf
    except ImportError:
        raise CommandError(Exit.FAILED, "relay.no_postgresql") from None
    return await PostgresqlShelf.open(settings.store, quotas, on_error=events.log)
