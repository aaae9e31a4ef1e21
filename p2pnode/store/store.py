"""Store: everything that this node keeps, and the only door to it.

What is async waits for a thread; what is not is a point read, or a run of bounded size, in the event loop itself.
What a page that is damaged held is gone, the rest stays readable; see database.py, writer.py and file.py for how.
"""

import ctypes
import gc
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import apsw

from p2pnode.store import check, forks, heads, peers, reports, runs, spaces
from p2pnode.store.board import Board
from p2pnode.store.database import Database, snapshot
from p2pnode.store.errors import StoreDamaged
from p2pnode.store.fingerprint import Fingerprints
from p2pnode.store.heads import HeldLog
from p2pnode.store.intake import Gate, Outcome, take_runs
from p2pnode.store.peers import Once
from p2pnode.store.relays import Relays
from p2pnode.store.spaces import Counters, SpaceRow
from protocol.errors import LocalProtocolError
from protocol.frontier import LogState
from protocol.limits import RUN_ENTRIES_MAX
from protocol.log import Run, Verdict
from protocol.membership import Use


class Store:
    """Made by `open`; every method but `open` belongs to the thread of the event loop."""

    def __init__(self, database: Database, *, on_error: Callable[[str], None]) -> None:
        self.write = database.write  # for what this class has no word for
        self.query = database.query
        self._board = board = Board(database)
        self.index_some = board.index_some
        self.list_reports = board.list_reports
        self.search = board.search
        self.find = board.find
        self.relays = Relays(database)
        self._database = database
        self._peek = database.peek
        self._on_error = on_error
        self._fingerprints = Fingerprints(database)

    @classmethod
    def open(
        cls,
        path: Path | str,
        key: bytes,
        *,
        create: bool = True,
        inline: bool = False,
        on_error: Callable[[str], None] = lambda event: None,
    ) -> Self:
        """Opens the store under its raw 32-byte key; makes a new one if there is none and `create` allows it.

        `inline` does all work in the caller's thread (for simulated time). `on_error` hears of what nobody waits for,
        as names of events, from any thread. Raises StoreRefused, StoreLocked, StoreFull, StoreDamaged or StoreFailed.
        """
        return cls(Database(Path(path), key, create=create, inline=inline, on_error=on_error), on_error=on_error)

    async def close(self) -> None:
        """Finishes every write that was asked for, then closes the file."""
        await self._database.close()

    # Entries in

    async def commit_runs(self, space_no: int, batch: Sequence[Run], gate: Gate) -> list[Outcome]:
        """Takes proven runs in one transaction; an outcome for each, in the order given.

        It survives the death of the process, not a power cut: peers still have what they sent.
        """
        return await self._take(space_no, batch, gate, durable=False)

    async def publish(
        self, space_no: int, run: Run, gate: Gate, *, once: Once | None = None, marks: Sequence[bytes] = ()
    ) -> None:
        """Commits a run of our own, listed and searchable, with the marks that go with it; durable when it returns.

        Raises LocalProtocolError for a run that does not extend its log or is not admitted.
        """

        def also(db: apsw.Connection, outcomes: list[Outcome]) -> None:
            if outcomes[0].verdict is not Verdict.EXTENDS:
                raise LocalProtocolError(f"own run not taken: {outcomes[0].verdict.value}")
            if once is not None:
                peers.remember_once(db, once, run)
            peers.mark_imported(db, space_no, marks)
            reports.list_own(db, space_no, run)

        await self._take(space_no, [run], gate, durable=True, also=also)

    async def _take(
        self,
        space_no: int,
        batch: Sequence[Run],
        gate: Gate,
        *,
        durable: bool,
        also: Callable[[apsw.Connection, list[Outcome]], None] = lambda db, outcomes: None,
    ) -> list[Outcome]:
        def job(db: apsw.Connection) -> list[Outcome]:
            taken = take_runs(db, space_no, batch, gate)
            if taken.filled:
                self._board.fills += 1
                reports.enter_late(db, taken.unlisted)
            also(db, taken.outcomes)
            return taken.outcomes

        def settled(committed: bool) -> None:
            gate.committed() if committed else gate.rolled_back()

        outcomes = await self.write(job, durable=durable, urgent=durable, settled=settled)
        self._fingerprints.mark(space_no, (outcome.key for outcome in outcomes if outcome.news))
        return outcomes

    # Entries out

    def read_run(self, space_no: int, key: bytes, first: int, entries_max: int, size_max: int) -> Run | None:
        """Entries of a log from seq `first` on, up to the furthest signed one within the bounds, ids computed anew.

        Damaged entries are never part of it: they are set aside, and count as missing until a peer sends them again.
        """
        held = self._held(space_no, key)
        return None if held is None else self.read_held(space_no, held, first, entries_max, size_max)

    def read_held(self, space_no: int, held: HeldLog, first: int, entries_max: int, size_max: int) -> Run | None:
        """The same for a log that was looked up before: what came since then is not read."""
        space = self._fingerprints.space_id(space_no)
        entries_max = min(entries_max, RUN_ENTRIES_MAX)
        try:
            reading = self._peek(lambda db: runs.read_run(db, space, held, first, entries_max, size_max))
        except StoreDamaged:
            self._on_error("store.page_damaged")
            return None
        if reading.damaged is not None:
            self._on_error("store.entry_damaged")
            self._database.leave(partial(runs.set_aside, space_no=space_no, row=reading.damaged))
        return reading.run

    async def membership_runs(self, space_no: int) -> list[Run]:
        """What is held of the space's membership logs and can be trusted: nothing from a fork on."""
        return await self.query(lambda db: list(runs.membership_runs(db, space_no, heads.space_id(db, space_no))))

    def wanted(self, space_no: int, limit: int) -> list[tuple[bytes, int, int]]:
        """(log key, first seq, last seq) of stretches in which payloads are missing, each ending at a signed entry."""
        return self._peek(lambda db: runs.wanted(db, space_no, limit))

    def fork_evidence(self, space_no: int, key: bytes) -> Run | None:
        """The branch of a forked log that is not held, without payloads: sent behind our own it proves the fork."""
        held = self._held(space_no, key)
        if held is None:
            return None
        return self._peek(lambda db: forks.other_branch(db, held.no, self._fingerprints.space_id(space_no)))

    # How far logs are held

    def held(self, space_no: int, keys: Sequence[bytes]) -> dict[bytes, HeldLog]:
        """How far each of these logs is held, in one statement; those not held at all are left out."""
        space = self._fingerprints.space_id(space_no)
        return self._peek(lambda db: heads.held_logs(db, space_no, space, keys))

    def id_at(self, space_no: int, key: bytes, seq: int) -> bytes | None:
        """The id held at a seq of a log."""
        held = self._held(space_no, key)
        return None if held is None else self._peek(lambda db: heads.id_at(db, held, seq))

    def position(self, space_no: int, key: bytes) -> LogState | None:
        """How far a log counts in the frontier; None where nothing of it is held."""
        held = self._held(space_no, key)
        return None if held is None else heads.position(key, held)

    def positions(self, space_no: int, keys: Sequence[bytes]) -> dict[bytes, LogState]:
        """The same for many logs in one statement."""
        return {key: heads.position(key, held) for key, held in self.held(space_no, keys).items()}

    def author_lamport(self, space_no: int, author: bytes) -> int:
        """The highest lamport among an author's entries, 0 where there are none."""
        return max((lamport for lamport, _ in self._author_heads(space_no, author)), default=0)

    def author_heads(self, space_no: int, author: bytes) -> list[bytes]:
        """The id of the newest entry of each class among an author's logs."""
        return [id for _, id in self._author_heads(space_no, author)]

    def _author_heads(self, space_no: int, author: bytes) -> list[tuple[int, bytes]]:
        return list(self._peek(lambda db: heads.author_heads(db, space_no, author)).values())

    def _held(self, space_no: int, key: bytes) -> HeldLog | None:
        space = self._fingerprints.space_id(space_no)
        return self._peek(lambda db: heads.held_log(db, space_no, space, key))

    # The frontier

    def log_states(self, db: apsw.Connection, space_no: int) -> list[LogState]:
        """The whole frontier, sorted by key: for use inside `query`."""
        left_out = self._fingerprints.left_out(space_no)
        return [state for state in heads.log_states(db, space_no) if state.key not in left_out]

    def left_out(self, space_no: int) -> frozenset[bytes]:
        """The keys of logs that are held and do not count: their authors do not belong."""
        return self._fingerprints.left_out(space_no)

    async def log_authors(self, space_no: int) -> set[bytes]:
        """Everybody of whom anything is held."""
        return await self.query(lambda db: heads.log_authors(db, space_no))

    def set_outcasts(self, space_no: int, authors: Iterable[bytes]) -> None:
        """The authors whose logs are held and do not count any more: those that others would not fetch."""
        keys = self._peek(lambda db: heads.keys_of(db, space_no, list(authors)))
        self._fingerprints.leave_out(space_no, frozenset(keys))

    async def digest(self, space_no: int) -> bytes:
        """D of the space."""
        return await self._fingerprints.digest(space_no)

    # Spaces

    async def load_spaces(self) -> list[SpaceRow]:
        """Every space of this node."""
        return await self.query(spaces.spaces)

    async def add_space(
        self, id: bytes, *, epochs: Sequence[bytes], static_secret: bytes, author_seed: bytes, founding: Run
    ) -> SpaceRow:
        """A new space and its first entry here, the founding or our claim; durable when it returns."""

        def job(db: apsw.Connection) -> SpaceRow:
            row = spaces.add(db, id, epochs=epochs, static_secret=static_secret, author_seed=author_seed)
            take_runs(db, row.no, [founding], _Everybody())
            return row

        return await self.write(job, durable=True, urgent=True)

    def counters(self, space_no: int) -> Counters:
        """What the space holds: kept with every commit, never counted here."""
        return self._peek(lambda db: spaces.counters(db, space_no))

    # Peers, and what must not happen twice

    def peers(self, space_no: int) -> list[tuple[str, int]]:
        """The addresses to dial for a space."""
        return self._peek(lambda db: peers.peers(db, space_no))

    async def add_peer(self, space_no: int, host: str, port: int) -> None:
        await self.write(lambda db: peers.add_peer(db, space_no, host, port), durable=True, urgent=True)

    async def remember_handshake(self, tag: bytes, week: int) -> bool:
        """Whether this first message is new, and not a replay."""
        return await self.write(lambda db: peers.remember_handshake(db, tag, week), durable=False, urgent=True)

    def invite_uses(self) -> dict[bytes, Use]:
        """What this node knows of the admission keys that it answered."""
        return self._peek(peers.invite_uses)

    async def answer_invite(self, admission: bytes, author: bytes, now_s: float) -> bool:
        """Notes who claimed an admission key here; False when it was somebody else before."""
        return await self.write(lambda db: peers.answer_invite(db, admission, author, now_s), durable=True, urgent=True)

    async def acknowledge_invite(self, admission: bytes) -> None:
        """The newcomer has stored its welcome."""
        await self.write(lambda db: peers.acknowledge_invite(db, admission), durable=True, urgent=True)

    def joining(self, admission: bytes) -> bytes | None:
        """The author's seed of a join that has begun under this admission key."""
        return self._peek(lambda db: peers.joining(db, admission))

    async def keep_joining(self, admission: bytes, seed: bytes) -> None:
        await self.write(lambda db: peers.keep_joining(db, admission, seed), durable=True, urgent=True)

    async def once(self, token: bytes) -> Any:
        """The answer that a call with this mark got before, None if there was none."""
        return await self.query(lambda db: peers.once(db, token))

    async def unimported(self, space_no: int, marks: Sequence[bytes]) -> list[bytes]:
        """Those of the marks that were not published before, in their order."""
        return await self.query(lambda db: peers.unimported(db, space_no, marks))

    # Housekeeping

    async def check(self, progress: Callable[[int, int], None]) -> dict[str, int]:
        """Computes and verifies everything held once more: {entries, logs, forks, bad}.

        What is found damaged is set aside, so that peers are asked for it again. `progress` hears (done, total) logs.
        """
        total = sum(self.counters(row.no).logs for row in self._peek(spaces.spaces))
        findings = check.Findings()
        connection = await self._database.run(self._database.connect)
        try:
            after: int | None = 0
            while after is not None:
                some = partial(check.check_logs, after=after)
                part, after = await self._database.run(partial(snapshot, connection, some))
                findings += part
                progress(findings.logs, total)
            findings += await self._database.run(partial(snapshot, connection, check.check_whole))
        except StoreDamaged:  # not even the list of logs can be read to its end
            findings += check.Findings(bad=1)
        finally:
            connection.close()
        for space_no, row in findings.damaged:
            self._database.leave(partial(runs.set_aside, space_no=space_no, row=row))
        return {"entries": findings.entries, "logs": findings.logs, "forks": findings.forks, "bad": findings.bad}

    def release_memory(self) -> None:
        """Gives page caches and freed memory back to the system: for the quiet after a burst."""
        self._database.shrink()
        gc.collect()
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL(None).malloc_trim(0)


class _Everybody:
    """The gate of a space that begins: its first entry is what admits anybody at all."""

    def admits(self, run: Run, /) -> bool:
        return True

    def taken(self, run: Run, /) -> None:
        pass

    def committed(self) -> None:
        pass

    def rolled_back(self) -> None:
        pass
