"""Who is let in: one session for two nodes whoever dials, nothing for strangers, replays and ourselves."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.link import Link
from p2pnode.reception import Reception
from protocol.connection import Connection, Phase
from protocol.limits import Limits
from protocol.mask import Mode, SessionSecret
from tests.p2pnode.worlds import Home, Meeting, Plug, Rogue, SeededAmbient, World, joined, quiet

Clock = trio.testing.MockClock


def sessions_of(*homes: Home) -> list[set[bytes]]:
    """The sessions that each home has now, by what both ends of one agree on."""
    return [{session.connection.handshake_hash for session in home.sessions} for home in homes]


async def pair(world: World) -> tuple[Home, Home]:
    """Two members that hold the same; the static key of the first is the smaller one."""
    ana = await world.founder("ana")
    beto = await world.admitted("beto", by=ana)
    await world.sync(beto, ana)
    one, other = sorted((ana, beto), key=lambda home: home.space.local.static.public)
    return one, other


async def test_when_both_dial_at_once_exactly_one_session_stays_at_both_ends(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        one, other = await pair(world)
        for number in range(60):
            first = await world.join(one, other)
            for _ in range(world.random.randrange(40)):
                await trio.lowlevel.checkpoint()
            second = await world.join(other, one)
            await one.publish(f"{number}")
            await quiet()

            (mine,), (theirs,) = sessions_of(one, other)
            assert mine == theirs == first.dialler.link.connection.handshake_hash  # the smaller static key's
            assert sorted(end.reason for end in first.ends) == ["open", "open"]
            assert {end.reason for end in second.ends} <= {"duplicate", "cut", "broken"}
            assert await one.digest() == await other.digest()
            await first.close()
            assert sessions_of(one, other) == [set(), set()]
            assert one.node.exchange.sessions == other.node.exchange.sessions == set()


async def lose(meeting: Meeting, home: Home, world: World) -> None:
    """The power of one end fails: it starts again, and the other end hears nothing."""
    (end,) = [end for end in meeting.ends if end.home is home]
    meeting.cable.is_lost = True
    end.link.drop("lost")
    home.stop()
    await quiet()
    await world.home(home.name)


@pytest.mark.parametrize("loses", ["smaller", "greater"])
@pytest.mark.parametrize("led", ["by the one that lost power", "by the other"])
async def test_whoever_comes_back_after_a_power_cut_replaces_its_leftover(
    tmp_path: Path, autojump_clock: Clock, loses: str, led: str
) -> None:
    async with World.open(tmp_path) as world:
        one, other = await pair(world)
        lost, kept = (one, other) if loses == "smaller" else (other, one)
        left = await (world.meet(lost, kept) if led.endswith("power") else world.meet(kept, lost))
        await lose(left, lost, world)
        assert len(kept.sessions) == 1

        back = await world.meet(lost, kept)

        assert sessions_of(lost, kept) == [{back.dialler.link.connection.handshake_hash}] * 2
        assert [end.reason for end in back.ends] == ["open", "open"]
        (leftover,) = [end for end in left.ends if end.home is kept]
        assert leftover.reason == "duplicate"


async def test_a_second_session_of_the_same_initiator_replaces_the_first(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        for home, called in [await pair(world)] * 2:
            first = await world.meet(home, called)
            second = await world.meet(home, called)
            assert sessions_of(home, called) == [{second.dialler.link.connection.handshake_hash}] * 2
            assert "open" not in {end.reason for end in first.ends}
            await second.close()
            break


async def test_a_node_that_dials_itself_is_refused_and_has_no_session(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        meeting = await world.meet(ana, ana)
        assert meeting.dialler.reason == "refused"
        await meeting.ended()
        assert ana.sessions == []
        assert meeting.transcript == []


async def test_two_starts_of_one_home_do_not_meet(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        local = ana.space.local
        ana.space.local = replace(local, start_nonce=b"another start...")
        meeting = await world.join(ana, ana)
        ana.space.local = local
        await meeting.ended()
        assert meeting.dialler.reason == "refused"
        assert ana.sessions == []


def dial(called: Home, first: bytes) -> tuple[Plug, Link]:
    """Somebody who writes these bytes to a home; the far end of the cable, and the home's link."""
    near, far = joined()
    node = called.node
    reception = Reception(node.exchange, node.sync.register, node.spaces, called.ambient, lambda remote: None)
    connection = Connection.respond(
        reception.secrets(),
        entropy=called.ambient.entropy,
        now=trio.current_time(),
        wall=called.ambient.now(),
        limits=Limits(),
    )
    link = Link(far, connection, Limits())
    reception.attach(link)
    node._nursery.start_soon(link.run, reception)
    node._nursery.start_soon(near.inner.send_all, first)
    return near, link


