"""Heads: how far each log is held."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import apsw

from p2pnode.store.statements import cut, one, rows
from protocol.entry import ID_SIZE, LogClass, LogIdentity
from protocol.frontier import BUCKETS, LogState, State
from protocol.keys import KEY_SIZE
from protocol.limits import LOG_ID_SIZE, LOG_KEY_SIZE
from protocol.log import Head

SEQ_BITS = 32  # entry.no = log.no << 32 | seq
SEQ_MASK = (1 << SEQ_BITS) - 1
NOTHING = Head(0, None, 0)


@dataclass(frozen=True, slots=True)
class HeldLog:
    """A log of the store. `trusted` is the id at the seq before a fork."""

    no: int
    log: LogIdentity
    head: Head
    indexed: int = 0
    trusted: bytes | None = None
    new: bool = False

    def row(self, seq: int) -> int:
        """The number of an entry's row."""
        return self.no << SEQ_BITS | seq


def space_id(db: apsw.Connection, space_no: int) -> bytes:
    found: bytes = one(db, "SELECT id FROM space WHERE no = ?", space_no)
    return found


_HELD = """
SELECT json_group_array(json_array(k.key, l.no, l.founding, l.high, l.lamport, l.fork, l.indexed, l.trusted IS NULL)),
       CAST(group_concat(l.author || l.log_id || l.newest || coalesce(l.trusted, l.newest), '') AS BLOB)
FROM json_each(?1) AS k CROSS JOIN log AS l ON l.space = ?2 AND l.key = unhex(k.value)
"""


def held_logs(db: apsw.Connection, space_no: int, space: bytes, keys: Sequence[bytes]) -> dict[bytes, HeldLog]:
    """The logs with these keys, as far as they are held at all, in one statement."""
    if len(keys) == 1:
        held = held_log(db, space_no, space, keys[0])
        return {} if held is None else {keys[0]: held}
    lines, blob = one(db, _HELD, json.dumps([key.hex() for key in keys]), space_no)
    found = {}
    parts = cut(blob, (KEY_SIZE, LOG_ID_SIZE, ID_SIZE, ID_SIZE))
    for (at, no, founding, high, lamport, fork, indexed, untrusted), (author, log_id, newest, trusted) in zip(
        json.loads(lines), parts, strict=True
    ):
        key = keys[at]
        log = LogIdentity(None if founding else space, author, log_id, LogClass(key[0]))
        found[key] = HeldLog(no, log, Head(high, newest, lamport, fork), indexed, None if untrusted else trusted)
    return found


def held_log(db: apsw.Connection, space_no: int, space: bytes, key: bytes) -> HeldLog | None:
    """The same for one log: a point read."""
    row = one(db, _HELD_ONE, space_no, key)
    if row is None:
        return None
    no, author, log_id, founding, high, newest, lamport, fork, indexed, trusted = row
    log = LogIdentity(None if founding else space, author, log_id, LogClass(key[0]))
    return HeldLog(no, log, Head(high, newest, lamport, fork), indexed, trusted)


_HELD_ONE = """
SELECT no, author, log_id, founding, high, newest, lamport, fork, indexed, trusted FROM log WHERE space = ? AND key = ?
"""


def id_at(db: apsw.Connection, held: HeldLog, seq: int) -> bytes | None:
    """The id held at a seq, None where none is."""
    found: bytes | None = one(db, "SELECT id FROM entry WHERE no = ?", held.row(seq))
    return found


def author_heads(db: apsw.Connection, space_no: int, author: bytes) -> dict[LogClass, tuple[int, bytes]]:
    """The newest (lamport, id) of each class among an author's logs."""
    heads: dict[LogClass, tuple[int, bytes]] = {}
    found = rows(db, "SELECT key, lamport, newest FROM log WHERE space = ? AND author = ?", space_no, author)
    for key, lamport, newest in found:
        cls = LogClass(key[0])
        heads[cls] = max(heads.get(cls, (0, b"")), (lamport, newest))
    return heads


def log_authors(db: apsw.Connection, space_no: int) -> set[bytes]:
    """The authors of all logs that are held."""
    return {author for (author,) in rows(db, "SELECT DISTINCT author FROM log WHERE space = ?", space_no)}


def keys_of(db: apsw.Connection, space_no: int, authors: Sequence[bytes]) -> list[bytes]:
    """The keys of all logs of these authors."""
    if not authors:
        return []
    sql = "SELECT key FROM log WHERE space = ? AND hex(author) IN (SELECT upper(value) FROM json_each(?))"
    return [key for (key,) in rows(db, sql, space_no, json.dumps([author.hex() for author in authors]))]


def position(key: bytes, held: HeldLog) -> LogState:
    """How far a log counts: up to a fork, if there is one."""
    fork = held.head.fork
    if fork is None:
        return LogState(key, held.head.high, held.head.newest, State.ORDINARY)
    return LogState(key, fork - 1, held.trusted, State.FORKED)


_STATES = """
SELECT json_group_array(json_array(log.high, log.fork)),
       CAST(group_concat(log.key || iif(log.fork IS NULL, log.newest, coalesce(log.trusted, log.newest)), '') AS BLOB)
FROM log
"""
_BUCKETS = """
FROM json_each(?2) AS r
CROSS JOIN log ON log.space = ?1 AND log.key >= unhex(r.value ->> 0) AND log.key < unhex(r.value ->> 1)
"""


def log_states(db: apsw.Connection, space_no: int) -> list[LogState]:
    """The frontier of a space: every log, sorted by key."""
    return _states(*one(db, _STATES + "WHERE space = ?", space_no))


def bucket_states(db: apsw.Connection, space_no: int, buckets: Sequence[int]) -> list[LogState]:
    """The part of the frontier that lies in these buckets, sorted by key."""
    ranges = [
        [bytes([cls, bucket]).hex(), bytes([cls, bucket + 1] if bucket < BUCKETS - 1 else [cls + 1]).hex()]
        for cls in LogClass
        for bucket in buckets
    ]
    return _states(*one(db, _STATES.replace("FROM log", _BUCKETS), space_no, json.dumps(ranges)))


def _states(lines: str, blob: bytes | None) -> list[LogState]:
    states = []
    for (high, fork), (key, newest) in zip(json.loads(lines), cut(blob, (LOG_KEY_SIZE, ID_SIZE)), strict=True):
        if fork is None:
            states.append(LogState(key, high, newest, State.ORDINARY))
        else:
            states.append(LogState(key, fork - 1, newest if fork > 1 else None, State.FORKED))
    states.sort(key=attrgetter("key"))
    return states
