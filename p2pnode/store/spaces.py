"""Spaces: what this node is in each space: its secrets, its own authors, its counters."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from p2pnode.store.statements import one, rows


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """A space of this node. `epochs` are oldest first; `author_seed` is the key that writes unless another is named."""

    no: int
    id: bytes
    static_secret: bytes = field(repr=False)
    author_seed: bytes = field(repr=False)
    epochs: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Counters:
    """What a space holds: `pending` entries are not on the board yet, `missing` payloads are not held."""

    entries: int
    logs: int
    pending: int
    missing: int
    lamport_max: int


def spaces(db: apsw.Connection) -> list[SpaceRow]:
    """All spaces, in the order in which they came."""
    found = rows(
        db,
        "SELECT s.no, s.id, s.static_secret, a.seed FROM space AS s"
        " JOIN author AS a ON a.space = s.no AND a.no = 1 ORDER BY s.no",
    )
    return [SpaceRow(no, id, static, seed, epochs(db, no)) for no, id, static, seed in found]


def epochs(db: apsw.Connection, space_no: int) -> tuple[bytes, ...]:
    return tuple(secret for (secret,) in rows(db, "SELECT secret FROM epoch WHERE space = ? ORDER BY no", space_no))


def counters(db: apsw.Connection, space_no: int) -> Counters:
    return Counters(*one(db, "SELECT entries, logs, pending, missing, lamport FROM space WHERE no = ?", space_no))


def recount(db: apsw.Connection, space_no: int) -> Counters:
    """The same by counting everything: what `counters` must equal at any time."""
    return Counters(*one(db, _RECOUNT, space_no))


_RECOUNT = """
SELECT (SELECT count(*) FROM entry JOIN log ON log.no = entry.no >> 32 WHERE space = ?1),
       (SELECT count(*) FROM log WHERE space = ?1),
       (SELECT coalesce(sum(high - indexed), 0) FROM log WHERE space = ?1),
       (SELECT count(*) FROM entry JOIN log ON log.no = entry.no >> 32 WHERE space = ?1 AND payload IS NULL),
       (SELECT coalesce(max(entry.lamport), 0) FROM entry JOIN log ON log.no = entry.no >> 32 WHERE space = ?1)
"""


# In the writer


def add(
    db: apsw.Connection, id: bytes, *, epochs: Sequence[bytes], static_secret: bytes, author_seed: bytes
) -> SpaceRow:
    """Enters a space with its first own author, whose join is over with it."""
    db.execute("INSERT INTO space (id, static_secret) VALUES (?, ?)", (id, static_secret))
    space_no = db.last_insert_rowid()
    db.execute("INSERT INTO author VALUES (?, 1, ?)", (space_no, author_seed))
    db.execute("DELETE FROM joining WHERE seed = ?", (author_seed,))
    add_epochs(db, space_no, epochs)
    return next(row for row in spaces(db) if row.no == space_no)


def add_epochs(db: apsw.Connection, space_no: int, secrets: Sequence[bytes]) -> None:
    """Adds secrets that are not known yet, oldest first."""
    known = epochs(db, space_no)
    fresh = [secret for secret in dict.fromkeys(secrets) if secret not in known]
    numbered = [(space_no, no, secret) for no, secret in enumerate(fresh, len(known) + 1)]
    db.executemany("INSERT INTO epoch VALUES (?, ?, ?)", numbered)
