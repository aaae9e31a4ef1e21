"""Unpacking: what bundles hold, proven, judged and put into the store by the same rules as what a peer sends.

A bundle may have been made by anybody who holds the secret, on any day, and damaged since. Each run stands by itself:
one that is refused or comes too early costs nobody else anything. Membership runs whose author is not known yet wait
for the rest of the bundle, which may say who that is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from p2pnode.exchange import Exchange
from p2pnode.space import Space
from p2pnode.store import DECLINED, INVALID, Declined, Outcome, Store
from protocol.entry import LogClass
from protocol.errors import RemoteProtocolError
from protocol.log import Head, Run, Verdict, judge, prove_untrusted

WAITING_ENTRIES_MAX = 16_384  # of membership runs kept back for what the rest of the bundle says

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


@dataclass(slots=True)
class Taking:
    """Takes the runs of bundles into the store."""

    exchange: Exchange
    space: Space
    tally: Tally = field(default_factory=Tally)
    _waiting: list[Run] = field(default_factory=list)

    async def take(self, runs: Sequence[Run]) -> Ended:
        """Takes what comes next, in one transaction; those that wait for the rest are not among what is returned."""
        good, ended = _proven(runs)
        return self._counted(ended + self._kept_back(await self._commit(good)))

    async def finish(self) -> Ended:
        """The bundle is over: takes what waited, for as long as one of them tells who another's author is."""
        ended: Ended = []
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            told = await self._commit(waiting)
            left = self._kept_back(told)
            if len(self._waiting) == len(waiting):
                self._waiting, left = [], told
            ended += left
        return self._counted(ended)

    async def _commit(self, runs: Sequence[Run]) -> Ended:
        if not runs:
            return []
        return list(zip(runs, await self.exchange.commit(self.space, runs), strict=True))

    def _kept_back(self, told: Ended) -> Ended:
        """Those that have come to an end; the others wait."""
        ended: Ended = []
        room = WAITING_ENTRIES_MAX - sum(map(len, self._waiting))
        for run, outcome in told:
            early = outcome is not None and (outcome.verdict is DECLINED or outcome.verdict is Verdict.EARLY)
            if early and run.log.log_class is LogClass.MEMBERSHIP and len(run) <= room:
                room -= len(run)
                self._waiting.append(run)
            else:
                ended.append((run, outcome))
        return ended

    def _counted(self, ended: Ended) -> Ended:
        for run, outcome in ended:
            self.tally.count(run, outcome)
        return ended


class Rehearsal:
    """Judges the runs of a bundle as `Taking` would, and keeps nothing.

    A forecast: what a run adds is remembered as how far its log would be held, not entry by entry.
    """

    def __init__(self, store: Store, space: Space) -> None:
        """`space` is a copy that may learn."""
        self.tally = Tally()
        self._store = store
        self._space = space
        self._heads: dict[bytes, Head] = {}

    async def take(self, runs: Sequence[Run]) -> Ended:
        """What would become of these."""
        good, ended = _proven(runs)
        ended += [(run, self._judged(run)) for run in good]
        for run, outcome in ended:
            self.tally.count(run, outcome)
        return ended

    async def finish(self) -> Ended:
        """Nothing has waited."""
        return []

    def _judged(self, run: Run) -> Outcome:
        key = run.key
        held = self._store.held(self._space.no, [key]).get(key)
        stored = held.head if held is not None else Head(0, None, 0)
        head = self._heads.get(key, stored)

        def held_id(seq: int) -> bytes | None:
            if seq == head.high:
                return head.newest
            if seq > stored.high:  # not kept: as good as what comes
                return run.prev if seq < run.first_seq else run.ids[seq - run.first_seq]
            return self._store.id_at(self._space.no, key, seq)

        try:
            judgement = judge(head, run, held_id)
        except RemoteProtocolError:
            return Outcome(key, INVALID, head)
        if judgement.verdict is not Verdict.EXTENDS:
            return Outcome(key, judgement.verdict, head, seq=judgement.seq)
        fresh = judgement.run
        assert fresh is not None
        incomplete = bool(fresh.lacks) and run.log.log_class is not LogClass.REPORT
        if incomplete or not self._space.admits(fresh):
            return Outcome(key, DECLINED, head)
        self._space.taken(fresh)
        self._space.committed()
        self._heads[key] = head = Head(fresh.last_seq, fresh.ids[-1], fresh.lamports[-1], head.fork)
        return Outcome(key, Verdict.EXTENDS, head, fresh)


def _proven(runs: Sequence[Run]) -> tuple[list[Run], Ended]:
    good: list[Run] = []
    bad: Ended = []
    for run in runs:
        try:
            good.append(prove_untrusted(run))
        except RemoteProtocolError:
            bad.append((run, None))
    return good, bad
