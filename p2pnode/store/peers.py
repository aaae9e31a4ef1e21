"""Peers: whom this node may dial, and what must not happen twice."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from p2pnode.store.statements import one, rows
from protocol.limits import TIME_UNIT_SECONDS
from protocol.log import Run
from protocol.membership import Use

DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Once:
    """A call that must not be carried out twice: its 16 random bytes, and the JSON answer that goes with its run."""

    token: bytes
    answer: Callable[[Run], Any]


def peers(db: apsw.Connection, space_no: int) -> list[tuple[str, int]]:
    """The addresses to dial for a space."""
    return [(host, port) for host, port in rows(db, "SELECT host, port FROM peer WHERE space = ?", space_no)]


def invite_uses(db: apsw.Connection) -> dict[bytes, Use]:
    """What this node knows of the admission keys that it answered."""
    found = rows(db, "SELECT admission, author, answered, acknowledged FROM invite_use")
    return {admission: Use(author, answered, bool(done)) for admission, author, answered, done in found}


def joining(db: apsw.Connection, admission: bytes) -> bytes | None:
    """The author's seed of a join under this admission key that has begun."""
    seed: bytes | None = one(db, "SELECT seed FROM joining WHERE admission = ?", admission)
    return seed


def once(db: apsw.Connection, token: bytes) -> Any:
    """The answer that a call with this mark got before, None if there was none."""
    answer = one(db, "SELECT answer FROM once WHERE token = ?", token)
    return None if answer is None else json.loads(answer)


def unimported(db: apsw.Connection, space_no: int, marks: Sequence[bytes]) -> list[bytes]:
    """Those of the marks that were not published before, in their order."""
    sql = "SELECT 1 FROM imported WHERE space = ? AND mark = ?"
    return [mark for mark in marks if one(db, sql, space_no, mark) is None]


# In the writer


def add_peer(db: apsw.Connection, space_no: int, host: str, port: int) -> None:
    db.execute("INSERT OR IGNORE INTO peer VALUES (?, ?, ?)", (space_no, host, port))


def remember_handshake(db: apsw.Connection, tag: bytes, week: int) -> bool:
    """Whether this first message is new. Those of weeks whose masks no longer open are forgotten."""
    db.execute("DELETE FROM replay WHERE week < ?", (week - 2,))
    db.execute("INSERT OR IGNORE INTO replay VALUES (?, ?)", (tag, week))
    return db.changes() > 0


def remember_once(db: apsw.Connection, call: Once, run: Run) -> None:
    """Keeps the answer for the rest of the day on which the run was signed, and the next."""
    day = run.times[0] * TIME_UNIT_SECONDS // DAY_SECONDS
    db.execute("DELETE FROM once WHERE day < ?", (day - 1,))
    db.execute("INSERT INTO once VALUES (?, ?, ?)", (call.token, day, json.dumps(call.answer(run))))


def answer_invite(db: apsw.Connection, admission: bytes, author: bytes, now_s: float) -> bool:
    """Notes who claimed an admission key here; False when it was somebody else. The first answer's time stays."""
    db.execute(
        "INSERT OR IGNORE INTO invite_use (admission, author, answered) VALUES (?, ?, ?)",
        (admission, author, int(now_s)),
    )
    return bool(one(db, "SELECT author = ? FROM invite_use WHERE admission = ?", author, admission))


def acknowledge_invite(db: apsw.Connection, admission: bytes) -> None:
    """The newcomer has stored its welcome."""
    db.execute("UPDATE invite_use SET acknowledged = 1 WHERE admission = ?", (admission,))


def keep_joining(db: apsw.Connection, admission: bytes, seed: bytes) -> None:
    db.execute("INSERT OR IGNORE INTO joining VALUES (?, ?)", (admission, seed))


def mark_imported(db: apsw.Connection, space_no: int, marks: Sequence[bytes]) -> None:
    db.executemany("INSERT OR IGNORE INTO imported VALUES (?, ?)", [(space_no, mark) for mark in marks])
