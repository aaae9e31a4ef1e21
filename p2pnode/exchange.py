"""Exchange: what peers say, proven and put into the store; what is new, told to everybody whom it concerns.

    run from a peer -> proven -> COMMIT -> every other session of the space, and whoever listens

The only place that knows both the store and the sessions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from p2pnode.space import Space
from p2pnode.store import Outcome, Store
from protocol.entry import LogClass
from protocol.errors import RemoteProtocolError
from protocol.limits import Limits
from protocol.log import Run, Verdict, prove_untrusted

PROVE_IN_THREADS_MIN = 8  # runs; below that a thread costs more than it saves


@dataclass(frozen=True, slots=True)
class News:
    """Entries of one log that this node holds from now on."""

    space: Space
    key: bytes
    run: Run


class Member(Protocol):
    """A session of a space, as far as the exchange knows it."""

    @property
    def space(self) -> Space: ...

    @property
    def receiving(self) -> bool:
        """Whether the peer has announced more than has come."""

    def push_later(self, key: bytes, seq: int, /) -> None:
        """Entries of this log from `seq` on are new here, or two different ones at `seq` are."""


class Exchange:
    """All member sessions of a node, and whoever listens for news."""

    def __init__(self, store: Store, limits: Limits, *, on_members: Callable[[Space], None]) -> None:
        self.store = store
        self.limits = limits
        self.sessions: set[Member] = set()
        self.unpacking = 0  # bundles that are being taken
        self._on_members = on_members
        self._listeners: set[Callable[[News], None]] = set()

    @property
    def receiving(self) -> bool:
        """Whether any peer is still sending what it announced, or a bundle is being taken."""
        return self.unpacking > 0 or any(session.receiving for session in self.sessions)

    def listen(self, listener: Callable[[News], None]) -> Callable[[], None]:
        """Calls `listener` with everything that is committed from now on; returns the way to stop it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def announce(self, news: News, source: Member | None = None) -> None:
        """Something new is committed: listeners and every other session of the space learn of it."""
        for listener in tuple(self._listeners):
            listener(news)
        self._push(news.space, news.key, news.run.first_seq, source)

    def announce_run(self, space: Space, run: Run) -> None:
        """The same for a run of our own."""
        self.announce(News(space, run.key, run))
        if run.log.log_class is LogClass.MEMBERSHIP:
            self.members_changed(space)

    def _push(self, space: Space, key: bytes, seq: int, source: Member | None) -> None:
        for session in self.sessions:
            if session is not source and session.space is space:
                session.push_later(key, seq)

    async def take(self, space: Space, runs: Sequence[Run], source: Member | None = None) -> list[Outcome]:
        """Proves runs from a peer and commits them in one transaction.

        Raises RemoteProtocolError for a bad signature; then nothing of the batch is kept.
        """
        return await self.commit(space, await _prove(runs), source)

    async def commit(self, space: Space, proven: Sequence[Run], source: Member | None = None) -> list[Outcome]:
        """The same for runs whose signatures were checked."""
        outcomes = await self.store.commit_runs(space.no, proven, space)
        members_changed = forked = False
        for outcome in outcomes:
            if outcome.run is not None:
                run = outcome.run
                self.announce(News(space, outcome.key, run), source)
                members_changed |= run.log.log_class is LogClass.MEMBERSHIP
            elif outcome.verdict is Verdict.FORK and outcome.news:
                self._push(space, outcome.key, outcome.seq, source)
                forked |= outcome.key[0] == LogClass.MEMBERSHIP
        if forked:
            with trio.CancelScope(shield=True):  # committed is committed, even if the peer has hung up meanwhile
                await space.reload(self.store)
        if members_changed or forked:
            self.members_changed(space)
        return outcomes

    def members_changed(self, space: Space) -> None:
        """Somebody may belong who did not, or the other way round."""
        self.store.set_outcasts(space.no, space.outcasts)
        self._on_members(space)


async def _prove(runs: Sequence[Run]) -> Sequence[Run]:
    """Checks every signature; many runs are shared between two threads (libsodium releases the interpreter)."""
    if len(runs) < PROVE_IN_THREADS_MIN:
        return [prove_untrusted(run) for run in runs]
    half = len(runs) // 2
    good: list[bool] = []

    async def prove(part: Sequence[Run]) -> None:
        good.append(await trio.to_thread.run_sync(_all_proven, part))

    async with trio.open_nursery() as nursery:  # what is raised in here would come out as a group, and not be caught
        nursery.start_soon(prove, runs[:half])
        nursery.start_soon(prove, runs[half:])
    if not all(good):
        raise RemoteProtocolError("run: signature")
    return runs


def _all_proven(runs: Sequence[Run]) -> bool:
    try:
        for run in runs:
            prove_untrusted(run)
    except RemoteProtocolError:
        return False
    return True
