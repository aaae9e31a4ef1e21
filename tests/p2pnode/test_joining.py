"""How an invitation becomes a membership: once, for one newcomer, whatever is cut on the way."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.failures import CommandError
from p2pnode.joining import Guest
from p2pnode.socks import Failure
from p2pnode.space import Space
from p2pnode.store import StoreFailed
from protocol import keys, statement
from protocol.entry import Kind, LogClass
from protocol.invite import Invitation
from protocol.log import Run
from protocol.mask import Mode, SessionSecret
from protocol.membership import Standing, Use
from protocol.messages import Joined, RunMessage, Welcome
from protocol.statement import Role
from tests.p2pnode.worlds import Cable, Home, Meeting, Rogue, World, claims_of, filed, quiet, written

Clock = trio.testing.MockClock
TASKS = ("grant", "sync")


def use_of(host: Home, invitation: Invitation) -> Use | None:
    return host.store.invite_uses().get(keys.signer_public(invitation.admission_seed))


async def entered(home: Home, invitation: Invitation, told: Callable[[str], None], *, by_relay: bool = False) -> Space:
    """What a join command does in the daemon."""
    return await home.node.newcomer.join(invitation, home.name, told, by_relay=by_relay)


async def join(
    world: World, home: Home, invitation: Invitation, *, seconds: float = 30
) -> tuple[Space | None, list[str]]:
    """A join command: the space, None when nothing came of it in time, and what was told meanwhile."""
    told: list[str] = []
    with trio.move_on_after(seconds), world.as_home(home):
        return await home.node.newcomer.join(invitation, home.name, told.append), told
    return None, told


# The whole way


async def test_a_newcomer_is_welcomed_granted_and_in_sync(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        await ana.publish("uno")
        invitation = await ana.invite(role=Role.VERIFIER)
        beto = await world.home("beto", *TASKS)

        space, told = await join(world, beto, invitation)
        await quiet()

        assert space is not None
        assert (space.name, told) == ("vecinos", ["join.dialling", "join.waiting"])
        use = use_of(ana, invitation)
        assert use is not None
        assert (use.author, use.acknowledged) == (space.author, True)
        member = ana.space.members.authors[space.author]
        assert (member.role, member.standing) == (Role.VERIFIER, Standing.OK)
        assert ana.space.members.names[space.author] == "beto"
        assert space.epochs == ana.space.epochs
        assert await beto.titles() == ["uno"]
        assert await ana.digest() == await beto.digest()
        await beto.publish("dos")
        await quiet()
        assert await ana.titles() == ["dos", "uno"]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Failure.UNREACHABLE, "join.unanswered"),
        (Failure.PROXY_DOWN, "join.proxy_down"),
        (Failure.NO_PROXY, "join.proxy_needed"),
    ],
)
async def test_who_is_not_let_in_hears_whether_it_is_the_member_or_the_proxy(
    tmp_path: Path, autojump_clock: Clock, failure: Failure, told: str
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        beto = await world.home("beto", *TASKS)
        invitation = await ana.invite()

        async def connect(address: tuple[str, int]) -> Failure:
            await trio.lowlevel.checkpoint()
            return failure

        world.connecting = connect
        space, heard = await join(world, beto, invitation, seconds=3)
        assert space is None
        assert set(heard) == {"join.dialling", told}


async def test_a_member_that_is_not_the_inviter_lets_a_newcomer_in_and_the_inviter_grants_later(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        beto = await world.admitted("beto", *TASKS, by=ana)
        invitation = await ana.invite()
        await world.sync(beto, ana)
        ana.stop()
        carla = await world.home("carla", *TASKS)
        space, _ = await join(world, carla, world.at(invitation, beto))
        assert space is not None
        assert beto.space.members.authors[space.author].standing is Standing.PROVISIONAL

        await world.home("ana", *TASKS)
        await world.sync(beto, ana)
        await quiet()
        await world.sync(beto, ana)
        assert [home.space.members.authors[space.author].standing for home in (ana, beto)] == [Standing.OK] * 2


async def test_a_join_cut_after_any_write_can_be_tried_again_and_admits_one_author(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        for writes in range(9):
            cables = [Cable(writes_left=writes)]
            world.cable = lambda cables=cables: cables.pop() if cables else Cable()  # type: ignore[misc]
            invitation = await ana.invite()
            before = set(ana.space.members.authors)
            guest = await world.home(f"guest {writes}", *TASKS)
            space, _ = await join(world, guest, invitation, seconds=60)
            await quiet()
            assert space is not None, f"cut after {writes} writes"
            assert set(ana.space.members.authors) - before == {space.author}
            assert await ana.digest() == await guest.digest()
            guest.stop()


async def test_a_newcomer_whose_node_is_killed_on_the_way_is_the_same_author_afterwards(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        for writes in range(2, 7):
            invitation = await ana.invite()
            before = set(ana.space.members.authors)
            guest = await world.home(f"guest {writes}", *TASKS)
            cables = [Cable(writes_left=writes)]
            world.cable = lambda cables=cables: cables.pop() if cables else Cable()  # type: ignore[misc]
            await join(world, guest, invitation, seconds=1)
            guest.stop()
            await quiet()
            await world.home(guest.name, *TASKS)
            space, _ = await join(world, guest, invitation)
            assert space is not None, f"cut after {writes} writes"
            await quiet()
            assert set(ana.space.members.authors) - before == {space.author}
            assert await ana.digest() == await guest.digest()
            guest.stop()


# Only one


async def test_the_second_who_comes_with_an_invitation_hears_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        invitation = await ana.invite()
        one, two = await world.home("one", *TASKS), await world.home("two", *TASKS)
        first, _ = await join(world, one, invitation)
        assert first is not None
        await quiet()
        before = await ana.digest()
        cables: list[Cable] = []
        world.cable = lambda: cables.append(Cable()) or cables[-1]  # type: ignore[func-returns-value]

        second, told = await join(world, two, invitation, seconds=100)

        assert second is None
        assert set(told) == {"join.dialling", "join.silent"}
        assert all(len(cable.written) == 1 for cable in cables)  # its own first messages
        assert await ana.digest() == before


async def test_two_who_come_at_the_same_instant_are_never_both_welcomed(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", "sync")
        answer = ana.store.answer_invite

        async def slowly(admission: bytes, author: bytes, now_s: float) -> bool:
            await trio.sleep(0.5)  # a writer's thread with other things to do
            return await answer(admission, author, now_s)

        ana.store.answer_invite = slowly  # type: ignore[method-assign]
        homes = [await world.home(name, *TASKS) for name in ("one", "two", "three")]
        invitation = await ana.invite()
        spaces: list[Space] = []

        async def hurry(home: Home) -> None:
            with suppress(CommandError):
                space, _ = await join(world, home, invitation)
                if space is not None:
                    spaces.append(space)

        async with trio.open_nursery() as nursery:
            for home in homes:
                nursery.start_soon(hurry, home)
        assert len(spaces) == 1
        assert sum(bool(home.node.spaces) for home in homes) == 1
        assert set(ana.space.members.authors) == {ana.space.author, spaces[0].author}


async def test_an_expired_invitation_is_refused_at_both_ends(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        invitation = await ana.invite(seconds=60)
        beto = await world.home("beto", *TASKS)
        await trio.sleep(61)
        with pytest.raises(CommandError) as refused:
            await beto.node.newcomer.join(invitation, "beto", lambda key: None)
        assert refused.value.key == "join.expired"

        beto.ambient.ahead_seconds = -3600.0  # a newcomer whose clock is slow asks nevertheless
        space, told = await join(world, beto, invitation)
        assert space is None
        assert "join.silent" in told


async def test_a_newcomer_whose_welcome_was_lost_has_ten_minutes(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        for seconds, let_in in ((540.0, True), (660.0, False)):
            invitation = await ana.invite()
            rogue, meeting, _ = await knock(world, ana, invitation)
            claim = claim_of(bytes([let_in]) * 32, invitation)
            rogue.say(RunMessage(claim))
            await quiet()
            assert rogue.heard_of(Welcome)
            meeting.cable.cut()
            await trio.sleep(seconds)
            rogue, meeting, _ = await knock(world, ana, invitation)
            rogue.say(RunMessage(claim)) if rogue.link.connection.remote else None
            await quiet()
            assert bool(rogue.heard_of(Welcome)) is let_in


# What a newcomer may say


async def knock(world: World, host: Home, invitation: Invitation) -> tuple[Rogue, Meeting, Run]:
    """Somebody with the invitation, past the handshake, and an honest claim of its."""
    rogue = Rogue()
    secret = SessionSecret(invitation.space, Mode.JOIN, invitation.join_secret)
    meeting = world.intrude(host, rogue, secret=secret)
    await quiet()
    return rogue, meeting, claim_of(b"\x77" * 32, invitation)


def claim_of(
    seed: bytes, invitation: Invitation, *, admission: bytes | None = None, author: bytes | None = None
) -> Run:
    body = statement.claim(
        invitation.space, author or keys.signer_public(seed), admission or invitation.admission_seed, "quien sea"
    )
    payload = statement.encode(body, bytes(16))
    return written(invitation.space, seed, [payload], log_class=LogClass.MEMBERSHIP, kind=Kind.CLAIM)


async def test_the_use_is_noted_and_the_claim_kept_before_the_secrets_go_out(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        invitation = await ana.invite()
        for method in ("answer_invite", "commit_runs"):
            kept = getattr(ana.store, method)

            async def failing(*args: object, **options: object) -> None:
                raise StoreFailed("IOError")

            setattr(ana.store, method, failing)
            rogue, meeting, claim = await knock(world, ana, invitation)
            rogue.say(RunMessage(claim))
            await meeting.ended()
            assert meeting.called.reason == "store"
            assert rogue.heard_of(Welcome) == []
            setattr(ana.store, method, kept)
        rogue, _, claim = await knock(world, ana, invitation)
        rogue.say(RunMessage(claim))
        await quiet()
        assert rogue.heard_of(Welcome) == [Welcome(ana.space.epochs)]


async def test_what_is_not_a_claim_on_this_invitation_ends_the_link_and_nothing_is_kept(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        invitation, other = await ana.invite(), await ana.invite()
        seed = b"\x77" * 32
        claim = claim_of(seed, invitation)
        follow_up = written(
            invitation.space, seed, filed("y"), after=claim, log_class=LogClass.MEMBERSHIP, kind=Kind.GRANT
        )
        before = await ana.digest()
        for wrong in (
            [RunMessage(written(invitation.space, seed, filed("uno")))],
            [RunMessage(claim_of(seed, other))],
            [RunMessage(claim_of(seed, invitation, admission=b"?" * 32))],
            [RunMessage(claim_of(seed, invitation, author=b"\x01" * 32))],
            [RunMessage(follow_up)],
            [Joined()],
        ):
            rogue, meeting, _ = await knock(world, ana, invitation)
            rogue.say(*wrong)
            await meeting.ended()
            assert meeting.called.reason == "refused"
            assert rogue.heard_of(Welcome) == []
            assert await ana.digest() == before
        assert use_of(ana, invitation) is use_of(ana, other) is None


async def test_a_claim_said_twice_in_one_session_is_refused(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        rogue, meeting, claim = await knock(world, ana, await ana.invite())
        rogue.say(RunMessage(claim), RunMessage(claim))
        await meeting.ended()
        assert meeting.called.reason == "refused"


async def test_a_member_who_announces_anothers_join_secret_keeps_nobody_out(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana", *TASKS)
        invitation = await ana.invite()
        body = statement.invite(
            ana.space.id, ana.space.author, b"\x55" * 32, Role.READER, 2**40, invitation.join_secret
        )
        async with ana.node.author.lock:
            await ana.node.author.publish(
                ana.space, LogClass.MEMBERSHIP, [(int(Kind.INVITE), statement.encode(body, bytes(16)))]
            )
        beto = await world.home("beto", *TASKS)
        space, _ = await join(world, beto, invitation)
        assert space is not None
        assert ana.space.members.authors[space.author].role is Role.WRITER


# What a host may say


@pytest.mark.parametrize(
    "welcomes", [[Welcome(())], [Welcome((b"e" * 32,)), Welcome((b"f" * 32,))]], ids=["empty", "twice"]
)
async def test_a_welcome_without_secrets_or_a_second_one_is_refused(
    autojump_clock: Clock, welcomes: list[Welcome]
) -> None:
    stored: list[Sequence[bytes]] = []

    async def store(epochs: Sequence[bytes]) -> None:
        stored.append(epochs)

    class Mute:
        def send(self, message: object) -> None: ...

    guest = Guest(Mute(), claim_of(b"\x77" * 32, Invitation(b"S" * 32, b"j" * 32, b"a" * 32, 1)), store, lambda: None)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="welcome"):
        await guest.handle(welcomes)
    assert len(stored) == len(welcomes) - 1


async def test_claims_travel_to_members_that_did_not_answer_them(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        meeting = await world.meet(beto, ana)
        carla = await world.admitted("carla", by=ana)
        await quiet()
        (claim,) = claims_of(carla)
        assert beto.high(claim) == 1
        assert meeting.dialler.reason == "open"
