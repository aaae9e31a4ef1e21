"""The node's presence on its networks, in virtual time: the responders are of memory, nothing is sent."""

import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest
import trio
import trio.testing

from p2pnode import discovery
from p2pnode.discovery import Found, Lan
from p2pnode.interfaces import Hear, Interface
from protocol import beacon

SPACE, KEY = b"S" * 32, b"k" * 32
PORT = 4001
ETH = Interface("lan0", 2, IPv4Interface("10.77.0.1/24"))
WIFI = Interface("wlan0", 3, IPv4Interface("192.168.5.9/24"))
START = 1_800_000_000.0


class Ambient:
    """The clock of trio's loop, and entropy from a seed."""

    def __init__(self) -> None:
        self._drawn = random.Random(7)

    def now(self) -> float:
        return START + trio.current_time()

    def entropy(self, size: int) -> bytes:
        return self._drawn.randbytes(size)

    def random(self) -> float:
        return self._drawn.random()


@dataclass
class MemoryResponder:
    """Writes down what it is told."""

    interface: Interface
    hear: Hear
    asked: list[float] = field(default_factory=list)
    announced: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    announcing: bool = False
    closed: bool = False
    broken: bool = False
    hangs: bool = False

    def ask(self) -> None:
        self.asked.append(trio.current_time())

    async def announce(self, instance: str, host: str, port: int, record: bytes) -> None:
        if self.broken:
            raise OSError
        self.announced.append((instance, host, port, record))
        self.announcing = True

    async def withdraw(self) -> None:
        self.announcing = False

    async def close(self) -> None:
        if self.hangs:
            await trio.sleep_forever()
        self.announcing, self.closed = False, True


class World:
    """One node's networks: change them and see what the node does."""

    def __init__(self, mode: str = "listen", interfaces: Sequence[Interface] = (ETH,)) -> None:
        self.interfaces = list(interfaces)
        self.keys = [(SPACE, KEY)]
        self.blind = False
        self.responders: list[MemoryResponder] = []
        self.lan = Lan(
            mode,
            PORT,
            lambda: self.keys,
            Ambient(),
            interfaces=self._look,
            open_responder=self._open,
        )

    def _look(self) -> list[Interface]:
        if self.blind:
            raise OSError
        return list(self.interfaces)

    async def _open(self, interface: Interface, hear: Hear) -> MemoryResponder:
        self.responders.append(MemoryResponder(interface, hear))
        return self.responders[-1]

    @property
    def first(self) -> MemoryResponder:
        return self.responders[0]

    def say(self, instance: str, host: str, port: int = PORT, key: bytes = KEY, hours_ago: int = 0) -> None:
        """Somebody announces on the first interface."""
        hour = beacon.hour_of(START + trio.current_time()) - hours_ago
        self.first.hear(instance, host, port, beacon.make([key], instance, port, hour, random.Random(1).randbytes))

    def taken(self) -> list[Found]:
        found = []
        while True:
            try:
                found.append(self.lan.found.receive_nowait())
            except trio.WouldBlock:
                return found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.lan.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


