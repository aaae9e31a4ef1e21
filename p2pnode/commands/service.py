"""`p2pnode service install`: a systemd user unit, so that the node is there after every login."""

from __future__ import annotations

import os
from pathlib import Path

from p2pnode import arguments, display, keystore, paths, service
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from p2pnode.arguments import Parser


def declare_install(parser: Parser) -> None:
    """Options of `service install`."""
    parser.option("--passphrase-file", metavar="F")


def install(args: Namespace) -> int:
    """Write the unit; enabling it stays the user's own step."""
    home = arguments.home(args)
    source = None
    if keystore.needs_passphrase(Path(home, paths.KEY)):
        if args.passphrase_file in (None, "-"):
            raise CommandError(Exit.WRONG_USE, "service.passphrase")
        source = os.path.abspath(args.passphrase_file)
    path = service.install(service.unit(service.command(), home, source), os.environ)
    display.result(args.json, {"unit": path}, [say("service.installed", path=path), say("service.next")])
    return Exit.DONE


VERBS = {"install": (declare_install, install)}
