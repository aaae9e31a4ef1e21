"""Outposts: everything that this node does at the relays of its spaces, each for itself.

A relay of a space is a mailbox and a meeting point. Several are used at once and know nothing of each other; losing one
loses nothing.
"""

from dataclasses import dataclass, field

import trio

from p2pnode.ambient import Ambient
from p2pnode.calling import RelayAt
from p2pnode.exchange import Exchange
from p2pnode.mailbox import Mailbox, Pace
from p2pnode.rendezvous import Rendezvous
from p2pnode.socks import Dialler
from p2pnode.space import Space
from p2pnode.store import RelayRow
from p2pnode.sync import Sync
from protocol import invite

PACES = {
    "home": Pace(append_delay_seconds_max=60.0, pause_seconds_max=0.0),
    "field": Pace(append_delay_seconds_max=600.0, pause_seconds_max=10.0),
}


@dataclass(eq=False, slots=True)
class Outpost:
    """One relay of one space, at work."""

    space: Space
    row: RelayRow
    mailbox: Mailbox
    rendezvous: Rendezvous
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def address(self) -> invite.Relay:
        """As it is written down and handed on."""
        return invite.Relay(invite.Address(self.row.host, self.row.port), self.row.key)

    async def run(self) -> None:
        """Until it is removed."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.mailbox.run)
                nursery.start_soon(self.rendezvous.run)


class Outposts:
    """All of them."""

    def __init__(
        self,
        exchange: Exchange,
        sync: Sync,
        dialler: Dialler,
        ambient: Ambient,
        profile: str,
        nursery: trio.Nursery,
    ) -> None:
        self._exchange = exchange
        self._kept = exchange.store.relays
        self._sync = sync
        self._dialler = dialler
        self._ambient = ambient
        self._pace = PACES[profile]
        self._nursery = nursery
        self._outposts: dict[int, Outpost] = {}

    def of(self, space: Space) -> list[Outpost]:
        """Those of one space, in the order in which they were added."""
        return [outpost for outpost in self._outposts.values() if outpost.space is space]

    def all(self) -> list[Outpost]:
        """Those of every space."""
        return list(self._outposts.values())

    def start(self, space: Space) -> None:
        """Everything that a person or an invitation ever added to a space."""
        for row in self._kept.of(space.no):
            self._begin(space, row)

    async def add(self, space: Space, relay: invite.Relay) -> Outpost:
        """Keeps a relay and begins at once; one that is known under its key has moved."""
        row = await self._kept.add(space.no, relay.address.host, relay.address.port, relay.key)
        known = self._outposts.get(row.no)
        if known is not None and known.row == row:
            return known
        self._end(row.no)
        return self._begin(space, row)

    async def remove(self, outpost: Outpost) -> None:
        """Forgets a relay."""
        self._end(outpost.row.no)
        await self._kept.remove(outpost.row.no)

    def hurry(self) -> None:
        """Everything is read, appended and tried now."""
        for outpost in self._outposts.values():
            outpost.mailbox.hurry()
            outpost.rendezvous.hurry()

    async def catch_up(self) -> None:
        """What has come since, from a relay or a peer, or was written because of it, goes out without delay too."""
        for outpost in self._outposts.values():
            if outpost.mailbox.owes:
                outpost.mailbox.hurry()
        await self.passed()

    async def passed(self) -> None:
        """Waits until each has been through what it was hurried to, or has failed to."""
        async with trio.open_nursery() as nursery:
            for outpost in self._outposts.values():
                nursery.start_soon(outpost.mailbox.passed.wait)

    def _begin(self, space: Space, row: RelayRow) -> Outpost:
        at = RelayAt((row.host, row.port), row.key)
        mailbox = Mailbox(self._exchange, space, row.no, at, self._dialler, self._ambient, self._pace)
        outpost = Outpost(space, row, mailbox, Rendezvous(self._sync, space, at, self._dialler, self._ambient))
        self._outposts[row.no] = outpost
        self._nursery.start_soon(outpost.run)
        return outpost

    def _end(self, relay_no: int) -> None:
        outpost = self._outposts.pop(relay_no, None)
        if outpost is not None:
            outpost.scope.cancel()
