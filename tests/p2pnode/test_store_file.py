"""The file: what is opened, what is refused, and that what is refused stays as it was."""

import hashlib
import os
import random
from pathlib import Path

import apsw
import pytest
from storing import KEY, Everybody, entries, filed, opened

from p2pnode.store import Store, StoreError, StoreLocked, StoreRefused, file
from protocol.board import Filter

OTHER_KEY = b"o" * 32


def test_a_store_that_is_missing_is_made_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with pytest.raises(StoreRefused) as refused:
        Store.open(path, KEY, create=False)
    assert refused.value.reason == "missing"
    assert list(tmp_path.iterdir()) == []


async def test_a_new_store_belongs_to_its_user_alone_and_shows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, space_no):
        await store.publish(space_no, entries("ana", [filed(title="Balacera en el puente")]), Everybody())
        parts = [path, Path(f"{path}-wal")]
        assert all(part.stat().st_mode & 0o777 == 0o600 for part in parts)
        written = b"".join(part.read_bytes() for part in parts)
    for plain in (b"SQLite format 3", b"Balacera", b"CREATE TABLE", b"roadblock", KEY):
        assert plain not in written
        assert plain not in path.read_bytes()


@pytest.mark.parametrize("with_journal", [False, True])
async def test_a_wrong_key_is_told_from_a_foreign_file_and_changes_no_byte(tmp_path: Path, with_journal: bool) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, space_no):
        await store.publish(space_no, entries("ana", [filed()]), Everybody())
        if with_journal:  # as after a power cut: the newest commits are in the WAL only
            _copy(path, tmp_path / "left.db")
    if with_journal:
        path = tmp_path / "left.db"
    before = _contents(path)
    for _ in range(3):
        with pytest.raises(StoreLocked):
            Store.open(path, OTHER_KEY)
    assert _contents(path) == before
    async with opened(path) as (store, space_no):
        assert store.counters(space_no).entries == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"SQLite format 3\0" + bytes(4080), "unencrypted"),
        (random.Random(1).randbytes(8192), "foreign"),
        (b"\x89PNG", "foreign"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    with pytest.raises(StoreRefused) as refused:
        Store.open(path, KEY)
    assert refused.value.reason == reason
    assert path.read_bytes() == content


def test_a_journal_without_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db-wal").write_bytes(b"something")
    with pytest.raises(StoreRefused) as refused:
        Store.open(tmp_path / "store.db", KEY)
    assert refused.value.reason == "missing"
    assert [part.name for part in tmp_path.iterdir()] == ["store.db-wal"]


async def test_a_store_of_a_newer_version_is_refused_with_that_reason(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, _):
        await store.write(lambda db: db.execute("PRAGMA user_version = 999"), durable=True)
    with pytest.raises(StoreRefused) as refused:
        Store.open(path, KEY)
    assert refused.value.reason == "newer"


async def test_an_encrypted_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, _):
        await store.write(lambda db: db.execute("PRAGMA application_id = 7"), durable=True)
    with pytest.raises(StoreRefused) as refused:
        Store.open(path, KEY)
    assert refused.value.reason == "foreign"


async def test_a_migration_that_is_cut_off_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    async with opened(path):
        pass
    now = file.NODE.migrations()
    broken = "CREATE TABLE extra (a INTEGER) STRICT; INSERT INTO extra VALUES (1); SELECT no_such_function();"
    monkeypatch.setattr(file.Schema, "migrations", lambda schema: [*now, broken])
    with pytest.raises(apsw.SQLError):
        Store.open(path, KEY)
    monkeypatch.setattr(file.Schema, "migrations", lambda schema: now)
    async with opened(path) as (store, _):
        assert (
            await store.query(lambda db: db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'").get) == 0
        )
        assert await store.query(lambda db: db.pragma("user_version")) == len(now)
    monkeypatch.setattr(file.Schema, "migrations", lambda schema: [*now, "CREATE TABLE extra (a INTEGER) STRICT;"])
    async with opened(path) as (store, _):
        assert await store.query(lambda db: db.pragma("user_version")) == len(now) + 1


async def test_a_half_made_store_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "store.db.new").write_bytes(b"half")
    async with opened(tmp_path / "store.db") as (store, space_no):
        assert store.counters(space_no).entries == 1
    assert not (tmp_path / "store.db.new").exists()


async def test_flipped_bytes_are_reported_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    texts = {f"Aviso número {number}" for number in range(400)}
    async with opened(path) as (store, space_no):
        for number, title in enumerate(sorted(texts)):
            run = entries("ana", [filed(title=title, text="x" * 500)], number=number)
            await store.commit_runs(space_no, [run], Everybody())
        await store.index_some()
    whole = path.read_bytes()
    luck = random.Random(7)
    outcomes = set()
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[luck.randrange(len(damaged))] ^= 1 << luck.randrange(8)
        _put(path, bytes(damaged))
        outcomes.add(await _read_everything(path, texts))
    _put(path, whole)
    assert await _read_everything(path, texts) == "whole"
    assert "damaged" in outcomes
    assert "whole" not in outcomes


async def _read_everything(path: Path, texts: set[str]) -> str:
    try:
        store = Store.open(path, KEY, create=False)
    except StoreError:
        return "refused"
    try:
        try:
            (row,) = await store.load_spaces()
            listed = await store.list_reports(Filter(), limit=0, now_s=2_000_000_000)
        except StoreError:
            return "damaged"
        assert {item.report.title for item in listed} <= texts
        found = await store.check(lambda done, total: None)
        states = await store.query(lambda db: store.log_states(db, row.no))
        for state in states:
            run = store.read_run(row.no, state.key, 1, 10, 1 << 20)
            assert run is None or run.ids[-1] == state.newest
        return "damaged" if found["bad"] or len(listed) < len(texts) else "whole"
    except StoreError:
        return "damaged"
    finally:
        await store.close()


def _copy(path: Path, to: Path) -> None:
    for suffix in ("", "-wal"):
        Path(f"{to}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _contents(path: Path) -> dict[str, str]:
    names = sorted(name for name in os.listdir(path.parent) if name.startswith(path.name) and not name.endswith("-shm"))
    return {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in names}
