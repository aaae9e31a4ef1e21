"""Methods: what the control socket offers, a module per noun. The only place that knows both a person's words and ours.

A method takes the options of its command by name and returns what `--json` prints. Streaming ones also tell on the
way: reports, or how far they have come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, ParamSpec

from p2pnode.complaint import understood
from p2pnode.control import Handler, Stream
from p2pnode.methods import bundles, daemon, peers, relays, reports, spaces

if TYPE_CHECKING:
    from p2pnode.node import Node

P = ParamSpec("P")


def of(node: Node) -> tuple[Mapping[str, Handler], Mapping[str, Stream]]:
    """The calls and the streaming calls of a node."""
    calls: dict[str, Handler] = {}
    streams: dict[str, Stream] = {}
    nouns = (
        daemon.Daemon(node),
        spaces.Spaces(node),
        reports.Reports(node),
        peers.Peers(node),
        relays.Relays(node),
        bundles.Bundles(node),
    )
    for noun in nouns:
        calls |= {name: _explained(call) for name, call in noun.calls.items()}
        streams |= {name: _explained(stream) for name, stream in noun.streams.items()}
    return calls, streams


def _explained(method: Callable[P, Awaitable[object]]) -> Callable[P, Awaitable[object]]:
    """The same, its store's failures told as sentences."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> object:
        with understood():
            return await method(*args, **kwargs)

    return call
