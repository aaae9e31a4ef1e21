"""Meeting again: after cut lines, half-finished handshakes and empty batteries, which a relay plays."""

from pathlib import Path

import pytest
from system.daemons import Daemon, gathered, met, together, until
from system.relay import pair_over_a_relay

pytestmark = pytest.mark.system


def states(node: Daemon) -> list[str]:
    return [peer["state"] for peer in node.ask("peer.list")]


def test_two_who_dial_each_other_at_the_same_moment_keep_one_session(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        ana.ask("peer.add", address=beto.address)
        for _ in range(2):
            together([ana.stop, beto.stop])
            together([ana.start, beto.start])
            ana.ask("report.new", category="other", title="One more")
            met(ana, beto)
        for node in (ana, beto):
            until("its one address to be the one it is connected to", lambda node=node: states(node) == ["connected"])
        assert [node.ask("status")["peers"] for node in (ana, beto)] == [1, 1]


def test_what_is_filed_while_a_handshake_is_on_its_way_arrives_at_once(tmp_path: Path) -> None:
    with pair_over_a_relay(tmp_path) as (ana, beto, relay):
        relay.gate.clear()
        count = len(relay.recorded)
        relay.recorded[-1].cut()
        until("beto to dial again", lambda: len(relay.recorded) > count and relay.recorded[-1].answered)
        for node in (ana, beto):
            node.ask("report.new", category="other", title=f"By {node.home.name}, meanwhile")
        relay.gate.set()
        met(ana, beto, seconds=5)


def test_a_line_that_is_cut_again_and_again_loses_nothing(tmp_path: Path) -> None:
    with pair_over_a_relay(tmp_path) as (ana, beto, relay):
        for number in range(8):
            for node in (ana, beto):
                node.ask("report.new", category="other", title=f"{node.home.name} {number}")
            relay.recorded[-1].cut()
            beto.ask("sync")
        met(ana, beto)
        assert len(set(ana.titles())) == len(ana.titles()) == 16


def test_who_comes_back_after_an_empty_battery_is_not_taken_for_a_duplicate_of_itself(tmp_path: Path) -> None:
    with pair_over_a_relay(tmp_path) as (ana, beto, relay):
        relay.mute = True
        for number in range(4):  # of two starts neither is the smaller one every time
            beto.kill()
            assert ana.ask("status")["peers"] == 1, "ana knows of nothing"
            ana.ask("report.new", category="other", title=f"While beto was dark {number}")
            beto.start()
            met(ana, beto, seconds=5)
