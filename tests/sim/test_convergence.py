"""Convergence: six to ten whole nodes live through an hour of faults, then the network heals and all must agree.

    act 1   links come and go, are cut at any byte, groups are parted; nodes publish, join, are killed and start again;
            somebody signs two things at one place of a log
    act 2   nothing fails any more: equal digests, equal boards, every report that was ever committed on each of them,
            nothing damaged, no task left

What is drawn from the seed is printed with a failure, and so is the line that replays it:

    python tests/sim/test_convergence.py --seed 17
    python tests/sim/test_convergence.py --seeds 200
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # for a run as a script

import pytest
import trio
import trio.testing

from p2pnode import events
from p2pnode.failures import CommandError
from protocol.frontier import State
from protocol.invite import Address, Invitation
from protocol.limits import PAYLOAD_SIZE_MAX, Limits
from protocol.log import Run
from tests.p2pnode.worlds import Cable, Home, World, _here, filed, written

SEEDS = 20
STEPS = 60
NAMES = ("ana", "beto", "carla", "dora", "elsa", "fabi", "gabi", "hugo", "ines", "juan")
TASKS = ("grant", "sync")
HONEST_REASONS = {"ended", "cut", "broken", "closed", "duplicate", "timeout", "cancelled"}
HEALED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed draws before anything happens."""

    nodes: int
    limits: Limits
    cut_chance: float  # that a new link breaks by itself
    bytes_max: int  # and where
    forks: bool

    @classmethod
    def drawn(cls, chance: random.Random) -> "Options":
        asked_max = chance.choice([1, 2, 5, 4096])
        limits = Limits(
            run_entries_max=chance.choice([1, 3, 1024]),
            run_size_max=chance.choice([PAYLOAD_SIZE_MAX, 1024 * 1024]),
            asked_max=asked_max,
            pushes_max=chance.choice([1, 2, 4096]),
            reconcile_frame_max=chance.choice([4096, 60_000]),
            outgoing_bytes_max=chance.choice([2000, 2 * 1024 * 1024]),
        )
        return cls(
            nodes=chance.randint(6, len(NAMES)),
            limits=limits,
            cut_chance=chance.choice([0.0, 0.3, 0.7]),
            bytes_max=chance.choice([2000, 20_000]),
            forks=chance.random() < 0.5,
        )


