"""Intake: how proven runs get in.

A batch of runs is one transaction: the heads of all its logs are looked up in one statement, each run is judged by
`protocol.log.judge`, what is new is laid out behind each other in memory and written in one statement a megabyte.
Counters, heads and entries move together or not at all. Specification section "Logs".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import apsw

from p2pnode.store import forks
from p2pnode.store.heads import NOTHING, HeldLog, held_logs, id_at
from p2pnode.store.runs import read_run
from p2pnode.store.statements import Columns, one, rows
from protocol.entry import ID_SIZE, LogClass
from protocol.errors import RemoteProtocolError
from protocol.keys import KEY_SIZE
from protocol.limits import CHECKPOINT_INTERVAL, LOG_ID_SIZE, LOG_KEY_SIZE, RUN_SIZE_MAX
from protocol.log import Head, Run, Verdict, judge


class Declined(Enum):
    """Why a run that says nothing wrong, or something wrong, is not taken."""

    UNWANTED = "unwanted"  # the gate does not admit it, or it lacks payloads that its class may not lack
    INVALID = "invalid"  # it breaks a rule of its log: no honest node can have relayed it


DECLINED = Declined.UNWANTED
INVALID = Declined.INVALID


class Gate(Protocol):
    """Who decides whose entries are kept. Called in the writer's thread, in this order, around one transaction."""

    def admits(self, run: Run, /) -> bool:
        """Whether entries of this author are wanted, the run's own statements included."""

    def taken(self, run: Run, /) -> None:
        """The run is part of the transaction that is going on."""

    def committed(self) -> None:
        """What was taken is kept."""

    def rolled_back(self) -> None:
        """Nothing of what was taken is kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: `run` is the part of it that is new, `head` how far its log is held now.

    `seq` is where a fork was found; `news` tells whether anything has changed that others may want to know.
    """

    key: bytes
    verdict: Verdict | Declined
    head: Head
    run: Run | None = None
    seq: int = 0
    news: bool = False


# Runs on their way in


