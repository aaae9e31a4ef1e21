"""Rendezvous: meeting other members at a relay's meeting point, when neither can be dialled.

Each member waits in one lane of the hour, drawn at random, and lets whoever comes lead. Whoever is connected to nobody
walks through the lanes, one connection each, until somebody is there; who is connected does so too, seldom, because
two halves of a collective may each be connected among themselves. The relay sees that two callers belong together for
as long as they talk, and nothing of what they say.
"""

from contextlib import suppress

import trio

from p2pnode import events
from p2pnode.ambient import Ambient
from p2pnode.calling import CallFailed, RelayAt, RelayRefused, dial
from p2pnode.socks import Dialler
from p2pnode.space import Space
from p2pnode.store import StoreError
from p2pnode.sync import Sync
from protocol.limits import MEETING_LANES, WAIT_SECONDS_MAX
from protocol.mailbox import hour_of, token
from protocol.relay_messages import Reason

RETRY_SECONDS_MIN = 2.0
RETRY_SECONDS_MAX = 900.0
ALONE_SECONDS = 120.0  # between two walks of a node that is connected to nobody
AMONG_OTHERS_SECONDS = 1800.0


class Rendezvous:
    """One relay of one space. `run` never ends by itself."""

    def __init__(self, sync: Sync, space: Space, at: RelayAt, dialler: Dialler, ambient: Ambient) -> None:
        self.state = "new"  # waiting, meeting; or why not, as a slug
        self._sync = sync
        self._space = space
        self._at = at
        self._dialler = dialler
        self._ambient = ambient
        self._hurry = trio.Event()
        self._retry = trio.Event()
        self._lane: int | None = None  # where we wait now
        self._walked: int | None = None  # where we are looking now

    def hurry(self) -> None:
        """Somebody asks for it: be there, and walk through the lanes, now."""
        self._hurry.set()
        self._retry.set()

    async def run(self) -> None:
        """Waits and walks until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait, nursery)
            nursery.start_soon(self._walk, nursery)

    async def _wait(self, nursery: trio.Nursery) -> None:
        """Is there for whoever comes."""
        backoff = RETRY_SECONDS_MIN
        while True:
            self._lane = self._other_lane()
            seconds = int(WAIT_SECONDS_MAX * (0.5 + 0.5 * self._ambient.random()))
            self.state = "waiting"
            begun = trio.current_time()
            try:
                met = await self._meet(self._lane, seconds, nursery)
                if trio.current_time() - begun >= (RETRY_SECONDS_MIN if met else seconds):
                    backoff = RETRY_SECONDS_MIN
                    continue  # else: a relay that answers at once does not keep us busy
            except CallFailed as error:
                self.state = error.reason
            except RelayRefused as error:
                self.state = f"refused-{error.reason.name.lower()}"
            self._lane = None
            self._retry = trio.Event()
            with trio.move_on_after(backoff * (0.5 + self._ambient.random())) as pause:
                await self._retry.wait()
            backoff = min(2 * backoff, RETRY_SECONDS_MAX) if pause.cancelled_caught else RETRY_SECONDS_MIN

    async def _walk(self, nursery: trio.Nursery) -> None:
        """Goes through the lanes, each in a connection of its own, until somebody is there."""
        while True:
            self._hurry = trio.Event()
            lanes = [lane for lane in range(MEETING_LANES) if lane != self._lane]
            lanes.sort(key=lambda _: self._ambient.random())
            with suppress(CallFailed, RelayRefused):  # `_wait` says what is wrong with the relay
                for self._walked in lanes:
                    if self._walked != self._lane and await self._meet(self._walked, 0, nursery):
                        break
            self._walked = None
            pause = AMONG_OTHERS_SECONDS if self._connected() else ALONE_SECONDS
            with trio.move_on_after(pause * (0.75 + 0.5 * self._ambient.random())):
                await self._hurry.wait()

    def _other_lane(self) -> int:
        """A lane at random, but for the one that is being tried: we would meet ourselves there."""
        while (lane := int(self._ambient.random() * MEETING_LANES)) == self._walked:
            pass
        return lane

    async def _meet(self, lane: int, wait_seconds: int, nursery: trio.Nursery) -> bool:
        """Whether somebody was there; what follows goes on in the nursery. Raises CallFailed or RelayRefused."""
        shown = token(self._space.epochs[-1], self._at.key, hour_of(self._ambient.now()), lane)
        async with dial(self._dialler, self._at, shown, self._ambient) as call:
            try:
                stream, leads = await call.meet(shown, wait_seconds)
            except RelayRefused as error:
                if error.reason is Reason.NOBODY:
                    return False
                raise
        nursery.start_soon(self._converse, stream, leads)
        return True

    async def _converse(self, stream: trio.abc.Stream, leads: bool) -> None:
        try:
            if leads:
                await self._sync.lead(stream, self._space, lambda _: None)
            else:
                await self._sync.follow(stream, self._space)
        except StoreError as error:
            events.log("store.failed", error=type(error).__name__)

    def _connected(self) -> bool:
        return any(space == self._space.id for space, _ in self._sync.register.sessions)
