"""Space: one collective as this node knows it right now: its secrets, its members, our own author in it.

It is also the gate of its store: asked in the writer thread, run by run, whether an entry's author belongs here. A run
of a membership log may be what admits its author, so it is judged together with what it says.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy

from p2pnode.ambient import Ambient
from p2pnode.store import SpaceRow, Store
from protocol import membership
from protocol.entry import LogClass
from protocol.handshake import LocalEnd
from protocol.keys import derive, signer_public, signer_secret
from protocol.log import Run
from protocol.mask import START_NONCE_SIZE, Mode, SessionSecret
from protocol.membership import Admission, Members, Use
from protocol.noise import KeyPair
from protocol.statement import Claim, Statement, statement_untrusted

INVITES_TRIED_MAX = 16  # of each inviter's open invitations, the newest: one member must not slow every handshake
_LAN_PURPOSE = b"p2pnode lan 1"


class Space:
    """Lives as long as the daemon; `members` is replaced as a whole, so any thread may read it."""

    def __init__(
        self, row: SpaceRow, statements: Iterable[Statement], authors: Iterable[bytes], ambient: Ambient
    ) -> None:
        self.no = row.no
        self.id = row.id
        self.epochs = row.epochs
        self.local = LocalEnd(KeyPair.from_secret(row.static_secret), ambient.entropy(START_NONCE_SIZE))
        self.author = signer_public(row.author_seed)
        self.signing_key = signer_secret(row.author_seed)
        self._statements = {statement.id: statement for statement in statements}
        self._staged: dict[bytes, Statement] = {}
        self._governed = False  # statements other than claims are not folded yet
        self._claimed = False  # some statement is not
        self._commits = 0  # that brought statements
        self._ever = set(authors)  # everybody of whom anything is held
        self.members: Members = membership.fold(self.id, self._statements.values())

    @classmethod
    async def load(cls, store: Store, row: SpaceRow, ambient: Ambient) -> "Space":
        """The space of a row in the store, its members folded from the entries held."""
        statements = statements_of(row.id, await store.membership_runs(row.no))
        return cls(row, statements, await store.log_authors(row.no), ambient)

    async def reload(self, store: Store) -> None:
        """Folds anew what the store trusts: a fork has taken back what this was folded from."""
        commits = -1
        while commits != self._commits:  # what is committed while we read is not to be lost
            commits = self._commits
            statements = statements_of(self.id, await store.membership_runs(self.no))
        self._statements = {statement.id: statement for statement in statements}
        self._governed = True
        self._now(claims=True)

    def copied(self) -> "Space":
        """A space that knows what this one knows, and may learn by itself. Called in the writer's thread."""
        twin = copy(self)
        twin._statements = {**self._statements, **self._staged}
        twin._staged = {}
        twin._ever = set(self._ever)
        return twin

    def forget(self, is_void: Callable[[bytes], bool]) -> None:
        """Folds anew without the statements of these ids: what `reload` does, for a copy."""
        self._statements = {id: said for id, said in self._statements.items() if not is_void(id)}
        self._governed = True
        self._now(claims=True)

    @property
    def name(self) -> str | None:
        """The founder's name for the space; None until its founding entry is here."""
        return self.members.founding.space_name if self.members.founding is not None else None

    @property
    def secret(self) -> SessionSecret:
        """What member sessions start from: the newest epoch's secret."""
        return SessionSecret(self.id, Mode.MEMBER, self.epochs[-1])

    @property
    def lan_key(self) -> bytes:
        """What the LAN beacons of the space are made with."""
        return derive(self.epochs[-1], _LAN_PURPOSE)

    @property
    def outcasts(self) -> set[bytes]:
        """Authors of whom something is held and who do not belong: others would not fetch it."""
        return self._ever - set(self.members.authors)

    def join_secrets(self, now: float, uses: Mapping[bytes, Use]) -> dict[bytes, Admission]:
        """The invitations that we would answer now, by join secret."""
        return membership.answerable(self.members, now, uses, INVITES_TRIED_MAX)

    def claim_in(self, run: Run) -> Statement | None:
        """The claim that a run consists of: one entry, the first of its log, its proof good. None: anything else."""
        statements = list(statements_of(self.id, [run]))
        if run.log.log_class is LogClass.MEMBERSHIP and len(run) == len(statements) == 1:
            return statements[0] if type(statements[0].body) is Claim else None
        return None

    # The gate: called by the store's writer, in this order, around one transaction

    def admits(self, run: Run) -> bool:
        """Whether the run's author belongs to the space; a founding or a claim may be what makes it so."""
        author = run.log.author
        if run.log.log_class is not LogClass.MEMBERSHIP:
            return self._now(claims=True).admitted(author)
        if self._now(claims=False).admitted(author):
            return True
        first = next((said for said in statements_of(self.id, [run]) if said.seq == 1), None)
        if first is not None and membership.takes_first(self.members, first):
            return True
        return self._now(claims=True).admitted(author)

    def taken(self, run: Run) -> None:
        """The run is part of the transaction that is going on."""
        if run.log.log_class is LogClass.MEMBERSHIP:
            for statement in statements_of(self.id, [run]):
                self._staged[statement.id] = statement
                self._claimed = True
                self._governed |= type(statement.body) is not Claim

    def committed(self) -> None:
        """What was taken is durable."""
        self._now(claims=True)
        self._commits += bool(self._staged)
        self._statements.update(self._staged)
        self._staged.clear()

    def rolled_back(self) -> None:
        """Nothing of what was taken is kept."""
        if self._staged:
            self._staged.clear()
            self._claimed = True
            self._now(claims=True)

    def _now(self, *, claims: bool) -> Members:
        """The members as of now. Claims wait for one fold together where only who may invite is asked."""
        if self._governed or (claims and self._claimed):
            self.members = membership.fold(self.id, [*self._statements.values(), *self._staged.values()])
            self._ever |= set(self.members.authors)
            self._governed = self._claimed = False
        return self.members


def statements_of(space: bytes, runs: Iterable[Run]) -> Iterable[Statement]:
    """What the entries of membership logs say, proofs checked; the others say nothing."""
    for run in runs:
        for index, payload in enumerate(run.payloads):
            if payload is not None:
                said = statement_untrusted(
                    space,
                    run.ids[index],
                    run.log.author,
                    run.lamports[index],
                    run.first_seq + index,
                    run.kinds[index],
                    payload,
                )
                if said is not None:
                    yield said
