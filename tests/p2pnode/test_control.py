"""The control socket: who may talk, what a bad client can do (nothing to others), and where the socket may lie."""

import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode import control, paths
from p2pnode.failures import CommandError, Exit
from protocol.errors import InputRefused


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    return made


class House:
    """A served socket, its events and its visitors, who all leave at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[str] = []
        self.visitors: list[Client] = []

    def note(self, event: str, **fields: object) -> None:
        self.events.append(" ".join([event, *(f"{name}={value}" for name, value in fields.items())]))

    async def visit(self, path: Path | None = None) -> "Client":
        client = Client(await trio.open_unix_socket(path or self.path))
        self.visitors.append(client)
        return client


@asynccontextmanager
async def serving(
    path: Path, methods: Any, streams: Any = control.NO_STREAMS, limits: Any = control.DEFAULT_LIMITS
) -> AsyncIterator[House]:
    house = House(path)
    listener = control.open_listener(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: control.serve(listener, methods, streams, note=house.note, limits=limits))
        yield house
        nursery.cancel_scope.cancel()
    for client in house.visitors:
        await trio.aclose_forcefully(client.stream)


class Client:
    """A client that can also misbehave."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def ask(self, method: str, params: Any = None, asked: Any = 1) -> Any:
        await self.send({"jsonrpc": "2.0", "id": asked, "method": method, "params": params or {}})
        return await self.line()

    async def send(self, message: Any) -> None:
        await self.stream.send_all(json.dumps(message).encode() + b"\n")

    async def line(self) -> Any:
        while b"\n" not in self.buffer:
            chunk = await self.stream.receive_some(65536)
            if not chunk:
                return None
            self.buffer += bytes(chunk)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)


async def echo(params: dict[str, object]) -> object:
    return params


async def test_a_call_gets_its_result_and_calls_sent_ahead_are_answered_in_order(home: Path) -> None:
    async with serving(home / "s", {"space.create": echo}) as house:
        client = await house.visit()
        for number in range(3):
            await client.send({"jsonrpc": "2.0", "id": f"a{number}", "method": "space.create", "params": {"n": number}})
        answers = [await client.line() for _ in range(3)]
    assert answers == [{"jsonrpc": "2.0", "id": f"a{number}", "result": {"n": number}} for number in range(3)]


async def test_what_a_handler_refuses_comes_back_with_exit_code_sentence_and_key(home: Path) -> None:
    async def missing(params: dict[str, object]) -> object:
        async with trio.open_nursery():  # wraps what is raised inside into a group
            raise CommandError(Exit.NOT_FOUND, "report.unknown")

    async def long(params: dict[str, object]) -> object:
        raise InputRefused("place_name", "too-long", 200)

    async with serving(home / "s", {"missing": missing, "long": long}) as house:
        client = await house.visit()
        not_found = (await client.ask("missing"))["error"]
        too_long = (await client.ask("long"))["error"]
    assert not_found["code"] == 4
    assert not_found["data"] == {"key": "report.unknown", "fields": {}}
    assert too_long["code"] == 5
    assert too_long["message"] == "--place-name is too long: at most 200 bytes."


async def test_a_bug_behind_one_call_is_noted_and_disturbs_nobody(home: Path) -> None:
    async def broken(params: dict[str, object]) -> object:
        raise ZeroDivisionError("secret words")

    async def unwritable(params: dict[str, object]) -> object:
        return {"bytes": b"not JSON"}

    async with serving(home / "s", {"broken": broken, "unwritable": unwritable, "echo": echo}) as house:
        client = await house.visit()
        for method in ("broken", "unwritable"):
            assert (await client.ask(method))["error"] == {"code": -32603, "message": "internal error"}
        assert (await client.ask("echo"))["result"] == {}
    assert house.events == [
        "control.failed method=broken error=ZeroDivisionError",
        "control.failed method=unwritable error=TypeError",
    ]


NOT_REQUESTS = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[]",
    b"null",
    b"NaN",
    b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":NaN}}',
    b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":"\\ud800"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":' + b"9" * 10_000 + b"}}",
    b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}',
    b'{"jsonrpc":"2.0","id":1,"method":"echo","more":1}',
    b'{"jsonrpc":"2.0","id":true,"method":"echo"}',
    b'{"jsonrpc":"2.0","id":1.5,"method":"echo"}',
    b'{"jsonrpc":"2.0","id":"' + b"x" * 65 + b'","method":"echo"}',
    b'{"jsonrpc":"2.0","method":"echo"}',
    b'{"jsonrpc":"1.0","id":1,"method":"echo"}',
    b'[{"jsonrpc":"2.0","id":1,"method":"echo"}]',
    b'{"jsonrpc":"2.0","id":1,"method":"no such"}',
]


