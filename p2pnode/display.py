"""What a person sees: rows, blocks and sentences in which the words of others stay words of others.

Reports, names and addresses come from strangers. None of their characters may move the cursor, turn the direction of
the text, hide or be mistaken for something this program says. So every control, bidi or otherwise invisible character
is shown as U+FFFD or dropped, white space is folded, text of one line stands in “quotes” that it cannot close, longer
text stands behind a bar on every line and is wrapped by us, never by the terminal, whose next line would begin
without the bar. Cut text never loses what we say beside it. JSON keeps every character; what could do harm on a
terminal is written as an escape.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata

from p2pnode.sentences import TABLE, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TextIO

MARKS_MAX = 4  # combining marks on one character; real scripts need three
WIDTH_DEFAULT = 100  # columns where there is no terminal to ask
WIDTH_MIN = 40
GAP = "  "
BAR = "  │ "
SHOWN = "\N{REPLACEMENT CHARACTER}"

_JOINERS = "\u00ad\u034f\u17b4\u17b5\u200b\u200c\u200d\u2060\ufeff"  # and soft hyphen, marks of no width
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
_SELECTORS = {*range(0x180B, 0x1810), *range(0x2061, 0x2066), *range(0xFE00, 0xFE10)}  # and invisible operators
DROPPED = {*map(ord, _JOINERS + _BLANK_LETTERS), *_SELECTORS}
OUTLAWED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class _Cleaner(dict[int, str]):
    """For str.translate: what stands on screen for a code point."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if code in DROPPED:
            shown = ""
        elif category in OUTLAWED or 0xE0000 <= code <= 0xE0FFF or 0xFFF0 <= code <= 0xFFFB or code & 0xFFFE == 0xFFFE:
            shown = SHOWN
        else:
            shown = " " if category == "Zs" else character
        self[code] = shown
        return shown


class _Escaper(dict[int, str]):
    """For str.translate over a JSON text: escapes what `_Cleaner` would not show as it is, spaces excepted."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if CLEANER[code] == character or unicodedata.category(character) == "Zs":
            escaped = character
        elif code > 0xFFFF:
            high, low = divmod(code - 0x10000, 0x400)
            escaped = f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
        else:
            escaped = f"\\u{code:04x}"
        self[code] = escaped
        return escaped


CLEANER = _Cleaner({0x09: " ", 0x0A: " ", 0x0D: " ", 0x85: " ", 0x2028: " ", 0x2029: " "})
ESCAPER = _Escaper()


def clean(text: object) -> str:
    """One line of somebody's text: nothing in it can leave its place."""
    return " ".join(_thinned(str(text).translate(CLEANER)).split())


def word(about: str, slug: str) -> str:
    """Our word for a state, a refusal or a warning of a path; where there is none, the daemon's."""
    keys = (f"{about}.{slug}", f"relay.{slug}")
    return next((say(key) for key in keys if key in TABLE), clean(slug))


def quoted(text: object) -> str:
    """One line of somebody's text between quotes that it cannot close."""
    return "“" + clean(text).replace("“", '"').replace("”", '"') + "”"


def block(text: str, columns: int) -> list[str]:
    """Somebody's text of any length: every line behind a bar, wrapped to the width."""
    room = max(columns - len(BAR), WIDTH_MIN - len(BAR))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [BAR + piece for line in lines for piece in _wrapped(clean(line), room)]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], columns: int, *, right: str = "") -> list[str]:
    """Aligned rows, as wide as the terminal; the last column gives way. `right` has an "r" at each column that ends
    at the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(heads, *cells, strict=True)]
    sides = right.ljust(len(widths))
    lines = []
    for row in [list(heads), *cells]:
        padded = (_padded(cell, wide, side == "r") for cell, wide, side in zip(row, widths, sides, strict=True))
        lines.append(fit(GAP.join(padded).rstrip(), columns))
    return lines


def fit(text: str, columns: int) -> str:
    """The text, or its beginning and an ellipsis; never half a character, and a quote stays closed."""
    if width(text) <= columns:
        return text
    end = "…”" if text.endswith("”") else "…"
    kept, _ = _head(text, columns - width(end))
    return kept + end


def width(text: str) -> int:
    """Terminal columns of clean text."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def page_columns(stream: TextIO | None = None) -> int:
    """The width of the terminal, or of a page where there is none."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and len(told) < 5:
        return max(int(told), WIDTH_MIN)
    try:
        return max(os.get_terminal_size((stream or sys.stdout).fileno()).columns, WIDTH_MIN)
    except (OSError, ValueError):
        return WIDTH_DEFAULT


def json_text(value: object) -> str:
    """JSON on one line, readable, and harmless on a terminal."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).translate(ESCAPER)


def put_json(value: object) -> None:
    """A result for a program: one line on stdout."""
    _out(json_text(value))


def put(lines: Iterable[str]) -> None:
    """A result for a person, on stdout."""
    for line in lines:
        _out(line)


def talk(sentence: str) -> None:
    """What is said beside the data: on stderr, cleaned as a whole."""
    print(clean(sentence), file=sys.stderr, flush=True)


def result(as_json: bool, value: Any, lines: Iterable[str]) -> None:
    """The result in the form that was asked for."""
    if as_json:
        put_json(value)
    else:
        put(lines)


class Bar:
    """A progress bar on stderr where that is a terminal, nothing elsewhere. Use as a context."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._on = sys.stderr.isatty() and not quiet
        self._shown = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw("")

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total` and a short note; redraws only what changed."""
        if self._on:
            share = min(done / total, 1.0) if total > 0 else 0.0
            full = int(share * 24)
            line = f"{'█' * full}{'░' * (24 - full)} {share:4.0%}  {clean(note)}"
            self._draw(fit(line, page_columns(sys.stderr) - 1))

    def _draw(self, line: str) -> None:
        if line != self._shown:
            sys.stderr.write("\r" + line + " " * max(width(self._shown) - width(line), 0) + ("" if line else "\r"))
            sys.stderr.flush()
            self._shown = line


def _out(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _padded(text: str, wide: int, right: bool) -> str:
    space = " " * (wide - width(text))
    return space + text if right else text + space


def _thinned(text: str) -> str:
    """At most MARKS_MAX combining marks in a row."""
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me", "Mc") else 0
        if marks <= MARKS_MAX:
            kept.append(character)
    return "".join(kept)


def _head(text: str, room: int) -> tuple[str, str]:
    """The longest beginning that fits, with all its marks, and the rest."""
    used = 0
    for at, character in enumerate(text):
        used += _columns(character)
        if used > room:
            return text[:at], text[at:]
    return text, ""


def _wrapped(line: str, room: int) -> list[str]:
    pieces = []
    while width(line) > room:
        head, rest = _head(line, room)
        at = head.rfind(" ") if not rest.startswith(" ") else len(head)
        if at > 0:
            head, rest = line[:at], line[at:]
        pieces.append(head.rstrip())
        line = rest.lstrip()
    return [*pieces, line]
