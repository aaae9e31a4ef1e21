"""Paths: every way by which entries come and go, what it is doing, and why it is not doing more.

    lan      announcing, listening or off              peer    an address, or somebody who dialled
    relay    a mailbox and a meeting point             proxy   what everything else goes through

`explain` turns that, and what lies where, into sentences with something to do about each. Numbers only: who holds what
is nobody's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pnode.calling import CallFailed, RelayRefused
from p2pnode.config import LAN_HOST
from p2pnode.sentences import TABLE
from protocol import invite
from protocol.report import rfc3339

if TYPE_CHECKING:
    from p2pnode.node import Node
    from p2pnode.outposts import Outpost
    from p2pnode.space import Space
    from p2pnode.sync import Candidate

AT_WORK = ("new", "reading", "appending", "waiting")  # states of a mailbox with which nothing is wrong


def why(error: CallFailed | RelayRefused) -> str:
    """What went wrong at a relay, as a slug."""
    return error.reason if isinstance(error, CallFailed) else error.reason.name.lower().replace("_", "-")


def when(seconds: float | None) -> str | None:
    """A moment as JSON has it."""
    return None if seconds is None else rfc3339(int(seconds))


def paths_json(node: Node) -> list[dict[str, Any]]:
    """All paths of a node, for `status`."""
    told: list[dict[str, Any]] = []
    if node.settings.proxy is not None:
        told.append({"kind": "proxy", "address": str(node.settings.proxy), "state": _proxy_state(node)})
    told.append({"kind": "lan", "state": node.settings.lan})
    told += [peer_json(node, candidate) for candidate in node.sync.candidates.values()]
    told += [relay_json(outpost) for space in node.spaces.values() for outpost in node.outposts.of(space)]
    return told


def peer_json(node: Node, candidate: Candidate) -> dict[str, Any]:
    """An address of a peer."""
    connected = node.sync.connected(candidate)
    return {
        "kind": "peer",
        "space": candidate.space.id.hex(),
        "address": str(invite.Address(*candidate.address)),
        "state": "connected" if connected else candidate.failure or "waiting",
        "seen": when(candidate.seen),
    }


def relay_json(outpost: Outpost) -> dict[str, Any]:
    """A relay: how it stands with its mailbox and its meeting point. `waiting` entries do not lie there yet."""
    told = outpost.mailbox.told
    return {
        "kind": "relay",
        "space": outpost.space.id.hex(),
        "address": str(outpost.address.address),
        "relay": str(outpost.address),
        "state": told.state,
        "seen": when(told.seen),
        "waiting": told.waiting,
        "waiting_since": when(told.waiting_since),
        "refusal": told.refusal,
        "warnings": sorted(told.warnings),
        "meeting": outpost.rendezvous.state,
    }


def _proxy_state(node: Node) -> str:
    states = [outpost.mailbox.told.state for space in node.spaces.values() for outpost in node.outposts.of(space)]
    states += [candidate.failure or "" for candidate in node.sync.candidates.values()]
    if "proxy-down" in states:
        return "proxy-down"
    return "in-use" if states else "unused"


# Explaining


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence: its key and fields."""

    key: str
    fields: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"key": self.key, "fields": self.fields}


def reasons(node: Node, space: Space) -> Iterator[Reason]:
    """Why something may not have come or gone, and what would help; nothing where all is well."""
    counters = node.store.counters(space.no)
    if counters.pending:
        yield Reason("explain.pending", {"count": counters.pending})
    if counters.missing:
        yield Reason("explain.missing", {"count": counters.missing})
    candidates = [candidate for candidate in node.sync.candidates.values() if candidate.space is space]
    outposts = node.outposts.of(space)
    connected = _connected(node, space)
    for candidate in candidates:
        if not node.sync.connected(candidate) and candidate.failure is not None:
            address = str(invite.Address(*candidate.address))
            yield Reason(_of("explain.peer", candidate.failure), {"address": address, "why": candidate.failure})
    for outpost in outposts:
        yield from _relay_reasons(node, outpost)
    if not connected and not outposts:
        yield Reason("explain.no_path" if not candidates else "explain.nobody")
    by_relay = any(outpost.mailbox.told.settled for outpost in outposts)
    if not connected and not by_relay and node.settings.lan == "off" and not node.settings.proxy:
        yield Reason("explain.lan_off")
    listens_on_lan = any(address.host == LAN_HOST for address in node.settings.listen)
    if not connected and not by_relay and listens_on_lan and node.settings.lan == "listen":
        yield Reason("explain.lan_listen")


def _relay_reasons(node: Node, outpost: Outpost) -> Iterator[Reason]:
    told = outpost.mailbox.told
    address = str(outpost.address.address)
    if told.state not in AT_WORK:
        fields = {"address": address, "why": told.state, "seen": when(told.seen)}
        yield Reason(_of("explain.relay", told.state), fields)
    for warning in sorted(told.warnings):
        yield Reason(f"explain.relay_{warning}", {"address": address})
    if told.refusal is not None:
        yield Reason(_of("explain.refused", told.refusal), {"address": address, "why": told.refusal})
    if told.waiting and told.waiting_since is not None:
        minutes = int(node.ambient.now() - told.waiting_since) // 60
        key = "explain.relay_waiting" if told.state in AT_WORK and told.refusal is None else "explain.relay_owed"
        yield Reason(key, {"address": address, "count": told.waiting, "minutes": minutes})


def _of(prefix: str, slug: str) -> str:
    """The key of the sentence for a slug; the general one where there is no special one."""
    special = f"{prefix}_{slug.replace('-', '_')}"
    return special if special in TABLE else f"{prefix}_down"


def _connected(node: Node, space: Space) -> int:
    return sum(session.space is space for session, _ in node.sync.register.sessions.values())


def holders(node: Node, space: Space, id: bytes | None) -> dict[str, Any]:
    """How many of the connected peers hold all that we hold, and at how many relays an entry lies."""
    sessions = [session for session, _ in node.sync.register.sessions.values() if session.space is space]
    lying = node.store.relays.lies_at(space.no, id) if id is not None else []
    return {
        "peers": len(sessions),
        "peers_equal": sum(session.in_sync.is_set() for session in sessions),
        "relays": len(node.outposts.of(space)),
        "relays_holding": len(lying) if id is not None else None,
    }
