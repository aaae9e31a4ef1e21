"""The commands, one file per noun, found by name and imported one at a time.

A module has VERBS: the command's last word -> (declare the options, run).
"""

from __future__ import annotations

import sys
from importlib import import_module

from p2pnode import display
from p2pnode._version import __version__
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence

    from p2pnode.arguments import Parser

    Verbs = Mapping[str, tuple[Callable[[Parser], None], Callable[[Namespace], int]]]

# noun -> (module, verbs); in the order in which the help tells them. An empty verb: the noun also stands by itself
NOUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": ("demo", ()),
    "init": ("init", ()),
    "start": ("daemon", ()),
    "stop": ("daemon", ()),
    "run": ("daemon", ()),
    "status": ("status", ()),
    "space": ("space", ("create", "list")),
    "invite": ("invite", ("create",)),
    "join": ("invite", ()),
    "report": ("report", ("new", "list", "show", "import")),
    "search": ("report", ()),
    "watch": ("watch", ()),
    "peer": ("peer", ("add", "list")),
    "sync": ("sync", ("", "explain")),
    "bundle": ("bundle", ("export", "import")),
    "relay": ("relay", ("run", "add", "list", "remove")),
    "log": ("log", ("check",)),
    "service": ("service", ("install",)),
    "wipe": ("wipe", ()),
}


def run(words: Sequence[str]) -> int:
    """Run the command that the words ask for."""
    _speak_utf8()
    before: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return _help(NOUNS)
        if word == "--version":
            display.put([f"p2pnode {__version__}"])
            return Exit.DONE
        if word == "--home" and rest:
            word = f"--home={rest.pop(0)}"
        if not word.startswith("--home=") and word != "--json":
            raise CommandError(Exit.WRONG_USE, "usage.wrong", detail=display.clean(word), command="p2pnode")
        before.append(word)
    if not rest:
        _help(NOUNS, to_stderr=True)
        return Exit.WRONG_USE
    return _command(rest, before)


def _command(words: list[str], before: list[str]) -> int:
    noun = words.pop(0)
    if noun not in NOUNS:
        raise CommandError(Exit.WRONG_USE, "usage.unknown", word=display.clean(noun))
    module, verbs = NOUNS[noun]
    verb = noun
    if verbs:
        if words and words[0] in ("-h", "--help") and "" not in verbs:
            return _help({noun: NOUNS[noun]})
        if words and words[0] in verbs:
            verb = words.pop(0)
        elif "" not in verbs:
            raise CommandError(Exit.WRONG_USE, "usage.verb", noun=noun, verbs=" | ".join(verbs))
    from p2pnode.arguments import Parser

    table: Verbs = import_module(f"p2pnode.commands.{module}").VERBS
    declare, act = table[verb]
    parser = Parser(noun if verb == noun else f"{noun} {verb}")
    declare(parser)
    return act(parser.parse([*before, *words]))


def _help(nouns: Mapping[str, tuple[str, tuple[str, ...]]], *, to_stderr: bool = False) -> int:
    commands = [f"{noun} {verb}".rstrip() for noun, (_, verbs) in nouns.items() for verb in verbs or ("",)]
    wide = max(map(len, commands))
    lines = [f"  {command.ljust(wide)}  {say('help.' + command.replace(' ', '.'))}" for command in commands]
    example = say("example.top" if nouns is NOUNS else f"example.{commands[0].replace(' ', '.')}")
    text = [say("help.top"), "", *lines, "", say("help.options"), "", say("help.example", example=example)]
    print("\n".join(text), file=sys.stderr if to_stderr else sys.stdout)
    return Exit.DONE


def _speak_utf8() -> None:
    """JSON is UTF-8 whatever the locale says, and no character of a report may end a command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's or an embedder's stream has none
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")
