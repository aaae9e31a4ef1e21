"""The masked handshake: two ends that share a secret meet, and nobody else sees or gets anything."""

from collections.abc import Callable
from copy import deepcopy
from hashlib import blake2b
from operator import and_, or_

import pytest

from protocol import cbor, keys
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.handshake import Finished, Initiator, LocalEnd, Opened, RemoteEnd, Responder
from protocol.limits import HANDSHAKE_FILL_MAX, HANDSHAKE_MESSAGE_MAX, HANDSHAKE_WEEK_SECONDS
from protocol.mask import Mode, SessionSecret
from protocol.noise import XX, HandshakeState, KeyPair, Pattern

NOW = 1_795_000_000.0
SECRET = SessionSecret(bytes(range(32)), Mode.MEMBER, b"\x07" * 32)
DIGEST = b"\xdd" * 32
NOTHING_FILLED, FILLED = 0, 65_535


def stream(seed: str) -> Callable[[int], bytes]:
    """Bytes that look random and are the same every time."""
    count = 0

    def entropy(size: int) -> bytes:
        nonlocal count
        count += 1
        out = b"".join(blake2b(f"{seed} {count} {block}".encode()).digest() for block in range(size // 64 + 1))
        return out[:size]

    return entropy


def filling(seed: str, draw: int) -> Callable[[int], bytes]:
    """The same, but what is drawn for the size of the fill is `draw`."""
    entropy = stream(seed)
    return lambda size: draw.to_bytes(2, "big") if size == 2 else entropy(size)


def end_of(seed: str) -> LocalEnd:
    entropy = stream(f"end {seed}")
    return LocalEnd(KeyPair.generate(entropy), entropy(16))


ALICE, BOB = end_of("alice"), end_of("bob")


def dial(
    secret: SessionSecret = SECRET,
    *,
    local: LocalEnd = ALICE,
    digest: bytes | None = DIGEST,
    draw: int = NOTHING_FILLED,
    seed: str = "a",
    now: float = NOW,
) -> Initiator:
    return Initiator(secret, local, KeyPair.generate(stream(f"{seed} e")), digest, filling(seed, draw), now)


def answer(*secrets: SessionSecret, draw: int = NOTHING_FILLED, seed: str = "b", now: float = NOW) -> Responder:
    return Responder(secrets or (SECRET,), filling(seed, draw), now)


def accept(responder: Responder, *, local: LocalEnd = BOB, digest: bytes | None = DIGEST, seed: str = "b") -> bytes:
    return responder.accept(local, KeyPair.generate(stream(f"{seed} e")), digest)


def meet(initiator: Initiator, responder: Responder, piece: int = 10**9) -> tuple[Finished, Finished, list[bytes]]:
    """All three messages, delivered in pieces of one size."""

    def deliver(receive: Callable[[bytes], Opened | Finished | None], message: bytes) -> Opened | Finished:
        outcomes = [receive(message[at : at + piece]) for at in range(0, len(message), piece)]
        assert not any(outcomes[:-1])
        assert outcomes[-1] is not None
        return outcomes[-1]

    first = initiator.start()
    assert isinstance(deliver(responder.receive, first), Opened)
    second = accept(responder)
    ours = deliver(initiator.receive, second)
    assert isinstance(ours, Finished)
    theirs = deliver(responder.receive, ours.outgoing)
    assert isinstance(theirs, Finished)
    return ours, theirs, [first, second, ours.outgoing]


def assert_session(ours: Finished, theirs: Finished) -> None:
    assert ours.transport.handshake_hash == theirs.transport.handshake_hash
    for send, receive in (
        (ours.transport.send, theirs.transport.receive),
        (theirs.transport.send, ours.transport.receive),
    ):
        assert receive.decrypt_with_ad(b"", send.encrypt_with_ad(b"", b"word")) == b"word"


# Two that may meet


@pytest.mark.parametrize("piece", [1, 2, 33, 10**9])
@pytest.mark.parametrize("draw", [NOTHING_FILLED, FILLED])
def test_two_ends_meet_whatever_the_pieces(piece: int, draw: int) -> None:
    ours, theirs, _ = meet(dial(draw=draw), answer(draw=draw), piece)
    assert RemoteEnd(BOB.static.public, BOB.start_nonce, DIGEST) == ours.remote
    assert RemoteEnd(ALICE.static.public, ALICE.start_nonce, DIGEST) == theirs.remote
    assert (theirs.outgoing, ours.leftover) == (b"", b"")
    assert_session(ours, theirs)


@pytest.mark.parametrize("mode", list(Mode))
def test_every_mode_has_its_sessions_and_may_do_without_a_digest(mode: Mode) -> None:
    secret = SessionSecret(SECRET.space, mode, SECRET.secret)
    responder = answer(secret)
    initiator = dial(secret, digest=None)
    assert secret == responder.receive(initiator.start()).secret  # type: ignore[union-attr]  # Opened
    ours = initiator.receive(accept(responder, digest=None))
    assert isinstance(ours, Finished)
    assert ours.remote.digest is None
    assert isinstance(responder.receive(ours.outgoing), Finished)


def test_what_follows_the_last_message_is_handed_on() -> None:
    initiator, responder = dial(), answer()
    responder.receive(initiator.start())
    ours = initiator.receive(accept(responder))
    assert isinstance(ours, Finished)
    theirs = responder.receive(ours.outgoing + b"records")
    assert isinstance(theirs, Finished)
    assert theirs.leftover == b"records"
    assert_session(ours, theirs)


@pytest.mark.parametrize("weeks", [-1, 0, 1])
def test_clocks_may_be_a_week_apart(weeks: int) -> None:
    responder = answer(now=NOW + weeks * HANDSHAKE_WEEK_SECONDS)
    opened = responder.receive(dial().start())
    assert isinstance(opened, Opened)
    assert opened.week == NOW // HANDSHAKE_WEEK_SECONDS


def test_a_clock_at_1970_is_no_exception() -> None:
    assert isinstance(answer(now=0.0).receive(dial(now=-1.0).start()), Opened)


def test_the_responder_finds_the_secret_among_many() -> None:
    others = [SessionSecret(bytes([n]) * 32, Mode(n % 3), bytes([n]) * 32) for n in range(40)]
    for piece in (1, 10**9):
        responder = answer(*others, SECRET)
        ours, theirs, _ = meet(dial(), responder, piece)
        assert_session(ours, theirs)


def test_a_replayed_first_message_has_its_tag_and_no_other_message_has() -> None:
    first = dial().start()
    tags = []
    for message in (first, first, dial(seed="other").start()):
        opened = answer().receive(message)
        assert isinstance(opened, Opened)
        assert len(opened.replay_tag) == 16
        tags.append(opened.replay_tag)
    assert tags[0] == tags[1] != tags[2]


# Those who may not


def feed(end: Initiator | Responder, *pieces: bytes) -> None:
    for piece in pieces:
        assert end.receive(piece) is None


def assert_silent(responder: Responder, data: bytes) -> None:
    """Nothing opens, now or when more comes, and there is nothing to answer."""
    with pytest.raises(RemoteProtocolError):
        feed(responder, data, stream("more")(HANDSHAKE_MESSAGE_MAX + 64))
    with pytest.raises(LocalProtocolError):
        accept(responder)


@pytest.mark.parametrize(
    "other",
    [
        SessionSecret(SECRET.space, Mode.MEMBER, b"\x08" * 32),
        SessionSecret(SECRET.space, Mode.JOIN, SECRET.secret),
        SessionSecret(SECRET.space, Mode.REKEY, SECRET.secret),
        SessionSecret(bytes(32), Mode.MEMBER, SECRET.secret),
    ],
    ids=["secret", "join", "rekey", "space"],
)
def test_another_secret_mode_or_space_meets_silence(other: SessionSecret) -> None:
    assert_silent(answer(other), dial().start())
    assert_silent(answer(), dial(other).start())


@pytest.mark.parametrize("weeks", [-200, -2, 2, 200])
def test_a_message_of_another_week_meets_silence(weeks: int) -> None:
    assert_silent(answer(now=NOW + weeks * HANDSHAKE_WEEK_SECONDS), dial().start())


def test_a_node_without_secrets_is_silent() -> None:
    assert_silent(Responder((), stream("none"), NOW), dial().start())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        bytes(65_535),
        b"\xff" * 65_536,
    ],
)
def test_strangers_meet_silence(data: bytes) -> None:
    assert_silent(answer(), data)


