"""Outgoing connections: through the proxy or not at all, and what a bad proxy can do about it, which is nothing."""

import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import p2pnode
from p2pnode import socks
from p2pnode.ambient import SystemAmbient
from p2pnode.config import Proxy
from p2pnode.socks import Dialler, Failure
from tests.p2pnode.worlds import World

PEER = ("peer.example", 4000)
GREETING = b"\x05\x02\x00\x02"  # no authentication, or user name and password
OPEN, WITH_PASSWORD, GRANTED = b"\x05\x00", b"\x05\x02", b"\x01\x00"
SUCCEEDED = b"\x05\x00\x00\x01" + bytes(6)
WILLING = (WITH_PASSWORD, GRANTED, SUCCEEDED)
REAL_OPEN = Dialler.open
ENTROPY = SystemAmbient().entropy


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def be_silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def pour(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(bytes(65_536))


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@dataclass
class FakeProxy:
    """A SOCKS5 server that gives these replies, whatever it hears, and then does as it is told."""

    replies: tuple[bytes, ...] = WILLING
    then: Callable[[trio.SocketStream], Awaitable[None]] = hang_up
    heard: list[list[bytes]] = field(default_factory=list)  # of every call
    over: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(0))  # released at the end of every call

    async def serve(self, stream: trio.SocketStream) -> None:
        call: list[bytes] = []
        self.heard.append(call)
        try:
            for reply in self.replies:
                call.append(bytes(await stream.receive_some()))
                await stream.send_all(reply)
            await self.then(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it hung up
        finally:
            await trio.aclose_forcefully(stream)
            self.over.release()

    @property
    def credentials(self) -> list[bytes]:
        return [call[1] for call in self.heard if len(call) > 1]


@asynccontextmanager
async def calling(fake: FakeProxy) -> AsyncIterator[Dialler]:
    """Somebody whose proxy it is."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, fake.serve, 0, host="127.0.0.1"))
        yield Dialler(Proxy("127.0.0.1", listener.socket.getsockname()[1]), ENTROPY)
        nursery.cancel_scope.cancel()


class Watched(trio.abc.HostnameResolver):
    """Every address that is dialled and every name that is looked up."""

    def __init__(self) -> None:
        self.dialled: list[Any] = []
        self.looked_up: list[Any] = []

    async def getaddrinfo(self, host: Any, *_: Any, **__: Any) -> Any:
        self.looked_up.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    watch = Watched()
    connect = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        watch.dialled.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    monkeypatch.setattr(socks, "PROXY_SECONDS", 0.3)
    return watch


async def dialled(fake: FakeProxy, watch: Watched) -> trio.SocketStream | Failure:
    """What comes of dialling, when nobody but the proxy was dialled and no name was looked up."""
    trio.socket.set_custom_hostname_resolver(watch)
    async with calling(fake) as dialler:
        stream = await dialler.open(PEER, circuit=b"space")
        assert dialler._proxy is not None
        assert set(watch.dialled) == {(dialler._proxy.host, dialler._proxy.port)}
    assert watch.looked_up == []
    return stream


# A good proxy


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        (("peer.example", 4000), b"\x03\x0cpeer.example\x0f\xa0"),
        (("a" * 56 + ".onion", 80), b"\x03\x3e" + b"a" * 56 + b".onion\x00\x50"),
        (("10.1.2.3", 4000), b"\x01\x0a\x01\x02\x03\x0f\xa0"),
        (("2001:db8::1", 4000), b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x0f\xa0"),
    ],
    ids=["name", "onion", "IPv4", "IPv6"],
)
async def test_the_proxy_is_told_what_to_reach_and_names_are_left_to_it(
    address: tuple[str, int], asked: bytes, watched: Watched
) -> None:
    trio.socket.set_custom_hostname_resolver(watched)
    fake = FakeProxy(then=echo)
    async with calling(fake) as dialler:
        stream = await dialler.open(address, circuit=b"space")
        assert isinstance(stream, trio.SocketStream)
        async with stream:
            await stream.send_all(b"said")
            assert await stream.receive_some() == b"said"
    assert fake.heard[0][0] == GREETING
    assert fake.heard[0][2] == b"\x05\x01\x00" + asked
    assert watched.looked_up == []


async def test_a_proxy_that_wants_no_password_is_as_good(watched: Watched) -> None:
    stream = await dialled(FakeProxy((OPEN, SUCCEEDED)), watched)
    assert isinstance(stream, trio.SocketStream)
    await stream.aclose()


@pytest.mark.parametrize("code", range(1, 9))
async def test_a_peer_that_the_proxy_cannot_reach_is_unreachable(code: int, watched: Watched) -> None:
    refusal = bytes([5, code, 0, 1]) + bytes(6)
    assert await dialled(FakeProxy((WITH_PASSWORD, GRANTED, refusal)), watched) is Failure.UNREACHABLE


# Circuits


async def test_each_circuit_has_credentials_of_its_own_that_tell_nothing() -> None:
    fake, circuits = FakeProxy(), [b"space one", b"space two", b"space one"]
    async with calling(fake) as dialler:
        assert dialler._proxy is not None
        for who in (dialler, Dialler(dialler._proxy, ENTROPY)):  # now, and after another start
            for circuit in circuits:
                stream = await who.open(PEER, circuit=circuit)
                assert isinstance(stream, trio.SocketStream)
                await stream.aclose()
    one, two, one_again, *later = fake.credentials
    assert one == one_again
    assert len({one, two, *later}) == 4
    for given in fake.credentials:
        assert re.fullmatch(rb"\x01\x40[0-9a-f]{64}\x40[0-9a-f]{64}", given)
        assert not any(circuit.hex().encode() in given for circuit in circuits)


async def test_two_spaces_of_one_node_share_no_circuit(tmp_path: Path) -> None:
    fake = FakeProxy()
    async with World.open(tmp_path) as world, calling(fake) as dialler:
        dialler.open = partial(REAL_OPEN, dialler)  # type: ignore[method-assign]  # not the world's
        ana = await world.home("ana")
        spaces = [await ana.node.found(name, "ana") for name in ("uno", "dos")]
        ana.node.sync._dialler = dialler
        for space in spaces:
            for host in ("a.example", "b.example"):
                ana.node.sync.know(space, (host, 4000), by_hand=True)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ana.node.sync.run)
                for _ in range(4):
                    await fake.over.acquire()
                nursery.cancel_scope.cancel()
        ana.stop()
    assert len({*fake.credentials}) == 2


# A bad proxy

WOUNDS = {
    "hangs up at once": (),
    "half a greeting": (b"\x05",),
    "no method will do": (b"\x05\xff",),
    "a method that nobody offered": (b"\x05\x01",),
    "a method that does not exist": (b"\x05\x77",),
    "SOCKS4": (b"\x04\x02",),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
    "wrong password": (WITH_PASSWORD, b"\x01\x01"),
    "half a verdict": (WITH_PASSWORD, b"\x01"),
    "a verdict of another version": (WITH_PASSWORD, b"\x05\x00"),
    "hangs up when asked": (WITH_PASSWORD, GRANTED),
    "half an answer": (WITH_PASSWORD, GRANTED, SUCCEEDED[:2]),
    "an answer without its end": (WITH_PASSWORD, GRANTED, SUCCEEDED[:-1]),
    "an answer of another version": (WITH_PASSWORD, GRANTED, b"\x04" + SUCCEEDED[1:]),
    "a code that does not exist": (WITH_PASSWORD, GRANTED, b"\x05\x77" + SUCCEEDED[2:]),
    "a reserved byte": (WITH_PASSWORD, GRANTED, b"\x05\x00\x01" + SUCCEEDED[3:]),
    "an address of no type": (WITH_PASSWORD, GRANTED, b"\x05\x00\x00\x09" + bytes(6)),
    "a bound name that is no text": (WITH_PASSWORD, GRANTED, b"\x05\x00\x00\x03\x02\xff\xfe\x00\x00"),
    "a bound name without its end": (WITH_PASSWORD, GRANTED, b"\x05\x00\x00\x03\xff" + b"a" * 100),
}


@pytest.mark.parametrize("replies", WOUNDS.values(), ids=WOUNDS)
async def test_a_proxy_that_does_not_do_what_one_does_is_down(replies: tuple[bytes, ...], watched: Watched) -> None:
    assert await dialled(FakeProxy(replies), watched) is Failure.PROXY_DOWN


@pytest.mark.parametrize("replies", [(), (WITH_PASSWORD,), (WITH_PASSWORD, GRANTED), (b"\x05",)])
async def test_a_proxy_that_falls_silent_is_given_up(replies: tuple[bytes, ...], watched: Watched) -> None:
    fake = FakeProxy(replies, then=be_silent)
    assert await dialled(fake, watched) is Failure.UNREACHABLE


async def test_endless_bytes_in_place_of_an_answer_are_not_read(watched: Watched) -> None:
    assert await dialled(FakeProxy((), then=pour), watched) is Failure.PROXY_DOWN


async def test_whatever_a_proxy_says_there_comes_out_a_stream_or_a_failure(watched: Watched) -> None:
    drawn = random.Random(5)
    for _ in range(100):
        replies = list(WILLING[: drawn.randrange(4)])
        if replies:
            kept = replies.pop()
            replies.append(kept[: drawn.randrange(len(kept) + 1)] + drawn.randbytes(drawn.randrange(300)))
        watched.dialled.clear()
        stream = await dialled(FakeProxy(tuple(replies)), watched)
        if isinstance(stream, trio.SocketStream):
            await stream.aclose()


async def test_without_a_proxy_where_one_should_be_nothing_is_dialled_but_it(watched: Watched) -> None:
    trio.socket.set_custom_hostname_resolver(watched)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    async with calling(FakeProxy(then=echo)) as elsewhere:  # a peer that could be reached directly
        assert elsewhere._proxy is not None
        peer = (elsewhere._proxy.host, elsewhere._proxy.port)
        assert await Dialler(Proxy("127.0.0.1", port), ENTROPY).open(peer, circuit=b"") is Failure.PROXY_DOWN
    assert watched.dialled == [("127.0.0.1", port)]
    assert watched.looked_up == []


async def test_a_dial_that_is_given_up_leaves_no_connection_behind() -> None:
    fake = FakeProxy((WITH_PASSWORD,), then=echo)
    async with calling(fake) as dialler:
        with trio.move_on_after(0.1):
            await dialler.open(PEER, circuit=b"")
        with trio.fail_after(5):
            await fake.over.acquire()


# No proxy


async def test_a_peer_is_dialled_directly() -> None:
    async with calling(FakeProxy((b"hola",))) as elsewhere:
        assert elsewhere._proxy is not None
        stream = await Dialler(None, ENTROPY).open((elsewhere._proxy.host, elsewhere._proxy.port), circuit=b"")
        assert isinstance(stream, trio.SocketStream)
        async with stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"hola"


@pytest.mark.parametrize("host", ["a.onion", "A.ONION", "a.onion.", "sub.a.onion"])
async def test_an_onion_name_never_reaches_dns(host: str, watched: Watched) -> None:
    trio.socket.set_custom_hostname_resolver(watched)
    assert await Dialler(None, ENTROPY).open((host, 80), circuit=b"") is Failure.NO_PROXY
    assert watched.looked_up == watched.dialled == []


async def test_who_cannot_be_found_or_does_not_answer_is_unreachable(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.socket.set_custom_hostname_resolver(watched)
    direct = Dialler(None, ENTROPY)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for address in (("127.0.0.1", port), PEER, ("a..b", 80), ("a" * 70, 80)):
        assert await direct.open(address, circuit=b"") is Failure.UNREACHABLE

    async def hesitate(*_: Any, **__: Any) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(watched, "getaddrinfo", hesitate)
    monkeypatch.setattr(socks, "HANDSHAKE_SECONDS", 0.05)
    assert await direct.open(PEER, circuit=b"") is Failure.UNREACHABLE


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "é" * 300])
async def test_what_is_no_name_is_unreachable_behind_a_proxy_too(host: str) -> None:
    async with calling(FakeProxy()) as dialler:
        assert await dialler.open((host, 80), circuit=b"") is Failure.UNREACHABLE


def test_there_is_no_other_way_out() -> None:
    ways = re.compile(r"open_tcp_stream|create_connection|getaddrinfo|gethostby|open_ssl|urllib|http\.client|sendto")
    using = {path.name for path in Path(p2pnode.__file__).parent.rglob("*.py") if ways.search(path.read_text())}
    assert using == {"socks.py", "daemon.py"}, "daemon.py: systemd's datagram, on a Unix socket"
