"""Rendezvous: two who know no address of each other, and can only dial out, meet at a relay and talk through it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from system.daemons import Daemon, fill, invited, met, people, until
from system.relay_process import RelayProcess

pytestmark = pytest.mark.system

COUNT = 6000
TEXT = "Algo pasó cerca del mercado, sin heridos. " * 90  # more of them than a moment carries


@contextmanager
def strangers(root: Path) -> Iterator[tuple[Daemon, Daemon, RelayProcess]]:
    """Two members who have nothing but a relay."""
    with RelayProcess(root / "relay") as relay, people(root, "ana", "beto") as (ana, beto):
        ana.ask("space.create", name="vecinos", pen="Ana")
        ana.ask("relay.add", relay=relay.line)
        beto.ask("join", invite=invited(ana, by_relay=True), name="Beto", by_relay=True)
        for node in (ana, beto):
            assert node.ask("status")["node"]["lan"] == "off"
            assert [path["kind"] for path in node.ask("status")["paths"]] == ["lan", "relay"], "no address of anybody"
        yield ana, beto, relay


def connected(*nodes: Daemon) -> None:
    """Has them look for each other, and waits until each is connected to one."""

    def each_to_one() -> bool:
        if all(node.ask("status")["peers"] == 1 for node in nodes):
            return True
        for node in nodes:
            node.ask("sync")
        return False

    until("two to meet at the relay", each_to_one)


def test_two_who_can_only_dial_out_meet_at_a_relay_and_what_one_files_the_other_lists_at_once(tmp_path: Path) -> None:
    with strangers(tmp_path) as (ana, beto, relay):
        connected(ana, beto)
        for node in (ana, beto):
            title = f"{node.home.name}, live"
            node.ask("report.new", category="other", title=title)
            met(ana, beto, seconds=5)
            assert title in ana.titles()
            assert title in beto.titles()
        told = ana.ask("sync", wait=True)
        assert (told["peers"], told["equal"], told["relays_equal"]) == (1, 1, 1)
        for node in (ana, beto):
            assert node.stop() == 0
        until("the relay to see them off", lambda: "relay.visit_over reason=meeting met" in relay.events)


def test_a_relay_that_dies_while_two_talk_through_it_costs_nothing(tmp_path: Path) -> None:
    with strangers(tmp_path) as (ana, beto, relay):
        relay.kill()
        until("both to be alone", lambda: not any(node.ask("status")["peers"] for node in (ana, beto)))
        fill(ana, COUNT, text=TEXT, at_once=200)
        relay.start()
        held = beto.space["entries"]
        ana.ask("sync")
        beto.ask("sync")
        until("something to come", lambda: beto.space["entries"] > held)
        relay.kill()
        until("both to be alone", lambda: not any(node.ask("status")["peers"] for node in (ana, beto)))
        assert held < beto.space["entries"] < ana.space["entries"], "killed in the middle"
        relay.start()
        connected(ana, beto)
        met(ana, beto)
        titles = beto.titles()
        assert len(set(titles)) == len(titles) == COUNT
        for node in (ana, beto):
            node.assert_good()


def test_who_was_cut_off_from_the_relay_for_long_is_back_as_soon_as_both_ask_for_it(tmp_path: Path) -> None:
    with strangers(tmp_path) as (ana, beto, relay):
        connected(ana, beto)
        relay.kill()
        for node in (ana, beto):
            until("three tries to fail", lambda node=node: node.events.count("mailbox.failed reason=unreachable") >= 3)
        relay.start()
        connected(ana, beto)
        met(ana, beto)
