"""A relay at work: whom it answers, what it takes, how much it lets anybody make it do, and what it writes down."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode import events
from p2pnode.link import READ_SIZE
from p2pnode.relay.allowance import RelayLimits
from p2pnode.relay.service import Relay
from p2pnode.relay.shelf import Quotas
from p2pnode.relay.sqlite import SqliteShelf
from p2pnode.relay.visit import QUEUE_MAX
from p2pnode.store import StoreFull
from protocol.limits import IDLE_SECONDS, MESSAGE_SIZE_MAX, SILENCE_SECONDS_MAX, Limits
from protocol.mailbox import BEGINNING, Topic, topic_of
from protocol.noise import KeyPair
from protocol.relay_handshake import Terms
from protocol.relay_messages import Append, Appended, Close, Meet, Met, Page, Read, Reason, Refused, Request
from protocol.relaying import RelayConnection
from tests.p2pnode.worlds import Cable, Plug, SeededAmbient, joined, quiet

Clock = trio.testing.MockClock
KEY = KeyPair.from_secret(b"r" * 32)
TOPIC, OTHER = (topic_of(secret * 32, KEY.public, 3000) for secret in (b"e", b"f"))
DAY = 86_400.0
PLENTY = Limits(sessions_max=512, handshakes_per_second=10_000)


@dataclass
class Service:
    """A relay and its callers, who come from any address."""

    relay: Relay
    shelf: SqliteShelf
    ambient: SeededAmbient
    nursery: trio.Nursery
    callers: int = 0

    def plugged(self, host: str = "203.0.113.7", *, lockstep: bool = False) -> Plug:
        """A stream to the relay, on which nothing has been said."""
        near, far = joined(Cable(), lockstep=lockstep, hosts=(host, "198.51.100.1"))
        self.nursery.start_soon(self.relay.receive, far)
        return near

    async def call(self, host: str = "203.0.113.7", *, lockstep: bool = False) -> "Caller":
        """Somebody who has the relay's key, past the handshake."""
        caller = self.dialled(host, lockstep=lockstep)
        await caller.met.wait()
        return caller

    def dialled(self, host: str = "203.0.113.7", *, lockstep: bool = False, key: bytes = KEY.public) -> "Caller":
        self.callers += 1
        ambient = SeededAmbient(f"caller {self.callers}")
        caller = Caller(
            self.plugged(host, lockstep=lockstep),
            RelayConnection.dial(key, entropy=ambient.entropy, now=trio.current_time(), wall=self.ambient.now()),
        )
        self.nursery.start_soon(caller.run)
        return caller


@dataclass
class Caller:
    """Says what a test wants, and keeps what it hears."""

    stream: Plug
    connection: RelayConnection
    heard: list[Any] = field(default_factory=list)
    met: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    listening: trio.CancelScope = field(default_factory=trio.CancelScope)
    first: bytes = b""

    async def run(self) -> None:
        self.first = self.connection.data_to_send(trio.current_time())
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError), self.listening:
            await self.stream.send_all(self.first)
            while data := bytes(await self.stream.receive_some()):
                for event in self.connection.receive(data, trio.current_time()):
                    self.met.set() if isinstance(event, Terms) else None
                    self.heard.append(event)
                if any(isinstance(event, Met) for event in self.heard):
                    return
        self.over.set()

    async def say(self, *requests: Request) -> None:
        for request in requests:
            self.connection.send(request)
        await self.stream.send_all(self.connection.data_to_send(trio.current_time()))

    async def ask(self, *requests: Request) -> Any:
        """The answer to the last of these, once nobody can do anything before the clock moves."""
        await self.say(*requests)
        await quiet()
        return self.heard[-1]


def signed(message: bytes, topic: Topic = TOPIC, *, days: int = 30) -> Append:
    return Append(topic.key, topic.sign(message), days, message)


@asynccontextmanager
async def opened(
    path: Path, *, limits: RelayLimits | None = None, quotas: Quotas | None = None, ambient: SeededAmbient | None = None
) -> AsyncIterator[Service]:
    ambient = ambient or SeededAmbient("service")
    shelf = SqliteShelf.open(path / "shelf", b"k" * 32, quotas or Quotas(), inline=True)
    try:
        async with trio.open_nursery() as nursery:
            relay = Relay(shelf, KEY, limits or RelayLimits(links=PLENTY), ambient)
            nursery.start_soon(relay.run)
            await quiet()
            yield Service(relay, shelf, ambient, nursery)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await shelf.close()


# Strangers


