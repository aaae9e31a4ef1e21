"""Author: the one place where this node signs. A decision, its entries and their COMMIT happen under one lock.

Every start of a daemon opens new logs at its first own entry of each class, and the log to append to lives only in
this object's memory. A restored backup, a copied home or a second device can therefore never fork a log.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import trio

from p2pnode.ambient import Ambient
from p2pnode.space import Space
from p2pnode.store import Once, Store
from protocol import keys, membership, statement
from protocol.entry import Kind, LogClass, LogIdentity, time_units
from protocol.errors import InputRefused
from protocol.limits import LAMPORT_STEP_MAX, LOG_ID_SIZE, PAYLOAD_SALT_SIZE, REFS_MAX, RUN_ENTRIES_MAX
from protocol.log import Run, must_be_signed, rebuild
from protocol.statement import Claim, Founding

SIGN_EACH_MAX = 16  # of more entries published at once, only checkpoints and the last are signed


@dataclass(frozen=True, slots=True)
class _Tip:
    """Where the next own entry of one class goes."""

    log: LogIdentity
    seq: int
    id: bytes | None
    lamport: int


class Author:
    """Signs for the own author of each space."""

    def __init__(self, store: Store, ambient: Ambient) -> None:
        self._store = store
        self._ambient = ambient
        self._tips: dict[tuple[int, LogClass], _Tip] = {}
        self._lamports: dict[int, int] = {}  # highest own lamport, by space
        self.lock = trio.Lock()

    async def publish(
        self,
        space: Space,
        log_class: LogClass,
        statements: Sequence[tuple[int, bytes]],
        *,
        once: Once | None = None,
        marks: Sequence[bytes] = (),
    ) -> Run:
        """Signs and commits up to 1,024 (kind, payload) pairs as one run; durable when it returns. Needs `lock`.

        Raises InputRefused while what admits our author is not here. `marks` are remembered as imported in the same
        transaction; `once` remembers the answer to a retried call.
        """
        assert self.lock.locked()
        if not space.members.admitted(space.author):
            raise InputRefused("space", "not-admitted")
        run = self._sign(space, self._tip(space, log_class), statements)
        await self._store.publish(space.no, run, space, once=once, marks=marks)
        self._tips[space.no, log_class] = _Tip(run.log, run.last_seq, run.ids[-1], run.lamports[-1])
        self._lamports[space.no] = run.lamports[-1]
        return run

    def _tip(self, space: Space, log_class: LogClass) -> _Tip:
        tip = self._tips.get((space.no, log_class))
        if tip is not None:
            return tip
        log = LogIdentity(space.id, space.author, self._ambient.entropy(LOG_ID_SIZE), log_class)
        return _Tip(log, 0, None, 0)

    def _sign(self, space: Space, tip: _Tip, statements: Sequence[tuple[int, bytes]]) -> Run:
        assert 1 <= len(statements) <= RUN_ENTRIES_MAX
        count = len(statements)
        own = self._lamports.get(space.no)
        if own is None:
            own = self._store.author_lamport(space.no, space.author)
        lamport = 1 + max(own, min(self._store.counters(space.no).lamport_max, own + LAMPORT_STEP_MAX))
        refs = {}
        if tip.id is None:
            earlier = sorted(self._store.author_heads(space.no, space.author))[:REFS_MAX]
            if earlier:
                refs = {0: tuple(earlier)}
        run = rebuild(
            space.id,
            tip.log,
            tip.seq + 1,
            tip.id,
            range(lamport, lamport + count),
            [time_units(self._ambient.now())] * count,
            [kind for kind, _ in statements],
            [payload for _, payload in statements],
            {},
            refs,
            {},
        )
        return sign_run(run, space.signing_key)

    async def grant_due(self, space: Space) -> Run | None:
        """Grants the claims on our own invitations that have none yet; None when there is nothing to grant."""
        async with self.lock:
            due = membership.grants_due(space.members, space.author)
            if not due:
                return None
            statements = [
                (int(Kind.GRANT), statement.encode(grant, self._ambient.entropy(PAYLOAD_SALT_SIZE)))
                for grant in due[:RUN_ENTRIES_MAX]
            ]
            return await self.publish(space, LogClass.MEMBERSHIP, statements)


def first_entry(space: bytes | None, seed: bytes, body: Founding | Claim, ambient: Ambient) -> Run:
    """A log of one entry: a founding (of no space yet), or the claim with which a newcomer begins."""
    log = LogIdentity(space, keys.signer_public(seed), ambient.entropy(LOG_ID_SIZE), LogClass.MEMBERSHIP)
    payload = statement.encode(body, ambient.entropy(PAYLOAD_SALT_SIZE))
    now = time_units(ambient.now())
    run = rebuild(space or b"", log, 1, None, [1], [now], [int(statement.kind_of(body))], [payload], {}, {}, {})
    return sign_run(run, keys.signer_secret(seed))


def sign_run(run: Run, signing_key: bytes) -> Run:
    """The run with the signatures that it has to carry, and all of them where it is short."""
    count = len(run)
    signatures = {
        index: keys.sign(signing_key, keys.SIGN_ENTRY, run.ids[index])
        for index, payload in enumerate(run.payloads)
        if count <= SIGN_EACH_MAX or must_be_signed(index, count, run.first_seq + index, len(payload or b""))
    }
    return replace(run, signatures=signatures)
