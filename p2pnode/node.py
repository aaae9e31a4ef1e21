"""Node: one member of its spaces, at work: founds and joins them, and does what follows from what it learns.

What it stands on is handed in or made here; `daemon` opens it all and closes it again. Nothing below knows the node:
what it has to tell upwards it tells through the callbacks that are handed in here.
"""

import gc
from collections.abc import Sequence
from dataclasses import replace

import trio

from p2pnode import events, welcome
from p2pnode.ambient import Ambient
from p2pnode.author import Author, first_entry
from p2pnode.calling import RelayAt
from p2pnode.config import Settings
from p2pnode.discovery import Lan
from p2pnode.exchange import Exchange, News
from p2pnode.listening import Listening
from p2pnode.newcomer import Newcomer
from p2pnode.outposts import Outposts
from p2pnode.socks import Dialler
from p2pnode.space import Space
from p2pnode.store import SpaceRow, Store, StoreError
from p2pnode.sync import Sync
from protocol import invite, statement
from protocol.entry import Kind, LogClass
from protocol.invite import Invitation
from protocol.limits import PAYLOAD_SALT_SIZE, Limits
from protocol.statement import Founding, Role

LAN_ADDRESS_SECONDS = 3600  # an address that the LAN told is dialled for this long
BURST_ENTRIES_MAX = 50_000  # listed in two seconds
BURST_SECONDS_MAX = 10.0
LULL_SECONDS = 0.25
IDLE_MEMORY_SECONDS = 5.0  # quiet for this long after a burst: memory goes back to the system
GOODBYE_SECONDS = 1.0
STORE_RETRY_SECONDS = 5.0  # a full disk: until somebody has made room