@dataclass
class Simulation:
    """One seed's hour. Everything random comes from `chance`; time is simulated."""

    world: World
    options: Options
    chance: random.Random
    up: set[str] = field(default_factory=set)
    joining: dict[str, Invitation] = field(default_factory=dict)  # who holds an invitation that is not settled yet
    published: set[bytes] = field(default_factory=set)
    parted: dict[str, int] = field(default_factory=dict)  # group of each home while the network is parted
    branches: list[Run] = field(default_factory=list)  # what an equivocator signed
    trace: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # why links ended

    def log(self, name: str, **fields: str | int) -> None:
        """Takes the place of the daemons' log."""
        if name == "link.closed":
            self.reasons[str(fields["reason"])] += 1

    def note(self, *words: object) -> None:
        self.trace.append(f"{trio.current_time():8.1f} " + " ".join(map(str, words)))

    # Act 1

    async def live(self) -> None:
        world, chance = self.world, self.chance
        world.reaches = lambda one, other: self.parted.get(one.name, 0) == self.parted.get(other.name, 0)
        world.cable = self._cable
        ana = await world.founder(NAMES[0], *TASKS)
        self.up.add(ana.name)
        for name in NAMES[1:3]:
            home = await world.admitted(name, *TASKS, by=ana)
            self.up.add(name)
            await self._befriend(home, ana)
        actions = {
            self.publish: 10,
            self.start_or_stop: 4,
            self.newcomer: 3,
            self.befriend: 2,
            self.part: 2,
            self.cut: 3,
            self.hurry: 1,
            self.equivocate: 2 if self.options.forks else 0,
        }
        for _ in range(STEPS):
            (action,) = chance.choices(list(actions), list(actions.values()))
            await action()
            await trio.sleep(chance.choice([0.0, 0.01, 1.0, 60.0]) * chance.random())

    def _cable(self) -> Cable:
        if self.chance.random() < self.options.cut_chance:
            return Cable(bytes_left=int(self.chance.random() ** 2 * self.options.bytes_max))
        return Cable()

    def _some(self, *, writing: bool = False) -> Home | None:
        """A home that is up; one that may write, where that is asked for."""
        homes = [self.world.homes[name] for name in sorted(self.up)]
        if writing:
            homes = [home for home in homes if home.node.spaces and _admitted(home)]
        return self.chance.choice(homes) if homes else None

    async def publish(self) -> None:
        home = self._some(writing=True)
        if home is not None:
            titles = [f"{home.name} {self.chance.random()}" for _ in range(self.chance.choice([1, 1, 2, 7]))]
            run = await home.publish(*titles)
            self.published.update(run.ids)
            self.note("publish", home.name, len(titles))

    async def start_or_stop(self) -> None:
        name = self.chance.choice(sorted(self.world.homes))
        if name in self.up:
            self.up.remove(name)
            self.note("stop", name)
            self.world.homes[name].stop()
            await trio.testing.wait_all_tasks_blocked()
        else:
            await self._start(name)

    async def _start(self, name: str) -> None:
        self.note("start", name)
        self.up.add(name)
        home = await self.world.home(name, *TASKS)
        home.node.dial_known()
        if name in self.joining:
            home.node._nursery.start_soon(self._join, home)

    async def newcomer(self) -> None:
        ana = self.world.homes["ana"]
        if len(self.world.homes) >= self.options.nodes or "ana" not in self.up:
            return
        name = NAMES[len(self.world.homes)]
        invitation = await ana.invite(seconds=10**9)
        others = [self.world.homes[other].address for other in sorted(self.world.homes)]
        addresses = (*self.chance.sample(others, min(2, len(others))), ana.address)
        self.joining[name] = replace(invitation, addresses=tuple(Address(*address) for address in addresses))
        self.note("invite", name)
        await self._start(name)

    async def _join(self, home: Home) -> None:
        _here.set(home)
        try:
            await home.node.newcomer.join(self.joining[home.name], home.name, lambda key: None)
        except CommandError as error:  # welcomed, and cut off before it knew: `join` again says so
            self.note("join", home.name, error.key)
            await trio.sleep(5)
            home.node._nursery.start_soon(self._join, home)
            return
        self.note("joined", home.name)
        del self.joining[home.name]

    async def befriend(self) -> None:
        one, other = self._some(writing=True), self._some()
        if one is not None and other is not None and one is not other:
            await self._befriend(one, other)

    async def _befriend(self, one: Home, other: Home) -> None:
        """From now on `one` dials `other`, in this life and the next ones."""
        await one.store.add_peer(one.space.no, *other.address)
        one.node.sync.know(one.space, other.address, by_hand=True)

    async def part(self) -> None:
        groups = self.chance.choice([1, 2, 3])
        self.parted = {name: self.chance.randrange(groups) for name in NAMES}
        self.note("part", groups)
        self.world.cut(lambda one, other: not self.world.reaches(one, other))

    async def cut(self) -> None:
        self.note("cut")
        self.world.cut(lambda one, other: self.chance.random() < 0.5)

    async def hurry(self) -> None:
        for name in sorted(self.up):
            self.world.homes[name].node.sync.hurry()

    async def equivocate(self) -> None:
        """An author signs two branches behind one entry of a log of its own, and two nodes get one each."""
        one, other = self._some(writing=True), self._some(writing=True)
        if one is None or other is None:
            return
        seed = (await one.store.load_spaces())[0].author_seed
        log_id = one.ambient.entropy(8)
        before = written(one.space.id, seed, filed(*map(str, range(self.chance.choice([1, 4])))), log_id=log_id)
        made = [
            written(one.space.id, seed, filed(*(f"{side} {n}" for n in range(length))), after=before, log_id=log_id)
            for side, length in (("a", self.chance.randint(1, 5)), ("b", self.chance.randint(1, 5)))
        ]
        self.note("equivocate", one.name, other.name)
        await one.take(before, made[0])
        await other.take(before, made[1])
        if other.high(before):
            self.branches.append(before)

    # Act 2

    async def heal(self) -> None:
        world = self.world
        self.parted = {}
        world.cable = Cable
        world.cut()
        self.note("heal")
        for name in sorted(world.homes):
            if name not in self.up:
                await self._start(name)
        ana = world.homes["ana"]
        deadline = trio.current_time() + HEALED_SECONDS
        befriended: set[str] = set()
        while trio.current_time() < deadline:
            for home in world.homes.values():
                if home is not ana and home.node.spaces and home.name not in befriended:
                    befriended.add(home.name)
                    await self._befriend(home, ana)
            await trio.sleep(60)
            if not self.joining and await self.agreed():
                return
        digests = {name: home.node.spaces and (await home.digest()).hex()[:8] for name, home in world.homes.items()}
        raise AssertionError(f"not converged: {digests}, joining {sorted(self.joining)}")

    async def agreed(self) -> bool:
        homes = list(self.world.homes.values())
        return len({await home.digest() for home in homes}) == 1

    async def judge(self) -> None:
        homes = list(self.world.homes.values())
        forked = {run.key for run in self.branches}
        boards = []
        for home in homes:
            assert home.errors == [], home.name
            found = await home.check()
            assert (found["bad"], found["forks"]) == (0, len(forked)), (home.name, found)
            for run in self.branches:
                position = home.store.position(home.space.no, run.key)
                assert position is not None, home.name
                assert (position.state, position.high, position.newest) == (State.FORKED, len(run), run.ids[-1]), (
                    home.name
                )
            board = await home.board()
            boards.append([listed for listed in board if listed.id in self.published])
            assert {listed.id for listed in boards[-1]} == self.published, home.name
        assert all(board == boards[0] for board in boards)
        assert len({frozenset(home.space.members.authors) for home in homes}) == 1
        assert len(homes[0].space.members.authors) == len(homes)
        assert set(self.reasons) <= HONEST_REASONS, self.reasons

    async def end(self) -> None:
        """Everybody stops; nothing of them may go on."""
        for home in self.world.homes.values():
            home.stop()
        await trio.sleep(60)
        assert not self.world.nursery.child_tasks


