"""Interfaces: on which of the machine's networks the LAN may be spoken to at all.

Only those that reach neighbours: up, multicast, with a private address. Never a tunnel, a mobile modem or the bridge of
a virtual machine: one packet there would tell a provider or an employer that this program runs.
"""

import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface

Hear = Callable[[str, str, int, bytes], None]  # what is heard there: instance, host to dial, port, record

INTERFACES_MAX = 8  # each costs a thread and two sockets

_UP, _LOOPBACK, _POINT_TO_POINT, _NO_ARP = 0x1, 0x8, 0x10, 0x80
_MULTICAST, _GET_FLAGS = (0x8000, 0xC0206911) if sys.platform == "darwin" else (0x1000, 0x8913)
_WANTED = _UP | _MULTICAST
_UNWANTED = _LOOPBACK | _POINT_TO_POINT | _NO_ARP

# Tunnels, modems and virtual bridges whose flags look like a network card's.
_FOREIGN: tuple[str, ...] = (
    "tap",
    "tun",
    "utun",
    "wg",
    "ppp",
    "ipsec",
    "tailscale",
    "zt",
    "wwan",
    "rmnet",
    "ccmni",
    "pdp_ip",
)
_FOREIGN += ("docker", "br-", "virbr", "vmnet", "vboxnet", "awdl", "llw")


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface under the one address it speaks from."""

    name: str
    index: int
    address: IPv4Interface | IPv6Interface

    def reaches(self, host: IPv4Address | IPv6Address) -> bool:
        """Whether `host` can be a neighbour here: inside the subnet, and one machine."""
        network = self.address.network
        if host.version != network.version or host.is_multicast or host.is_loopback or host not in network:
            return False
        return network.num_addresses <= 2 or host not in (network.network_address, network.broadcast_address)

    def host_text(self, host: IPv4Address | IPv6Address) -> str:
        """The address as one dials it, with the interface where it means nothing without."""
        return f"{host}%{self.name}" if host.version == 6 and host.is_link_local else str(host)


def local_interfaces() -> list[Interface]:
    """The interfaces with neighbours: each under its first private IPv4 address, or its link-local IPv6 address."""
    import ifaddr  # only where the LAN is spoken to

    chosen: dict[str, Interface] = {}
    for adapter in ifaddr.get_adapters():
        name = adapter.name.partition(":")[0]
        if adapter.index is None or name.startswith(_FOREIGN) or not _is_lan(name):
            continue
        for ip in adapter.ips:
            text = ip.ip[0] if isinstance(ip.ip, tuple) else ip.ip
            interface = Interface(name, adapter.index, ip_interface(f"{text.partition('%')[0]}/{ip.network_prefix}"))
            if _is_private(interface) and _is_better(interface, chosen.get(name)):
                chosen[name] = interface
    return sorted(chosen.values(), key=lambda interface: interface.index)[:INTERFACES_MAX]


def _is_private(interface: Interface) -> bool:
    address = ip_address(interface.address.ip)
    if address.is_loopback or address.is_unspecified:
        return False
    return address.is_private if address.version == 4 else address.is_link_local


def _is_better(interface: Interface, held: Interface | None) -> bool:
    return held is None or (held.address.version == 6 and interface.address.version == 4)


def _is_lan(name: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = ioctl(asked, _GET_FLAGS, struct.pack("16sH14x", name.encode()[:15], 0))
        except OSError:  # gone in the meantime
            return False
    flags: int = struct.unpack_from("16sH", answer)[1]
    return flags & _WANTED == _WANTED and not flags & _UNWANTED
