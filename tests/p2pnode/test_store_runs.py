"""Runs in and out of the store: what is taken, what is told, what is counted."""

from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import SPACE, Everybody, entries, filed, founding, log_of, opened, without_payloads

from p2pnode.store import DECLINED, INVALID, Store
from p2pnode.store.spaces import recount
from protocol.board import Filter
from protocol.entry import LogClass
from protocol.errors import LocalProtocolError
from protocol.frontier import BUCKETS, LogState, State, bucket_digest, bucket_of, digest
from protocol.log import Head, Run, Verdict, prove_untrusted


async def test_what_was_committed_is_read_back_as_it_was(tmp_path: Path) -> None:
    refs = {1: (bytes(32), b"\xff" * 32), 4: (b"\0\1" * 16,)}
    run = entries("ana", [filed(title=f"{n}", text="ñ" * (n * 400 % 4000)) for n in range(200)], refs=refs)
    empty = entries("ana", [b"", bytes(20), b""], number=1)
    async with opened(tmp_path / "s") as (store, no):
        outcomes = await store.commit_runs(no, [run, empty], Everybody())
        assert [outcome.verdict for outcome in outcomes] == [Verdict.EXTENDS, Verdict.EXTENDS]
        held = store.held(no, [run.key])[run.key]
        assert (held.log, held.head) == (run.log, Head(200, run.ids[-1], 200))
        assert store.id_at(no, run.key, 77) == run.ids[76]
        assert store.id_at(no, run.key, 201) is None
        read = store.read_run(no, run.key, 1, 1024, 1 << 20)
        assert read is not None
        assert _columns(prove_untrusted(read)) == _columns(run)
        read = store.read_run(no, empty.key, 1, 1024, 1 << 20)
        assert read is not None
        assert _columns(read) == _columns(empty)
    async with opened(tmp_path / "s") as (store, no):  # and after a restart
        read = store.read_run(no, run.key, 151, 1024, 1 << 20)
        assert read is not None
        assert _columns(prove_untrusted(read)) == _columns(run.since(151))


def _columns(run: Run) -> tuple[object, ...]:
    columns = (run.lamports, run.times, run.kinds, run.payloads, run.ids)
    return (run.space, run.log, run.first_seq, run.prev, run.signatures, run.refs, run.lacks, *map(list, columns))


