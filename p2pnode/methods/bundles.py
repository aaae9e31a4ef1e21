"""Bundles: sealed files of entries, for sticks and for people who never meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pnode import bundles
from p2pnode.control import Handler, Send, Stream
from p2pnode.failures import CommandError, Exit
from p2pnode.methods.asked import Asked, space_of
from protocol.errors import InputRefused

if TYPE_CHECKING:
    from p2pnode.node import Node
    from protocol.frontier import LogState

TOKEN_SIZE = 16


class Bundles:
    """Methods `bundle.import`, `bundle.export` and `bundle.since`; each wants an open file beside it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._since: dict[str, dict[bytes, LogState]] = {}  # the last frontier that was asked for, by its token
        self.calls: Mapping[str, Handler] = {"bundle.since": self.since}
        self.streams: Mapping[str, Stream] = {"bundle.import": self.bring_in, "bundle.export": self.write}

    async def since(self, params: dict[str, object]) -> object:
        """Keeps the frontier of a bundle for the export that names the token: what its maker holds is left out."""
        asked = Asked(params)
        file, space = asked.file("file"), space_of(self._node.spaces, asked)
        asked.done()
        frontier = await bundles.frontier_of(space, file)
        token = self._node.ambient.entropy(TOKEN_SIZE).hex()
        self._since = {token: frontier}
        return {"since": token, "logs": len(frontier)}

    async def bring_in(self, params: dict[str, object], send: Send) -> object:
        asked = Asked(params)
        file, dry_run = asked.file("file"), asked.flag("dry_run")
        asked.done()
        reading = await bundles.read(
            self._node.exchange,
            self._node.spaces,
            file,
            dry_run=dry_run,
            told=lambda done, total: send({"done": done, "total": total}),
        )
        return reading.as_json()

    async def write(self, params: dict[str, object], send: Send) -> object:
        asked = Asked(params)
        file, space, for_peer = asked.file("file"), space_of(self._node.spaces, asked), asked.flag("for_peer")
        since = asked.maybe("since")
        asked.done()
        theirs: dict[bytes, LogState] = {}
        if since is not None:
            if since not in self._since:
                raise InputRefused("since", "unknown")
            theirs = self._since.pop(since)
        elif for_peer:
            theirs = await self._node.store.relays.theirs(space.no)
            if not theirs:
                raise CommandError(Exit.NOT_FOUND, "bundle.no_peer")
        return await bundles.write(
            self._node.store,
            space,
            file,
            theirs,
            entropy=self._node.ambient.entropy,
            told=lambda done, total: send({"done": done, "total": total}),
        )
