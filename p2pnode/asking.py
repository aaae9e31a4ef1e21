"""Secrets and texts from where nobody else sees them: standard input, a file, or a question on the terminal.

The arguments of a process are readable by every user of a machine and stay in the shell's history.
"""

from __future__ import annotations

import os
import sys

from p2pnode import display
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

PASSPHRASE_SIZE_MAX = 16 * 1024 * 1024  # bytes; nobody types that, but a wrong file must not fill the memory
INPUT_SIZE_MAX = 64 * 1024  # bytes of a text from standard input; the daemon's own bound is lower


def on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def passphrase(source: str | None, *, twice: bool = False) -> str:
    """From the first line of a file, of standard input (`-`), or asked without echo."""
    if source is not None:
        return _first_line(source)
    if not on_terminal():
        raise CommandError(Exit.WRONG_USE, "passphrase.unasked")
    spoken = hidden(say("passphrase.ask"))
    if twice and hidden(say("passphrase.again")) != spoken:
        raise CommandError(Exit.REFUSED, "passphrase.differ")
    return spoken


def hidden(question: str) -> str:
    """An answer that is not shown while it is typed."""
    from getpass import getpass

    try:
        return _writable(getpass(question + " "))
    except EOFError:
        raise CommandError(Exit.WRONG_USE, "input.ended") from None


def answered(question: str) -> str:
    """One line from the terminal; the question goes to stderr."""
    sys.stderr.write(question + " ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise CommandError(Exit.WRONG_USE, "input.ended")
    return _writable(line.rstrip("\r\n"))


def lines_answered(question: str) -> str:
    """Any number of lines, up to the end of the input (Ctrl-D)."""
    display.talk(question)
    return _writable(sys.stdin.read(INPUT_SIZE_MAX)).rstrip("\n")


def whole_input() -> str:
    """All of standard input as text."""
    raw = sys.stdin.buffer.read(INPUT_SIZE_MAX + 1)
    if len(raw) > INPUT_SIZE_MAX:
        raise CommandError(Exit.REFUSED, "input.long", limit=INPUT_SIZE_MAX)
    return _decoded(raw)


def given_or_read(value: str) -> str:
    """The value itself, or the first line of standard input for `-`."""
    return whole_input().partition("\n")[0].rstrip("\r") if value == "-" else value


def _first_line(source: str) -> str:
    if source == "-":
        raw = sys.stdin.buffer.readline(PASSPHRASE_SIZE_MAX)
    else:
        try:
            with open(os.path.abspath(source), "rb") as file:
                raw = file.readline(PASSPHRASE_SIZE_MAX)
        except OSError as error:
            raise CommandError(Exit.FAILED, "passphrase.unreadable", reason=error.strerror) from error
    return _decoded(raw.removesuffix(b"\n").removesuffix(b"\r"))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CommandError(Exit.REFUSED, "input.not_utf8") from None


def _writable(text: str) -> str:
    """Refuse what the terminal sent as bytes that are not text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CommandError(Exit.REFUSED, "input.not_utf8") from None
    return text
