"""The shelf on PostgreSQL: starting together, a server that leaves and comes back, and what is refused."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import postgresql
import pytest
import trio
from postgresql import Server
from shelves import LATER, QUOTAS, TODAY, PostgresqlEngine, everything, fill_topic, letter, topic

from p2pnode.relay.shelf import Put, Shelf, Topic, topic_of
from p2pnode.store import StoreFailed, StoreRefused

if reason := postgresql.absent():
    pytest.skip(reason, allow_module_level=True)

import psycopg

from p2pnode.relay.postgresql import PostgresqlShelf, news, pool
from p2pnode.relay.postgresql import shelf as statements

A, B = topic(1), topic(2)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql.server() as running:
        yield running


@pytest.fixture
def engine(server: Server) -> PostgresqlEngine:
    return PostgresqlEngine(server.database())


async def test_relays_that_start_at_once_make_the_tables_once(engine: PostgresqlEngine) -> None:
    shelves: list[Shelf] = []
    async with trio.open_nursery() as nursery:

        async def open_one() -> None:
            shelves.append(await PostgresqlShelf.open(engine.address, QUOTAS))

        for _ in range(6):
            nursery.start_soon(open_one)
    for number, shelf in enumerate(shelves, 1):
        await fill_topic(shelf, A, 1, first=number)
        await shelf.close()


async def test_a_migration_that_fails_leaves_the_old_version(
    engine: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 1)
    now = pool.SCHEMA.migrations()
    broken = "CREATE TABLE extra (a integer); SELECT no_such_function()"
    monkeypatch.setattr(type(pool.SCHEMA), "migrations", lambda schema: [*now, broken])
    with pytest.raises(psycopg.errors.UndefinedFunction):
        await PostgresqlShelf.open(engine.address, QUOTAS)
    monkeypatch.setattr(type(pool.SCHEMA), "migrations", lambda schema: [*now, "CREATE TABLE extra (a integer)"])
    async with engine.opened() as shelf:
        assert await engine.rows(shelf, "extra") == 0
        await fill_topic(shelf, A, 1, first=2)
    monkeypatch.setattr(type(pool.SCHEMA), "migrations", lambda schema: now)
    with pytest.raises(StoreRefused) as refused:
        await PostgresqlShelf.open(engine.address, QUOTAS)
    assert refused.value.reason == "newer"


async def test_tables_of_somebody_else_under_our_name_are_refused_and_kept(engine: PostgresqlEngine) -> None:
    with psycopg.connect(engine.address, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA p2pnode_relay; CREATE TABLE p2pnode_relay.theirs (a integer)")
        with pytest.raises(StoreRefused) as refused:
            await PostgresqlShelf.open(engine.address, QUOTAS)
        assert refused.value.reason == "foreign"
        assert connection.execute("SELECT count(*) FROM p2pnode_relay.theirs").fetchone() == (0,)


async def test_a_server_that_is_not_there_is_an_error_that_tells_no_address(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(StoreFailed) as failed:
        await PostgresqlShelf.open(f"host={tmp_path} user=ana password=secret dbname=here", QUOTAS)
    assert str(failed.value) == "the store cannot be read or written: OperationalError"
    assert not [thread for thread in threading.enumerate() if thread.name == "news"]
    assert threading.active_count() <= threads + 1  # trio keeps a worker for a while


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_server_that_restarts_loses_nothing_that_was_acknowledged(server: Server, how: signal.Signals) -> None:
    engine = PostgresqlEngine(server.database())
    acknowledged: dict[int, bytes] = {}
    failed = 0
    some = trio.Event()
    async with engine.opened() as shelf, engine.opened() as other:
        async with trio.open_nursery() as nursery:

            async def append(through: Shelf, who: int) -> None:
                nonlocal failed
                for turn in range(60):
                    message = letter(100 * who + turn)
                    while True:  # as a member does who got no answer
                        try:
                            number = await through.append(A, message, today=TODAY, keep_until=LATER)
                            break
                        except StoreFailed:
                            failed += 1
                            await trio.sleep(0.05)
                    assert isinstance(number, int)
                    assert acknowledged.setdefault(number, message) == message
                    if len(acknowledged) == 20:
                        some.set()

            for who, through in enumerate((shelf, other) * 3):
                nursery.start_soon(append, through, who)
            await some.wait()
            await trio.to_thread.run_sync(server.stop, how)
            await trio.to_thread.run_sync(server.start)
        assert failed > 0
        _, read = await everything(shelf, A)
        assert read == [acknowledged[number] for number in range(1, 361)]


async def test_what_others_appended_while_nothing_was_heard_is_heard_afterwards(server: Server) -> None:
    engine = PostgresqlEngine(server.database())
    async with engine.opened() as shelf, engine.opened() as other:
        told, heard = trio.open_memory_channel[bytes](1000)
        shelf.heard(told.send_nowait)
        await fill_topic(other, A, 1)
        assert await heard.receive() == A
        await trio.to_thread.run_sync(server.stop)
        await trio.to_thread.run_sync(server.start)
        with trio.fail_after(20):
            while True:
                try:
                    await fill_topic(other, B, 1)
                    break
                except StoreFailed:
                    await trio.sleep(0.01)
            seen: set[bytes] = set()
            while not {A, B} <= seen:
                seen.add(await heard.receive())
    assert "relay.news_failed error=OperationalError" in engine.errors


async def test_what_could_not_be_told_is_told_later(engine: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "SELECT pg_terminate_backend(pg_backend_pid()), %b::bytea[]"
    async with engine.opened() as shelf, engine.opened() as other:
        told, heard = trio.open_memory_channel[bytes](1000)
        other.heard(told.send_nowait)
        with monkeypatch.context() as patched, trio.fail_after(5):
            patched.setattr(news, "_NOTIFY", broken)
            await fill_topic(shelf, A, 1)
            while not engine.errors:
                await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            assert await heard.receive() == A
    assert set(engine.errors) == {"relay.news_failed error=AdminShutdown"}


async def test_connections_that_broke_are_replaced_for_the_next_call(engine: PostgresqlEngine) -> None:
    async with engine.opened() as shelf:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(lambda n=number: shelf.append(A, letter(n), today=TODAY, keep_until=LATER))
        with psycopg.connect(engine.address, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
            assert ended.rowcount > 3
        with pytest.raises(StoreFailed):
            await shelf.sizes()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(shelf.sizes)


async def test_closing_ends_every_connection_at_once(engine: PostgresqlEngine) -> None:
    shelf = await PostgresqlShelf.open(engine.address, QUOTAS)
    await fill_topic(shelf, A, 1)
    with trio.fail_after(2):
        await shelf.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "news"]
    ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(engine.address, autocommit=True) as connection, trio.fail_after(5):
        while connection.execute(ours).fetchone() != (0,):  # the server takes a moment to notice
            await trio.lowlevel.checkpoint()


async def test_an_append_waits_for_the_disk_whatever_the_database_is_set_to(engine: PostgresqlEngine) -> None:
    with psycopg.connect(engine.address, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    async with engine.opened() as shelf:
        assert await engine._execute(shelf, "SHOW synchronous_commit") == [("on",)]
        await shelf.remember_handshake(b"tag", 1)
        await shelf.expire(TODAY)
        assert await engine._execute(shelf, "SHOW synchronous_commit") == [("on",)]


async def test_a_page_is_of_one_moment_though_another_relay_lets_go_meanwhile(
    engine: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 4)
        before = await shelf.read(A, 1, count_max=9, size_max=9000)
    reading, other = pool.connect(engine.address), pool.connect(engine.address)

    def interrupted(row: tuple[object, ...] | None) -> Topic:
        monkeypatch.setattr(statements, "topic_of", topic_of)
        assert statements._let_go(other, A, LATER) == (4, False)
        statements._append(other, Put(A, letter(9), LATER, LATER + 1), QUOTAS)
        return topic_of(row)

    monkeypatch.setattr(statements, "topic_of", interrupted)
    assert statements._page(reading, A, 1, 9, 9000) == before
    assert statements._page(reading, A, 1, 9, 9000).messages == (letter(9),)
    reading.close()
    other.close()


async def test_a_relay_that_freezes_with_a_topic_in_its_hands_holds_nobody_up_for_long(
    engine: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_SESSION", pool._SESSION.replace("'10s'", "'200ms'"))
    async with engine.opened() as shelf:
        await fill_topic(shelf, A, 1)
        frozen = pool.connect(engine.address)
        frozen.execute("BEGIN")
        frozen.execute("SELECT FROM topic FOR UPDATE")
        with trio.fail_after(5):
            await fill_topic(shelf, A, 1, first=2)
        frozen.close()