class Node:
    """One running daemon."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        spaces: Sequence[Space],
        ambient: Ambient,
        limits: Limits,
        nursery: trio.Nursery,
    ) -> None:
        self.settings = settings
        self.store = store
        self.ambient = ambient
        self.limits = limits
        self.spaces: dict[bytes, Space] = {space.id: space for space in spaces}
        self.exchange = Exchange(store, limits, on_members=self._members_changed)
        self.author = Author(store, ambient)
        self.dialler = Dialler(settings.proxy, ambient.entropy)
        self.sync = Sync(self.exchange, self.spaces, self.dialler, ambient, limits, nursery)
        self.outposts = Outposts(self.exchange, self.sync, self.dialler, ambient, settings.profile, nursery)
        self.newcomer = Newcomer(
            self.exchange, self.sync, self.outposts, self.dialler, ambient, limits, self.spaces, self.enter
        )
        self.listening = Listening(settings.listen, self.sync.receive, nursery)
        self.lan = Lan(
            settings.lan,
            self._lan_port(),
            lambda: [(space.id, space.lan_key) for space in self.spaces.values()],
            ambient,
        )
        self.stopping = trio.Event()
        self._nursery = nursery
        self._to_index = trio.Event()
        self._grants_due: set[bytes] = set()
        self._to_grant = trio.Event()
        self.exchange.listen(self._index_later)

    def _lan_port(self) -> int:
        """The port that the LAN is told of: the one that LAN addresses are listened on."""
        return next((address.port for address in self.settings.listen), 0)

    # Spaces

    async def found(self, name: str, pen_name: str) -> Space:
        """A new space of which we are the founder."""
        entropy = self.ambient.entropy
        secret, seed, static = entropy(32), entropy(32), entropy(32)
        names = statement.tidy_name(name), statement.tidy_name(pen_name, "pen")
        run = first_entry(None, seed, Founding(*names, statement.epoch_hash(secret)), self.ambient)
        id = run.ids[0]
        row = await self.store.add_space(
            id, epochs=(secret,), static_secret=static, author_seed=seed, founding=replace(run, space=id)
        )
        return await self.enter(row)

    async def enter(self, row: SpaceRow) -> Space:
        """A space that is in the store from now on."""
        space = await Space.load(self.store, row, self.ambient)
        self.spaces[space.id] = space
        self.outposts.start(space)
        return space

    async def invite(
        self, space: Space, addresses: Sequence[invite.Address], seconds: int, role: Role, *, by_relay: bool = False
    ) -> str:
        """An invitation of one newcomer, as the string to hand over. It names the relays of the space.

        `by_relay` leaves a welcome at each of them. Raises CallFailed or RelayRefused when one does not take it.
        """
        entropy = self.ambient.entropy
        seed, join_secret = entropy(32), entropy(32)
        expires = int(self.ambient.now()) + seconds
        body = statement.invite(space.id, space.author, seed, role, expires, join_secret)
        async with self.author.lock:
            payload = statement.encode(body, entropy(PAYLOAD_SALT_SIZE))
            run = await self.author.publish(space, LogClass.MEMBERSHIP, [(int(Kind.INVITE), payload)])
        self.exchange.announce_run(space, run)
        relays = self.outposts.of(space)[: invite.ADDRESSES_MAX]
        for outpost in relays if by_relay else ():
            at = RelayAt((outpost.row.host, outpost.row.port), outpost.row.key)
            await welcome.leave(self.store, space, join_secret, seconds, at, self.dialler, self.ambient)
            outpost.mailbox.hurry()
        handed = tuple(outpost.address for outpost in relays)
        return invite.encode(Invitation(space.id, join_secret, seed, expires, tuple(addresses), handed))

    # What follows from a commit

    def _index_later(self, news: News) -> None:
        self._to_index.set()

    def _members_changed(self, space: Space) -> None:
        self._grants_due.add(space.id)
        self._to_grant.set()
        self.newcomer.members_changed()

    async def grant(self) -> None:
        """Grants claims on our invitations as they come in."""
        while True:
            while self._grants_due:
                space = self.spaces.get(self._grants_due.pop())
                if space is not None:
                    await self._grant_in(space)
            await self._to_grant.wait()
            self._to_grant = trio.Event()

    async def _grant_in(self, space: Space) -> None:
        try:
            run = await self.author.grant_due(space)
        except StoreError as error:  # granted at the next change of members, or start
            return events.log("store.failed", error=type(error).__name__)
        if run is not None:
            self.exchange.announce_run(space, run)
        return None

    async def index(self) -> None:
        """Lists and indexes what was received, right behind its commit; then gives memory back."""
        while True:
            try:
                await self._let_burst_pass()
                while await self.store.index_some():
                    pass
            except StoreError as error:
                events.log("store.failed", error=type(error).__name__)
                await trio.sleep(STORE_RETRY_SECONDS)
                continue
            with trio.move_on_after(IDLE_MEMORY_SECONDS) as idle:
                await self._to_index.wait()
            if idle.cancelled_caught:
                gc.collect()
                self.store.release_memory()
                await self._to_index.wait()
            self._to_index = trio.Event()

    async def _let_burst_pass(self) -> None:
        """While a peer sends what it announced, committing goes before listing: for so many entries, and so long."""
        with trio.move_on_after(BURST_SECONDS_MAX):
            while self.exchange.receiving and self._pending() < BURST_ENTRIES_MAX:
                with trio.move_on_after(LULL_SECONDS) as lull:
                    await self._to_index.wait()
                    self._to_index = trio.Event()
                if lull.cancelled_caught:
                    return

    def _pending(self) -> int:
        return sum(self.store.counters(space.no).pending for space in self.spaces.values())

    async def discover(self) -> None:
        """Dials members that the LAN shows."""
        async for found in self.lan.found:
            space = self.spaces.get(found.space)
            if space is not None:
                self.sync.know(space, (found.host, found.port), by_hand=False, seconds=LAN_ADDRESS_SECONDS)

    def dial_known(self) -> None:
        """Everything a person or an invitation ever told us to dial, relays included."""
        for space in self.spaces.values():
            self.outposts.start(space)
            for host, port in self.store.peers(space.no):
                self.sync.know(space, (host, port), by_hand=True)

    async def goodbye(self) -> None:
        """Ends every session in order, within a second."""
        with trio.move_on_after(GOODBYE_SECONDS, shield=True):
            for _, link in list(self.sync.register.sessions.values()):
                link.close()
            while self.sync.register.sessions:
                await self.sync.register.moved.wait()
