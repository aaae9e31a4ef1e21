"""Newcomer: how an invitation becomes a membership, from the side of whoever was invited.

    at an address    a member answers, takes the claim, hands over the secrets (joining.py)
    at a relay       a welcome lies there with the secrets and the membership logs; the claim goes into the mailbox

Either way the claim is made once and kept: a join that is tried again is the same author's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from p2pnode import welcome
from p2pnode.ambient import Ambient
from p2pnode.author import first_entry
from p2pnode.calling import CallFailed, RelayAt, RelayRefused
from p2pnode.exchange import Exchange
from p2pnode.failures import CommandError, Exit
from p2pnode.joining import Guest
from p2pnode.link import Link
from p2pnode.outposts import Outposts
from p2pnode.socks import Dialler, Failure
from p2pnode.space import Space
from p2pnode.store import SpaceRow
from p2pnode.sync import Sync
from p2pnode.unpacking import Taking
from protocol import keys, statement
from protocol.handshake import LocalEnd
from protocol.invite import Address, Invitation, Relay
from protocol.limits import Limits
from protocol.log import Run
from protocol.mask import Mode, SessionSecret
from protocol.noise import KeyPair

RETRY_SECONDS = 1.0
RELAY_RETRY_SECONDS = 5.0
REFUSALS_MAX = 2  # a claim that was not taken: once may be a cut line, twice is somebody who was faster
UNANSWERED = {
    Failure.UNREACHABLE: "join.unanswered",
    Failure.PROXY_DOWN: "join.proxy_down",
    Failure.NO_PROXY: "join.proxy_needed",
}


class Newcomer:
    """Joins spaces; `enter` makes one of a row that is in the store."""

    def __init__(
        self,
        exchange: Exchange,
        sync: Sync,
        outposts: Outposts,
        dialler: Dialler,
        ambient: Ambient,
        limits: Limits,
        spaces: Mapping[bytes, Space],
        enter: Callable[[SpaceRow], Awaitable[Space]],
    ) -> None:
        self._exchange = exchange
        self._store = exchange.store
        self._sync = sync
        self._outposts = outposts
        self._dialler = dialler
        self._ambient = ambient
        self._limits = limits
        self._spaces = spaces
        self._enter = enter
        self._members_moved = trio.Event()

    def members_changed(self) -> None:
        """Somebody may belong to some space who did not."""
        self._members_moved.set()
        self._members_moved = trio.Event()

    async def join(
        self, invitation: Invitation, pen_name: str, told: Callable[[str], None], *, by_relay: bool = False
    ) -> Space:
        """Claims an invitation wherever somebody or something answers, and waits for the space's name.

        `by_relay` asks no member. `told` hears what is being waited for, as keys of sentences. Tries again until
        cancelled.
        """
        known = self._spaces.get(invitation.space)
        addresses = () if by_relay else invitation.addresses
        if known is not None:
            return await self._settle(known, addresses, invitation.relays)
        if self._ambient.now() >= invitation.expires_s:
            raise CommandError(Exit.REFUSED, "join.expired")
        if not addresses and not invitation.relays:
            raise CommandError(Exit.REFUSED, "join.no_relay" if by_relay else "join.no_address")
        seed, claim = await self._claim(invitation, statement.tidy_name(pen_name))
        refusals = 0
        while True:
            told("join.dialling" if addresses else "join.fetching")
            places: Sequence[Address | Relay] = (*addresses, *invitation.relays)
            for place in places:
                if isinstance(place, Relay):
                    space, otherwise = await self._join_by(place, invitation, seed, claim)
                else:
                    space, otherwise = await self._join_at(place, invitation, seed, claim)
                if space is not None:
                    told("join.welcomed" if isinstance(place, Relay) else "join.waiting")
                    return await self._settle(space, addresses, invitation.relays)
                refusals += otherwise == "join.refused"
                if refusals == REFUSALS_MAX:
                    raise CommandError(Exit.REFUSED, "join.taken")
                told(otherwise)
            await trio.sleep(RETRY_SECONDS if addresses else RELAY_RETRY_SECONDS)

    async def _settle(self, space: Space, addresses: Sequence[Address], relays: Sequence[Relay]) -> Space:
        """Meets the space that let us in, until what admits us is here: then we can write, and have its name."""
        for address in addresses:
            await self._store.add_peer(space.no, address.host, address.port)
            self._sync.know(space, (address.host, address.port), by_hand=True)
        for relay in relays:
            (await self._outposts.add(space, relay)).mailbox.hurry()
        while not space.members.admitted(space.author):
            await self._members_moved.wait()
        founding = space.members.founding
        if founding is None or founding.epoch_hash not in map(statement.epoch_hash, space.epochs):
            raise CommandError(Exit.FAILED, "join.wrong_secret")
        return space

    async def _claim(self, invitation: Invitation, pen_name: str) -> tuple[bytes, Run]:
        """The author and the claim of an invitation: the same again when a join is tried again."""
        admission = keys.signer_public(invitation.admission_seed)
        kept = self._store.joining(admission)
        seed = kept if kept is not None else self._ambient.entropy(32)
        author = keys.signer_public(seed)
        body = statement.claim(invitation.space, author, invitation.admission_seed, pen_name)
        run = first_entry(invitation.space, seed, body, self._ambient)
        if kept is None:
            await self._store.keep_joining(admission, seed)
        return seed, run

    async def _join_at(
        self, address: Address, invitation: Invitation, seed: bytes, claim: Run
    ) -> tuple[Space | None, str]:
        """The space, or what to tell instead."""
        stream = await self._dialler.open((address.host, address.port), circuit=invitation.space)
        if isinstance(stream, Failure):
            return None, UNANSWERED[stream]
        static = self._ambient.entropy(32)
        local = LocalEnd(KeyPair.from_secret(static), self._ambient.entropy(16))
        secret = SessionSecret(invitation.space, Mode.JOIN, invitation.join_secret)
        link = Link(stream, self._sync.initiate(secret, local, None), self._limits)
        joined: list[Space] = []

        async def store_welcome(epochs: Sequence[bytes]) -> None:
            joined.append(await self._joined(invitation, epochs, static, seed, claim))

        await link.run(Guest(link.connection, claim, store_welcome, link.close))
        if joined:
            return joined[0], ""
        return None, "join.silent" if link.connection.remote is None else "join.refused"

    async def _join_by(self, relay: Relay, invitation: Invitation, seed: bytes, claim: Run) -> tuple[Space | None, str]:
        """The same by the welcome that lies at a relay."""
        at = RelayAt((relay.address.host, relay.address.port), relay.key)
        try:
            found = await welcome.fetch(invitation, at, self._dialler, self._ambient)
        except (CallFailed, RelayRefused):
            return None, "join.relay_unanswered"
        if found is None:
            return None, "join.no_welcome"
        space = await self._joined(invitation, found.epochs, self._ambient.entropy(32), seed, claim)
        taking = Taking(self._exchange, space)
        await taking.take(found.runs)
        await taking.finish()
        return space, ""

    async def _joined(
        self, invitation: Invitation, epochs: Sequence[bytes], static: bytes, seed: bytes, claim: Run
    ) -> Space:
        row = await self._store.add_space(
            invitation.space, epochs=epochs, static_secret=static, author_seed=seed, founding=claim
        )
        return await self._enter(row)