async def heard() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_member_is_handed_up_and_a_stranger_is_not(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        world.say("a", "10.77.0.2")
        world.say("b", "10.77.0.3", key=b"x" * 32)
        await heard()

    assert world.taken() == [Found("10.77.0.2", PORT, SPACE)]


async def test_off_touches_nothing(autojump_clock: trio.testing.MockClock) -> None:
    world = World("off")
    async with world.running():
        world.lan.announce_for(60)
        await trio.sleep(7200)

    assert world.responders == []


async def test_without_a_space_the_network_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce")
    world.keys = []
    async with world.running():
        await trio.sleep(60)
        assert world.responders == []
        world.keys = [(SPACE, KEY)]
        await trio.sleep(4)
        assert world.first.announcing
        world.keys = []
        await trio.sleep(4)
        assert world.first.closed


async def test_listening_asks_and_never_announces(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        await trio.sleep(601)

    assert world.first.announced == []
    assert [round(at) for at in world.first.asked] == [0, 3, 9, 300, 600]


async def test_sync_announces_for_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        await trio.sleep(100)
        world.lan.announce_for(60)
        await heard()
        assert world.first.announcing
        await trio.sleep(58)
        assert world.first.announcing
        await trio.sleep(6)
        assert not world.first.announcing

    assert len(world.first.announced) == 1


async def test_names_and_record_are_new_every_hour_on_every_interface(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce", [ETH, WIFI])
    async with world.running():
        await trio.sleep(3 * 3600 + 10)

    said = [announced for responder in world.responders for announced in responder.announced]
    assert [len(responder.announced) for responder in world.responders] == [4, 4]
    assert len({instance for instance, *_ in said} | {host for _, host, *_ in said}) == 16
    slots = [record[at : at + 16] for *_, record in said for at in range(0, 128, 16)]
    assert len(set(slots)) == len(slots)


async def test_a_new_epoch_is_announced_and_asked_for_at_once(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce")
    async with world.running():
        await trio.sleep(100)
        asked = len(world.first.asked)
        world.keys = [(SPACE, b"n" * 32)]
        await trio.sleep(4)

    assert len(world.first.asked) == asked + 1
    instance, _, port, record = world.first.announced[-1]
    assert len(world.first.announced) == 2
    assert beacon.recognise(record, instance, port, beacon.hour_of(START), [(SPACE, b"n" * 32)])


async def test_a_changed_address_gets_a_responder_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce")
    async with world.running():
        world.interfaces = []
        await trio.sleep(4)
        assert world.first.closed
        world.interfaces = [Interface("lan0", 2, IPv4Interface("10.88.0.1/24"))]
        await trio.sleep(4)
        assert world.responders[1].announcing
        assert world.responders[1].announced[0][:2] != world.first.announced[0][:2]

    assert all(responder.closed for responder in world.responders)


async def test_a_lost_interface_is_tried_again_and_the_others_go_on(autojump_clock: trio.testing.MockClock) -> None:
    world = World("listen", [ETH, WIFI])
    async with world.running():
        (lost,) = [responder for responder in world.responders if responder.interface == ETH]
        lost.broken = True
        world.lan.announce_for(60)
        await trio.sleep(10)

    said = {
        interface: [len(r.announced) for r in world.responders if r.interface == interface] for interface in (ETH, WIFI)
    }
    assert said == {ETH: [0, 1], WIFI: [1]}
    assert lost.closed


async def test_when_interfaces_cannot_be_listed_what_is_there_stays(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce")
    async with world.running():
        world.blind = True
        await trio.sleep(60)
        assert world.first.announcing

    assert len(world.responders) == 1


async def test_flapping_a_hundred_times_leaves_one_responder(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce")
    async with world.running():
        for _ in range(100):
            world.interfaces = []
            await trio.sleep(4)
            world.interfaces = [ETH]
            await trio.sleep(4)
        assert sum(not responder.closed for responder in world.responders) == 1


async def test_our_own_announcement_is_ignored_on_every_interface(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce", [ETH, WIFI])
    async with world.running():
        for responder in world.responders:
            instance, _, port, record = responder.announced[0]
            world.first.hear(instance, "10.77.0.1", port, record)
        await heard()

    assert world.taken() == []


async def test_a_tag_at_two_addresses_is_not_dialled_again(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        world.say("a", "10.77.0.2")
        world.say("a", "10.77.0.66")
        await heard()
        await trio.sleep(61)
        world.say("a", "10.77.0.66")
        world.say("a", "10.77.0.2")
        await heard()

    assert world.taken() == [Found("10.77.0.2", PORT, SPACE)]


async def test_one_announcer_on_two_of_our_interfaces_is_no_copy(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        world.say("a", "fe80::2%lan0")
        world.say("a", "fe80::2%wlan0")
        await trio.sleep(61)
        world.say("a", "fe80::2%wlan0")
        await heard()

    assert len(world.taken()) == 2


async def test_an_announcer_is_handed_up_once_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        for _ in range(100):
            world.say("a", "10.77.0.2")
        await heard()
        assert len(world.taken()) == 1
        await trio.sleep(61)
        world.say("a", "10.77.0.2")
        await heard()

    assert len(world.taken()) == 1


async def test_a_system_port_is_not_handed_up(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        for port in (0, 22, 25, 1023):
            world.say("a", "10.77.0.2", port)
        await heard()

    assert world.taken() == []


async def test_a_member_who_invents_ports_gets_a_few_dials_per_host(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        for port in range(2000, 2200):
            world.say(str(port), "10.77.0.2", port)
            await heard()
        await heard()

    assert len(world.taken()) == discovery.PORTS_PER_HOST_MAX


async def test_a_record_of_another_day_is_ignored(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        world.say("a", "10.77.0.2", hours_ago=24)
        await heard()

    assert world.taken() == []


async def test_what_nobody_takes_is_dropped_and_tables_stay_bounded(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.running():
        for number in range(1500):
            world.say(str(number), f"10.77.{number // 250}.{number % 250}")
            if number % 50 == 0:
                await heard()
        await heard()
        assert len(world.lan._ears._seen) == discovery.SEEN_MAX

    assert len(world.taken()) == discovery.FOUND_MAX


async def test_hearing_from_a_thread_after_the_loop_ended_is_harmless() -> None:
    world = World()
    async with world.running():
        pass
    await trio.to_thread.run_sync(world.first.hear, "a", "10.77.0.2", PORT, bytes(128))


async def test_leaving_takes_three_seconds_even_when_a_responder_hangs(autojump_clock: trio.testing.MockClock) -> None:
    world = World("announce", [ETH, WIFI])
    async with world.running():
        world.first.hangs = True
        left_at = trio.current_time()

    assert trio.current_time() - left_at == pytest.approx(discovery.CLOSE_SECONDS)
    assert world.responders[1].closed


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("10.77.0.2", True),
        ("10.77.0.0", False),
        ("10.77.0.255", False),
        ("10.78.0.2", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.251", False),
        ("8.8.8.8", False),
        ("fe80::2", False),
    ],
)
def test_only_hosts_of_the_interfaces_subnet_are_neighbours(host: str, near: bool) -> None:
    assert ETH.reaches(ip_address(host)) is near


def test_a_link_local_host_is_dialled_through_its_interface() -> None:
    link = Interface("lan0", 2, IPv6Interface("fe80::1/64"))

    assert link.reaches(ip_address("fe80::2"))
    assert not link.reaches(ip_address("fd00::2"))
    assert link.host_text(ip_address("fe80::2")) == "fe80::2%lan0"


def test_zeroconf_is_not_imported_with_the_module() -> None:
    script = "import sys, p2pnode.discovery; sys.exit({'zeroconf', 'ifaddr', 'asyncio'} & set(sys.modules) != set())"

    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
