"""Reports: the index of the board, written behind the commit of the entries.

Reading and judging payloads is pure and happens beside the writer; the writer only gets rows that are ready, in
slices, so that a job that somebody waits for gets its turn between two of them. A payload that breaks its schema is
no report: it is counted as read and shows nowhere.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import apsw

from p2pnode.store.heads import SEQ_BITS, SEQ_MASK
from p2pnode.store.statements import Columns, one
from protocol.entry import ID_SIZE, Kind, LogClass
from protocol.errors import RemoteProtocolError
from protocol.limits import TIME_UNIT_SECONDS
from protocol.log import Run
from protocol.report import Report, decode_untrusted

SLICE = 256  # rows of one statement: a few milliseconds


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a report log as the board has to know it; `report` is None where it shows nothing."""

    entry: int
    space_no: int
    id: bytes
    lamport: int
    filed_s: int
    report: Report | None


def judged(entry: int, space_no: int, id: bytes, lamport: int, time: int, kind: int, payload: bytes | None) -> Row:
    """The row of an entry, its payload judged."""
    report = None
    if kind == Kind.REPORT and payload is not None:
        try:
            report = decode_untrusted(payload)
        except RemoteProtocolError:
            report = None
    return Row(entry, space_no, id, lamport, time * TIME_UNIT_SECONDS, report)


def rows_of(run: Run, space_no: int, base: int) -> list[Row]:
    """The rows of a run whose first entry has the number `base`."""
    columns = zip(run.ids, run.lamports, run.times, run.kinds, run.payloads, strict=True)
    return [judged(base + at, space_no, *column) for at, column in enumerate(columns)]


_SELECT = """
SELECT json_group_array(json_array(no, space, lamport, time, kind, coalesce(length(payload), -1))),
       CAST(group_concat(id, '') AS BLOB), CAST(group_concat(payload, '') AS BLOB)
FROM (%s)
"""
_PENDING = (
    _SELECT
    % """
    SELECT e.no, l.space, e.lamport, e.time, e.kind, e.payload, e.id
    FROM log AS l INDEXED BY log_pending CROSS JOIN entry AS e
      ON e.no BETWEEN max((l.no << 32) + l.indexed, ?1) + 1 AND (l.no << 32) + l.high
    WHERE l.indexed < l.high AND l.no >= ?1 >> 32
    ORDER BY l.no, e.no LIMIT ?2
"""
)
_NAMED = (
    _SELECT
    % """
    SELECT e.no, l.space, e.lamport, e.time, e.kind, e.payload, e.id
    FROM json_each(?1) AS n CROSS JOIN entry AS e ON e.no = n.value JOIN log AS l ON l.no = e.no >> 32
"""
)


def read_pending(db: apsw.Connection, after: int, limit: int) -> list[Row]:
    """The next entries behind the row `after` that the board does not know, judged."""
    return _judged(*one(db, _PENDING, after, limit))


def _judged(shape: str, ids: bytes | None, blob: bytes | None) -> list[Row]:
    rows = []
    at = 0
    for index, (no, space_no, lamport, time, kind, size) in enumerate(json.loads(shape)):
        payload = None
        if size >= 0:
            payload = (blob or b"")[at : at + size] if size else b""
            at += size
        id = (ids or b"")[index * ID_SIZE : (index + 1) * ID_SIZE]
        rows.append(judged(no, space_no, id, lamport, time, kind, payload))
    return rows


# In the writer


def write_pending(db: apsw.Connection, rows: Sequence[Row], someone_waits: Callable[[], bool]) -> int:
    """Enters rows in the order of their logs and moves the logs' marks; returns how many before somebody waited."""
    done = 0
    while done < len(rows):
        part = rows[done : done + SLICE]
        enter(db, part)
        _move_marks(db, part)
        done += len(part)
        if someone_waits():
            break
    return done


def _move_marks(db: apsw.Connection, rows: Sequence[Row]) -> None:
    """The board has read these entries."""
    upto: dict[int, int] = {}
    counts: dict[int, int] = {}
    for row in rows:
        upto[row.entry >> SEQ_BITS] = row.entry & SEQ_MASK
        counts[row.space_no] = counts.get(row.space_no, 0) + 1
    db.execute(
        "UPDATE log SET indexed = n.value ->> 1 FROM json_each(?) AS n WHERE log.no = n.value ->> 0",
        (json.dumps(list(upto.items())),),
    )
    for space_no, count in counts.items():
        db.execute("UPDATE space SET pending = pending - ? WHERE no = ?", (count, space_no))


def list_own(db: apsw.Connection, space_no: int, run: Run) -> None:
    """Puts a run of our own on the board right away, if the board has read all that comes before it."""
    if run.log.log_class is not LogClass.REPORT:
        return
    no, indexed = one(db, "SELECT no, indexed FROM log WHERE space = ? AND key = ?", space_no, run.key)
    if indexed + 1 == run.first_seq:
        rows = rows_of(run, space_no, no << SEQ_BITS | run.first_seq)
        enter(db, rows)
        _move_marks(db, rows)


def enter_late(db: apsw.Connection, entries: Sequence[int]) -> None:
    """Puts reports on the board whose payloads came late. One that was there before it was found damaged stays."""
    known = "SELECT 1 FROM report WHERE substr(id, 1, 8) = substr(?, 1, 8) AND entry = ?"
    late = _judged(*one(db, _NAMED, json.dumps(entries)))
    enter(db, [row for row in late if one(db, known, row.id, row.entry) is None])


def enter(db: apsw.Connection, rows: Sequence[Row]) -> None:
    """Puts the reports among these rows on the board."""
    base: int = one(db, "SELECT coalesce(max(no), 0) + 1 FROM report")
    lines = Columns()
    words: list[str] = []
    tags = Columns()
    cells: set[str] = set()
    for row in rows:
        report = row.report
        if report is None:
            continue
        no = base + len(words)
        window = report.observed
        seen_from, seen_to = (row.filed_s, row.filed_s) if window is None else (window.start_s, window.end_s)
        at = lines.add(row.id)
        lines.rows.append(
            [row.entry, at, row.space_no, row.filed_s, row.lamport, report.category, report.place, seen_from, seen_to]
        )
        words.append("\n".join((report.title, report.text, report.place_name or "", *report.tags)))
        for tag in report.tags:
            text = tag.encode()
            tags.rows.append([no, tags.add(text), len(text)])
        if report.place is not None:
            cells.add(report.place)
    if not words:
        return
    db.execute(_INSERT_REPORTS, (*lines.take(), base))
    db.execute("INSERT INTO words (rowid, text) SELECT ?2 + key, value FROM json_each(?1)", (json.dumps(words), base))
    if tags.rows:
        db.execute(_INSERT_TAGS, tags.take())
    if cells:
        db.execute("INSERT OR IGNORE INTO cell SELECT value FROM json_each(?)", (json.dumps(sorted(cells)),))


_INSERT_REPORTS = """
INSERT INTO report (no, entry, id, space, filed, lamport, category, cell, seen_from, seen_to)
SELECT ?3 + key, value ->> 0, substr(?2, value ->> 1, 32), value ->> 2, value ->> 3, value ->> 4, value ->> 5,
       value ->> 6, value ->> 7, value ->> 8
FROM json_each(?1)
"""
# Through the blob and not through JSON, which would end a text at its first NUL.
_INSERT_TAGS = """
INSERT INTO tag (tag, report)
SELECT CAST(substr(?2, value ->> 1, value ->> 2) AS TEXT), value ->> 0 FROM json_each(?1)
"""
