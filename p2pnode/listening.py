"""Listening: sockets for the addresses a node was told to listen on, kept right while networks come and go.

`lan` stands for every private address of the machine. Each is bound by itself, never the wildcard: an address that
the internet can reach is not listened on by accident, and a scanner there finds no port.
"""

from collections.abc import Awaitable, Callable, Iterable

import trio

from p2pnode.config import LAN_HOST
from p2pnode.interfaces import local_interfaces
from protocol.invite import Address

RESCAN_SECONDS = 5.0
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  # only where a person asked for it
BACKLOG = 64

Receive = Callable[[trio.SocketStream], Awaitable[None]]


def lan_hosts() -> list[str]:
    """The address of each of this machine's networks that has neighbours; no tunnel, no modem."""
    return [interface.host_text(interface.address.ip) for interface in local_interfaces()]


class Listening:
    """The open listeners of a node."""

    def __init__(self, wanted: Iterable[Address], receive: Receive, nursery: trio.Nursery) -> None:
        self._wanted = tuple(wanted)
        self._receive = receive
        self._nursery = nursery
        self._open: dict[Address, tuple[trio.CancelScope, Address]] = {}

    @property
    def addresses(self) -> list[Address]:
        """Where others can dial us now: ports resolved, and for `every address` those of the LAN."""
        found = set()
        for _, bound in self._open.values():
            hosts = lan_hosts() if bound.host in EVERY_ADDRESS else [bound.host]
            found |= {Address(host, bound.port) for host in hosts}
        return sorted(found, key=str)

    async def open(self) -> None:
        """Binds what was asked for by name; OSError when one of these cannot be had. LAN addresses may come later."""
        for address in self._wanted:
            if address.host != LAN_HOST:
                await self._bind(address)
        await self._follow_lan()

    async def run(self) -> None:
        """Follows the machine's addresses until cancelled."""
        if not any(address.host == LAN_HOST for address in self._wanted):
            return
        while True:
            await trio.sleep(RESCAN_SECONDS)
            await self._follow_lan()

    async def _follow_lan(self) -> None:
        for lan in self._wanted:
            if lan.host != LAN_HOST:
                continue
            here = {Address(host, lan.port) for host in lan_hosts()}
            for address in [a for a in self._open if a.port == lan.port and a not in here and a not in self._wanted]:
                self._open.pop(address)[0].cancel()
            for address in here - self._open.keys():
                try:
                    await self._bind(address)
                except OSError:
                    continue  # an address that is being configured, or a port that somebody has: tried again

    async def _bind(self, address: Address) -> None:
        listeners = await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
        # a name may stand for several addresses, on one port
        bound = Address(address.host, listeners[0].socket.getsockname()[1])
        scope = trio.CancelScope()
        self._open[address] = (scope, bound)
        self._nursery.start_soon(self._serve, listeners, scope)

    async def _serve(self, listeners: list[trio.SocketListener], scope: trio.CancelScope) -> None:
        try:
            with scope:
                await trio.serve_listeners(self._receive, listeners, handler_nursery=self._nursery)
        finally:
            for listener in listeners:
                listener.socket.close()
