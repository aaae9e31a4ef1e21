"""Discovery between machines: real multicast on a switch of network namespaces, nobody with a default route."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from system import namespaces
from system.namespaces import Namespace

import p2pnode

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(namespaces.available() is not None, reason=str(namespaces.available())),
]

OURS, OTHERS = "aa" * 32, "bb" * 32
QUERY = b"\0\0\0\0\0\1\0\0\0\0\0\0\x08_p2pnode\x04_tcp\x05local\0\0\x0c\0\1"

# One daemon's discovery. Prints what it finds as [seconds since start, host, port]; "sync" on stdin announces for a
# second, the end of stdin ends it. Its last line is [peak memory in kB, seconds that leaving took].
NODE = """
import json, sys, time, trio
from p2pnode import discovery
from p2pnode.ambient import SystemAmbient
mode, port, key = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
discovery.POLL_SECONDS = 0.3
started = time.monotonic()
def say(*values):
    print(json.dumps(values), flush=True)
async def main():
    lan = discovery.Lan(mode, port, lambda: [(b"space", key)], SystemAmbient())
    async def show():
        async for found in lan.found:
            say(time.monotonic() - started, found.host, found.port)
    async def obey():
        while await trio.to_thread.run_sync(sys.stdin.readline):
            lan.announce_for(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lan.run)
        nursery.start_soon(show)
        say("up")
        await obey()
        nursery.cancel_scope.cancel()
        leaving = time.monotonic()
    assert mode != "off" or not {"zeroconf", "ifaddr"} & set(sys.modules)
    # Not getrusage: its peak is inherited from the process that started this one.
    (peak,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
    say(peak, time.monotonic() - leaving)
trio.run(main)
"""

# argv: invented announcers a second. They are complete and well made, and lack only the key.
FLOOD = """
import os, random, socket, struct, sys, time
def name(label):
    return bytes([len(label)]) + label
service = name(b"_p2pnode") + name(b"_tcp") + name(b"local") + b"\\0"
def packet(number):
    instance, host = b"%016x" % number, b"%016x" % (number + (1 << 60))
    server = name(host) + name(b"local") + b"\\0"
    def record(owner, kind, data):
        return owner + struct.pack(">HHIH", kind, 0x8001, 120, len(data)) + data
    text = b"\\x82b=" + random.randbytes(128)
    at = 12 + 17 + len(service) + 10 + 6
    return (
        struct.pack(">6H", 0, 0x8400, 0, 4, 0, 0)
        + record(name(instance) + service, 33, struct.pack(">3H", 0, 0, 4001) + server)
        + record(b"\\xc0\\x0c", 16, text)
        + record(b"\\xc0\\x1d", 12, b"\\xc0\\x0c")
        + record(struct.pack(">H", 0xC000 | at), 1, socket.inet_aton("10.77.0.%d" % (number % 250 + 1)))
    )
packets = [packet(random.getrandbits(60)) for _ in range(20000)]
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.bind((sys.argv[2], 5353))
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[2]))
print("flooding", flush=True)
rate, sent, start = int(sys.argv[1]), 0, time.monotonic()
while True:
    while sent < (time.monotonic() - start) * rate:
        out.sendto(packets[sent % len(packets)], ("224.0.0.251", 5353))
        sent += 1
    time.sleep(0.001)
"""

# Datagrams that are no mDNS at all, or not quite.
JUNK = """
import os, socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
head = bytes.fromhex("000084000000ffff00000000")
good = head + b"\\x08_p2pnode\\x04_tcp\\x05local\\0" + bytes.fromhex("000c000100001194")
datagrams = [b"", b"\\0", os.urandom(1472), os.urandom(65507), head, head + b"\\xc0\\x0c" * 700, good + b"\\xff\\xff"]
datagrams += [good[:cut] for cut in range(len(good))] + [head + os.urandom(200) for _ in range(200)]
for datagram in datagrams:
    out.sendto(datagram, ("224.0.0.251", 5353))
"""


class Node:
    """A child process that runs discovery on one machine."""

    def __init__(self, machine: Namespace, mode: str, key: str = OURS, port: int = 4001) -> None:
        env = os.environ | {"PYTHONPATH": str(Path(p2pnode.__file__).parents[1])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = machine.start(sys.executable, "-c", NODE, mode, str(port), key, env=env, bufsize=0, **pipes)
        self._unread = b""
        assert self.next_line(20) == ["up"]

    def next_line(self, seconds: float) -> list[Any] | None:
        """What it says next; None if it is silent for so long."""
        give_up = time.monotonic() + seconds
        assert self.process.stdout is not None
        while b"\n" not in self._unread:
            if not select.select([self.process.stdout], [], [], max(0, give_up - time.monotonic()))[0]:
                return None
            self._unread += os.read(self.process.stdout.fileno(), 65536) or b"null\n"
        line, _, self._unread = self._unread.partition(b"\n")
        said: list[Any] | None = json.loads(line)
        return said

    def finds(self, seconds: float) -> tuple[Any, ...] | None:
        """Host and port of whom it finds next; None if nobody."""
        line = self.next_line(seconds)
        return tuple(line[1:]) if line is not None else None

    def sync(self) -> None:
        """Announces for a second."""
        assert self.process.stdin is not None
        self.process.stdin.write("sync\n")
        self.process.stdin.flush()

    def leave(self) -> tuple[int, float]:
        """Ends it: peak memory in kB and the seconds that leaving took."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        line = self.next_line(10)
        while line is not None and len(line) == 3:
            line = self.next_line(10)
        assert self.process.wait(10) == 0
        assert line is not None
        return line[0], line[1]


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Namespace]]:
    with namespaces.bridged(3) as made:
        yield made


