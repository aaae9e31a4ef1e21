"""Bundles between homes: what goes in comes out, once; what is damaged, foreign or forged costs only itself."""

import os
import random
import time
import tracemalloc
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import trio
from storing import without_payloads

import protocol.bundle
from p2pnode import bundles, packing, unpacking
from p2pnode.bundles import Reading
from p2pnode.failures import CommandError, Exit
from p2pnode.unpacking import Ended, Tally
from protocol import keys
from protocol.bundle import SALT_SIZE, Damaged, Head, Opener, Part, Sealer, Unsealer
from protocol.entry import Kind, LogClass
from protocol.frontier import LogState, State
from protocol.invite import Invitation
from protocol.limits import BUNDLE_CHUNK_SIZE
from protocol.log import Run, Verdict
from protocol.messages import Positions, RunMessage
from protocol.padding import padme
from tests.p2pnode.worlds import Home, World, filed, written

STRANGER = b"?" * 32


def silent(done: int, total: int) -> None:
    """Hears how far it has come."""


async def exported(home: Home, path: Path, theirs: dict[bytes, LogState] | None = None) -> bytes:
    """A bundle of what a home has and somebody with this frontier lacks."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        told = await bundles.write(
            home.store, home.space, descriptor, theirs or {}, entropy=home.ambient.entropy, told=silent
        )
    finally:
        os.close(descriptor)
    content = contents(path)
    assert told["bytes"] == len(content)
    return content


def contents(path: Path) -> bytes:
    return path.read_bytes()


async def imported(home: Home, path: Path, *, dry_run: bool = False, told: bundles.Told = silent) -> Reading:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return await bundles.read(home.node.exchange, home.node.spaces, descriptor, dry_run=dry_run, told=told)
    finally:
        os.close(descriptor)


async def taken(home: Home, path: Path, content: bytes, *, dry_run: bool = False) -> Reading:
    """What becomes of a file with this content."""
    with path.open("wb") as file:
        file.write(content)
    return await imported(home, path, dry_run=dry_run)


async def refused(home: Home, path: Path) -> str:
    """The key of the sentence with which a file is refused."""
    with pytest.raises(CommandError) as told:
        await imported(home, path)
    assert told.value.code is Exit.REFUSED
    return told.value.key


def sealed(home: Home, *parts: Part, salt: bytes = b"s" * SALT_SIZE) -> bytes:
    """A bundle as anybody could make it who has the secret."""
    sealer = Sealer(home.space.epochs[-1], salt)
    return b"".join([*(sealer.put(part) for part in parts), sealer.finish()])


def of(*runs: Run) -> list[Part]:
    return [RunMessage(run) for run in runs]


def runs_in(home: Home, content: bytes) -> list[tuple[int, Run]]:
    """The runs of a bundle, each with the number of the chunk in which it ends."""
    unsealer = Unsealer(content[:SALT_SIZE], [Opener(home.space.id, home.space.epochs[-1])])
    found = [
        (number, part.unproven)
        for number, at in enumerate(range(SALT_SIZE, len(content), BUNDLE_CHUNK_SIZE))
        for part in unsealer.read_untrusted(content[at : at + BUNDLE_CHUNK_SIZE])
        if isinstance(part, RunMessage)
    ]
    assert unsealer.whole
    return found


async def seed_of(home: Home) -> bytes:
    """What a home's author signs with."""
    (row,) = await home.store.load_spaces()
    return row.author_seed


async def kept(home: Home) -> tuple[object, ...]:
    """Everything that an import could have changed."""
    no = home.space.no
    return (await home.digest(), home.store.counters(no), await home.store.relays.theirs(no), home.space.members)


# There and back


