"""Serving: what a session owes its peer, handed out piece by piece while there is room to send.

Lower classes first: membership in the order in which it grew, then voices, then reports, the log with the newest entry
first. Each log is looked up once, when it is asked for; what is appended to it later is pushed, not served. The ends
of many small logs share a message.
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass

from p2pnode.space import Space
from p2pnode.store import HeldLog, Store
from protocol.entry import LogClass
from protocol.limits import SEQ_MAX, Limits
from protocol.log import lean
from protocol.messages import End, Message, RunMessage

ENDS_PER_MESSAGE = 64


@dataclass(slots=True)
class _Job:
    """The rest of one answer: entries `first` to `last` of a log."""

    order: tuple[int, int, bytes]  # class, age, key: what is least is served first
    log: HeldLog
    first: int
    last: int

    def __lt__(self, other: "_Job") -> bool:
        return self.order < other.order


class Serving:
    """The queue of one session."""

    def __init__(self, store: Store, space: Space, limits: Limits) -> None:
        self._store = store
        self._space = space
        self._limits = limits
        self._jobs: list[_Job] = []
        self._ended: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._jobs or self._ended)

    def add(self, key: bytes, log: HeldLog, first: int, last: int = SEQ_MAX) -> bool:
        """Owes the peer these entries and an END; False when so much is owed that it has to ask again later.

        A peer that keeps to its window gets there too: what is pushed to it and does not connect, it asks for on top.
        """
        if len(self._jobs) >= 2 * self._limits.asked_max:
            return False
        age = log.head.lamport if key[0] == LogClass.MEMBERSHIP else -log.head.lamport
        heapq.heappush(self._jobs, _Job((key[0], age, key), log, first, min(last, log.head.high)))
        return True

    def drop(self, keys: Collection[bytes]) -> None:
        """The peer does not want these logs: what is left of them is not sent."""
        dropped = [job.order[2] for job in self._jobs if job.order[2] in keys]
        if dropped:
            self._jobs = [job for job in self._jobs if job.order[2] not in keys]
            heapq.heapify(self._jobs)
            self._ended += dropped  # a question is answered in any case

    def next(self) -> list[Message]:
        """The next messages to send; none when nothing is owed."""
        if not self._jobs or len(self._ended) >= ENDS_PER_MESSAGE:
            ended, self._ended = tuple(self._ended), []
            return [End(ended)] if ended else []
        job = self._jobs[0]
        limits = self._limits
        run = self._store.read_held(self._space.no, job.log, job.first, limits.run_entries_max, limits.run_size_max)
        if run is not None and run.last_seq < job.last:
            job.first = run.last_seq + 1
            return [RunMessage(lean(run))]
        heapq.heappop(self._jobs)
        key = job.order[2]
        self._ended.append(key)
        if run is None:  # damaged here: the other branch alone would not connect there
            return self.next()
        messages: list[Message] = [] if run is None else [RunMessage(lean(run))]
        reached = job.first - 1 if run is None else run.last_seq
        evidence = self._store.fork_evidence(self._space.no, key) if job.log.head.fork is not None else None
        if evidence is not None and evidence.first_seq <= reached + 1:  # else what is between is damaged here
            messages.append(RunMessage(lean(evidence)))
        return messages or self.next()
