"""`p2pnode log check`: is everything that is held still what its authors signed?"""

from __future__ import annotations

from p2pnode import arguments, client, display
from p2pnode.failures import Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from p2pnode.arguments import Parser


def declare_check(parser: Parser) -> None:
    """No options of its own."""


def check(args: Namespace) -> int:
    """Recompute every id, link and signature. Fails when one is bad."""
    with client.Daemon(arguments.home(args)) as daemon, display.Bar(quiet=args.json) as bar:

        def told_on_the_way(note: Any) -> None:
            bar.update(note["done"], note["total"], say("log.progress", done=note["done"], total=note["total"]))

        told = daemon.call("log.check", told=told_on_the_way, seconds=None)
    counts = {name: f"{told[name]:,}" for name in ("entries", "logs", "forks", "bad")}
    display.result(args.json, told, [say("log.bad" if told["bad"] else "log.good", **counts)])
    return Exit.FAILED if told["bad"] else Exit.DONE


VERBS = {"check": (declare_check, check)}
