"""Rendezvous at a relay that is away: it is tried ever more seldom, and at once when somebody asks for it."""

from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from p2pnode.calling import RelayAt
from p2pnode.rendezvous import RETRY_SECONDS_MAX, Rendezvous
from p2pnode.socks import Failure
from tests.p2pnode.worlds import SeededAmbient

LONG_SECONDS = 12 * 3600.0


class Away:
    """A dialler that reaches nobody; `tried` is when."""

    def __init__(self) -> None:
        self.tried: list[float] = []

    async def open(self, address: tuple[str, int], circuit: bytes) -> Failure:
        self.tried.append(trio.current_time())
        return Failure.UNREACHABLE


async def test_who_waits_and_who_walks_both_try_again_at_once_when_somebody_asks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    away = Away()
    nobody: Any = SimpleNamespace(register=SimpleNamespace(sessions={}))
    space: Any = SimpleNamespace(id=b"s" * 32, epochs=(b"e" * 32,))
    at = RelayAt(("198.51.100.1", 443), b"k" * 32)
    rendezvous = Rendezvous(nobody, space, at, away, SeededAmbient("away"))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rendezvous.run)
        await trio.sleep(LONG_SECONDS)
        assert rendezvous.state == "unreachable"
        for _ in range(3):
            before = len(away.tried)
            rendezvous.hurry()
            await trio.testing.wait_all_tasks_blocked()
            assert len(away.tried) == before + 2
            await trio.sleep(0.1)
        before = len(away.tried)
        await trio.sleep(LONG_SECONDS)
        assert len(away.tried) - before < LONG_SECONDS / 90 + 2 * LONG_SECONDS / RETRY_SECONDS_MAX, "seldom again"
        nursery.cancel_scope.cancel()
