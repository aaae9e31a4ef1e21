"""Check: is everything that the store holds still what its authors signed?

Every id is computed again from its row, every link, signature and counter compared. It runs log by log on a connection
of its own, so that a large store can be checked while it works.
"""

from dataclasses import dataclass

import apsw

from p2pnode.store.heads import HeldLog
from p2pnode.store.runs import read_all
from p2pnode.store.spaces import counters, recount
from p2pnode.store.statements import one, rows
from protocol.entry import LogClass, LogIdentity
from protocol.errors import RemoteProtocolError
from protocol.log import Head, prove_untrusted

LOGS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check has seen. `bad` counts entries that cannot be trusted, and damaged parts of the file.

    `damaged` are (space, row) of entries that should be fetched again.
    """

    entries: int = 0
    logs: int = 0
    forks: int = 0
    bad: int = 0
    damaged: tuple[tuple[int, int], ...] = ()

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(
            self.entries + other.entries,
            self.logs + other.logs,
            self.forks + other.forks,
            self.bad + other.bad,
            self.damaged + other.damaged,
        )


def check_logs(db: apsw.Connection, after: int) -> tuple[Findings, int | None]:
    """Checks the next few logs behind number `after`; returns what it saw and where to go on, None at the end."""
    found = rows(
        db,
        "SELECT l.no, l.space, s.id, l.key, l.author, l.log_id, l.founding, l.high, l.newest, l.lamport, l.fork"
        " FROM log AS l JOIN space AS s ON s.no = l.space WHERE l.no > ? ORDER BY l.no LIMIT ?",
        *(after, LOGS_AT_ONCE),
    )
    findings = Findings()
    for no, space_no, space, key, author, log_id, founding, high, newest, lamport, fork in found:
        log = LogIdentity(None if founding else space, author, log_id, LogClass(key[0]))
        held = HeldLog(no, log, Head(high, newest, lamport, fork))
        findings += _check_log(db, space_no, space, held)
    return findings, found[-1][0] if found else None


def check_whole(db: apsw.Connection) -> Findings:
    """Checks what belongs to no single log: the pages of the file, and the counters."""
    try:
        lines = rows(db, "PRAGMA quick_check(100)")
        bad = sum(line != "ok" for (line,) in lines)
        for (space_no,) in rows(db, "SELECT no FROM space"):
            bad += counters(db, space_no) != recount(db, space_no)
    except apsw.CorruptError:
        bad = 1
    return Findings(bad=bad)


def _check_log(db: apsw.Connection, space_no: int, space: bytes, held: HeldLog) -> Findings:
    high = held.head.high
    forks = held.head.fork is not None
    seen = bad = 0
    last: bytes | None = None
    damaged: list[tuple[int, int]] = []
    try:
        for reading in read_all(db, space, held):
            if reading.run is not None:
                seen += len(reading.run)
                last = reading.run.ids[-1]
                try:
                    prove_untrusted(reading.run)
                except RemoteProtocolError:
                    bad += len(reading.run)
            if reading.damaged is not None:
                damaged.append((space_no, reading.damaged))
        complete = seen == high and last == held.head.newest
        # Behind a damaged row nothing can be proven until it has come again.
        bad += high - seen if seen < high else int(not complete)
        bad += one(db, "SELECT count(*) FROM entry WHERE no BETWEEN ? AND ?", held.row(1), held.row(high)) != high
    except apsw.CorruptError:
        bad += high - seen
    return Findings(high, 1, forks, bad, tuple(damaged))
