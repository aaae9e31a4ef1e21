"""Peers: addresses to dial, and meeting whoever can be met now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from p2pnode.control import Handler, Send, Stream
from p2pnode.failures import CommandError, Exit
from p2pnode.methods.asked import Asked, id_prefix, space_of
from p2pnode.methods.paths import Reason, holders, peer_json, reasons
from p2pnode.session import Session
from p2pnode.sync import Candidate
from protocol import invite
from protocol.report import rfc3339

if TYPE_CHECKING:
    from p2pnode.node import Node

SYNC_SECONDS = 60.0
ANNOUNCE_SECONDS = 60.0
LOOK_SECONDS = 0.2  # between two looks at how far the sessions have come
MEET_SECONDS = 3.0  # how long `sync` waits for a first peer where none is connected


class Peers:
    """Methods `peer.*` and `sync`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.calls: Mapping[str, Handler] = {
            "peer.add": self.add,
            "peer.list": self.list_peers,
            "sync.explain": self.explain,
        }
        self.streams: Mapping[str, Stream] = {"sync": self.sync}

    async def add(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        address = invite.parse_address(asked.text("address"))
        space = space_of(self._node.spaces, asked)
        asked.done()
        await self._node.store.add_peer(space.no, address.host, address.port)
        self._node.sync.know(space, (address.host, address.port), by_hand=True)
        return {"address": str(address)}

    async def list_peers(self, params: dict[str, object]) -> object:
        Asked(params).done()
        sync = self._node.sync
        known = sorted(sync.candidates.values(), key=lambda c: (not sync.connected(c), -(c.seen or 0)))
        dialled = {candidate.static for candidate in known if sync.connected(candidate)}
        incoming = [
            {
                "address": "",
                "state": "connected",
                "origin": "incoming",
                "seen": rfc3339(int(self._node.ambient.now())),
                "space": session.space.id.hex(),
            }
            for session, _ in sync.register.sessions.values()
            if session.remote.static not in dialled
        ]
        return [*map(self._peer_json, known), *incoming]

    def _peer_json(self, candidate: Candidate) -> dict[str, Any]:
        return {**peer_json(self._node, candidate), "origin": "hand" if candidate.by_hand else "lan"}

    async def sync(self, params: dict[str, object], send: Send) -> object:
        asked = Asked(params)
        wait, seconds = asked.flag("wait"), asked.number("timeout", SYNC_SECONDS)
        asked.done()
        node = self._node
        node.lan.announce_for(ANNOUNCE_SECONDS)
        node.sync.hurry()
        node.outposts.hurry()
        before = self._entries()
        if not wait:
            await node.sync.compare_all()
            return self._outcome(before)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as telling:
                telling.start_soon(self._tell, before, send)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(node.outposts.passed)
                    nursery.start_soon(self._settle)
                await node.outposts.catch_up()
                telling.cancel_scope.cancel()
            return self._outcome(before)
        raise CommandError(Exit.TIMED_OUT, "sync.timeout")

    async def _settle(self) -> None:
        """Until every peer that is connected, or comes in a moment, has said that it holds what we hold."""
        node = self._node
        with trio.move_on_after(MEET_SECONDS):
            while not node.sync.register.sessions:
                await node.sync.register.moved.wait()
        waiting = [session for session, _ in node.sync.register.sessions.values()]
        for session in waiting:
            session.in_sync = trio.Event()
        await node.sync.compare_all()
        while self._unsettled(waiting):
            with trio.move_on_after(LOOK_SECONDS):
                await waiting[0].in_sync.wait()
                waiting = self._unsettled(waiting)

    async def _tell(self, before: int, send: Send) -> None:
        """How many entries have come, and how many are known to be on their way in or out."""
        node = self._node
        while True:
            sessions = [session for session, _ in node.sync.register.sessions.values()]
            left = sum(max(session.announced_entries - session.received_entries, 0) for session in sessions)
            left += sum(outpost.mailbox.told.waiting for outpost in node.outposts.all())
            done = self._entries() - before
            send({"done": done, "total": done + left})
            await trio.sleep(LOOK_SECONDS)

    def _entries(self) -> int:
        return sum(self._node.store.counters(space.no).entries for space in self._node.spaces.values())

    async def explain(self, params: dict[str, object]) -> object:
        """Who has a report, why it may not be here, and what would help; without an id: the same of everything."""
        asked = Asked(params)
        wanted = asked.maybe("id")
        prefix = None if wanted is None else id_prefix(wanted)
        space = space_of(self._node.spaces, asked)
        asked.done()
        node = self._node
        found = [] if prefix is None else await node.store.find(prefix)
        here = [listed for listed in found if listed.space == space.id]
        if len(here) > 1:
            raise CommandError(Exit.NOT_FOUND, "report.ambiguous")
        id = here[0].id if here else None
        told = [Reason("explain.unknown")] if prefix is not None and id is None else []
        told += reasons(node, space)
        return {
            "id": None if id is None else id.hex(),
            "here": bool(here) if prefix is not None else None,
            **holders(node, space, id),
            "reasons": [reason.as_json() for reason in told],
        }

    def _unsettled(self, sessions: list[Session]) -> list[Session]:
        """Those still connected that have not said yet that they hold what we hold."""
        here = {id(session) for session, _ in self._node.sync.register.sessions.values()}
        return [session for session in sessions if id(session) in here and not session.in_sync.is_set()]

    def _outcome(self, before: int) -> dict[str, Any]:
        node = self._node
        sessions = [session for session, _ in node.sync.register.sessions.values()]
        outposts = node.outposts.all()
        return {
            "peers": len(sessions),
            "equal": sum(session.in_sync.is_set() for session in sessions),
            "received": self._entries() - before,
            "relays": len(outposts),
            "relays_equal": sum(outpost.mailbox.told.settled for outpost in outposts),
        }
