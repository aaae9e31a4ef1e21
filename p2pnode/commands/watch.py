"""`p2pnode watch`: reports as they come, from now on, our own too."""

from __future__ import annotations

from p2pnode import arguments, client, display
from p2pnode.commands.report import row_lines
from p2pnode.failures import Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from p2pnode.arguments import Parser


def declare(parser: Parser) -> None:
    """Options of `watch`."""
    parser.option("--space", metavar="S")


def watch(args: Namespace) -> int:
    """Print until interrupted. The daemon's first note says that it watches; every other one is a report."""

    def told(note: Any) -> None:
        if note.get("watching"):
            display.talk(say("watch.begun"))
        elif args.json:
            display.put_json(note)
        else:
            display.put(row_lines([note], heads=False))

    with client.Daemon(arguments.home(args)) as daemon:
        daemon.call("watch", arguments.params(args, "space"), told=told, seconds=None)
    return Exit.DONE


VERBS = {"watch": (declare, watch)}
