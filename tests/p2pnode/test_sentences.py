"""The table of sentences: whole, used, and every command and option explained."""

import ast
import re
import string
from pathlib import Path

import p2pnode
from p2pnode import commands
from p2pnode.arguments import Parser
from p2pnode.sentences import TABLE

PACKAGE = Path(p2pnode.__file__).parent
KEY = re.compile(r"[a-z]+(\.[a-z0-9_-]+)+")


def spoken() -> set[str]:
    """Every constant in the code that has the form of a key."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "sentences":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and KEY.fullmatch(node.value):
                    found.add(node.value)
    return found


def said() -> set[str]:
    """Keys given to say(…) and CommandError(…, …) as constants."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = {"say": 0, "CommandError": 1}.get(node.func.id)
                if at is not None and len(node.args) > at and isinstance(node.args[at], ast.Constant):
                    found.add(node.args[at].value)
    return found


def test_everything_that_is_said_has_its_sentence() -> None:
    assert said() - set(TABLE) == set()


def test_no_sentence_is_left_over() -> None:
    made = ("help.", "example.", "option.", "refused.", "peer.", "relay.", "refusal.", "warning.", "meeting.", "path.")
    made += ("bundle.", "explain.")  # these keys are put together from words
    unsaid = {key for key in TABLE if not key.startswith(made)} - spoken()
    assert unsaid == set()


def test_every_sentence_can_be_filled_in() -> None:
    for key, sentence in TABLE.items():
        names = {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}
        assert sentence.format(**dict.fromkeys(names, "x")), key
        assert all(name.isidentifier() for name in names), key


def test_every_command_and_option_is_explained_and_ends_with_an_example() -> None:
    explained = set()
    for noun, (module, verbs) in commands.NOUNS.items():
        table = __import__(f"p2pnode.commands.{module}", fromlist=["VERBS"]).VERBS
        for verb in verbs or ("",):
            words = f"{noun} {verb}".strip()
            parser = Parser(words)  # a missing text raises
            table[verb or noun][0](parser)
            parser.option("--home")
            parser.option("--json", action="store_true")
            assert parser.format_help().rstrip().endswith(TABLE[f"example.{words.replace(' ', '.')}"])
            explained |= {f"help.{words.replace(' ', '.')}", f"example.{words.replace(' ', '.')}"}
            for action in parser._actions:
                name = (action.option_strings or [action.dest])[-1].lstrip("-")
                explained |= {f"option.{name}", f"option.{words.replace(' ', '.')}.{name}"}
    extra = {"help.top", "help.options", "help.example", "example.top"}
    written = {key for key in TABLE if key.startswith(("help.", "example.", "option."))}
    assert written - explained - extra == set()
