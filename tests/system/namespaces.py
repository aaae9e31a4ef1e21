"""Network namespaces for tests: machines n1 … nN on one switch, without any way out.

    with namespaces.bridged(3) as (n1, n2, n3):
        server = n1.start(sys.executable, "-c", "…")     # ended when the block ends, however it ends
        with n2.capture() as frames:                     # every frame in and out of n2 meanwhile
            ...
        n1.ip("addr", "add", "10.77.0.9/24", "dev", "lan0")

nK has the address 10.77.0.K on its interface `lan0`. Multicast works, nothing has a default route, and IPv6 is off
unless asked for (its own chatter would fill every capture). `chained` puts one more machine behind n1.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTERFACE = "lan0"

_PREFIX = "p2ptest"
_START_SECONDS = 10.0
_OUTGOING = "4"  # PACKET_OUTGOING
_SNIFF = """
import socket, sys
sniffed = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sniffed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
sniffed.bind((sys.argv[1], 0))
print("ready", flush=True)
while True:
    frame, where = sniffed.recvfrom(65535)
    print(where[2], frame.hex(), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """One Ethernet frame seen on `lan0`."""

    outgoing: bool
    data: bytes

    @property
    def is_udp(self) -> bool:
        return self.data[12:14] == b"\x08\x00" and self.data[23] == 17

    @property
    def udp_payload(self) -> bytes:
        """What an IPv4 UDP frame carries."""
        return self.data[14 + 4 * (self.data[14] & 15) + 8 :]


@dataclass
class Namespace:
    """One machine on the switch."""

    name: str
    address: str
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, *argv: str) -> list[str]:
        """The command line that runs `argv` here."""
        return ["ip", "netns", "exec", self.name, *argv]

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Starts a process here; it is killed when the namespaces go."""
        process = subprocess.Popen(self.command(*argv), text=True, **options)
        self._started.append(process)
        return process

    def ip(self, *arguments: str) -> None:
        """Runs `ip` on this machine's network."""
        _ip("-netns", self.name, *arguments)

    def slow_down(self, interface: str, megabits: int) -> bool:
        """Lets this machine send no faster; False where the kernel cannot do that."""
        bucket = ["tbf", "rate", f"{megabits}mbit", "burst", "64kb", "latency", "400ms"]
        command = ["tc", "-netns", self.name, "qdisc", "add", "dev", interface, "root", *bucket]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    @contextmanager
    def capture(self, interface: str = INTERFACE) -> Iterator[list[Frame]]:
        """Every frame on an interface while the block runs; the list is filled when it ends."""
        frames: list[Frame] = []
        with tempfile.NamedTemporaryFile("r") as lines:
            with open(lines.name, "w") as written:
                sniffer = self.start(sys.executable, "-c", _SNIFF, interface, stdout=written)
            give_up = time.monotonic() + _START_SECONDS
            while not Path(lines.name).read_text().startswith("ready\n"):
                assert time.monotonic() < give_up, "capture did not start"
                time.sleep(0.01)
            try:
                yield frames
            finally:
                time.sleep(0.05)  # what was just sent is on its way to the sniffer
                sniffer.kill()
                sniffer.wait()
                for line in lines.read().splitlines()[1:]:
                    direction, _, data = line.partition(" ")
                    frames.append(Frame(direction == _OUTGOING, bytes.fromhex(data)))

    def end(self) -> None:
        """Kills what was started here and removes the namespace."""
        for process in self._started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)


@functools.cache
def available() -> str | None:
    """Why namespaces cannot be made here; None where they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no `ip` command (iproute2)"
    try:
        with bridged(1):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return f"namespaces are not permitted here: {error}"


@contextmanager
def bridged(count: int, *, ipv6: bool = False) -> Iterator[list[Namespace]]:
    """`count` machines on one switch. Afterwards nothing of them is left, running or configured."""
    _sweep()
    serial = time.monotonic_ns() % 1_000_000
    switch = Namespace(f"{_PREFIX}-{os.getpid()}-{serial}-switch", "")
    machines = [
        Namespace(f"{_PREFIX}-{os.getpid()}-{serial}-n{number}", f"10.77.0.{number}") for number in range(1, count + 1)
    ]
    with ExitStack() as ending:
        for namespace in (switch, *machines):
            _ip("netns", "add", namespace.name)
            ending.callback(namespace.end)
            _ipv6(namespace, ipv6 and namespace is not switch)
        switch.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        switch.ip("link", "set", "br0", "up")
        for number, machine in enumerate(machines, 1):
            _ip(
                *("link", "add", INTERFACE, "netns", machine.name, "type", "veth"),
                *("peer", "name", f"port{number}", "netns", switch.name),
            )
            switch.ip("link", "set", f"port{number}", "master", "br0", "up")
            machine.ip("addr", "add", f"{machine.address}/24", "dev", INTERFACE)
            machine.ip("link", "set", INTERFACE, "up")
            machine.ip("link", "set", "lo", "up")
        yield machines


@contextmanager
def chained() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """A client, a gate, a server. The client's one neighbour and default route is the gate, which forwards nothing."""
    with bridged(2) as (gate, server), ExitStack() as ending:
        client = Namespace(f"{gate.name}-client", "10.78.0.2")
        _ip("netns", "add", client.name)
        ending.callback(client.end)
        _ipv6(client, False)
        _ip(
            *("link", "add", INTERFACE, "netns", client.name, "type", "veth"),
            *("peer", "name", "lan1", "netns", gate.name),
        )
        for machine, address, device in ((gate, "10.78.0.1", "lan1"), (client, client.address, INTERFACE)):
            machine.ip("addr", "add", f"{address}/24", "dev", device)
            machine.ip("link", "set", device, "up")
        client.ip("link", "set", "lo", "up")
        client.ip("route", "add", "default", "via", "10.78.0.1")
        subprocess.run(gate.command("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"), check=True)
        yield client, gate, server


def _ipv6(namespace: Namespace, wanted: bool) -> None:
    script = "cd /proc/sys/net/ipv6/conf 2>/dev/null || exit 0; for of in all default; do "
    script += "echo 0 > $of/accept_dad; done" if wanted else "echo 1 > $of/disable_ipv6; done"
    subprocess.run(namespace.command("sh", "-c", script), check=True, capture_output=True)


def _sweep() -> None:
    """Removes what a killed test run left behind."""
    kept = Path("/run/netns")
    for name in os.listdir(kept) if kept.is_dir() else ():
        lead, _, rest = name.partition("-")
        if lead == _PREFIX and not Path("/proc", rest.partition("-")[0]).exists():
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
