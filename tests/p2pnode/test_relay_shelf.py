"""The shelf of a relay: what every engine answers, on SQLite and on PostgreSQL."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import postgresql
import pytest
import trio
import trio.testing
from postgresql import Server
from shelves import (
    KEY,
    LATER,
    QUOTAS,
    TODAY,
    Engine,
    NaiveShelf,
    PostgresqlEngine,
    SqliteEngine,
    chain,
    everything,
    fill_topic,
    letter,
    topic,
)

from p2pnode.relay.shelf import REMEMBERED_DAYS, Page, Quotas, Refusal, Shelf, Totals
from p2pnode.relay.sqlite import SqliteShelf
from p2pnode.store import StoreFull
from protocol.mailbox import message_hash

A, B, C = topic(1), topic(2), topic(3)
NOTHING = Page(1, 0, 0, bytes(32), ())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if reason := postgresql.absent():
        pytest.skip(reason)
    with postgresql.server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param == "sqlite":
        return SqliteEngine(tmp_path / "shelf.db")
    running: Server = request.getfixturevalue("server")
    return PostgresqlEngine(running.database())


# Appending


async def test_messages_are_numbered_from_one_without_gaps_in_each_topic(engine: Engine) -> None:
    async with engine.opened() as shelf:
        for number in range(1, 6):
            for key in (A, B):
                message = letter(number) + key
                assert await shelf.append(key, message, today=TODAY, keep_until=LATER) == number


async def test_what_was_appended_is_there_when_the_shelf_is_opened_again(engine: Engine) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 20)
        before = await everything(shelf, A)
    async with engine.opened() as shelf:
        assert await everything(shelf, A) == before
        await fill_topic(shelf, A, 1, first=21)


async def test_a_message_is_any_bytes_and_comes_back_as_it_was(engine: Engine) -> None:
    messages = [b"\0", b"'; DROP TABLE message; --", "ñandú".encode(), b"%s\xff\xfe", letter(1, 1024 * 1024), b""]
    async with engine.opened() as shelf:
        for message in messages:
            await shelf.append(A, message, today=TODAY, keep_until=LATER)
        page = await shelf.read(A, 0, count_max=100, size_max=2**30)
        assert list(page.messages) == messages


async def test_the_same_message_gets_the_same_number_and_is_stored_once(engine: Engine) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 3)
        before = await shelf.sizes()
        for number in (2, 3, 1):
            assert await shelf.append(A, letter(number), today=TODAY + 1, keep_until=LATER + 1) == number
        assert await shelf.sizes() == before
        assert (await everything(shelf, A))[1] == [letter(1), letter(2), letter(3)]
        assert await shelf.append(B, letter(2), today=TODAY, keep_until=LATER) == 1  # another topic's own


async def test_the_same_message_from_many_at_once_is_one(engine: Engine) -> None:
    numbers: list[int | Refusal] = []
    async with engine.opened() as shelf, engine.opened() as other, trio.open_nursery() as nursery:

        async def append(through: Shelf) -> None:
            numbers.append(await through.append(A, letter(1), today=TODAY, keep_until=LATER))

        for through in [shelf, other] * 8:
            nursery.start_soon(append, through)
    assert numbers == [1] * 16


async def test_many_who_append_at_once_leave_no_gap_and_one_story(engine: Engine) -> None:
    given: dict[bytes, dict[int, bytes]] = {A: {}, B: {}}
    async with engine.opened() as shelf, engine.opened() as other:
        async with trio.open_nursery() as nursery:

            async def append(through: Shelf, who: int) -> None:
                for turn in range(12):
                    key, message = (A, B)[turn % 2], letter(100 * who + turn)
                    number = await through.append(key, message, today=TODAY, keep_until=LATER)
                    assert isinstance(number, int)
                    assert number not in given[key]
                    given[key][number] = message

            for who, through in enumerate([shelf, other] * 6):
                nursery.start_soon(append, through, who)
        for key, messages in given.items():
            in_order = [messages[number] for number in range(1, 73)]
            assert len(messages) == 72
            for through in (shelf, other):
                page, read = await everything(through, key)
                assert read == in_order
                assert page.newest == 72
        assert await other.sizes() == Totals(2, 144, 144 * 300)


async def test_an_append_whose_caller_is_cancelled_is_there_or_was_never_asked_for(engine: Engine) -> None:
    async with engine.opened() as shelf:
        with trio.move_on_after(0):
            await shelf.append(A, letter(1), today=TODAY, keep_until=LATER)
        assert await shelf.sizes() == Totals(0, 0, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: shelf.append(A, letter(1), today=TODAY, keep_until=LATER))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await shelf.sizes() == Totals(1, 1, 300)


# Reading


async def test_an_unknown_topic_reads_as_an_empty_one(engine: Engine) -> None:
    async with engine.opened() as shelf:
        for after in (0, 1, 2**40):
            assert await shelf.read(C, after, count_max=10, size_max=1000) == NOTHING
        assert await shelf.sizes() == Totals(0, 0, 0)  # and is not opened by that


async def test_the_running_hash_is_the_one_that_a_reader_computes(engine: Engine) -> None:
    letters = [letter(number) for number in range(1, 11)]
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 10)
        for after in range(11):
            page = await shelf.read(A, after, count_max=100, size_max=2**20)
            assert page == Page(1, 10, after, chain(letters[:after]).hash, tuple(letters[after:]))
        await shelf.expire(LATER)
        page = await shelf.read(A, 0, count_max=100, size_max=2**20)
        assert page == Page(11, 10, 10, chain(letters).hash, ())


async def test_a_page_holds_as_many_as_both_bounds_let_through_and_at_least_one(engine: Engine) -> None:
    async with engine.opened() as shelf:
        for number, size in enumerate((100, 200, 300, 5000, 100), 1):
            await shelf.append(A, letter(number, size), today=TODAY, keep_until=LATER)

        async def sizes(after: int, count_max: int, size_max: int) -> list[int]:
            return [len(one) for one in (await shelf.read(A, after, count_max=count_max, size_max=size_max)).messages]

        assert await sizes(0, 10, 10_000) == [100, 200, 300, 5000, 100]
        assert await sizes(0, 2, 10_000) == [100, 200]
        assert await sizes(0, 10, 600) == [100, 200, 300]
        assert await sizes(0, 10, 599) == [100, 200]
        assert await sizes(0, 10, 1) == [100]
        assert await sizes(3, 10, 1000) == [5000]
        assert await sizes(4, 1, 0) == [100]
        assert await sizes(5, 10, 1000) == []


async def test_a_reader_who_has_seen_more_than_there_is_gets_the_newest_cursor(engine: Engine) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 3)
        end = chain([letter(1), letter(2), letter(3)])
        for after in (4, 10**9, 2**60):
            assert await shelf.read(A, after, count_max=9, size_max=9000) == Page(1, 3, 3, end.hash, ())


# Quotas


async def test_a_topic_takes_no_more_than_its_quota(engine: Engine) -> None:
    async with engine.opened(Quotas(topic_bytes_max=1000, topic_messages_max=5)) as shelf:
        await fill_topic(shelf, A, 3)
        assert await shelf.append(A, letter(9, 101), today=TODAY, keep_until=LATER) is Refusal.TOPIC_FULL
        assert await shelf.append(A, letter(9, 99), today=TODAY, keep_until=LATER) == 4
        assert await shelf.append(A, b"", today=TODAY, keep_until=LATER) == 5
        assert await shelf.append(A, b"1", today=TODAY, keep_until=LATER) is Refusal.TOPIC_FULL
        assert await shelf.append(B, letter(9, 1001), today=TODAY, keep_until=LATER) is Refusal.TOPIC_FULL
        assert await shelf.append(B, letter(9, 1000), today=TODAY, keep_until=LATER) == 1
        assert await shelf.append(A, letter(2), today=TODAY, keep_until=LATER) == 2  # it is there: nothing is stored


@pytest.mark.parametrize("quotas", [Quotas(bytes_max=3000), Quotas(messages_max=10)])
async def test_the_whole_takes_no_more_than_its_quota_and_newcomers_less(engine: Engine, quotas: Quotas) -> None:
    async with engine.opened(quotas) as shelf:
        await fill_topic(shelf, A, 8)  # 80 %: not yet fuller than that
        await fill_topic(shelf, B, 1)
        assert await shelf.append(C, letter(1), today=TODAY, keep_until=LATER) is Refusal.NO_NEW_TOPICS
        await fill_topic(shelf, B, 1, first=2)  # the rest belongs to those who are there
        for key in (A, B):
            assert await shelf.append(key, letter(99), today=TODAY, keep_until=LATER) is Refusal.FULL
        assert await shelf.append(A, letter(5), today=TODAY, keep_until=LATER) == 5
        assert await shelf.sizes() == Totals(2, 10, 3000)
        assert await shelf.expire(LATER) == 10
        assert await shelf.append(C, letter(1), today=TODAY, keep_until=LATER) == 1


async def test_no_more_topics_than_the_quota_are_opened(engine: Engine) -> None:
    async with engine.opened(Quotas(topics_max=2)) as shelf:
        await fill_topic(shelf, A, 1)
        await fill_topic(shelf, B, 1)
        assert await shelf.append(C, letter(1), today=TODAY, keep_until=LATER) is Refusal.NO_NEW_TOPICS
        await fill_topic(shelf, A, 1, first=2)
        await shelf.expire(LATER)
        assert await shelf.append(C, letter(1), today=TODAY, keep_until=LATER) is Refusal.NO_NEW_TOPICS
        assert await shelf.append(A, letter(3), today=TODAY + 1, keep_until=LATER) == 3  # emptied is not unknown
        await shelf.expire(TODAY + REMEMBERED_DAYS)
        assert await shelf.append(C, letter(1), today=TODAY, keep_until=LATER) == 1


# Letting go


async def test_messages_go_oldest_first_when_their_day_has_come(engine: Engine) -> None:
    async with engine.opened() as shelf:
        for number, days in enumerate((3, 1, 9, 2, 9), 1):
            await shelf.append(A, letter(number), today=TODAY, keep_until=TODAY + days)
        await fill_topic(shelf, B, 2, keep_until=TODAY + 2)
        assert await shelf.expire(TODAY + 1) == 0  # the second would go, and stays behind the first
        assert (await shelf.read(A, 0, count_max=9, size_max=9000)).first == 1
        assert await shelf.expire(TODAY + 3) == 4
        page = await shelf.read(A, 0, count_max=9, size_max=9000)
        assert (page.first, page.base, page.newest) == (3, 2, 5)
        assert page.base_hash == chain([letter(1), letter(2)]).hash
        assert list(page.messages) == [letter(3), letter(4), letter(5)]
        assert await shelf.sizes() == Totals(2, 3, 900)
        assert await shelf.expire(TODAY + 3) == 0


async def test_numbers_go_on_where_they_were_when_messages_are_gone(engine: Engine) -> None:
    letters = [letter(number) for number in range(1, 5)]
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 3, keep_until=TODAY + 1)
        assert await shelf.expire(TODAY + 1) == 3
        assert await shelf.read(A, 3, count_max=9, size_max=9000) == Page(4, 3, 3, chain(letters[:3]).hash, ())
        await fill_topic(shelf, A, 1, first=4)
        expected = Page(4, 4, 3, chain(letters[:3]).hash, (letters[3],))
        for after in (0, 2, 3):
            assert await shelf.read(A, after, count_max=9, size_max=9000) == expected
        assert await shelf.append(A, letter(2), today=TODAY, keep_until=LATER) == 5  # gone: it comes anew


async def test_an_emptied_topic_is_remembered_for_90_days_after_its_last_message(engine: Engine) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 2, keep_until=TODAY + 1)
        assert await shelf.append(A, letter(3), today=TODAY + 5, keep_until=TODAY + 6) == 3
        assert await shelf.expire(TODAY + 6) == 3
        remembered = Page(4, 3, 3, chain([letter(1), letter(2), letter(3)]).hash, ())
        assert await shelf.expire(TODAY + 5 + REMEMBERED_DAYS - 1) == 0
        assert await shelf.read(A, 0, count_max=9, size_max=9000) == remembered
        assert await shelf.sizes() == Totals(1, 0, 0)
        assert await shelf.expire(TODAY + 5 + REMEMBERED_DAYS) == 0
        assert await shelf.read(A, 0, count_max=9, size_max=9000) == NOTHING
        assert await shelf.sizes() == Totals(0, 0, 0)
        assert await engine.rows(shelf, "topic") == await engine.rows(shelf, "message") == 0


async def test_a_message_may_stay_longer_than_its_topic_would_be_remembered(engine: Engine) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 1, keep_until=TODAY + 300)
        assert await shelf.expire(TODAY + 299) == 0
        assert await shelf.expire(TODAY + 300) == 1
        assert await shelf.sizes() == Totals(0, 0, 0)


async def test_more_goes_than_fits_in_one_transaction(engine: Engine) -> None:
    async with engine.opened() as shelf:
        async with trio.open_nursery() as nursery:
            for number in range(600):
                nursery.start_soon(lambda n=number: shelf.append(A, letter(n, 20), today=TODAY, keep_until=LATER))
            for number in range(20):
                nursery.start_soon(lambda n=number: shelf.append(B, letter(n, 2**20), today=TODAY, keep_until=LATER))
        await shelf.append(B, letter(99), today=TODAY, keep_until=LATER + 1)
        assert await shelf.expire(LATER) == 620
        assert await shelf.sizes() == Totals(2, 1, 300)
        assert await engine.rows(shelf, "message") == 1


async def test_letting_go_beside_those_who_append_and_read(engine: Engine) -> None:
    async with engine.opened() as shelf, engine.opened() as other:
        async with trio.open_nursery() as nursery:

            async def append(through: Shelf, who: int) -> None:
                for turn in range(30):
                    message = letter(100 * who + turn)
                    await through.append(A, message, today=TODAY, keep_until=TODAY + turn % 2)

            async def expire(through: Shelf) -> None:
                for _ in range(15):
                    await through.expire(TODAY)
                    page = await through.read(A, 0, count_max=9, size_max=9000)
                    assert page.base == page.first - 1
                    assert page.newest - page.base >= len(page.messages)

            for who, through in enumerate((shelf, other, shelf, other)):
                nursery.start_soon(append, through, who)
                nursery.start_soon(expire, through)
        await shelf.expire(TODAY + 1)
        assert await shelf.sizes() == Totals(1, 0, 0)
        assert (await other.read(A, 0, count_max=9, size_max=9000)).newest == 120


# Handshakes, news, totals


async def test_a_first_message_is_new_once_in_its_week(engine: Engine) -> None:
    async with engine.opened() as shelf, engine.opened() as other:
        assert await shelf.remember_handshake(b"one", 100)
        assert not await other.remember_handshake(b"one", 100)
        assert await other.remember_handshake(b"two", 101)
    async with engine.opened() as shelf:
        assert not await shelf.remember_handshake(b"one", 100)
        assert not await shelf.remember_handshake(b"two", 101)
        assert await shelf.remember_handshake(b"three", 103)  # the first week's are forgotten
        assert await engine.rows(shelf, "replay") == 2


async def test_whoever_listens_hears_of_every_topic_that_gets_a_message(engine: Engine) -> None:
    async with engine.opened() as shelf, engine.opened() as other:
        here, heard_here = trio.open_memory_channel[bytes](1000)
        there, heard_there = trio.open_memory_channel[bytes](1000)
        ended: list[bytes] = []
        shelf.heard(here.send_nowait)
        other.heard(there.send_nowait)
        shelf.heard(ended.append)()
        with trio.fail_after(5):
            await fill_topic(shelf, A, 1)
            for heard in (heard_here, heard_there):
                assert await heard.receive() == A
            await shelf.append(A, letter(1), today=TODAY, keep_until=LATER)  # nothing new
            await fill_topic(other, B, 1)
            for heard in (heard_here, heard_there):
                while (key := await heard.receive()) != B:  # one store may be told twice of what both see
                    assert (engine.name, key) == ("sqlite", A)
        assert ended == []


async def test_any_sequence_of_calls_is_answered_as_the_naive_shelf_does(engine: Engine) -> None:
    quotas = Quotas(
        topic_bytes_max=4000,
        topic_messages_max=12,
        bytes_max=12_000,
        messages_max=40,
        topics_max=6,
        newcomers_percent=70,
    )
    luck = random.Random(8)
    naive = NaiveShelf(quotas)
    refused = set()
    async with engine.opened(quotas) as shelf:
        for turn in range(600):
            today = TODAY + turn // 5
            key = topic(luck.randrange(9))
            message = letter(luck.randrange(60), luck.choice((0, 40, 300, 900)))
            keep_until = today + luck.choice((1, 2, 3, 8, 40))
            answer = await shelf.append(key, message, today=today, keep_until=keep_until)
            assert answer == naive.append(key, message, today=today, keep_until=keep_until), turn
            refused |= {answer} if isinstance(answer, Refusal) else set()
            if turn % 9 == 0:
                assert await shelf.expire(today) == naive.expire(today), turn
            key, after = topic(luck.randrange(9)), luck.randrange(40)
            bounds = {"count_max": luck.choice((1, 3, 100)), "size_max": luck.choice((0, 700, 10_000))}
            assert await shelf.read(key, after, **bounds) == naive.read(key, after, **bounds), turn
            assert await shelf.sizes() == naive.sizes(), turn
    assert refused == set(Refusal)


# What goes wrong


async def test_with_a_full_disk_nothing_is_taken_and_the_rest_stays_readable(engine: Engine) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 3)
        make_room = await engine.fill(shelf)
        for size in (2**20, 50_000):
            with pytest.raises(StoreFull, match="no space left"):
                await shelf.append(A, letter(9, size), today=TODAY, keep_until=LATER)
        assert (await everything(shelf, A))[1] == [letter(1), letter(2), letter(3)]
        assert await shelf.sizes() == Totals(1, 3, 900)
        await make_room()
        assert await shelf.append(A, letter(9, 2**20), today=TODAY, keep_until=LATER) == 4
        assert (await everything(shelf, A))[1][-1] == letter(9, 2**20)


_CHILD = """
import sys, trio
from shelves import LATER, TODAY, engine_of, letter, topic

