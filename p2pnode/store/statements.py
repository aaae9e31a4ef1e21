"""Statements: how rows get in and out.

apsw lets go of the interpreter lock at every row and has to win it back: beside a busy thread a statement that runs
250,000 times a second alone runs 1,700 times. So where there are many rows they go in as ONE statement and come out as
ONE row. Small values travel as a JSON array a row; bytes as one blob in which a row names its place (from 1) and,
where it is not fixed, its length: substr cuts it on the way in, group_concat lays it out on the way back.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

SqlValue = int | float | str | bytes | None

ROWS_MAX = 4096
BLOB_SIZE_MAX = 1024 * 1024


def rows(db: apsw.Connection, sql: str, *values: SqlValue) -> list[tuple[Any, ...]]:
    """All rows of a statement. STRICT tables give their columns the types that the schema says."""
    return db.execute(sql, values).fetchall()


def one(db: apsw.Connection, sql: str, *values: SqlValue) -> Any:
    """The only row of a statement: its value, or a tuple of them where it has several; None where there is no row."""
    return db.execute(sql, values).get


@dataclass(slots=True)
class Columns:
    """Rows for one statement: its two arguments are the JSON and the blob."""

    rows: list[list[Any]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    end: int = 1

    def add(self, part: bytes) -> int:
        """The place of these bytes in the blob."""
        at = self.end
        self.parts.append(part)
        self.end = at + len(part)
        return at

    @property
    def full(self) -> bool:
        """Whether it is time to write, so that memory stays small."""
        return len(self.rows) >= ROWS_MAX or self.end > BLOB_SIZE_MAX

    def take(self) -> tuple[str, bytes]:
        """The two arguments of the statement; what is added next starts a new one."""
        taken = json.dumps(self.rows, separators=(",", ":")), b"".join(self.parts)
        self.rows, self.parts, self.end = [], [], 1
        return taken


def cut(blob: bytes | None, sizes: Sequence[int]) -> Iterator[tuple[bytes, ...]]:
    """The other way round: rows of byte strings of fixed sizes, laid behind each other."""
    at = 0
    places = []
    for size in sizes:
        places.append((at, at + size))
        at += size
    for start in range(0, len(blob or b""), at):
        assert blob is not None
        yield tuple([blob[start + a : start + b] for a, b in places])