def opening(home: Home, secret: SessionSecret, seed: str = "x") -> bytes:
    """A first message under this secret."""
    return Connection.initiate(
        secret,
        home.space.local,
        None,
        entropy=SeededAmbient(seed).entropy,
        now=trio.current_time(),
        wall=home.ambient.now(),
        limits=Limits(),
    ).data_to_send(trio.current_time())


async def test_a_recorded_first_message_is_answered_once(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        message = opening(ana, ana.space.secret)
        first, _ = dial(ana, message)
        await quiet()
        assert len(first.cable.written) == 1
        for _ in range(3):
            again, link = dial(ana, message)
            await quiet()
            assert again.cable.written == []
            assert link.connection.phase is Phase.SILENT
        ana.stop()
        await quiet()
        await world.home("ana")  # what it has seen outlives a start
        again, _ = dial(ana, message)
        await quiet()
        assert again.cable.written == []


async def test_without_a_secret_of_ours_no_byte_goes_out(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        for secret in (
            SessionSecret(ana.space.id, Mode.MEMBER, b"?" * 32),
            SessionSecret(b"?" * 32, Mode.MEMBER, ana.space.epochs[-1]),
            SessionSecret(ana.space.id, Mode.JOIN, ana.space.epochs[-1]),
            SessionSecret(ana.space.id, Mode.REKEY, ana.space.epochs[-1]),
            SessionSecret(ana.space.id, Mode.JOIN, (await ana.invite(seconds=0)).join_secret),
        ):
            plug, link = dial(ana, opening(ana, secret))
            begun = trio.current_time()
            await quiet()
            assert plug.cable.written == []
            await trio.sleep_until(link.connection.deadline + 1)
            assert (link.reason, plug.cable.written) == ("timeout", [])
            assert 10 <= trio.current_time() - begun <= 61


async def test_a_join_secret_that_was_used_while_a_stranger_hesitated_gets_no_byte(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        for number, used in enumerate((True, False)):
            invitation = await ana.invite(seconds=5)
            secret = SessionSecret(ana.space.id, Mode.JOIN, invitation.join_secret)
            message = opening(ana, secret, f"{number}")
            plug, link = dial(ana, message[:40])
            await quiet()
            if used:
                (admission,) = [
                    key
                    for key, known in ana.space.members.invites.items()
                    if known.invite.join_secret == invitation.join_secret
                ]
                await ana.store.answer_invite(admission, b"a" * 32, ana.ambient.now())
                await ana.store.acknowledge_invite(admission)
            else:
                await trio.sleep(6)
            await plug.inner.send_all(message[40:])
            await quiet()
            assert plug.cable.written == []
            assert link.connection.phase is Phase.SILENT


async def test_a_member_that_goes_away_leaves_the_register_empty(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        for number in range(5):
            meeting = world.intrude(ana, Rogue())
            await quiet()
            assert len(ana.sessions) == len(ana.node.exchange.sessions) == 1
            if number % 2:
                meeting.cable.cut()
            else:
                meeting.dialler.link.close()
            await meeting.ended()
            assert ana.sessions == []
            assert ana.node.exchange.sessions == set()
