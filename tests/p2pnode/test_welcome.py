"""Joining by what lies at a relay, when nobody is there: who gets in, and what cannot be put in its way."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode import packing
from p2pnode.calling import CallFailed, RelayRefused
from p2pnode.failures import CommandError
from p2pnode.relay.allowance import RelayLimits
from p2pnode.space import Space
from protocol import invite, statement
from protocol.bundle import SALT_SIZE, Part, Sealer
from protocol.entry import Kind, LogClass
from protocol.invite import Invitation
from protocol.mailbox import welcome_topic
from protocol.membership import Standing
from protocol.messages import RunMessage, Welcome
from protocol.relay_messages import Append, Read, Reason, Refused
from protocol.statement import Role
from tests.p2pnode.relays import Lie, RelayHome, Relays, mailbox, mailboxes_alone, uses
from tests.p2pnode.worlds import Home, World

Clock = trio.testing.MockClock
DAY = 86_400


@dataclass
class Post:
    """A founder who uses a relay, and is at home only when a test says so."""

    world: World
    relays: Relays
    relay: RelayHome
    ana: Home

    async def invited(self, *, seconds: int = DAY) -> Invitation:
        with self.world.as_home(self.ana):
            return invite.decode(await self.ana.node.invite(self.ana.space, [], seconds, Role.WRITER, by_relay=True))

    async def put(self, invitation: Invitation, *parts: Part, secret: bytes | None = None) -> int:
        """What somebody who holds an invitation puts where the welcome lies."""
        sealer = Sealer(secret or invitation.join_secret, self.ana.ambient.entropy(SALT_SIZE))
        message = b"".join([sealer.put(part) for part in parts]) + sealer.finish()
        return await self.relay.put(welcome_topic(invitation.join_secret, self.relay.key.public), message)

    async def away(self) -> None:
        """Ana has appended everything, and goes."""
        self.ana.node.outposts.hurry()
        await self.ana.node.outposts.passed()
        self.ana.stop()
        await trio.sleep(1)


@asynccontextmanager
async def opened(path: Path, *, limits: RelayLimits | None = None) -> AsyncIterator[Post]:
    with mailboxes_alone():
        async with World.open(path) as world:
            relays = Relays(world, path)
            relay = await relays.opened("relay", limits=limits)
            ana = await world.founder("ana", "grant")
            await uses(ana, relay)
            yield Post(world, relays, relay, ana)


async def join(
    post: Post, home: Home, invitation: Invitation, *, seconds: float = 300
) -> tuple[Space | None, Sequence[str]]:
    """`join --by-relay`: the space, None when nothing came of it in time, and what was told meanwhile."""
    told: list[str] = []
    with trio.move_on_after(seconds), post.world.as_home(home):
        return await home.node.newcomer.join(invitation, home.name, told.append, by_relay=True), told
    return None, told


async def test_a_newcomer_gets_in_while_nobody_is_there_and_is_granted_later(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        await post.ana.publish("uno")
        invitation = await post.invited()
        await post.away()
        beto = await post.world.home("beto", "grant")
        space, told = await join(post, beto, invitation)
        assert space is not None
        assert (space.name, told) == ("vecinos", ["join.fetching", "join.welcomed"])
        assert space.members.authors[space.author].standing is Standing.PROVISIONAL
        await beto.publish("dos")
        await trio.sleep(1200)
        assert await beto.titles() == ["dos", "uno"]
        beto.stop()

        await post.world.home("ana", "grant")
        await trio.sleep(2400)
        assert await post.ana.titles() == ["dos", "uno"]
        assert post.ana.space.members.authors[space.author].standing is Standing.OK
        assert mailbox(post.ana, post.relay).told.warnings == set()


async def test_an_invitation_that_has_expired_or_names_no_relay_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        invitation = await post.invited(seconds=60)
        beto = await post.world.home("beto", "grant")
        with pytest.raises(CommandError) as refused:
            await join(post, beto, replace(invitation, relays=(), addresses=(invite.Address("10.0.0.1", 1),)))
        assert refused.value.key == "join.no_relay"
        await trio.sleep(61)
        with pytest.raises(CommandError) as refused:
            await join(post, beto, invitation)
        assert refused.value.key == "join.expired"
        beto.ambient.ahead_seconds = -3600.0  # a newcomer whose clock is slow reads, and does not belong
        await join(post, beto, invitation)
        assert not beto.node.spaces or all(
            space.members.authors.get(space.author) is None
            or space.members.authors[space.author].standing is not Standing.OK
            for space in beto.node.spaces.values()
        )


async def test_a_relay_without_the_welcome_or_without_a_pulse_is_asked_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        invitation = await post.invited()
        await post.away()
        empty = await post.relays.opened("empty")
        beto = await post.world.home("beto", "grant")
        elsewhere = replace(invitation, relays=(empty.written,))
        assert await join(post, beto, elsewhere, seconds=12) == (None, ["join.fetching", "join.no_welcome"] * 3)
        await empty.stop()
        assert set((await join(post, beto, elsewhere, seconds=12))[1]) == {"join.fetching", "join.relay_unanswered"}
        await empty.start()
        empty.lie = Lie(lambda asked: [Refused(Reason.FAILED)])
        assert set((await join(post, beto, elsewhere, seconds=12))[1]) == {"join.fetching", "join.relay_unanswered"}
        assert beto.node.spaces == {}
        both = replace(invitation, relays=(empty.written, post.relay.written))
        space, told = await join(post, beto, both)
        assert space is not None
        assert told == ["join.fetching", "join.relay_unanswered", "join.welcomed"]


FALSE = Welcome((b"\x66" * 32,))


def stuffings() -> dict[str, Callable[[Invitation, list[Part]], list[list[Part]]]]:
    """What stands before the honest welcome, from somebody who holds the invitation."""
    return {
        "other secrets": lambda invitation, honest: [[FALSE]],
        "other secrets, with the true founding": lambda invitation, honest: [[FALSE, *honest[1:]]],
        "no secrets": lambda invitation, honest: [honest[1:]],
        "nothing": lambda invitation, honest: [[]],
        "many": lambda invitation, honest: [[FALSE] for _ in range(40)],
        "the secrets twice": lambda invitation, honest: [[FALSE, honest[0], FALSE]],
    }


@pytest.mark.parametrize("name", stuffings())
async def test_who_holds_an_invitation_cannot_put_another_welcome_before_the_true_one(
    tmp_path: Path, autojump_clock: Clock, name: str
) -> None:
    async with opened(tmp_path) as post:
        invitation = await post.invited()
        runs = await post.ana.store.membership_runs(post.ana.space.no)
        honest: list[Part] = [Welcome(post.ana.space.epochs), *map(RunMessage, runs)]
        await post.away()
        other = await post.relays.opened("other")
        post.relay = other
        for parts in stuffings()[name](invitation, honest):
            await post.put(invitation, *parts)
        await post.put(invitation, FALSE, secret=b"not the join secret".ljust(32))
        await other.put(welcome_topic(invitation.join_secret, other.key.public), b"\0" * 5000)
        await other.put(welcome_topic(invitation.join_secret, other.key.public), b"x")
        await post.put(invitation, *honest)
        for parts in stuffings()[name](invitation, honest):
            await post.put(invitation, *parts)
        beto = await post.world.home("beto", "grant")
        space, told = await join(post, beto, replace(invitation, relays=(other.written,)))
        assert space is not None
        assert Welcome(space.epochs) == honest[0]
        assert (space.name, told[-1]) == ("vecinos", "join.welcomed")


async def test_a_welcome_with_secrets_of_another_space_alone_is_none(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        invitation = await post.invited()
        runs = await post.ana.store.membership_runs(post.ana.space.no)
        await post.away()
        post.relay = await post.relays.opened("other")
        await post.put(invitation, FALSE, *map(RunMessage, runs))
        beto = await post.world.home("beto", "grant")
        space, told = await join(post, beto, replace(invitation, relays=(post.relay.written,)), seconds=20)
        assert space is None
        assert set(told) == {"join.fetching", "join.no_welcome"}
        assert beto.node.spaces == {}, "what does not fit is not kept, so that the true one can come"


async def test_two_who_claim_one_welcome_are_both_seen_as_contested(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        invitation = await post.invited()
        post.ana.stop()
        await trio.sleep(1)
        spaces = []
        for name in ("beto", "eva"):
            home = await post.world.home(name, "grant")
            space, _ = await join(post, home, invitation)
            assert space is not None
            spaces.append(space)
        await trio.sleep(1200)
        authors = [space.author for space in spaces]
        for home in (post.world.homes["beto"], post.world.homes["eva"]):
            standings = [home.space.members.authors[author].standing for author in authors]
            assert standings == [Standing.CONTESTED] * 2
        await post.world.home("ana", "grant")
        await trio.sleep(2400)
        standings = [post.ana.space.members.authors[author].standing for author in authors]
        assert Standing.CONTESTED in standings


async def test_a_welcome_longer_than_a_message_is_whole_whatever_the_relay_takes(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path, limits=RelayLimits(message_size_max=packing.MESSAGE_SIZE_MIN)) as post:
        ana = post.ana
        for _ in range(2):
            bodies = [
                statement.invite(ana.space.id, ana.space.author, ana.ambient.entropy(32), Role.READER, 2**40, bytes(32))
                for _ in range(300)
            ]
            payloads = [(int(Kind.INVITE), statement.encode(body, ana.ambient.entropy(16))) for body in bodies]
            async with ana.node.author.lock:
                await ana.node.author.publish(ana.space, LogClass.MEMBERSHIP, payloads)
        invitation = await post.invited()
        topic = welcome_topic(invitation.join_secret, post.relay.key.public)
        appends = [request for request in post.relay.requests(Append) if request.topic == topic.key]
        assert len(appends) >= 3
        assert len(await post.relay.messages(topic.key)) == len(appends), "each of them is taken"
        post.ana.stop()
        await trio.sleep(1)
        beto = await post.world.home("beto", "grant")
        space, _ = await join(post, beto, invitation)
        assert space is not None
        assert len(space.members.invites) == 601


async def test_who_leaves_a_welcome_hears_when_it_was_not_taken(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        await post.relay.stop()
        with pytest.raises(CallFailed):
            await post.invited()
        await post.relay.start()
        post.relay.lie = Lie(
            lambda asked: [Refused(Reason.FULL) if isinstance(asked.request, Append) else asked.answer or b""],
            passes_on=lambda dialler, request: isinstance(request, Read),
        )
        with pytest.raises(RelayRefused):
            await post.invited()
