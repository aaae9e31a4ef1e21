"""Statement: what one entry of a membership log says, its proof checked. Specification section "Membership".

    founding   opens the space: its author is the first curator (roster 1, k = 1), so neither is in the payload
    invite     announces an admission key, with a proof that its author holds the key's seed
    claim      first entry of a newcomer's membership log: the admission key's signature over (space, author)
    grant      the inviter's or a curator's word on who claimed an admission key; never a vouch

    payload = salt (16 bytes) || deterministic CBOR map with short text keys and `v`: 1; unknown keys are ignored

The admission key signs (space, author) and the author's own signature covers the claim that holds it, so that each of
the two keys has agreed to the other; a signature of the admission key over the entry would add nothing. The proof in
an invite keeps a member from announcing somebody else's admission key again with a role and grants of his own.
"""

import unicodedata
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, assert_never

from protocol import cbor, keys
from protocol.entry import Kind
from protocol.errors import InputRefused, LocalProtocolError, RemoteProtocolError
from protocol.limits import PAYLOAD_SALT_SIZE, PAYLOAD_SIZE_MAX

VERSION = 1
NAME_SIZE_MAX = 80  # bytes of a pen name or a space's name
EXPIRES_MAX = 2**53 - 1  # unix seconds; exact in every language's JSON

_EPOCH_PERSON = b"p2pnode epoch 1"
_ADMIT_PERSON = b"p2pnode admit 1"


class Role(IntEnum):
    """What an author may do; each role includes the lower ones."""

    READER = 0
    WRITER = 1
    VERIFIER = 2
    CURATOR = 3


# What a payload says


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules that a roster sets. What it does not mention has its default."""

    writers_invite: bool = False


@dataclass(frozen=True, slots=True)
class Founding:
    """Opens a space. `name` is the founder's pen name, `recovery` the public half of an offline key."""

    space_name: str
    name: str
    epoch_hash: bytes
    policy: Policy = Policy()
    recovery: bytes | None = None


@dataclass(frozen=True, slots=True)
class Invite:
    """Announces an admission key. Make it with `invite`, which adds the proof.

    An invitation may carry further admission keys for other pen names, without `voice` (reports only). They are
    announced apart and without a join secret: two invites with the same one would tie the pen names together.
    """

    admission: bytes
    role: Role
    expires_s: int
    join_secret: bytes | None = field(repr=False)
    voice: bool
    proof: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks for admission under an admission key. Make it with `claim`, which signs."""

    admission: bytes
    proof: bytes = field(repr=False)
    name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Says which author claimed an admission key."""

    admission: bytes
    author: bytes


Body = Founding | Invite | Claim | Grant


def epoch_hash(secret: bytes) -> bytes:
    """What a founding entry says of its epoch's secret, so that a newcomer can check what it was handed."""
    return keys.hash_of(_EPOCH_PERSON, secret)


def invite(
    space: bytes,
    inviter: bytes,
    admission_seed: bytes,
    role: Role,
    expires_s: int,
    join_secret: bytes | None,
    *,
    voice: bool = True,
) -> Invite:
    """An invite of this inviter, proven with the seed of its admission key."""
    proof = keys.sign(keys.signer_secret(admission_seed), keys.SIGN_INVITE, _bound(space, inviter))
    return Invite(keys.signer_public(admission_seed), role, expires_s, join_secret, voice, proof)


def claim(space: bytes, author: bytes, admission_seed: bytes, name: str) -> Claim:
    """The claim of this author, signed with the seed of an admission key."""
    proof = keys.sign(keys.signer_secret(admission_seed), keys.SIGN_CLAIM, _bound(space, author))
    return Claim(keys.signer_public(admission_seed), proof, name)


def check_invite(space: bytes, author: bytes, invite: Invite) -> bool:
    """Whether the holder of the admission key's seed let this author announce it in this space."""
    return keys.verified(invite.admission, keys.SIGN_INVITE, _bound(space, author), invite.proof)


def check_claim(space: bytes, author: bytes, claim: Claim) -> bool:
    """Whether the admission key let this author into this space."""
    return keys.verified(claim.admission, keys.SIGN_CLAIM, _bound(space, author), claim.proof)