@dataclass(slots=True)
class Intake:
    """One transaction's worth of runs of one space, on the writer's connection."""

    db: apsw.Connection
    space_no: int
    space: bytes
    held: dict[bytes, HeldLog]
    next_no: int
    touched: dict[bytes, HeldLog] = field(default_factory=dict)  # logs whose row has to be written
    entries: Columns = field(default_factory=Columns)
    taken: int = 0
    lacking: int = 0
    pending: int = 0
    lamport: int = 0
    filled: int = 0  # payloads that came later
    unlisted: list[int] = field(default_factory=list)  # rows of those that the board has passed already

    @classmethod
    def begin(cls, db: apsw.Connection, space_no: int, space: bytes, keys: Sequence[bytes]) -> "Intake":
        next_no = one(db, "SELECT coalesce(max(no), 0) + 1 FROM log")
        return cls(db, space_no, space, held_logs(db, space_no, space, keys), next_no)

    def take(self, key: bytes, run: Run, gate: Gate) -> Outcome:
        """Judges one proven run and lays out what is new in it."""
        held = self.held.get(key)
        head = held.head if held is not None else NOTHING
        try:
            judgement = judge(head, run, _HeldIds(self, held))
        except RemoteProtocolError:
            return Outcome(key, INVALID, head)
        match judgement.verdict:
            case Verdict.EXTENDS:
                fresh = judgement.run
                assert fresh is not None
                incomplete = bool(fresh.lacks) and run.log.log_class is not LogClass.REPORT
                if incomplete or not gate.admits(fresh):
                    return Outcome(key, DECLINED, head)
                if held is not None and fresh is not run:
                    self._fill(held, run)
                held = self._append(key, held, fresh)
                gate.taken(fresh)
                return Outcome(key, Verdict.EXTENDS, held.head, fresh, news=True)
            case Verdict.EARLY:
                return Outcome(key, Verdict.EARLY if gate.admits(run) else DECLINED, head)
            case Verdict.FORK:
                assert held is not None
                news = held.head.fork is None or judgement.seq < held.head.fork
                if news:
                    held = self._fork(key, held, run, judgement.seq)
                return Outcome(key, Verdict.FORK, held.head, seq=judgement.seq, news=news)
            case Verdict.KNOWN | Verdict.HELD as verdict:
                assert held is not None
                return Outcome(key, verdict, head, news=self._fill(held, run))

    def finish(self) -> None:
        """Writes what is laid out, and the counters that go with it."""
        self.flush()
        self.db.execute(
            "UPDATE space SET entries = entries + ?, logs = logs + ?, pending = pending + ?, missing = missing + ?,"
            " lamport = max(lamport, ?) WHERE no = ?",
            (
                self.taken,
                sum(held.new for held in self.touched.values()),
                self.pending,
                self.lacking - self.filled,
                self.lamport,
                self.space_no,
            ),
        )
        self._write_heads()

    def flush(self) -> None:
        """Writes the entries laid out so far."""
        if self.entries.rows:
            self.db.execute(_INSERT_ENTRIES, self.entries.take())

    def _append(self, key: bytes, held: HeldLog | None, run: Run) -> HeldLog:
        if held is None:
            held = HeldLog(self.next_no, run.log, NOTHING, new=True)
            self.next_no += 1
        if self.entries.full:
            self.flush()
        base = held.row(run.first_seq)
        count = len(run)
        lay_out(self.entries, base, run)
        if run.lacks:
            lacks = [(base + index, digest) for index, (_, digest) in run.lacks.items()]
            self.db.executemany("INSERT INTO lack VALUES (?, ?)", lacks)
        self.lacking += len(run.lacks)
        self.taken += count
        self.lamport = max(self.lamport, run.lamports[-1])
        indexed = held.indexed
        if run.log.log_class is LogClass.REPORT:
            self.pending += count
        else:
            indexed = run.last_seq  # the board is made of reports for now
        held = replace(held, head=Head(run.last_seq, run.ids[-1], run.lamports[-1], held.head.fork), indexed=indexed)
        self.held[key] = self.touched[key] = held
        return held

    def _fork(self, key: bytes, held: HeldLog, run: Run, seq: int) -> HeldLog:
        self.flush()
        ours = read_run(self.db, self.space, held, seq, CHECKPOINT_INTERVAL, RUN_SIZE_MAX).run
        forks.keep(self.db, held.no, seq, forks.evidence(ours, run, seq))
        held = replace(held, head=replace(held.head, fork=seq), trusted=id_at(self.db, held, seq - 1))
        self.held[key] = self.touched[key] = held
        return held

    def _fill(self, held: HeldLog, run: Run) -> bool:
        """Puts payloads that were missing where they belong; False when there were none."""
        self.flush()
        base = held.row(run.first_seq)
        last = held.row(min(run.last_seq, held.head.high))
        lacking = rows(self.db, "SELECT no, id FROM lack JOIN entry USING (no) WHERE no BETWEEN ? AND ?", base, last)
        fitting = [no for no, id in lacking if run.payloads[no - base] is not None and run.ids[no - base] == id]
        for no in fitting:
            # The whole row and not the payload alone: it may have been found damaged in any of its columns.
            index = no - base
            payload = run.payloads[index]
            assert payload is not None
            self.db.execute(
                "UPDATE entry SET lamport = ?, time = ?, kind = ?, size = ?, payload = ?, refs = ?,"
                " signature = coalesce(?, signature) WHERE no = ?",
                (
                    run.lamports[index],
                    run.times[index],
                    run.kinds[index],
                    len(payload),
                    payload,
                    b"".join(run.refs.get(index, ())) or None,
                    run.signatures.get(index),
                    no,
                ),
            )
        self.db.executemany("DELETE FROM lack WHERE no = ?", [(no,) for no in fitting])
        self.filled += len(fitting)
        self.unlisted += [no for no in fitting if no <= held.row(held.indexed)]
        return bool(fitting)

    def _write_heads(self) -> None:
        logs = Columns()
        for key, held in self.touched.items():
            head = held.head
            assert head.newest is not None
            at = logs.add(key + held.log.author + held.log.log_id + head.newest)
            trusted_at = logs.add(held.trusted) if held.trusted is not None else None
            logs.rows.append(
                [held.no, at, held.log.space is None, head.high, head.lamport, held.indexed, head.fork, trusted_at]
            )
        if logs.rows:
            self.db.execute(_UPSERT_LOGS, (*logs.take(), self.space_no))


