"""Listening: real sockets on this machine, bound to what was asked for and to nothing else."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2pnode import listening
from p2pnode.config import LAN_HOST, Address
from p2pnode.listening import RESCAN_SECONDS, Listening
from tests.p2pnode.worlds import World, quiet

LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def opened(*wanted: Address) -> AsyncIterator[Listening]:
    """Listeners that count who calls and hang up."""
    async with trio.open_nursery() as nursery:

        async def receive(stream: trio.SocketStream) -> None:
            await stream.send_all(b"!")
            await stream.aclose()

        here = Listening(wanted, receive, nursery)
        await here.open()
        nursery.start_soon(here.run)
        yield here
        nursery.cancel_scope.cancel()


async def answers(address: Address) -> bool:
    try:
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            return bytes(await stream.receive_some(1)) == b"!"
    except OSError:
        return False


async def test_a_port_of_zero_is_resolved_and_answers() -> None:
    async with opened(Address(LOOPBACK, 0)) as here:
        (bound,) = here.addresses
        assert bound.port != 0
        assert await answers(bound)
    assert not await answers(bound)


async def test_several_addresses_are_all_listened_on() -> None:
    async with opened(Address("127.0.0.1", 0), Address("127.0.0.2", 0)) as here:
        assert [bound.host for bound in here.addresses] == ["127.0.0.1", "127.0.0.2"]
        assert [await answers(bound) for bound in here.addresses] == [True, True]


async def test_a_name_of_several_addresses_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = trio.socket.getaddrinfo

    async def both(host: object, port: object, **more: object) -> list[object]:
        found = [await real(address, port, **more) for address in ("127.0.0.1", "127.0.0.2")]
        return [*found[0], *found[1]]

    monkeypatch.setattr(trio.socket, "getaddrinfo", both)
    with socket.create_server((LOOPBACK, 0)) as drawn:
        port = drawn.getsockname()[1]
    async with opened(Address("localhost", port)) as here:
        assert here.addresses == [Address("localhost", port)]
        assert [await answers(Address(host, port)) for host in ("127.0.0.1", "127.0.0.2")] == [True, True]


async def test_only_the_address_asked_for_is_bound() -> None:
    async with opened(Address("127.0.0.1", 0)) as here:
        (bound,) = here.addresses
        assert not await answers(Address("127.0.0.3", bound.port))


async def test_an_address_that_somebody_has_is_said_at_once() -> None:
    async with opened(Address(LOOPBACK, 0)) as here:
        (bound,) = here.addresses
        async with trio.open_nursery() as nursery:
            second = Listening([bound], lambda stream: stream.aclose(), nursery)
            with pytest.raises(OSError, match="in use"):
                await second.open()


async def test_the_lan_is_followed_as_networks_come_and_go(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    hosts = ["127.0.0.5"]
    monkeypatch.setattr(listening, "lan_hosts", lambda: list(hosts))
    with socket.create_server((LOOPBACK, 0)) as drawn:
        port = drawn.getsockname()[1]
    async with opened(Address(LAN_HOST, port)) as here:
        assert here.addresses == [Address("127.0.0.5", port)]
        hosts[:] = ["127.0.0.6", "127.0.0.7"]
        await trio.sleep(2 * RESCAN_SECONDS)
        assert here.addresses == [Address("127.0.0.6", port), Address("127.0.0.7", port)]
        hosts.clear()
        await trio.sleep(2 * RESCAN_SECONDS)
        assert here.addresses == []
        hosts[:] = ["127.0.0.5"]
        await trio.sleep(2 * RESCAN_SECONDS)
        assert here.addresses == [Address("127.0.0.5", port)]


async def test_a_lan_address_that_cannot_be_had_yet_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr(listening, "lan_hosts", lambda: ["127.0.0.5"])
    with socket.create_server(("127.0.0.5", 0)) as somebody:
        port = somebody.getsockname()[1]
        wanted = opened(Address(LAN_HOST, port))
        here = await wanted.__aenter__()
        assert here.addresses == []
    await trio.sleep(2 * RESCAN_SECONDS)
    assert here.addresses == [Address("127.0.0.5", port)]
    await wanted.__aexit__(None, None, None)


async def test_somebody_who_calls_and_is_gone_at_once_does_not_end_the_node(tmp_path: Path) -> None:
    async with World.open(tmp_path) as world:
        ana = await world.founder("ana")
        here = Listening([Address(LOOPBACK, 0)], ana.node.sync.receive, ana.node._nursery)
        await here.open()
        (bound,) = here.addresses
        for _ in range(20):
            with socket.create_connection((bound.host, bound.port)) as caller:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close means reset
        await quiet()
        await trio.sleep(0.05)
        assert ana.is_up
        assert ana.node.sync.door.strangers == {}
        async with await trio.open_tcp_stream(bound.host, bound.port):
            await trio.sleep(0.05)
            assert len(ana.node.sync.door.strangers) == 1
