"""A call to a relay, against relays that follow a script: every wound has one name, and nothing else comes out."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode.calling import ANSWER_SECONDS, Call, CallFailed, RelayAt, RelayRefused, dial
from p2pnode.socks import Failure
from protocol.frames import frame
from protocol.limits import HANDSHAKE_SECONDS, MESSAGE_SIZE_MAX
from protocol.mailbox import BEGINNING, topic_of
from protocol.noise import KeyPair
from protocol.relay_handshake import Called, Terms
from protocol.relay_messages import Append, Appended, Close, Meet, Met, Page, Read, Reason, Refused, Type, encode
from protocol.relaying import RelayConnection
from tests.p2pnode.relays import Act, Said, bodies, corpus
from tests.p2pnode.worlds import Plug, SeededAmbient, joined, quiet

Clock = trio.testing.MockClock
KEY = KeyPair.from_secret(b"r" * 32)
TOPIC = topic_of(b"e" * 32, KEY.public, 3000)
EMPTY = Page(0, BEGINNING.hash, 1, 0, ())
TERMS = Terms(MESSAGE_SIZE_MAX, 63)


@dataclass
class Script:
    """A relay: what it says to each request in its turn; behind the last one it says nothing more."""

    said: list[Sequence[Said]]
    terms: Terms = TERMS
    greeting: bytes | None = None
    raw: bytes = b""  # behind everything, outside of any record
    heard: list[Any] = field(default_factory=list)
    stream: Plug = field(init=False)
    closed: bool = False  # by the caller

    async def run(self, stream: Plug) -> None:
        self.stream = stream
        ambient = SeededAmbient("script")
        relay = RelayConnection.listen(KEY, entropy=ambient.entropy, now=trio.current_time(), wall=ambient.now())
        try:
            while data := bytes(await stream.receive_some()):
                for event in relay.receive(data, trio.current_time()):
                    if isinstance(event, Called):
                        if self.greeting is not None:
                            await stream.send_all(self.greeting)
                            continue
                        relay.accept(self.terms, trio.current_time())
                    else:
                        self.heard.append(event)
                        if not isinstance(event, Close) and self.said:
                            self._say(relay, self.said.pop(0))
                    if out := relay.data_to_send(trio.current_time()) + (self.raw if self.heard else b""):
                        await stream.send_all(out)
            self.closed = True
        except _Cut:
            await trio.aclose_forcefully(stream)
        except trio.BrokenResourceError:
            self.closed = True

    def _say(self, relay: RelayConnection, said: Sequence[Said]) -> None:
        assert relay._channel is not None
        for one in said:
            match one:
                case Act.CUT:
                    raise _Cut
                case Act.HANG:
                    pass
                case bytes():
                    relay._channel.put([one])
                case _:
                    relay._channel.put(list(encode(one)))


class _Cut(Exception):
    pass


class Wire:
    """Stands in for a Dialler: there is one address, and the script answers there."""

    def __init__(self, script: Script, nursery: trio.Nursery) -> None:
        self.script = script
        self.plugs: list[Plug] = []
        self._nursery = nursery

    async def open(self, address: tuple[str, int], circuit: bytes) -> Any:
        await trio.lowlevel.checkpoint()
        near, far = joined()
        self.plugs += [near, far]
        self._nursery.start_soon(self.script.run, far)
        return near


@asynccontextmanager
async def called(script: Script, *, key: bytes = KEY.public) -> AsyncIterator[Call]:
    """A call to that relay. When it is over, its stream is closed."""
    async with trio.open_nursery() as nursery:
        failed: CallFailed | RelayRefused | None = None
        try:
            relay = RelayAt(("relay.example", 443), key)
            async with dial(Wire(script, nursery), relay, b"c", SeededAmbient("caller")) as call:  # type: ignore[arg-type]
                yield call
        except (CallFailed, RelayRefused) as error:
            failed = error
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


def read(call: Call) -> Awaitable[object]:
    return call.read(TOPIC.key, 0)


def append(call: Call) -> Awaitable[object]:
    return call.append(TOPIC, b"message", 30)


def meet(call: Call) -> Awaitable[object]:
    return call.meet(b"t" * 32, 30)


ASKING: list[Callable[[Call], Awaitable[object]]] = [read, append, meet]


async def failure(script: Script, ask: Callable[[Call], Awaitable[object]]) -> str:
    """How the call ends, in one word."""
    try:
        async with called(script) as call:
            await ask(call)
    except CallFailed as error:
        return error.reason
    except RelayRefused as error:
        return f"refused {error.reason.name.lower()}"
    return "well"


@pytest.mark.parametrize("ask", ASKING, ids=["read", "append", "meet"])
async def test_every_wound_ends_a_call_with_its_name(
    autojump_clock: Clock, ask: Callable[[Call], Awaitable[object]]
) -> None:
    good: dict[Callable[[Call], Awaitable[object]], Said] = {read: EMPTY, append: Appended(1), meet: Met(True)}
    answers: list[Said] = [EMPTY, Appended(1), Met(False)]
    for wrong in answers:
        ends = await failure(Script([[wrong]]), ask)
        assert ends == ("well" if type(wrong) is type(good[ask]) else "broke-rules")
    for reason in Reason:
        assert await failure(Script([[Refused(reason)]]), ask) == f"refused {reason.name.lower()}"
    begun = trio.current_time()
    assert await failure(Script([]), ask) == "slow"
    assert trio.current_time() - begun <= ANSWER_SECONDS + 30 + 1
    assert await failure(Script([[Act.CUT]]), ask) == "cut"
    assert await failure(Script([[frame(Type.CLOSE, b"")]]), ask) == "cut"
    assert await failure(Script([[]], raw=bytes(5000)), ask) == "broke-rules"


async def test_whatever_malformed_thing_a_relay_says_it_broke_the_rules(autojump_clock: Clock) -> None:
    for content in [*corpus(), *bodies()]:
        for ask in (read, append) if len(content) % 2 else (meet,):
            if (ends := await failure(Script([[content]]), ask)) != "broke-rules":
                assert ends in ("slow", "refused failed", "well"), content.hex()
                assert content[0] in (Type.PAGE, Type.REFUSED, Type.MET, Type.APPENDED), content.hex()


async def test_a_handshake_that_is_none_or_comes_too_late_is_named(autojump_clock: Clock) -> None:
    for greeting, expected in ((bytes(400), "broke-rules"), (b"SSH-2.0-OpenSSH_9.2\r\n" * 20, "broke-rules")):
        assert await failure(Script([], greeting=greeting), read) == expected
    begun = trio.current_time()
    assert await failure(Script([], greeting=b""), read) == "silent"
    assert trio.current_time() - begun <= HANDSHAKE_SECONDS + 1
    with pytest.raises(CallFailed, match="silent"):  # it has another key: to it we are a stranger
        async with called(Script([]), key=KeyPair.from_secret(b"o" * 32).public):
            pass


async def test_a_key_that_nobody_can_hold_breaks_the_rules_and_leaves_no_stream(autojump_clock: Clock) -> None:
    script = Script([])
    with pytest.raises(CallFailed, match="broke-rules"):
        async with called(script, key=bytes(32)):
            pass
    assert script.closed


async def test_who_cannot_be_reached_is_named_as_the_dialler_does(autojump_clock: Clock) -> None:
    class Nowhere:
        async def open(self, address: tuple[str, int], circuit: bytes) -> Failure:
            return Failure.PROXY_DOWN

    with pytest.raises(CallFailed, match="proxy-down"):
        async with dial(Nowhere(), RelayAt(("x", 1), KEY.public), b"", SeededAmbient("x")):  # type: ignore[arg-type]
            pass


async def test_what_is_to_be_done_here_ends_the_waiting_and_loses_no_message(autojump_clock: Clock) -> None:
    full = Page(0, BEGINNING.hash, 1, 1, (b"m",))
    for said, expected in (
        ([[], [EMPTY, full]], full),  # it came between the two answers
        ([[], [full, full]], full),  # it came as we asked again: once is enough
        ([[], [EMPTY, EMPTY]], EMPTY),
    ):
        script = Script(list(said))
        until = trio.Event()
        async with called(script) as call, trio.open_nursery() as nursery:

            async def soon(until: trio.Event = until) -> None:
                await trio.sleep(5)
                until.set()

            nursery.start_soon(soon)
            begun = trio.current_time()
            assert await call.read(TOPIC.key, 0, wait_seconds=200, until=until) == expected
            assert trio.current_time() == begun + 5
        assert [event for event in script.heard if isinstance(event, Read)] == [
            Read(TOPIC.key, 0, 200),
            Read(TOPIC.key, 0, 0),
        ]


async def test_an_answer_that_is_there_first_ends_the_waiting_with_one_request(autojump_clock: Clock) -> None:
    script = Script([[EMPTY], [Appended(1)]])
    async with called(script) as call:
        assert await call.read(TOPIC.key, 0, wait_seconds=200, until=trio.Event()) == EMPTY
        assert await call.append(TOPIC, b"message", 30) == 1
    assert [type(event) for event in script.heard] == [Read, Append, Close]


async def test_a_relay_that_refuses_while_we_ask_again_ends_the_call(autojump_clock: Clock) -> None:
    until = trio.Event()
    until.set()
    with pytest.raises(RelayRefused):
        async with called(Script([[], [Refused(Reason.FAILED), EMPTY]])) as call:
            await call.read(TOPIC.key, 0, wait_seconds=200, until=until)


async def test_what_comes_right_behind_met_is_the_others_and_is_read_first(autojump_clock: Clock) -> None:
    script = Script([[Met(True)]], raw=b"first words")
    async with called(script) as call:
        stream, leads = await call.meet(b"t" * 32, 30)
        assert leads
        assert await stream.receive_some(5) == b"first"
        assert await stream.receive_some() == b" words"
        await script.stream.send_all(b"more")
        assert await stream.receive_some() == b"more"
        await stream.send_all(b"ours")
        await stream.aclose()
    assert [type(event) for event in script.heard] == [Meet], "nothing of ours is said to the relay any more"


async def test_a_call_that_is_cancelled_closes_its_stream(autojump_clock: Clock) -> None:
    for ask in ASKING:
        script = Script([])
        async with called(script) as call:
            with trio.move_on_after(1):
                await ask(call)
        assert script.closed
    script = Script([])
    async with trio.open_nursery() as nursery:
        wire = Wire(script, nursery)
        with trio.move_on_after(1):
            async with dial(wire, RelayAt(("x", 1), KEY.public), b"", SeededAmbient("x")) as call:  # type: ignore[arg-type]
                await call.read(TOPIC.key, 0, wait_seconds=200)
        await quiet()
        assert script.closed
        nursery.cancel_scope.cancel()