def test_a_message_reflected_to_its_sender_is_refused() -> None:
    initiator = dial()
    first = initiator.start()
    for reflected in (first, first[16:]):
        with pytest.raises(RemoteProtocolError):
            deepcopy(initiator).receive(reflected)
    responder = answer()
    responder.receive(first)
    with pytest.raises(RemoteProtocolError):
        responder.receive(accept(responder))


def test_an_answer_to_another_handshake_is_refused() -> None:
    initiator, other, responder = dial(), dial(seed="other"), answer()
    initiator.start()
    responder.receive(other.start())
    with pytest.raises(RemoteProtocolError):
        initiator.receive(accept(responder))


@pytest.mark.parametrize("shared", ["both", "key", "nonce"])
def test_who_meets_itself_or_its_clone_says_no_more(shared: str) -> None:
    twin = LocalEnd(
        BOB.static if shared == "nonce" else ALICE.static, BOB.start_nonce if shared == "key" else ALICE.start_nonce
    )
    initiator, responder = dial(), answer()
    responder.receive(initiator.start())
    with pytest.raises(RemoteProtocolError, match="ourselves"):
        initiator.receive(accept(responder, local=twin))


# Bytes that are not what was sent


def waiting_ends() -> list[tuple[Initiator | Responder, bytes]]:
    """For each message: the end that is to read it, and the message."""
    initiator, responder = dial(), answer()
    first = initiator.start()
    waiting: list[tuple[Initiator | Responder, bytes]] = [(deepcopy(responder), first)]
    responder.receive(first)
    second = accept(responder)
    waiting.append((deepcopy(initiator), second))
    ours = initiator.receive(second)
    assert isinstance(ours, Finished)
    waiting.append((deepcopy(responder), ours.outgoing))
    return waiting


