"""Runs: entries on their way out. Every id is computed again from what the row holds; nothing damaged leaves.

A row that no longer hashes to its id is set aside: its payload counts as missing, the log is served up to the signed
entry before it, and the row is whole again once a peer has sent it anew.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import apsw

from p2pnode.store.heads import SEQ_BITS, SEQ_MASK, HeldLog, id_at
from p2pnode.store.statements import one, rows
from protocol.entry import ID_SIZE, LogClass, LogIdentity
from protocol.keys import SIGNATURE_SIZE
from protocol.limits import CHECKPOINT_INTERVAL, RUN_ENTRIES_MAX, RUN_SIZE_MAX
from protocol.log import Head, Run, rebuild


@dataclass(frozen=True, slots=True)
class Reading:
    """A run as it was read; `damaged` is the first row on the way that does not hold what its id says."""

    run: Run | None
    damaged: int | None = None


_ROWS = """
SELECT json_group_array(json_array(lamport, time, kind, size, payload IS NULL, signature IS NULL, length(refs))),
       CAST(group_concat(id, '') AS BLOB), CAST(group_concat(payload, '') AS BLOB),
       CAST(group_concat(signature, '') AS BLOB), CAST(group_concat(refs, '') AS BLOB)
FROM entry WHERE no BETWEEN ? AND ?
"""
_SIZES = "SELECT json_group_array(iif(payload IS NULL, 0, size)) FROM entry WHERE no BETWEEN ? AND ?"


def read_run(db: apsw.Connection, space: bytes, held: HeldLog, first: int, entries_max: int, size_max: int) -> Reading:
    """The entries from `first` on, as far as the furthest signed one within the bounds; no run where there is none."""
    last = min(held.head.high, first + entries_max - 1)
    if not 1 <= first <= last:
        return Reading(None)
    base = held.row(first)
    if last - first >= CHECKPOINT_INTERVAL:  # more than that are not read before it is known how large they are
        sizes = json.loads(one(db, _SIZES, base, held.row(last)))
        last = first - 1 + max(sum(total <= size_max for total in accumulate(sizes)), 1)
    shape, ids, blob, signed, named = one(db, _ROWS, base, held.row(last))
    payloads: list[bytes | None] = []
    signatures: dict[int, bytes] = {}
    refs: dict[int, tuple[bytes, ...]] = {}
    lacks: dict[int, tuple[int, bytes]] = {}
    lamports: list[int] = []
    times: list[int] = []
    kinds: list[int] = []
    at = signed_at = named_at = 0
    for index, (lamport, time, kind, size, absent, unsigned, refs_size) in enumerate(json.loads(shape)):
        if absent:
            digest = one(db, "SELECT hash FROM lack WHERE no = ?", base + index)
            if digest is None:
                break  # set aside: its header cannot be built
            payloads.append(None)
            lacks[index] = (size, digest)
        else:
            payloads.append(blob[at : at + size])
            at += size
        if at > size_max:
            break
        lamports.append(lamport)
        times.append(time)
        kinds.append(kind)
        if not unsigned:
            signatures[index] = signed[signed_at : signed_at + SIGNATURE_SIZE]
            signed_at += SIGNATURE_SIZE
        if refs_size:
            refs[index] = tuple(named[named_at + i : named_at + i + ID_SIZE] for i in range(0, refs_size, ID_SIZE))
            named_at += refs_size
    prev = id_at(db, held, first - 1) if first > 1 else None

    def build(count: int) -> Run:
        return rebuild(
            *(space, held.log, first, prev, lamports[:count], times[:count], kinds[:count], payloads[:count]),
            {index: value for index, value in signatures.items() if index < count},
            {index: value for index, value in refs.items() if index < count},
            {index: value for index, value in lacks.items() if index < count},
        )

    count = max(signatures, default=-1) + 1
    if not count:
        return Reading(None)
    run = build(count)
    good = next((i for i, id in enumerate(run.ids) if id != ids[i * ID_SIZE : (i + 1) * ID_SIZE]), None)
    if good is None:
        return Reading(run)
    count = max((index + 1 for index in signatures if index < good), default=0)
    return Reading(build(count) if count else None, base + good)


def set_aside(db: apsw.Connection, space_no: int, row: int) -> None:
    """Marks a damaged row: its payload counts as missing until it comes again."""
    db.execute("INSERT OR IGNORE INTO lack VALUES (?, NULL)", (row,))
    if db.changes():
        db.execute("UPDATE entry SET payload = NULL WHERE no = ?", (row,))
        db.execute("UPDATE space SET missing = missing + 1 WHERE no = ?", (space_no,))


def wanted(db: apsw.Connection, space_no: int, limit: int) -> list[tuple[bytes, int, int]]:
    """(log key, first seq, last seq) of up to `limit` stretches in which payloads are missing.

    Each ends at a signed entry, so that a peer can answer with a run.
    """
    found: list[tuple[bytes, int, int]] = []
    log_no = upto = 0
    for no, key, signed in rows(db, _WANTED, space_no, limit):
        if no > upto or no >> SEQ_BITS != log_no:
            log_no, upto = no >> SEQ_BITS, signed or no
            found.append((key, no & SEQ_MASK, upto & SEQ_MASK))
    return found


_WANTED = """
SELECT lack.no, log.key, (
    SELECT min(e.no) FROM entry AS e
    WHERE e.no BETWEEN lack.no AND (log.no << 32) + log.high AND e.signature IS NOT NULL
)
FROM lack JOIN log ON log.no = lack.no >> 32 WHERE log.space = ? ORDER BY lack.no LIMIT ?
"""


def read_all(db: apsw.Connection, space: bytes, held: HeldLog) -> Iterator[Reading]:
    """A whole log, run by run, up to the first damaged row."""
    first = 1
    while first <= held.head.high:
        reading = read_run(db, space, held, first, RUN_ENTRIES_MAX, RUN_SIZE_MAX)
        yield reading
        if reading.run is None or reading.damaged is not None:
            return
        first = reading.run.last_seq + 1


def membership_runs(db: apsw.Connection, space_no: int, space: bytes) -> Iterator[Run]:
    """What is held of the membership logs and can be trusted, log by log: nothing from a fork on."""
    sql = "SELECT no, author, log_id, founding, high, fork FROM log WHERE space = ? AND key < x'01'"
    for no, author, log_id, founding, high, fork in rows(db, sql, space_no):
        log = LogIdentity(None if founding else space, author, log_id, LogClass.MEMBERSHIP)
        for reading in read_all(db, space, HeldLog(no, log, Head(high, None, 0))):
            run = reading.run
            if run is not None and (fork is None or run.first_seq < fork):
                yield run if fork is None else run.first(min(len(run), fork - run.first_seq))
