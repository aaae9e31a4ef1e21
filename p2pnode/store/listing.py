"""Listing: reading the board. The filters and the order of `protocol.board`, said in SQL.

The newest-first index is walked until enough rows pass; a filter that few rows pass, and a search for a rare word, do
not walk it to the end but read the table in order, or start from the word. What a person typed never reaches a query
as syntax: it is cut into words by the same tokenizer that cut the reports, and each word is quoted.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import apsw

from p2pnode.store.statements import SqlValue, cut, one, rows
from protocol import geohash
from protocol.board import AHEAD_S_MAX, STATUSES, Filter, Listed
from protocol.entry import ID_SIZE
from protocol.errors import InputRefused, RemoteProtocolError
from protocol.keys import KEY_SIZE
from protocol.limits import TIME_UNIT_SECONDS
from protocol.report import decode_untrusted

RECENT = 4000  # reports that a filter is tried on first
RARE = 1000  # matches; up to so many the search starts from the word
WORDS_MAX = 16  # of one search


@dataclass(frozen=True, slots=True)
class _Where:
    """Conditions and their values, in the order in which they stand."""

    text: str
    values: tuple[SqlValue, ...]

    def __and__(self, other: "_Where") -> "_Where":
        return _Where(f"{self.text} AND {other.text}", self.values + other.values)


_ALL = _Where("true", ())
_WALK = "report INDEXED BY report_newest"
_SWEEP = "report NOT INDEXED"
_RECENT = "SELECT filed FROM report INDEXED BY report_newest WHERE filed <= ? ORDER BY filed DESC LIMIT 1 OFFSET ?"


def find_numbers(
    db: apsw.Connection, wanted: Filter, now_s: int, limit: int, offset: int, space_no: int | None
) -> list[int]:
    """The numbers of the reports that pass, in the order of the board; limit 0 is all."""
    if wanted.status is not None and wanted.status not in STATUSES:
        return []
    where = _where(db, wanted, space_no)
    if where == _in_space(space_no):
        return _newest(db, _WALK, where, now_s, limit, offset)
    if limit:
        # Most questions are answered by what is new; one that is not reads the table in one sweep.
        recent = one(db, _RECENT, now_s + AHEAD_S_MAX, RECENT)
        if recent is not None:
            newer = _Where("filed > ?", (recent,)) & where
            found = _newest(db, _WALK, newer & _Where("filed <= ?", (now_s + AHEAD_S_MAX,)), now_s, limit, offset)
            if len(found) == limit:
                return found
    return _newest(db, _SWEEP, where, now_s, limit, offset)


def search_numbers(
    db: apsw.Connection, words: str, now_s: int, limit: int, offset: int, space_no: int | None
) -> list[int]:
    """The same for the reports that hold all these words; one that ends in `*` stands for all that begin like it.

    Raises InputRefused for too many words. No word at all finds nothing.
    """
    match = _match(db, words)
    if match is None:
        return []
    where = _Where("no IN (SELECT rowid FROM words WHERE words MATCH ?)", (match,)) & _in_space(space_no)
    count = one(db, "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)", match, RARE + 1)
    rare = count <= RARE
    return _newest(db, _SWEEP if rare else _WALK, where, now_s, limit, offset)


def find_prefix(db: apsw.Connection, prefix: str) -> list[int]:
    """The numbers of up to two reports whose ids begin with these hex digits: two mean that it is ambiguous."""
    low, high = (bytes.fromhex(prefix.ljust(2 * ID_SIZE, digit)[: 2 * ID_SIZE]) for digit in "0f")
    sql = "SELECT no FROM report WHERE substr(id, 1, 8) BETWEEN ? AND ? AND id BETWEEN ? AND ? LIMIT 2"
    return [no for (no,) in rows(db, sql, low[:8], high[:8], low, high)]


def load(db: apsw.Connection, numbers: Sequence[int]) -> list[Listed]:
    """The reports with these numbers, in this order; one that has been found damaged is left out."""
    try:
        lines, blob, payloads = one(db, _LOAD, json.dumps(numbers))
    except apsw.CorruptError:
        if len(numbers) <= 1:
            return []
        return [listed for no in numbers for listed in load(db, [no])]  # around the damaged page
    found = {}
    at = 0
    parts = cut(blob, (ID_SIZE, ID_SIZE, KEY_SIZE))
    for (no, lamport, time, size), (id, space, author) in zip(json.loads(lines), parts, strict=True):
        with suppress(RemoteProtocolError):
            report = decode_untrusted(payloads[at : at + size])
            found[no] = Listed(no, id, space, author, lamport, time * TIME_UNIT_SECONDS, report)
        at += size
    return [found[no] for no in numbers if no in found]


# Small parts

_LOAD = """
SELECT json_group_array(json_array(r.no, e.lamport, e.time, length(e.payload))),
       CAST(group_concat(e.id || s.id || l.author, '') AS BLOB), CAST(group_concat(e.payload, '') AS BLOB)
