"""Whom a node meets and when: dialling with backoff, strangers in their place, and one node's bad day is its own."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.session import DIGEST_INTERVAL_SECONDS
from p2pnode.socks import Failure
from p2pnode.store import StoreDamaged, StoreFailed
from p2pnode.sync import BACKOFF_SECONDS_MAX, DIALS_MAX, LAN_ADDRESS_SECONDS
from protocol.limits import SILENCE_SECONDS_MAX, Limits
from tests.p2pnode.worlds import Home, Plug, World, joined, quiet

Clock = trio.testing.MockClock
NOWHERE = ("10.9.9.9", 4001)


async def pair(world: World, *tasks: str) -> tuple[Home, Home]:
    """Two members that hold the same and do not know each other's address."""
    ana = await world.founder("ana", *tasks)
    beto = await world.admitted("beto", *tasks, by=ana)
    await world.sync(beto, ana)
    return ana, beto


def times(world: World, home: Home, address: tuple[str, int] | None = None) -> list[float]:
    """When a home dialled."""
    return [when for when, who, where in world.dials if who == home.name and address in (None, where)]


# Dialling


async def test_the_wait_between_two_tries_doubles_up_to_five_minutes_with_jitter(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        for home in (ana, beto):
            home.node.sync.know(home.space, NOWHERE, by_hand=True)
        await trio.sleep(4 * 3600)
        for home in (ana, beto):
            waits = [later - earlier for earlier, later in pairwise(times(world, home))]
            for number, wait in enumerate(waits):
                backoff = min(2**number, BACKOFF_SECONDS_MAX)
                assert 0.5 * backoff <= wait <= 1.5 * backoff
            assert len(waits) > 30
            assert len({round(wait) for wait in waits[-20:]}) > 10
        assert times(world, ana)[5:] != times(world, beto)[5:]
        (candidate,) = ana.node.sync.candidates.values()
        assert candidate.failure == "unreachable"


async def test_who_answered_is_dialled_again_after_a_second_or_so(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        world.reaches = lambda one, other: trio.current_time() > 1000
        beto.node.sync.know(beto.space, ana.address, by_hand=True)
        await trio.sleep(1400)
        assert len(beto.sessions) == 1
        world.cut()
        cut = trio.current_time()
        await trio.sleep(3)
        assert 0.5 <= times(world, beto)[-1] - cut <= 1.5
        assert len(beto.sessions) == 1


async def test_hurrying_dials_at_once_and_starts_the_waits_anew(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana, _ = await pair(world, "sync")
        ana.node.sync.know(ana.space, NOWHERE, by_hand=True)
        await trio.sleep(3600)
        before = len(world.dials)
        ana.node.sync.hurry()
        await quiet()
        assert len(world.dials) == before + 1
        await trio.sleep(5)
        assert len(world.dials) >= before + 3


async def test_an_address_whose_node_is_connected_is_left_alone_whoever_dialled(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        for one, other in ((ana, beto), (beto, ana)):
            one.node.sync.know(one.space, other.address, by_hand=True)
        await trio.sleep(60)
        assert len(ana.sessions) == len(beto.sessions) == 1
        dialled = len(world.dials)
        await trio.sleep(3600)
        assert len(world.dials) == dialled
        assert len(ana.sessions) == len(beto.sessions) == 1


async def test_when_the_session_that_the_other_dialled_ends_we_dial(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        one, other = sorted((ana, beto), key=lambda home: home.space.local.static.public)
        other.node.sync.know(other.space, one.address, by_hand=True)
        await trio.sleep(10)
        one.node.sync.know(
            one.space, other.address, by_hand=False, seconds=30
        )  # its session will be the one that stays
        await trio.sleep(10)
        assert one.sessions[0].connection.initiator
        await trio.sleep(30)
        one.node.sync.candidates.clear()
        world.cut()
        await trio.sleep(10)
        assert len(one.sessions) == len(other.sessions) == 1
        assert other.sessions[0].connection.initiator


async def test_what_the_lan_told_is_forgotten_after_an_hour_and_what_a_person_said_never(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana, _ = await pair(world, "sync")
        know = ana.node.sync.know
        lan, said, both = [(f"10.9.9.{number}", 4001) for number in range(3)]
        for address in (lan, both):
            know(ana.space, address, by_hand=False, seconds=LAN_ADDRESS_SECONDS)
        for address in (said, both):
            know(ana.space, address, by_hand=True)
        await trio.sleep(LAN_ADDRESS_SECONDS / 2)
        know(ana.space, lan, by_hand=False, seconds=LAN_ADDRESS_SECONDS)  # heard again
        await trio.sleep(LAN_ADDRESS_SECONDS * 0.75)
        assert {address for _, address in ana.node.sync.candidates} == {lan, said, both}
        await trio.sleep(LAN_ADDRESS_SECONDS * 1.25)
        assert {address for _, address in ana.node.sync.candidates} == {said, both}
        assert max(times(world, ana, lan)) <= LAN_ADDRESS_SECONDS * 1.5 + 1
        assert max(times(world, ana, both)) > LAN_ADDRESS_SECONDS * 2


async def test_a_node_that_knows_its_own_address_does_not_meet_itself_in_a_loop(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana, _ = await pair(world, "sync")
        ana.node.sync.know(ana.space, ana.address, by_hand=True)
        await trio.sleep(3600)
        assert ana.sessions == []
        assert len(world.dials) < 25
        (candidate,) = ana.node.sync.candidates.values()
        assert candidate.failure == "refused"


async def test_only_so_many_are_dialled_at_once(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana, _ = await pair(world, "sync")
        dialling = most = 0

        async def connect(address: tuple[str, int]) -> Failure:
            nonlocal dialling, most
            dialling += 1
            most = max(most, dialling)
            await trio.sleep(10)
            dialling -= 1
            return Failure.UNREACHABLE

        world.connecting = connect
        for number in range(30):
            ana.node.sync.know(ana.space, (f"10.9.9.{number}", 4001), by_hand=True)
        await trio.sleep(100)
        assert most == DIALS_MAX


async def test_what_nobody_pushed_is_found_by_the_comparison_every_few_minutes(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        beto.node.sync.know(beto.space, ana.address, by_hand=True)
        await trio.sleep(5)
        announce, ana.node.exchange.announce = ana.node.exchange.announce, lambda *news: None  # type: ignore[method-assign]
        await ana.publish("uno")
        ana.node.exchange.announce = announce  # type: ignore[method-assign]
        await quiet()
        assert await beto.titles() == []
        await trio.sleep(1.25 * DIGEST_INTERVAL_SECONDS + 1)
        assert await beto.titles() == ["uno"]


async def test_goodbye_ends_every_session_in_order(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        beto.node.sync.know(beto.space, ana.address, by_hand=True)
        await trio.sleep(5)
        await ana.publish("uno")
        await quiet()
        before = trio.current_time()
        await ana.node.goodbye()
        assert trio.current_time() - before <= 1
        await quiet()
        assert ana.sessions == beto.sessions == []
        assert await beto.titles() == ["uno"]


# A store that fails


@pytest.mark.parametrize("error", [StoreDamaged(), StoreFailed("IOError")], ids=["damaged", "failed"])
async def test_a_store_that_fails_for_a_while_does_not_end_the_node(
    tmp_path: Path, autojump_clock: Clock, error: Exception
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        beto.node.sync.know(beto.space, ana.address, by_hand=True)
        await trio.sleep(5)

        async def failing(*args: object) -> bytes:
            raise error

        def failing_now(*args: object) -> None:
            raise error

        for home in (ana, beto):
            kept = home.store.digest, home.store.invite_uses
            home.store.digest, home.store.invite_uses = failing, failing_now  # type: ignore[method-assign,assignment]
            await trio.sleep(3 * DIGEST_INTERVAL_SECONDS)  # compared with
            world.cut()
            await trio.sleep(60)  # dialled, called
            home.store.digest, home.store.invite_uses = kept  # type: ignore[method-assign]
            home.node.sync.hurry()
            beto.node.sync.hurry()
            await trio.sleep(60)
            assert home.is_up
            assert len(ana.sessions) == len(beto.sessions) == 1
        await ana.publish("uno")
        await quiet()
        assert await beto.titles() == ["uno"]


# Strangers


def call(home: Home, host: str, data: bytes = b"") -> Plug:
    """Somebody calls from this host, and writes no more than this."""
    near, far = joined(hosts=(host, ""))
    home.node._nursery.start_soon(home.node.sync.receive, far)
    if data:
        home.node._nursery.start_soon(near.inner.send_all, data)
    return near


async def test_one_address_has_so_many_strangers_and_loopback_any_number(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = Limits(strangers_per_address_max=3, strangers_max=100)
    async with World.open(tmp_path, limits=limits) as world:
        ana = await world.founder("ana")
        for host, kept in (("10.1.1.1", 3), ("fe80::1%eth0", 3), ("127.0.0.1", 10), ("::1", 10)):
            before = len(ana.node.sync.door.strangers)
            for _ in range(10):
                call(ana, host)
            await quiet()
            assert len(ana.node.sync.door.strangers) - before == kept
        await trio.sleep(SILENCE_SECONDS_MAX + 5)
        assert ana.node.sync.door.strangers == {}
        assert ana.node.sync.door.inside == 0


async def test_of_too_many_strangers_the_oldest_goes_first(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path, limits=Limits(strangers_max=5)) as world:
        ana = await world.founder("ana")
        links = []
        for number in range(20):
            call(ana, f"10.1.1.{number}")
            await quiet()
            links.append(list(ana.node.sync.door.strangers)[-1])
            assert len(ana.node.sync.door.strangers) <= 5
        assert [link.reason for link in links] == ["crowded"] * 15 + ["open"] * 5
        assert ana.node.sync.door.inside == 5


async def test_a_crowd_in_one_instant_is_not_let_in_beyond_the_bound(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path, limits=Limits(strangers_max=5)) as world:
        ana = await world.founder("ana")
        for number in range(50):
            call(ana, f"10.1.1.{number}")
        await quiet()
        assert len(ana.node.sync.door.strangers) == ana.node.sync.door.inside == 5


async def test_no_more_links_than_there_may_be_and_members_are_not_thrown_out_for_strangers(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path, limits=Limits(sessions_max=4)) as world:
        ana, beto = await pair(world, "sync")
        beto.node.sync.know(beto.space, ana.address, by_hand=True)
        await trio.sleep(5)
        for number in range(30):
            call(ana, f"10.1.1.{number}")
        await quiet()
        assert ana.node.sync.door.inside == 4
        assert len(ana.sessions) == 1
        await ana.publish("uno")
        await quiet()
        assert await beto.titles() == ["uno"]


async def test_first_messages_are_tried_so_many_a_second(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = Limits(handshakes_per_second=10, strangers_max=1000)
    async with World.open(tmp_path, limits=limits) as world:
        ana = await world.founder("ana")
        await trio.sleep(100)
        begun = trio.current_time()
        tried: list[float] = []
        for number in range(100):
            call(ana, f"10.1.{number}.1")
        await quiet()
        tried = sorted(max(link._begin, begun) - begun for link in ana.node.sync.door.strangers)
        assert len(tried) == 100
        for start in range(10):
            assert sum(start <= when < start + 1 for when in tried) <= 2 * limits.handshakes_per_second + 1
        assert max(tried) <= 100 / limits.handshakes_per_second


async def test_an_honest_peer_syncs_within_five_seconds_beside_five_hundred_that_dawdle(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto = await pair(world, "sync")
        await ana.publish("uno")

        async def dawdle(host: str) -> None:
            while True:
                plug = call(ana, host)
                with suppress(trio.BrokenResourceError):
                    for _ in range(6):
                        await plug.inner.send_all(b"x")
                        await trio.sleep(10 * world.random.random())
                await trio.sleep(60)

        for number in range(500):
            world.nursery.start_soon(dawdle, f"10.1.{number % 250}.{number // 250}")
        await trio.sleep(10)
        assert len(ana.node.sync.door.strangers) <= ana.limits.strangers_max
        beto.node.sync.know(beto.space, ana.address, by_hand=True)
        await trio.sleep(5)
        assert await beto.titles() == ["uno"]


async def test_who_has_shown_its_secret_is_no_stranger_any_more(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path, limits=Limits(strangers_max=2)) as world:
        ana, beto = await pair(world, "sync")
        beto.node.sync.know(beto.space, ana.address, by_hand=True)
        await trio.sleep(5)
        assert ana.node.sync.door.strangers == {}
        for number in range(10):
            call(ana, f"10.1.1.{number}")
        await quiet()
        assert len(ana.sessions) == 1