@contextmanager
def child(machine: Namespace, script: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    process = machine.start(sys.executable, "-c", script, *argv, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_member_finds_the_announcer_and_a_stranger_sees_random_bytes(machines: list[Namespace]) -> None:
    n1, n2, n3 = machines
    with n1.capture() as frames, n2.capture() as heard_and_said:
        member, stranger = Node(n2, "listen"), Node(n3, "listen", key=OTHERS)
        announcer = Node(n1, "announce")
        assert member.finds(10) == ("10.77.0.1", 4001)
        assert stranger.finds(2) is None
        assert announcer.finds(0) is None
        assert member.leave()[1] < 3
        assert stranger.leave()[1] < 3
        assert announcer.leave()[1] < 3

    queries = {frame.udp_payload for frame in heard_and_said if frame.outgoing and frame.is_udp}
    assert queries == {QUERY}, "listening sends the one constant query and no announcement"
    said = b"".join(frame.udp_payload for frame in frames if frame.outgoing and frame.is_udp)
    assert os.uname().nodename.encode() not in said
    assert bytes.fromhex(OURS)[:8] not in said


def test_sync_announces_for_its_time_and_says_goodbye(machines: list[Namespace]) -> None:
    n1, n2, _ = machines
    member, announcer = Node(n2, "listen"), Node(n1, "listen")
    assert member.finds(1) is None
    with n1.capture() as frames:
        announcer.sync()
        assert member.finds(5) == ("10.77.0.1", 4001)
        time.sleep(2)
    announcer.leave()
    member.leave()

    answers = [frame.udp_payload for frame in frames if frame.outgoing and frame.udp_payload[2:3] == b"\x84"]
    lifetime = slice(len(QUERY), len(QUERY) + 4)  # the first record answers the query: same name, type and class
    assert answers[0][lifetime] == (4500).to_bytes(4, "big")
    assert answers[-1][lifetime] == bytes(4), "a goodbye, while the process goes on"


def test_off_sends_not_one_packet_at_start_change_or_stop() -> None:
    with namespaces.bridged(1) as (n1,), n1.capture() as frames:
        silent = Node(n1, "off")
        silent.sync()
        n1.ip("addr", "add", "10.77.0.99/24", "dev", namespaces.INTERFACE)
        time.sleep(1)
        n1.ip("addr", "del", "10.77.0.99/24", "dev", namespaces.INTERFACE)
        silent.leave()

    assert frames == []


def test_an_announcer_is_found_again_under_its_new_address(machines: list[Namespace]) -> None:
    n1, n2, _ = machines
    member, announcer = Node(n2, "listen"), Node(n1, "announce")
    assert member.finds(10) == ("10.77.0.1", 4001)

    n1.ip("addr", "flush", "dev", namespaces.INTERFACE)
    time.sleep(0.7)
    n1.ip("addr", "add", "10.77.0.41/24", "dev", namespaces.INTERFACE)
    try:
        assert member.finds(10) == ("10.77.0.41", 4001)
        announcer.leave()
        member.leave()
    finally:
        n1.ip("addr", "flush", "dev", namespaces.INTERFACE)
        n1.ip("addr", "add", f"{n1.address}/24", "dev", namespaces.INTERFACE)


def test_a_tunnel_hears_nothing(machines: list[Namespace]) -> None:
    n1 = machines[0]
    n1.ip("link", "add", "wg9", "type", "veth", "peer", "name", "far9")
    try:
        n1.ip("addr", "add", "10.99.0.1/24", "dev", "wg9")
        n1.ip("link", "set", "wg9", "up", "multicast", "on")
        n1.ip("link", "set", "far9", "up")
        with n1.capture(interface="far9") as tunnel, n1.capture() as lan:
            announcer = Node(n1, "announce")
            time.sleep(1)
            announcer.leave()
    finally:
        n1.ip("link", "del", "wg9")

    assert tunnel == []
    assert any(frame.is_udp for frame in lan)


def test_junk_is_dropped_and_the_announcer_found_afterwards(machines: list[Namespace]) -> None:
    n1, n2, n3 = machines
    member = Node(n2, "listen")
    with child(n3, JUNK, n3.address) as junk:
        junk.wait(10)
    announcer = Node(n1, "announce")

    assert member.finds(10) == ("10.77.0.1", 4001)
    announcer.leave()
    member.leave()


def test_among_ten_thousand_invented_announcers_a_second_the_real_one_is_found(machines: list[Namespace]) -> None:
    n1, n2, n3 = machines
    with child(n3, FLOOD, "10000", n3.address) as flood:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "flooding\n"
        member = Node(n2, "listen")
        announcer = Node(n1, "announce")
        assert member.finds(10) == ("10.77.0.1", 4001)
        announcer.leave()
        peak, leaving = member.leave()

    assert peak < 55_000, "kB"
    assert leaving < 3.5


def test_two_machines_with_only_link_local_ipv6_find_each_other() -> None:
    with namespaces.bridged(2, ipv6=True) as (n1, n2):
        for machine in (n1, n2):
            machine.ip("addr", "flush", "dev", namespaces.INTERFACE, "scope", "global")
        member, announcer = Node(n2, "listen"), Node(n1, "announce")
        found = member.finds(10)
        assert found is not None
        assert str(found[0]).startswith("fe80::")
        assert str(found[0]).endswith(f"%{namespaces.INTERFACE}")
        announcer.leave()
        member.leave()
