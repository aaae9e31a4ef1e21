"""From words on the command line to a namespace: argparse, with what people need and it does not do by itself.

A value may begin with a minus (`--near -33.4,-70.6`), no option may be shortened (a script must not change its meaning
when an option is added), wrong use is one sentence, and every help ends with an example. Only the parser of the command
that was asked for is ever built.
"""

from __future__ import annotations

import argparse
import os

from p2pnode import display, paths
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import TABLE, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """The parser of one command, whose help texts come from the table: `help.<command>`, `option.<name>`."""

    def __init__(self, words: str) -> None:
        self.words = words
        key = words.replace(" ", ".")
        super().__init__(
            prog=f"p2pnode {words}",
            description=say(f"help.{key}"),
            epilog=say("help.example", example=say(f"example.{key}")),
            formatter_class=_formatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.option("-h", "--help", action="help")

    def option(self, *names: str, **settings: Any) -> None:
        """Add an option or argument; its help is `option.<command>.<name>` where that differs, else `option.<name>`."""
        name = names[-1].lstrip("-")
        own = f"option.{self.words.replace(' ', '.')}.{name}"
        self.add_argument(*names, help=say(own if own in TABLE else f"option.{name}"), **settings)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The namespace. Raises CommandError for wrong use; `--help` prints and leaves with SystemExit."""
        self.option("--home", metavar="DIR")
        self.option("--json", action="store_true")
        return self.parse_args(self._joined(argv))

    def error(self, message: str) -> NoReturn:
        raise CommandError(Exit.WRONG_USE, "usage.wrong", detail=message, command=self.prog)

    def _joined(self, argv: Sequence[str]) -> list[str]:
        """`--option -value` as `--option=-value`, unless what follows is an option of this command."""
        valued = {name for action in self._actions if action.nargs is None for name in action.option_strings}
        known = {name for action in self._actions for name in action.option_strings}
        joined: list[str] = []
        words = iter(argv)
        for word in words:
            if word == "--":
                return [*joined, word, *words]
            follower = next(words, None) if word in valued else None
            if follower is None:
                joined.append(word)
            elif follower.startswith("-") and follower != "-" and follower.partition("=")[0] not in known:
                joined.append(f"{word}={follower}")
            else:
                joined += [word, follower]
        return joined


def _formatter(prog: str) -> argparse.HelpFormatter:
    """As wide as the terminal. Left to itself argparse would import shutil to find that out, help or no help."""
    return argparse.RawDescriptionHelpFormatter(prog, width=min(display.page_columns(), 120) - 2)


def home(args: argparse.Namespace) -> str:
    """The home that the command is about."""
    return paths.home_of(args.home, os.environ)


def params(args: argparse.Namespace, *names: str) -> dict[str, object]:
    """Those options that were given, for the daemon."""
    given = {name: getattr(args, name) for name in names}
    return {name: value for name, value in given.items() if value is not None and value != []}