@pytest.mark.parametrize("number", [0, 1, 2], ids=["first", "second", "third"])
def test_every_flipped_bit_is_refused(number: int) -> None:
    waiting, message = waiting_ends()[number]
    more = stream("more")(HANDSHAKE_MESSAGE_MAX)
    for bit in range(8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        end = deepcopy(waiting)
        with pytest.raises(RemoteProtocolError):
            feed(end, bytes(changed), more)  # a changed length may make it wait for more
        with pytest.raises(LocalProtocolError):
            end.receive(message)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["first", "second", "third"])
def test_a_message_cut_short_gives_nothing(number: int) -> None:
    waiting, message = waiting_ends()[number]
    for size in range(len(message)):
        end = deepcopy(waiting)
        assert end.receive(message[:size]) is None
        with pytest.raises(RemoteProtocolError):
            end.receive(bytes(HANDSHAKE_MESSAGE_MAX))


@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("extra", [1, 16, 65_535])
def test_bytes_behind_a_message_that_awaits_an_answer_are_refused(number: int, extra: int) -> None:
    waiting, message = waiting_ends()[number]
    with pytest.raises(RemoteProtocolError):
        waiting.receive(message + bytes(extra))
    with pytest.raises(LocalProtocolError):
        waiting.receive(b"")


def test_bytes_between_a_first_message_and_its_acceptance_are_refused() -> None:
    responder = answer()
    responder.receive(dial().start())
    with pytest.raises(RemoteProtocolError):
        responder.receive(b"\0")
    with pytest.raises(LocalProtocolError):
        accept(responder)


# A member that breaks the rules: it knows the secret, and makes its bytes by hand from the specification


