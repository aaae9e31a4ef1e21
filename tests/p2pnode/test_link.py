"""The pump between a stream and a connection: why a link ends, that it takes everything with it, and when."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.link import Link
from protocol.connection import Connection, Phase
from protocol.events import Event
from protocol.handshake import LocalEnd
from protocol.limits import HANDSHAKE_SECONDS, IDLE_SECONDS, SILENCE_SECONDS_MAX, SILENCE_SECONDS_MIN, Limits
from protocol.mask import Mode, SessionSecret
from protocol.messages import Digest
from protocol.noise import KeyPair
from tests.p2pnode.worlds import Plug, Rogue, SeededAmbient, World, joined, quiet

Clock = trio.testing.MockClock
SECRET = SessionSecret(b"S" * 32, Mode.MEMBER, b"e" * 32)


class Ends:
    """Two links over one cable, their conversations silent rogues, in a nursery of their own."""

    def __init__(self, nursery: trio.Nursery, *, secret: SessionSecret = SECRET, answered: bool = True) -> None:
        self.nursery = nursery
        self.plugs = joined()
        self.rogues = [Rogue(), Rogue()]
        ambients = [SeededAmbient("left"), SeededAmbient("right")]
        for rogue, ambient in zip(self.rogues, ambients, strict=True):
            rogue.local = LocalEnd(KeyPair.from_secret(ambient.entropy(32)), ambient.entropy(16))
        common = {"now": trio.current_time(), "wall": ambients[0].now(), "limits": Limits()}
        connections = [
            Connection.initiate(SECRET, self.rogues[0].local, bytes(32), entropy=ambients[0].entropy, **common),
            Connection.respond([secret] if answered else [], entropy=ambients[1].entropy, **common),
        ]
        self.links = [
            Link(plug, connection, Limits()) for plug, connection in zip(self.plugs, connections, strict=True)
        ]
        self.over = [trio.Event(), trio.Event()]
        for number in (0, 1):
            self.rogues[number].link = self.links[number]
            nursery.start_soon(self._run, number)

    async def _run(self, number: int) -> None:
        await self.links[number].run(self.rogues[number])
        self.over[number].set()


async def test_who_says_goodbye_closes_and_the_other_end_hears_that_it_ended(autojump_clock: Clock) -> None:
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            ends = Ends(nursery)
            await quiet()
            ends.rogues[0].say(Digest(bytes(32), question=False))
            ends.links[0].close()
            await quiet()
            assert [link.reason for link in ends.links] == ["closed", "ended"]
            assert ends.rogues[1].heard_of(Digest)


async def test_a_stream_that_stops_without_a_goodbye_was_cut(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as inner:
        ends = Ends(inner)
        await quiet()
        await ends.plugs[0].send_eof()
        await quiet()
        assert ends.links[1].reason == "cut"
        inner.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["eof", "cut"])
async def test_what_was_read_before_the_stream_ended_is_still_handled(autojump_clock: Clock, end: str) -> None:
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        await quiet()
        handle = ends.rogues[1].handle

        async def slowly(events: Sequence[Event]) -> None:
            await trio.sleep(1)
            await handle(events)

        ends.rogues[1].handle = slowly  # type: ignore[method-assign]
        for number in range(3):
            ends.rogues[0].say(Digest(bytes([number]) * 32, question=False))
            await trio.testing.wait_all_tasks_blocked()
        if end == "eof":
            await ends.plugs[0].send_eof()
        else:
            ends.links[1].connection.send(Digest(bytes(32), question=False))  # type: ignore[attr-defined]
            ends.plugs[0].cable.cut()
            ends.links[1].wake()
        await ends.over[1].wait()
        assert [heard.digest[0] for heard in ends.rogues[1].heard_of(Digest)] == [0, 1, 2]
        assert ends.links[1].reason in ("cut", "broken")
        nursery.cancel_scope.cancel()


async def test_writing_into_a_dead_stream_breaks_the_link(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        await quiet()
        ends.plugs[0].cable.bytes_left = 0
        ends.rogues[0].say(Digest(bytes(32), question=False))
        await quiet()
        assert ends.links[0].reason == "broken"
        assert ends.links[1].reason in ("cut", "broken")


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", bytes(18), b"\xff" * 70_000], ids=["http", "zeros", "too much"]
)
async def test_what_does_not_open_is_refused_and_nothing_is_written_after_it(
    autojump_clock: Clock, junk: bytes
) -> None:
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        await quiet()
        writes = len(ends.plugs[0].cable.written)
        await ends.plugs[0].inner.send_all(junk)
        await quiet()
        assert ends.links[1].reason == "refused"
        assert len(ends.plugs[0].cable.written) == writes


async def test_a_session_that_is_silent_times_out_and_a_word_gives_it_more_time(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        await quiet()
        begun = trio.current_time()
        await trio.sleep(IDLE_SECONDS - 10)
        ends.rogues[0].say(Digest(bytes(32), question=False))
        await ends.over[0].wait()
        assert trio.current_time() == pytest.approx(begun + IDLE_SECONDS)
        assert ends.links[0].reason == "timeout"
        await ends.over[1].wait()
        assert ends.links[1].reason in ("cut", "timeout")


async def test_an_initiator_waits_for_an_answer_as_long_as_a_handshake_may_take(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery, answered=False)
        begun = trio.current_time()
        await ends.over[0].wait()
        assert trio.current_time() == pytest.approx(begun + HANDSHAKE_SECONDS)
        assert ends.links[0].reason == "timeout"
        await ends.over[1].wait()


async def test_a_stranger_is_read_in_silence_until_its_deadline_whatever_it_writes(autojump_clock: Clock) -> None:
    times = []
    for number in range(20):
        async with trio.open_nursery() as nursery:
            left, right = joined()
            connection = Connection.respond(
                [SECRET],
                entropy=SeededAmbient(str(number)).entropy,
                now=trio.current_time(),
                wall=0.0,
                limits=Limits(),
            )
            link, begun = Link(right, connection, Limits()), trio.current_time()
            nursery.start_soon(link.run, Rogue())
            while link.reason == "open":
                with trio.move_on_after(1):
                    await left.inner.send_all(b"\x55" * 4096)
                await trio.sleep(1)
            assert link.reason == "timeout"
            assert connection.phase is Phase.SILENT
            times.append(trio.current_time() - begun)
            assert len(left.cable.written) == 0
    assert SILENCE_SECONDS_MIN <= min(times) < max(times) <= SILENCE_SECONDS_MAX + 2
    assert len({round(time) for time in times}) > 5


async def test_a_dropped_link_keeps_its_first_reason(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        await quiet()
        ends.links[0].drop("duplicate")
        ends.links[0].drop("crowded")
        await ends.over[0].wait()
        assert ends.links[0].reason == "duplicate"
        await quiet()
        assert ends.links[1].reason == "cut"


async def test_a_cancelled_link_says_so(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        ends = Ends(nursery)
        await quiet()
        nursery.cancel_scope.cancel()
    assert [link.reason for link in ends.links] == ["cancelled", "cancelled"]


async def test_a_link_ended_by_a_bug_of_ours_hands_the_bug_up(autojump_clock: Clock) -> None:
    class Buggy(Rogue):
        async def handle(self, events: Sequence[Event]) -> None:
            raise ZeroDivisionError

    links: list[Link] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            ends = Ends(nursery)
            ends.rogues[1].__class__ = Buggy
            links.extend(ends.links)

    with pytest.raises(BaseExceptionGroup) as caught:
        await run()
    assert caught.group_contains(ZeroDivisionError)
    assert links[1].reason == "cancelled"


async def test_a_link_that_waits_for_its_turn_is_not_read_before_and_can_be_dropped(autojump_clock: Clock) -> None:
    left, right = joined()
    connection = Connection.respond(
        [SECRET], entropy=SeededAmbient("x").entropy, now=trio.current_time(), wall=0.0, limits=Limits()
    )
    link = Link(right, connection, Limits(), begin=trio.current_time() + 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, Rogue())
        await left.send_all(b"x" * 200)
        await quiet()
        assert connection.phase is Phase.HANDSHAKE
        link.drop("crowded")
    assert link.reason == "crowded"


async def test_one_byte_at_a_time_is_the_same_session(tmp_path: Path, autojump_clock: Clock) -> None:
    class Trickle(Plug):
        async def receive_some(self, max_bytes: int | None = None) -> bytearray:
            return await super().receive_some(1)

    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        beto = await world.admitted("beto", by=ana)
        await ana.publish("uno", "dos")
        meeting = await world.join(beto, ana)
        for end in meeting.ends:
            end.link._stream.__class__ = Trickle
        await quiet()
        assert await beto.titles() == ["dos", "uno"]
        assert await ana.digest() == await beto.digest()
