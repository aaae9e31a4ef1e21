"""Unpacking: what bundles hold, proven, judged and put into the store by the same rules as what a peer sends.

A bundle may have been made by anybody who holds the secret, on any day, and damaged since. Each run stands by itself:
one that is refused or comes too early costs nobody else anything. Membership runs whose author is not known yet wait
for the rest of the bundle, which may say who that is, and are tried again before anything else is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

import trio

from p2pnode import exchange as exchange_module
from p2pnode.exchange import Exchange
from p2pnode.space import Space
from p2pnode.store import DECLINED, INVALID, Declined, Outcome, Store
from protocol.entry import LogClass
from protocol.errors import RemoteProtocolError
from protocol.log import Head, Run, Verdict, judge, prove_untrusted

WAITING_ENTRIES_MAX = 4096  # of membership runs kept back for what the rest of the bundle says: judged in half a second
WAITING_SIZE_MAX = 4 * 1024 * 1024  # bytes of their payloads
ROUNDS_MAX = 16  # an honest bundle, its parts in any order, needs as many as its longest chain of invitations
ID_KEPT = 8  # bytes of each id that would be new: who makes two alike deceives a forecast

Ended = list[tuple[Run, Outcome | None]]  # what became of runs; None: a signature is not their author's


@dataclass(slots=True)
class Tally:
    """What became of the entries of a bundle."""

    new: int = 0
    known: int = 0
    refused: int = 0  # not what their author signed, or against a rule
    forked: int = 0  # runs that prove, or belong to, another branch of a log
    unknown: int = 0  # of authors who do not belong, as far as this node knows
    early: int = 0  # what comes before them is missing

    def count(self, run: Run, outcome: Outcome | None) -> None:
        """One run has come to its end."""
        if outcome is None:
            self.refused += len(run)
            return
        match outcome.verdict:
            case Verdict.EXTENDS:
                fresh = 0 if outcome.run is None else len(outcome.run)
                self.new += fresh
                self.known += len(run) - fresh
            case Verdict.KNOWN:
                self.known += len(run)
            case Verdict.FORK | Verdict.HELD:
                self.forked += 1
            case Verdict.EARLY:
                self.early += len(run)
            case Declined.UNWANTED:
                self.unknown += len(run)
            case Declined.INVALID:
                self.refused += len(run)
            case verdict:
                assert_never(verdict)


class _Unpacking(ABC):
    """What taking and rehearsing have in common; `_commit` judges proven runs that share a transaction."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._waiting: list[tuple[Run, Outcome]] = []

    async def take(self, runs: Sequence[Run]) -> Ended:
        """Takes what comes next, membership first; those that wait for the rest are not among what is returned."""
        if len(runs) < exchange_module.PROVE_IN_THREADS_MIN:
            good, ended = _proven(runs)
        else:
            good, ended = await trio.to_thread.run_sync(_proven, runs)
        told = await self._judged([run for run in good if run.log.log_class is LogClass.MEMBERSHIP])
        ended += self._kept_back(told)
        if any(outcome.verdict is Verdict.EXTENDS for _, outcome in told):
            ended += await self._again()
        ended += await self._judged([run for run in good if run.log.log_class is not LogClass.MEMBERSHIP])
        return self._counted(ended)

    async def finish(self) -> Ended:
        """The bundle is over: what still waits has come to its end."""
        ended = [*await self._again(), *self._waiting]
        self._waiting = []
        return self._counted(ended)

    async def _again(self) -> Ended:
        """Takes what waits, for as long as one of them tells who another's author is."""
        ended: Ended = []
        for _ in range(ROUNDS_MAX):
            before, self._waiting = self._waiting, []
            ended += self._kept_back(await self._judged([run for run, _ in before]))
            if len(self._waiting) == len(before):
                break
        return ended

    async def _judged(self, runs: Sequence[Run]) -> list[tuple[Run, Outcome]]:
        return list(zip(runs, await self._commit(runs), strict=True)) if runs else []

    @abstractmethod
    async def _commit(self, runs: Sequence[Run]) -> Sequence[Outcome]:
        """An outcome for each run, in their order."""

    def _kept_back(self, told: Sequence[tuple[Run, Outcome]]) -> Ended:
        """Those that have come to an end; the others wait."""
        ended: Ended = []
        room = WAITING_ENTRIES_MAX - sum(len(run) for run, _ in self._waiting)
        space = WAITING_SIZE_MAX - sum(_size(run) for run, _ in self._waiting)
        for run, outcome in told:
            early = outcome.verdict is DECLINED or outcome.verdict is Verdict.EARLY
            if early and run.log.log_class is LogClass.MEMBERSHIP and len(run) <= room and _size(run) <= space:
                room -= len(run)
                space -= _size(run)
                self._waiting.append((run, outcome))
            else:
                ended.append((run, outcome))
        return ended

    def _counted(self, ended: Ended) -> Ended:
        for run, outcome in ended:
            self.tally.count(run, outcome)
        return ended


