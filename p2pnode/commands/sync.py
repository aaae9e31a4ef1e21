"""`p2pnode sync`: meet whoever can be met, now."""

from __future__ import annotations

from p2pnode import arguments, client, display
from p2pnode.failures import Exit
from p2pnode.sentences import say

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
    display.result(args.json, told, [say(key, peers=told["peers"], equal=told["equal"], received=told["received"])])
    return Exit.DONE


VERBS = {"sync": (declare, sync)}
