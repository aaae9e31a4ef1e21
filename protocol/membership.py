"""Membership: who belongs to a space, folded from the statements in its membership logs. Specification "Membership".

The fold depends on the set of statements alone, never on the order or the number of times they came:

1. The founder is curator. An author's invites count when its role allows them: a curator's up to verifier, from
   writers up to writer where the policy says so, nobody's for a curator (that takes a roster).
2. An admission key is settled once. As long as there are invites that count for keys not settled, the next is the one
   whose inviter stands best now, then the lowest (lamport, id).
3. A grant counts from the key's inviter (unless contested) or a curator. Of several the inviter's lowest
   (lamport, id) stands, else the curators' lowest. The author it names is admitted once its claim is held, every other
   claimant is out.
4. Without a grant one claimant is provisional, two or more are contested.
5. Nobody stands better than its inviter.
6. Of several admissions of one author the best standing counts, then the highest role.

Expiry is not part of the fold: it is judged by the clock of the node that answers a newcomer (`may_answer`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from heapq import heappop, heappush

from protocol.statement import Claim, Founding, Grant, Invite, Policy, Role, Statement

ANSWER_SECONDS = 600  # how long the same newcomer may try again when its welcome was lost
CLAIMANTS_MAX = 8  # contested claimants of one key that are admitted: a leaked seed must not let in a crowd


class Standing(IntEnum):
    """How sure it is that an author is who was invited; higher is surer.

    A contested author still counts as admitted when logs are fetched and offered. Otherwise a node that holds both
    claims would offer neither, and nodes that saw only one of them would never learn of the other.
    """

    CONTESTED = 0
    PROVISIONAL = 1
    OK = 2


class Via(Enum):
    """What admitted an author: a closed union."""

    FOUNDING = "founding"
    ADMISSION_KEY = "admission-key"
    CURATOR_GRANT = "curator-grant"  # an admission key too, but this word outlives a cut of the inviter


@dataclass(frozen=True, slots=True)
class Member:
    """An admitted author; `admission` is the admission key that it claimed, None for the founder."""

    role: Role
    standing: Standing
    via: Via
    admission: bytes | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """An announced admission key and what became of it. `claims` holds one per author, by (lamport, id)."""

    invite: Invite
    entry: bytes
    inviter: bytes
    lamport: int
    claims: tuple[Statement, ...]
    granted: bytes | None

    @property
    def claimants(self) -> tuple[bytes, ...]:
        return tuple(claim.author for claim in self.claims)

    @property
    def contested(self) -> bool:
        """Whether a person has to say which of several claimants was meant."""
        return self.granted is None and len(self.claims) > 1


@dataclass(frozen=True, slots=True)
class Members:
    """What the statements of a space amount to. `names` also has claimants that are not admitted.

    Without the founding entry nobody is admitted.
    """

    space: bytes
    founding: Founding | None = None
    founder: bytes | None = None
    authors: Mapping[bytes, Member] = field(default_factory=dict)
    invites: Mapping[bytes, Admission] = field(default_factory=dict)
    names: Mapping[bytes, str] = field(default_factory=dict)

    def admitted(self, author: bytes) -> bool:
        """Whether logs of this author are fetched, offered and counted; see Standing for contested ones."""
        return author in self.authors

    def is_curator(self, author: bytes) -> bool:
        return author in self.authors and self.authors[author].role is Role.CURATOR


def fold(space: bytes, statements: Iterable[Statement]) -> Members:
    """The members of a space, by the rules at the head of this module. Any order, any repetition.

    Works outwards from the founder, best standing first: as nobody stands better than its inviter, everything about
    a standing is settled before the next lower one begins.
    """
    ordered = sorted({statement.id: statement for statement in statements}.values(), key=lambda s: (s.lamport, s.id))
    founding: Founding | None = None
    founder = b""
    invites: dict[bytes, tuple[Statement, Invite]] = {}
    invites_of: defaultdict[bytes, list[bytes]] = defaultdict(list)
    claims: defaultdict[bytes, dict[bytes, Statement]] = defaultdict(dict)
    grants: defaultdict[bytes, list[tuple[bytes, bytes]]] = defaultdict(list)
    for statement in ordered:
        match statement.body:
            case Founding() as body if statement.id == space:
                founding, founder = body, statement.author
            case Invite() as body:
                invites[statement.id] = statement, body
                invites_of[statement.author].append(statement.id)
            case Claim(key) if statement.seq == 1:
                claims[key].setdefault(statement.author, statement)
            case Grant(key, author):
                grants[key].append((statement.author, author))
    if founding is None:
        return Members(space)

    authors: dict[bytes, Member] = {}
    settled: dict[bytes, Admission] = {}
    admitted = [(founder, Member(Role.CURATOR, Standing.OK, Via.FOUNDING))]
    waiting: list[tuple[int, int, bytes]] = []
    while admitted or waiting:
        if admitted:
            author, member = admitted.pop()
            held = authors.get(author)
            if held is None or (member.standing, member.role) > (held.standing, held.role):
                authors[author] = member
                for id in invites_of[author]:
                    heappush(waiting, (-member.standing, invites[id][0].lamport, id))
            continue
        statement, body = invites[heappop(waiting)[2]]
        inviter = authors[statement.author]
        if body.admission not in settled and _may_invite(inviter.role, body.role, founding.policy):
            granted, by_curator = _standing_grant(grants[body.admission], statement.author, inviter.standing, founder)
            claimed = tuple(claims[body.admission].values())
            admission = Admission(body, statement.id, statement.author, statement.lamport, claimed, granted)
            settled[body.admission] = admission
            admitted = _admissions(admission, inviter.standing, by_curator)

    names = {founder: founding.name}
    for statement in ordered:  # a later claim carries the newer name
        match statement.body:
            case Claim(key, _, name) if statement.seq == 1 and key in settled:
                names[statement.author] = name
    return Members(space, founding, founder, authors, settled, names)


# What a node does about it


@dataclass(frozen=True, slots=True)
class Use:
    """What this node itself knows of an admission key that it answered: whom, since when, and whether it was done."""

    author: bytes
    answered_s: float
    acknowledged: bool


class Answer(Enum):
    """Whether a handshake under an invite's join secret is answered. Everything but YES is silence."""

    YES = "yes"
    UNKNOWN = "unknown"  # no such invite, or it has no join secret
    EXPIRED = "expired"  # by this node's clock
    HELD = "held"  # its inviter is contested
    CLAIMED = "claimed"  # by somebody else
    USED = "used"  # the newcomer has its welcome, or had ten minutes to fetch it


