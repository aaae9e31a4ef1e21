"""Relays in the store: which there are, how far they were read, what lies there, and what of ours does not."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import Everybody, entries, filed, opened, without_payloads

from p2pnode.store import Content, Lack, Posted, Store, file
from p2pnode.store.relays import RelayRow, _gaps
from p2pnode.store.spaces import recount
from protocol.board import Filter
from protocol.entry import LogClass
from protocol.frontier import LogState, State
from protocol.log import Run
from protocol.mailbox import BEGINNING, Cursor

KEY = b"r" * 32
TABLES = ("relay", "topic", "posted", "reread", "theirs")
WEEK = 100


async def counts(store: Store) -> dict[str, int]:
    def read(db: apsw.Connection) -> dict[str, int]:
        return {table: db.execute(f"SELECT count(*) FROM {table}").get for table in TABLES}

    return await store.query(read)


async def read_on(
    store: Store, no: int, topic_no: int, *posted: Posted, first: int = 1, reread: Sequence[int] = ()
) -> None:
    newest = max((p.number for p in posted), default=1)
    await store.relays.read_on(no, topic_no, Cursor(newest, bytes([newest]) * 32), first, posted, reread)


def whole(number: int, run: Run, first: int | None = None, last: int | None = None) -> Posted:
    return Posted(number, run.key, first or run.first_seq, last or run.last_seq, Content.WHOLE)


# Relays


async def test_relays_are_kept_by_space_in_order_and_one_that_moved_is_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        assert store.relays.of(no) == []
        first = await store.relays.add(no, "relay.example", 7000, KEY)
        second = await store.relays.add(no, "relay.example", 7000, b"q" * 32)
        assert first == RelayRow(first.no, "relay.example", 7000, KEY)
        assert store.relays.of(no) == [first, second]
        moved = await store.relays.add(no, "2001:db8::1", 7001, KEY)
        assert moved == RelayRow(first.no, "2001:db8::1", 7001, KEY)
        assert store.relays.of(no) == [moved, second]
        assert store.relays.of(no + 1) == []
    async with opened(tmp_path / "s") as (store, no):
        assert store.relays.of(no) == [moved, second]


async def test_a_relay_that_is_removed_leaves_nothing_and_the_others_lose_nothing(tmp_path: Path) -> None:
    run = entries("ana", [filed() for _ in range(4)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        one, other = [await store.relays.add(no, f"relay{number}", 1, bytes([number]) * 32) for number in range(2)]
        for relay in (one, other):
            for week in range(3):
                topic = await store.relays.topic(relay.no, 1, WEEK + week)
                await read_on(store, no, topic.no, whole(1, run), whole(2, run, 2), reread=[1, 2])
        assert await counts(store) == {"relay": 2, "topic": 6, "posted": 12, "reread": 12, "theirs": 0}
        await store.relays.remove(one.no)
        assert await counts(store) == {"relay": 1, "topic": 3, "posted": 6, "reread": 6, "theirs": 0}
        assert store.relays.of(no) == [other]
        await store.relays.remove(other.no)
        await store.relays.remove(other.no)
        assert set((await counts(store)).values()) == {0}


# Topics


async def test_a_topic_begins_at_its_beginning_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        relay = await store.relays.add(no, "relay", 1, KEY)
        topic = await store.relays.topic(relay.no, 1, WEEK)
        assert topic.cursor == BEGINNING
        assert await store.relays.topic(relay.no, 1, WEEK) == topic
        await store.relays.read_on(no, topic.no, Cursor(9, b"h" * 32), 4, [], [])
        row = await store.relays.topic(relay.no, 1, WEEK)
        assert (row.cursor, row.first) == (Cursor(9, b"h" * 32), 4)
        for epoch, week in ((1, WEEK + 1), (2, WEEK)):
            other = await store.relays.topic(relay.no, epoch, week)
            assert (other.no != topic.no, other.cursor) == (True, BEGINNING)
    async with opened(tmp_path / "s") as (store, no):
        assert (await store.relays.topic(relay.no, 1, WEEK)).cursor == Cursor(9, b"h" * 32)


async def test_only_live_weeks_of_the_newest_epoch_are_kept(tmp_path: Path) -> None:
    run = entries("ana", [filed()])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        relay, other = [await store.relays.add(no, "relay", 1, bytes([number]) * 32) for number in range(2)]
        for epoch, week in ((1, 10), (1, 11), (2, 8), (2, 9), (2, 10), (2, 11), (2, 12)):
            for at in (relay, other):
                await read_on(store, no, (await store.relays.topic(at.no, epoch, week)).no, whole(1, run), reread=[1])
        await store.relays.keep_live(relay.no, 2, range(9, 12))
        kept = await store.query(
            lambda db: db.execute("SELECT epoch, week FROM topic WHERE relay = ? ORDER BY week", (relay.no,)).fetchall()
        )
        assert kept == [(2, 9), (2, 10), (2, 11)]
        assert await counts(store) == {"relay": 2, "topic": 10, "posted": 10, "reread": 10, "theirs": 0}


async def test_what_expired_at_the_relay_lies_there_no_more_and_a_topic_can_begin_again(tmp_path: Path) -> None:
    run = entries("ana", [filed() for _ in range(6)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        relay = await store.relays.add(no, "relay", 1, KEY)
        topic = await store.relays.topic(relay.no, 1, WEEK)
        await read_on(store, no, topic.no, whole(1, run, 1, 2), whole(2, run, 3, 4), whole(3, run, 5, 6), reread=[1, 3])
        mine = {run.key}
        assert [lack for lack in await store.relays.lacking(no, relay.no, ()) if lack.key in mine] == []
        await read_on(store, no, topic.no, first=2)
        assert [lack for lack in await store.relays.lacking(no, relay.no, ()) if lack.key in mine] == [
            Lack(run.key, 1, 2, None)
        ]
        assert store.relays.to_reread(topic.no, 10) == [3]
        await store.relays.begin_again(topic.no)
        assert (await store.relays.topic(relay.no, 1, WEEK)).cursor == BEGINNING
        assert store.relays.to_reread(topic.no, 10) == []
        assert [lack for lack in await store.relays.lacking(no, relay.no, ()) if lack.key in mine] == [
            Lack(run.key, 1, 6, None)
        ]


async def test_messages_to_be_read_again_are_done_with_one_by_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        relay = await store.relays.add(no, "relay", 1, KEY)
        topic, other = [await store.relays.topic(relay.no, 1, week) for week in (1, 2)]
        await read_on(store, no, topic.no, reread=[5, 3, 4, 3])
        await read_on(store, no, other.no, reread=[3])
        assert store.relays.to_reread(topic.no, 10) == [3, 4, 5]
        assert len(store.relays.to_reread(topic.no, 2)) == 2
        await store.relays.reread_done(topic.no, [3, 5, 9])
        assert store.relays.to_reread(topic.no, 10) == [4]
        assert store.relays.waits_elsewhere(relay.no, topic.no)
        await store.relays.reread_done(topic.no, [4])
        assert store.relays.waits_elsewhere(relay.no, topic.no)
        assert not store.relays.waits_elsewhere(relay.no, other.no)
        assert not store.relays.waits_elsewhere(relay.no + 1, topic.no)
        assert store.relays.to_reread(other.no, 10) == [3]


async def test_what_is_said_of_logs_that_are_not_held_here_is_not_written_down(tmp_path: Path) -> None:
    run = entries("ana", [filed()])
    async with opened(tmp_path / "s") as (store, no):
        relay = await store.relays.add(no, "relay", 1, KEY)
        topic = await store.relays.topic(relay.no, 1, WEEK)
        await read_on(store, no, topic.no, whole(1, run))
        await read_on(store, no, topic.no, whole(1, run))
        assert (await counts(store))["posted"] == 0
        await store.commit_runs(no, [run], Everybody())
        for _ in range(2):
            await read_on(store, no, topic.no, whole(1, run))
        assert (await counts(store))["posted"] == 1


# What lies where


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12))), st.integers(0, 40))
def test_gaps_are_what_no_stretch_covers(said: list[tuple[int, int]], high: int) -> None:
    stretches = sorted((first, first + length) for first, length in said)
    covered = {seq for first, last in stretches for seq in range(first, last + 1)}
    assert _gaps(stretches, high) == ranges([seq for seq in range(1, high + 1) if seq not in covered])


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The stretches that these make up."""
    parts = [[n for _, n in group] for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return [(part[0], part[-1]) for part in parts]


POSTED = st.tuples(
    st.integers(0, 3),  # relay and topic
    st.integers(1, 5),  # message
    st.integers(0, 3),  # log
    st.integers(1, 9),
    st.integers(0, 4),
    st.sampled_from(Content),
)


@settings(max_examples=40, deadline=None)
@given(posted=st.lists(POSTED, max_size=14), left_out=st.booleans(), first=st.integers(1, 3))
async def test_what_a_relay_lacks_is_what_a_naive_reader_finds(posted: list[Any], left_out: bool, first: int) -> None:
    """Four logs: ordinary, one whose payload is missing, forked, of membership; two relays of two topics each."""
    async with AsyncExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory())) / "s"
        store, no = await stack.enter_async_context(opened(path, inline=True))
        plain = entries("ana", [filed() for _ in range(8)], number=1)
        bare = entries("ana", [filed() for _ in range(5)], number=2)
        forked = entries("bea", [filed() for _ in range(6)], number=3)
        fork = entries("bea", [filed() for _ in range(3)], after=forked.first(2), number=3)
        said = entries("bea", [bytes(16)] * 3, number=4, log_class=LogClass.MEMBERSHIP, kind=64)
        logs = [plain, bare, forked, said]
        await store.commit_runs(no, [plain, without_payloads(bare, 2), forked, fork, said], Everybody())
        topics, relays = [], []
        for number in range(4):
            relays.append(await store.relays.add(no, "relay", 1, bytes([number // 2]) * 32))
            topics.append(await store.relays.topic(relays[-1].no, 1, number))
        for at, message, log, begin, length, content in posted:
            one = Posted(message, logs[log].key, begin, begin + length, content)
            await store.relays.read_on(no, topics[at].no, Cursor(9, bytes(32)), 1, [one], [])
        await store.relays.read_on(no, topics[0].no, Cursor(9, bytes(32)), first, [], [])
        out = {plain.key} if left_out else set[bytes]()
        for relay in (0, 1):
            told = await store.relays.lacking(no, relays[relay * 2].no, out)
            expected = {log.key: naive(log, relay, log_no, posted, first) for log_no, log in enumerate(logs)}
            for log in logs:
                lacks = [(lack.first, lack.last, lack.fork) for lack in told if lack.key == log.key]
                assert lacks == ([] if log.key in out else expected[log.key])
            classes = [lack.key[0] for lack in told]
            assert classes == sorted(classes), "membership first"


def naive(log: Run, relay: int, log_no: int, posted: list[Any], first: int) -> list[tuple[int, int, int | None]]:
    """What is to be posted of a log, entry by entry: the second lacks a payload here, the third is forked."""
    seen: dict[tuple[Any, ...], int] = {}
    for at, message, number, begin, length, content in posted:
        if number == log_no and at // 2 == relay and (at or message >= first):
            seen.setdefault((at, message, begin, content), begin + length)
    good = {Content.WHOLE, Content.HEADERS} if log_no == 1 else {Content.WHOLE}
    there = {seq for (_, _, begin, content), last in seen.items() if content in good for seq in range(begin, last + 1)}
    fork = 3 if log_no == 2 else None
    proven = fork is not None and any(content is Content.BRANCH and begin <= fork for _, _, begin, content in seen)
    lacks = ranges([seq for seq in range(1, len(log) + 1) if seq not in there])
    if fork is not None and not proven and not lacks:
        lacks = [(fork, len(log))]
    return [(begin, last, None if proven else fork) for begin, last in lacks]


async def test_a_report_lies_at_the_relays_that_hold_it_whole(tmp_path: Path) -> None:
    run = entries("ana", [filed(title=str(number)) for number in range(5)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        relays = [await store.relays.add(no, "relay", 1, bytes([number]) * 32) for number in range(3)]
        topics = [await store.relays.topic(relay.no, 1, WEEK) for relay in relays]
        await read_on(store, no, topics[0].no, whole(1, run, 1, 3), whole(2, run, 2, 4))
        await read_on(store, no, topics[1].no, Posted(1, run.key, 1, 5, Content.HEADERS))
        await read_on(store, no, topics[2].no, whole(1, run, 3, 3))
        assert store.relays.lies_at(no, run.ids[2]) == []  # it is not listed yet
        while await store.index_some():
            pass
        lying = [sorted(store.relays.lies_at(no, id)) for id in run.ids]
        a, _, c = [relay.no for relay in relays]
        assert lying == [[a], [a], [a, c], [a], []]
        assert store.relays.lies_at(no + 1, run.ids[2]) == []
        assert store.relays.lies_at(no, bytes(32)) == []


# The frontier that came with a bundle


async def test_the_frontier_of_the_last_bundle_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    states = [
        LogState(b"\x02" * 17, 2**32 - 1, b"n" * 32, State.ORDINARY),
        LogState(b"\x01" * 17, 0, None, State.FORKED),
        LogState(b"\x00" * 17, 5, b"m" * 32, State.CUT),
    ]
    async with opened(tmp_path / "s") as (store, no):
        assert await store.relays.theirs(no) == {}
        await store.relays.keep_theirs(no, states[:1], anew=True)
        await store.relays.keep_theirs(no, [*states[1:], states[1]], anew=False)
        assert await store.relays.theirs(no) == {state.key: state for state in states}
        assert await store.relays.theirs(no + 1) == {}
        await store.relays.keep_theirs(no, states[2:], anew=True)
        assert await store.relays.theirs(no) == {states[2].key: states[2]}


# The store around it


async def test_a_store_of_the_first_version_is_brought_up_to_date_and_holds_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    every = file.NODE.migrations()
    run = entries("ana", [filed(title=f"Aviso {number}") for number in range(100)])
    monkeypatch.setattr(file.Schema, "migrations", lambda schema: every[:1])
    async with opened(path) as (store, no):
        await store.commit_runs(no, [run], Everybody())
        await store.add_peer(no, "10.0.0.1", 4000)
        while await store.index_some():
            pass
        before = (store.counters(no), await store.digest(no))
        names = await store.query(lambda db: {name for (name,) in db.execute("SELECT name FROM sqlite_schema")})
        assert not set(TABLES) & names
    monkeypatch.setattr(file.Schema, "migrations", lambda schema: every)
    async with opened(path) as (store, no):
        assert (store.counters(no), await store.digest(no)) == before
        assert len(await store.list_reports(Filter(), limit=0, now_s=2_000_000_000)) == 100
        assert store.peers(no) == [("10.0.0.1", 4000)]
        assert await store.check(lambda done, total: None) == {"entries": 101, "logs": 2, "forks": 0, "bad": 0}
        relay = await store.relays.add(no, "relay", 1, KEY)
        (lack,) = [lack for lack in await store.relays.lacking(no, relay.no, ()) if lack.key == run.key]
        assert (lack.first, lack.last) == (1, 100)
        version = await store.query(lambda db: db.pragma("user_version"))
        assert version == len(every) > 1
    monkeypatch.setattr(file.Schema, "migrations", lambda schema: every[:1])
    with pytest.raises(Exception, match="newer"):
        Store.open(path, b"k" * 32)


async def test_what_is_known_of_relays_counts_for_nothing_in_a_check(tmp_path: Path) -> None:
    run = entries("ana", [filed() for _ in range(3)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        before = (store.counters(no), await store.digest(no), await store.check(lambda done, total: None))
        relay = await store.relays.add(no, "relay", 1, KEY)
        await read_on(store, no, (await store.relays.topic(relay.no, 1, WEEK)).no, whole(1, run), reread=[1])
        await store.relays.keep_theirs(no, [LogState(run.key, 1, run.ids[0], State.ORDINARY)], anew=True)
        assert (store.counters(no), await store.digest(no), await store.check(lambda done, total: None)) == before
        assert store.counters(no) == await store.query(lambda db: recount(db, no))
