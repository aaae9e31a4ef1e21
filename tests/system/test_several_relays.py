"""Several relays: each is used for itself, losing one loses nothing, and whoever asks is told how it stands."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import postgresql
import pytest
from postgresql import Server
from system.daemons import PATIENCE_SECONDS, Daemon, invited, people, until
from system.relay_process import RelayProcess, appended, holding

from p2pnode import client, paths
from p2pnode.failures import CommandError

pytestmark = pytest.mark.system


def alone(node: Daemon, others: list[Daemon]) -> Daemon:
    """Starts a node when no other one runs."""
    assert not any(other.process for other in others)
    return node.start()


def listed(node: Daemon, id: str) -> None:
    node.ask("sync")
    until("the report to be listed", lambda: id in [report["id"] for report in node.ask("report.list", limit=0)])


def test_with_one_of_two_relays_dead_everything_goes_by_the_other_and_everybody_is_told_which_one_it_is(
    tmp_path: Path,
) -> None:
    with (
        RelayProcess(tmp_path / "north") as north,
        RelayProcess(tmp_path / "south") as south,
        people(tmp_path, "ana", "beto", start=False) as nodes,
    ):
        ana, beto = nodes
        alone(ana, nodes)
        ana.ask("space.create", name="vecinos", pen="Ana")
        for relay in (north, south):
            ana.ask("relay.add", relay=relay.line)
        invitation = invited(ana, by_relay=True)
        both = ana.ask("report.new", category="other", title="A las dos")["id"]
        appended(ana, both, relays=2)

        north.kill()
        one = ana.ask("report.new", category="other", title="A la que queda")["id"]
        appended(ana, one, relays=1)
        until("the dead one to be known", lambda: states(ana)[north.address] == "unreachable")
        at_one_of_two(ana)
        in_status = {path["address"]: path["state"] for path in ana.ask("status")["paths"] if path["kind"] == "relay"}
        assert (in_status[north.address], states(ana)[north.address]) == ("unreachable", "unreachable")
        until("the other one to be up to date", lambda: states(ana)[south.address] == "waiting")
        reasons = {reason["key"]: reason["fields"] for reason in ana.ask("sync.explain", id=one)["reasons"]}
        assert reasons["explain.relay_unreachable"]["address"] == north.address
        assert (reasons["explain.relay_owed"]["address"], reasons["explain.relay_owed"]["count"]) == (
            north.address,
            1,
        )
        typed = ana.run("sync", "explain", one).stdout
        assert f"The relay {north.address} does not answer" in typed
        assert "It lies at 1 of 2 relays." in typed
        assert south.address not in typed
        assert "unreachable" in ana.run("relay", "list").stdout
        assert ana.stop() == 0

        alone(beto, nodes)
        beto.ask("join", invite=invitation, name="Beto", by_relay=True)
        listed(beto, both)
        listed(beto, one)
        back = beto.ask("report.new", category="other", title="De vuelta")["id"]
        appended(beto, back, relays=1)
        assert beto.stop() == 0

        north.start()
        alone(ana, nodes)
        listed(ana, back)
        appended(ana, one, back, relays=2)
        assert {relay["waiting"] for relay in ana.ask("relay.list")} == {0}
        south.kill()
        assert ana.stop() == 0
        alone(beto, nodes)
        at_one_of_two(beto)
        assert sorted(beto.titles()) == ["A la que queda", "A las dos", "De vuelta"]
        assert not [line for node in nodes for line in node.events if "mailbox.warning" in line]


def at_one_of_two(node: Daemon) -> None:
    """Waits until everything is read and appended where that can be done, and nowhere else."""

    def told() -> bool:
        outcome = node.ask("sync")
        return bool((outcome["relays"], outcome["relays_equal"]) == (2, 1))

    until("one of two relays to hold everything", told)


def states(node: Daemon) -> dict[str, str]:
    """The state of each relay's mailbox by its address."""
    return {relay["address"]: relay["state"] for relay in node.ask("relay.list")}


