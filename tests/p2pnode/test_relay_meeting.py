"""The meeting point: whoever shows the same token is joined, up to so many bytes and so much time."""

from dataclasses import dataclass, field

import trio
import trio.testing

from p2pnode.relay.allowance import RelayLimits
from p2pnode.relay.meeting import MeetingPoint
from protocol.relay_messages import Answer, Meet, Met, Reason, Refused

TOKEN = b"t" * 32
BYTES_MAX = 100_000
SECONDS_MAX = 60.0
LIMITS = RelayLimits(waiting_max=1, meeting_bytes_max=BYTES_MAX, meeting_seconds_max=SECONDS_MAX)


@dataclass
class Spoken:
    """Stands in for the relay's end of a session: what was said in it, and nothing on the stream."""

    said: list[Answer] = field(default_factory=list)

    def send(self, answer: Answer) -> None:
        self.said.append(answer)

    def data_to_send(self, now: float) -> bytes:
        return b""

    def close(self) -> None:
        pass


@dataclass
class Caller:
    """Somebody at the meeting point."""

    point: MeetingPoint
    spoken: Spoken = field(default_factory=Spoken)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stream, self._far = trio.testing.memory_stream_pair()

    async def meet(self, token: bytes = TOKEN, wait_seconds: int = 0) -> None:
        self.ended.append(await self.point.join(self._far, self.spoken, Meet(token, wait_seconds)))  # type: ignore[arg-type]
        await self._far.aclose()


async def joined(point: MeetingPoint, nursery: trio.Nursery) -> tuple[Caller, Caller]:
    """Two that were joined: who waited, and who came."""
    one, two = Caller(point), Caller(point)
    nursery.start_soon(one.meet, TOKEN, 10)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(two.meet)
    await trio.testing.wait_all_tasks_blocked()
    assert (one.spoken.said, two.spoken.said) == ([Met(leads=False)], [Met(leads=True)])
    return one, two


async def everything(stream: trio.abc.ReceiveStream) -> int:
    """How many bytes come before the end."""
    size = 0
    while data := await stream.receive_some():
        size += len(data)
    return size


async def test_two_are_joined_and_what_one_says_the_other_hears_until_one_goes(autojump_clock: trio.testing.MockClock):
    async with trio.open_nursery() as nursery:
        one, two = await joined(MeetingPoint(LIMITS), nursery)
        await one.stream.send_all(b"hola")
        assert await two.stream.receive_some() == b"hola"
        await two.stream.send_all(b"buenas")
        assert await one.stream.receive_some() == b"buenas"
        await two.stream.aclose()
        assert await one.stream.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
    assert (one.ended, two.ended) == (["met"], ["met"])


async def test_a_pair_has_so_many_bytes_both_ways_together_and_then_is_parted(autojump_clock: trio.testing.MockClock):
    async with trio.open_nursery() as nursery:
        one, two = await joined(MeetingPoint(LIMITS), nursery)
        piece = bytes(10_000)
        for _ in range(4):
            await one.stream.send_all(piece)
            await two.stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        assert one.ended == two.ended == []
        for _ in range(2):
            await one.stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        assert (one.ended, two.ended) == (["met"], ["met"])
        assert await everything(two.stream) == 60_000
        assert await everything(one.stream) == 40_000


async def test_a_pair_has_so_much_time_and_then_is_parted_even_if_it_is_silent(autojump_clock: trio.testing.MockClock):
    async with trio.open_nursery() as nursery:
        one, two = await joined(MeetingPoint(LIMITS), nursery)
        begun = trio.current_time()
        assert await everything(one.stream) == 0
        assert trio.current_time() - begun == SECONDS_MAX
        assert await everything(two.stream) == 0


async def test_who_finds_nobody_is_told_so_and_so_is_who_has_waited_in_vain(autojump_clock: trio.testing.MockClock):
    point = MeetingPoint(LIMITS)
    early, patient, late = Caller(point), Caller(point), Caller(point)
    await early.meet()
    await patient.meet(wait_seconds=30)
    await late.meet()
    nobody = [Refused(Reason.NOBODY)]
    assert [caller.spoken.said for caller in (early, patient, late)] == [nobody] * 3


async def test_only_so_many_wait_and_who_has_gone_makes_room(autojump_clock: trio.testing.MockClock):
    point = MeetingPoint(LIMITS)
    first, second, third = Caller(point), Caller(point), Caller(point)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.meet, TOKEN, 30)
        await trio.testing.wait_all_tasks_blocked()
        await second.meet(b"u" * 32, wait_seconds=30)
        assert second.spoken.said == [Refused(Reason.FULL)]
        await first.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert first.ended == ["gone"]
        await third.meet()
        assert third.spoken.said == [Refused(Reason.NOBODY)], "nobody is joined to one who has gone"
