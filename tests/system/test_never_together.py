"""Never together: members whose nodes are never on at the same time share everything, through a relay or a file.

Nothing that people wrote reaches an assert, which would print it: hashes, ids and numbers do.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from system.daemons import Daemon, invited, people, until
from system.haiti import COUNT, brought_in, fold, texts, there
from system.relay_process import RelayProcess, appended

pytestmark = [pytest.mark.system, there]


@contextmanager
def alone(node: Daemon, nodes: Sequence[Daemon]) -> Iterator[Daemon]:
    """This node's turn: no other one runs from before its start until after its end."""
    assert not any(other.process for other in nodes)
    with node:
        yield node
        assert node.ask("status")["peers"] == 0
        assert node.stop() == 0
    assert not any(other.process for other in nodes)


def typed(node: Daemon, *words: str, given: str | None = None) -> Any:
    """What a command that went well printed."""
    done = node.run(*words, "--json", given=given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def caught_up(node: Daemon, *, waits: bool = False) -> str:
    """Has a node that was just started read and append everything, and list it; its fingerprint then.

    `waits` until what it writes because of what it has read lies at the relay too, as the command does.
    """
    if waits:
        told = typed(node, "sync", "--wait")
        assert (told["peers"], told["relays"], told["relays_equal"]) == (0, 1, 1)
    else:
        until("everything to be read and appended", lambda: node.ask("sync")["relays_equal"] == 1)
    listed(node)
    return str(node.space["fingerprint"])


def listed(node: Daemon) -> set[str]:
    """The ids of all reports that a node lists."""
    until("everything to be listed", lambda: not node.space["pending"])
    return {report["id"] for report in node.ask("report.list", limit=0)}


def founded(ana: Daemon, relay: RelayProcess, guests: int) -> list[str]:
    """Ana's space with its relay, and so many invitations that the relay alone can answer."""
    ana.ask("space.create", name="vecinos", pen="Ana")
    ana.ask("relay.add", relay=relay.line)
    return [invited(ana, by_relay=True) for _ in range(guests)]


def test_two_who_are_never_on_together_share_everything_by_one_relay_and_a_third_joins_from_it_alone(
    tmp_path: Path,
) -> None:
    with (
        RelayProcess(tmp_path / "relay") as relay,
        people(tmp_path, "ana", "beto", "carla", start=False) as nodes,
    ):
        ana, beto, carla = nodes
        with alone(ana, nodes):
            for_beto, for_carla = founded(ana, relay, 2)
            brought_in(ana)
            caught_up(ana, waits=True)
            expected = texts(ana)
        with alone(beto, nodes):
            typed(beto, "join", "--by-relay", "--name", "Beto", "-", given=for_beto)
            caught_up(beto)
            assert len(expected) == COUNT
            assert fold(texts(beto)) == fold(expected)
            answer = beto.ask("report.new", category="other", title="De parte de Beto")["id"]
            appended(beto, answer)
        with alone(ana, nodes):
            after_ana = caught_up(ana, waits=True)
            assert answer in listed(ana)
            expected = texts(ana)
        with alone(beto, nodes):
            assert caught_up(beto) == after_ana

        relay.kill()
        relay.start()
        with alone(carla, nodes):
            typed(carla, "join", "--by-relay", "--name", "Carla", "-", given=for_carla)
            caught_up(carla)
            assert fold(texts(carla)) == fold(expected)
        told = []
        for node in nodes:
            with alone(node, nodes):  # Ana first: she confirms Carla, as she did Beto
                told.append(
                    (caught_up(node, waits=node is ana), node.space["members"], fold(node.ask("report.list", limit=0)))
                )
                assert node.ask("log.check")["bad"] == 0
        assert told == [told[0]] * 3
        assert told[0][1] == 3
        assert not any("met" in line for line in relay.events), "nobody was joined with anybody"


def test_two_who_are_never_on_together_share_everything_by_a_file_and_the_answer_is_an_exact_difference(
    tmp_path: Path,
) -> None:
    there_, back, last, none = (str(tmp_path / f"{name}.bin") for name in ("there", "back", "last", "none"))
    with people(tmp_path, "ana", "beto", start=False) as nodes:
        ana, beto = nodes
        with RelayProcess(tmp_path / "relay") as relay:  # for Beto to become a member; gone before there is a report
            with alone(ana, nodes):
                (for_beto,) = founded(ana, relay, 1)
            with alone(beto, nodes):
                typed(beto, "join", "--by-relay", "--name", "Beto", "-", given=for_beto)

        with alone(ana, nodes):
            brought_in(ana)
            expected = texts(ana)
            entries = ana.space["entries"]
            assert typed(ana, "bundle", "export", there_)["entries"] == entries
        with alone(beto, nodes):
            assert listed(beto) == set()
            known = beto.space["entries"]
            forecast = typed(beto, "bundle", "import", there_, "--dry-run")
            assert listed(beto) == set()
            told = typed(beto, "bundle", "import", there_)
            assert told == forecast
            shared = told["known"]
            assert told["new"] == entries - shared
            assert (told["refused"], told["forked"], told["unknown"], told["early"], told["damaged"]) == (0, 0, 0, 0, 0)
            assert len(listed(beto)) == COUNT
            assert fold(texts(beto)) == fold(expected)
            answer = beto.ask("report.new", category="other", title="De parte de Beto")["id"]
            own = known - shared + 1  # what made him a member, and this
            assert typed(beto, "bundle", "export", back, "--for-peer")["entries"] == own
            told = typed(beto, "bundle", "import", there_)
            assert (told["new"], told["known"]) == (0, entries), "the same file twice is the same as once"
            held = beto.space["entries"]
        with alone(ana, nodes):
            told = typed(ana, "bundle", "import", back)
            assert (told["new"], told["known"], told["whole"]) == (own, 0, True)
            assert answer in listed(ana)
            until("Beto to be confirmed", lambda: ana.space["entries"] == held + 1)
            assert typed(ana, "bundle", "export", last, "--for-peer")["entries"] == 1
            after = ana.space["fingerprint"], fold(ana.ask("report.list", limit=0))
        with alone(beto, nodes):
            told = typed(beto, "bundle", "import", last)
            assert (told["new"], told["known"], told["whole"]) == (1, 0, True)
            assert (beto.space["fingerprint"], fold(beto.ask("report.list", limit=0))) == after
            assert typed(beto, "bundle", "export", none, "--for-peer")["entries"] == 0
