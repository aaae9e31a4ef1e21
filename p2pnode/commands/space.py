"""`p2pnode space`: found a collective's space, list those this node is in."""

from __future__ import annotations

from p2pnode import arguments, asking, client, display
from p2pnode.commands.status import space_table
from p2pnode.failures import Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from p2pnode.arguments import Parser


def declare_create(parser: Parser) -> None:
    """Options of `space create`."""
    parser.option("name", metavar="NAME|-")
    parser.option("--pen", metavar="NAME")


def create(args: Namespace) -> int:
    """Found a space; this node's author becomes its first curator."""
    args.name = asking.given_or_read(args.name)
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("space.create", arguments.params(args, "name", "pen"))
    display.result(args.json, told, [say("space.created", name=display.quoted(args.name), id=told["id"][:8])])
    return Exit.DONE


def declare_list(parser: Parser) -> None:
    """No options of its own."""


def list_spaces(args: Namespace) -> int:
    """The same rows that `status` shows."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("space.list")
    display.result(args.json, told, space_table(told) if told else [say("status.spaceless")])
    return Exit.DONE


VERBS = {"create": (declare_create, create), "list": (declare_list, list_spaces)}
