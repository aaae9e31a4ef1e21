"""`p2pnode status`: what the daemon holds and whom it is connected to."""

from __future__ import annotations

from p2pnode import arguments, client, display
from p2pnode.failures import Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from p2pnode.arguments import Parser

FINGERPRINT_SHOWN = 16  # characters: enough to read to somebody over a telephone


def declare(parser: Parser) -> None:
    """No options of its own."""


def status(args: Namespace) -> int:
    """Counters only; nothing is scanned."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("status")
    display.result(args.json, told, _lines(told))
    return Exit.DONE


def _lines(told: Any) -> list[str]:
    node = told["node"]
    facts = [
        (say("status.version"), node["version"]),
        (say("status.listen"), ", ".join(map(display.clean, node["listen"])) or say("status.nowhere")),
        (say("status.lan"), node["lan"]),
        (say("status.proxy"), node["proxy"] or say("status.direct")),
        (say("status.peers"), say("status.connected", count=told["peers"])),
    ]
    wide = max(display.width(name) for name, _ in facts)
    lines = [f"{name.ljust(wide)}  {display.clean(value)}" for name, value in facts]
    if not told["spaces"]:
        return [*lines, "", say("status.spaceless")]
    return [*lines, "", *space_table(told["spaces"]), "", *path_table(told.get("paths", []))]


def space_table(spaces: list[Any]) -> list[str]:
    """The spaces of this node, one a row."""
    heads = say("space.heads").split("|")
    rows = [
        [
            space["id"][:8],
            f"{space['entries']:,}",
            f"{space['logs']:,}",
            f"{space['members']:,}",
            f"{space['pending']:,}",
            f"{space['missing']:,}",
            space["fingerprint"][:FINGERPRINT_SHOWN],
            display.quoted(space["name"] or ""),
        ]
        for space in spaces
    ]
    return display.table(heads, rows, display.page_columns(), right="lrrrrrll")


def path_table(paths: list[Any]) -> list[str]:
    """Every way in and out, one a row: what it does, or why it does nothing."""
    rows = []
    for path in paths:
        state, *more = _states(path)
        address = display.clean(path.get("address", ""))
        seen = (path.get("seen") or "-")[:16]
        rows.append([display.word("path", path["kind"]), state, seen, _waiting(path), address])
        rows += [["", word, "", "", ""] for word in more]
    return display.table(say("path.heads").split("|"), rows, display.page_columns(), right="lllr")


def _waiting(path: Any) -> str:
    """How many entries have not gone this way yet, and since when."""
    if not path.get("waiting"):
        return "-"
    return say("path.since", count=f"{path['waiting']:,}", since=path["waiting_since"][11:16])


def relay_states(relay: Any) -> list[str]:
    """What a mailbox does, why it takes nothing, and what it did wrong."""
    told = [display.word("relay", relay["state"])]
    told += [display.word("refusal", slug) for slug in [relay["refusal"]] if slug]
    return told + [display.word("warning", slug) for slug in relay["warnings"]]


def _states(path: Any) -> list[str]:
    """What a path does, and what is wrong with it: a row each, so that the address has room."""
    if path["kind"] == "relay":
        return relay_states(path)
    return [display.word("peer" if path["kind"] == "peer" else "path", path["state"])]


VERBS = {"status": (declare, status)}
