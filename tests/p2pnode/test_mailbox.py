"""What a node decides at a mailbox: what it reads when, what it appends, how late, and what it does when that fails."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import trio
import trio.testing

from p2pnode import packing
from p2pnode.relay.allowance import RelayLimits
from p2pnode.store import StoreFull
from protocol.bundle import SALT_SIZE, Found, Opener, Sealer, Seen, Unsealer
from protocol.limits import BUNDLE_CHUNK_SIZE
from protocol.log import Run
from protocol.mailbox import BEGINNING, LIVE_WEEKS
from protocol.membership import Standing
from protocol.messages import RunMessage
from protocol.relay_messages import Append, Meet, Read, Reason, Refused
from tests.p2pnode.relays import (
    Act,
    Asked,
    Lie,
    RelayHome,
    Relays,
    Said,
    equal,
    later,
    mailbox,
    mailboxes_alone,
    topic,
    uses,
    words,
)
from tests.p2pnode.worlds import Home, World, filed, written
from tests.storing import without_payloads

Clock = trio.testing.MockClock
DELAY_MAX = 600.0  # of a node in the field
DAY = 86_400.0
ODD_FRAMES = (b"\x09\0\0\x02\xff\xff", b"\x21\0\0\x01\x80", b"\x63\0\0\0")  # a run, a cursor, no type of ours


@dataclass
class Post:
    """A relay, and two members who have met once."""

    world: World
    relays: Relays
    relay: RelayHome
    ana: Home
    beto: Home

    async def newcomer(self, name: str) -> Home:
        """One more member, granted by ana, who holds nothing but its own claim."""
        home = await self.world.admitted(name, "grant", by=self.ana)
        home.ambient.ahead_seconds = self.ana.ambient.ahead_seconds
        return home

    def appended(self, home: Home) -> list[Append]:
        return self.relay.requests(Append, home.name)

    def runs(self, home: Home) -> list[tuple[bytes, int, int]]:
        """What a home has appended: log, first and last seq."""
        found = [run for append in self.appended(home) for run in runs_in(home, append.message)]
        return [(run.key, run.first_seq, run.last_seq) for run in found]


@asynccontextmanager
async def opened(path: Path, *, limits: RelayLimits | None = None) -> AsyncIterator[Post]:
    with mailboxes_alone():
        async with World.open(path) as world:
            relays = Relays(world, path)
            relay = await relays.opened("relay", limits=limits)
            ana = await world.founder("ana", "grant")
            beto = await world.admitted("beto", "grant", by=ana)
            await world.sync(beto, ana)
            yield Post(world, relays, relay, ana, beto)


async def hurried(*homes: Home) -> None:
    """`sync`, in one home after the other."""
    for home in homes:
        home.node.outposts.hurry()
        await home.node.outposts.passed()


def parts_in(home: Home, message: bytes) -> list[Found]:
    unsealer = Unsealer(message[:SALT_SIZE], [Opener(home.space.id, secret) for secret in home.space.epochs])
    pieces = [message[at : at + BUNDLE_CHUNK_SIZE] for at in range(SALT_SIZE, len(message), BUNDLE_CHUNK_SIZE)]
    found = [part for piece in pieces for part in unsealer.read_untrusted(piece)]
    assert unsealer.whole
    return found


def runs_in(home: Home, message: bytes) -> list[Run]:
    return [part.unproven for part in parts_in(home, message) if isinstance(part, RunMessage)]


async def silently(home: Home, *runs: Run) -> None:
    """Commits runs and tells nobody."""
    await home.store.commit_runs(home.space.no, runs, home.space)


async def seed_of(home: Home) -> bytes:
    (row,) = await home.store.load_spaces()
    return row.author_seed


# What is appended


async def test_a_node_reads_before_it_appends_and_does_not_append_what_lies_there(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        await post.ana.publish("uno", "dos")
        await post.world.sync(post.ana, post.beto)
        await uses(post.ana, post.relay)
        await hurried(post.ana)
        assert len(post.appended(post.ana)) == 1

        await uses(post.beto, post.relay)
        await hurried(post.beto)
        await trio.sleep(2 * DELAY_MAX)

        assert post.appended(post.beto) == []
        assert mailbox(post.beto, post.relay).told.settled
        kinds = [type(request) for _, who, request in post.relay.asked if who == "ana"]
        assert kinds.index(Append) > LIVE_WEEKS  # every topic was read first


async def test_a_message_says_how_far_its_writer_had_read(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        await uses(post.ana, post.relay)
        await hurried(post.ana)
        await post.ana.publish("uno")
        await hurried(post.ana)
        one, two = [parts_in(post.ana, append.message)[0] for append in post.appended(post.ana)]
        assert one == Seen(BEGINNING)
        assert two == Seen(BEGINNING.behind(post.appended(post.ana)[0].message))


async def test_only_the_stretches_that_no_message_holds_are_appended(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        space, seed = post.ana.space.id, await seed_of(post.ana)
        first = written(space, seed, filed("1", "2", "3"))
        more = written(space, seed, filed("4", "5"), after=first)
        await post.ana.take(first)
        await uses(post.ana, post.relay)
        await hurried(post.ana)
        await post.beto.take(first, more)
        await uses(post.beto, post.relay)
        await hurried(post.beto)
        assert post.runs(post.beto) == [(first.key, 4, 5)]


async def test_payloads_that_a_message_lacks_are_appended_by_who_has_them(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        run = written(post.ana.space.id, await seed_of(post.ana), filed("1", "2", "3"))
        await post.ana.take(without_payloads(run, 0))
        await post.beto.take(run)
        for home in (post.ana, post.beto):
            await uses(home, post.relay)
            await hurried(home)
        assert run.key in {key for key, _, _ in post.runs(post.beto)}
        await hurried(post.ana)
        await trio.sleep(2 * DELAY_MAX)
        assert await equal(post.ana, post.beto)
        assert await post.ana.titles() == ["1", "2", "3"]


async def test_both_branches_of_a_fork_end_up_there_and_prove_it_to_everybody(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        space, seed = post.ana.space.id, await seed_of(post.beto)
        trunk = written(space, seed, filed("uno"))
        branches = [written(space, seed, filed(title), after=trunk) for title in ("izquierda", "derecha")]
        for home, branch in zip((post.ana, post.beto), branches, strict=True):
            await home.take(trunk, branch)
            await uses(home, post.relay)
            await hurried(home)
        await hurried(post.ana, post.beto)
        await trio.sleep(2 * DELAY_MAX)
        carla = await post.newcomer("carla")
        await uses(carla, post.relay)
        await hurried(carla)
        await trio.sleep(2 * DELAY_MAX)
        assert [(await home.check())["forks"] for home in (post.ana, post.beto, carla)] == [1, 1, 1]
        count = len(post.relay.requests(Append))
        await hurried(post.ana, post.beto, carla)
        await trio.sleep(DAY)
        assert len(post.relay.requests(Append)) == count, "nobody appends a fork again and again"


async def test_what_has_expired_is_appended_again_without_anybody_asking(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path, limits=RelayLimits(days_max=1, fuzz_days_max=0)) as post:
        await uses(post.ana, post.relay)
        await post.ana.publish("uno")
        await hurried(post.ana)
        await trio.sleep(3600)
        count = len(post.appended(post.ana))
        later(post.relays, days=2)
        await trio.sleep(3600 + DELAY_MAX + 300)
        assert len(post.appended(post.ana)) > count
        carla = await post.newcomer("carla")
        await uses(carla, post.relay)
        await hurried(carla)
        assert await carla.titles() == ["uno"]


async def test_what_a_relay_loses_while_it_is_called_is_appended_again_by_the_same_call(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        await uses(post.ana, post.relay)
        await post.ana.publish("uno")
        await hurried(post.ana)
        calls = len(post.world.circuits)
        for table in ("message", "topic"):
            await post.relay.shelf._database.write(
                lambda db, table=table: db.execute(f"DELETE FROM {table}").fetchall(),  # type: ignore[misc]
                durable=True,
            )
        await trio.sleep(240 + DELAY_MAX + 60)
        assert "restored" in mailbox(post.ana, post.relay).told.warnings
        assert len(await post.relay.messages(topic(post.ana, post.relay).key)) == 1
        assert len(post.world.circuits) == calls


async def test_what_lay_in_a_week_that_nobody_reads_any_more_is_appended_to_this_one(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        await uses(post.ana, post.relay)
        await post.ana.publish("uno")
        await hurried(post.ana)
        old = topic(post.ana, post.relay)
        later(post.relays, days=7 * LIVE_WEEKS)
        await trio.sleep(1200)
        assert {append.topic for append in post.appended(post.ana)} == {old.key, topic(post.ana, post.relay).key}
        carla = await post.newcomer("carla")
        await uses(carla, post.relay)
        await hurried(carla)
        assert await carla.titles() == ["uno"]
        assert old.key not in {read.topic for read in post.relay.requests(Read, "carla")}


# Who belongs


async def test_entries_of_an_author_who_is_not_known_yet_are_taken_when_it_is(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    for days in (0, 7):  # in the same topic, and in one of another week
        folder = tmp_path / str(days)
        folder.mkdir()
        async with opened(folder) as post:
            carla = await post.newcomer("carla")
            await post.world.sync(carla, post.ana)
            await carla.publish("de carla")
            author = carla.space.author
            theirs = [run for run in await everything(carla) if run.log.author == author]
            sealed = packing.seal_message(carla.space.epochs[-1], theirs, BEGINNING, carla.ambient.entropy)
            await post.relay.put(topic(carla, post.relay), sealed.message)
            carla.stop()
            await uses(post.beto, post.relay)
            await hurried(post.beto)
            assert author not in post.beto.space.members.authors
            later(post.relays, days=days)

            await uses(post.ana, post.relay)
            await hurried(post.ana)
            await trio.sleep(2 * DELAY_MAX)

            assert post.beto.space.members.authors[author].standing is Standing.OK
            assert await post.beto.titles() == ["de carla"]


async def everything(home: Home) -> list[Run]:
    lacks = (await packing.order(home.store, home.space, {})).lacks
    return list(packing.runs(home.store, home.space, lacks))


async def test_a_member_can_put_anything_there_and_it_costs_nobody_anything(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        ana, beto, relay = post.ana, post.beto, post.relay
        space, secret = ana.space, ana.space.epochs[-1]
        honest = written(space.id, await seed_of(ana), filed("1", "2"))
        await silently(ana, honest)
        stranger = written(space.id, b"\x11" * 32, filed("mentira"))
        forged = replace(honest, signatures=dict.fromkeys(honest.signatures, bytes(64)))
        early = written(space.id, await seed_of(beto), filed("9"), after=honest, log_id=b"\x09" * 8)
        entropy = ana.ambient.entropy
        for number, message in enumerate(
            (
                packing.seal_message(secret, [forged], BEGINNING, entropy).message,
                packing.seal_message(secret, [stranger], BEGINNING, entropy).message,
                packing.seal_message(secret, [early], BEGINNING, entropy).message,
                packing.seal_message(b"another epoch".ljust(32), [honest], BEGINNING, entropy).message,
                sealed_frames(secret, entropy, *ODD_FRAMES),
                bytes(2**20),
                b"\x01",
                bytes(SALT_SIZE),
            )
        ):
            assert await relay.put(topic(ana, relay), message) == number + 1
        await uses(ana, relay)
        await uses(beto, relay)
        await hurried(ana, beto)
        await trio.sleep(2 * DELAY_MAX)

        assert await beto.titles() == ["1", "2"]
        assert await equal(ana, beto)
        assert (honest.key, 1, 2) in post.runs(ana), "what was forged does not count as lying there"
        for home in (ana, beto):
            told = mailbox(home, relay).told
            assert {"damaged", "refused"} <= told.warnings <= {"damaged", "refused", "equivocates"}
            assert (told.state, told.waiting) == ("waiting", 0)


def sealed_frames(secret: bytes, entropy: Any, *frames: bytes) -> bytes:
    """A bundle with frames that no honest maker writes."""
    sealer = Sealer(secret, entropy(SALT_SIZE))
    sealer._content = list(frames)
    sealer._size = sum(map(len, frames))
    return sealer.finish()


# The cursor


async def test_who_is_killed_between_its_commit_and_its_cursor_reads_twice_and_takes_once(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        await uses(post.ana, post.relay)
        await post.ana.publish("uno")
        await hurried(post.ana)
        beto, dead = post.beto, trio.Event()

        async def killed(*args: Any) -> None:
            beto.stop()
            dead.set()
            await trio.sleep_forever()

        beto.store.relays.read_on = killed  # type: ignore[method-assign]
        await uses(beto, post.relay)
        await dead.wait()
        await trio.sleep(1)
        await post.world.home("beto", "grant")
        assert await beto.titles() == ["uno"], "it was committed"
        await hurried(beto)
        await trio.sleep(2 * DELAY_MAX)
        assert await beto.titles() == ["uno"]
        assert await equal(post.ana, beto)
        assert post.appended(beto) == []


async def test_a_call_that_is_cut_while_it_appends_goes_on_with_the_next_one(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        cuts = [True]

        def say(asked: Asked) -> Iterable[Said]:
            if isinstance(asked.request, Append) and cuts:
                yield Act.CUT if cuts.pop() else Act.HANG
            elif asked.answer is not None:
                yield asked.answer

        post.relay.lie = Lie(say, passes_on=lambda dialler, request: not (isinstance(request, Append) and cuts))
        await post.ana.publish("uno")
        await uses(post.ana, post.relay)
        await trio.sleep(DELAY_MAX + 200)
        assert cuts == []
        assert mailbox(post.ana, post.relay).told.waiting == 0
        assert len(await post.relay.messages(topic(post.ana, post.relay).key)) == 1


# When


async def test_news_waits_a_random_time_and_nobody_who_asks_for_it_does(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        await uses(post.ana, post.relay)
        await hurried(post.ana)
        delays = []
        for number in range(12):
            await trio.sleep(DELAY_MAX + 50)
            filed_at, count = trio.current_time(), len(post.appended(post.ana))
            await post.ana.publish(f"n{number}")
            await trio.sleep(DELAY_MAX + 5)
            whens = [when for when, _, request in post.relay.asked if isinstance(request, Append)]
            delays.append(whens[count] - filed_at)
        assert max(delays) <= DELAY_MAX + 2
        assert max(delays) - min(delays) > DELAY_MAX / 3
        await post.ana.publish("urgente")
        begun = trio.current_time()
        await hurried(post.ana)
        assert trio.current_time() - begun < 120  # eight pauses of ten seconds at most
        assert mailbox(post.ana, post.relay).told.settled


async def test_a_pass_that_fails_is_over_too(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        await uses(post.ana, post.relay)
        await hurried(post.ana)
        assert mailbox(post.ana, post.relay).told.settled
        await post.relay.stop()
        await hurried(post.ana)
        told = mailbox(post.ana, post.relay).told
        assert (told.settled, told.state) == (False, "unreachable")
        await post.relay.start()
        await hurried(post.ana)
        assert (told.settled, told.state) == (True, "waiting")


async def test_a_relay_that_is_away_is_tried_ever_more_seldom_and_found_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        await post.relay.stop()
        await uses(post.ana, post.relay)
        await trio.sleep(6 * 3600)
        times = [when for when, who, _ in post.world.dials if who == "ana"]
        gaps = [after - before for before, after in pairwise(times)]
        assert gaps[0] < 3
        assert 900 / 2 <= min(gaps[-5:]) <= max(gaps) <= 900 * 1.5 + 1
        await post.relay.start()
        await trio.sleep(900 * 1.5 + DELAY_MAX + 200)
        assert mailbox(post.ana, post.relay).told.settled


async def test_each_topic_has_a_circuit_of_its_own_and_all_that_live_are_read(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        await uses(post.ana, post.relay)
        await hurried(post.ana)
        weeks = range(-LIVE_WEEKS + 1, 2)
        expected = [topic(post.ana, post.relay, week).key for week in weeks]
        asked = list(dict.fromkeys(read.topic for read in post.relay.requests(Read)))
        assert sorted(asked) == sorted(expected)
        circuits = [circuit for _, address, circuit in post.world.circuits if address == post.relay.address]
        assert circuits == asked
        assert not post.relay.requests(Meet)


async def test_when_a_week_begins_its_topic_is_waited_in_and_the_others_are_still_read(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as post:
        for home in (post.ana, post.beto):
            await uses(home, post.relay)
        await hurried(post.ana, post.beto)
        old = topic(post.ana, post.relay)
        later(post.relays, days=7)
        await trio.sleep(300)
        await post.ana.publish("uno")
        await trio.sleep(DELAY_MAX + 10)
        assert await post.beto.titles() == ["uno"]
        assert post.relay.requests(Read, "beto")[-1].topic == topic(post.ana, post.relay).key != old.key


async def test_what_a_node_whose_clock_is_a_week_ahead_appends_is_read(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        post.ana.ambient.ahead_seconds = 7 * DAY
        for home in (post.ana, post.beto):
            await uses(home, post.relay)
        await post.ana.publish("uno")
        await hurried(post.ana)
        await trio.sleep(120)
        await hurried(post.beto)
        assert {append.topic for append in post.appended(post.ana)} == {topic(post.beto, post.relay, 1).key}
        assert await post.beto.titles() == ["uno"]
        await post.beto.publish("dos")
        await hurried(post.beto, post.ana)
        await trio.sleep(120)
        await hurried(post.ana)
        assert await post.ana.titles() == ["dos", "uno"]


# When it does not go


async def test_a_relay_that_opens_no_new_topic_gets_it_into_an_older_one(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        for home in (post.ana, post.beto):
            await uses(home, post.relay)
        await hurried(post.ana, post.beto)
        old = topic(post.ana, post.relay).key
        later(post.relays, days=7)

        def say(asked: Asked) -> Iterable[Said]:
            yield Refused(Reason.NO_NEW_TOPICS) if asked.answer is None else asked.answer

        post.relay.lie = Lie(
            say, passes_on=lambda dialler, request: not (isinstance(request, Append) and request.topic != old)
        )
        await post.relay.stop()
        await post.relay.start()
        await post.ana.publish("uno")
        await hurried(post.ana)
        told = mailbox(post.ana, post.relay).told
        assert (told.waiting, told.refusal) == (0, None)
        assert [append.topic == old for append in post.appended(post.ana)][-2:] == [False, True]
        await trio.sleep(120)
        await hurried(post.beto)
        assert await post.beto.titles() == ["uno"]


async def test_a_disk_without_space_stops_nothing_for_good(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as post:
        await post.ana.publish("uno")
        await uses(post.ana, post.relay)
        await hurried(post.ana)
        relays = post.beto.store.relays
        for method in ("topic", "read_on", "lacking", "keep_live"):
            kept = getattr(relays, method)

            async def full(*args: object) -> None:
                raise StoreFull

            setattr(relays, method, full)
            (box,) = await uses(post.beto, post.relay)
            await hurried(post.beto)
            assert "store" in await words(post.beto, post.relay, 1800), method
            setattr(relays, method, kept)
            await hurried(post.beto)
            assert (box.told.state, box.told.settled) == ("waiting", True), method
            await post.beto.node.outposts.remove(post.beto.node.outposts.of(post.beto.space)[0])
        assert await post.beto.titles() == ["uno"]
        assert await equal(post.ana, post.beto)
