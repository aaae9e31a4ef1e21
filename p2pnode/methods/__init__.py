"""Methods: what the control socket offers, a module per noun. The only place that knows both a person's words and ours.

A method takes the options of its command by name and returns what `--json` prints. Streaming ones also tell on the
way: reports, or how far they have come.
"""

from __future__ import annotations

from collections.abc import Mapping

from typing import TYPE_CHECKING

from p2pnode.control import Handler, Stream
from p2pnode.methods import daemon, peers, reports, spaces

if TYPE_CHECKING:
    from p2pnode.node import Node


def of(node: Node) -> tuple[Mapping[str, Handler], Mapping[str, Stream]]:
    """The calls and the streaming calls of a node."""
    calls: dict[str, Handler] = {}
    streams: dict[str, Stream] = {}
    for noun in (daemon.Daemon(node), spaces.Spaces(node), reports.Reports(node), peers.Peers(node)):
        calls |= noun.calls
        streams |= noun.streams
    return calls, streams
