"""Session: one conversation with another member, in rounds, led by whoever dialled.

    digests differ -> reconcile -> ask about each differing log, membership first -> both serve -> compare digests

and both sides push what is new at any time. Pushing is a latency hint; the rounds are the guarantee. Events are
handled strictly in order, so that an END or a DIGEST is answered only when every run before it is committed.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import trio

from p2pnode.exchange import Exchange
from p2pnode.questions import Questions
from p2pnode.serving import Serving
from p2pnode.space import Space
from p2pnode.store import DECLINED, INVALID, position
from protocol.connection import Connection
from protocol.errors import RemoteProtocolError
from protocol.events import Differences, Event, SnapshotWanted
from protocol.frontier import Bisection, LogState, State, item
from protocol.limits import SEQ_MAX
from protocol.log import Run, Verdict
from protocol.messages import Decline, Digest, End, Positions, Probe, RunMessage, Same, Totals, Want
from protocol.reconcile import Snapshot

DIGEST_INTERVAL_SECONDS = 180
WANTS_MAX = 256  # stretches of missing payloads that are asked for after a comparison
SNAPSHOT_REST = 9  # times as long as a snapshot took passes before the same peer gets the next


class Turn(Enum):
    """What a session is busy with."""

    IDLE = "idle"
    RECONCILING = "reconciling"
    ASKING = "asking"


class Session:
    """One open session in mode member. `wake` tells the link that there is something to send."""

    def __init__(
        self, exchange: Exchange, connection: Connection, space: Space, digest: bytes, wake: Callable[[], None]
    ) -> None:
        assert connection.remote is not None
        self.space = space
        self.connection = connection
        self.remote = connection.remote
        self.remote_digest = connection.remote.digest
        self.received_entries = 0
        self.announced_entries = 0
        self.in_sync = trio.Event()
        self._exchange = exchange
        self._store = exchange.store
        self._wake = wake
        self._leads = connection.initiator
        self._turn = Turn.IDLE
        self._questions = Questions(exchange.limits.asked_max)
        self._serving = Serving(exchange.store, space, exchange.limits)
        self._to_push: dict[bytes, int] = {}
        self._pushes_lost = False
        self._live = False
        self._compared = (digest, self.remote_digest)
        self._searches: dict[bytes, Bisection] = {}
        self._snapshot_after = 0.0
        if digest == self.remote_digest:
            self.in_sync.set()

    @property
    def receiving(self) -> bool:
        """Whether the peer has announced more than has come."""
        return self.received_entries < self.announced_entries

    # Rounds, led by the side that dialled

    async def begin(self) -> None:
        """Right after the handshake: live when the digests in it are equal, and else a first round."""
        if self.in_sync.is_set():
            self._go_live()
            if await self._store.digest(self.space.no) != self._compared[0]:  # committed during the handshake
                await self.compare()
        elif self._leads:
            await self._reconcile()

    async def compare(self) -> None:
        """Asks what the other side holds now; what differs is settled in a new round."""
        self.connection.send(Digest(await self._store.digest(self.space.no), question=True))
        self._wake()

    async def _reconcile(self) -> None:
        self._turn = Turn.RECONCILING
        self.in_sync = trio.Event() if self.in_sync.is_set() else self.in_sync
        self.connection.reconcile(await self._snapshot())
        self._wake()

    async def _snapshot(self) -> Snapshot:
        """Our items as of now. A peer that reconciles without end costs us a tenth of our time, not all of it."""
        await trio.sleep_until(self._snapshot_after)
        begun = trio.current_time()
        key = self.connection.handshake_hash
        snapshot = await self._store.query(
            lambda db: Snapshot.seal((0, item(key, state)) for state in self._store.log_states(db, self.space.no))
        )
        now = trio.current_time()
        self._snapshot_after = now + SNAPSHOT_REST * (now - begun)
        return snapshot

    def _ask(self) -> None:
        """Asks about the next differing logs."""
        keys = self._questions.due()
        if keys:
            held = self._store.positions(self.space.no, keys)
            self.connection.send(Positions(tuple(held.get(key) or _nothing(key) for key in keys)))

    async def _settle(self, keys: Sequence[bytes]) -> None:
        """The peer has answered about these logs."""
        if keys:
            self._questions.answered(keys)
            if self._turn is Turn.ASKING:
                self._ask()
                await self._finish_asking()

    async def _finish_asking(self) -> None:
        busy = self._questions or self._serving or self._searches
        if self._turn is Turn.ASKING and not busy:
            self._turn = Turn.IDLE
            await self.compare()

    # Events

    async def handle(self, events: Sequence[Event]) -> None:
        """Acts on events in their order; runs with nothing but answers between them share a transaction."""
        runs: list[Run] = []
        answered: list[bytes] = []
        for event in events:
            match event:
                case RunMessage(unproven):
                    runs.append(unproven)
                case Same(keys) | End(keys):
                    answered += keys
                case Decline(keys):
                    self._serving.drop(keys)
                    answered += keys
                case _:
                    await self._take(runs)
                    await self._settle(answered)
                    runs, answered = [], []
                    await self._handle(event)
        await self._take(runs)
        await self._settle(answered)
        self._wake()

    async def _handle(self, event: Event) -> None:
        match event:
            case SnapshotWanted():
                self.connection.answer(await self._snapshot())
            case Differences(keys):
                self._turn = Turn.ASKING
                self._questions.add(keys)
                self._ask()
                await self._finish_asking()
            case Positions(positions):
                await self._answer(positions)
            case Probe():
                self._probed(event)
            case Want(key, first, last):
                self._serve_log(key, first, last)
            case Totals(entries):
                self.announced_entries += entries
            case Digest():
                await self._compare_with(event)
            case _:
                pass  # the connection lets nothing else through in this mode

    async def _compare_with(self, theirs: Digest) -> None:
        own = await self._store.digest(self.space.no)
        self.remote_digest = theirs.digest
        if theirs.question:
            self.connection.send(Digest(own, question=False))
        if theirs.digest == own:
            self.announced_entries = self.received_entries
            self.in_sync.set()
        elif self._leads and self._turn is Turn.IDLE and (own, theirs.digest) != self._compared:
            self._compared = (own, theirs.digest)  # a round that changed nothing is not repeated
            await self._reconcile()
            return
        self._go_live()

    def _go_live(self) -> None:
        """From here on news is pushed at once; and what payloads are missing is asked for, whatever the digests say.

        Again after every comparison: more may have been found damaged since.
        """
        self._live = True
        for key, first, last in self._store.wanted(self.space.no, WANTS_MAX):
            self.connection.send(Want(key, first, last))

    async def _take(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        outcomes = await self._exchange.take(self.space, runs, self)
        told = {run.key: run.last_seq for run in runs}
        behind: list[LogState] = []
        declined: list[bytes] = []
        for outcome in outcomes:
            if outcome.verdict is INVALID:
                raise RemoteProtocolError("run breaks a rule of its log")
            if outcome.verdict is DECLINED:
                declined.append(outcome.key)
            elif outcome.verdict is Verdict.EARLY:
                behind.append(self._store.position(self.space.no, outcome.key) or _nothing(outcome.key))
            elif outcome.verdict is Verdict.FORK and outcome.news:
                self._serve_log(outcome.key, outcome.seq)  # the peer may know only its own branch
            if outcome.run is not None:
                self.received_entries += len(outcome.run)
            if told.get(outcome.key, 0) >= outcome.head.high:
                self._to_push.pop(outcome.key, None)  # the peer has it: it told us
        if behind:
            self.connection.send(Positions(tuple(behind)))
        if declined:
            self.connection.send(Decline(tuple(dict.fromkeys(declined))))
        self._wake()

    # Answers

    async def _answer(self, positions: Sequence[LogState]) -> None:
        """Exactly one answer for each position; to our own question a position says "I am behind"."""
        same: list[bytes] = []
        behind: list[LogState] = []
        refused: list[bytes] = []
        answered = [theirs.key for theirs in positions if theirs.key in self._questions]
        held = self._store.held(self.space.no, [theirs.key for theirs in positions])
        total = 0
        for theirs in positions:
            key = theirs.key
            log = held.get(key)
            if log is None:
                if theirs.high == 0:
                    same.append(key)
                elif key not in self._questions:
                    behind.append(_nothing(key))
                continue
            ours = position(key, log)
            if ours == theirs:
                same.append(key)
            elif ours.state is State.FORKED and (theirs.state is State.ORDINARY or ours.high < theirs.high):
                if not self._serving.add(key, log, min(theirs.high, ours.high) + 1):
                    refused.append(key)
            elif ours.high < theirs.high or theirs.state is State.FORKED:
                if key not in self._questions:
                    behind.append(ours)
            elif theirs.high == 0 or self._store.id_at(self.space.no, key, theirs.high) == theirs.newest:
                if self._serving.add(key, log, theirs.high + 1):
                    total += ours.high - theirs.high
                else:
                    refused.append(key)
            elif key not in self._searches:  # begun anew, it would take the answer on its way for a question
                self._search(Bisection(key, theirs.high))
        if total:
            self.connection.send(Totals(total))
        if same:
            self.connection.send(Same(tuple(same)))
        if behind:
            self.connection.send(Positions(tuple(behind)))
        if refused:
            self.connection.send(Decline(tuple(refused)))
        if answered:
            await self._settle(answered)

    # Forks: ids differ at a height both hold

    def _search(self, search: Bisection) -> None:
        """Asks on; where the branches part, the peer is shown ours."""
        if search.found is None:
            self._searches[search.key] = search
            ours = self._store.id_at(self.space.no, search.key, search.asks)
            self.connection.send(Probe(search.key, search.asks, ours))
        else:
            self._searches.pop(search.key, None)
            self._serve_log(search.key, search.found)

    def _probed(self, probe: Probe) -> None:
        """A PROBE is the answer to ours where we search at that seq, and else a question."""
        search = self._searches.get(probe.key)
        ours = self._store.id_at(self.space.no, probe.key, probe.seq)
        if search is None or search.asks != probe.seq:
            self.connection.send(Probe(probe.key, probe.seq, ours))
        elif ours is not None:
            self._search(search.answered_untrusted(probe.seq, probe.id, ours))

    # Serving and pushing: called by the link while there is room to send

    async def serve(self) -> bool:
        """Sends one more piece; False when there is nothing to send now."""
        if self._serving:
            for message in self._serving.next():
                self.connection.send(message)
            if not self._serving:
                await self._finish_asking()
            return True
        if self._live and self._to_push:
            key, seq = next(iter(self._to_push.items()))
            del self._to_push[key]
            self._push(key, seq)
            return True
        if self._live and self._pushes_lost:
            self._pushes_lost = False
            await self.compare()
            return True
        return False

    def _push(self, key: bytes, seq: int) -> None:
        limits = self._exchange.limits
        log = self._store.held(self.space.no, [key]).get(key)
        if log is None:
            return
        run = self._store.read_held(self.space.no, log, seq, limits.run_entries_max, limits.run_size_max)
        if run is None:
            return
        self.connection.send(RunMessage(run))
        if run.last_seq < log.head.high:
            self._to_push[key] = run.last_seq + 1
            return
        evidence = self._store.fork_evidence(self.space.no, key) if log.head.fork is not None else None
        if evidence is not None:
            self.connection.send(RunMessage(evidence))

    def _serve_log(self, key: bytes, first: int, last: int = SEQ_MAX) -> None:
        """Owes the peer these entries of a log that may be held."""
        log = self._store.held(self.space.no, [key]).get(key)
        if log is None or not self._serving.add(key, log, first, last):
            self.connection.send(Decline((key,)))

    def push_later(self, key: bytes, seq: int) -> None:
        """Entries of this log from `seq` on are new here; the peer may lack them.

        For a peer that falls far behind the list is dropped, and a comparison made up for it once it is back.
        """
        if len(self._to_push) >= self._exchange.limits.pushes_max and key not in self._to_push:
            self._to_push.clear()
            self._pushes_lost = True
        self._to_push[key] = min(seq, self._to_push.get(key, seq))
        self._wake()


def _nothing(key: bytes) -> LogState:
    """The position of a log of which nothing is held."""
    return LogState(key, 0, None, State.ORDINARY)