async def main():
    name, address, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
    async with engine_of(name, address).opened() as shelf, trio.open_nursery() as nursery:
        print("ready", flush=True)

        async def append(who):
            for turn in range(start, 1_000_000):
                key, size = 1 + (who + turn) % 3, 50 + turn * 977 % 20_000
                message = letter(1_000_000 * who + turn, size)
                number = await shelf.append(topic(key), message, today=TODAY, keep_until=LATER)
                print(key, number, who, turn, size, flush=True)

        for who in range(6):
            nursery.start_soon(append, who)

trio.run(main)
"""


async def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_doubled(engine: Engine) -> None:
    luck = random.Random(3)
    acknowledged: dict[tuple[bytes, int], bytes] = {}
    turns = [0] * 6
    for _ in range(6):
        start = max(min(turns) - 3, 0)  # everybody asks once more for what it may not have been told of
        said = await trio.to_thread.run_sync(
            _append_until_killed, engine, start, luck.randrange(1, 40), luck.random() * 0.02
        )
        for key, number, who, turn, size in said:
            message = letter(1_000_000 * who + turn, size)
            assert acknowledged.setdefault((topic(key), number), message) == message
            turns[who] = turn
        async with engine.opened() as shelf:
            counted = 0
            for key in (A, B, C):
                page, read = await everything(shelf, key)
                assert page.newest == len(read) == len({message_hash(message) for message in read})
                for (where, number), message in acknowledged.items():
                    assert where != key or read[number - 1] == message
                counted += len(read)
            assert (await shelf.sizes()).messages == counted
    assert len(acknowledged) >= 6


def _append_until_killed(engine: Engine, start: int, lines: int, seconds: float) -> list[list[int]]:
    """What a process has acknowledged before it was killed, a moment after its n-th line."""
    command = [sys.executable, "-c", _CHILD, engine.name, engine.address, str(start)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        said = [child.stdout.readline() for _ in range(lines)]
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        said += child.stdout
    return [[int(part) for part in line.split()] for line in said if line.endswith("\n")]


async def test_of_time_every_table_holds_days_and_weeks_alone(engine: Engine) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 1)
        columns = await engine.columns(shelf)
        plain = {"integer", "bigint", "smallint", "blob", "bytea"}
        assert {type for _, _, type in columns} <= plain
        names = {(table, column) for table, column, _ in columns}
        dated = {("topic", "appended"), ("topic", "due"), ("message", "keep_until"), ("replay", "week")}
        assert dated <= names
        counted = {"no", "number", "newest", "gone", "bytes", "topic", "shard", "topics", "messages"}
        sealed = {"key", "hash", "gone_hash", "digest", "body", "tag"}
        assert {column for table, column in names - dated} <= counted | sealed


# SQLite alone


async def test_appends_that_wait_together_share_the_wait_for_the_disk(tmp_path: Path) -> None:
    shelf = SqliteShelf.open(tmp_path / "shelf.db", KEY, QUOTAS)
    synchronous: list[object] = []

    def note(db: apsw.Connection) -> bool:
        synchronous.append(db.pragma("synchronous"))
        return False

    try:
        await shelf._database.write(lambda db: db.set_commit_hook(lambda: note(db)), durable=True)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(lambda n=number: shelf.append(A, letter(n), today=TODAY, keep_until=LATER))
        await shelf._database.write(lambda db: db.set_commit_hook(None), durable=True)
        assert set(synchronous) == {2}  # FULL
        assert len(synchronous) < 20
        assert (await shelf.read(A, 0, count_max=9, size_max=9000)).newest == 100
    finally:
        await shelf.close()


async def test_a_message_too_long_for_the_disk_does_not_keep_out_those_that_came_with_it(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "shelf.db")
    refused: list[int] = []
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 1)
        write = engine.database.write
        await write(lambda db: db.pragma("max_page_count", db.pragma("page_count") + 20), durable=True)
        async with trio.open_nursery() as nursery:

            async def append(number: int, size: int) -> None:
                try:
                    await shelf.append(A, letter(number, size), today=TODAY, keep_until=LATER)
                except StoreFull:
                    refused.append(size)

            for number in range(10, 20):
                nursery.start_soon(append, number, 2**20 if number == 15 else 100)
        assert refused == [2**20]
        assert await shelf.sizes() == Totals(1, 10, 1200)


async def test_inline_the_shelf_works_under_simulated_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    shelf = SqliteShelf.open(tmp_path / "shelf.db", KEY, QUOTAS, inline=True)
    begun = trio.current_time()
    with trio.move_on_after(1000):
        await fill_topic(shelf, A, 5)
        assert (await shelf.read(A, 4, count_max=9, size_max=9000)).messages == (letter(5),)
        assert await shelf.expire(LATER) == 5
        await shelf.close()
    assert trio.current_time() == begun


async def test_a_topic_whose_page_is_damaged_does_not_keep_the_others_from_going(tmp_path: Path) -> None:
    path, errors = tmp_path / "shelf.db", list[str]()
    shelf = SqliteShelf.open(path, KEY, QUOTAS)
    for key in (A, B):
        await shelf.append(key, letter(1, 400_000), today=TODAY, keep_until=LATER)
    await shelf.close()
    content = bytearray(path.read_bytes())
    content[len(content) - 100_000] ^= 1  # in the middle of B's message
    path.write_bytes(content)
    shelf = SqliteShelf.open(path, KEY, QUOTAS, on_error=errors.append)
    try:
        assert await shelf.expire(LATER) == 1
        assert errors == ["relay.topic_damaged"]
        assert (await shelf.read(A, 0, count_max=9, size_max=9000)).first == 2
        assert (await shelf.sizes()).messages == 1
    finally:
        await shelf.close()
