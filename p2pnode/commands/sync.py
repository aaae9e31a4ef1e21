"""`p2pnode sync`: meet whoever can be met, now."""

from __future__ import annotations

from p2pnode import arguments, client, display
from p2pnode.failures import Exit
from p2pnode.sentences import TABLE, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from p2pnode.arguments import Parser


def declare(parser: Parser) -> None:
    """Options of `sync`."""
    parser.option("--wait", action="store_true")
    parser.option("--timeout", metavar="S", type=float)


def sync(args: Namespace) -> int:
    """Announce on the LAN for a minute and dial; with --wait, until every connected peer holds what we hold."""
    with client.Daemon(arguments.home(args)) as daemon, display.Bar(quiet=args.json) as bar:

        def told_on_the_way(note: Any) -> None:
            bar.update(note["done"], note["total"], say("sync.progress", done=note["done"], total=note["total"]))

        told = daemon.call("sync", arguments.params(args, "wait", "timeout"), told=told_on_the_way, seconds=None)
    key = "sync.done" if args.wait else "sync.begun"
    lines = [say(key, peers=told["peers"], equal=told["equal"], received=told["received"])]
    if args.wait and told.get("relays"):  # an older daemon knows of none
        lines.append(say("sync.relays", equal=told["relays_equal"], relays=told["relays"]))
    display.result(args.json, told, lines)
    return Exit.DONE


def declare_explain(parser: Parser) -> None:
    """Options of `sync explain`."""
    parser.option("id", metavar="ID", nargs="?")
    parser.option("--space", metavar="S")


def explain(args: Namespace) -> int:
    """What is known, as sentences with something to do about each."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("sync.explain", arguments.params(args, "id", "space"))
    lines = [say("explain.here")] if told["here"] else []
    peers = {"equal": told["peers_equal"], "peers": told["peers"]}
    lines.append(say("explain.peers", **peers) if told["peers"] else say("explain.alone"))
    if told["here"] and told["relays"]:
        lines.append(say("explain.relays", holding=told["relays_holding"], relays=told["relays"]))
    lines += [_sentence(reason) for reason in told["reasons"]] or [say("explain.well")]
    display.result(args.json, told, lines)
    return Exit.DONE


def _sentence(reason: Any) -> str:
    if reason["key"] not in TABLE:  # of a newer daemon
        return display.clean(reason["key"])
    given = {name: say("explain.never") if value is None else value for name, value in reason["fields"].items()}
    fields = {name: display.clean(value) for name, value in given.items()}
    if "why" in fields:
        fields["why"] = display.word("relay", fields["why"])
    return say(reason["key"], **fields)


VERBS = {"sync": (declare, sync), "explain": (declare_explain, explain)}