def may_answer(
    members: Members, admission: bytes, now_s: float, use: Use | None, author: bytes | None = None
) -> Answer:
    """Whether to answer a newcomer under this admission key.

    Asked twice: before the first byte, when nobody knows yet who is there, and with the `author` of the claim before
    the secrets of the space are handed over. A key claimed at another node is not answered here.
    """
    known = members.invites.get(admission)
    if known is None or known.invite.join_secret is None:
        return Answer.UNKNOWN
    if now_s >= known.invite.expires_s:
        return Answer.EXPIRED
    if members.authors[known.inviter].standing is Standing.CONTESTED:
        return Answer.HELD
    if use is not None and (use.acknowledged or abs(now_s - use.answered_s) >= ANSWER_SECONDS):
        return Answer.USED
    others = {*known.claimants, known.granted, author} - {None}
    if others - ({use.author} if use is not None else {author}):
        return Answer.CLAIMED
    return Answer.YES


def answerable(
    members: Members, now_s: float, uses: Mapping[bytes, Use], per_inviter_max: int
) -> dict[bytes, Admission]:
    """The admissions whose join secrets are worth trying on a stranger's first message, by join secret.

    Of each inviter only the newest few: trying costs time, and one member must not make every node try thousands.
    A member may have announced another's join secret as his own: what counts is the admission key that the claim
    names, so ask `may_answer` for that one, and check that its invite has the join secret of the session.
    """
    counts: defaultdict[bytes, int] = defaultdict(int)
    found: dict[bytes, Admission] = {}
    for key, admission in sorted(members.invites.items(), key=lambda i: (i[1].lamport, i[1].entry), reverse=True):
        secret = admission.invite.join_secret
        if (
            secret is not None
            and counts[admission.inviter] < per_inviter_max
            and may_answer(members, key, now_s, uses.get(key)) is Answer.YES
        ):
            counts[admission.inviter] += 1
            found.setdefault(secret, admission)
    return found


def takes_first(members: Members, statement: Statement) -> bool:
    """Whether the first entry of a membership log is taken from an author that is not admitted.

    The founding entry is, and a claim of an announced key while it can still matter. It stays the only entry of its
    log that is taken until the fold admits its author.
    """
    match statement.body:
        case Founding():
            return statement.id == members.space
        case Claim(admission):
            known = members.invites.get(admission)
            if known is None or statement.seq != 1:
                return False
            if known.granted is not None:
                return known.granted == statement.author
            if len(known.claims) < CLAIMANTS_MAX:
                return True
            last = known.claims[CLAIMANTS_MAX - 1]
            return (statement.lamport, statement.id) < (last.lamport, last.id)
        case Invite() | Grant():
            return False


def grants_due(members: Members, author: bytes) -> list[Grant]:
    """The grants that this author's node should publish now, without asking anybody.

    Those of claims alone on their key, for the key's inviter and for curators. Two claims wait for a person.
    """
    return [
        Grant(key, known.claimants[0])
        for key, known in sorted(members.invites.items())
        if known.granted is None
        and len(known.claims) == 1
        and (author == known.inviter or members.is_curator(author))
        and members.authors[known.inviter].standing is not Standing.CONTESTED
    ]


# Small parts of the fold


def _may_invite(role: Role, invited: Role, policy: Policy) -> bool:
    if role is Role.CURATOR:
        return invited < Role.CURATOR
    return policy.writers_invite and role >= Role.WRITER and invited <= Role.WRITER


def _standing_grant(
    grants: list[tuple[bytes, bytes]], inviter: bytes, standing: Standing, curator: bytes
) -> tuple[bytes | None, bool]:
    """The author that the standing one of these (granter, author) names, and whether a curator granted it too."""
    by_inviter = [author for granter, author in grants if granter == inviter and standing > Standing.CONTESTED]
    by_curators = [author for granter, author in grants if granter == curator]
    granted = next(iter(by_inviter + by_curators), None)
    return granted, granted in by_curators


def _admissions(admission: Admission, inviter: Standing, by_curator: bool) -> list[tuple[bytes, Member]]:
    """The authors that an admission key admits, with what it makes of each."""
    key, role = admission.invite.admission, admission.invite.role
    claimants = admission.claimants
    if admission.granted is not None:
        via = Via.CURATOR_GRANT if by_curator else Via.ADMISSION_KEY
        return [(admission.granted, Member(role, inviter, via, key))] if admission.granted in claimants else []
    own = Standing.CONTESTED if admission.contested else Standing.PROVISIONAL
    member = Member(role, min(own, inviter), Via.ADMISSION_KEY, key)
    return [(author, member) for author in claimants[:CLAIMANTS_MAX]]