def tidy_name(text: str, option: str = "name") -> str:
    """A pen name or a space's name as it is signed: NFC, without white space around it.

    Raises InputRefused for an empty one, one of more than 80 bytes and one with control characters or line breaks.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise InputRefused(option, "empty")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
        raise InputRefused(option, "control-character")
    if len(name.encode()) > NAME_SIZE_MAX:
        raise InputRefused(option, "too-long", NAME_SIZE_MAX)
    return name


def kind_of(body: Body) -> Kind:
    """The kind of entry that carries this body."""
    match body:
        case Founding():
            return Kind.FOUNDING
        case Invite():
            return Kind.INVITE
        case Claim():
            return Kind.CLAIM
        case Grant():
            return Kind.GRANT


def encode(body: Body, salt: bytes) -> bytes:
    """The payload of a body, behind 16 random bytes. Raises InputRefused for a name that cannot be published."""
    if len(salt) != PAYLOAD_SALT_SIZE:
        raise LocalProtocolError("salt must be 16 bytes")
    fields: dict[str, Any]
    match body:
        case Founding(space_name, name, digest, policy, recovery):
            fields = {
                "space": tidy_name(space_name, "space-name"),
                "name": tidy_name(name),
                "epoch": digest,
                "policy": {"invite": policy.writers_invite},
                "recovery": recovery,
            }
        case Invite(admission, role, expires_s, join_secret, voice, proof):
            fields = {
                "key": admission,
                "role": int(role),
                "expires": expires_s,
                "join": join_secret,
                "voice": voice,
                "proof": proof,
            }
        case Claim(admission, proof, name):
            fields = {"key": admission, "proof": proof, "name": tidy_name(name)}
        case Grant(admission, author):
            fields = {"key": admission, "author": author}
        case _:
            assert_never(body)
    payload = salt + cbor.encode({"v": VERSION} | {key: value for key, value in fields.items() if value is not None})
    try:
        decode_untrusted(kind_of(body), payload)
    except RemoteProtocolError as error:  # what we would call void in others we do not publish
        raise LocalProtocolError("body out of range") from error
    return payload


def decode_untrusted(kind: int, payload: bytes) -> Body | None:
    """The body of a membership entry, None for a kind unknown here. Proofs are not checked.

    Raises RemoteProtocolError for a payload that breaks its schema: it is kept and forwarded, and says nothing.
    """
    if kind not in (Kind.FOUNDING, Kind.INVITE, Kind.CLAIM, Kind.GRANT):
        return None
    fields = cbor.decode_untrusted(payload[PAYLOAD_SALT_SIZE:], PAYLOAD_SIZE_MAX - PAYLOAD_SALT_SIZE)
    if type(fields) is not dict or _int(fields, "v", VERSION) != VERSION:
        raise RemoteProtocolError("membership: not a map of this version")
    if kind == Kind.FOUNDING:
        policy = fields.get("policy")
        if type(policy) is not dict:
            raise RemoteProtocolError("membership: policy")
        writers_invite = _bool(policy, "invite", default=False)
        recovery = _bytes(fields, "recovery") if fields.get("recovery") is not None else None
        return Founding(
            _name(fields, "space"), _name(fields, "name"), _bytes(fields, "epoch"), Policy(writers_invite), recovery
        )
    if kind == Kind.INVITE:
        return Invite(
            _bytes(fields, "key"),
            Role(_int(fields, "role", Role.VERIFIER)),
            _int(fields, "expires", EXPIRES_MAX),
            _bytes(fields, "join") if fields.get("join") is not None else None,
            _bool(fields, "voice"),
            _bytes(fields, "proof", keys.SIGNATURE_SIZE),
        )
    if kind == Kind.CLAIM:
        return Claim(_bytes(fields, "key"), _bytes(fields, "proof", keys.SIGNATURE_SIZE), _name(fields, "name"))
    return Grant(_bytes(fields, "key"), _bytes(fields, "author"))


# From statements to members


@dataclass(frozen=True, slots=True)
class Statement:
    """One trusted entry of a membership log with its proof checked. Made by `statement_untrusted`."""

    id: bytes
    author: bytes
    lamport: int
    seq: int
    body: Body


def statement_untrusted(
    space: bytes, id: bytes, author: bytes, lamport: int, seq: int, kind: int, payload: bytes
) -> Statement | None:
    """What an authentic entry of a membership log has to say to the fold; None if that is nothing.

    Nothing: an unknown kind, a payload that breaks its schema, a proof that does not hold for this author in this
    space, a founding that is not this space's. None of these is a reason to close a link: others may have relayed it.
    """
    try:
        body = decode_untrusted(kind, payload)
    except RemoteProtocolError:
        return None
    match body:
        case Founding():
            proven = id == space
        case Invite():
            proven = check_invite(space, author, body)
        case Claim():
            proven = seq == 1 and check_claim(space, author, body)
        case Grant():
            proven = True
        case None:
            return None
    return Statement(id, author, lamport, seq, body) if proven else None


# Small parts of the schemas


def _bound(space: bytes, author: bytes) -> bytes:
    return keys.hash_of(_ADMIT_PERSON, space + author)


def _bytes(fields: dict[str, Any], key: str, size: int = keys.KEY_SIZE) -> bytes:
    value = fields.get(key)
    if type(value) is not bytes or len(value) != size:
        raise RemoteProtocolError("membership: bytes of wrong type or size")
    return value


def _int(fields: dict[str, Any], key: str, high: int) -> int:
    value = fields.get(key)
    if type(value) is not int or not 0 <= value <= high:
        raise RemoteProtocolError("membership: number of wrong type or range")
    return value


def _bool(fields: dict[str, Any], key: str, default: bool | None = None) -> bool:
    value = fields.get(key, default)
    if type(value) is not bool:
        raise RemoteProtocolError("membership: flag of wrong type")
    return value


def _name(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if type(value) is not str or not 1 <= len(value.encode()) <= NAME_SIZE_MAX:
        raise RemoteProtocolError("membership: name of wrong type or size")
    return value
