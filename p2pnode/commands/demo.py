"""`p2pnode demo`: three nodes on this machine, shown at work."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from p2pnode.arguments import Parser


def declare(parser: Parser) -> None:
    """No options of its own: it asks nothing and leaves nothing."""


def demo(args: Namespace) -> int:
    """Everything happens in the demo itself."""
    from p2pnode.demo import main

    return main(args)


VERBS = {"demo": (declare, demo)}
