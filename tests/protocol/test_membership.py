"""Who belongs to a space: schemas, proofs, the order-free fold and what a node does about it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import cbor, keys
from protocol.entry import Kind
from protocol.errors import InputRefused, LocalProtocolError, RemoteProtocolError
from protocol.membership import (
    ANSWER_SECONDS,
    CLAIMANTS_MAX,
    Answer,
    Member,
    Members,
    Standing,
    Use,
    Via,
    answerable,
    fold,
    grants_due,
    may_answer,
    takes_first,
)
from protocol.statement import (
    Body,
    Claim,
    Founding,
    Grant,
    Invite,
    Policy,
    Role,
    Statement,
    check_claim,
    check_invite,
    claim,
    decode_untrusted,
    encode,
    epoch_hash,
    invite,
    kind_of,
    statement_untrusted,
    tidy_name,
)

SALT = b"salt" * 4
SPACE = b"P" * 32
OTHER_SPACE = b"Q" * 32
SEEDS = [bytes([n]) * 32 for n in range(1, 9)]
FOUNDER, ANA, BEN, EVA, ZOE = (keys.signer_public(seed) for seed in SEEDS[:5])
KEY_SEED, OTHER_SEED = SEEDS[5:7]
KEY, OTHER_KEY = keys.signer_public(KEY_SEED), keys.signer_public(OTHER_SEED)
SECRET = b"j" * 32
FOUNDING = Founding("Vecinos", "Fundadora", epoch_hash(b"e" * 32), Policy(writers_invite=True))

BODIES: list[Body] = [
    FOUNDING,
    Founding("s", "n", bytes(32), Policy(), recovery=b"r" * 32),
    invite(SPACE, FOUNDER, KEY_SEED, Role.VERIFIER, 2**53 - 1, SECRET),
    invite(SPACE, FOUNDER, KEY_SEED, Role.READER, 0, None, voice=False),
    claim(SPACE, ANA, KEY_SEED, "Ñandú 🐦"),
    Grant(KEY, ANA),
]


# Payloads


@pytest.mark.parametrize("body", BODIES)
def test_a_body_comes_back_from_its_payload(body: Body) -> None:
    payload = encode(body, SALT)
    assert payload.startswith(SALT)
    assert decode_untrusted(kind_of(body), payload) == body


def test_the_join_secret_does_not_show_when_an_invite_is_printed() -> None:
    assert "jjj" not in repr(BODIES[2])


def test_a_kind_unknown_here_says_nothing() -> None:
    assert decode_untrusted(Kind.REPORT, b"anything") is None
    assert decode_untrusted(17, b"") is None


@pytest.mark.parametrize("body", BODIES)
def test_a_key_unknown_here_is_ignored(body: Body) -> None:
    fields = cbor.decode_untrusted(encode(body, SALT)[16:], 9999)
    fields |= {"zz": [1, {"a": None}]}
    if isinstance(body, Founding):
        fields["policy"] |= {"verifiers": 3}
    assert decode_untrusted(kind_of(body), SALT + cbor.encode(fields)) == body


@pytest.mark.parametrize("body", BODIES)
def test_a_field_of_wrong_type_size_or_range_makes_the_payload_void(body: Body) -> None:
    fields = cbor.decode_untrusted(encode(body, SALT)[16:], 9999)
    wrongs: tuple[Any, ...] = (
        -1,
        2**53,
        2,
        True,
        "",
        "x" * 81,
        "á" * 41,
        b"",
        b"x" * 31,
        b"x" * 65,
        [],
        {"invite": 1},
        [True],
    )
    fitting = {("role", 2), ("expires", 2), ("voice", True)}
    for key in fields:
        for wrong in wrongs:
            if not any(key == field and wrong is value for field, value in fitting):
                with pytest.raises(RemoteProtocolError):
                    decode_untrusted(kind_of(body), SALT + cbor.encode(fields | {key: wrong}))
        if key not in ("recovery", "join"):
            with pytest.raises(RemoteProtocolError):
                decode_untrusted(kind_of(body), SALT + cbor.encode({k: v for k, v in fields.items() if k != key}))


def test_an_invite_cannot_make_a_curator() -> None:
    with pytest.raises(LocalProtocolError):
        encode(invite(SPACE, FOUNDER, KEY_SEED, Role.CURATOR, 1, SECRET), SALT)


def test_a_salt_of_wrong_size_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        encode(Grant(KEY, ANA), b"short")


membership_kinds = st.sampled_from([Kind.FOUNDING, Kind.INVITE, Kind.CLAIM, Kind.GRANT])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=70) | st.text(max_size=90),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["v", "key", "role", "expires", "join", "voice", "proof", "name", "space", "epoch", "policy", "author"]
maps = st.dictionaries(st.sampled_from(NAMES), values | st.just(1) | st.just(b"k" * 32) | st.just(b"p" * 64))
payloads = st.binary(max_size=300) | maps.map(lambda fields: SALT + cbor.encode(fields | {"v": 1}))


@given(membership_kinds | st.integers(0, 255), payloads)
def test_any_payload_is_a_body_or_void(kind: int, payload: bytes) -> None:
    try:
        body = decode_untrusted(kind, payload)
    except RemoteProtocolError:
        assert statement_untrusted(SPACE, b"i" * 32, ANA, 1, 1, kind, payload) is None
        return
    statement_untrusted(SPACE, b"i" * 32, ANA, 1, 1, kind, payload)
    if body is not None:
        assert kind_of(body) == kind


@given(st.sampled_from(BODIES), st.data())
def test_a_payload_with_any_bit_flipped_is_a_body_or_void(body: Body, data: st.DataObject) -> None:
    payload = bytearray(encode(body, SALT))
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[bit // 8] ^= 1 << bit % 8
    try:
        decode_untrusted(kind_of(body), bytes(payload))
    except RemoteProtocolError:
        assert bit >= 16 * 8


# Names


def test_a_name_is_signed_in_one_spelling() -> None:
    assert tidy_name(" n\u0303andu\u0301 ") == "ñandú"
    payload = encode(claim(SPACE, ANA, KEY_SEED, "  e\u0301 "), SALT)
    assert decode_untrusted(Kind.CLAIM, payload) == claim(SPACE, ANA, KEY_SEED, "é")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x" * 81, "too-long"),
        ("á" * 41, "too-long"),
        ("a\nb", "control-character"),
        ("a\x1b[31mb", "control-character"),
        ("a\u2028b", "control-character"),
        ("a\ud800b", "control-character"),
    ],
)
def test_a_name_that_cannot_be_published_is_refused_with_the_reason(name: str, reason: str) -> None:
    for body, option in (
        (claim(SPACE, ANA, KEY_SEED, name), "name"),
        (Founding(name, "n", bytes(32)), "space-name"),
        (Founding("s", name, bytes(32)), "name"),
    ):
        with pytest.raises(InputRefused) as caught:
            encode(body, SALT)
        assert (caught.value.field, caught.value.reason) == (option, reason)


# Proofs


def statement_of(author: bytes, body: Body, *, seq: int = 1, space: bytes = SPACE) -> Statement | None:
    return statement_untrusted(space, b"i" * 32, author, 5, seq, kind_of(body), encode(body, SALT))


def test_a_claim_holds_for_one_author_in_one_space() -> None:
    made = claim(SPACE, ANA, KEY_SEED, "Ana")
    assert check_claim(SPACE, ANA, made)
    assert not check_claim(SPACE, BEN, made)
    assert not check_claim(OTHER_SPACE, ANA, made)
    assert statement_of(ANA, made) == Statement(b"i" * 32, ANA, 5, 1, made)
    assert statement_of(BEN, made) is None
    assert statement_of(ANA, made, space=OTHER_SPACE) is None


def test_a_claim_counts_only_as_the_first_entry_of_its_log() -> None:
    assert statement_of(ANA, claim(SPACE, ANA, KEY_SEED, "Ana"), seq=2) is None


def test_an_invite_holds_for_one_inviter_in_one_space() -> None:
    made = invite(SPACE, ANA, KEY_SEED, Role.WRITER, 1, SECRET)
    assert check_invite(SPACE, ANA, made)
    assert statement_of(ANA, made, seq=3) is not None
    assert statement_of(BEN, made) is None, "a member cannot announce another's admission key"
    assert statement_of(ANA, made, space=OTHER_SPACE) is None


def test_a_signature_made_for_one_purpose_is_void_for_every_other() -> None:
    made_claim = claim(SPACE, ANA, KEY_SEED, "Ana")
    made_invite = invite(SPACE, ANA, KEY_SEED, Role.WRITER, 1, SECRET)
    assert not check_claim(SPACE, ANA, Claim(KEY, made_invite.proof, "Ana"))
    assert not check_invite(SPACE, ANA, Invite(KEY, Role.WRITER, 1, SECRET, True, made_claim.proof))
    secret = keys.signer_secret(KEY_SEED)
    for purpose in (keys.SIGN_ENTRY, b""):
        assert not check_claim(SPACE, ANA, Claim(KEY, keys.sign(secret, purpose, SPACE + ANA), "Ana"))
    assert not keys.verified(KEY, keys.SIGN_ENTRY, SPACE, made_claim.proof)


def test_a_small_order_admission_key_proves_nothing() -> None:
    path = Path(__file__).parents[2] / "../shared/vectors/ed25519/small-order-public-keys.json"
    if not path.exists():
        pytest.skip("shared vectors are not beside this project")
    found = [bytes.fromhex(text) for text in _hex_keys(json.loads(path.read_text()))]
    assert found
    for key in found:
        for proof in (bytes(64), key + bytes(32)):
            assert not check_claim(SPACE, ANA, Claim(key, proof, "Ana"))
            assert not check_invite(SPACE, ANA, Invite(key, Role.WRITER, 1, SECRET, True, proof))


def _hex_keys(value: Any) -> list[str]:
    match value:
        case str() if len(value) == 64 and set(value) <= set("0123456789abcdef"):
            return [value]
        case list():
            return [key for item in value for key in _hex_keys(item)]
        case dict():
            return [key for item in value.values() for key in _hex_keys(item)]
    return []


def test_a_founding_counts_only_for_the_space_that_has_its_id() -> None:
    payload = encode(FOUNDING, SALT)
    assert statement_untrusted(SPACE, SPACE, FOUNDER, 1, 1, Kind.FOUNDING, payload) is not None
    assert statement_untrusted(SPACE, OTHER_SPACE, FOUNDER, 1, 1, Kind.FOUNDING, payload) is None


# The fold. Statements are proven when they exist, so these are made without signing.


class Space:
    """A space told statement by statement, in the order in which its people acted."""

    def __init__(self, *, writers_invite: bool = True) -> None:
        founding = Founding("Vecinos", "Fundadora", bytes(32), Policy(writers_invite))
        self.statements = [Statement(SPACE, FOUNDER, 1, 1, founding)]

    def says(self, author: bytes, body: Body, *, seq: int = 1, lamport: int | None = None) -> Statement:
        number = len(self.statements) + 1
        statement = Statement(number.to_bytes(32, "big"), author, lamport or number, seq, body)
        self.statements.append(statement)
        return statement

    def invites(self, inviter: bytes, key: bytes, role: Role = Role.WRITER, **options: Any) -> Statement:
        return self.says(inviter, Invite(key, role, 1000, key, True, bytes(64)), **options)

    def claims(self, author: bytes, key: bytes, name: str = "?", **options: Any) -> Statement:
        return self.says(author, Claim(key, bytes(64), name), **options)

    def grants(self, granter: bytes, key: bytes, author: bytes, **options: Any) -> Statement:
        return self.says(granter, Grant(key, author), **options)

    @property
    def members(self) -> Members:
        return fold(SPACE, self.statements)

    @property
    def standings(self) -> dict[bytes, Standing]:
        return {author: member.standing for author, member in self.members.authors.items() if author != FOUNDER}


def test_the_founder_is_curator_and_nobody_else_is_there() -> None:
    members = Space().members
    assert members.authors == {FOUNDER: Member(Role.CURATOR, Standing.OK, Via.FOUNDING)}
    assert members.founding is not None
    assert members.founding.space_name == "Vecinos"
    assert members.names == {FOUNDER: "Fundadora"}
    assert members.is_curator(FOUNDER)


def test_without_the_founding_entry_nobody_is_admitted() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY)
    members = fold(SPACE, space.statements[1:])
    assert members == Members(SPACE)
    assert not members.admitted(FOUNDER)
    assert fold(OTHER_SPACE, space.statements) == Members(OTHER_SPACE)


def test_a_claim_is_provisional_until_it_is_granted() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    assert space.standings == {}
    space.claims(ANA, KEY, "Ana")
    assert space.standings == {ANA: Standing.PROVISIONAL}
    assert space.members.names[ANA] == "Ana"
    space.grants(FOUNDER, KEY, ANA)
    assert space.members.authors[ANA] == Member(Role.WRITER, Standing.OK, Via.CURATOR_GRANT, KEY)


def test_two_claims_are_contested_and_both_still_admitted_until_a_grant_picks_one() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY)
    space.claims(BEN, KEY)
    assert space.standings == {ANA: Standing.CONTESTED, BEN: Standing.CONTESTED}
    assert space.members.invites[KEY].contested
    assert grants_due(space.members, FOUNDER) == []
    space.grants(FOUNDER, KEY, BEN)
    assert space.standings == {BEN: Standing.OK}
    assert not space.members.admitted(ANA)
    assert not space.members.invites[KEY].contested
    assert space.members.invites[KEY].claimants == (ANA, BEN), "the collision stays visible"


def test_of_several_grants_the_inviters_lowest_stands_else_the_curators_lowest() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY)
    space.grants(FOUNDER, KEY, ANA)
    space.invites(ANA, OTHER_KEY)
    for author in (BEN, EVA, ZOE):
        space.claims(author, OTHER_KEY)
    space.grants(FOUNDER, OTHER_KEY, EVA, lamport=100)
    space.grants(FOUNDER, OTHER_KEY, ZOE, lamport=90)
    assert space.standings == {ANA: Standing.OK, ZOE: Standing.OK}
    space.grants(ANA, OTHER_KEY, EVA, lamport=300)
    space.grants(ANA, OTHER_KEY, BEN, lamport=200)
    assert space.standings == {ANA: Standing.OK, BEN: Standing.OK}
    assert space.members.authors[BEN].via is Via.ADMISSION_KEY


def test_a_grant_shuts_out_others_before_the_claim_it_names_has_come() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY)
    space.grants(FOUNDER, KEY, BEN)
    assert space.standings == {}
    space.claims(BEN, KEY)
    assert space.standings == {BEN: Standing.OK}


def test_statements_of_strangers_change_nothing() -> None:
    space = Space()
    before = space.members
    space.invites(EVA, KEY)
    space.claims(BEN, KEY)
    space.grants(EVA, KEY, BEN)
    space.claims(ZOE, OTHER_KEY)
    assert space.members == before


def test_a_grant_by_a_member_who_did_not_invite_is_void() -> None:
    space = Space()
    for author, key in ((ANA, KEY), (BEN, OTHER_KEY)):
        space.invites(FOUNDER, key)
        space.claims(author, key)
    space.grants(BEN, KEY, EVA)
    space.grants(ANA, KEY, ANA)
    assert space.standings == {ANA: Standing.PROVISIONAL, BEN: Standing.PROVISIONAL}


@pytest.mark.parametrize(
    ("own", "invited", "writers_invite", "counts"),
    [
        (Role.WRITER, Role.WRITER, True, True),
        (Role.WRITER, Role.READER, True, True),
        (Role.VERIFIER, Role.WRITER, True, True),
        (Role.WRITER, Role.VERIFIER, True, False),
        (Role.VERIFIER, Role.VERIFIER, True, False),
        (Role.READER, Role.READER, True, False),
        (Role.WRITER, Role.READER, False, False),
        (Role.VERIFIER, Role.READER, False, False),
    ],
)
def test_who_may_invite_whom(own: Role, invited: Role, writers_invite: bool, counts: bool) -> None:
    space = Space(writers_invite=writers_invite)
    space.invites(FOUNDER, KEY, own)
    space.claims(ANA, KEY)
    space.invites(ANA, OTHER_KEY, invited)
    space.claims(BEN, OTHER_KEY)
    assert space.members.admitted(BEN) == counts
    assert (OTHER_KEY in space.members.invites) == counts


def test_nobody_stands_better_than_the_inviter() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY)
    space.invites(ANA, OTHER_KEY)
    space.claims(BEN, OTHER_KEY)
    space.grants(ANA, OTHER_KEY, BEN)
    assert space.standings == {ANA: Standing.PROVISIONAL, BEN: Standing.PROVISIONAL}
    space.claims(EVA, KEY)
    contested = dict.fromkeys([ANA, BEN, EVA], Standing.CONTESTED)
    assert space.standings == contested
    space.grants(FOUNDER, KEY, ANA)
    assert space.standings == {ANA: Standing.OK, BEN: Standing.OK}
    assert len(space.statements) == 8


def test_who_was_invited_by_the_loser_of_a_contest_is_out_too() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY)
    space.claims(BEN, KEY)
    space.invites(BEN, OTHER_KEY)
    space.claims(EVA, OTHER_KEY)
    assert space.standings == dict.fromkeys([ANA, BEN, EVA], Standing.CONTESTED)
    space.grants(FOUNDER, KEY, ANA)
    assert space.standings == {ANA: Standing.OK}


def test_a_contested_inviters_grant_settles_nothing_and_is_not_asked_for() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY)
    space.claims(BEN, KEY)
    space.invites(BEN, OTHER_KEY)
    space.claims(EVA, OTHER_KEY)
    space.claims(ZOE, OTHER_KEY)
    space.grants(BEN, OTHER_KEY, EVA)
    assert space.members.invites[OTHER_KEY].granted is None
    assert grants_due(space.members, BEN) == grants_due(space.members, FOUNDER) == []


def test_of_two_invites_of_one_key_the_better_standing_inviters_counts() -> None:
    space = Space()
    space.invites(FOUNDER, KEY, Role.WRITER)
    space.claims(ANA, KEY)
    space.invites(ANA, OTHER_KEY, Role.READER, lamport=1)
    space.invites(FOUNDER, OTHER_KEY, Role.WRITER, lamport=99)
    assert space.members.invites[OTHER_KEY].inviter == FOUNDER


def test_of_two_invites_of_one_inviter_the_first_counts() -> None:
    space = Space()
    space.invites(FOUNDER, KEY, Role.VERIFIER, lamport=9)
    space.invites(FOUNDER, KEY, Role.READER, lamport=8)
    space.claims(ANA, KEY)
    assert space.members.authors[ANA].role is Role.READER


def test_a_later_claim_of_an_author_can_raise_its_role_and_rename_it() -> None:
    space = Space()
    space.invites(FOUNDER, KEY, Role.READER)
    space.invites(FOUNDER, OTHER_KEY, Role.VERIFIER)
    space.claims(ANA, KEY, "Ana")
    space.claims(ANA, OTHER_KEY, "Anita")
    assert space.members.authors[ANA] == Member(Role.VERIFIER, Standing.PROVISIONAL, Via.ADMISSION_KEY, OTHER_KEY)
    assert space.members.names[ANA] == "Anita"
    space.grants(FOUNDER, KEY, ANA)
    assert space.members.authors[ANA].role is Role.READER, "the surer admission counts before the higher role"


def test_a_claim_further_on_in_a_log_is_void_for_the_fold_too() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    space.claims(ANA, KEY, seq=2)
    assert space.standings == {}


def test_claiming_again_neither_contests_oneself_nor_changes_ones_place() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    first = space.claims(ANA, KEY, "Ana")
    space.claims(ANA, KEY, "Anita")
    assert space.standings == {ANA: Standing.PROVISIONAL}
    assert space.members.invites[KEY].claims == (first,)
    assert space.members.names[ANA] == "Anita"


def test_inviting_oneself_in_a_circle_admits_nobody() -> None:
    space = Space()
    space.invites(ANA, KEY)
    space.claims(BEN, KEY)
    space.invites(BEN, OTHER_KEY)
    space.claims(ANA, OTHER_KEY)
    assert space.standings == {}


def test_a_leaked_key_does_not_let_in_a_crowd() -> None:
    space = Space()
    space.invites(FOUNDER, KEY)
    crowd = [bytes([n]) * 32 for n in range(100, 100 + CLAIMANTS_MAX + 3)]
    claims = [space.claims(author, KEY) for author in crowd]
    assert set(space.standings) == set(crowd[:CLAIMANTS_MAX])
    assert not takes_first(space.members, Statement(b"z" * 32, ANA, 10**6, 1, Claim(KEY, bytes(64), "?")))
    assert takes_first(space.members, Statement(b"z" * 32, ANA, 1, 1, Claim(KEY, bytes(64), "?")))
    space.grants(FOUNDER, KEY, crowd[-1])
    assert space.standings == {crowd[-1]: Standing.OK}
    assert takes_first(space.members, claims[-1])
    assert not takes_first(space.members, claims[0])


AUTHORS = [FOUNDER, ANA, BEN, EVA, ZOE]
ADMISSION_KEYS = [bytes([n]) * 32 for n in range(200, 204)]
author_of = st.sampled_from([FOUNDER, *AUTHORS])
key_of = st.sampled_from(ADMISSION_KEYS)
hostile_body: st.SearchStrategy[Body] = st.one_of(
    st.builds(
        lambda key, role: Invite(key, role, 1000, key, True, bytes(64)),
        key_of,
        st.sampled_from([Role.READER, Role.WRITER, Role.WRITER, Role.VERIFIER]),
    ),
    st.builds(lambda key, name: Claim(key, bytes(64), name), key_of, st.sampled_from("abc")),
    st.builds(Grant, key_of, author_of),
    st.builds(lambda: Founding("false", "false", bytes(32))),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Statement]:
    """Keys invited, claimed and granted by anybody in any number, back-dated as they please; noise; the founding."""
    policy = Policy(draw(st.sampled_from([True, True, True, False])))
    bodies: list[tuple[bytes, Body]] = [(ZOE, body) for body in draw(st.lists(hostile_body, max_size=3))]
    roles = st.sampled_from([Role.WRITER, Role.WRITER, Role.READER, Role.VERIFIER])
    for number, key in enumerate(ADMISSION_KEYS):
        inviters = st.tuples(author_of if number else st.just(FOUNDER), roles)
        names = st.tuples(author_of, st.sampled_from("abc"))
        invites = draw(st.lists(inviters, min_size=1, max_size=2))
        bodies += [(author, Invite(key, role, 1000, key, True, bytes(64))) for author, role in invites]
        bodies += [(author, Claim(key, bytes(64), name)) for author, name in draw(st.lists(names, max_size=3))]
        pairs = draw(st.lists(st.tuples(author_of, author_of), max_size=2))
        bodies += [(author, Grant(key, granted)) for author, granted in pairs]
    return [
        Statement(SPACE, FOUNDER, 1, 1, Founding("Vecinos", "Fundadora", bytes(32), policy)),
        *(
            Statement(
                number.to_bytes(32, "big"), author, draw(st.integers(1, 6)), draw(st.sampled_from([1, 1, 2])), body
            )
            for number, (author, body) in enumerate(bodies)
        ),
    ]


@given(histories(), st.data())
def test_the_fold_knows_no_order_and_no_repetition(history: list[Statement], data: st.DataObject) -> None:
    expected = fold(SPACE, history)
    again = data.draw(st.permutations(history + data.draw(st.lists(st.sampled_from(history), max_size=5))))
    assert fold(SPACE, again) == expected


@settings(max_examples=500)
@given(histories())
def test_the_fold_agrees_with_the_rules_read_aloud(history: list[Statement]) -> None:
    expected = slow_fold(history)
    actual = fold(SPACE, history)
    assert {a: (m.role, m.standing, m.admission) for a, m in actual.authors.items()} == expected
    for author, member in actual.authors.items():
        if author == FOUNDER:
            assert member.role is Role.CURATOR
            continue
        assert member.admission is not None
        assert member.role < Role.CURATOR
        known = actual.invites[member.admission]
        assert author in known.claimants
        assert known.granted in (author, None)
        assert member.standing <= actual.authors[known.inviter].standing
        assert author in actual.names


@given(histories(), author_of)
def test_once_what_is_due_is_granted_nothing_is_due(history: list[Statement], author: bytes) -> None:
    before = fold(SPACE, history)
    due = grants_due(before, author)
    granted = [Statement(b"g" * 31 + bytes([n]), author, 10**6, 9, body) for n, body in enumerate(due)]
    after = fold(SPACE, history + granted)
    assert not {grant.admission for grant in grants_due(after, author)} & {grant.admission for grant in due}
    for grant in due:
        assert before.authors[grant.author].standing <= after.authors[grant.author].standing


@given(histories(), st.lists(st.tuples(hostile_body, st.integers(1, 6)), max_size=8))
def test_nothing_that_a_stranger_announces_or_grants_matters(
    history: list[Statement], noise: Sequence[tuple[Body, int]]
) -> None:
    said = [
        Statement(b"n" * 31 + bytes([number]), b"stranger" * 4, lamport, 1, body)
        for number, (body, lamport) in enumerate(noise)
        if not isinstance(body, Claim)
    ]
    assert fold(SPACE, said + history) == fold(SPACE, history)


def slow_fold(history: list[Statement]) -> dict[bytes, tuple[Role, Standing, bytes | None]]:
    """The rules at the head of protocol/membership.py once more, word by word and without care for speed."""
    founding = next(s for s in history if s.id == SPACE)
    assert isinstance(founding.body, Founding)
    policy = founding.body.policy
    ordered = sorted(history, key=lambda s: (s.lamport, s.id))
    authors: dict[bytes, tuple[Role, Standing, bytes | None]] = {FOUNDER: (Role.CURATOR, Standing.OK, None)}
    settled: set[bytes] = set()

    def counts(statement: Statement) -> bool:
        body = statement.body
        if not isinstance(body, Invite) or body.admission in settled or statement.author not in authors:
            return False
        role = authors[statement.author][0]
        if role is Role.CURATOR:
            return True
        return policy.writers_invite and role >= Role.WRITER and body.role <= Role.WRITER

    while candidates := [s for s in ordered if counts(s)]:
        best = max(authors[s.author][1] for s in candidates)
        chosen = next(s for s in candidates if authors[s.author][1] is best)
        assert isinstance(chosen.body, Invite)
        key, role = chosen.body.admission, chosen.body.role
        settled.add(key)
        claimants: list[bytes] = []
        for s in ordered:
            if isinstance(s.body, Claim) and s.body.admission == key and s.seq == 1 and s.author not in claimants:
                claimants.append(s.author)
        grants = [(s.author, s.body.author) for s in ordered if isinstance(s.body, Grant) and s.body.admission == key]
        standing = [a for granter, a in grants if granter == chosen.author and best is not Standing.CONTESTED]
        standing += [a for granter, a in grants if granter == FOUNDER]
        if standing:
            admitted = [(a, Standing.OK) for a in claimants if a == standing[0]]
        else:
            admitted = [(a, Standing.PROVISIONAL if len(claimants) == 1 else Standing.CONTESTED) for a in claimants]
        for author, own in admitted:
            new = (role, min(own, best), key)
            old = authors.get(author)
            if old is None or (new[1], new[0]) > (old[1], old[0]):
                authors[author] = new
    return authors


def test_a_chain_of_ten_thousand_invites_is_folded_without_recursion() -> None:
    space = Space()
    inviter = FOUNDER
    for number in range(10_000):
        key = number.to_bytes(32, "little")
        space.invites(inviter, key)
        inviter = number.to_bytes(32, "big") if number else ANA
        space.claims(inviter, key)
    assert len(space.members.authors) == 10_001


# Answering newcomers


def invited() -> Space:
    space = Space()
    space.invites(FOUNDER, KEY)
    return space


def test_an_announced_key_is_answered_until_it_expires() -> None:
    members = invited().members
    assert may_answer(members, KEY, 999.9, None) is Answer.YES
    assert may_answer(members, KEY, 999.9, None, ANA) is Answer.YES
    assert may_answer(members, KEY, 1000.0, None) is Answer.EXPIRED
    assert may_answer(members, OTHER_KEY, 0, None) is Answer.UNKNOWN


def test_an_invite_without_join_secret_is_never_answered() -> None:
    space = Space()
    space.says(FOUNDER, Invite(KEY, Role.WRITER, 1000, None, False, bytes(64)))
    assert may_answer(space.members, KEY, 0, None) is Answer.UNKNOWN
    assert answerable(space.members, 0, {}, 9) == {}


def test_a_key_claimed_elsewhere_is_not_answered() -> None:
    space = invited()
    space.claims(ANA, KEY)
    assert may_answer(space.members, KEY, 0, None) is Answer.CLAIMED
    granted = invited()
    granted.grants(FOUNDER, KEY, ANA)
    assert may_answer(granted.members, KEY, 0, None) is Answer.CLAIMED


def test_whom_this_node_answered_may_come_back_for_ten_minutes_and_nobody_else() -> None:
    space = invited()
    space.claims(ANA, KEY)
    use = Use(ANA, 100, acknowledged=False)
    last = 100 + ANSWER_SECONDS - 1
    assert may_answer(space.members, KEY, last, use) is Answer.YES
    assert may_answer(space.members, KEY, last, use, ANA) is Answer.YES
    assert may_answer(space.members, KEY, last, use, BEN) is Answer.CLAIMED
    assert may_answer(space.members, KEY, last + 1, use) is Answer.USED
    assert may_answer(space.members, KEY, 100 - ANSWER_SECONDS, use) is Answer.USED, "a clock set back opens nothing"


def test_an_acknowledged_key_is_used_up() -> None:
    assert may_answer(invited().members, KEY, 100, Use(ANA, 100, acknowledged=True), ANA) is Answer.USED


def test_whom_this_node_answered_waits_when_somebody_else_claimed_meanwhile() -> None:
    space = invited()
    space.claims(ANA, KEY)
    space.claims(BEN, KEY)
    assert may_answer(space.members, KEY, 100, Use(ANA, 100, acknowledged=False), ANA) is Answer.CLAIMED


def test_a_contested_inviters_guest_is_not_answered() -> None:
    space = invited()
    space.claims(ANA, KEY)
    space.claims(BEN, KEY)
    space.invites(ANA, OTHER_KEY)
    assert may_answer(space.members, OTHER_KEY, 0, None) is Answer.HELD


def test_only_the_newest_invites_of_each_inviter_are_worth_trying() -> None:
    space = invited()
    space.claims(ANA, KEY)
    space.grants(FOUNDER, KEY, ANA)
    numbers = [bytes([n]) * 32 for n in range(100, 110)]
    for key in numbers:
        space.invites(ANA, key)
    space.invites(FOUNDER, OTHER_KEY)
    used = {numbers[-1]: Use(BEN, 0, acknowledged=True)}
    found = answerable(space.members, 0, used, 3)
    assert list(found) == [OTHER_KEY, *reversed(numbers[-4:-1])]  # in this test a key is its own join secret
    assert [admission.invite.admission for admission in found.values()] == list(found)


# What is taken from strangers


def test_of_a_stranger_only_the_founding_and_a_claim_of_an_announced_key_is_taken() -> None:
    space = invited()
    members = space.members

    def stranger(body: Body, *, seq: int = 1, id: bytes = b"z" * 32) -> Statement:
        return Statement(id, ANA, 9, seq, body)

    assert takes_first(members, stranger(Claim(KEY, bytes(64), "?")))
    assert not takes_first(members, stranger(Claim(KEY, bytes(64), "?"), seq=2))
    assert not takes_first(members, stranger(Claim(OTHER_KEY, bytes(64), "?")))
    assert not takes_first(members, stranger(Grant(KEY, ANA)))
    assert not takes_first(members, stranger(Invite(OTHER_KEY, Role.READER, 1, None, True, bytes(64))))
    assert not takes_first(members, stranger(FOUNDING))
    assert takes_first(Members(SPACE), stranger(FOUNDING, id=SPACE))


def test_grants_are_due_from_the_inviter_and_from_curators() -> None:
    space = invited()
    space.claims(ANA, KEY)
    assert grants_due(space.members, FOUNDER) == [Grant(KEY, ANA)]
    assert grants_due(space.members, ANA) == []
    space.invites(ANA, OTHER_KEY)
    space.claims(BEN, OTHER_KEY)
    assert grants_due(space.members, ANA) == [Grant(OTHER_KEY, BEN)]
    assert sorted(grant.admission for grant in grants_due(space.members, FOUNDER)) == sorted([KEY, OTHER_KEY])