async def test_whatever_is_no_request_gets_an_error_and_the_connection_goes_on(home: Path) -> None:
    async with serving(home / "s", {"echo": echo}) as house:
        client = await house.visit()
        for line in NOT_REQUESTS:
            await client.stream.send_all(line + b"\n")
            assert (await client.line())["error"]["code"] in (-32700, -32600, -32601, -32602), line[:80]
        assert (await client.ask("echo", {"x": 1}))["result"] == {"x": 1}


async def test_a_line_without_end_is_refused_at_the_bound_and_others_are_served(home: Path) -> None:
    async with serving(home / "s", {"echo": echo}, limits=control.ControlLimits(line_size_max=100_000)) as house:
        rude, polite = await house.visit(), await house.visit()
        with pytest.raises(trio.BrokenResourceError):
            await rude.stream.send_all(b"x" * 50_000_000)
        assert (await polite.ask("echo"))["result"] == {}


async def test_a_line_of_exactly_the_bound_is_served_and_one_byte_more_is_not(home: Path) -> None:
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {}}).encode()
    limits = control.ControlLimits(line_size_max=len(request) + 10)
    async with serving(home / "s", {"echo": echo}, limits=limits) as house:
        client = await house.visit()
        await client.stream.send_all(request + b" " * 10 + b"\n")
        assert (await client.line())["result"] == {}
        await client.stream.send_all(request + b" " * 11 + b"\n")
        assert (await client.line())["error"]["message"] == "line too long"
        assert await client.line() is None


async def test_the_longest_idle_connection_gives_way_and_one_at_work_never_does(home: Path) -> None:
    async def slow(params: dict[str, object]) -> object:
        await release.wait()
        return "done"

    release = trio.Event()
    limits = control.ControlLimits(connections_max=3)
    async with serving(home / "s", {"echo": echo, "slow": slow}, limits=limits) as house:
        busy = await house.visit()
        await busy.send({"jsonrpc": "2.0", "id": 1, "method": "slow"})
        idle = []
        for _ in range(3):  # the second and third displace nobody and the first
            client = await house.visit()
            assert (await client.ask("echo"))["result"] == {}
            idle.append(client)
        assert await idle[0].line() is None
        release.set()
        assert (await busy.line())["result"] == "done"
        assert (await idle[2].ask("echo"))["result"] == {}
    assert house.events == ["control.closed reason=idle"]


async def test_when_all_are_at_work_a_newcomer_is_turned_away(home: Path) -> None:
    async def forever(params: dict[str, object]) -> object:
        await trio.sleep_forever()

    async with serving(home / "s", {"forever": forever}, limits=control.ControlLimits(connections_max=1)) as house:
        busy = await house.visit()
        await busy.send({"jsonrpc": "2.0", "id": 1, "method": "forever"})
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await (await house.visit()).line() is None
    assert house.events == ["control.refused reason=full"]


async def test_a_stream_tells_on_the_way_and_then_answers(home: Path) -> None:
    async def check(params: dict[str, object], send: control.Send) -> object:
        for done in range(3):
            send({"done": done, "total": 3})
            await trio.lowlevel.checkpoint()
        return {"entries": 3}

    async with serving(home / "s", {}, {"log.check": check}) as house:
        client = await house.visit()
        told = [await client.ask("log.check"), *[await client.line() for _ in range(3)]]
    assert [message["params"]["done"] for message in told[:3]] == [0, 1, 2]
    assert {message["method"] for message in told[:3]} == {"log.check"}
    assert told[3] == {"jsonrpc": "2.0", "id": 1, "result": {"entries": 3}}


async def test_a_stream_that_fails_says_why(home: Path) -> None:
    async def late(params: dict[str, object], send: control.Send) -> object:
        raise CommandError(Exit.TIMED_OUT, "sync.timeout")

    async with serving(home / "s", {}, {"sync": late}) as house:
        assert (await (await house.visit()).ask("sync"))["error"]["code"] == 7


