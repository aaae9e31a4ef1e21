"""Behind a proxy nothing leaves but what goes to it: real daemons, a real SOCKS server, every frame looked at."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from system import namespaces
from system.daemons import Daemon, fill, invited, met, until
from system.namespaces import Frame, Namespace

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(namespaces.available() is not None, reason=str(namespaces.available())),
    pytest.mark.skipif(shutil.which("microsocks") is None, reason="no microsocks (Debian's package of this name)"),
]

PORT = 1080
NAME = "node.example"
COUNT = 2_500
MEGABITS = 16  # the reports take seconds
TEXT = "Algo pasó cerca del mercado, sin heridos. " * 30
TCP = 6
DNS, MDNS = 53, 5353
QUIET_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Town:
    """Who is where: `client` has `proxy` for a proxy, and behind that is `server`."""

    client: Namespace
    gate: Namespace
    server: Namespace
    proxy: str
    towards_client: str  # the gate's interface

    def serve_proxy(self, hosts: Path) -> "subprocess.Popen[str]":
        """The SOCKS server; it alone knows what NAME stands for."""
        hosts.write_text(f"127.0.0.1 localhost\n{self.server.address} {NAME}\n")
        command = f"mount --bind {hosts} /etc/hosts && exec microsocks -i {self.proxy} -p {PORT}"
        return self.gate.start("sh", "-c", command, stderr=subprocess.DEVNULL)

    def leaks(self, frames: Sequence[Frame]) -> list[bytes]:
        """All that the client sent but TCP to its proxy, and ARP for it."""
        return [frame.data for frame in frames if frame.outgoing and not self._is_meant(frame.data)]

    def _is_meant(self, data: bytes) -> bool:
        client, proxy = (bytes(map(int, host.split("."))) for host in (self.client.address, self.proxy))
        match data[12:14]:
            case b"\x08\x06":  # ARP
                return {data[28:32], data[38:42]} == {client, proxy}
            case b"\x08\x00" if data[14:15] == b"\x45" and data[23] == TCP:
                return (data[26:30], data[30:34], data[36:38]) == (client, proxy, PORT.to_bytes(2, "big"))
            case _:
                return False


@contextmanager
def proxy_between() -> Iterator[Town]:
    """The server cannot be reached but through the proxy's machine."""
    with namespaces.chained() as (client, gate, server):
        yield Town(client, gate, server, "10.78.0.1", "lan1")


@contextmanager
def proxy_beside() -> Iterator[Town]:
    """The server could be reached without it."""
    with namespaces.bridged(3) as (client, gate, server):
        client.ip("route", "add", "default", "via", gate.address)
        yield Town(client, gate, server, gate.address, namespaces.INTERFACE)


def inside(machine: Namespace, root: Path) -> list[str]:
    """What leads a command line on this machine: names are asked of a server whose packets would be seen."""
    resolver = root / "resolv.conf"
    resolver.write_text("nameserver 10.77.0.200\noptions timeout:1 attempts:1\n")
    return machine.command("sh", "-c", f'mount --bind {resolver} /etc/resolv.conf && exec "$0" "$@"')


def states(node: Daemon) -> set[str]:
    """How it stands with the peers that it dials."""
    return {peer["state"] for peer in node.ask("peer.list")}


@pytest.mark.parametrize("arranged", [proxy_between, proxy_beside])
def test_nothing_leaves_but_to_the_proxy_whatever_becomes_of_it(
    tmp_path: Path, arranged: Callable[[], AbstractContextManager[Town]]
) -> None:
    ana, beto = (Daemon(tmp_path / name) for name in ("ana", "beto"))
    with arranged() as town, town.client.capture() as frames, town.client.capture("lo") as loopback:
        if not town.gate.slow_down(town.towards_client, MEGABITS):
            pytest.skip("no token bucket filter in this kernel")
        ana.within, ana.listen = town.server.command(), f"{town.server.address}:4000"
        beto.within, beto.listen, beto.lan = inside(town.client, tmp_path), None, "announce"
        beto.proxy = f"{town.proxy}:{PORT}"
        with ana, beto:
            ana.ask("space.create", name="vecinos")
            node = beto.ask("status")["node"]
            assert (node["listen"], node["lan"], node["proxy"]) == ([], "off", beto.proxy)
            proxy = town.serve_proxy(tmp_path / "hosts")
            beto.ask("join", invite=invited(ana, address=[f"{NAME}:4000"]), name="Beto")
            met(ana, beto)
            for address in (f"{town.server.address}:4000", "nobody.example:4000"):
                beto.ask("peer.add", address=address)
            assert beto.run("sync", "--wait").returncode == 0
            until("the proxy to say no", lambda: "unreachable" in states(beto))

            beto.stop()
            fill(ana, COUNT, at_once=500, text=TEXT)
            beto.start()
            until("some of it", lambda: beto.space["entries"] > 10)
            proxy.kill()
            proxy.wait()
            until("the cut to be seen", lambda: beto.ask("status")["peers"] == 0)
            held = beto.space["entries"]
            assert held < ana.space["entries"], "killed in the middle"
            for restarted in (False, True):
                if restarted:
                    assert beto.stop() == 0
                    beto.start()
                beto.ask("sync")
                until("the proxy to be missed", lambda: states(beto) == {"proxy-down"})
                time.sleep(QUIET_SECONDS)
                assert beto.space["entries"] == held

            town.serve_proxy(tmp_path / "hosts")
            beto.ask("sync")
            met(ana, beto)
            assert beto.stop() == 0
    assert town.leaks(frames) == []
    assert loopback == []
    assert sum(len(frame.data) for frame in frames) > COUNT * len(TEXT), "the reports were seen going by"


def test_without_a_proxy_the_same_would_have_been_seen(tmp_path: Path) -> None:
    beto = Daemon(tmp_path / "beto")
    with proxy_between() as town, town.client.capture() as frames:
        beto.within, beto.listen, beto.lan = inside(town.client, tmp_path), None, "listen"
        with beto:
            beto.ask("space.create", name="vecinos")
            beto.ask("peer.add", address=f"{NAME}:4000")
            beto.ask("sync")
            until("the name to be looked up", lambda: states(beto) == {"unreachable"})
    ports = {int.from_bytes(data[36:38], "big") for data in town.leaks(frames)}
    assert {DNS, MDNS} <= ports
