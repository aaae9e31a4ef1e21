"""SIGKILL: a daemon may die at any moment and goes on where it was, with nothing lost, doubled or half there."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from system.daemons import Daemon, fill, gathered, met, until
from system.relay import Relay

from p2pnode import paths

pytestmark = pytest.mark.system

COUNT = 20_000
BYTES = COUNT * 200  # fewer than a whole sync takes
MOMENTS = 3  # at which each of them is killed


@dataclass(frozen=True)
class Homes:
    """Two members of one space at rest: one holds COUNT reports, the other none."""

    full: Daemon
    empty: Daemon

    def copies(self, root: Path) -> tuple[Daemon, Daemon]:
        """The same again, the full one at another port: the empty one will only know a relay to it."""
        made = []
        for node in (self.full, self.empty):
            home = root / node.home.name
            shutil.copytree(node.home, home, ignore=shutil.ignore_patterns(paths.SOCKET, paths.LOCK))
            copy = Daemon(home, new=False)
            made.append(copy)
        return made[0], made[1]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    with gathered(tmp_path_factory.mktemp("full"), "ana", "beto") as (ana, beto):
        assert beto.stop() == 0
        fill(ana, COUNT, text="Algo pasó cerca del mercado, sin heridos. " * 3, tags=["prueba"])
        assert ana.stop() == 0
        return Homes(ana, beto)


def killed_on_the_way(root: Path, homes: Homes, victim_of: Callable[[Daemon, Daemon], Daemon]) -> None:
    """One sync in the course of which one side dies again and again, each time after another number of bytes."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    ana, beto = homes.copies(root)
    victim = victim_of(ana, beto)
    with ana, beto, Relay(ana.endpoint) as relay:
        beto.ask("peer.add", address=relay.address)
        held = [beto.space["entries"]]
        for _ in range(MOMENTS):
            relay.allowance = draw.randrange(BYTES // (MOMENTS + 1))
            beto.ask("sync")  # dial now: backing off is another test's subject
            until("its bytes to be used up", lambda: any(one.held and not one.over for one in relay.recorded))
            victim.kill()
            for recorded in relay.recorded:
                recorded.cut()
            victim.start()
            held.append(beto.space["entries"])
        assert held == sorted(held), "what was committed stays"
        assert held[-1] < ana.space["entries"], "killed in the middle"
        relay.allowance = None
        for recorded in relay.recorded:
            recorded.cut()
        beto.ask("sync")
        met(ana, beto)
        titles = beto.titles()
        assert len(set(titles)) == len(titles) == COUNT
        ana.assert_good()
        beto.assert_good()


def test_a_receiver_killed_at_random_moments_continues_until_it_holds_everything_once(
    tmp_path: Path, homes: Homes
) -> None:
    killed_on_the_way(tmp_path, homes, lambda sender, receiver: receiver)


def test_a_sender_killed_at_random_moments_serves_on_until_the_other_holds_everything_once(
    tmp_path: Path, homes: Homes
) -> None:
    killed_on_the_way(tmp_path, homes, lambda sender, receiver: sender)


def test_a_report_whose_id_was_told_is_there_after_the_next_instant_kills_the_daemon(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        beto.stop()
        ids = []
        for number in range(3):
            ids.append(ana.ask("report.new", category="other", title=f"Before death {number}")["id"])
            ana.kill()
            ana.start()
        assert {report["id"] for report in ana.ask("report.list")} == set(ids)
        assert ana.space["logs"] == 2 + 1 + 3, "every start writes into a log of its own: none can fork"
        beto.start()
        met(ana, beto)
        beto.assert_good()