async def test_a_watcher_that_does_not_read_is_cut_off_and_never_waited_for(home: Path) -> None:
    sends: list[control.Send] = []

    async def watch(params: dict[str, object], send: control.Send) -> object:
        sends.append(send)
        await trio.sleep_forever()

    limits = control.ControlLimits(unread_bytes_max=100_000)
    async with serving(home / "s", {"echo": echo}, {"watch": watch}, limits=limits) as house:
        deaf, awake = await house.visit(), await house.visit()
        for client in (deaf, awake):
            await client.send({"jsonrpc": "2.0", "id": 1, "method": "watch"})
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(1000):
            for send in sends:
                send({"text": "x" * 1000, "number": number})
            assert (await awake.line())["params"]["number"] == number
        assert (await (await house.visit()).ask("echo"))["result"] == {}
    assert house.events == ["control.closed reason=unread"]


async def test_a_client_that_leaves_ends_its_stream_but_not_its_other_calls(home: Path) -> None:
    ended, finished, begun = trio.Event(), trio.Event(), trio.Event()

    async def watch(params: dict[str, object], send: control.Send) -> object:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def publish(params: dict[str, object]) -> object:
        begun.set()
        await trio.sleep(0.05)
        finished.set()
        return {}

    async with serving(home / "s", {"publish": publish}, {"watch": watch}) as house:
        for method, event in (("watch", ended), ("publish", finished)):
            client = await house.visit()
            await client.send({"jsonrpc": "2.0", "id": 1, "method": method})
            await begun.wait()
            await client.stream.aclose()
            with trio.fail_after(5):
                await event.wait()


async def test_a_thousand_times_the_same_bad_client_changes_nothing(home: Path) -> None:
    async with serving(home / "s", {"echo": echo}) as house:
        for _ in range(1000):
            client = await house.visit()
            await client.stream.send_all(b'{"jsonrpc":"2.0","id":1,"meth')
            await client.stream.aclose()
        assert (await (await house.visit()).ask("echo"))["result"] == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused(home: Path) -> None:
    async with serving(home / "s", {"echo": echo}) as house:
        for place in (home, *home.parents[:3]):
            place.chmod(0o755)
        (home / "s").chmod(0o666)  # even where the file would let them in

        knock = "import os, socket, sys; os.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\n"
        knock += "s.connect(sys.argv[1]); print(s.recv(100))"
        knocked = await trio.run_process([sys.executable, "-c", knock, home / "s"], capture_stdout=True)
        assert knocked.stdout == b"b''\n"
    assert house.events == ["control.refused reason=uid"]


# Where the socket lies


async def test_the_socket_is_private_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        listener = control.open_listener(home / "run" / "s")
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "run" / "s").stat().st_mode) == 0o600
    await listener.aclose()


async def test_a_stale_socket_is_replaced(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home / "s"))
    async with serving(home / "s", {"echo": echo}) as house:
        assert (await (await house.visit()).ask("echo"))["result"] == {}


async def test_a_live_socket_is_left_alone(home: Path) -> None:
    async with serving(home / "s", {"echo": echo}) as house:
        with pytest.raises(CommandError, match=r"socket\.live"):
            control.open_listener(home / "s")
        assert (await (await house.visit()).ask("echo"))["result"] == {}


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_left_alone(home: Path, kind: str) -> None:
    match kind:
        case "file":
            (home / "s").write_text("precious")
        case "link":
            (home / "precious").write_text("precious")
            (home / "s").symlink_to(home / "precious")
        case "directory":
            (home / "s").mkdir()
    before = sorted(home.iterdir())
    with pytest.raises(CommandError, match=r"socket\.foreign"):
        control.open_listener(home / "s")
    assert sorted(home.iterdir()) == before


def test_an_open_or_linked_directory_is_refused(home: Path) -> None:
    home.chmod(0o777)
    with pytest.raises(CommandError, match=r"socket\.directory_open"):
        control.open_listener(home / "s")
    home.chmod(0o700)
    (home.parent / "link").symlink_to(home)
    with pytest.raises(CommandError, match=r"socket\.unusable"):
        control.open_listener(home.parent / "link" / "s")


async def test_a_path_too_long_for_the_kernel_is_reached_all_the_same(home: Path) -> None:
    deep = home / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True, mode=0o700)
    deep.chmod(0o700)
    async with serving(deep / "s", {"echo": echo}) as house:
        directory = os.open(deep, os.O_RDONLY)
        client = await house.visit(Path(paths.reachable(directory, str(deep / "s"))))
        os.close(directory)
        assert (await client.ask("echo"))["result"] == {}
        with pytest.raises(CommandError, match=r"socket\.live"):
            control.open_listener(deep / "s")