async def test_a_run_ends_at_a_signed_entry_within_the_bounds(tmp_path: Path) -> None:
    run = entries("ana", [bytes(1000) for _ in range(300)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())

        def upto(first: int, entries_max: int, size_max: int) -> int | None:
            read = store.read_run(no, run.key, first, entries_max, size_max)
            return None if read is None else prove_untrusted(read).last_seq

        assert upto(1, 1024, 1 << 20) == 300
        assert upto(1, 299, 1 << 20) == 256
        assert upto(1, 64, 1 << 20) == 64
        assert upto(1, 63, 1 << 20) is None
        assert upto(1, 1024, 128_000) == 128
        assert upto(1, 1024, 127_999) == 64
        assert upto(257, 1024, 1 << 20) == 300
        assert upto(257, 1024, 1000) is None
        assert upto(300, 1, 1000) == 300
        assert upto(301, 1024, 1 << 20) is None
        assert upto(0, 1024, 1 << 20) is None
        assert store.read_run(no, bytes(17), 1, 1, 1) is None


async def test_a_batch_is_judged_membership_first_and_told_in_the_order_given(tmp_path: Path) -> None:
    gate = Everybody()
    said = entries("bea", [bytes(16)], log_class=LogClass.MEMBERSHIP, kind=2)
    first = entries("ana", [filed(), filed()])
    second = entries("ana", [filed()], after=first)
    early = entries("eva", [filed()], after=entries("eva", [filed()]), number=3)
    seen: list[Run] = []
    gate.taken = seen.append  # type: ignore[method-assign]
    async with opened(tmp_path / "s") as (store, no):
        outcomes = await store.commit_runs(no, [first, early, second, said], gate)
        assert [outcome.verdict for outcome in outcomes] == [
            Verdict.EXTENDS,
            Verdict.EARLY,
            Verdict.EXTENDS,
            Verdict.EXTENDS,
        ]
        assert [run.log for run in seen] == [said.log, first.log, second.log]
        assert outcomes[1].head == Head(0, None, 0)
        assert outcomes[2].head == Head(3, second.ids[-1], 3)
        again = await store.commit_runs(no, [first, second], gate)
        assert [(outcome.verdict, outcome.run, outcome.news) for outcome in again] == [(Verdict.KNOWN, None, False)] * 2
        counters = store.counters(no)
        assert (counters.entries, counters.logs, counters.pending, counters.lamport_max) == (5, 3, 3, 3)


async def test_of_a_run_that_overlaps_only_the_new_part_is_taken(tmp_path: Path) -> None:
    run = entries("ana", [filed() for _ in range(64)])
    more = entries("ana", [filed() for _ in range(10)], after=run)
    both = replace(
        run,
        lamports=[*run.lamports, *more.lamports],
        times=[*run.times, *more.times],
        kinds=[*run.kinds, *more.kinds],
        payloads=[*run.payloads, *more.payloads],
        ids=[*run.ids, *more.ids],
        signatures={**run.signatures, 73: more.signatures[9]},
    )
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        (outcome,) = await store.commit_runs(no, [both], Everybody())
        assert outcome.verdict is Verdict.EXTENDS
        assert outcome.run is not None
        assert _columns(outcome.run) == _columns(more)
        assert store.counters(no).entries == 75


async def test_what_the_gate_declines_leaves_no_trace(tmp_path: Path) -> None:
    run = entries("ana", [filed()])
    gate = Everybody(admit=False)
    async with opened(tmp_path / "s") as (store, no):
        (outcome,) = await store.commit_runs(no, [run], gate)
        assert outcome.verdict is DECLINED
        assert store.position(no, run.key) is None
        assert store.counters(no).entries == 1
        assert gate.told == ["admits", "committed"]
        with pytest.raises(LocalProtocolError):
            await store.publish(no, run, gate)
        assert gate.told[2:] == ["admits", "rolled back"]


async def test_a_run_that_breaks_its_log_spoils_nobody_elses(tmp_path: Path) -> None:
    first = entries("ana", [filed()], lamport=9)
    backwards = entries("ana", [filed()], after=first, lamport=5)
    other = entries("bea", [filed()])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [first], Everybody())
        outcomes = await store.commit_runs(no, [backwards, other], Everybody())
        assert [outcome.verdict for outcome in outcomes] == [INVALID, Verdict.EXTENDS]


async def test_a_job_that_fails_is_rolled_back_and_the_gate_hears_of_it(tmp_path: Path) -> None:
    class Broken(Everybody):
        def taken(self, run: Run, /) -> None:
            super().taken(run)
            raise ZeroDivisionError

    gate = Broken()
    async with opened(tmp_path / "s") as (store, no):
        with pytest.raises(ZeroDivisionError):
            await store.commit_runs(no, [entries("ana", [filed()])], gate)
        assert gate.told == ["admits", "taken", "rolled back"]
        assert store.counters(no).entries == 1
        await _counters_are_right(store, no)


# Payloads that come later


