"""`p2pnode invite create` and `p2pnode join`: the two ends of an invitation.

The invitation is a secret until it is used: it is printed once, and read from standard input or typed unseen.
"""

from __future__ import annotations

import sys

from p2pnode import arguments, asking, client, display
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from p2pnode.arguments import Parser


def declare_create(parser: Parser) -> None:
    """Options of `invite create`."""
    parser.option("--space", metavar="S")
    parser.option("--address", metavar="HOST:PORT", action="append")
    parser.option("--expires", metavar="D")
    parser.option("--by-relay", action="store_true")


def create(args: Namespace) -> int:
    """One line on stdout, to be handed over; on a terminal also as a QR code."""
    with client.Daemon(arguments.home(args)) as daemon:
        params = arguments.params(args, "space", "address", "expires", "by_relay")
        told = daemon.call("invite.create", params, seconds=None)  # a relay may be slow
    display.result(args.json, told, [display.clean(told["invite"])])
    if not args.json and sys.stdout.isatty():
        _draw(told["invite"])
        display.talk(say("invite.care"))
    return Exit.DONE


def declare_join(parser: Parser) -> None:
    """Options of `join`."""
    parser.option("invite", metavar="INVITE|-", nargs="?")
    parser.option("--name", metavar="PEN")
    parser.option("--timeout", metavar="S", type=float)
    parser.option("--by-relay", action="store_true")


def join(args: Namespace) -> int:
    """Dial the addresses of the invitation until a member lets us in."""
    if args.invite is None:
        if not asking.on_terminal():
            raise CommandError(Exit.WRONG_USE, "join.unasked")
        args.invite = asking.hidden(say("join.ask"))
    elif args.invite == "-":
        args.invite = asking.whole_input()
    args.invite = "".join(args.invite.split())  # a line that a messenger broke
    with client.Daemon(arguments.home(args)) as daemon:
        params = arguments.params(args, "invite", "name", "timeout", "by_relay")
        told = daemon.call("join", params, told=_progress, seconds=None)
    display.result(args.json, told, [say("join.done", name=display.quoted(told["name"] or ""), id=told["id"][:8])])
    return Exit.DONE


def _progress(note: Any) -> None:
    """The daemon names what it waits for: {"key", "fields"} of a sentence."""
    display.talk(say(note["key"], **note.get("fields", {})))


def _draw(invite: str) -> None:
    import segno

    print(file=sys.stdout)
    segno.make(invite, error="l", micro=False).terminal(out=sys.stdout, compact=True)


VERBS = {"create": (declare_create, create), "join": (declare_join, join)}
