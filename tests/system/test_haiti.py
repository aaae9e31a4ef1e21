"""Haiti: 3,593 reports that people really sent, imported on one node and read on three.

Nothing that anybody wrote is ever printed here: texts are compared by their hashes.
"""

import csv
import json
from collections.abc import Iterator
from typing import Any

import pytest
from system.daemons import Daemon, gathered, met
from system.haiti import COUNT, HAITI, brought_in, fold, texts, there

pytestmark = [pytest.mark.system, there]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Three nodes; the first has imported the file, and all hold it."""
    with gathered(tmp_path_factory.mktemp("haiti"), "ana", "beto", "carla") as nodes:
        brought_in(nodes[0])
        met(*nodes)
        yield nodes


QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "agua": ("search", {"words": "agua", "limit": 0}),
    "water": ("search", {"words": "water", "limit": 0}),
    "near": ("report.list", {"near": "18.54,-72.33", "radius": 5, "limit": 0}),
}
TYPED = {
    "agua": ("search", "agua", "--limit", "0"),
    "water": ("search", "water", "--limit", "0"),
    "near": ("report", "list", "--near", "18.54,-72.33", "--radius", "5", "--limit", "0"),
}


def answers(node: Daemon) -> dict[str, list[str]]:
    """The ids that the three questions find, in their order."""
    return {name: ids(node.ask(method, **params)) for name, (method, params) in QUESTIONS.items()}


def ids(found: Any) -> list[str]:
    return [report["id"] for report in found]


def test_every_text_is_intact_byte_for_byte_on_all_three_nodes(three: list[Daemon]) -> None:
    with HAITI.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    expected = sorted(fold(row["INCIDENT TITLE"], row["DESCRIPTION"]) for row in rows)
    assert len(expected) == COUNT
    for node in three:
        assert fold(texts(node)) == fold(expected)


def test_a_second_import_adds_nothing_and_changes_nothing(three: list[Daemon]) -> None:
    ana = three[0]
    before = ana.space
    told = json.loads(ana.run("report", "import", str(HAITI), "--format", "ushahidi", "--json").stdout)
    assert (told["imported"], told["skipped"], told["refused"]) == (0, COUNT, [])
    assert ana.space == before


def test_the_board_says_the_same_on_every_node_down_to_the_last_field(three: list[Daemon]) -> None:
    boards = {fold(node.ask("report.list", limit=0)) for node in three}
    assert len(boards) == 1
    for node in three:
        assert {report["status"] for report in node.ask("report.list", limit=0)} == {"UNCONFIRMED"}
        assert (node.space["pending"], node.space["missing"]) == (0, 0)


def test_everything_that_came_over_the_wire_is_what_its_author_signed(three: list[Daemon]) -> None:
    for node in three:
        checked = node.run("log", "check", "--json")
        assert checked.returncode == 0, checked.stderr
        told = json.loads(checked.stdout)
        assert (told["entries"], told["forks"], told["bad"]) == (three[0].space["entries"], 0, 0)


def test_searches_find_the_same_on_all_and_on_each_alone(three: list[Daemon]) -> None:
    expected = answers(three[0])
    assert all(expected.values())
    for name, words in TYPED.items():
        assert ids(json.loads(three[1].run(*words, "--json").stdout)) == expected[name]
    for node in three:
        assert answers(node) == expected
        node.stop()
    for alone in three:
        alone.start()
        assert alone.ask("status")["peers"] == 0
        assert answers(alone) == expected
        alone.stop()
