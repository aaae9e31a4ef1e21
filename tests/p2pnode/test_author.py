"""Signing: logs of one start, numbers that rise, and nothing half done."""

from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.author import SIGN_EACH_MAX
from p2pnode.store import Once, StoreFailed, StoreFull
from protocol.entry import Kind, LogClass
from protocol.errors import InputRefused
from protocol.limits import CHECKPOINT_INTERVAL, LAMPORT_STEP_MAX, RUN_ENTRIES_MAX, TIME_UNIT_SECONDS
from protocol.log import Run, prove_untrusted
from tests.p2pnode.worlds import START, Home, World, claims_of, filed, quiet, written

Clock = trio.testing.MockClock


async def founder_seed(home: Home) -> bytes:
    return (await home.store.load_spaces())[0].author_seed


async def test_entries_of_one_start_follow_each_other_in_one_log_of_each_class(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        runs = [await ana.publish(title) for title in ("uno", "dos", "tres")]
        voice = await ana.publish("oído", log_class=LogClass.VOICE)
        last = await ana.publish("cuatro")

        assert [run.first_seq for run in (*runs, last)] == [1, 2, 3, 4]
        assert len({run.key for run in (*runs, last)}) == 1
        assert [run.prev for run in (*runs, last)] == [None, runs[0].ids[-1], runs[1].ids[-1], runs[2].ids[-1]]
        assert voice.log.log_id != last.log.log_id
        lamports = [run.lamports[0] for run in (*runs, voice, last)]
        assert lamports == sorted(set(lamports))
        for run in (*runs, voice, last):
            prove_untrusted(run)


async def test_a_start_opens_new_logs_that_name_the_authors_earlier_ones(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        (founding,) = await ana.store.membership_runs(ana.space.no)
        first = await ana.publish("uno", "dos")
        assert first.refs == {0: (founding.ids[0],)}
        voice = await ana.publish("oído", log_class=LogClass.VOICE)
        more = await ana.publish("tres")
        assert more.refs == {}
        ana.stop()
        await quiet()
        await world.home("ana")

        again = await ana.publish("cuatro")

        assert (again.first_seq, again.prev) == (1, None)
        assert again.log.log_id != first.log.log_id
        assert set(again.refs[0]) == {founding.ids[-1], voice.ids[-1], more.ids[-1]}
        assert list(again.refs[0]) == sorted(again.refs[0])
        assert again.lamports[0] > more.lamports[-1]


async def test_a_home_restored_from_a_backup_does_not_fork_a_log(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await ana.publish("antes")
        await world.sync(beto, ana)
        ana.stop()
        await quiet()
        backup = ana.path.read_bytes()
        await world.home("ana")
        await ana.publish("después")
        await world.sync(beto, ana)
        ana.stop()
        await quiet()
        ana.path.write_bytes(backup)
        await world.home("ana")
        assert await ana.titles() == ["antes"]
        await ana.publish("otra vez")
        await world.sync(beto, ana)

        assert await ana.titles() == await beto.titles() == ["antes", "después", "otra vez"]
        assert (await beto.check())["forks"] == 0
        assert await ana.digest() == await beto.digest()


async def test_lamport_rises_above_everything_held_but_nobody_drags_it_far(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        seed = await founder_seed(ana)
        own = (await ana.publish("uno")).lamports[-1]
        await ana.take(written(ana.space.id, seed, filed("x"), lamport=5000))
        assert (await ana.publish("dos")).lamports[0] == 5001
        await ana.take(written(ana.space.id, seed, filed("y"), lamport=2**50, log_id=b"far away"))
        assert own < 5000
        assert (await ana.publish("tres")).lamports[0] == 5001 + LAMPORT_STEP_MAX + 1


async def test_time_is_told_in_quarters_of_an_hour(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        await trio.sleep(TIME_UNIT_SECONDS * 1.7)
        run = await ana.publish("uno")
        assert run.times == [(START + TIME_UNIT_SECONDS) // TIME_UNIT_SECONDS]


async def test_who_is_not_admitted_cannot_publish_and_nothing_is_kept(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.claimant("beto", invitation=await ana.invite(), epochs=ana.space.epochs)
        with pytest.raises(BaseException) as refused:  # nothing in between wraps it
            await beto.publish("uno")
        assert isinstance(refused.value, InputRefused)
        assert (refused.value.field, refused.value.reason) == ("space", "not-admitted")
        assert beto.store.counters(beto.space.no).entries == 1

        await ana.take(*claims_of(beto))
        await world.sync(beto, ana)
        assert (await beto.publish("uno")).first_seq == 1


@pytest.mark.parametrize("error", [StoreFull(), StoreFailed("IOError")], ids=["full", "failed"])
async def test_what_could_not_be_kept_is_not_part_of_the_log(
    tmp_path: Path, autojump_clock: Clock, error: Exception
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        first = await ana.publish("uno")
        publish = ana.store.publish

        async def failing(*args: object, **options: object) -> None:
            raise error

        ana.store.publish = failing  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            await ana.publish("perdido")
        ana.store.publish = publish  # type: ignore[method-assign]
        second = await ana.publish("dos")
        assert (second.first_seq, second.prev) == (2, first.ids[-1])
        assert await ana.titles() == ["dos", "uno"]
        assert (await ana.check())["bad"] == 0


async def test_of_many_entries_checkpoints_and_the_last_are_signed_and_of_few_all(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        few = await ana.publish(*map(str, range(SIGN_EACH_MAX)))
        assert set(few.signatures) == set(range(SIGN_EACH_MAX))
        many = await ana.publish(*map(str, range(RUN_ENTRIES_MAX)))
        expected = {i for i in range(RUN_ENTRIES_MAX) if (many.first_seq + i) % CHECKPOINT_INTERVAL == 0}
        assert set(many.signatures) == expected | {RUN_ENTRIES_MAX - 1}
        prove_untrusted(many)
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        assert beto.high(many) == SIGN_EACH_MAX + RUN_ENTRIES_MAX


async def test_several_tasks_that_publish_make_one_chain(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        runs: list[Run] = []

        async def publish(number: int) -> None:
            runs.append(await ana.publish(str(number), f"{number} bis"))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(publish, number)
        runs.sort(key=lambda run: run.first_seq)
        assert [run.first_seq for run in runs] == list(range(1, 41, 2))
        assert len({run.key for run in runs}) == 1
        assert len(await ana.titles()) == 40


async def test_a_call_that_is_repeated_gets_the_same_answer(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        once = Once(b"t" * 16, lambda run: run.ids[0].hex())
        async with ana.node.author.lock:
            run = await ana.node.author.publish(
                ana.space, LogClass.REPORT, [(int(Kind.REPORT), ana.report("uno"))], once=once
            )
        assert await ana.store.once(once.token) == run.ids[0].hex()


async def test_a_claim_alone_on_its_key_is_granted_once_and_two_wait_for_a_person(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        alone, shared = await ana.invite(), await ana.invite()
        names = {"one": alone, "two": shared, "three": shared}
        claims = []
        for name, invitation in names.items():
            claims += claims_of(await world.claimant(name, invitation=invitation, epochs=ana.space.epochs))
        await ana.store.commit_runs(ana.space.no, claims, ana.space)

        granted = await ana.node.author.grant_due(ana.space)

        assert granted is not None
        assert list(granted.kinds) == [Kind.GRANT]
        grants = [known.granted for known in ana.space.members.invites.values()]
        assert sorted(grants, key=lambda author: author or b"") == [None, world.homes["one"].space.author]
        assert await ana.node.author.grant_due(ana.space) is None