FROM json_each(?1) AS n CROSS JOIN report AS r ON r.no = n.value JOIN entry AS e ON e.no = r.entry
JOIN log AS l ON l.no = r.entry >> 32 JOIN space AS s ON s.no = r.space
WHERE e.payload IS NOT NULL
"""


def _newest(db: apsw.Connection, source: str, where: _Where, now_s: int, limit: int, offset: int) -> list[int]:
    """Newest first; what is dated more than a day ahead comes after everything else."""
    wanted = limit + offset if limit else -1
    found: list[int] = []
    for bound in ("filed <= ?", "filed > ?"):
        both = _Where(bound, (now_s + AHEAD_S_MAX,)) & where
        # Every part of the text is ours; what a reader chose is among the values.
        ordered = f"SELECT no FROM {source} WHERE {both.text} ORDER BY filed DESC, lamport DESC, id LIMIT ?"  # noqa: S608
        sql = f"SELECT json_group_array(no) FROM ({ordered})"  # noqa: S608
        found += json.loads(one(db, sql, *both.values, wanted - len(found) if limit else -1))
        if limit and len(found) >= wanted:
            break
    return found[offset:]


def _where(db: apsw.Connection, wanted: Filter, space_no: int | None) -> _Where:
    where = _in_space(space_no)
    if wanted.category is not None:
        where &= _Where("category = ?", (wanted.category,))
    if wanted.since is not None:
        where &= _Where("seen_to >= ?", (wanted.since,))
    if wanted.until is not None:
        where &= _Where("seen_from <= ?", (wanted.until,))
    if wanted.tag is not None:
        where &= _Where("no IN (SELECT report FROM tag WHERE tag = ?)", (wanted.tag,))
    if wanted.near is not None:
        lat, lon = wanted.near
        cells = [cell for (cell,) in rows(db, "SELECT cell FROM cell")]
        touched = [cell for cell in cells if geohash.touches_circle(cell, lat, lon, wanted.radius_km or 0.0)]
        where &= _Where("cell IN (SELECT value FROM json_each(?))", (json.dumps(touched),))
    return where


def _in_space(space_no: int | None) -> _Where:
    return _ALL if space_no is None else _Where("space = ?", (space_no,))


def _match(db: apsw.Connection, words: str) -> str | None:
    """The full-text query for these words; None where nothing in them is a word."""
    tokenize = db.fts5_tokenizer("unicode61", ["remove_diacritics", "2"])
    terms = []
    for word in words.split():
        tokens = list(
            tokenize(
                word.encode(errors="replace"),
                apsw.FTS5_TOKENIZE_QUERY,
                None,
                include_offsets=False,
                include_colocated=False,
            )
        )
        for at, token in enumerate(tokens, 1):
            terms.append(f'"{token}"*' if word.endswith("*") and at == len(tokens) else f'"{token}"')
            if len(terms) > WORDS_MAX:
                raise InputRefused("words", "too-many", WORDS_MAX)
    return " ".join(terms) or None
