"""A relay that lies, to nodes that have an honest one beside it: nobody loses anything, and people are told.

Each lie is lived through in four acts: everything is well, the relay lies, it is honest again and alone, and somebody
who never knew another relay finds everything there.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode import topic as topic_module
from protocol.frames import frame
from protocol.mailbox import Cursor
from protocol.relay_handshake import Terms
from protocol.relay_messages import Append, Appended, Meet, Met, Page, Read, Reason, Refused, Type, encode
from tests.p2pnode.relays import (
    TRUTH,
    Act,
    Asked,
    Lie,
    RelayHome,
    Relays,
    Said,
    corpus,
    equal,
    later,
    mailbox,
    mailboxes_alone,
    topic,
    uses,
    words,
)
from tests.p2pnode.worlds import Home, Plug, World, quiet

Clock = trio.testing.MockClock
HOUR = 3600.0


@dataclass
class Stage:
    """Two members who use both relays."""

    world: World
    relays: Relays
    honest: RelayHome
    liar: RelayHome
    ana: Home
    beto: Home
    said: list[str] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path) -> AsyncIterator["Stage"]:
        with mailboxes_alone():
            async with World.open(path) as world:
                relays = Relays(world, path)
                honest, liar = [await relays.opened(name) for name in ("honest", "liar")]
                ana = await world.founder("ana", "grant")
                beto = await world.admitted("beto", "grant", by=ana)
                await world.sync(beto, ana)
                stage = cls(world, relays, honest, liar, ana, beto)
                for home in (ana, beto):
                    await uses(home, honest, liar)
                await stage.file(ana, "uno")
                await stage.file(beto, "dos")
                await stage.hurry(ana, beto, ana)
                assert await stage.all_is_said()
                yield stage

    async def file(self, home: Home, title: str) -> None:
        await home.publish(title)
        self.said.append(title)

    async def all_is_said(self, *others: Home) -> bool:
        homes = (self.ana, self.beto, *others)
        titles = [await home.titles() for home in homes]
        return titles == [sorted(self.said)] * len(homes) and await equal(*homes)

    async def lie(self, lie: Lie, *, seconds: float = HOUR / 2) -> set[str]:
        """The second act; what both tell about the liar meanwhile."""
        self.liar.lie = lie
        await self.call_again()
        await self.file(self.ana, "tres")
        await self.file(self.beto, "cuatro")
        told = await words(self.ana, self.liar, seconds / 2)
        await self.file(self.ana, "cinco")
        told |= await words(self.beto, self.liar, seconds / 2)
        assert await self.all_is_said(), "with an honest relay beside it nothing is late"
        assert [mailbox(home, self.honest).told.warnings for home in (self.ana, self.beto)] == [set(), set()]
        assert {mailbox(home, self.honest).told.state for home in (self.ana, self.beto)} == {"waiting"}
        return told

    async def call_again(self) -> None:
        """Whoever is connected to the liar calls anew."""
        await self.liar.stop()
        await self.liar.start()

    async def hurry(self, *homes: Home) -> None:
        """People ask for it, one after the other."""
        for home in homes:
            home.node.outposts.hurry()
            await home.node.outposts.passed()
        await trio.sleep(HOUR / 4)

    async def truth(self) -> None:
        """The liar is honest for a while, and forgiven."""
        self.liar.lie = TRUTH
        await self.call_again()
        await self.hurry(self.ana, self.beto)
        for home in (self.ana, self.beto):
            told = mailbox(home, self.liar).told
            assert (told.state, told.waiting, told.refusal, told.settled) == ("waiting", 0, None, True)
            told.warnings.clear()

    async def heal(self) -> None:
        """Acts three and four."""
        self.liar.lie = TRUTH
        await self.honest.stop()
        await self.call_again()
        await self.file(self.ana, "seis")
        await self.file(self.beto, "siete")
        await self.hurry(self.ana, self.beto)
        assert await self.all_is_said()
        for home in (self.ana, self.beto):
            told = mailbox(home, self.liar).told
            assert (told.state, told.waiting, told.refusal, told.settled) == ("waiting", 0, None, True)
        carla = await self.world.admitted("carla", "grant", by=self.ana)
        carla.ambient.ahead_seconds = self.ana.ambient.ahead_seconds
        await uses(carla, self.liar)
        await self.hurry(carla, self.ana, self.beto)
        assert await self.all_is_said(carla)


# Lies about what lies there


def of_pages(twist: Callable[[Page], Page]) -> Lie:
    """A relay that twists every page."""

    def say(asked: Asked) -> Iterable[Said]:
        match asked.answer:
            case Page() as page:
                yield twist(page)
            case answer:
                if answer is not None:
                    yield answer

    return Lie(say)


def of_messages(twist: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> Lie:
    """A relay that twists what pages hold."""
    return of_pages(lambda page: replace(page, messages=twist(page.messages)))


def flipped(message: bytes) -> bytes:
    return message[: len(message) // 2] + bytes([message[len(message) // 2] ^ 4]) + message[len(message) // 2 + 1 :]


def empty(page: Page) -> Page:
    """Nothing lies behind what was asked for."""
    return replace(page, newest=page.base, first=min(page.first, page.base + 1), messages=())


def lacks_the_newest(page: Page) -> Page:
    return (
        replace(page, newest=page.base + len(page.messages) - 1, messages=page.messages[:-1]) if page.messages else page
    )


ABOUT_MESSAGES = {
    "bits are flipped": (of_messages(lambda found: tuple(map(flipped, found))), {"damaged", "restored"}),
    "the salt is another": (
        of_messages(lambda found: tuple(b"\0" * 24 + m[24:] for m in found)),
        {"damaged", "restored"},
    ),
    "messages are cut short": (
        of_messages(lambda found: tuple(m[: len(m) // 2] for m in found)),
        {"damaged", "restored"},
    ),
    "messages are one byte": (of_messages(lambda found: tuple(b"\0" for _ in found)), {"damaged", "restored"}),
    "messages are too long": (of_messages(lambda found: tuple(m + b"more" for m in found)), {"damaged", "restored"}),
    "messages are zeros": (of_messages(lambda found: tuple(bytes(2**20) for _ in found[:1])), {"damaged"}),
    "the order is another": (of_messages(lambda found: tuple(reversed(found))), set()),
    "one stands for all": (of_messages(lambda found: found[:1] * len(found)), set()),
    "nothing is there": (of_pages(empty), set()),
    "the newest is missing": (of_pages(lacks_the_newest), set()),
}


async def test_what_a_relay_does_to_messages_costs_nobody_anything(tmp_path: Path, autojump_clock: Clock) -> None:
    async with Stage.opened(tmp_path) as stage:
        for name, (lie, expected) in ABOUT_MESSAGES.items():
            told = await stage.lie(lie)
            assert expected <= told, name
            assert "refused" not in told, "nobody but a member can forge"
            await stage.truth()
        await stage.heal()


# Lies about cursors


def shorter(page: Page) -> Page:
    """Less lies there than there did."""
    return Page(page.base - 1, bytes(32), 1, page.base - 1, ()) if page.base else page


def expired(page: Page) -> Page:
    """Everything has had its day."""
    end = Cursor(page.base, page.hash)
    for message in page.messages:
        end = end.behind(message)
    return replace(page, base=end.number, hash=end.hash, first=page.newest + 1, messages=())


ABOUT_CURSORS = {
    "the newest is lower": (of_pages(shorter), {"restored"}),
    "the newest is below where the page begins": (
        of_pages(lambda page: replace(page, newest=page.base - 1, messages=()) if page.base else page),
        {"broke-rules"},
    ),
    "the newest is beyond what ever comes": (of_pages(lambda page: replace(page, newest=2**53)), {"broke-rules"}),
    "the oldest is higher": (of_pages(expired), set()),
    "the oldest is beyond the end": (of_pages(lambda page: replace(page, first=page.newest + 5)), {"broke-rules"}),
    "the hash is another": (of_pages(lambda page: replace(page, hash=b"h" * 32)), {"restored", "broke-rules"}),
    "the page begins elsewhere": (of_pages(lambda page: replace(page, base=page.base + 1)), {"broke-rules"}),
    "it begins anew each time": (
        of_pages(lambda page: replace(page, hash=bytes(32)) if page.base else Page(0, bytes(32), 1, 0, ())),
        {"restored"},
    ),
    "more messages than a page has": (
        of_pages(lambda page: replace(page, newest=page.base + 1025, messages=(b"m",) * 1025)),
        {"broke-rules"},
    ),
    "a page that is too long": (
        of_pages(lambda page: replace(page, newest=page.base + 3, messages=(bytes(2**19),) * 3)),
        {"broke-rules"},
    ),
}


async def test_what_a_relay_says_about_cursors_is_seen_through(tmp_path: Path, autojump_clock: Clock) -> None:
    async with Stage.opened(tmp_path) as stage:
        for name, (lie, expected) in ABOUT_CURSORS.items():
            told = await stage.lie(lie)
            assert expected <= told, name
            await stage.truth()
        await stage.heal()


async def test_a_topic_without_an_end_is_not_read_for_ever(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_module, "PAGES_MAX", 8)
    known: dict[tuple[str, bytes, int], Cursor] = {}

    def say(asked: Asked) -> Iterable[Said]:
        if not isinstance(asked.request, Read) or not isinstance(asked.answer, Page):
            yield Refused(Reason.FAILED)
            return
        topic_key, after = asked.request.topic, asked.request.after
        start = known.get((asked.dialler, topic_key, after), Cursor(asked.answer.base, asked.answer.hash))
        message = after.to_bytes(8, "big") * 8
        known[asked.dialler, topic_key, start.number + 1] = start.behind(message)
        yield Page(start.number, start.hash, 1, 2**53, (message,))

    async with Stage.opened(tmp_path) as stage:
        before = len(stage.liar.requests(Read))
        assert {"slow", "damaged"} <= await stage.lie(Lie(say))
        assert len(stage.liar.requests(Read)) - before < 8 * 2 * 20
        await stage.heal()


# Lies about what was appended


def forgets(number: Callable[[int], int]) -> Lie:
    """A relay that says it has what it throws away. `number`: what it says, from where its caller has read to."""
    ends: dict[str, int] = {}

    def say(asked: Asked) -> Iterable[Said]:
        if isinstance(asked.request, Append):
            ends[asked.dialler] = ends.get(asked.dialler, 0) + 1
            yield Appended(max(1, number(ends[asked.dialler])))
        elif asked.answer is not None:
            if isinstance(asked.answer, Page):
                ends[asked.dialler] = asked.answer.base + len(asked.answer.messages)
            yield asked.answer

    return Lie(say, passes_on=lambda dialler, request: not isinstance(request, Append))


def to_appends(*said: Said) -> Lie:
    """A relay that says this to whoever appends, and does nothing."""

    def say(asked: Asked) -> Iterable[Said]:
        if isinstance(asked.request, Append):
            yield from said
        elif asked.answer is not None:
            yield asked.answer

    return Lie(say, passes_on=lambda dialler, request: not isinstance(request, Append))


ABOUT_APPENDS = {
    "it forgets what it said it has": (forgets(lambda number: number), {"restored"}),
    "it forgets, and numbers are far ahead": (forgets(lambda number: number + 50), {"waiting"}),
    "it forgets, and numbers go back": (forgets(lambda number: number - 1), {"waiting"}),
    "it refuses for a reason without a name": (to_appends(bytes.fromhex("0700000381187b")), {"failed"}),
    "it answers with a page": (to_appends(Page(0, bytes(32), 1, 0, ())), {"broke-rules"}),
    "it joins us to nobody": (to_appends(Met(True)), {"broke-rules"}),
    "it says nothing": (to_appends(Act.HANG), {"slow"}),
    "it hangs up": (to_appends(Act.CUT), {"cut"}),
    "it says it twice": (to_appends(Appended(900), Appended(900)), {"broke-rules"}),
}


async def test_what_a_relay_says_about_appends_is_not_believed_for_long(tmp_path: Path, autojump_clock: Clock) -> None:
    async with Stage.opened(tmp_path) as stage:
        for name, (lie, expected) in ABOUT_APPENDS.items():
            told = await stage.lie(lie)
            assert expected <= told, name
            await stage.truth()
        await stage.heal()


async def test_why_a_relay_takes_nothing_is_said_and_it_is_asked_again(tmp_path: Path, autojump_clock: Clock) -> None:
    async with Stage.opened(tmp_path) as stage:
        for reason in Reason:
            told = await stage.lie(to_appends(Refused(reason)), seconds=2000)
            assert reason.name.lower().replace("_", "-") in told
        for reason in Reason:
            assert f"refused-{reason.name.lower()}" in await stage.lie(to_reads(Refused(reason)), seconds=2000)
        await stage.heal()


# Lies that are no answers


def to_reads(*said: Said) -> Lie:
    """A relay that says this to whoever reads."""

    def say(asked: Asked) -> Iterable[Said]:
        if isinstance(asked.request, Read):
            yield from said
        elif asked.answer is not None:
            yield asked.answer

    return Lie(say)


def behind_it(*said: Said) -> Lie:
    """A relay that says this behind every answer."""

    def say(asked: Asked) -> Iterable[Said]:
        assert asked.answer is not None
        yield asked.answer
        yield from said

    return Lie(say)


ABOUT_NOTHING = {
    "it answers a reader with a number": (to_reads(Appended(1)), {"broke-rules"}),
    "it says nothing": (to_reads(Act.HANG), {"slow"}),
    "it hangs up": (to_reads(Act.CUT), {"cut"}),
    "it begins a page and stops": (
        to_reads(b"".join(list(encode(Page(0, bytes(32), 1, 1, (bytes(9000),))))[:2]), Act.HANG),
        {"broke-rules"},
    ),
    "it answers what was not asked": (behind_it(Appended(7)), {"broke-rules"}),
    "it says goodbye after every answer": (behind_it(frame(Type.CLOSE, b"")), {"cut"}),
    "it reads from us": (behind_it(frame(Type.READ, bytes(40))), {"broke-rules"}),
    "it answers as another one": (Lie(greeting=bytes(range(256))), {"broke-rules"}),
    "it answers as a web server": (Lie(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9), {"broke-rules"}),
    "it does not answer a first message": (Lie(greeting=b""), {"silent"}),
    "it takes shorter messages than there are": (Lie(terms=lambda terms: Terms(1000, 1)), {"too-small"}),
}


async def test_a_relay_that_does_not_do_its_work_is_asked_again_later(tmp_path: Path, autojump_clock: Clock) -> None:
    async with Stage.opened(tmp_path) as stage:
        for name, (lie, expected) in ABOUT_NOTHING.items():
            told = await stage.lie(lie)
            assert expected <= told, name
            await stage.truth()
        await stage.heal()


async def test_a_relay_that_does_not_wait_keeps_nobody_busy(tmp_path: Path, autojump_clock: Clock) -> None:
    def say(asked: Asked) -> Iterable[Said]:
        match asked.request:
            case Read(topic=_, after=after):
                yield Page(after, last[asked.dialler], 1, after, ()) if after else Page(0, bytes(32), 1, 0, ())
            case _:
                yield Refused(Reason.FULL)

    last: dict[str, bytes] = {}
    async with Stage.opened(tmp_path) as stage:
        for home in (stage.ana, stage.beto):
            page = await stage.liar.shelf.read(topic(home, stage.liar).key, 10**6, count_max=1, size_max=1)
            last[home.name] = page.base_hash
        before = len(stage.liar.requests(Read))
        await stage.lie(Lie(say, passes_on=lambda dialler, request: False))
        assert len(stage.liar.requests(Read)) - before < 200
        await stage.heal()


async def test_everything_malformed_that_a_relay_can_say_breaks_the_rules_and_nothing_else(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pnode.mailbox.BACKOFF_SECONDS_MAX", 8.0)
    left = corpus()
    count = len(left)
    states: set[str] = set()
    async with Stage.opened(tmp_path) as stage:

        def say(asked: Asked) -> Iterable[Said]:
            states.add(mailbox(stage.ana, stage.liar).told.state)
            yield left.pop() if left else Act.CUT

        assert count > 60
        told = await stage.lie(Lie(say), seconds=1400)
        assert left == []
        assert {"broke-rules"} <= told
        assert states <= {"reading", "waiting", "appending", "broke-rules", "cut"}
        await stage.heal()


# A relay that has two stories


async def test_a_relay_restored_from_a_copy_is_told_of_and_gets_again_what_it_lost(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with Stage.opened(tmp_path) as stage:
        copy = await stage.liar.copied()
        await stage.file(stage.ana, "tres")
        await stage.file(stage.beto, "cuatro")
        await stage.hurry(stage.ana, stage.beto)
        before = await stage.liar.messages(topic(stage.ana, stage.liar).key)
        await stage.liar.restored(copy)
        await stage.hurry(stage.ana, stage.beto)
        for home in (stage.ana, stage.beto):
            assert "restored" in mailbox(home, stage.liar).told.warnings
            assert mailbox(home, stage.honest).told.warnings == set()
        assert len(await stage.liar.messages(topic(stage.ana, stage.liar).key)) >= len(before) - 1
        await stage.heal()


async def test_a_relay_that_went_back_while_nobody_looked_is_found_out_by_what_it_still_kept(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with Stage.opened(tmp_path) as stage:
        told = await stage.lie(of_pages(expired))
        assert "restored" not in told  # it may have let go of everything
        stage.liar.lie = TRUTH
        await stage.call_again()
        assert "restored" in await words(stage.ana, stage.liar, 3600.0)
        await stage.heal()


async def test_two_who_are_shown_different_topics_find_out_as_soon_as_one_message_crosses(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with Stage.opened(tmp_path) as stage:
        ana, beto, liar = stage.ana, stage.beto, stage.liar
        await liar.stop()
        liar.paths[1].write_bytes(liar.paths[0].read_bytes())
        await liar.start()
        assert "equivocates" not in await stage.lie(Lie(story=lambda dialler: dialler == "beto"))
        theirs = await liar.messages(topic(beto, liar).key, story=1)
        assert theirs
        await liar.put(topic(ana, liar), theirs[-1])
        await quiet()
        assert "equivocates" in mailbox(ana, liar).told.warnings
        assert mailbox(ana, stage.honest).told.warnings == set()
        await stage.heal()


async def test_a_message_of_last_month_put_there_again_changes_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    async with Stage.opened(tmp_path) as stage:
        ana, liar = stage.ana, stage.liar
        old = await liar.messages(topic(ana, liar).key)
        later(stage.relays, days=30)
        await stage.hurry(ana, stage.beto)
        before = await ana.digest()
        for message in old * 2:
            await liar.put(topic(ana, liar), message)
        await stage.hurry(ana, stage.beto)
        assert await ana.digest() == before
        assert await stage.all_is_said()
        assert mailbox(ana, liar).told.warnings <= {"equivocates"}  # SEEN is of another topic
        await stage.heal()


# Lies at the meeting point


@asynccontextmanager
async def meeting_point(path: Path, *, collectives: int = 1) -> AsyncIterator[tuple[RelayHome, list[list[Home]]]]:
    """Members of some spaces who meet at one relay, and have nothing else."""
    async with World.open(path) as world:
        relay = await Relays(world, path).opened("liar")
        found = []
        for number in range(collectives):
            ana = await world.founder(f"ana{number}", "grant")
            beto = await world.admitted(f"beto{number}", "grant", by=ana)
            await world.sync(beto, ana)
            await ana.publish(f"secreto {number}")
            found.append([ana, beto])
        yield relay, found


def no_mailbox() -> Lie:
    """Nothing but the meeting point is at work."""

    def say(asked: Asked) -> Iterable[Said]:
        if isinstance(asked.request, Read | Append):
            yield Act.HANG
        elif asked.answer is not None:
            yield asked.answer

    return Lie(say, passes_on=lambda dialler, request: isinstance(request, Meet))


async def test_two_members_who_can_only_dial_meet_at_an_honest_relay(tmp_path: Path, autojump_clock: Clock) -> None:
    async with meeting_point(tmp_path) as (relay, [[ana, beto]]):
        relay.lie = no_mailbox()
        for home in (ana, beto):
            await uses(home, relay)
        await trio.sleep(600)
        assert await beto.titles() == ["secreto 0"]
        assert len(ana.sessions) == len(beto.sessions) == 1


@pytest.mark.parametrize("leads", [True, False], ids=["both lead", "neither leads"])
async def test_a_relay_that_joins_two_with_one_role_keeps_them_apart_and_nothing_more(
    tmp_path: Path, autojump_clock: Clock, leads: bool
) -> None:
    async with meeting_point(tmp_path) as (relay, [[ana, beto]]):

        def say(asked: Asked) -> Iterable[Said]:
            yield Met(leads) if isinstance(asked.answer, Met) else asked.answer or Act.HANG

        relay.lie = replace(no_mailbox(), say=say)
        for home in (ana, beto):
            await uses(home, relay)
        await trio.sleep(1200)
        assert await beto.titles() == []
        assert len(relay.requests(Meet)) > 20  # they go on
        relay.lie = no_mailbox()
        await relay.stop()
        await relay.start()
        await trio.sleep(1200)
        assert await beto.titles() == ["secreto 0"]


async def test_members_of_different_spaces_who_are_joined_tell_each_other_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with meeting_point(tmp_path, collectives=2) as (relay, [[ana, _], [eva, _]]):
        waiting: list[Plug] = []
        sniffed: list[bytes] = []

        def joins(stream: Plug) -> bool:
            if waiting:
                relay._nursery.start_soon(splice, waiting.pop(), stream)
            else:
                waiting.append(stream)
            return True

        async def splice(one: Plug, two: Plug) -> None:
            async def pump(source: Plug, sink: Plug) -> None:
                try:
                    while data := await source.receive_some():
                        sniffed.append(bytes(data))
                        await sink.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, one, two)
                nursery.start_soon(pump, two, one)

        def say(asked: Asked) -> Iterable[Said]:
            yield Met(bool(waiting)) if isinstance(asked.request, Meet) else Act.HANG

        relay.lie = Lie(say, passes_on=lambda dialler, request: False, joins=joins)
        digests = [await home.digest() for home in (ana, eva)]
        for home in (ana, eva):
            await uses(home, relay)
        await trio.sleep(1200)
        assert sniffed, "they have spoken"
        assert not any(b"secreto" in data for data in sniffed)
        assert [await home.digest() for home in (ana, eva)] == digests
        assert [home.sessions for home in (ana, eva)] == [[], []]


async def test_a_relay_that_says_at_once_that_nobody_is_there_keeps_nobody_busy(
    tmp_path_factory: pytest.TempPathFactory, autojump_clock: Clock
) -> None:
    for answer in (Refused(Reason.NOBODY), Met(True), Met(False)):
        async with meeting_point(tmp_path_factory.mktemp("world")) as (relay, [[ana, _]]):
            relay.lie = Lie(
                lambda asked, answer=answer: [answer if isinstance(asked.request, Meet) else Act.HANG],  # type: ignore[misc]
                passes_on=lambda dialler, request: False,
                joins=lambda stream: True,
            )
            await uses(ana, relay)
            await trio.sleep(3600)
            assert 20 < len(relay.requests(Meet)) < 900
