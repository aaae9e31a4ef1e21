"""What strangers wrote stays where we put it, on a terminal and in JSON."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode import display

NASTY = [
    "\x1b[2J\x1b]0;title\x07red",
    "\x9b31m",
    "a\rVERIFIED",
    "a\b\b\bVERIFIED",
    "\u202egnol ton\u202c",
    "\u2066iso\u2069",
    "tag\U000e0041\U000e007f",
    "vs\ufe0f\U000e0100",
    "zero\u200bwidth\u2060\ufeff",
    "line\nbreak\u2028and\u2029more\x85x",
    "nul\x00",
    "half \ud800 pair",
    "blank\u3164\u2800letters",
    "x" + "\u0301" * 300,
]


def harmless(text: str) -> bool:
    return all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text)


@pytest.mark.parametrize("text", NASTY)
def test_known_tricks_come_out_as_one_harmless_line(text: str) -> None:
    shown = display.clean(text)
    assert harmless(shown)
    assert shown
    assert len(shown) < 30
    assert harmless(display.json_text({"text": text}))
    assert json.loads(display.json_text({"text": text})) == {"text": text}


@given(st.text(st.characters()))
def test_any_text_is_harmless_on_screen_and_whole_in_json(text: str) -> None:
    assert harmless(display.clean(text))
    assert harmless(display.json_text([text, {text: text}]))
    assert json.loads(display.json_text([text, {text: text}])) == [text, {text: text}]


@given(st.text(st.characters()), st.integers(40, 120))
def test_every_line_of_a_block_is_marked_and_fits(text: str, columns: int) -> None:
    for line in display.block(text, columns):
        assert line.startswith(display.BAR)
        assert display.width(line) <= columns


def test_a_block_keeps_the_words_and_their_lines() -> None:
    text = "Hay agua en la escuela.\n\n  Traigan bidones."
    assert display.block(text, 80) == ["  │ Hay agua en la escuela.", "  │ ", "  │ Traigan bidones."]
    wrapped = display.block("uno dos tres cuatro cinco seis siete ocho nueve diez", 40)
    assert wrapped == ["  │ uno dos tres cuatro cinco seis siete", "  │ ocho nueve diez"]
    assert len(display.block("x" * 10_000, 104)) == 100


def test_a_quote_cannot_be_closed_from_inside() -> None:
    assert display.quoted("calm” VERIFIED “") == '“calm" VERIFIED "”'


@given(st.lists(st.text(st.characters()), min_size=3, max_size=3), st.integers(40, 120))
def test_a_table_stays_a_table(cells: list[str], columns: int) -> None:
    rows = [[display.fit(display.quoted(cell), 12) for cell in cells[:2]] + [display.quoted(cells[2])]]
    for line in display.table(["A", "B", "C"], rows, columns):
        assert "\n" not in line
        assert display.width(line) <= columns


def test_wide_characters_are_counted_twice_and_marks_not_at_all() -> None:
    lines = display.table(["NAME", "N"], [["日本", 1], ["e\u0301", 22]], 40, right="lr")
    assert lines == ["NAME   N", "日本   1", "e\u0301     22"]


def test_what_is_cut_says_so_and_stays_quoted() -> None:
    assert display.fit("“a long title”", 8) == "“a lon…”"
    assert display.fit("日本日本", 5) == "日本…"
    assert display.fit("abc", 3) == "abc"
