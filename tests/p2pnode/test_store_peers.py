"""Spaces, peers, and what must not happen twice."""

from pathlib import Path

from storing import SPACE, entries, founding, opened, seed_of

from p2pnode.store import Store
from protocol.entry import LogClass
from protocol.membership import Use


async def test_a_space_comes_back_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        digest = await store.digest(no)
    async with opened(tmp_path / "s") as (store, no):
        (row,) = await store.load_spaces()
        assert (row.no, row.id, row.static_secret, row.author_seed) == (no, SPACE, b"s" * 32, seed_of("founder"))
        assert row.epochs == (b"e" * 32,)
        assert "7373" not in repr(row)
        assert b"s" * 32 not in repr(row).encode()
        (run,) = await store.membership_runs(no)
        assert run.ids == founding().ids
        assert await store.digest(no) == digest


async def test_a_space_that_was_joined_begins_with_our_claim(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", space=False) as (store, _):
        assert store.joining(b"a" * 32) is None
        await store.keep_joining(b"a" * 32, seed_of("ana"))
        await store.keep_joining(b"a" * 32, seed_of("another try"))
        assert store.joining(b"a" * 32) == seed_of("ana")
        claim = entries("ana", [bytes(40)], log_class=LogClass.MEMBERSHIP, kind=2)
        row = await store.add_space(
            SPACE, epochs=[b"e" * 32], static_secret=b"s" * 32, author_seed=seed_of("ana"), founding=claim
        )
        assert store.joining(b"a" * 32) is None
        assert store.counters(row.no).entries == 1


async def test_a_first_message_counts_once_while_its_mask_opens(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, _):
        assert await store.remember_handshake(b"t" * 16, 100)
        assert not await store.remember_handshake(b"t" * 16, 100)
        assert await store.remember_handshake(b"u" * 16, 102)
        assert not await store.remember_handshake(b"t" * 16, 100)
        assert await store.remember_handshake(b"v" * 16, 103)  # week 100 opens nothing any more
        assert await _count(store, "replay") == 2
    async with opened(tmp_path / "s") as (store, _):
        assert not await store.remember_handshake(b"v" * 16, 103)


async def test_an_admission_key_is_answered_for_one_author(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, _):
        assert store.invite_uses() == {}
        assert await store.answer_invite(b"k" * 32, b"a" * 32, 1000.7)
        assert await store.answer_invite(b"k" * 32, b"a" * 32, 2000)
        assert not await store.answer_invite(b"k" * 32, b"b" * 32, 2000)
        assert store.invite_uses() == {b"k" * 32: Use(b"a" * 32, 1000, False)}
        await store.acknowledge_invite(b"k" * 32)
        assert store.invite_uses() == {b"k" * 32: Use(b"a" * 32, 1000, True)}


async def test_addresses_to_dial_are_kept_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        await store.add_peer(no, "192.0.2.7", 4711)
        await store.add_peer(no, "192.0.2.7", 4711)
        await store.add_peer(no, "example.org", 80)
        assert sorted(store.peers(no)) == [("192.0.2.7", 4711), ("example.org", 80)]
        assert store.peers(no + 1) == []


async def _count(store: Store, table: str) -> int:
    count = await store.query(lambda db: db.execute(f"SELECT count(*) FROM {table}").get)
    assert isinstance(count, int)
    return count