class _HeldIds:
    """The ids held of one log; what the same transaction has added is among them."""

    def __init__(self, intake: Intake, held: HeldLog | None) -> None:
        self._intake = intake
        self._held = held

    def __call__(self, seq: int, /) -> bytes | None:
        held = self._held
        if held is None or not 1 <= seq <= held.head.high:
            return None
        if seq == held.head.high:
            return held.head.newest
        self._intake.flush()
        return id_at(self._intake.db, held, seq)


def lay_out(columns: Columns, base: int, run: Run) -> None:
    """Adds the entries of a run; `base` is the number of the first one's row."""
    rows = columns.rows
    start = len(rows)
    at = columns.add(b"".join(run.ids))
    for lamport, time, kind, payload in zip(run.lamports, run.times, run.kinds, run.payloads, strict=True):
        if payload is None:
            rows.append([base, at, lamport, time, kind, run.lacks[len(rows) - start][0], None])
        else:
            rows.append([base, at, lamport, time, kind, len(payload), columns.add(payload)])
        base += 1
        at += ID_SIZE
    for index, signature in run.signatures.items():
        rows[start + index].append(columns.add(signature))
    for index, refs in run.refs.items():
        row = rows[start + index]
        if len(row) == 7:
            row.append(None)
        row += [columns.add(b"".join(refs)), len(refs) * ID_SIZE]


_INSERT_ENTRIES = """
INSERT INTO entry (no, id, lamport, time, kind, size, payload, signature, refs)
SELECT value ->> 0, substr(?2, value ->> 1, 32), value ->> 2, value ->> 3, value ->> 4, value ->> 5,
       substr(?2, value ->> 6, value ->> 5), substr(?2, value ->> 7, 64), substr(?2, value ->> 8, value ->> 9)
FROM json_each(?1)
"""

_UPSERT_LOGS = f"""
INSERT INTO log (no, space, key, author, log_id, newest, founding, high, lamport, indexed, fork, trusted)
SELECT value ->> 0, ?3, substr(?2, value ->> 1, {LOG_KEY_SIZE}), substr(?2, (value ->> 1) + {LOG_KEY_SIZE}, {KEY_SIZE}),
       substr(?2, (value ->> 1) + {LOG_KEY_SIZE + KEY_SIZE}, {LOG_ID_SIZE}),
       substr(?2, (value ->> 1) + {LOG_KEY_SIZE + KEY_SIZE + LOG_ID_SIZE}, {ID_SIZE}),
       value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, substr(?2, value ->> 7, {ID_SIZE})
FROM json_each(?1) WHERE true
ON CONFLICT (no) DO UPDATE SET newest = excluded.newest, high = excluded.high, lamport = excluded.lamport,
       indexed = excluded.indexed, fork = excluded.fork, trusted = excluded.trusted
"""  # noqa: S608  # sizes, all constants


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch: an outcome for each run in the order given, how many payloads came later.

    `unlisted` are the rows of those that the board has to read again.
    """

    outcomes: list[Outcome]
    filled: int
    unlisted: list[int]


def take_runs(db: apsw.Connection, space_no: int, runs: Sequence[Run], gate: Gate) -> Taken:
    """Takes proven runs in the writer's transaction, membership first."""
    if not runs:
        return Taken([], 0, [])
    keys = [run.key for run in runs]
    intake = Intake.begin(db, space_no, runs[0].space, list(dict.fromkeys(keys)))
    outcomes: dict[int, Outcome] = {}
    for at in sorted(range(len(runs)), key=lambda at: runs[at].log.log_class):
        outcomes[at] = intake.take(keys[at], runs[at], gate)
    intake.finish()
    return Taken([outcomes[at] for at in range(len(runs))], intake.filled, intake.unlisted)
