"""Daemon: status, stop, log check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2pnode._version import __version__
from p2pnode.control import Handler, Send, Stream
from p2pnode.methods.asked import Asked
from p2pnode.methods.paths import paths_json
from p2pnode.space import Space

if TYPE_CHECKING:
    from p2pnode.node import Node


class Daemon:
    """What the daemon tells of itself."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.calls: Mapping[str, Handler] = {"status": self.status, "stop": self.stop}
        self.streams: Mapping[str, Stream] = {"log.check": self.check}

    async def status(self, params: dict[str, object]) -> object:
        Asked(params).done()
        node = self._node
        return {
            "node": {
                "version": __version__,
                "listen": [str(address) for address in node.listening.addresses],
                "lan": node.settings.lan,
                "proxy": str(node.settings.proxy) if node.settings.proxy is not None else None,
            },
            "spaces": [await space_json(node, space) for space in node.spaces.values()],
            "peers": len(node.sync.register.sessions),
            "paths": paths_json(node),
        }

    async def stop(self, params: dict[str, object]) -> object:
        Asked(params).done()
        self._node.stopping.set()
        return {}

    async def check(self, params: dict[str, object], send: Send) -> object:
        Asked(params).done()
        return await self._node.store.check(lambda done, total: send({"done": done, "total": total}))


async def space_json(node: Node, space: Space) -> dict[str, Any]:
    """One space in `status` and `space list`: counters, nothing is scanned."""
    counters = node.store.counters(space.no)
    return {
        "id": space.id.hex(),
        "name": space.name,
        "entries": counters.entries,
        "logs": counters.logs,
        "members": len(space.members.authors),
        "fingerprint": (await node.store.digest(space.no)).hex(),
        "pending": counters.pending,
        "missing": counters.missing,
    }
