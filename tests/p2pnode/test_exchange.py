"""Sessions between whole nodes joined in memory: what is said, what is kept, and what a peer can make us do."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode import exchange
from p2pnode.store import StoreFailed
from protocol import keys, statement
from protocol.entry import Kind, LogClass
from protocol.errors import RemoteProtocolError
from protocol.events import Event
from protocol.frontier import LogState, State
from protocol.invite import Invitation
from protocol.limits import RECONCILE_ROUNDS_MAX, Limits
from protocol.log import Run
from protocol.messages import Decline, Digest, End, Positions, Probe, Reconcile, RunMessage, Same, Totals, Want
from protocol.reconcile import Client, Snapshot
from protocol.statement import Grant, Role
from tests.p2pnode.worlds import TINY, Cable, Home, Meeting, Rogue, World, claims_of, filed, quiet, written

STRANGER = b"\x11" * 32  # the seed of an author whom nobody admitted
Clock = trio.testing.MockClock


async def silently(home: Home, *runs: Run) -> None:
    """Commits runs without telling any session."""
    await home.store.commit_runs(home.space.no, runs, home.space)


async def unannounced(home: Home, *titles: str) -> Run:
    payloads = [(int(Kind.REPORT), home.report(title)) for title in titles]
    async with home.node.author.lock:
        return await home.node.author.publish(home.space, LogClass.REPORT, payloads)


async def equal(*homes: Home) -> bool:
    """Whether all hold and list the same."""
    boards = [await home.board() for home in homes]
    return len({await home.digest() for home in homes}) == 1 and all(board == boards[0] for board in boards)


def names(meeting: Meeting) -> list[str]:
    """The transcript, message by message."""
    return [
        f"{'->' if end is meeting.dialler else '<-'} {type(message).__name__}" for end, message in meeting.transcript
    ]


def runs_of(messages: list[object], key: bytes) -> int:
    return sum(isinstance(message, RunMessage) and message.unproven.key == key for message in messages)


# Rounds


async def test_two_that_hold_the_same_say_nothing_after_the_handshake(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        await ana.publish("uno")
        await world.sync(ana, beto)

        meeting = await world.meet(beto, ana)

        assert meeting.transcript == []
        assert [end.session.in_sync.is_set() for end in meeting.ends] == [True, True]


async def test_an_empty_node_learns_membership_first_then_everything_else(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto, carla = [await world.admitted(name, by=ana) for name in ("beto", "carla")]
        await world.sync(carla, ana)
        await carla.publish("uno", "dos")
        await ana.publish("tres")
        await ana.publish("oído", log_class=LogClass.VOICE)
        await world.sync(carla, ana)

        meeting = await world.meet(beto, ana)

        rounds: list[list[LogClass]] = [[]]
        for message in meeting.called.said:
            match message:
                case Digest():
                    rounds.append([])
                case RunMessage(run):
                    rounds[-1].append(run.log.log_class)
        assert all(classes == sorted(classes) for classes in rounds)
        assert {log_class for classes in rounds for log_class in classes} == set(LogClass)
        assert await equal(ana, beto)
        assert await beto.titles() == ["dos", "tres", "uno"]
        assert names(meeting)[:2] == ["-> Reconcile", "<- Reconcile"]
        assert names(meeting)[-2:] == ["-> Digest", "<- Digest"]


async def test_entries_of_authors_not_admitted_yet_are_declined_and_fetched_in_the_next_round(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path, limits=replace(TINY, asked_max=1)) as world:
        ana = await world.founder("ana")
        for name in ("carla", "dora", "elsa", "fabi", "gabi"):  # one of their logs sorts before what admits them
            home = await world.admitted(name, by=ana)
            await world.sync(home, ana)
            await home.publish(name)
            await world.sync(home, ana)
        beto = await world.admitted("beto", by=ana)

        meeting = await world.meet(beto, ana)

        assert meeting.dialler.said_of(Decline)
        assert sum(message.opens for message in meeting.dialler.said_of(Reconcile)) >= 2
        assert await equal(ana, beto)
        assert len(await beto.titles()) == 5


async def test_both_are_behind_in_different_logs_and_one_round_settles_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        await ana.publish("de ana")
        await beto.publish("de beto")

        meeting = await world.meet(beto, ana)

        assert await equal(ana, beto)
        assert sum(message.opens for message in meeting.dialler.said_of(Reconcile)) == 1
        assert [len(end.said_of(RunMessage)) for end in meeting.ends] == [1, 1]
        assert all(end.session.in_sync.is_set() for end in meeting.ends)


@pytest.mark.parametrize("asks", ["dialler", "called"])
async def test_either_side_may_ask_what_the_other_holds_and_what_differs_is_settled(
    tmp_path: Path, autojump_clock: Clock, asks: str
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        meeting = await world.meet(beto, ana)  # now beto holds what admits him
        await unannounced(ana, "uno")
        await unannounced(beto, "dos")

        await getattr(meeting, asks).session.compare()
        await quiet()

        assert await equal(ana, beto)
        assert await beto.titles() == ["dos", "uno"]


async def test_a_round_that_changes_nothing_is_not_repeated(tmp_path: Path, autojump_clock: Clock) -> None:
    def react(rogue: Rogue, event: Event) -> None:
        match event:
            case Positions(positions):
                rogue.say(Same(tuple(position.key for position in positions)))
            case Digest(question=True):
                rogue.say(Digest(rogue.digest, question=False))

    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        rogue = Rogue(react=react)
        meeting = await world.lure(ana, rogue)
        for _ in range(20):
            await quiet()
            await meeting.dialler.session.compare()

        assert sum(message.opens for message in meeting.dialler.said_of(Reconcile)) == 1
        assert meeting.dialler.reason == "open"


async def test_no_more_logs_are_asked_about_at_once_than_the_window_allows(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path, limits=TINY) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        for number in range(9):
            ana.node.author._tips.clear()  # as every start of a daemon does: a log of its own for each
            await ana.publish(f"{number} a", f"{number} b")

        meeting = await world.meet(beto, ana)

        waiting: set[bytes] = set()
        most = 0
        for end, message in meeting.transcript:
            match message:
                case Positions(positions) if end is meeting.dialler:
                    waiting |= {position.key for position in positions}
                case Same(keys_) | Decline(keys_) | End(keys_) if end is meeting.called:
                    waiting -= set(keys_)
            most = max(most, len(waiting))
        assert most == TINY.asked_max
        assert not waiting
        assert await equal(ana, beto)


async def test_totals_are_announced_before_the_entries(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        await ana.publish("uno", "dos")
        await ana.publish("tres")

        meeting = await world.meet(beto, ana)

        said = [message for message in meeting.called.said if isinstance(message, (Totals, RunMessage))]
        assert said[0] == Totals(3)
        assert (meeting.dialler.session.announced_entries, meeting.dialler.session.received_entries) == (3, 3)


# Live


async def line(world: World, *, closed: bool = False) -> tuple[list[Home], list[Meeting]]:
    """Ana, beto and carla hold the same; ana is joined to beto and beto to carla; closed, carla to ana too."""
    ana = await world.founder("ana")
    beto, carla = [await world.admitted(name, by=ana) for name in ("beto", "carla")]
    await world.sync(beto, ana)
    await world.sync(carla, beto)
    homes = [ana, beto, carla]
    meetings = [await world.meet(ana, beto), await world.meet(beto, carla)]
    if closed:
        meetings.append(await world.meet(carla, ana))
    assert await equal(*homes)
    return homes, meetings


async def test_news_reaches_a_third_node_through_the_second_and_crosses_each_link_once(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        (ana, beto, carla), meetings = await line(world)
        run = await ana.publish("uno", "dos")
        await quiet()

        assert await carla.titles() == ["dos", "uno"]
        crossings = [[runs_of(end.said, run.key) for end in meeting.ends] for meeting in meetings]
        assert crossings == [[1, 0], [1, 0]]
        assert await equal(ana, beto, carla)


async def test_in_a_ring_news_crosses_no_link_twice_in_one_direction(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        (ana, beto, carla), meetings = await line(world, closed=True)
        runs = [await home.publish(home.name, str(number)) for number in range(5) for home in (ana, beto, carla)]
        await quiet()

        assert await equal(ana, beto, carla)
        crossings = Counter(
            (number, end is meeting.dialler, message.unproven.key, seq)
            for number, meeting in enumerate(meetings)
            for end in meeting.ends
            for message in end.said_of(RunMessage)
            for seq in range(message.unproven.first_seq, message.unproven.last_seq + 1)
        )
        assert len({run.key for run in runs}) == 3
        assert set(crossings.values()) == {1}


async def test_a_pushed_run_that_does_not_connect_is_answered_with_a_position_and_healed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        (ana, beto, _), (meeting, _) = await line(world)
        await unannounced(ana, "uno", "dos")
        run = await ana.publish("tres")
        await quiet()

        behind = [position for message in meeting.called.said_of(Positions) for position in message.positions]
        assert behind == [LogState(run.key, 0, None, State.ORDINARY)]
        assert await beto.titles() == ["dos", "tres", "uno"]
        assert meeting.dialler.reason == "open"
        assert await equal(ana, beto)


async def test_a_peer_too_slow_for_the_news_is_compared_with_once_it_is_back(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path, limits=TINY) as world:
        (ana, beto, _), (meeting, _) = await line(world)
        session = meeting.dialler.session
        for number in range(7):
            ana.node.author._tips.clear()
            await ana.publish(f"log {number}")
            assert len(session._to_push) <= TINY.pushes_max
        await quiet()

        assert session._to_push == {}
        assert len(await beto.titles()) == 7
        assert await equal(ana, beto)


async def test_what_is_published_during_the_handshake_is_not_forgotten(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        for number in range(80):
            meeting = await world.join(beto, ana)
            for _ in range(number // 2):
                await trio.lowlevel.checkpoint()
            await (ana, beto)[number % 2].publish(f"{number}")
            await quiet()
            assert await ana.digest() == await beto.digest(), number
            await meeting.close()


# Whose entries are taken


async def test_entries_of_an_author_whom_nobody_admitted_are_declined(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        before = await ana.digest()
        rogue = Rogue()
        meeting = world.intrude(ana, rogue)
        await quiet()
        run = written(ana.space.id, STRANGER, filed("uno"))
        late = written(ana.space.id, STRANGER, filed("dos"), after=run)
        rogue.say(RunMessage(run), RunMessage(late))
        await quiet()

        assert {key for message in rogue.heard_of(Decline) for key in message.keys} == {run.key}
        assert (await ana.digest(), meeting.called.reason) == (before, "open")


async def test_two_that_claimed_one_invitation_both_travel_until_one_is_granted(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto, dora = [await world.admitted(name, by=ana) for name in ("beto", "dora")]
        invitation = await ana.invite()
        one, two = [
            await world.claimant(name, invitation=invitation, epochs=ana.space.epochs) for name in ("one", "two")
        ]
        for home in (one, two, beto):  # ana hears of both claims in one instant, and grants neither
            await silently(ana, *claims_of(home))
        for home in (one, two, beto):
            await world.sync(home, ana)
        assert {one.space.author, two.space.author} <= set(beto.space.members.authors)
        await one.publish("de one")
        await two.publish("de two")
        for home in (one, two, beto):
            await world.sync(home, ana)
        assert await beto.titles() == ["de one", "de two"]
        assert await equal(ana, beto)

        grant = Grant(keys.signer_public(invitation.admission_seed), one.space.author)
        payload = statement.encode(grant, bytes(16))
        async with ana.node.author.lock:
            run = await ana.node.author.publish(ana.space, LogClass.MEMBERSHIP, [(int(Kind.GRANT), payload)])
        ana.node.exchange.announce_run(ana.space, run)
        await world.sync(dora, ana)  # learns of the grant before the claim that it turns down
        await world.sync(beto, dora)
        await world.sync(two, beto)

        assert two.space.author not in dora.space.members.authors
        digests = {home.name: await home.digest() for home in (ana, beto, dora, two)}
        assert len(set(digests.values())) == 1, digests
        meeting = await world.meet(beto, dora)
        assert meeting.transcript == []


# Bytes that no honest node could have relayed


async def member_seed(home: Home) -> bytes:
    (row,) = await home.store.load_spaces()
    return row.author_seed


def falling_lamport(home: Home, seed: bytes) -> list[Run]:
    first = written(home.space.id, seed, filed("uno"), lamport=50)
    return [first, written(home.space.id, seed, filed("dos"), after=first, lamport=50)]


def signed_by_another(home: Home, seed: bytes) -> list[Run]:
    run = written(home.space.id, seed, filed("uno", "dos"))
    return [replace(run, signatures=written(home.space.id, STRANGER, filed("uno", "dos")).signatures)]


def another_space(home: Home, seed: bytes) -> list[Run]:
    return [written(b"\x33" * 32, seed, filed("uno"))]


def damaged(home: Home, seed: bytes) -> list[Run]:
    run = written(home.space.id, seed, filed("uno", "dos"))
    return [replace(run, payloads=[*filed("uno"), *filed("DOS")])]


def good_and_bad(home: Home, seed: bytes) -> list[Run]:
    return [written(home.space.id, seed, filed("bien")), *signed_by_another(home, seed)]


@pytest.mark.parametrize("forge", [signed_by_another, another_space, damaged, good_and_bad])
async def test_what_cannot_be_proven_ends_the_link_and_nothing_of_it_is_kept(
    tmp_path: Path, autojump_clock: Clock, forge: Callable[[Home, bytes], list[Run]]
) -> None:
    async with World.open(tmp_path) as world:
        (ana, beto, _), (meeting, _) = await line(world)
        before = await ana.digest()
        for _ in range(3):
            rogue = Rogue()
            intrusion = world.intrude(ana, rogue)
            await quiet()
            rogue.say(*map(RunMessage, forge(ana, await member_seed(ana))))
            await intrusion.ended()
            assert intrusion.called.reason == "refused"
        assert await ana.digest() == before

        await ana.publish("y la vida sigue")
        await quiet()
        assert await beto.titles() == ["y la vida sigue"]
        assert meeting.called.reason == "open"


async def test_a_log_whose_lamport_falls_ends_the_link_and_the_first_entry_stands(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        (ana, beto, _), _ = await line(world)
        rogue = Rogue()
        intrusion = world.intrude(ana, rogue)
        await quiet()
        good, bad = falling_lamport(ana, await member_seed(ana))
        rogue.say(RunMessage(good), RunMessage(bad))
        await intrusion.ended()

        assert intrusion.called.reason == "refused"
        assert await ana.titles() == ["uno"]
        await quiet()
        assert await equal(ana, beto)


@pytest.mark.parametrize("bad_at", [0, 9, 19])
async def test_one_bad_signature_among_many_runs_refuses_the_whole_batch(tmp_path: Path, bad_at: int) -> None:
    assert exchange.PROVE_IN_THREADS_MIN <= 20
    runs = [written(bytes(32), STRANGER, filed(str(number)), log_id=number.to_bytes(8, "big")) for number in range(20)]
    runs[bad_at] = replace(runs[bad_at], signatures={0: bytes(64)})

    with pytest.raises(RemoteProtocolError):
        await exchange._prove(runs)


async def test_a_thousand_refused_links_change_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        before = await ana.digest()
        bad = signed_by_another(ana, await member_seed(ana))
        for _ in range(100):
            rogue = Rogue()
            intrusion = world.intrude(ana, rogue)
            await quiet()
            rogue.say(*map(RunMessage, bad))
            await intrusion.ended()
        assert await ana.digest() == before
        assert ana.sessions == []
        assert ana.node.exchange.sessions == set()


# What a peer can make us do


class Slow:
    """Makes what a store reads at length take time."""

    def __init__(self, home: Home, seconds: float) -> None:
        self.times: list[float] = []
        query = home.store.query

        async def slow_query(read: Callable[..., object]) -> object:
            self.times.append(trio.current_time())
            await trio.sleep(seconds)
            return await query(read)

        home.store.query = slow_query  # type: ignore[method-assign,assignment]


async def test_a_peer_that_reconciles_without_end_costs_a_tenth_of_the_time(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    def react(rogue: Rogue, event: Event) -> None:
        if type(event).__name__ in ("Established", "Differences"):
            rogue.link.connection.reconcile(Snapshot.seal(()))
            rogue.link.wake()

    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        slow = Slow(ana, 1.0)
        meeting = world.intrude(ana, Rogue(react=react))
        await trio.sleep(100)
        assert len(slow.times) <= 11  # one a second without the rest in between
        assert meeting.called.reason == "open"


async def test_reconciliation_opened_again_before_the_answer_is_refused(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        Slow(ana, 1.0)
        rogue = Rogue()
        meeting = world.intrude(ana, rogue)
        await quiet()
        opening = Reconcile(Client(Snapshot.seal(()), 4096).start(), opens=True)
        rogue.say(opening, opening)
        await meeting.ended()
        assert meeting.called.reason == "refused"


def unknown(number: int) -> bytes:
    return bytes([2]) + number.to_bytes(16, "big")


async def test_questions_about_logs_that_nobody_holds_are_answered_and_forgotten(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path, limits=Limits(asked_max=64)) as world:
        ana = await world.founder("ana")
        rogue = Rogue()
        meeting = world.intrude(ana, rogue)
        await quiet()
        for start in range(0, 5000, 500):
            some = [unknown(number) for number in range(start, start + 500)]
            rogue.say(Positions(tuple(LogState(key, 0, None, State.ORDINARY) for key in some)))
            rogue.say(Positions(tuple(LogState(key, 7, bytes(32), State.ORDINARY) for key in some)))
            rogue.say(Positions(tuple(LogState(key, 7, bytes(32), State.FORKED) for key in some)))
            rogue.say(
                Want(some[0], 1, 2**32 - 1), Probe(some[0], 2**32 - 1, None), Decline(tuple(some)), End(tuple(some))
            )
            await quiet()

        answers = Counter(
            type(event).__name__ for event in rogue.heard if hasattr(event, "keys") or hasattr(event, "positions")
        )
        assert sum(len(event.keys) for event in rogue.heard_of(Same)) == 5000
        assert sum(len(event.positions) for event in rogue.heard_of(Positions)) == 10_000
        assert answers["Decline"] == 10
        assert meeting.called.reason == "open"
        session = meeting.called.session
        assert (bool(session._questions), session._searches, bool(session._serving)) == (False, {}, False)


async def test_who_asks_for_more_than_anybody_may_at_once_is_told_to_ask_later(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path, limits=replace(TINY, asked_max=4)) as world:
        ana = await world.founder("ana")
        run = await ana.publish("uno")
        rogue = Rogue()
        meeting = world.intrude(ana, rogue)
        await quiet()
        rogue.say(Positions((LogState(run.key, 0, None, State.ORDINARY),) * 100))
        await quiet()
        assert sum(len(event.keys) for event in rogue.heard_of(Decline)) == 92
        assert len(rogue.heard_of(RunMessage)) == 8
        assert meeting.called.reason == "open"


async def test_a_wanted_stretch_is_served_and_ends(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path, limits=TINY) as world:
        ana = await world.founder("ana")
        run = await ana.publish(*map(str, range(10)))
        rogue = Rogue()
        world.intrude(ana, rogue)
        await quiet()
        rogue.say(Want(run.key, 4, 6))
        await quiet()
        (sent,) = rogue.heard_of(RunMessage)
        assert (sent.unproven.first_seq, sent.unproven.last_seq) == (4, 6)
        assert rogue.heard_of(End) == [End((run.key,))]


async def test_a_peer_that_does_not_read_holds_up_nobody_and_makes_us_hold_little(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    limits = Limits(run_size_max=16 * 1024, outgoing_bytes_max=64 * 1024)
    async with World.open(tmp_path, limits=limits) as world:
        ana = await world.founder("ana")
        seed = await member_seed(ana)
        big = [bytes([number]) * 9000 for number in range(100)]
        run = written(ana.space.id, seed, big)
        await ana.take(run)
        deaf = Rogue(deaf=True)
        stuck = world.intrude(ana, deaf, lockstep=True)
        await quiet()
        deaf.say(Positions((LogState(run.key, 0, None, State.ORDINARY),)))
        await quiet()
        held = [stuck.called.link.connection.unsent_size]
        beto = await world.admitted("beto", by=ana)
        await world.meet(beto, ana)
        for number in range(10):
            await ana.publish(f"{number}")
            await quiet()
            held.append(stuck.called.link.connection.unsent_size)

        assert max(held) < limits.outgoing_bytes_max + 2 * limits.run_size_max
        assert beto.high(run) == 100
        assert await equal(ana, beto)
        assert stuck.called.reason == "open"


async def test_a_deaf_peer_that_goes_on_asking_is_greedy(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = Limits(outgoing_bytes_max=16 * 1024)
    async with World.open(tmp_path, limits=limits) as world:
        ana = await world.founder("ana")
        deaf = Rogue(deaf=True)
        meeting = world.intrude(ana, deaf, lockstep=True)
        await quiet()
        most = 0
        for start in range(0, 200_000, 500):
            if meeting.called.reason != "open":
                break
            deaf.say(Positions(tuple(LogState(unknown(start + n), 0, None, State.ORDINARY) for n in range(500))))
            await quiet()
            most = max(most, meeting.called.link.connection.unsent_size)
        assert meeting.called.reason == "greedy"
        assert most < 4 * limits.outgoing_bytes_max


async def test_reconciling_without_end_and_without_reading_is_refused(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = Limits(outgoing_bytes_max=16 * 1024)
    async with World.open(tmp_path, limits=limits) as world:
        ana = await world.founder("ana")
        for number in range(40):
            ana.node.author._tips.clear()
            await ana.publish(str(number))
        deaf = Rogue(deaf=True)
        meeting = world.intrude(ana, deaf, lockstep=True)
        await quiet()
        opening = Client(Snapshot.seal(()), 4096).start()
        deaf.say(Reconcile(opening, opens=True))
        most = 0
        for _ in range(200):
            await quiet()
            if meeting.called.reason != "open":
                break
            deaf.say(*[Reconcile(opening, opens=False)] * 10)
            most = max(most, meeting.called.link.connection.unsent_size)
        assert meeting.called.reason == "refused"
        assert most < RECONCILE_ROUNDS_MAX * limits.reconcile_frame_max


async def test_a_store_that_fails_ends_the_link_and_not_the_node(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        (ana, beto, _), (meeting, _) = await line(world)

        async def failing(*args: object, **options: object) -> None:
            raise StoreFailed("IOError")

        commit, beto.store.commit_runs = beto.store.commit_runs, failing  # type: ignore[method-assign,assignment]
        await ana.publish("uno")
        await meeting.ended()
        assert meeting.called.reason == "store"
        beto.store.commit_runs = commit  # type: ignore[method-assign]
        await world.meet(ana, beto)
        assert await equal(ana, beto)


# Cuts

ONE_BY_ONE = replace(TINY, outgoing_bytes_max=600)  # a write for every message or two


async def test_a_session_cut_after_every_write_is_continued_and_nothing_comes_twice(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path, limits=ONE_BY_ONE) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        for home, name in ((ana, "a"), (beto, "b")):
            if home is beto:
                await world.sync(beto, ana)
            for log in range(4):
                home.node.author._tips.clear()
                await home.publish(*(f"{name} {log} {number}" for number in range(16)))
        arrived: list[bytes] = []
        for home in (ana, beto):
            home.node.exchange.listen(lambda news: arrived.extend(news.run.ids))

        highs = []
        for number in range(200):
            meeting = await world.sync(beto, ana, Cable(writes_left=1 + number % 10))
            assert ana.sessions == beto.sessions == []
            assert {end.reason for end in meeting.ends} <= {"cut", "broken", "closed", "ended"}
            highs.append(ana.store.counters(ana.space.no).entries + beto.store.counters(beto.space.no).entries)
            if await ana.digest() == await beto.digest():
                break
        assert await equal(ana, beto)
        assert highs == sorted(highs)
        assert len(set(highs)) > 5, repr(list(highs))
        assert len(arrived) == len(set(arrived))
        assert len(await ana.titles()) == 128


async def test_cut_at_any_byte_the_next_session_makes_up_for_it(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        whole = await world.sync(beto, ana)
        size = sum(whole.cable.written)
        for offset in range(0, size, 53):
            await ana.publish(f"a {offset}")
            await beto.publish(f"b {offset}")
            meeting = await world.meet(beto, ana, Cable(bytes_left=offset))
            meeting.cable.cut()
            await trio.sleep(60)  # of an end in the middle of a handshake
            await meeting.ended()
            assert ana.sessions == beto.sessions == []
        await world.sync(beto, ana)
        assert await equal(ana, beto)
        assert (await ana.check())["bad"] == 0


# Forks


Branches = tuple[int, int, int]  # entries in common, then on each branch


async def forked(world: World, branches: Branches) -> tuple[Home, Home, Run, LogState]:
    """Two nodes that hold what the founder signed twice: the homes, one branch, and where both have to end."""
    ana = await world.founder("ana")
    beto = await world.admitted("beto", by=ana)
    await world.sync(beto, ana)
    common, *lengths = branches
    seed = await member_seed(ana)
    before = None
    for at in range(0, common, 50):
        before = written(ana.space.id, seed, filed(*(f"c {n}" for n in range(at, min(at + 50, common)))), after=before)
        for home in (ana, beto):
            await silently(home, before)
    made = []
    for home, name, count in ((ana, "a", lengths[0]), (beto, "b", lengths[1])):
        last = before
        for at in range(0, count, 50):
            last = written(
                ana.space.id, seed, filed(*(f"{name} {n}" for n in range(at, min(at + 50, count)))), after=last
            )
            await silently(home, last)
        made.append(last)
    run = made[0]
    assert run is not None
    return ana, beto, run, LogState(run.key, common, before.ids[-1] if before else None, State.FORKED)


@pytest.mark.parametrize("first", ["ana", "beto"])
@pytest.mark.parametrize(
    "branches", [(0, 1, 1), (0, 3, 1), (0, 1, 70), (5, 1, 1), (5, 4, 1), (5, 1, 4), (100, 2, 2), (1, 130, 70)], ids=str
)
async def test_two_branches_meet_and_both_nodes_know_of_the_same_fork(
    tmp_path: Path, autojump_clock: Clock, branches: Branches, first: str
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto, run, expected = await forked(world, branches)
        mine = {
            home.name: [home.store.id_at(home.space.no, run.key, seq) for seq in range(1, 300)] for home in (ana, beto)
        }
        await ana.publish("otra cosa")
        await beto.publish("y otra")

        meeting = await world.meet(ana, beto) if first == "ana" else await world.meet(beto, ana)

        for home in (ana, beto):
            assert home.store.position(home.space.no, run.key) == expected
            assert [home.store.id_at(home.space.no, run.key, seq) for seq in range(1, 300)] == mine[home.name]
            assert {"otra cosa", "y otra"} <= set(await home.titles())
            assert (await home.check()) | {"entries": 0, "logs": 0} == {"entries": 0, "logs": 0, "forks": 1, "bad": 0}
        assert await ana.digest() == await beto.digest()
        assert meeting.dialler.session.in_sync.is_set()
        shorter = branches[0] + min(branches[1:])
        assert bool([message for _, message in meeting.transcript if isinstance(message, Probe)]) == (shorter > 1)
        assert sum(isinstance(message, Probe) for _, message in meeting.transcript) <= 2 * shorter.bit_length()


async def test_a_forked_log_that_is_damaged_here_does_not_keep_two_nodes_talking_for_ever(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto, run, expected = await forked(world, (5, 4, 1))
        await world.sync(beto, ana)
        assert ana.store.position(ana.space.no, run.key) == expected
        await ana.store.write(
            lambda db: db.execute("UPDATE entry SET lamport = lamport + 1 WHERE id = ?", (expected.newest,)),
            durable=True,
        )
        carla = await world.admitted("carla", by=ana)

        meeting = await world.join(carla, ana)
        for _ in range(5000):
            await trio.lowlevel.checkpoint()

        assert len(meeting.transcript) < 100
        await quiet()
        await world.sync(carla, beto)
        await world.sync(carla, ana)
        assert carla.store.position(carla.space.no, run.key) == expected
        assert await carla.digest() == await ana.digest()


@pytest.mark.parametrize("order", ["ana first", "beto first"])
@pytest.mark.parametrize("branches", [(0, 1, 1), (5, 4, 1), (1, 70, 3)], ids=str)
async def test_a_third_node_learns_the_fork_in_either_order_and_hands_the_proof_on(
    tmp_path: Path, autojump_clock: Clock, branches: Branches, order: str
) -> None:
    async with World.open(tmp_path) as world:
        ana, beto, run, expected = await forked(world, branches)
        carla = await world.admitted("carla", by=ana)
        homes = [ana, beto] if order == "ana first" else [beto, ana]
        for home in (*homes, *homes):
            await world.sync(carla, home)

        assert [home.store.position(home.space.no, run.key) for home in (ana, beto, carla)] == [expected] * 3
        assert len({await home.digest() for home in (ana, beto, carla)}) == 1
        dora = await world.admitted("dora", by=ana)
        await world.sync(dora, carla)
        await world.sync(ana, carla)
        await world.sync(dora, carla)
        assert dora.store.position(dora.space.no, run.key) == expected
        assert await dora.digest() == await carla.digest()


async def test_a_lower_fork_takes_the_place_of_a_higher_one_everywhere(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        ana, beto, run, _ = await forked(world, (5, 4, 1))
        await world.sync(beto, ana)
        seed = await member_seed(ana)
        lower = written(ana.space.id, seed, filed("x 0", "x 1", "x 2"))  # a third branch, from the beginning
        carla = await world.admitted("carla", by=ana)
        await world.sync(carla, beto)
        await silently(carla, lower)
        for home in (ana, beto, ana, beto):
            await world.sync(carla, home)

        lowest = LogState(run.key, 0, None, State.FORKED)
        assert [home.store.position(home.space.no, run.key) for home in (ana, beto, carla)] == [lowest] * 3
        assert len({await home.digest() for home in (ana, beto, carla)}) == 1


async def test_a_fork_found_here_is_proven_to_everybody_who_is_connected(tmp_path: Path, autojump_clock: Clock) -> None:
    async with World.open(tmp_path) as world:
        (ana, beto, carla), _ = await line(world)
        seed = await member_seed(ana)
        first = written(ana.space.id, seed, filed("uno", "dos"))
        other = written(ana.space.id, seed, filed("dos bis"), after=written(ana.space.id, seed, filed("uno")))
        await ana.take(first)
        await quiet()
        assert carla.high(first) == 2
        await ana.take(other)
        await quiet()

        expected = LogState(first.key, 1, first.ids[0], State.FORKED)
        assert [home.store.position(home.space.no, first.key) for home in (ana, beto, carla)] == [expected] * 3
        assert len({await home.digest() for home in (ana, beto, carla)}) == 1


async def test_nodes_agree_on_the_members_when_a_curator_signs_two_different_invitations(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await world.sync(beto, ana)
        seed = await member_seed(ana)
        guests = []
        for home, name, admission in ((ana, "carla", b"1" * 32), (beto, "dora", b"2" * 32)):
            body = statement.invite(ana.space.id, ana.space.author, admission, Role.WRITER, 2**40, b"j" * 32)
            payload = statement.encode(body, bytes(16))
            run = written(ana.space.id, seed, [payload], log_class=LogClass.MEMBERSHIP, kind=Kind.INVITE, lamport=100)
            invitation = Invitation(ana.space.id, b"j" * 32, admission, 2**40, ())
            guest = await world.claimant(name, invitation=invitation, epochs=ana.space.epochs)
            await silently(home, run)
            await silently(home, *claims_of(guest))
            guests.append(guest)
            assert guest.space.author in home.space.members.authors
        for one, other in ((beto, ana), (ana, beto), (beto, ana)):
            await world.sync(one, other)

        assert ana.store.position(ana.space.no, run.key) == LogState(run.key, 0, None, State.FORKED)
        assert set(ana.space.members.authors) == set(beto.space.members.authors)
        assert await ana.digest() == await beto.digest()
