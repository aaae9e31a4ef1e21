"""JSON files: an object a line, or the one array that `report list --json` prints."""

import codecs
import json
import re
from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Any, BinaryIO

from p2pnode.importing.lines import BOM, RECORD_SIZE_MAX, Broken, Lines
from p2pnode.importing.options import report_of
from p2pnode.importing.record import Record, Refused, mark_of
from protocol import report as reports
from protocol.errors import InputRefused


def jsonl(file: BinaryIO, zone: tzinfo = UTC, precision: int | None = None) -> Iterator[Record | Refused]:
    """The reports of a file with a JSON object on every line, or of one JSON array of objects.

    The mark is made of the key `id` where it is given, else of what the report says. In an array `line` counts objects.
    Raises InputRefused where an array breaks off.
    """
    lead, number = _lead(file)
    items = _array_items(file) if lead == b"[" else _line_items(Lines(file, lead, number))
    for line, value, reason in items:
        if reason:
            yield Refused(line, reason)
            continue
        try:
            yield _record(line, value, zone, precision)
        except InputRefused as refusal:
            yield Refused(line, refusal.reason, refusal.field)


def _lead(file: BinaryIO) -> tuple[bytes, int]:
    """The first byte that is neither a byte order mark nor white space, and how many lines end before it."""
    byte, number = file.read(1), 0
    if byte == BOM[:1]:
        byte += file.read(len(BOM) - 1)
        byte = file.read(1) if byte == BOM else byte
    while byte.isspace():
        number += byte == b"\n"
        byte = file.read(1)
    return byte, number


def _record(line: int, value: object, zone: tzinfo, precision: int | None) -> Record:
    if not isinstance(value, dict):
        raise InputRefused("", "not-an-object")
    report, warnings = report_of(value, zone, precision, typed=False)
    source = value.get("id")
    if source is not None and type(source) not in (str, int):
        raise InputRefused("id", "not-text")
    said = reports.fields(report) if source is None else str(source).encode(errors="surrogatepass")
    return Record(line, mark_of("jsonl", said), report, tuple(warnings))


class _DuplicateKey(Exception):
    """Not a ValueError: the object is complete, only not to be trusted (a reader may take either value)."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _DuplicateKey
    return value


def _no_constant(name: str) -> object:
    raise ValueError(name)  # NaN and Infinity are not JSON


_JSON = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
_JSON_SPACE = re.compile(r"[ \t\r\n]*")
_CHUNK_SIZE = 64 * 1024


def _line_items(lines: Lines) -> Iterator[tuple[int, object, str]]:
    """(line, value, reason for refusing it or "")."""
    while True:
        lines.begin()
        value, reason = None, ""
        try:
            text = next(lines)
            if not text.strip():
                continue
            value = _JSON.decode(text)
        except StopIteration:
            return
        except Broken as broken:
            lines.skip()
            reason = broken.reason
        except _DuplicateKey:
            reason = "duplicate-key"
        except (ValueError, RecursionError):
            reason = "not-json"
        yield lines.number, value, reason


def _array_items(file: BinaryIO) -> Iterator[tuple[int, object, str]]:
    """The same for what follows the `[` of an array, where `line` counts the values."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    text, at, number = "", 0, 0
    while True:
        chunk = file.read(_CHUNK_SIZE)
        try:
            text, at = text[at:] + decode(chunk, final=not chunk), 0
        except UnicodeDecodeError as error:
            raise InputRefused("file", "not-utf8") from error
        while (item := _next_item(text, at, number == 0)) is not None:
            value, at, reason = item
            number += 1
            yield number, value, reason
        at = _past_space(text, at)
        if text.startswith("]", at):
            if text[at + 1 :].strip() or any(rest.strip() for rest in iter(lambda: file.read(_CHUNK_SIZE), b"")):
                raise InputRefused("file", "not-json")
            return
        if not chunk or len(text) - at > RECORD_SIZE_MAX:
            raise InputRefused("file", "too-long" if chunk else "not-json")


def _next_item(text: str, at: int, first: bool) -> tuple[object, int, str] | None:
    """(value, where it ends, reason), or None where no whole value follows in this text."""
    at = _past_space(text, at)
    if not first:
        if not text.startswith(",", at):
            return None
        at = _past_space(text, at + 1)
    try:
        try:
            return *_JSON.raw_decode(text, at), ""
        except _DuplicateKey:
            return None, json.JSONDecoder().raw_decode(text, at)[1], "duplicate-key"
    except (ValueError, RecursionError):
        return None


def _past_space(text: str, at: int) -> int:
    found = _JSON_SPACE.match(text, at)
    return found.end() if found else at
