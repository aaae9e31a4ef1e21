"""Two and three nodes over loopback: found, invite, join, file, read alike, also alone."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from system.daemons import Daemon, gathered, invited, met, people, together, until

pytestmark = pytest.mark.system

QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("report.list", {"limit": 0}),
    ("report.list", {"near": "19.43,-99.13", "radius": 3}),
    ("report.list", {"category": "all-clear"}),
    ("search", {"words": "camion"}),
    ("search", {"words": "plaza*"}),
]


def answers(node: Daemon) -> list[Any]:
    """What this node says to all the questions, and every report it lists in full."""
    told = [node.ask(method, **params) for method, params in QUESTIONS]
    assert all(told), "each question finds something"
    return [*told, *(node.ask("report.show", id=report["id"]) for report in told[0])]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Two nodes that have filed something each."""
    with gathered(tmp_path_factory.mktemp("pair"), "ana", "beto") as nodes:
        ana, beto = nodes
        ana.ask("report.new", category="roadblock", title="Camión atravesado", place="19.4326,-99.1332", basis="saw")
        beto.ask("report.new", category="all-clear", title="Todo tranquilo en la plaza", text="Ñandú, 3 €", basis="saw")
        met(ana, beto)
        yield nodes


def test_two_strangers_become_a_space_by_typed_commands_alone(tmp_path: Path) -> None:
    with people(tmp_path, "ana", "beto") as (ana, beto):
        assert ana.run("space", "create", "-", "--pen", "Ana", given="Vecinos de San Jacinto\n").returncode == 0
        invitation = ana.run("invite", "create").stdout
        joined = beto.run("join", "-", "--name", "Beto", "--json", given=invitation)
        assert joined.returncode == 0, joined.stderr
        assert json.loads(joined.stdout)["name"] == "Vecinos de San Jacinto"

        filed = ana.run("report", "new", "--category", "outage", "--title", "-", "--json", given="Sin luz\n")
        met(ana, beto)
        assert [report["id"] for report in beto.ask("report.list")] == [json.loads(filed.stdout)["id"]]
        assert "“Ana”" in beto.run("report", "list").stdout
        assert beto.space["members"] == 2


def test_both_hold_the_same_and_answer_every_question_alike(pair: list[Daemon]) -> None:
    ana, beto = pair
    assert ana.space["fingerprint"] == beto.space["fingerprint"]
    assert answers(ana) == answers(beto)


def test_what_is_filed_while_both_are_connected_arrives_by_itself(pair: list[Daemon]) -> None:
    ana, beto = pair
    for filer, reader in ((ana, beto), (beto, ana)):
        id = filer.ask("report.new", category="convoy", title="Convoy hacia el puente")["id"]
        until("the report to arrive", lambda reader=reader, id=id: id in {r["id"] for r in reader.ask("report.list")})
    met(ana, beto)


def test_each_alone_still_reads_files_and_finds_everything(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        ana.ask("report.new", category="roadblock", title="Camión atravesado", place="19.4326,-99.1332")
        ana.ask("report.new", category="all-clear", title="Tranquila la plaza")
        met(ana, beto)
        expected = answers(ana)
        assert ana.stop() == 0
        assert answers(beto) == expected
        beto.ask("report.new", category="other", title="Filed alone")
        assert beto.stop() == 0

        ana.start()
        assert answers(ana) == expected
        beto.start()
        met(ana, beto)
        assert "Filed alone" in ana.titles()


def test_three_nodes_hold_the_same_though_two_of_them_never_meet(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto", "carla") as (ana, beto, carla):
        # Both guests know ana's address alone, and nobody hears of anybody over the LAN.
        for node in (ana, beto, carla):
            node.ask("report.new", category="other", title=f"From {node.home.name}")
        met(ana, beto, carla)
        assert sorted(carla.titles()) == ["From ana", "From beto", "From carla"]
        assert [node.ask("status")["peers"] for node in (ana, beto, carla)] == [2, 1, 1]

        carla.stop()
        beto.ask("report.new", category="other", title="While carla was away")
        met(ana, beto)
        beto.stop()
        carla.start()
        met(ana, carla)
        assert "While carla was away" in carla.titles()


def test_an_address_given_by_hand_is_dialled_at_once_and_is_still_known_after_a_restart(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto", "carla") as (ana, beto, carla):
        ana.stop()
        carla.ask("peer.add", address=beto.address)
        until("beto and carla to meet", lambda: carla.ask("status")["peers"] == 1)
        carla.ask("report.new", category="other", title="Without ana")
        met(beto, carla)
        carla.stop()
        carla.start()
        until("beto and carla to meet again", lambda: carla.ask("status")["peers"] == 1)


def test_sync_waits_until_the_other_holds_what_we_hold(pair: list[Daemon]) -> None:
    ana, beto = pair
    beto.ask("report.new", category="other", title="Before the sync")
    told = ana.run("sync", "--wait", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["equal"] == json.loads(told.stdout)["peers"] == 1
    assert ana.space["fingerprint"] == beto.space["fingerprint"]


def test_newcomers_who_write_in_the_instant_in_which_they_may_are_read_everywhere(tmp_path: Path) -> None:
    with people(tmp_path, "ana", "beto", "carla") as (ana, beto, carla):
        ana.ask("space.create", name="vecinos")

        def come_and_write(guest: Daemon) -> None:
            guest.ask("join", invite=invited(ana))
            guest.ask("report.new", category="found", title=f"First of {guest.home.name}")

        together([partial(come_and_write, guest) for guest in (beto, carla)])
        met(ana, beto, carla)
        assert sorted(ana.titles()) == ["First of beto", "First of carla"]