def answered(stream: Plug) -> int:
    """Bytes that came back."""
    far = stream.cable.ends[1]
    return sum(written for written in getattr(far, "said", []))


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plug remembers how much was written into it, and read out of it."""
    send_all, receive_some = Plug.send_all, Plug.receive_some

    async def sending(self: Plug, data: bytes) -> None:
        self.__dict__.setdefault("said", []).append(len(data))
        await send_all(self, data)

    async def receiving(self: Plug, max_bytes: int | None = None) -> bytearray:
        data = await receive_some(self, max_bytes)
        self.__dict__.setdefault("read", []).append(len(data))
        return data

    monkeypatch.setattr(Plug, "send_all", sending)
    monkeypatch.setattr(Plug, "receive_some", receiving)


async def test_who_does_not_know_the_key_hears_nothing_whatever_it_says(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as service:
        streams = []
        for number, junk in enumerate(
            (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 99, bytes(500), b"\xff" * 70_000, b"SSH-2.0-x\r\n", b"")
        ):
            streams.append(service.plugged(f"203.0.113.{number}"))
            await streams[-1].send_all(junk)
        other = service.dialled("203.0.113.99", key=KeyPair.from_secret(b"o" * 32).public)
        streams.append(other.stream)
        await trio.sleep(SILENCE_SECONDS_MAX + 1)
        assert [answered(stream) for stream in streams] == [0] * 7
        for stream in streams[:-1]:
            assert bytes(await stream.receive_some()) == b""


async def test_a_first_message_cut_short_changed_or_lengthened_draws_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as service:
        good = (await service.call()).first
        ambient = SeededAmbient("again")
        wrongs = []
        for number in range(24):
            first = RelayConnection.dial(
                KEY.public, entropy=ambient.entropy, now=trio.current_time(), wall=service.ambient.now()
            ).data_to_send(trio.current_time())
            at = number * len(first) // 24
            flipped = first[:at] + bytes([first[at] ^ 1]) + first[at + 1 :]
            wrongs += [first[: max(1, at)], flipped, first + b"x"]
        streams = []
        for number, wrong in enumerate([good, *wrongs]):
            stream = service.plugged(f"203.0.{number}.1")
            await stream.send_all(wrong)
            await quiet()
            streams.append(stream)
            assert answered(stream) == 0, number


async def test_a_first_message_is_answered_once_also_behind_a_restart(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as service:
        caller = await service.call()
        again = service.plugged("203.0.113.8")
        await again.send_all(caller.first)
        await quiet()
        assert answered(again) == 0
    async with opened(tmp_path) as service:
        again = service.plugged("203.0.113.9")
        await again.send_all(caller.first)
        await trio.sleep(SILENCE_SECONDS_MAX + 1)
        assert answered(again) == 0


async def test_a_crowd_of_strangers_does_not_keep_out_who_knows_the_key(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = RelayLimits(links=Limits(sessions_max=512, handshakes_per_second=200))
    async with opened(tmp_path, limits=limits) as service:
        for number in range(2_000):  # half open, each from an address of its own
            service.plugged(f"2001:db8::{number:x}")
            if number % 50 == 0:
                await quiet()
            assert len(service.relay.door.strangers) <= limits.links.strangers_max
        caller = service.dialled("203.0.113.7")
        with trio.fail_after(2):
            await caller.met.wait()
        crowd = [service.plugged("203.0.113.66") for _ in range(100)]
        await quiet()
        assert list(service.relay.door.strangers.values()).count("203.0.113.66") == 8
        assert isinstance(await caller.ask(Read(TOPIC.key, 0, 0)), Page)
        assert len(crowd) == 100
        await trio.sleep(SILENCE_SECONDS_MAX + 15)
        assert service.relay.door.inside == 1


async def test_who_knows_the_key_does_not_take_every_place_from_one_address(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    limits = RelayLimits(links=Limits(sessions_max=8, handshakes_per_second=10_000), visits_per_address_max=4)
    async with opened(tmp_path, limits=limits) as service:
        greedy = [await service.call("203.0.113.66") for _ in range(4)]
        for _ in range(20):
            service.plugged("203.0.113.66")
            await quiet()
            assert service.relay.door.inside == 4
        honest = await service.call("203.0.113.7")
        assert isinstance(await honest.ask(Read(TOPIC.key, 0, 0)), Page)
        await greedy[0].stream.aclose()
        await quiet()
        await service.call("203.0.113.66")
        assert service.relay.door.inside == 5


# Appending and reading


async def test_only_the_holder_of_a_topic_appends_and_only_what_it_signed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path, limits=RelayLimits(links=PLENTY, message_size_max=1000)) as service:
        caller = await service.call()
        assert caller.heard == [Terms(1000, 63)]
        for wrong in (
            Append(TOPIC.key, bytes(64), 30, b"m"),
            Append(TOPIC.key, OTHER.sign(b"m"), 30, b"m"),
            Append(TOPIC.key, TOPIC.sign(b"n"), 30, b"m"),
            Append(bytes(32), TOPIC.sign(b"m"), 30, b"m"),
        ):
            assert await caller.ask(wrong) == Refused(Reason.UNSIGNED)
        assert await caller.ask(signed(bytes(1001))) == Refused(Reason.TOO_LONG)
        assert (await caller.ask(Read(TOPIC.key, 0, 0))).messages == ()
        assert await caller.ask(signed(bytes(1000))) == Appended(1)
        assert await caller.ask(signed(bytes(1000))) == Appended(1), "the same again is the same"


async def test_a_reader_waits_for_news_for_its_time_or_for_its_own_next_word(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as service:
        reader, writer = await service.call(), await service.call("203.0.113.8")
        begun = trio.current_time()
        await reader.say(Read(TOPIC.key, 0, 100))
        await trio.sleep(50)
        assert len(reader.heard) == 1
        await writer.say(signed(b"one", OTHER))
        await quiet()
        assert len(reader.heard) == 1, "that is another topic"
        await writer.say(signed(b"one"))
        await quiet()
        assert reader.heard[-1] == Page(0, BEGINNING.hash, 1, 1, (b"one",))
        assert trio.current_time() == begun + 50

        await reader.say(Read(TOPIC.key, 1, 100))
        await trio.sleep(99)
        assert len(reader.heard) == 2
        await trio.sleep(2)
        assert reader.heard[-1] == Page(1, BEGINNING.behind(b"one").hash, 1, 1, ())

        answer = await reader.ask(Read(TOPIC.key, 1, 100), signed(b"two"))
        assert answer == Appended(2)
        assert [type(event) for event in reader.heard[-2:]] == [Page, Appended]
        assert (await reader.ask(Read(TOPIC.key, 1, 100))).messages == (b"two",)


async def test_who_hangs_up_while_it_waits_is_forgotten(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as service:
        for _ in range(5):
            reader = await service.call()
            await reader.say(Read(TOPIC.key, 0, 240))
            await quiet()
            assert service.relay._waiting._visits
            await reader.stream.aclose()
            await quiet()
            assert service.relay._waiting._visits == {}
        assert service.relay.door.inside == 0


async def test_every_message_is_kept_for_whole_days_and_some_more(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as service:
        kept: list[dict[str, int]] = []
        append = service.shelf.append

        async def spied(topic: bytes, message: bytes, **days: int) -> Any:
            kept.append(days)
            return await append(topic, message, **days)

        monkeypatch.setattr(service.shelf, "append", spied)
        caller = await service.call()
        for number in range(60):
            await caller.ask(signed(b"%d" % number, days=10))
        await caller.ask(signed(b"for ever", days=366))
        today = int(service.ambient.now() // DAY)
        lasts = [days["keep_until"] - today for days in kept]
        assert {days["today"] for days in kept} == {today}
        assert set(lasts[:60]) == set(range(10, 18))
        assert 63 <= lasts[60] <= 70


# How much


async def test_what_is_sent_without_waiting_does_not_pile_up(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as service:
        caller = await service.call()
        append, gate = service.shelf.append, trio.Event()

        async def slow(*args: Any, **days: int) -> Any:
            await gate.wait()
            return await append(*args, **days)

        service.shelf.append = slow  # type: ignore[method-assign]
        messages = [random.Random(number).randbytes(MESSAGE_SIZE_MAX) for number in range(16)]
        await caller.say(*map(signed, messages))
        await quiet()
        taken = sum(caller.stream.cable.ends[1].__dict__["read"])
        being_handled = 5  # asked of the shelf, between the two ends of the queue, half read
        assert taken <= (QUEUE_MAX + being_handled) * (MESSAGE_SIZE_MAX + READ_SIZE)
        other = await service.call("203.0.113.8")
        assert isinstance(await other.ask(Read(TOPIC.key, 0, 0)), Page), "nobody else is held up"
        gate.set()
        await quiet()
        assert caller.heard[1:] == [Appended(number) for number in range(1, 17)]


async def test_who_asks_and_does_not_read_holds_a_bounded_amount_and_nobody_up(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as service:
        writer = await service.call()
        for number in range(8):
            await writer.ask(signed(random.Random(number).randbytes(MESSAGE_SIZE_MAX)))
        greedy = await service.call("203.0.113.8", lockstep=True)
        greedy.stream.deaf = True
        await greedy.say(*[Read(TOPIC.key, number % 8, 0) for number in range(16)])
        await quiet()
        said = sum(greedy.stream.cable.ends[1].__dict__["said"])
        assert said <= 5 * MESSAGE_SIZE_MAX
        assert len((await writer.ask(Read(TOPIC.key, 0, 0))).messages) == 1
        await trio.sleep(IDLE_SECONDS + 1)
        assert service.relay.door.inside in (0, 1), "the greedy one has been dropped"


async def test_more_requests_than_may_wait_end_the_call(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as service:
        gate = trio.Event()

        async def slow(*args: Any, **options: Any) -> Any:
            await gate.wait()

        caller = await service.call()
        service.shelf.read = slow  # type: ignore[method-assign]
        await caller.say(*[Read(TOPIC.key, 0, 0)] * 16)
        caller.connection._questions._waiting.clear()
        await caller.say(Read(TOPIC.key, 0, 0))
        await quiet()
        assert caller.over.is_set()


async def test_an_address_has_its_share_of_a_day_and_a_new_one_the_next(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path, limits=RelayLimits(links=PLENTY, address_bytes_max=1000)) as service:
        caller, other, local = [await service.call(host) for host in ("203.0.113.7", "203.0.113.8", "127.0.0.1")]
        assert await caller.ask(signed(bytes(600))) == Appended(1)
        assert await caller.ask(signed(bytes(401))) == Refused(Reason.TOO_MUCH)
        assert await (await service.call()).ask(signed(bytes(402))) == Refused(Reason.TOO_MUCH), "who calls again, too"
        assert await caller.ask(signed(bytes(400))) == Appended(2)
        assert await caller.ask(Append(TOPIC.key, bytes(64), 1, b"m")) == Refused(Reason.UNSIGNED)
        assert await other.ask(signed(bytes(1000))) == Appended(3)
        for number in range(5):
            assert await local.ask(signed(bytes(900 + number), OTHER)) == Appended(number + 1)
        service.ambient.ahead_seconds += DAY
        assert await caller.ask(signed(bytes(999))) == Appended(4)


async def test_a_stranger_who_fills_the_relay_leaves_room_for_topics_that_were_there(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path, quotas=Quotas(bytes_max=100_000, topic_bytes_max=60_000, topics_max=40)) as service:
        member, stranger = await service.call(), await service.call("203.0.113.8")
        assert await member.ask(signed(b"first")) == Appended(1)
        refusals = []
        for number in range(60):
            own = topic_of(bytes([number]) * 32, KEY.public, 1)
            answer = await stranger.ask(signed(bytes(4000), own))
            refusals += [answer.reason] if isinstance(answer, Refused) else []
        assert set(refusals) == {Reason.NO_NEW_TOPICS}
        assert await member.ask(signed(b"second")) == Appended(2)
        assert await member.ask(signed(bytes(70_000))) == Refused(Reason.TOPIC_FULL)


async def test_a_disk_that_fails_is_said_so_and_the_relay_goes_on(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as service:
        caller = await service.call()
        for method, request in (("append", signed(b"m")), ("read", Read(TOPIC.key, 0, 100))):
            kept = getattr(service.shelf, method)

            async def full(*args: object, **options: object) -> None:
                raise StoreFull

            setattr(service.shelf, method, full)
            assert await caller.ask(request) == Refused(Reason.FAILED)
            setattr(service.shelf, method, kept)
        remember = service.shelf.remember_handshake

        async def failing(tag: bytes, week: int) -> bool:
            raise StoreFull

        service.shelf.remember_handshake = failing  # type: ignore[method-assign]
        turned_away = service.dialled("203.0.113.8")
        await turned_away.over.wait()
        assert turned_away.heard == []
        service.shelf.remember_handshake = remember  # type: ignore[method-assign]
        expire = service.shelf.expire
        service.shelf.expire = full  # type: ignore[method-assign,assign]
        await trio.sleep(3700)
        service.shelf.expire = expire  # type: ignore[method-assign]
        caller = await service.call()
        assert await caller.ask(signed(b"m")) == Appended(1)


# Time


@pytest.mark.parametrize("days", [400, -400], ids=["ahead", "back"])
async def test_a_clock_that_jumps_lets_go_of_nothing_before_it_has_held_for_a_week(
    tmp_path: Path, autojump_clock: Clock, days: int
) -> None:
    async with opened(tmp_path) as service:
        caller = await service.call()
        assert await caller.ask(signed(b"m", days=366)) == Appended(1)
        service.ambient.ahead_seconds += days * DAY
        await trio.sleep(3 * DAY)
        assert (await service.shelf.sizes()).messages == 1
        service.ambient.ahead_seconds -= days * DAY
        await trio.sleep(10 * DAY)
        assert (await service.shelf.sizes()).messages == 1, "it was set right"
        service.ambient.ahead_seconds += days * DAY
        await trio.sleep(6.9 * DAY)
        assert (await service.shelf.sizes()).messages == 1
        await trio.sleep(0.5 * DAY)
        assert (await service.shelf.sizes()).messages == (0 if days > 0 else 1), "it is believed"


async def test_what_has_had_its_day_goes_within_an_hour_of_it(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path, limits=RelayLimits(links=PLENTY, fuzz_days_max=0)) as service:
        caller = await service.call()
        await caller.ask(signed(b"m", days=2))
        await trio.sleep(1 * DAY)
        assert (await service.shelf.sizes()).messages == 1
        await trio.sleep(1 * DAY + 3600)
        assert (await service.shelf.sizes()).messages == 0


# The meeting point


async def test_two_with_one_token_are_joined_behind_whatever_they_asked_before(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path) as service:
        first, second = await service.call(), await service.call("203.0.113.8")
        await first.say(signed(b"m"), Read(TOPIC.key, 0, 0), Meet(b"t" * 32, 100))
        await quiet()
        assert [type(event) for event in first.heard] == [Terms, Appended, Page]
        await second.say(Meet(b"t" * 32, 0))
        await quiet()
        assert [caller.heard[-1] for caller in (first, second)] == [Met(False), Met(True)]
        await second.stream.send_all(b"hello")
        assert await first.stream.receive_some() == b"hello"
        await first.stream.send_all(b"who is there")
        assert await second.stream.receive_some() == b"who is there"
        await first.stream.aclose()
        assert await second.stream.receive_some() == b""
        await quiet()
        assert service.relay.door.inside == 0


@pytest.mark.parametrize("how", ["speaks", "leaves"])
async def test_one_who_speaks_too_early_or_leaves_is_not_met(tmp_path: Path, autojump_clock: Clock, how: str) -> None:
    async with opened(tmp_path) as service:
        first, second = await service.call(), await service.call("203.0.113.8")
        await first.say(Meet(b"t" * 32, 100))
        await quiet()
        if how == "speaks":
            await first.stream.send_all(b"anybody?")
        else:
            await first.stream.aclose()
        await quiet()
        await second.ask(Meet(b"t" * 32, 0))
        assert second.heard[1:] == [Refused(Reason.NOBODY), Close()]
        assert not any(isinstance(event, Met) for event in first.heard)


async def test_one_who_does_not_read_keeps_no_place_at_the_meeting_point(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path) as service:
        second = await service.call("203.0.113.8")
        await second.ask(signed(random.Random(1).randbytes(MESSAGE_SIZE_MAX)))
        first = await service.call(lockstep=True)
        first.stream.deaf = True
        await first.say(Read(TOPIC.key, 0, 0), Meet(b"t" * 32, 100))
        await quiet()
        begun = trio.current_time()
        await second.say(Meet(b"t" * 32, 0))
        await second.over.wait()
        assert trio.current_time() - begun <= 61
        await trio.sleep(1)
        assert service.relay.door.inside == 0


# What is written down


async def test_the_log_holds_no_address_no_topic_and_no_size(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(events, "log", lambda name, **fields: lines.append(f"{name} {fields}"))
    async with opened(tmp_path) as service:
        caller = await service.call("203.0.113.7")
        size = 54_321
        await caller.ask(signed(bytes(size)), Read(TOPIC.key, 0, 0), Meet(b"t" * 32, 1))
        await trio.sleep(5)
        stranger = service.plugged("2001:db8::7")
        await stranger.send_all(b"GET / HTTP/1.0\r\n\r\n")
        await trio.sleep(SILENCE_SECONDS_MAX + 3600)
    assert {line.split()[0] for line in lines} == {"relay.expired", "relay.visit_over"}
    told = "\n".join(lines)
    for secret in ("203.0.113", "2001:db8", TOPIC.key.hex(), TOPIC.key.hex()[:8], str(TOPIC.key), str(size), "t" * 8):
        assert secret not in told
    allowed: Sequence[str] = ("'messages': 0", "'reason': ")
    assert all(any(word in line for word in allowed) for line in lines)
