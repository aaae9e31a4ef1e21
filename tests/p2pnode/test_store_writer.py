"""The writer thread: order, errors, cancellation, full disks, sudden death."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing
from storing import KEY, NOW, Everybody, entries, filed, opened

from p2pnode.store import Store, StoreFull
from p2pnode.store.spaces import recount
from protocol.board import Filter
from protocol.limits import RUN_SIZE_MAX


async def test_urgent_jobs_go_before_the_rest(tmp_path: Path) -> None:
    done: list[str] = []
    started, release = threading.Event(), threading.Event()

    def block(db: apsw.Connection) -> None:
        started.set()
        release.wait(10)

    async with opened(tmp_path / "s") as (store, _), trio.open_nursery() as nursery:

        def submit(name: str, urgent: bool) -> None:
            async def write() -> None:
                await store.write(lambda db: done.append(name), durable=False, urgent=urgent)

            nursery.start_soon(write)

        async def blocker() -> None:
            await store.write(block, durable=False)

        nursery.start_soon(blocker)
        await trio.to_thread.run_sync(started.wait)
        for name, urgent in (("first", False), ("second", False), ("urgent", True), ("urgent too", True)):
            submit(name, urgent)
            await trio.testing.wait_all_tasks_blocked(0.01)
        release.set()
    assert done == ["urgent", "urgent too", "first", "second"]


async def test_an_error_in_a_job_reaches_its_caller_and_leaves_nothing(tmp_path: Path) -> None:
    def job(db: apsw.Connection) -> None:
        db.execute("INSERT INTO joining VALUES (x'61', x'62')")
        raise ZeroDivisionError

    async with opened(tmp_path / "s") as (store, _):
        with pytest.raises(ZeroDivisionError):
            await store.write(job, durable=True)
        assert store.joining(b"a") is None
        await store.keep_joining(b"a", b"c")
        assert store.joining(b"a") == b"c"


async def test_a_write_that_was_asked_for_happens_though_its_caller_is_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, _):
        with trio.move_on_after(0) as scope:
            await store.keep_joining(b"never", b"asked")
        assert scope.cancelled_caught
        assert store.joining(b"never") is None

        release = threading.Event()

        def slow(db: apsw.Connection) -> None:
            release.wait(10)
            db.execute("INSERT INTO joining VALUES (x'51', x'52')")

        async with trio.open_nursery() as nursery:

            async def write() -> None:
                await store.write(slow, durable=True)

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
            release.set()
        assert store.joining(b"\x51") == b"\x52"


async def test_closing_finishes_what_was_asked_for(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", KEY)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(store.keep_joining, b"%d" % number, b"done")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(store.close)
    store = Store.open(tmp_path / "s", KEY, create=False)
    assert all(store.joining(b"%d" % number) == b"done" for number in range(50))
    await store.close()
    assert list(_sizes(tmp_path)) == ["s"]  # the WAL is in the file


async def test_readers_and_the_writer_never_wait_for_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no), trio.open_nursery() as nursery:
        release = threading.Event()

        def long_read(db: apsw.Connection) -> object:
            before = db.execute("SELECT entries FROM space").get
            release.wait(10)
            return before == db.execute("SELECT entries FROM space").get

        async def read() -> None:
            assert await store.query(long_read)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(5):
            for number in range(20):
                await store.publish(no, entries("ana", [filed()], number=number), Everybody())
                assert store.counters(no).entries == number + 2
        release.set()


async def test_the_journal_stays_small(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        last = None
        for _ in range(60):
            last = entries("ana", [os.urandom(8000) for _ in range(100)], after=last)
            await store.commit_runs(no, [last], Everybody())
        sizes = _sizes(tmp_path)
        assert sizes["s-wal"] < 30_000_000 < sizes["s"]


def _sizes(folder: Path) -> dict[str, int]:
    return {part.name: part.stat().st_size for part in folder.iterdir()}


async def test_with_a_full_disk_nothing_is_half_written_and_reading_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        first = entries("ana", [filed() for _ in range(3)])
        await store.publish(no, first, Everybody())
        await store.write(lambda db: db.pragma("max_page_count", db.pragma("page_count")), durable=True)
        more = entries("ana", [os.urandom(1000) for _ in range(1000)], after=first)
        gate = Everybody()
        for _ in range(3):
            with pytest.raises(StoreFull, match="no space left"):
                await store.commit_runs(no, [more], gate)
        assert gate.told[-1] == "rolled back"
        assert store.counters(no).entries == 4 == (await store.query(lambda db: recount(db, no))).entries
        assert len(await store.list_reports(Filter(), limit=0, now_s=NOW)) == 3
        assert store.read_run(no, first.key, 1, 9, RUN_SIZE_MAX) is not None
        await store.write(lambda db: db.pragma("max_page_count", 2**30), durable=True)  # somebody made room
        await store.commit_runs(no, [more], gate)
        assert store.counters(no).entries == 1004


async def test_inline_the_store_works_under_simulated_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    threads = set(threading.enumerate())  # trio keeps those of earlier tests for a while
    async with opened(tmp_path / "s", inline=True) as (store, no):
        start = trio.current_time()
        with trio.move_on_after(1000):
            for number in range(20):
                await store.publish(no, entries("ana", [filed()], number=number), Everybody())
                await store.index_some()
                await store.list_reports(Filter(), limit=5, now_s=NOW)
        assert trio.current_time() == start
        assert (await store.check(lambda done, total: None))["bad"] == 0
        assert set(threading.enumerate()) <= threads


_CHILD = """
import sys, trio
from storing import Everybody, entries, filed, opened, without_payloads

async def main():
    async with opened(sys.argv[1]) as (store, no):
        turn = store.counters(no).entries
        print("ready", flush=True)
        async with trio.open_nursery() as nursery:
            async def index():
                while True:
                    await store.index_some(7)
                    await trio.sleep(0)
            nursery.start_soon(index)
            while True:
                turn += 1
                runs = [entries(f"a{n}", [filed() for _ in range(5)], number=turn * 10 + n) for n in range(4)]
                await store.commit_runs(no, [without_payloads(runs[0], 1, 2), *runs[1:]], Everybody())
                await store.commit_runs(no, runs[:1], Everybody())
                own = entries("own", [filed()], number=turn)
                await store.publish(no, own, Everybody())
                print(own.ids[0].hex(), flush=True)

trio.run(main)
"""


async def test_killed_at_any_moment_the_counters_equal_a_recount(tmp_path: Path) -> None:
    path = tmp_path / "s"
    published: set[str] = set()
    for round in range(8):
        published |= await trio.to_thread.run_sync(_publish_until_killed, path, 1 + 3 * round % 7, 0.003 * round)
        async with opened(path) as (store, no):
            assert store.counters(no) == await store.query(lambda db: recount(db, no))
            assert (await store.check(lambda done, total: None))["bad"] == 0
            while await store.index_some():
                pass
            listed = await store.list_reports(Filter(), limit=0, now_s=NOW)
            ids = {item.id.hex() for item in listed}
            assert len(ids) == len(listed) == store.counters(no).entries - 1 - store.counters(no).missing
            assert published <= ids  # what was acknowledged is there


def _publish_until_killed(path: Path, turns: int, seconds: float) -> set[str]:
    """The ids that a process has acknowledged before it was killed a moment after its n-th turn."""
    command = [sys.executable, "-c", _CHILD, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        said = [child.stdout.readline() for _ in range(turns)]
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        said += child.stdout
    return {line.strip() for line in said if line.endswith("\n")}