@dataclass
class Asking:
    """Somebody who has typed `sync --wait` and waits for its end; who has none to meet waits for three seconds."""

    node: Daemon
    outcome: dict[str, int] | None = None
    notes: int = 0  # of how far it has come
    _begun: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self._thread = Thread(target=self._ask)
        self._thread.start()
        assert self._begun.wait(PATIENCE_SECONDS)

    def _ask(self) -> None:
        with client.Daemon(str(self.node.home)) as daemon, suppress(CommandError):
            self.outcome = daemon.call("sync", {"wait": True, "timeout": 15}, told=self._note)

    def _note(self, _: object) -> None:
        self.notes += 1
        self._begun.set()

    def equal(self) -> int | None:
        """At how many relays everything lay in the end; None where it was not told."""
        self._thread.join()
        return None if self.outcome is None else self.outcome["relays_equal"]


@contextmanager
def at_rest(root: Path) -> Iterator[tuple[Daemon, RelayProcess]]:
    """One member whose relay has everything."""
    with RelayProcess(root / "relay") as relay, people(root, "ana") as (ana,):
        ana.ask("space.create", name="vecinos")
        ana.ask("relay.add", relay=relay.line)
        appended(ana, ana.ask("report.new", category="other", title="Antes")["id"])
        until("ana to wait for news", lambda: states(ana)[relay.address] == "waiting")
        yield ana, relay


def test_two_who_ask_for_everything_while_a_relay_sleeps_are_both_told_when_it_is_done(tmp_path: Path) -> None:
    with at_rest(tmp_path) as (ana, relay):
        assert relay.process is not None
        relay.process.send_signal(signal.SIGSTOP)
        asking = [Asking(ana), Asking(ana)]
        relay.process.send_signal(signal.SIGCONT)
        assert [one.equal() for one in asking] == [1, 1]


def test_what_is_filed_while_somebody_asks_for_everything_goes_out_with_it(tmp_path: Path) -> None:
    with at_rest(tmp_path) as (ana, _):
        asking = Asking(ana)
        until("the relay to have been asked", lambda: asking.notes > 3)
        id = ana.ask("report.new", category="other", title="Entretanto")["id"]
        assert asking.equal() == 1
        assert holding(ana, id) == 1


def test_who_asks_for_everything_does_not_wait_for_a_relay_that_is_removed(tmp_path: Path) -> None:
    with at_rest(tmp_path) as (ana, relay):
        assert relay.process is not None
        relay.process.send_signal(signal.SIGSTOP)
        asking = Asking(ana)
        ana.ask("relay.remove", relay=relay.address)
        assert asking.equal() == 0


# Two relays that share a database


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if reason := postgresql.absent():
        pytest.skip(reason)
    with postgresql.server() as running:
        yield running


def test_two_relays_on_one_database_are_one_to_who_writes_at_one_and_reads_at_the_other(
    tmp_path: Path, server: Server
) -> None:
    database = server.database()
    with (
        RelayProcess(tmp_path / "east", store=database) as east,
        people(tmp_path, "ana", "beto", start=False) as (ana, beto),
    ):
        west = RelayProcess(tmp_path / "west", store=database)
        west.files.mkdir(parents=True)
        shutil.copy(east.files / paths.KEY, west.files)
        with west:
            assert west.at(east.address) == east.line, "one key"
            ana.start()
            ana.ask("space.create", name="vecinos", pen="Ana")
            ana.ask("relay.add", relay=east.line)
            invitation = invited(ana, by_relay=True)
            early = ana.ask("report.new", category="other", title="Antes")["id"]
            appended(ana, early)

            beto.start()
            beto.ask("join", invite=invitation, name="Beto", by_relay=True)
            beto.ask("relay.add", relay=west.line)
            assert [relay["relay"] for relay in beto.ask("relay.list")] == [west.line], "the same relay, moved"
            listed(beto, early)
            assert [node.ask("status")["peers"] for node in (ana, beto)] == [0, 0], "a meeting point is one process's"
            until("beto to wait for news", lambda: states(beto)[west.address] == "waiting")
            live = ana.ask("report.new", category="other", title="Ahora")["id"]
            appended(ana, live)
            until("what was put in at one to come out of the other", lambda: "Ahora" in beto.titles())

            east.kill()
            back = beto.ask("report.new", category="other", title="De vuelta")["id"]
            appended(beto, back)
            ana.ask("relay.add", relay=west.line)
            listed(ana, back)
            assert not [line for node in (ana, beto) for line in node.events if "mailbox.warning" in line]
