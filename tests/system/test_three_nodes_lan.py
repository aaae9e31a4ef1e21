"""Three daemons on three machines of one LAN: they find each other by themselves, or are not heard at all."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from system import namespaces
from system.daemons import Daemon, invited, met, together, until
from system.namespaces import INTERFACE, Namespace

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(namespaces.available() is not None, reason=str(namespaces.available())),
]

NAMES = ("ana", "beto", "carla")


@contextmanager
def on_machines(root: Path, machines: Sequence[Namespace], lan: str) -> Iterator[list[Daemon]]:
    """A daemon on each machine, as it is after `init`: it listens on the LAN at a port of its own."""
    nodes = []
    for name, machine in zip(NAMES, machines, strict=False):
        node = Daemon(root / name)
        node.within, node.listen, node.lan = machine.command(), None, lan
        nodes.append(node)
    try:
        together([node.start for node in nodes])
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()


def test_three_members_find_each_other_by_zeroconf_alone_even_at_new_addresses(tmp_path: Path) -> None:
    with namespaces.bridged(3) as machines, on_machines(tmp_path, machines, "announce") as (ana, beto, carla):
        ana.ask("space.create", name="vecinos")
        for guest in (beto, carla):
            guest.ask("join", invite=invited(ana))
        assert ana.address.startswith("10.77.0.1:")
        met(ana, beto, carla)
        early = ana.ask("report.new", category="other", title="From ana")["id"]

        # Beto and Carla know Ana's address and nobody else's; she leaves, and her machine gets another one.
        until("her report to be everywhere", lambda: beto.titles() == carla.titles() == ["From ana"])
        ana.stop()
        machines[0].ip("addr", "flush", "dev", INTERFACE)
        machines[0].ip("addr", "add", "10.77.0.51/24", "dev", INTERFACE)
        beto.ask("report.new", category="other", title="From beto")
        carla.ask("report.new", category="other", title="From carla")
        met(beto, carla)
        origins = {peer["address"]: peer["origin"] for peer in carla.ask("peer.list")}
        assert origins.get(beto.address) == "lan" or "incoming" in origins.values()

        ana.start()
        assert ana.address.startswith("10.77.0.51:")
        met(ana, beto, carla)
        assert sorted(ana.titles()) == ["From ana", "From beto", "From carla"]
        assert ana.ask("report.show", id=early)["title"] == "From ana"
        assert [node.ask("status")["peers"] for node in (ana, beto, carla)] == [2, 2, 2]


def test_with_the_lan_off_not_one_packet_leaves_whatever_the_user_does_at_home(tmp_path: Path) -> None:
    with (
        namespaces.bridged(1) as (machine,),
        machine.capture() as frames,
        on_machines(tmp_path, [machine], "off") as (ana,),
    ):
        assert ana.address.startswith("10.77.0.1:")
        ana.ask("space.create", name="vecinos")
        ana.ask("report.new", category="other", title="Nobody hears this", place="geohash:9g3w8")
        ana.ask("search", words="nobody")
        ana.ask("sync")
        invited(ana)
        time.sleep(0.5)
        assert ana.stop() == 0
    assert frames == []


def test_who_only_listens_is_found_by_nobody_until_it_syncs(tmp_path: Path) -> None:
    with namespaces.bridged(2) as machines, on_machines(tmp_path, machines, "listen") as (ana, beto):
        ana.ask("space.create", name="vecinos")
        beto.ask("join", invite=invited(ana))
        met(ana, beto)
        ana.stop()
        machines[0].ip("addr", "flush", "dev", INTERFACE)
        machines[0].ip("addr", "add", "10.77.0.51/24", "dev", INTERFACE)
        ana.start()
        ana.ask("report.new", category="other", title="Moved")
        time.sleep(1.5)
        assert ana.ask("status")["peers"] == beto.ask("status")["peers"] == 0
        ana.ask("sync")
        met(ana, beto)
        assert beto.titles() == ["Moved"]