async def test_a_bundle_makes_two_homes_equal_and_a_second_time_everything_is_known(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await ana.publish(*(f"Aviso {number}" for number in range(200)))
        await ana.publish("Voz", log_class=LogClass.VOICE)
        path = tmp_path / "b"
        await exported(ana, path)
        entries = ana.store.counters(ana.space.no).entries
        first = await imported(beto, path)
        assert first == Reading(beto.space, Tally(new=entries - 1, known=1), 0, True)
        assert await beto.digest() == await ana.digest()
        assert await beto.titles() == await ana.titles()
        second = await imported(beto, path)
        assert second == Reading(beto.space, Tally(known=entries), 0, True)
        assert await beto.check() == await ana.check() == {"entries": entries, "logs": 5, "forks": 0, "bad": 0}


async def test_an_export_looks_like_noise_whose_size_says_little_and_no_two_are_alike(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        await ana.publish(*("Balacera en el puente " * 8 for _ in range(400)))
        first, second = await exported(ana, tmp_path / "1"), await exported(ana, tmp_path / "2")
        assert len(first) == len(second) == padme(len(first))
        assert first[:SALT_SIZE] != second[:SALT_SIZE]
        assert sum(a == b for a, b in zip(first, second, strict=True)) < len(first) / 128
        assert len(zlib.compress(first)) > len(first)
        assert all(len(first) / 512 < first.count(byte) < len(first) / 128 for byte in range(256))
        for marker in (b"Balacera", b"vecinos", b"ana", b"bundle", ana.space.id, ana.space.author, ana.space.epochs[0]):
            assert len(marker) < 4 or marker not in first
        (tmp_path / "small").mkdir()
        small = await world.founder("mia")
        assert len(await exported(small, tmp_path / "3")) == 4096


async def test_a_bundle_of_a_former_epoch_opens_and_one_of_another_space_does_not(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        path = tmp_path / "b"
        await ana.publish("Antes")
        await exported(ana, path)
        beto.space.epochs = (*beto.space.epochs, b"n" * 32)  # type: ignore[misc]
        assert (await imported(beto, path)).tally.new > 0
        ana.space.epochs = (b"o" * 32,)  # type: ignore[misc]
        await exported(ana, path)
        assert await refused(beto, path) == "bundle.foreign"
        await exported(await world.founder("otra"), path)
        assert await refused(beto, path) == "bundle.foreign"


async def test_what_is_published_while_an_export_runs_is_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "WRITE_SIZE", 1)
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        for number in range(20):
            await ana.take(
                written(ana.space.id, await seed_of(ana), filed(f"Antes {number}"), log_id=bytes(7) + b"%c" % number)
            )
        path = tmp_path / "b"
        done = trio.Event()

        async def publishing() -> None:
            number = 0
            while not done.is_set():
                await ana.publish(f"Mientras {number}")
                number += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publishing)
            await trio.lowlevel.checkpoint()
            await exported(ana, path)
            done.set()
        reading = await imported(beto, path)
        assert (reading.tally.early, reading.tally.refused, reading.tally.unknown, reading.whole) == (0, 0, 0, True)
        assert {f"Antes {number}" for number in range(20)} <= set(await beto.titles()) <= set(await ana.titles())
        await exported(ana, path, await frontier(beto))
        await imported(beto, path)
        assert await beto.digest() == await ana.digest()


async def frontier(home: Home) -> dict[bytes, LogState]:
    states = await home.store.query(lambda db: home.store.log_states(db, home.space.no))
    return {state.key: state for state in states}


# What a dry run tells


class Pool:
    """Runs of every kind, of which a test makes bundles and homes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ana: Home
        self.runs: list[Run] = []
        self.honest: list[Run] = []
        self.membership: list[Run] = []
        self.beto: list[Run] = []
        self.forks: list[Run] = []
        self.invitation: Invitation
        self._readers = 0

    @classmethod
    async def made(cls, world: World) -> "Pool":
        pool = cls(world)
        pool.ana = ana = await world.founder("ana")
        members = [await world.admitted(name, by=ana) for name in ("beto", "caro")]
        pool.invitation = await ana.invite()
        space, hers = ana.space.id, await seed_of(ana)
        beto, caro = [await seed_of(member) for member in members]
        membership = await ana.store.membership_runs(ana.space.no)
        (governing,) = [run for run in membership if len(run) > 1]
        thirds = [governing.first(2), governing.since(3).first(1), governing.since(4)]
        logs = [
            written(space, seed, filed(*titles))
            for seed, titles in ((hers, "abcdefghij"), (beto, "klmnop"), (caro, "qrs"))
        ]
        pool.beto = [logs[1].first(2), logs[1].since(3)]
        parts = [
            part
            for log in logs
            for part in (log.first(2), log.since(3).first(1), *([log.since(4)] if len(log) > 3 else []))
        ]
        claims = [run for run in membership if run is not governing and run.log.author != ana.space.author]
        (founding,) = [run for run in membership if run.ids[0] == space]
        pool.membership = [founding, *thirds, *claims]
        pool.honest = pool.membership + parts
        fork = written(space, beto, filed("x", "y"), after=logs[1].first(2))
        pool.forks = [fork, written(space, beto, filed("z"), after=logs[1].first(4)), without_payloads(fork, 0, 1)]
        pool.forks.append(
            written(
                *(space, hers, [bytes(20)]),
                after=governing.first(2),
                log_id=governing.log.log_id,
                log_class=LogClass.MEMBERSHIP,
                kind=200,
            )
        )
        late = written(space, beto, filed("late"), after=logs[1], lamport=1)
        strange = written(space, STRANGER, filed("stranger", "danger"))
        claim = written(space, STRANGER, [bytes(30)], log_class=LogClass.MEMBERSHIP, kind=int(Kind.CLAIM))
        lacking = written(space, caro, filed("lacking", "here"), log_id=b"lacking.")
        unsaid = written(space, caro, [bytes(30)], log_id=b"unsaid..", log_class=LogClass.VOICE, kind=70)
        forged = replace(parts[4], signatures={i: bytes(64) for i in parts[4].signatures})
        pool.runs = [*pool.honest, *pool.forks, late, strange, claim, without_payloads(lacking, 0), forged]
        pool.runs += [without_payloads(unsaid, 0), unsaid, governing, *logs]
        return pool

    async def reader(self, *held: Run) -> Home:
        """A home that was welcomed, and holds its claim and these."""
        self._readers += 1
        name = f"reader{self._readers}"
        home = await self.world.claimant(name, invitation=self.invitation, epochs=self.ana.space.epochs)
        for run in held:
            await home.node.exchange.commit(home.space, [run])
        return home


@pytest.mark.parametrize("part", range(4))
async def test_a_dry_run_says_what_the_import_then_does_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Over bundles of any runs in any order, in transactions of any size, into homes that hold any of them."""
    seen = Tally()
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        for number in range(part * 12, part * 12 + 12):
            draw = random.Random(number)
            monkeypatch.setattr(bundles, "COMMIT_SIZE", draw.choice([1, 1 << 20]))
            held = (
                draw.sample(pool.runs, draw.choice([0, 4, 12]))
                if draw.random() < 0.5
                else pool.honest[: draw.randrange(14)]
            )
            home = await pool.reader(*held)
            # half of them with frames long enough that every chunk, and so every transaction, holds few
            pause = [Positions((LogState(bytes(17), 1, bytes(32), State.ORDINARY),) * 512)] * draw.choice([0, 2])
            chosen = draw.sample(pool.runs, draw.randrange(1, len(pool.runs)))
            content = sealed(home, Head(5), *(part for run in chosen for part in (*pause, *of(run))))
            before = await kept(home)
            forecast = await taken(home, tmp_path / "b", content, dry_run=True)
            assert await kept(home) == before, number
            reading = await taken(home, tmp_path / "b", content)
            assert asdict(reading.tally) == asdict(forecast.tally), number
            assert (reading.damaged, reading.whole) == (forecast.damaged, forecast.whole) == (0, True)
            for name, count in asdict(reading.tally).items():
                setattr(seen, name, getattr(seen, name) + count)
            assert (await home.check())["bad"] == 0
            home.stop()
    assert all(asdict(seen).values()), seen


async def test_a_newcomer_takes_everybodys_reports_out_of_an_honest_bundle_at_once(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        full, home = await pool.reader(*pool.honest), await pool.reader()
        reading = await taken(home, tmp_path / "b", await exported(full, tmp_path / "b"))
        assert reading.tally == Tally(new=full.store.counters(full.space.no).entries)
        assert await home.titles() == sorted("abcdefghijklmnopqrs")


@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_claims_and_invitations_may_stand_in_any_order_before_the_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(bundles, "COMMIT_SIZE", size)
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        pause = [Positions((LogState(b"\x02" * 17, 1, bytes(32), State.ORDINARY),) * 512)] * 3
        for number in range(6):
            home = await pool.reader()
            order = random.Random(number).sample(pool.membership, len(pool.membership))
            said = [part for run in order for part in (*of(run), *pause)]
            reading = await taken(home, tmp_path / "b", sealed(home, *said, *of(*pool.honest)))
            assert (reading.tally.new, reading.tally.unknown) == (sum(map(len, pool.honest)), 0)
            home.stop()


async def test_a_fork_travels_with_its_proof_and_whoever_holds_either_branch_learns_of_it(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        ours = await pool.reader(*pool.honest, *pool.forks[:2])
        content = await exported(ours, tmp_path / "b")
        one, other = (
            await pool.reader(*pool.honest),
            await pool.reader(*pool.honest[:8], pool.honest[10], pool.forks[0]),
        )
        nobody = await pool.reader()
        for home in (one, other, nobody):
            forecast = await taken(home, tmp_path / "b", content, dry_run=True)
            reading = await taken(home, tmp_path / "b", content)
            assert reading == forecast
            assert reading.tally.forked > 0
            assert (await home.check())["forks"] == 1
        again = await taken(nobody, tmp_path / "b", content)
        assert again.tally.new == 0


async def test_rows_that_are_damaged_here_are_left_out_and_the_rest_of_the_bundle_is_good(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        run = await ana.publish(*(f"Aviso {number}" for number in range(200)))
        await ana.publish("Voz", log_class=LogClass.VOICE)
        held = ana.store.held(ana.space.no, [run.key])[run.key]
        await ana.store.write(
            lambda db: db.execute("UPDATE entry SET time = time + 1 WHERE no = ?", (held.row(150),)), durable=False
        )
        await exported(ana, tmp_path / "b")
        reading = await imported(beto, tmp_path / "b")
        assert (reading.tally.refused, reading.damaged, reading.whole) == (0, 0, True)
        assert beto.high(run) == 128
        assert (await beto.check())["bad"] == 0


# The answer to a bundle


@pytest.mark.parametrize("forked", [False, True])
async def test_the_answer_to_a_bundle_is_what_its_maker_lacks_and_nothing_else(tmp_path: Path, forked: bool) -> None:
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        for number in range(12):
            draw = random.Random(number)
            runs = [*pool.honest, *(pool.forks[:2] if forked else ())]
            left = await pool.reader(*(run for run in runs if draw.random() < 0.8))
            right = await pool.reader(*draw.sample(runs, len(runs)))
            await exported(left, tmp_path / "out")
            await imported(right, tmp_path / "out")
            theirs = await right.store.relays.theirs(right.space.no)
            assert theirs == await frontier(left)
            answer = await exported(right, tmp_path / "back", theirs)
            if not forked:
                for _, run in runs_in(right, answer):
                    assert run.first_seq > left.high(run)
            reading = await imported(left, tmp_path / "back")
            assert (reading.tally.early, reading.tally.refused) == (0, 0)
            if left.space.members == right.space.members:
                assert await left.digest() == await right.digest(), number
            left.stop()
            right.stop()


async def test_an_old_bundle_of_somebody_is_enough_to_leave_out_what_is_in_it(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await ana.publish("uno", "dos")
        await exported(ana, tmp_path / "old")
        await ana.publish("tres")
        descriptor = os.open(tmp_path / "old", os.O_RDONLY)
        since = await bundles.frontier_of(ana.space, descriptor)
        os.close(descriptor)
        answer = await exported(ana, tmp_path / "new", since)
        assert [(run.first_seq, len(run)) for _, run in runs_in(ana, answer)] == [(3, 1)]
        assert (await imported(beto, tmp_path / "new")).tally == Tally(unknown=1)
        await imported(beto, tmp_path / "old")
        assert (await imported(beto, tmp_path / "new")).tally == Tally(new=1)
        assert await ana.digest() == await beto.digest()


async def test_of_a_log_that_is_another_below_its_height_there_all_is_packed(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        home = await pool.reader(*pool.honest)
        theirs = await frontier(home)
        assert (await packing.order(home.store, home.space, theirs)).entries == 0
        key = pool.honest[-1].key
        ours = theirs[key]

        async def packed(**said: object) -> list[tuple[int, int]]:
            order = await packing.order(home.store, home.space, {**theirs, key: replace(ours, **said)})  # type: ignore[arg-type]
            return [(lack.first, lack.last) for lack in order.lacks]

        assert await packed(high=2, newest=bytes(32)) == [(1, ours.high)]
        assert await packed(high=2, newest=home.store.id_at(home.space.no, key, 2)) == [(3, ours.high)]
        assert await packed(high=0, newest=None) == [(1, ours.high)]
        assert await packed(high=0, newest=None, state=State.FORKED) == []
        assert await packed(high=2**32 - 1, newest=bytes(32)) == []


async def test_the_frontier_that_a_maker_claims_is_remembered_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "THEIRS_MAX", 700)
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        states = [LogState(b"\x02%016d" % number, 1, bytes(32), State.ORDINARY) for number in range(5000)]
        content = sealed(ana, *(Positions(tuple(states[at : at + 500])) for at in range(0, 5000, 500)))
        reading = await taken(ana, tmp_path / "b", content)
        assert (reading.tally, reading.whole) == (Tally(), True)
        assert len(await ana.store.relays.theirs(ana.space.no)) == 700
        await exported(ana, tmp_path / "b")
        await imported(ana, tmp_path / "b")
        assert set(await ana.store.relays.theirs(ana.space.no)) == set(await frontier(ana))


# Damage


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.bundle, "BUNDLE_SEGMENT_CHUNKS", 2)


async def long_one(world: World, path: Path) -> tuple[Home, Home, bytes]:
    """Who made it, who is to read it and knows the members already, and a bundle of some twenty chunks."""
    ana = await world.founder("ana")
    beto = await world.admitted("beto", by=ana)
    for _ in range(2):  # claims stand before the invitations
        await beto.take(*(await ana.store.membership_runs(ana.space.no)))
    seed = await seed_of(ana)
    draw = random.Random(1)
    for number in range(60):
        log = written(ana.space.id, seed, [draw.randbytes(9000), *filed(f"{number}")], log_id=b"%08d" % number)
        await ana.take(log)
    content = await exported(ana, path)
    return ana, beto, content


async def test_a_flipped_bit_costs_what_is_left_of_its_segment_and_nothing_else(
    tmp_path: Path, short_segments: None
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto, content = await long_one(world, tmp_path / "b")
        spans: list[tuple[int, int, int]] = []
        for ends, run in runs_in(ana, content):
            spans.append((spans[-1][1] if spans else 0, ends, len(run) if run.log.log_class else 0))
        whole = await imported(beto, tmp_path / "b", dry_run=True)
        assert whole.tally.new == sum(span[2] for span in spans) == 120
        chunks = -(-(len(content) - SALT_SIZE) // BUNDLE_CHUNK_SIZE)
        assert chunks > 8
        draw = random.Random(2)
        for chunk in range(chunks):
            damaged = bytearray(content)
            at = SALT_SIZE + chunk * BUNDLE_CHUNK_SIZE
            damaged[draw.randrange(at, min(at + BUNDLE_CHUNK_SIZE, len(content)))] ^= 1 << draw.randrange(8)
            lost = range(chunk, (chunk // 2 + 1) * 2)
            reading = await taken(beto, tmp_path / "d", bytes(damaged), dry_run=True)
            surely = sum(count for _, ends, count in spans if ends in lost)
            perhaps = sum(count for begins, ends, count in spans if set(range(begins, ends + 1)) & set(lost))
            assert 120 - perhaps <= reading.tally.new <= 120 - surely, chunk
            assert (reading.damaged, reading.tally.refused, reading.tally.unknown) == (1, 0, 0)
            assert reading.whole == (chunks - 1 not in lost)
        assert (await imported(beto, tmp_path / "d")).tally.new > 0
        await imported(beto, tmp_path / "b")
        assert await ana.digest() == await beto.digest()


async def test_a_bundle_that_was_cut_off_says_so_and_gives_what_is_there(tmp_path: Path, short_segments: None) -> None:
    async with World.open(tmp_path) as world:
        ana, beto, content = await long_one(world, tmp_path / "b")
        draw = random.Random(3)
        ends = [*range(SALT_SIZE, len(content), BUNDLE_CHUNK_SIZE), *(draw.randrange(len(content)) for _ in range(40))]
        before = -1
        for end in sorted([*ends, len(content) - 1, 0, 1, SALT_SIZE - 1, SALT_SIZE + 1]):
            if end < SALT_SIZE + BUNDLE_CHUNK_SIZE:
                (tmp_path / "d").write_bytes(content[:end])
                assert await refused(beto, tmp_path / "d") == "bundle.foreign"
                continue
            reading = await taken(beto, tmp_path / "d", content[:end], dry_run=True)
            assert (reading.whole, reading.tally.refused) == (False, 0)
            assert reading.tally.new >= before
            before = reading.tally.new
        await taken(beto, tmp_path / "d", content[: len(content) // 2])
        await imported(beto, tmp_path / "b")
        assert await ana.digest() == await beto.digest()


async def test_two_bundles_in_one_file_are_the_first_one_damaged(tmp_path: Path, short_segments: None) -> None:
    async with World.open(tmp_path) as world:
        ana, beto, content = await long_one(world, tmp_path / "b")
        reading = await taken(beto, tmp_path / "d", content + await exported(ana, tmp_path / "c"), dry_run=True)
        assert (reading.whole, reading.tally.refused, reading.damaged > 0) == (False, 0, True)
        assert reading.tally.new > 0
        reading = await taken(beto, tmp_path / "d", content + bytes(100), dry_run=True)
        assert (reading.whole, reading.damaged > 0) == (False, True)


@pytest.mark.parametrize("name", ["empty", "one byte", "png", "salt", "zeros", "noise", "text"])
async def test_a_file_that_is_no_bundle_is_refused_and_nothing_is_kept(tmp_path: Path, name: str) -> None:
    content = {
        "empty": b"",
        "one byte": b"x",
        "png": b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(100_000),
        "salt": bytes(SALT_SIZE),
        "zeros": bytes(5_000_000),
        "noise": random.Random(2).randbytes(9_000_000),
        "text": b"{}\n" * 10_000,
    }[name]
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        before = await kept(ana)
        (tmp_path / "b").write_bytes(content)
        for _ in range(3):
            assert await refused(ana, tmp_path / "b") == "bundle.foreign"
        assert await kept(ana) == before


async def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        for path in (Path("/dev/zero"), Path("/dev/full"), tmp_path):
            assert await refused(ana, path) == "bundle.no_file"
        for path in (Path("/dev/full"), Path("/dev/null")):
            with pytest.raises(CommandError, match=r"bundle\.no_file"):
                await exported(ana, path)
        descriptor = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(CommandError, match=r"bundle\.no_file"):
            await bundles.frontier_of(ana.space, descriptor)
        os.close(descriptor)
        assert await refused(ana, Path("/proc/self/mem")) == "bundle.foreign"  # a file of no size


@pytest.mark.parametrize("size", [1 << 30, 1 << 42])
async def test_a_file_of_a_gigabyte_of_zeros_is_refused_within_a_second(tmp_path: Path, size: int) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        with (tmp_path / "b").open("wb") as file:
            file.truncate(size)
        begun = time.monotonic()
        assert await refused(ana, tmp_path / "b") == "bundle.foreign"
        assert time.monotonic() - begun < 1


async def test_gigabytes_of_zeros_behind_a_bundle_are_passed_over(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        _, beto, _ = await long_one(world, tmp_path / "b")
        with (tmp_path / "b").open("r+b") as file:
            file.truncate(1 << 32)
        begun = time.monotonic()
        reading = await imported(beto, tmp_path / "b", dry_run=True)
        assert (reading.whole, reading.damaged) == (False, 1024)
        assert reading.tally.new > 100
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize("change", ["grows", "shrinks", "is overwritten"])
async def test_a_file_that_changes_while_it_is_read_ends_where_it_ended_or_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_segments: None, change: str
) -> None:
    monkeypatch.setattr(bundles, "COMMIT_SIZE", 1)
    async with World.open(tmp_path) as world:
        ana, beto, content = await long_one(world, tmp_path / "b")
        heard: list[int] = []

        def told(done: int, total: int) -> None:
            assert done <= total == len(content)
            if heard:
                return
            heard.append(done)
            with (tmp_path / "b").open("r+b") as file:
                match change:
                    case "grows":
                        file.seek(0, os.SEEK_END)
                        file.write(bytes(1_000_000))
                    case "shrinks":
                        file.truncate(len(content) // 2)
                    case _:
                        file.write(bytes(len(content)))

        reading = await imported(beto, tmp_path / "b", told=told)
        assert reading.whole == (change == "grows")
        assert reading.tally.refused == 0
        assert await taken(beto, tmp_path / "b", content)
        assert await ana.digest() == await beto.digest()


# Somebody with the secret who means harm


async def test_what_is_forged_is_refused_and_counted_and_the_rest_is_taken(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        home = await pool.reader(*pool.honest[:8])
        space, seed = home.space.id, await seed_of(pool.ana)
        good = written(space, seed, filed("good"), log_id=b"good....")
        forged = written(space, seed, filed("forged", "too"), log_id=b"forged..")
        forged = replace(forged, signatures=dict.fromkeys(forged.signatures, bytes(64)))
        other = replace(forged, signatures=written(space, STRANGER, filed("forged", "too")).signatures)
        unsealed = sealed(home, *of(forged, good, other))
        junk = protocol.bundle._frames(RunMessage(forged))[0]
        assert unsealed
        reading = await taken(home, tmp_path / "b", unsealed)
        assert reading == Reading(home.space, Tally(new=1, refused=4), 0, True)
        sealer = Sealer(home.space.epochs[-1], bytes(SALT_SIZE))
        for number in (3, 9, 10, 14, 32, 33, 34, 99):
            for body in (b"", b"\xff", b"\x80", junk[4:20], b"[" * 1000, b"\x9b" + b"\xff" * 8):
                sealer._content.append(bytes([number]) + len(body).to_bytes(3, "big") + body)
                sealer._size += 4 + len(body)
        ends = written(space, seed, filed("end"), log_id=b"end.....")
        reading = await taken(home, tmp_path / "b", sealer.put(RunMessage(ends)) + sealer.finish())
        assert (reading.tally.new, reading.whole) == (1, True)
        assert reading.damaged > 20


async def test_ten_thousand_tiny_runs_are_taken_or_refused_a_transaction_at_a_time(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        home = await pool.reader(*pool.honest)
        sealer = Sealer(home.space.epochs[-1], bytes(SALT_SIZE))
        tiny = [run for run in pool.runs if len(run) == 1]
        content = b"".join(sealer.put(RunMessage(tiny[number % len(tiny)])) for number in range(10_000))
        calls: list[int] = []
        commit = home.node.exchange.commit

        async def counted(space: object, runs: Sequence[Run]) -> object:
            calls.append(len(runs))
            return await commit(space, runs)  # type: ignore[arg-type]

        home.node.exchange.commit = counted  # type: ignore[method-assign,assignment]
        begun = time.monotonic()
        reading = await taken(home, tmp_path / "b", content + sealer.finish())
        assert time.monotonic() - begun < 10
        tally = asdict(reading.tally)
        assert sum(tally.values()) == 10_000
        assert max(calls) <= unpacking.WAITING_ENTRIES_MAX
        assert (await home.check())["bad"] == 0


class Chain(unpacking._Unpacking):
    """A store in which of any runs the last one alone turns out to be good."""

    def __init__(self) -> None:
        super().__init__()
        self.judged: list[int] = []

    async def _commit(self, runs: Sequence[Run]) -> Sequence[unpacking.Outcome]:
        self.judged.append(len(runs))
        declined = unpacking.Outcome(b"", unpacking.DECLINED, unpacking.Head(0, None, 0))
        return [declined] * (len(runs) - 1) + [replace(declined, verdict=Verdict.KNOWN)]


async def test_what_waits_for_its_authors_is_bounded_in_entries_bytes_and_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unpacking, "WAITING_ENTRIES_MAX", 50)
    claims = [
        written(bytes(32), keys.derive(bytes(32), b"%d" % number), [bytes(1000)], log_class=LogClass.MEMBERSHIP, kind=2)
        for number in range(100)
    ]
    flood = Chain()
    ended: Ended = await flood.take(claims)
    assert (len(ended), flood.tally) == (50, Tally(known=1, unknown=49))
    await flood.finish()
    assert sum(asdict(flood.tally).values()) == 100
    assert flood.judged == [100, *range(50, 50 - unpacking.ROUNDS_MAX, -1)]
    monkeypatch.setattr(unpacking, "WAITING_SIZE_MAX", 10_500)
    flood = Chain()
    assert len(await flood.take(claims)) == 90
    assert len(await flood.finish()) == 10
    assert await flood.finish() == []


async def test_claims_of_strangers_are_left_out_and_cost_nobody_anything(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        pool = await Pool.made(world)
        home = await pool.reader()
        claims = [
            written(home.space.id, keys.derive(STRANGER, b"%d" % n), [bytes(40)], log_class=LogClass.MEMBERSHIP, kind=2)
            for n in range(300)
        ]
        reading = await taken(home, tmp_path / "b", sealed(home, *of(*claims, *pool.honest)))
        assert reading.tally.unknown == 300
        assert reading.tally.new == sum(map(len, pool.honest))
        assert await home.titles() == sorted("abcdefghijklmnopqrs")


# Bounds


async def test_a_large_home_goes_out_and_comes_in_through_a_few_mebibytes(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        seed, draw = await seed_of(ana), random.Random(1)
        for number in range(48):
            payloads = [draw.randbytes(14_000) for _ in range(64)]
            await ana.take(written(ana.space.id, seed, payloads, log_id=b"%08d" % number))
        tracemalloc.start()
        try:
            content_size = len(await exported_quietly(ana, tmp_path / "b"))
            going_out = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            assert (await imported(beto, tmp_path / "b", dry_run=True)).tally.new > 3000
            looked_at = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            assert (await imported(beto, tmp_path / "b")).tally.new > 3000
            coming_in = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert content_size > 40_000_000
        assert max(going_out, looked_at, coming_in) < 12_000_000, (going_out, looked_at, coming_in)


async def exported_quietly(home: Home, path: Path) -> range:
    """The same as `exported`, its content left on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    told = await bundles.write(home.store, home.space, descriptor, {}, entropy=home.ambient.entropy, told=silent)
    os.close(descriptor)
    return range(told["bytes"])


async def test_a_disk_that_is_full_is_said_and_a_file_that_is_not_empty_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        (tmp_path / "thesis").write_text("mine")
        descriptor = os.open(tmp_path / "thesis", os.O_RDWR)
        with pytest.raises(CommandError, match=r"bundle\.exists"):
            await bundles.write(ana.store, ana.space, descriptor, {}, entropy=ana.ambient.entropy, told=silent)
        os.close(descriptor)
        assert (tmp_path / "thesis").read_text() == "mine"

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(bundles.os, "pwrite", full)
        with pytest.raises(CommandError) as told:
            await exported(ana, tmp_path / "b")
        assert (told.value.code, told.value.fields) == (Exit.FAILED, {"reason": "No space left on device"})


async def test_a_file_opened_the_wrong_way_round_is_an_error_that_can_be_read(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        await exported(ana, tmp_path / "b")
        for flags in (os.O_WRONLY, os.O_PATH):
            descriptor = os.open(tmp_path / "b", flags)
            with pytest.raises((CommandError, ExceptionGroup)) as told:
                await bundles.read(ana.node.exchange, ana.node.spaces, descriptor, dry_run=False, told=silent)
            assert "bundle.disk" in repr(told.value) + repr(getattr(told.value, "exceptions", ""))
            os.close(descriptor)
        assert ana.node.exchange.unpacking == 0
        (tmp_path / "e").touch()
        descriptor = os.open(tmp_path / "e", os.O_RDONLY)
        with pytest.raises(CommandError, match=r"bundle\.disk"):
            await bundles.write(ana.store, ana.space, descriptor, {}, entropy=ana.ambient.entropy, told=silent)
        os.close(descriptor)


def test_damaged_is_told_from_malformed() -> None:
    unsealer = Unsealer(bytes(SALT_SIZE), [])
    assert unsealer.read_untrusted(bytes(100)) == [Damaged()]
    assert unsealer.skip() == 63
    assert unsealer.read_untrusted(bytes(100)) == [Damaged()]