def _admitted(home: Home) -> bool:
    return home.space.members.admitted(home.space.author)


async def _simulate(seed: int, path: Path, trace: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    options = Options.drawn(chance)
    trace.append(repr(options))
    async with World.open(path, seed=seed, limits=options.limits) as world:
        simulation = Simulation(world, options, chance, trace=trace)
        monkeypatch.setattr(events, "log", simulation.log)
        await simulation.live()
        await simulation.heal()
        await simulation.judge()
        await simulation.end()


def simulate(seed: int) -> None:
    """Runs one seed. Raises AssertionError, with the line that replays it, when something is wrong."""
    run = trio._core._run  # type: ignore[attr-defined]
    scheduling = run._ALLOW_DETERMINISTIC_SCHEDULING
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="p2pnode-sim-", dir=memory if memory.is_dir() else None))
    trace: list[str] = []
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            clock = trio.testing.MockClock(autojump_threshold=0)
            trio.run(_simulate, seed, path, trace, monkeypatch, clock=clock)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        text = "\n".join([*trace, *traceback.format_exception(error)])
        raise AssertionError(f"{text}\npython tests/sim/test_convergence.py --seed {seed}") from None
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = scheduling
        shutil.rmtree(path)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happened_all_agree_once_the_network_heals(seed: int) -> None:
    simulate(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="run this many, from 0 on")
    asked = parser.parse_args()
    failed = []
    for seed in range(asked.seeds) if asked.seed is None else [asked.seed]:
        begun = time.perf_counter()
        try:
            simulate(seed)
        except AssertionError as error:
            failed.append(seed)
            print(error)
        else:
            print(f"seed {seed}: agreed after {time.perf_counter() - begun:.1f} s")
    sys.exit(f"failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
