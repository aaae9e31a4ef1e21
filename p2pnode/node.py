"""Node: one member of its spaces, at work: founds and joins them, and does what follows from what it learns.

What it stands on is handed in or made here; `daemon` opens it all and closes it again. Nothing below knows the node:
what it has to tell upwards it tells through the callbacks that are handed in here.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from p2pnode import events
from p2pnode.ambient import Ambient
from p2pnode.author import Author, sign_run
from p2pnode.config import Settings
from p2pnode.discovery import Lan
from p2pnode.exchange import Exchange, News
from p2pnode.failures import CommandError, Exit
from p2pnode.joining import Guest
from p2pnode.link import Link
from p2pnode.listening import Listening
from p2pnode.space import Space
from p2pnode.store import SpaceRow, Store, StoreError
from p2pnode.sync import Sync, connect
from protocol import invite, keys, statement
from protocol.entry import Kind, LogClass, LogIdentity, time_units
from protocol.handshake import LocalEnd
from protocol.invite import Invitation
from protocol.limits import LOG_ID_SIZE, PAYLOAD_SALT_SIZE, Limits
from protocol.log import Run, rebuild
from protocol.mask import Mode, SessionSecret
from protocol.noise import KeyPair
from protocol.statement import Claim, Founding, Role

LAN_ADDRESS_SECONDS = 3600  # an address that the LAN told is dialled for this long
BURST_ENTRIES_MAX = 50_000  # listed in two seconds
BURST_SECONDS_MAX = 10.0
LULL_SECONDS = 0.25
IDLE_MEMORY_SECONDS = 5.0  # quiet for this long after a burst: memory goes back to the system
GOODBYE_SECONDS = 1.0
STORE_RETRY_SECONDS = 5.0  # a full disk: until somebody has made room
JOIN_RETRY_SECONDS = 1.0
REFUSALS_MAX = 2  # a claim that was not taken: once may be a cut line, twice is somebody who was faster


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
        self.sync = Sync(self.exchange, self.spaces, ambient, limits, nursery)
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
        self._members_moved = trio.Event()
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
        run = self._first_entry(None, seed, Founding(*names, statement.epoch_hash(secret)))
        id = run.ids[0]
        row = await self.store.add_space(
            id, epochs=(secret,), static_secret=static, author_seed=seed, founding=replace(run, space=id)
        )
        return await self._enter(row)

    async def _enter(self, row: SpaceRow) -> Space:
        space = await Space.load(self.store, row, self.ambient)
        self.spaces[space.id] = space
        return space

    def _first_entry(self, space: bytes | None, seed: bytes, body: Founding | Claim) -> Run:
        """A log of one entry: a founding, or the claim with which a newcomer begins."""
        log = LogIdentity(space, keys.signer_public(seed), self.ambient.entropy(LOG_ID_SIZE), LogClass.MEMBERSHIP)
        payload = statement.encode(body, self.ambient.entropy(PAYLOAD_SALT_SIZE))
        now = time_units(self.ambient.now())
        run = rebuild(space or b"", log, 1, None, [1], [now], [int(statement.kind_of(body))], [payload], {}, {}, {})
        return sign_run(run, keys.signer_secret(seed))

    async def invite(self, space: Space, addresses: Sequence[invite.Address], seconds: int, role: Role) -> str:
        """An invitation of one newcomer, as the string to hand over."""
        entropy = self.ambient.entropy
        seed, join_secret = entropy(32), entropy(32)
        expires = int(self.ambient.now()) + seconds
        body = statement.invite(space.id, space.author, seed, role, expires, join_secret)
        async with self.author.lock:
            payload = statement.encode(body, entropy(PAYLOAD_SALT_SIZE))
            run = await self.author.publish(space, LogClass.MEMBERSHIP, [(int(Kind.INVITE), payload)])
        self.exchange.announce_run(space, run)
        return invite.encode(Invitation(space.id, join_secret, seed, expires, tuple(addresses), ()))

    async def join(self, invitation: Invitation, pen_name: str, told: Callable[[str], None]) -> Space:
        """Claims an invitation at the first of its addresses that answers, and waits for the space's name.

        `told` hears what is being waited for, as keys of sentences. Tries again until cancelled.
        """
        known = self.spaces.get(invitation.space)
        if known is not None:
            return await self._settle(known, invitation)
        if self.ambient.now() >= invitation.expires_s:
            raise CommandError(Exit.REFUSED, "join.expired")
        if not invitation.addresses:
            raise CommandError(Exit.REFUSED, "join.no_address")
        seed, claim = await self._claim(invitation, statement.tidy_name(pen_name))
        refusals = 0
        while True:
            told("join.dialling")
            for address in invitation.addresses:
                space, otherwise = await self._join_at((address.host, address.port), invitation, seed, claim)
                if space is not None:
                    told("join.waiting")
                    return await self._settle(space, invitation)
                refusals += otherwise == "join.refused"
                if refusals == REFUSALS_MAX:
                    raise CommandError(Exit.REFUSED, "join.taken")
                told(otherwise)
            await trio.sleep(JOIN_RETRY_SECONDS)

    async def _settle(self, space: Space, invitation: Invitation) -> Space:
        """Meets the space that let us in, until what admits us is here: then we can write, and have its name."""
        for address in invitation.addresses:
            await self.store.add_peer(space.no, address.host, address.port)
            self.sync.know(space, (address.host, address.port), by_hand=True)
        while not space.members.admitted(space.author):
            await self._members_moved.wait()
        founding = space.members.founding
        if founding is None or founding.epoch_hash not in map(statement.epoch_hash, space.epochs):
            raise CommandError(Exit.FAILED, "join.wrong_secret")
        return space

    async def _claim(self, invitation: Invitation, pen_name: str) -> tuple[bytes, Run]:
        """The author and the claim of an invitation: the same again when a join is tried again."""
        admission = keys.signer_public(invitation.admission_seed)
        kept = self.store.joining(admission)
        seed = kept if kept is not None else self.ambient.entropy(32)
        author = keys.signer_public(seed)
        body = statement.claim(invitation.space, author, invitation.admission_seed, pen_name)
        run = self._first_entry(invitation.space, seed, body)
        if kept is None:
            await self.store.keep_joining(admission, seed)
        return seed, run

    async def _join_at(
        self, address: tuple[str, int], invitation: Invitation, seed: bytes, claim: Run
    ) -> tuple[Space | None, str]:
        """The space, or what to tell instead."""
        stream = await connect(address)
        if stream is None:
            return None, "join.unanswered"
        static = self.ambient.entropy(32)
        local = LocalEnd(KeyPair.from_secret(static), self.ambient.entropy(16))
        secret = SessionSecret(invitation.space, Mode.JOIN, invitation.join_secret)
        link = Link(stream, self.sync.initiate(secret, local, None), self.limits)
        joined: list[Space] = []

        async def welcome(epochs: Sequence[bytes]) -> None:
            row = await self.store.add_space(
                invitation.space, epochs=epochs, static_secret=static, author_seed=seed, founding=claim
            )
            joined.append(await self._enter(row))

        await link.run(Guest(link.connection, claim, welcome, link.close))
        if joined:
            return joined[0], ""
        return None, "join.silent" if link.connection.remote is None else "join.refused"

    # What follows from a commit

    def _index_later(self, news: News) -> None:
        self._to_index.set()

    def _members_changed(self, space: Space) -> None:
        self._grants_due.add(space.id)
        self._members_moved.set()
        self._members_moved = trio.Event()

    async def grant(self) -> None:
        """Grants claims on our invitations as they come in."""
        while True:
            while self._grants_due:
                space = self.spaces.get(self._grants_due.pop())
                if space is not None:
                    await self._grant_in(space)
            await self._members_moved.wait()

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
        """Everything a person or an invitation ever told us to dial."""
        for space in self.spaces.values():
            for host, port in self.store.peers(space.no):
                self.sync.know(space, (host, port), by_hand=True)

    async def goodbye(self) -> None:
        """Ends every session in order, within a second."""
        with trio.move_on_after(GOODBYE_SECONDS, shield=True):
            for _, link in list(self.sync.register.sessions.values()):
                link.close()
            while self.sync.register.sessions:
                await self.sync.register.moved.wait()
