"""mDNS on one interface: zeroconf with a thread of its own. Imported only where the LAN is spoken to (5 MB, 70 ms).

Of zeroconf this takes the sockets, the parser and the responder. Its browser is left out: it repeats the names of
peers seen before in every later query, asks again for each of ten thousand invented ones, and tells of an announcer
only once. Here a query is always the same 37 bytes, is sent when we decide, and one packet that carries service, text
and address together is one sighting; nothing is resolved, so nobody's packet makes us send one.

An interface that has gone away raises OSError.
"""

import asyncio
import logging
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import trio
import zeroconf
from zeroconf import (  # type: ignore[attr-defined]  # public names that zeroconf leaves out of __all__
    DNSAddress,
    DNSOutgoing,
    DNSQuestion,
    DNSRecord,
    DNSService,
    DNSText,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
)

from p2pnode import events
from p2pnode.interfaces import Hear, Interface

SERVICE = "_p2pnode._tcp.local."

_TEXT_LEAD = b"b="  # DNS-SD wants text as key=value
_QUERY, _POINTER, _INTERNET = 0, 12, 1
_DARWIN_BOUND_IF = {socket.AF_INET: (socket.IPPROTO_IP, 25), socket.AF_INET6: (socket.IPPROTO_IPV6, 125)}

# zeroconf remembers 10,000 records and goes through many of them for each that comes: a flood of invented announcers
# then costs 140 µs a packet. We need none of them; it needs its own few, to answer no question twice in a second.
_CACHED_MAX = 256

logging.getLogger("zeroconf").setLevel(logging.CRITICAL + 1)  # it writes down addresses and names


class Responder:
    """Hears and speaks mDNS on one interface. The methods that wait do so in a thread."""

    def __init__(self, interface: Interface, responder: Zeroconf) -> None:
        self._interface = interface
        self._zeroconf = responder
        self._said: ServiceInfo | None = None

    def ask(self) -> None:
        """Multicasts the one query there is: who offers the service?"""
        query = DNSOutgoing(_QUERY)
        query.add_question(DNSQuestion(SERVICE, _POINTER, _INTERNET))
        with suppress(RuntimeError):  # its loop was closed under us; the next announcement says so
            self._zeroconf.send(query)

    async def announce(self, instance: str, host: str, port: int, record: bytes) -> None:
        """Announces and answers from now on, in place of what was announced before. Takes half a second."""
        await self.withdraw()
        text = _TEXT_LEAD + record
        self._said = ServiceInfo(
            SERVICE,
            f"{instance}.{SERVICE}",
            port=port,
            properties=bytes([len(text)]) + text,
            server=f"{host}.local.",
            addresses=[self._interface.address.ip.packed],
        )
        # "Cooperating": random names of 64 bits need no probing, which would cost 1.2 s and three packets more.
        await _in_thread(lambda said: self._zeroconf.register_service(said, cooperating_responders=True), self._said)

    async def withdraw(self) -> None:
        """Says goodbye to what was announced, if anything was."""
        if (said := self._said) is not None:
            self._said = None
            await _in_thread(self._zeroconf.unregister_service, said)

    async def close(self) -> None:
        """Withdraws and closes the sockets; may be abandoned when it hangs."""
        with suppress(OSError):
            await _in_thread(lambda _: self._zeroconf.close(), None)


async def open_responder(interface: Interface, hear: Hear) -> Responder:
    """Opens sockets on the interface; nothing is sent. `hear` is called in zeroconf's thread."""
    # Not to be abandoned: sockets that open behind a closed door would speak on.
    return Responder(interface, await trio.to_thread.run_sync(_open, interface, hear))


def _open(interface: Interface, hear: Hear) -> Zeroconf:
    choice: list[str | int] = [str(interface.address.ip)] if interface.address.version == 4 else [interface.index]
    with _as_os_error():
        opened = Zeroconf(interfaces=choice, use_asyncio=False)
    assert opened.loop is not None
    opened.loop.call_soon_threadsafe(opened.loop.set_exception_handler, _unhandled)
    for reader in opened.engine.readers:
        _confine(reader.sock, interface)
    opened.add_listener(_Ear(interface, hear, opened), None)
    return opened


def _confine(sock: socket.socket, interface: Interface) -> None:
    """Ties a socket to its interface, so that no other network's query is answered from here, or the reverse."""
    with suppress(OSError):  # an old kernel keeps this for root; the multicast group still belongs to the interface
        if sys.platform == "darwin":
            sock.setsockopt(*_DARWIN_BOUND_IF[sock.family], interface.index)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode() + b"\0")


class _Ear(RecordUpdateListener):
    """Turns the records of one packet into sightings. Runs in zeroconf's loop and sees any bytes."""

    def __init__(self, interface: Interface, hear: Hear, responder: Zeroconf) -> None:
        self._interface = interface
        self._hear = hear
        self._cache = responder.cache
        self._cached: deque[DNSRecord] = deque()

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        services: list[DNSService] = []
        texts: dict[str, bytes] = {}
        addresses: dict[str, list[bytes]] = {}
        self._cached.extend(update.new for update in records)
        for update in records:
            match update.new:
                case DNSService() as service if service.key.endswith(f".{SERVICE}") and not service.is_expired(now):
                    services.append(service)
                case DNSText() as text:
                    texts[text.key] = text.text
                case DNSAddress() as address:
                    addresses.setdefault(address.key, []).append(address.address)
        for service in services:
            record = texts.get(service.key, b"")
            near = {
                host
                for packed in addresses.get(service.server_key, [])
                if self._interface.reaches(host := ip_address(packed))
            }
            if len(near) == 1 and record[1:3] == _TEXT_LEAD and record[0] == len(record) - 1:
                dialled = self._interface.host_text(near.pop())
                self._hear(service.key.removesuffix(f".{SERVICE}"), dialled, service.port, record[3:])

    def async_update_records_complete(self) -> None:
        """Now the cache holds the packet's records: the oldest make room."""
        while len(self._cached) > _CACHED_MAX:
            oldest = self._cached.popleft()
            if self._cache.get(oldest) is not None:
                self._cache.async_remove_records([oldest])


def _unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio would print the error with what was received in it."""
    events.log("lan.library_error", error=type(context.get("exception")).__name__)


async def _in_thread(do: Callable[[Any], None], argument: Any) -> None:
    def run() -> None:
        with _as_os_error():
            do(argument)

    await trio.to_thread.run_sync(run, abandon_on_cancel=True)


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except (zeroconf.Error, RuntimeError, TimeoutError) as error:
        raise OSError("mdns: responder lost") from error