async def test_payloads_may_come_later_and_then_are_listed(tmp_path: Path) -> None:
    run = entries("ana", [filed(title=f"aviso {n}") for n in range(3)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [without_payloads(run, 0, 2)], Everybody())
        assert store.counters(no).missing == 2
        assert await store.index_some() == 0
        listed = await store.list_reports(Filter(), limit=0, now_s=2_000_000_000)
        assert [item.report.title for item in listed] == ["aviso 1"]
        read = store.read_run(no, run.key, 1, 9, 1 << 20)
        assert read is not None
        assert _columns(read) == _columns(without_payloads(run, 0, 2))
        (outcome,) = await store.commit_runs(no, [without_payloads(run, 1, 2)], Everybody())
        assert (outcome.verdict, outcome.news, store.counters(no).missing) == (Verdict.KNOWN, True, 1)
        await store.commit_runs(no, [run], Everybody())
        assert store.counters(no).missing == 0
        listed = await store.list_reports(Filter(), limit=0, now_s=2_000_000_000)
        assert sorted(item.report.title for item in listed) == ["aviso 0", "aviso 1", "aviso 2"]
        await _counters_are_right(store, no)


async def test_what_is_missing_is_wanted_in_stretches_that_a_peer_can_serve(tmp_path: Path) -> None:
    run = entries("ana", [filed() for _ in range(150)])
    other = entries("bea", [filed()], number=1)
    async with opened(tmp_path / "a") as (holder, no), opened(tmp_path / "b") as (store, _):
        await holder.commit_runs(no, [run, other], Everybody())
        await store.commit_runs(no, [without_payloads(run, 4, 5, 40, 70, 149), without_payloads(other, 0)], Everybody())
        wanted = store.wanted(no, 100)
        assert wanted == [(run.key, 5, 64), (run.key, 71, 128), (run.key, 150, 150), (other.key, 1, 1)]
        assert store.wanted(no, 1) == wanted[:1]
        for key, first, last in wanted:
            answer = holder.read_run(no, key, first, last - first + 1, 1 << 20)
            assert answer is not None
            await store.commit_runs(no, [prove_untrusted(answer)], Everybody())
        assert store.wanted(no, 100) == []
        assert store.counters(no).missing == 0


async def test_logs_of_membership_and_voice_may_lack_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        for log_class in (LogClass.MEMBERSHIP, LogClass.VOICE):
            run = entries("ana", [bytes(20)], log_class=log_class, kind=9)
            (outcome,) = await store.commit_runs(no, [without_payloads(run, 0)], Everybody())
            assert outcome.verdict is DECLINED


async def test_a_damaged_row_is_neither_sent_nor_lost_for_good(tmp_path: Path) -> None:
    run = entries("ana", [filed(title=f"aviso {n}") for n in range(130)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        await store.write(
            lambda db: db.execute("UPDATE entry SET payload = zeroblob(size) WHERE no & 0xffffffff = 100"), durable=True
        )
        read = store.read_run(no, run.key, 1, 1024, 1 << 20)
        assert read is not None
        assert read.last_seq == 64
        await store.index_some()  # also lets the row be set aside
        assert store.counters(no).missing == 1
        assert store.read_run(no, run.key, 65, 1024, 1 << 20) is None
        assert (await store.check(lambda done, total: None))["bad"] == 66
        await store.commit_runs(no, [run.since(65)], Everybody())
        await _counters_are_right(store, no)
        read = store.read_run(no, run.key, 1, 1024, 1 << 20)
        assert read is not None
        assert _columns(read) == _columns(run)
        assert (await store.check(lambda done, total: None))["bad"] == 0


# Forks


async def test_both_holders_of_a_fork_reach_one_state_and_can_prove_it_to_a_third(tmp_path: Path) -> None:
    trunk = entries("ana", [filed() for _ in range(70)])
    left = entries("ana", [filed() for _ in range(100)], after=trunk)
    right = entries("ana", [filed() for _ in range(3)], after=trunk)
    digests, runs = [], []
    for name, mine, other in (("a", left, right), ("b", right, left)):
        async with opened(tmp_path / name) as (store, no):
            await store.commit_runs(no, [trunk, mine], Everybody())
            before = await store.digest(no)
            (outcome,) = await store.commit_runs(no, [other], Everybody())
            assert (outcome.verdict, outcome.seq, outcome.news) == (Verdict.FORK, 71, True)
            assert store.position(no, trunk.key) == LogState(trunk.key, 70, trunk.ids[-1], State.FORKED)
            digests.append(await store.digest(no))
            assert digests[-1] != before
            (again,) = await store.commit_runs(no, [other], Everybody())
            assert (again.verdict, again.news) == (Verdict.HELD, False)
            evidence = store.fork_evidence(no, trunk.key)
            assert evidence is not None
            assert evidence.ids == list(other.ids)[: len(evidence)]
            read = store.read_run(no, trunk.key, 1, 1024, 1 << 20)
            assert read is not None
            runs += [read, prove_untrusted(evidence)]
            assert (await store.check(lambda done, total: None))["forks"] == 1
    async with opened(tmp_path / "c") as (store, no):
        outcomes = await store.commit_runs(no, runs[:2], Everybody())
        assert [outcome.verdict for outcome in outcomes] == [Verdict.EXTENDS, Verdict.FORK]
        digests.append(await store.digest(no))
        assert store.fork_evidence(no, founding().key) is None
    assert len(set(digests)) == 1


async def test_a_lower_fork_takes_the_place_of_a_higher_one(tmp_path: Path) -> None:
    trunk = entries("ana", [filed() for _ in range(5)])
    run = entries("ana", [filed() for _ in range(5)], after=trunk)
    high = entries("ana", [filed()], after=trunk)
    low = entries("ana", [filed()])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [trunk, run, high], Everybody())
        position = store.position(no, trunk.key)
        assert position == LogState(trunk.key, 5, trunk.ids[-1], State.FORKED)
        (outcome,) = await store.commit_runs(no, [low], Everybody())
        assert (outcome.verdict, outcome.seq) == (Verdict.FORK, 1)
        assert store.position(no, trunk.key) == LogState(trunk.key, 0, None, State.FORKED)
        assert store.fork_evidence(no, trunk.key) is not None
        (outcome,) = await store.commit_runs(no, [entries("ana", [filed()], after=run)], Everybody())
        assert outcome.verdict is Verdict.HELD
        await _frontier_is_right(store, no)


# Counters and frontier against a recount

_step = st.tuples(
    st.integers(0, 3),  # log
    st.integers(1, 3),  # entries
    st.sampled_from(["extend", "again", "fork", "lack", "fill", "index", "digest", "early"]),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(_step, max_size=25))
async def test_counters_and_frontier_equal_a_recount_after_anything(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str]]
) -> None:
    last: dict[int, Run] = {}
    whole: list[Run] = []
    async with opened(tmp_path_factory.mktemp("s") / "s", inline=True) as (store, no):
        for number, count, what in steps:
            log_class = LogClass(number % 3)
            after = last.get(number)
            run = entries(
                "ana", [filed() for _ in range(count)], after=after, number=number, log_class=log_class, kind=64
            )
            match what:
                case "extend":
                    batch = [run]
                    last[number] = run
                case "again":
                    batch = whole[-3:]
                case "fork":
                    batch = [entries("ana", [filed()], number=number, log_class=log_class)]
                case "lack":
                    batch = [without_payloads(run, count - 1)]
                    if log_class is LogClass.REPORT:
                        last[number] = run
                case "fill":
                    batch = whole
                case "early":
                    batch = [entries("ana", [filed()], after=run, number=number, log_class=log_class)]
                case "index":
                    batch = []
                    await store.index_some(count)
                case _:
                    batch = []
                    await store.digest(no)
            whole += [run] if what in ("extend", "lack") else []
            await store.commit_runs(no, batch, Everybody())
        await _counters_are_right(store, no)
        await _frontier_is_right(store, no)
        while await store.index_some(2):
            pass
        await _counters_are_right(store, no)


