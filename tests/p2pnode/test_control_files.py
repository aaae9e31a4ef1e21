"""Files on the control socket: a descriptor comes beside one line, serves that call alone, and never stays open."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode import control
from p2pnode.control import Descriptor
from p2pnode.failures import CommandError, Exit
from p2pnode.methods.asked import Asked
from tests.p2pnode.test_control import Client, House, echo, serving


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def note(tmp_path: Path) -> Path:
    made = tmp_path / "note"
    made.write_text("inside")
    return made


def request(method: str, asked: Any = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": asked, "method": method, "params": params}).encode() + b"\n"


async def hand_over(client: Client, data: bytes, *descriptors: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))
    sent = await client.stream.socket.sendmsg([data], [rights])
    await client.stream.send_all(data[sent:])


async def with_file(client: Client, path: Path, data: bytes, *, times: int = 1) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        await hand_over(client, data, *[descriptor] * times)
    finally:
        os.close(descriptor)


async def read(params: dict[str, object]) -> object:
    asked = Asked(params)
    number = asked.file("file")
    asked.done()
    await trio.lowlevel.checkpoint()
    return os.pread(number, 100, 0).decode()


async def fail(params: dict[str, object]) -> object:
    raise CommandError(Exit.REFUSED, "bundle.foreign")


async def plain(params: dict[str, object]) -> object:
    Asked(params).done()
    return "plain"


METHODS = {"read": read, "fail": fail, "plain": plain}


async def quiet(house: House, before: int) -> None:
    """Until the visitors that have left are forgotten; nothing is open that was not before."""
    for visitor in house.visitors:
        await trio.aclose_forcefully(visitor.stream)
    house.visitors.clear()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert open_files() == before


async def test_a_file_beside_a_line_is_the_calls_own_and_closed_behind_it(home: Path, note: Path) -> None:
    async with serving(home / "s", METHODS) as house:
        client = await house.visit()
        await trio.testing.wait_all_tasks_blocked()
        before = open_files()
        for _ in range(3):
            await with_file(client, note, request("read"))
            assert (await client.line())["result"] == "inside"
            assert open_files() == before
        assert (await client.ask("read"))["error"]["message"] == "--file is missing."


async def ends_with(client: Client, what: str, note: Path) -> None:
    """One way in which a descriptor comes; reads what is answered, if anything is."""
    match what:
        case "a call":
            await with_file(client, note, request("read"))
            assert (await client.line())["result"] == "inside"
        case "a call that is refused":
            await with_file(client, note, request("fail"))
            assert (await client.line())["error"]["code"] == 5
        case "a call of a method that is not there":
            await with_file(client, note, request("no.such"))
            assert (await client.line())["error"]["code"] == -32601
        case "a line that is not JSON":
            await with_file(client, note, b"{nonsense\n")
            assert (await client.line())["error"]["code"] == -32700
        case "a line that is not a request":
            await with_file(client, note, b"[]\n")
            assert (await client.line())["error"]["code"] == -32600
        case "a line that needs none":
            await with_file(client, note, request("plain"))
            assert "--file" in (await client.line())["error"]["message"]
        case "two descriptors":
            await with_file(client, note, request("read"), times=2)
            assert (await client.line())["result"] == "inside"
        case "as many as the kernel lets through":
            await with_file(client, note, request("read"), times=253)
            assert (await client.line())["result"] == "inside"
        case "a client that leaves in the middle of its line":
            await with_file(client, note, b'{"jsonrpc":')
        case "a line that is too long":
            await with_file(client, note, b"x" * 5000)
            assert (await client.line())["error"]["message"] == "line too long"
        case _:
            pytest.fail(what)


@pytest.mark.parametrize(
    "what",
    [
        "a call",
        "a call that is refused",
        "a call of a method that is not there",
        "a line that is not JSON",
        "a line that is not a request",
        "a line that needs none",
        "two descriptors",
        "as many as the kernel lets through",
        "a client that leaves in the middle of its line",
        "a line that is too long",
    ],
)
async def test_a_thousand_times_whatever_a_descriptor_comes_with_none_stays_open(
    home: Path, note: Path, what: str
) -> None:
    async with serving(home / "s", METHODS, limits=control.ControlLimits(line_size_max=4096)) as house:
        before = open_files()
        stays = not what.startswith(("a client", "a line that is too"))
        client = await house.visit() if stays else None
        for number in range(1000):
            if client is None:
                leaving = await house.visit()
                await ends_with(leaving, what, note)
                await leaving.stream.aclose()
                house.visitors.clear()
            else:
                await ends_with(client, what, note)
                assert number or open_files() <= before + 2
        await quiet(house, before)


async def test_no_json_can_name_a_descriptor(home: Path) -> None:
    async with serving(home / "s", METHODS) as house:
        client = await house.visit()
        for file in (0, 1, 5, "5", [5], {"number": 5}, True, 1e3):
            told = (await client.ask("read", {"file": file}))["error"]
            assert (told["code"], told["message"]) == (5, "--file is not an open file.")


async def test_a_descriptor_is_not_overruled_by_what_the_json_says(home: Path, note: Path) -> None:
    async with serving(home / "s", METHODS) as house:
        client = await house.visit()
        await with_file(client, note, request("read", file=0))
        assert (await client.line())["result"] == "inside"


async def test_of_lines_sent_ahead_each_has_its_own_file(home: Path, tmp_path: Path) -> None:
    """Also where the kernel hands over several lines at once, and while another call is going on."""
    release = trio.Event()

    async def slow(params: dict[str, object], send: control.Send) -> object:
        await release.wait()
        return await read(params)

    async with serving(home / "s", METHODS, {"slow": slow}) as house:
        before = open_files()
        client = await house.visit()
        for name in ("uno", "dos", "tres"):
            (tmp_path / name).write_text(name)
        await client.stream.send_all(request("plain", 1) + request("plain", 2))
        await with_file(client, tmp_path / "uno", request("slow", 3))
        await client.stream.send_all(request("plain", 4))
        await with_file(client, tmp_path / "dos", request("read", 5))
        await client.stream.send_all(request("plain", 6))
        await with_file(client, tmp_path / "tres", request("read", 7))
        await trio.testing.wait_all_tasks_blocked(0.01)
        release.set()
        answers = [await client.line() for _ in range(7)]
        assert [answer["id"] for answer in answers] == [1, 2, 3, 4, 5, 6, 7]
        assert [answer.get("result") for answer in answers] == ["plain", "plain", "uno", "plain", "dos", "plain", None]
        assert answers[6]["error"]["message"] == "--file is missing."  # one waits; the next is closed at once
        await quiet(house, before)


async def test_a_file_that_comes_with_the_first_piece_of_a_line_waits_for_the_rest(home: Path, note: Path) -> None:
    async with serving(home / "s", METHODS) as house:
        client = await house.visit()
        line = request("read")
        await with_file(client, note, line[:10])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.stream.send_all(line[10:] + request("plain"))
        assert (await client.line())["result"] == "inside"
        assert (await client.line())["result"] == "plain"


async def test_who_leaves_during_a_call_ends_its_stream_and_its_file_is_closed(home: Path, note: Path) -> None:
    numbers: list[int] = []

    async def forever(params: dict[str, object], send: control.Send) -> object:
        numbers.append(Asked(params).file("file"))
        await trio.sleep_forever()

    async with serving(home / "s", {}, {"forever": forever}) as house:
        before = open_files()
        for _ in range(20):
            client = await house.visit()
            await with_file(client, note, request("forever"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert os.pread(numbers[-1], 10, 0) == b"inside"
            await client.stream.aclose()
            house.visitors.clear()
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert open_files() == before


async def test_however_many_clients_hold_back_a_line_so_many_files_are_open_and_no_more(home: Path, note: Path) -> None:
    limits = control.ControlLimits(connections_max=5)
    async with serving(home / "s", METHODS, limits=limits) as house:
        before = open_files()
        for _ in range(50):
            client = await house.visit()
            for _ in range(5):
                await with_file(client, note, b"{")
            await trio.testing.wait_all_tasks_blocked()
        ends = len(house.visitors)
        assert open_files() <= before + ends + 2 * limits.connections_max
        await quiet(house, before)


async def test_files_of_every_kind_reach_a_call_and_it_decides(home: Path, tmp_path: Path) -> None:
    async def kind(params: dict[str, object]) -> object:
        return os.fstat(Asked(params).file("file")).st_mode >> 12

    os.mkfifo(tmp_path / "pipe")
    kinds: dict[int, Callable[[], int]] = {
        0o04: lambda: os.open(tmp_path, os.O_RDONLY),
        0o10: lambda: os.open("/proc/self/mem", os.O_RDONLY),
        0o01: lambda: os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK),
        0o02: lambda: os.open("/dev/null", os.O_RDONLY),
        0o14: lambda: os.dup(house.visitors[0].stream.socket.fileno()),
    }
    async with serving(home / "s", {"kind": kind, "echo": echo}) as house:
        client = await house.visit()
        for expected, opened in kinds.items():
            number = opened()
            await hand_over(client, request("kind"), number)
            os.close(number)
            assert (await client.line())["result"] == expected
        assert (await client.ask("echo"))["result"] == {}
        await with_file(client, Path(os.devnull), request("echo"))
        assert (await client.line())["error"]["code"] == -32603  # a call that answers with a file is a bug of ours
    assert house.events == ["control.failed method=echo error=TypeError"]


def test_a_descriptor_is_not_a_number() -> None:
    assert Asked({"file": Descriptor(7)}).file("file") == 7
    with pytest.raises(Exception, match="not-a-file"):
        Asked({"file": 7}).file("file")
