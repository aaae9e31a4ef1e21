"""`p2pnode peer`: nodes to connect to, and how that goes."""

from __future__ import annotations

from p2pnode import arguments, client, display
from p2pnode.failures import Exit
from p2pnode.sentences import TABLE, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from p2pnode.arguments import Parser


def declare_add(parser: Parser) -> None:
    """Options of `peer add`."""
    parser.option("address", metavar="HOST:PORT")
    parser.option("--space", metavar="S")


def add(args: Namespace) -> int:
    """Keep an address and dial it at once."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("peer.add", arguments.params(args, "address", "space"))
    display.result(args.json, told, [say("peer.added", address=display.clean(told["address"]))])
    return Exit.DONE


def declare_list(parser: Parser) -> None:
    """No options of its own."""


def list_peers(args: Namespace) -> int:
    """Connected ones first, as the daemon orders them."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("peer.list")
    rows = [
        [_word(peer["state"]), _word(peer["origin"]), (peer["seen"] or "-")[:16], display.clean(peer["address"])]
        for peer in told
    ]
    heads = say("peer.heads").split("|")
    display.result(args.json, told, display.table(heads, rows, display.page_columns()) if rows else [say("peer.none")])
    return Exit.DONE


def _word(slug: str) -> str:
    """Our word for a state or origin; the reason why a link ended is shown as the daemon names it."""
    return say(f"peer.{slug}") if f"peer.{slug}" in TABLE else display.clean(slug)


VERBS = {"add": (declare_add, add), "list": (declare_list, list_peers)}
