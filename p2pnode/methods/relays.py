"""Relays: the helpers of each space: add one, list them, remove one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pnode.control import Handler, Stream
from p2pnode.failures import CommandError, Exit
from p2pnode.methods.asked import Asked, space_of
from p2pnode.methods.paths import relay_json
from protocol import invite

if TYPE_CHECKING:
    from p2pnode.node import Node
    from p2pnode.outposts import Outpost


class Relays:
    """Methods `relay.*`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.calls: Mapping[str, Handler] = {
            "relay.add": self.add,
            "relay.list": self.list_relays,
            "relay.remove": self.remove,
        }
        self.streams: Mapping[str, Stream] = {}

    async def add(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        relay = invite.parse_relay(asked.text("relay"))
        space = space_of(self._node.spaces, asked)
        asked.done()
        outpost = await self._node.outposts.add(space, relay)
        return {"relay": str(outpost.address)}

    async def list_relays(self, params: dict[str, object]) -> object:
        Asked(params).done()
        return [relay_json(outpost) for outpost in self._node.outposts.all()]

    async def remove(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        text = asked.text("relay").strip()
        space = space_of(self._node.spaces, asked) if asked.has("space") else None
        asked.done()
        found = [
            outpost
            for outpost in self._node.outposts.all()
            if _is_named(outpost, text) and space in (None, outpost.space)
        ]
        if not found:
            raise CommandError(Exit.NOT_FOUND, "relay.unknown")
        if len(found) > 1:
            raise CommandError(Exit.NOT_FOUND, "relay.ambiguous")
        await self._node.outposts.remove(found[0])
        return {"relay": str(found[0].address)}


def _is_named(outpost: Outpost, text: str) -> bool:
    """By HOST:PORT, or all of HOST:PORT/KEY."""
    return text in (str(outpost.address.address), str(outpost.address))