def pad(secret: SessionSecret, salt: bytes, number: int) -> bytes:
    week = int(NOW // (7 * 24 * 3600)).to_bytes(8, "big")
    about = bytes([1, secret.mode.value]) + secret.space + week
    key = blake2b(about, key=secret.secret, digest_size=32, person=b"p2pnode mask 1").digest()
    return blake2b(salt + bytes([number]), key=key, digest_size=64, person=b"p2pnode pad 1").digest()


def masked(secret: SessionSecret, salt: bytes, number: int, message: bytes) -> bytes:
    wire = len(message).to_bytes(2, "big") + message
    size = 34 if number < 3 else 2
    return bytes(a ^ b for a, b in zip(wire[:size], pad(secret, salt, number)[:size], strict=True)) + wire[size:]


def noise_end(*, initiator: bool, local: LocalEnd, ephemeral: KeyPair) -> HandshakeState:
    return HandshakeState(
        Pattern.parse("XXpsk0", XX),
        initiator=initiator,
        prologue=cbor.encode([1, SECRET.mode.value, SECRET.space]),
        s=local.static,
        e=ephemeral,
        psks=[blake2b(key=SECRET.secret, digest_size=32, person=b"p2pnode psk 1").digest()],
    )


def payload(body: bytes, fill: int = 33) -> bytes:
    return len(body).to_bytes(2, "big") + body + bytes(fill)


SALT = b"\x5a" * 16
MALLORY = end_of("mallory")
MALLORYS_KEY = KeyPair.from_secret(b"\x33" * 32)
MALLORYS_BODY = cbor.encode([MALLORY.start_nonce, DIGEST])

MALFORMED_PAYLOADS = [
    payload(b""),
    payload(cbor.encode({})),
    payload(cbor.encode([bytes(16)])),
    payload(cbor.encode([bytes(16), None, None]), 90),
    payload(cbor.encode([bytes(15), None]), 90),
    payload(cbor.encode([bytes(17), None]), 90),
    payload(cbor.encode(["0123456789abcdef", None]), 90),
    payload(cbor.encode([bytes(16), bytes(31)]), 90),
    payload(cbor.encode([bytes(16), 0]), 90),
    payload(cbor.encode([bytes(16), False]), 90),
    payload(MALLORYS_BODY + b"\0"),
    (2**16 - 1).to_bytes(2, "big") + MALLORYS_BODY + bytes(100),
    (len(MALLORYS_BODY) + 1).to_bytes(2, "big") + MALLORYS_BODY,
    (len(MALLORYS_BODY) + 101).to_bytes(2, "big") + MALLORYS_BODY + bytes(100),
    payload(MALLORYS_BODY, HANDSHAKE_MESSAGE_MAX),  # longer than a message may be
]


def mallory_dials(
    first: bytes = payload(cbor.encode([])), ephemeral: KeyPair = MALLORYS_KEY
) -> tuple[HandshakeState, bytes]:
    noise = noise_end(initiator=True, local=MALLORY, ephemeral=ephemeral)
    return noise, SALT + masked(SECRET, SALT, 1, noise.write_message(first))


def test_bytes_made_by_hand_from_the_specification_are_a_session() -> None:
    noise, first = mallory_dials()
    responder = answer()
    assert isinstance(responder.receive(first), Opened)
    second = accept(responder)
    head = bytes(a ^ b for a, b in zip(second[:34], pad(SECRET, SALT, 2)[:34], strict=True))
    assert len(second) - 2 == int.from_bytes(head[:2], "big")
    body = noise.read_message(head[2:] + second[34:])
    assert [BOB.start_nonce, DIGEST] == cbor.decode_untrusted(body[2 : 2 + int.from_bytes(body[:2], "big")], 64)
    theirs = responder.receive(masked(SECRET, SALT, 3, noise.write_message(payload(MALLORYS_BODY))))
    assert isinstance(theirs, Finished)
    assert noise.split().handshake_hash == theirs.transport.handshake_hash
    assert RemoteEnd(MALLORY.static.public, MALLORY.start_nonce, DIGEST) == theirs.remote


@pytest.mark.parametrize("body", [b"", b"\xf6", b"\x80\x80", b"\x81\x00", b"\xff", cbor.encode(bytes(60))])
def test_a_first_message_with_anything_to_say_meets_silence(body: bytes) -> None:
    assert_silent(answer(), mallory_dials(payload(body))[1])


@pytest.mark.parametrize("malformed", MALFORMED_PAYLOADS)
def test_a_malformed_body_in_the_second_message_is_refused(malformed: bytes) -> None:
    initiator = dial()
    first = initiator.start()
    salt = first[:16]
    noise = noise_end(initiator=False, local=MALLORY, ephemeral=MALLORYS_KEY)
    head = bytes(a ^ b for a, b in zip(first[16:50], pad(SECRET, salt, 1)[:34], strict=True))
    noise.read_message(head[2:] + first[50:])
    with pytest.raises(RemoteProtocolError):
        initiator.receive(masked(SECRET, salt, 2, noise.write_message(malformed)))


@pytest.mark.parametrize("malformed", MALFORMED_PAYLOADS)
def test_a_malformed_body_in_the_third_message_is_refused(malformed: bytes) -> None:
    noise, first = mallory_dials()
    responder = answer()
    responder.receive(first)
    second = accept(responder)
    head = bytes(a ^ b for a, b in zip(second[:34], pad(SECRET, SALT, 2)[:34], strict=True))
    noise.read_message(head[2:] + second[34:])
    with pytest.raises(RemoteProtocolError):
        responder.receive(masked(SECRET, SALT, 3, noise.write_message(malformed)))


@pytest.mark.parametrize("same", ["key", "nonce"])
def test_a_clone_that_does_not_mind_meeting_itself_is_refused_by_the_other_one(same: str) -> None:
    noise, first = mallory_dials()
    responder = answer()
    responder.receive(first)
    twin = LocalEnd(MALLORY.static, bytes(16)) if same == "key" else LocalEnd(BOB.static, MALLORY.start_nonce)
    second = accept(responder, local=twin)
    head = bytes(a ^ b for a, b in zip(second[:34], pad(SECRET, SALT, 2)[:34], strict=True))
    noise.read_message(head[2:] + second[34:])
    with pytest.raises(RemoteProtocolError, match="ourselves"):
        responder.receive(masked(SECRET, SALT, 3, noise.write_message(payload(MALLORYS_BODY))))


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    (2**255 + 1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_a_masked_low_order_ephemeral_key_draws_no_byte(public: bytes) -> None:
    _, first = mallory_dials(ephemeral=KeyPair(bytes(32), public))
    responder = answer()
    assert isinstance(responder.receive(first), Opened)
    with pytest.raises(RemoteProtocolError):
        accept(responder)
    with pytest.raises(LocalProtocolError):
        responder.receive(b"")


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_a_low_order_key_in_the_answer_is_refused(public: bytes) -> None:
    initiator = dial()
    first = initiator.start()
    salt = first[:16]
    answer_of_no_one = masked(SECRET, salt, 2, public + bytes(200))
    with pytest.raises(RemoteProtocolError, match="low-order"):
        initiator.receive(answer_of_no_one)


# What a watcher sees


def test_no_bit_of_any_message_keeps_its_value_over_64_handshakes() -> None:
    messages = [meet(dial(seed=f"a{n}"), answer(seed=f"b{n}"))[2] for n in range(64)]
    streams = [[first + third, second] for first, second, third in messages]
    for seen in (*zip(*messages, strict=True), *zip(*streams, strict=True)):
        size = min(map(len, seen))
        ones, zeros = b"\xff" * size, bytes(size)
        for data in seen:
            ones = bytes(map(and_, ones, data))
            zeros = bytes(map(or_, zeros, data))
        assert (bytes(size), b"\xff" * size) == (ones, zeros)


def test_equal_ends_with_equal_ephemeral_keys_still_share_no_bytes() -> None:
    initiators = [Initiator(SECRET, ALICE, MALLORYS_KEY, DIGEST, stream(seed), NOW) for seed in "ab"]
    first, second = (initiator.start() for initiator in initiators)
    assert not {first[at : at + 8] for at in range(len(first))} & {second[at : at + 8] for at in range(len(second))}


def test_three_messages_with_the_largest_fill_are_within_1_5_kilobytes() -> None:
    sizes = [len(message) for message in meet(dial(draw=FILLED), answer(draw=FILLED))[2]]
    assert sizes == [69 + HANDSHAKE_FILL_MAX, 152 + HANDSHAKE_FILL_MAX, 120 + HANDSHAKE_FILL_MAX]
    assert sum(sizes) <= 1536
    assert 16 + 3 * (2 + HANDSHAKE_MESSAGE_MAX) <= 1536  # and whatever a peer fills them with


def test_sizes_do_not_tell_whether_there_was_a_digest() -> None:
    sizes = []
    for digest in (DIGEST, None):
        initiator, responder = dial(digest=digest), answer()
        responder.receive(initiator.start())
        second = accept(responder, digest=digest)
        ours = initiator.receive(second)
        assert isinstance(ours, Finished)
        sizes.append((len(second), len(ours.outgoing)))
    assert sizes[0] == sizes[1]


def test_fills_are_of_every_size() -> None:
    sizes = {len(Initiator(SECRET, ALICE, MALLORYS_KEY, None, stream(str(n)), NOW).start()) for n in range(2000)}
    assert (min(sizes), max(sizes)) == (69, 69 + HANDSHAKE_FILL_MAX)
    assert len(sizes) > 250


# Our own side


def test_steps_out_of_order_are_our_own_fault() -> None:
    initiator, responder = dial(), answer()
    with pytest.raises(LocalProtocolError):
        initiator.receive(b"")
    with pytest.raises(LocalProtocolError):
        accept(responder)
    initiator, responder = dial(), answer()
    meet(initiator, responder)
    with pytest.raises(LocalProtocolError):
        initiator.start()
    for end in (initiator, responder):
        with pytest.raises(LocalProtocolError):
            end.receive(b"")


def test_secrets_do_not_show_when_printed() -> None:
    opened = answer().receive(dial().start())
    shown = repr(SECRET) + repr(ALICE) + repr(opened)
    assert repr(SECRET.secret) not in shown
    assert repr(ALICE.static.secret) not in shown
    assert keys.derive(SECRET.secret, b"p2pnode psk 1").hex() not in shown
