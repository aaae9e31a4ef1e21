"""A space as its node knows it: whose entries are taken, and that what it knows follows the store and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.space import INVITES_TRIED_MAX, Space
from p2pnode.store import StoreFailed
from protocol import keys, statement
from protocol.entry import Kind, LogClass
from protocol.log import Run
from protocol.mask import Mode
from protocol.membership import CLAIMANTS_MAX
from protocol.statement import Role
from tests.p2pnode.worlds import Home, World, filed, quiet, written

Clock = trio.testing.MockClock
STRANGER = b"\x11" * 32


def announced(home: Home, seed: bytes, admission: bytes, *, after: Run | None = None, lamport: int = 50) -> Run:
    """An invitation in a log of this author's."""
    body = statement.invite(home.space.id, keys.signer_public(seed), admission, Role.WRITER, 2**40, b"j" * 32)
    payload = statement.encode(body, bytes(16))
    return written(
        home.space.id,
        seed,
        [payload],
        after=after,
        log_class=LogClass.MEMBERSHIP,
        kind=Kind.INVITE,
        lamport=None if after else lamport,
    )


def claimed(home: Home, seed: bytes, admission: bytes, log_id: bytes = b"\x08" * 8) -> Run:
    body = statement.claim(home.space.id, keys.signer_public(seed), admission, "alguien")
    payload = statement.encode(body, bytes(16))
    return written(home.space.id, seed, [payload], log_class=LogClass.MEMBERSHIP, kind=Kind.CLAIM, log_id=log_id)


async def founder_seed(home: Home) -> bytes:
    return (await home.store.load_spaces())[0].author_seed


async def test_an_invitation_its_claim_and_the_claimants_report_are_taken_in_one_transaction(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        invite = announced(ana, await founder_seed(ana), b"a" * 32)
        claim = claimed(ana, STRANGER, b"a" * 32)
        report = written(ana.space.id, STRANGER, filed("uno"), log_id=b"reports!")
        await ana.take(report, claim, invite)  # in whatever order: within a batch membership goes first
        assert await ana.titles() == []
        await ana.take(claim)
        await ana.take(report)
        assert await ana.titles() == ["uno"]

    async with World.open(tmp_path, seed=1) as world:
        beto = await world.founder("beto")
        invite = announced(beto, await founder_seed(beto), b"a" * 32)
        claim = claimed(beto, STRANGER, b"a" * 32)
        report = written(beto.space.id, STRANGER, filed("uno"), log_id=b"reports!")
        await beto.take(report, invite, claim)
        assert await beto.titles() == ["uno"]


async def test_of_a_stranger_only_a_claim_on_an_announced_key_is_taken(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        before = await ana.digest()
        invite = announced(ana, STRANGER, b"b" * 32)  # by somebody who may not
        for run in (
            written(ana.space.id, STRANGER, filed("uno")),
            written(ana.space.id, STRANGER, filed("uno"), log_class=LogClass.VOICE),
            claimed(ana, STRANGER, b"a" * 32),
            invite,
        ):
            assert not ana.space.admits(run)
            await ana.take(run)
        assert await ana.digest() == before
        await ana.take(announced(ana, await founder_seed(ana), b"a" * 32))
        assert ana.space.admits(claimed(ana, STRANGER, b"a" * 32))
        assert not ana.space.admits(written(ana.space.id, STRANGER, filed("uno")))


async def test_a_leaked_seed_does_not_let_in_a_crowd(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        await ana.take(announced(ana, await founder_seed(ana), b"a" * 32))
        for number in range(3 * CLAIMANTS_MAX):
            await ana.take(claimed(ana, bytes([number]) * 32, b"a" * 32))
        assert len(ana.space.members.authors) == 1 + CLAIMANTS_MAX


async def test_what_a_transaction_took_is_forgotten_when_it_is_rolled_back(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        members = ana.space.members
        invite = announced(ana, await founder_seed(ana), b"a" * 32)
        taken = ana.space.taken

        def failing(run: Run) -> None:
            taken(run)
            raise StoreFailed("IOError")

        ana.space.taken = failing  # type: ignore[method-assign]
        with pytest.raises(StoreFailed):
            await ana.take(invite)
        ana.space.taken = taken  # type: ignore[method-assign]
        assert ana.space.members == members
        assert not ana.space.admits(claimed(ana, STRANGER, b"a" * 32))
        await ana.take(invite, claimed(ana, STRANGER, b"a" * 32))
        assert keys.signer_public(STRANGER) in ana.space.members.authors


async def test_the_members_after_a_start_are_those_before_it(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        for name in ("beto", "carla"):
            await world.admitted(name, by=ana)
        members, digest, nonce = ana.space.members, await ana.digest(), ana.space.local.start_nonce
        ana.stop()
        await quiet()
        await world.home("ana")
        assert ana.space.members == members
        assert await ana.digest() == digest
        assert ana.space.local.start_nonce != nonce
        assert ana.space.name == "vecinos"


async def test_nodes_that_learned_in_another_order_know_the_same_members(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto, carla = [await world.admitted(name, by=ana) for name in ("beto", "carla")]
        await world.sync(beto, ana)
        await world.sync(carla, beto)
        for home in (beto, carla):
            for run in reversed(await ana.store.membership_runs(ana.space.no)):
                await home.take(run)
        assert beto.space.members == carla.space.members == ana.space.members


async def test_a_fork_of_a_membership_log_takes_back_what_was_said_beyond_it_and_nothing_said_meanwhile(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        seed = await founder_seed(ana)
        first = announced(ana, seed, b"a" * 32)
        second = announced(ana, seed, b"b" * 32, after=first)
        other = announced(ana, seed, b"c" * 32, after=first)
        await ana.take(first, second)
        reading = ana.store.membership_runs

        async def slowly(space_no: int) -> list[Run]:
            found = await reading(space_no)
            await trio.sleep(1)
            return found

        ana.store.membership_runs = slowly  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ana.take, other)
            await quiet()
            await ana.invite()  # while what is left of the fork is being read
        ana.store.membership_runs = reading  # type: ignore[method-assign]

        announced_now = set(ana.space.members.invites)
        assert keys.signer_public(b"a" * 32) in announced_now
        assert keys.signer_public(b"b" * 32) not in announced_now
        assert keys.signer_public(b"c" * 32) not in announced_now
        ana_again = await Space.load(ana.store, (await ana.store.load_spaces())[0], ana.ambient)
        assert ana.space.members == ana_again.members
        assert len(announced_now) == 2


async def test_of_each_inviter_only_the_newest_invitations_are_tried(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        invitations = [await ana.invite(seconds=100) for _ in range(INVITES_TRIED_MAX + 4)]
        newest = {invitation.join_secret for invitation in invitations[-INVITES_TRIED_MAX:]}
        assert set(ana.space.join_secrets(ana.ambient.now(), {})) == newest
        assert ana.space.join_secrets(ana.ambient.now() + 100, {}) == {}


async def test_member_sessions_start_from_the_newest_epoch(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        lan_key = ana.space.lan_key
        (row,) = await ana.store.load_spaces()
        space = await Space.load(ana.store, replace(row, epochs=(*row.epochs, b"n" * 32)), ana.ambient)
        assert (space.secret.secret, space.secret.mode) == (b"n" * 32, Mode.MEMBER)
        assert space.lan_key != lan_key