async def _counters_are_right(store: Store, no: int) -> None:
    assert store.counters(no) == await store.query(lambda db: recount(db, no))


async def _frontier_is_right(store: Store, no: int) -> None:
    def naive(db: apsw.Connection) -> list[LogState]:
        states = []
        rows = db.execute("SELECT no, key, high, newest, fork FROM log WHERE space = ? ORDER BY key", (no,)).fetchall()
        for log_no, key, high, newest, fork in rows:
            if fork is None:
                states.append(LogState(key, high, newest, State.ORDINARY))
            else:
                trusted = db.execute("SELECT id FROM entry WHERE no = ?", (log_no << 32 | fork - 1,)).get
                states.append(LogState(key, fork - 1, trusted, State.FORKED))
        return states

    states = await store.query(naive)
    assert await store.query(lambda db: store.log_states(db, no)) == states
    assert store.positions(no, [state.key for state in states]) == {state.key: state for state in states}
    buckets = [bucket_digest(s for s in states if bucket_of(s.key) == number) for number in range(BUCKETS)]
    assert await store.digest(no) == digest(SPACE, buckets)


# Own authors


async def test_an_author_finds_where_its_earlier_logs_ended(tmp_path: Path) -> None:
    first = entries("ana", [filed(), filed()], number=1, lamport=10)
    second = entries("ana", [filed()], number=2, lamport=40)
    voice = entries("ana", [bytes(16)], number=3, lamport=30, log_class=LogClass.VOICE, kind=65)
    async with opened(tmp_path / "s") as (store, no):
        author = log_of("ana").author
        assert (store.author_lamport(no, author), store.author_heads(no, author)) == (0, [])
        await store.commit_runs(no, [first, second, voice, entries("bea", [filed()], lamport=99)], Everybody())
        assert store.author_lamport(no, author) == 40
        assert sorted(store.author_heads(no, author)) == sorted([second.ids[0], voice.ids[0]])
        head = store.held(no, [first.key])[first.key].head
        assert (head.lamport, head.high) == (11, 2)
        assert [len(run) for run in await store.membership_runs(no)] == [1]