class Taking(_Unpacking):
    """Takes the runs of bundles into the store."""

    def __init__(self, exchange: Exchange, space: Space) -> None:
        super().__init__()
        self._exchange = exchange
        self._space = space

    async def _commit(self, runs: Sequence[Run]) -> Sequence[Outcome]:
        return await self._exchange.commit(self._space, runs)


@dataclass(slots=True)
class _Forecast:
    """How far a log would be held: what is stored, and the beginning of each id behind that."""

    stored: int
    head: Head
    ids: bytearray = field(default_factory=bytearray)


class Rehearsal(_Unpacking):
    """Judges the runs of a bundle as `Taking` would, and keeps nothing but eight bytes of each entry that is new."""

    def __init__(self, store: Store, space: Space) -> None:
        """`space` is a copy that may learn."""
        super().__init__()
        self._store = store
        self._space = space
        self._logs: dict[bytes, _Forecast] = {}

    async def _commit(self, runs: Sequence[Run]) -> Sequence[Outcome]:
        outcomes: dict[int, Outcome] = {}
        for at in sorted(range(len(runs)), key=lambda at: runs[at].log.log_class):
            outcomes[at] = self._outcome(runs[at])
        self._space.committed()
        for at, run in enumerate(runs):
            if outcomes[at].news and run.log.log_class is LogClass.MEMBERSHIP:
                self._take_back(run.key)
        await trio.lowlevel.checkpoint()
        return [outcomes[at] for at in range(len(runs))]

    def _outcome(self, run: Run) -> Outcome:
        key = run.key
        log = self._logs.get(key) or self._stored(key)
        head = log.head

        def held_id(seq: int) -> bytes | None:
            if seq == head.high:
                return head.newest
            if seq <= log.stored:
                return self._store.id_at(self._space.no, key, seq)
            at = (seq - log.stored - 1) * ID_KEPT
            asked = run.prev if seq < run.first_seq else run.ids[seq - run.first_seq]
            return asked if asked is not None and asked.startswith(log.ids[at : at + ID_KEPT]) else b""

        try:
            judgement = judge(head, run, held_id)
        except RemoteProtocolError:
            return Outcome(key, INVALID, head)
        match judgement.verdict:
            case Verdict.EXTENDS:
                fresh = judgement.run
                assert fresh is not None
                incomplete = bool(fresh.lacks) and run.log.log_class is not LogClass.REPORT
                if incomplete or not self._space.admits(fresh):
                    return Outcome(key, DECLINED, head)
                self._space.taken(fresh)
                log.ids += b"".join(id[:ID_KEPT] for id in fresh.ids)
                log.head = Head(fresh.last_seq, fresh.ids[-1], fresh.lamports[-1], head.fork)
                self._logs[key] = log
                return Outcome(key, Verdict.EXTENDS, log.head, fresh)
            case Verdict.EARLY:
                return Outcome(key, Verdict.EARLY if self._space.admits(run) else DECLINED, head)
            case Verdict.FORK:
                news = head.fork is None or judgement.seq < head.fork
                if news:
                    log.head = replace(head, fork=judgement.seq)
                    self._logs[key] = log
                return Outcome(key, Verdict.FORK, log.head, seq=judgement.seq, news=news)
            case verdict:
                return Outcome(key, verdict, head)

    def _stored(self, key: bytes) -> _Forecast:
        held = self._store.held(self._space.no, [key]).get(key)
        head = held.head if held is not None else Head(0, None, 0)
        return _Forecast(head.high, head)

    def _take_back(self, key: bytes) -> None:
        """What a membership log says from a fork on counts no more."""
        log = self._logs[key]
        fork = log.head.fork
        assert fork is not None
        ids = [self._store.id_at(self._space.no, key, seq) for seq in range(fork, log.stored + 1)]
        beginnings = {id[:ID_KEPT] for id in ids if id is not None}
        behind = range(max(fork - log.stored - 1, 0) * ID_KEPT, len(log.ids), ID_KEPT)
        beginnings |= {bytes(log.ids[at : at + ID_KEPT]) for at in behind}
        self._space.forget(lambda id: id[:ID_KEPT] in beginnings)


def _size(run: Run) -> int:
    return sum(len(payload) for payload in run.payloads if payload is not None)


def _proven(runs: Sequence[Run]) -> tuple[list[Run], Ended]:
    good: list[Run] = []
    bad: Ended = []
    for run in runs:
        try:
            good.append(prove_untrusted(run))
        except RemoteProtocolError:
            bad.append((run, None))
    return good, bad
