"""The handshake with a relay: whoever has its key is answered once, and nobody else sees or gets anything."""

from collections.abc import Callable
from copy import deepcopy
from operator import and_, or_

import pytest
from pairs import RELAY, TERMS, WALL, local_of, secret_of, stream

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.handshake import Initiator
from protocol.limits import HANDSHAKE_FILL_MAX, HANDSHAKE_MESSAGE_MAX, HANDSHAKE_WEEK_SECONDS
from protocol.mask import Mask, Mode, SessionSecret, fill
from protocol.noise import NK, HandshakeState, KeyPair, Pattern, Transport
from protocol.relay_handshake import Answered, Answerer, Called, Caller, Terms

NOTHING_FILLED, FILLED = 0, 65_535
SALT = b"salt" * 4
OTHER = KeyPair.generate(stream("another relay"))
SECRET = SessionSecret(RELAY.public, Mode.RELAY, RELAY.public)
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


def filling(seed: str, draw: int) -> Callable[[int], bytes]:
    """Bytes that look random, but what is drawn for the size of the fill is `draw`."""
    entropy = stream(seed)
    return lambda size: draw.to_bytes(2, "big") if size == 2 else entropy(size)


def call(*, key: bytes = RELAY.public, seed: str = "c", now: float = WALL) -> Caller:
    return Caller(key, KeyPair.generate(stream(f"{seed} e")), stream(seed), now)


def first_of(caller: Caller, *, draw: int = NOTHING_FILLED) -> bytes:
    return caller.start(filling("m", draw))


def listen(*, key: KeyPair = RELAY, now: float = WALL) -> Answerer:
    return Answerer(key, now)


def answer_of(answerer: Answerer, *, draw: int = NOTHING_FILLED, seed: str = "r") -> tuple[bytes, Transport]:
    return answerer.answer(KeyPair.generate(stream(f"{seed} e")), TERMS, filling("a", draw))


def waiting_ends() -> list[tuple[Caller | Answerer, bytes]]:
    """For each message: the end that is to read it, and the message."""
    caller, answerer = call(), listen()
    first = first_of(caller)
    waiting: list[tuple[Caller | Answerer, bytes]] = [(deepcopy(answerer), first)]
    answerer.receive(first)
    return [*waiting, (caller, answer_of(answerer)[0])]


def feed(end: Caller | Answerer, *pieces: bytes) -> None:
    for piece in pieces:
        assert end.receive(piece) is None


def assert_silent(answerer: Answerer, data: bytes) -> None:
    """Nothing opens, now or when more comes, and there is nothing to answer."""
    with pytest.raises(RemoteProtocolError):
        feed(answerer, data, stream("more")(HANDSHAKE_MESSAGE_MAX + 64))
    with pytest.raises(LocalProtocolError):
        answer_of(answerer)


# Those who have the key


@pytest.mark.parametrize("piece", [1, 2, 33, 10**9])
@pytest.mark.parametrize("draw", [NOTHING_FILLED, FILLED])
def test_a_caller_and_its_relay_have_a_session_whatever_the_pieces(piece: int, draw: int) -> None:
    caller, answerer = call(), listen()
    first = first_of(caller, draw=draw)
    outcomes = [answerer.receive(first[at : at + piece]) for at in range(0, len(first), piece)]
    assert not any(outcomes[:-1])
    assert isinstance(outcomes[-1], Called)
    answer, theirs = answer_of(answerer, draw=draw)
    ends = [caller.receive(answer[at : at + piece]) for at in range(0, len(answer), piece)]
    assert not any(ends[:-1])
    ours = ends[-1]
    assert isinstance(ours, Answered)
    assert (ours.terms, ours.leftover) == (TERMS, b"")
    assert ours.transport.handshake_hash == theirs.handshake_hash
    for send, receive in ((ours.transport.send, theirs.receive), (theirs.send, ours.transport.receive)):
        assert receive.decrypt_with_ad(b"", send.encrypt_with_ad(b"", b"word")) == b"word"


def test_what_the_relay_says_behind_its_answer_is_handed_on() -> None:
    caller, answerer = call(), listen()
    answerer.receive(first_of(caller))
    ours = caller.receive(answer_of(answerer)[0] + b"records")
    assert isinstance(ours, Answered)
    assert ours.leftover == b"records"


@pytest.mark.parametrize("weeks", [-1, 0, 1])
def test_clocks_may_be_a_week_apart(weeks: int) -> None:
    called = listen(now=WALL + weeks * HANDSHAKE_WEEK_SECONDS).receive(first_of(call()))
    assert isinstance(called, Called)
    assert called.week == WALL // HANDSHAKE_WEEK_SECONDS


def test_a_clock_at_1970_is_no_exception() -> None:
    assert isinstance(listen(now=0.0).receive(first_of(call(now=-1.0))), Called)


def test_a_replayed_first_message_has_its_tag_and_no_other_message_has() -> None:
    first, other = first_of(call()), first_of(call(seed="other"))
    tags = []
    for message in (first, first, other):
        called = listen().receive(message)
        assert isinstance(called, Called)
        assert len(called.replay_tag) == 16
        tags.append(called.replay_tag)
    assert tags[0] == tags[1] != tags[2]


# Those who have not


@pytest.mark.parametrize("weeks", [-200, -2, 2, 200])
def test_a_message_of_another_week_meets_silence(weeks: int) -> None:
    assert_silent(listen(now=WALL + weeks * HANDSHAKE_WEEK_SECONDS), first_of(call()))


def test_a_caller_of_another_relay_meets_silence() -> None:
    assert_silent(listen(), first_of(call(key=OTHER.public)))
    assert_silent(listen(key=OTHER), first_of(call()))


@pytest.mark.parametrize("mode", list(Mode))
def test_a_member_who_dials_a_relay_as_it_would_a_member_meets_silence(mode: Mode) -> None:
    for secret in (secret_of(mode), SessionSecret(RELAY.public, mode, RELAY.public)):
        member = Initiator(secret, local_of("member"), KeyPair.generate(stream("m")), None, stream("m"), WALL)
        assert_silent(listen(), member.start())


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
    assert_silent(listen(), data)


def test_a_relay_that_has_not_got_the_key_cannot_answer() -> None:
    caller, impostor = call(), listen(key=KeyPair(OTHER.secret, RELAY.public))
    first = first_of(caller)
    with pytest.raises(RemoteProtocolError):
        impostor.receive(first)
    for reflected in (first, first[16:]):
        with pytest.raises(RemoteProtocolError):
            deepcopy(caller).receive(reflected)


def test_an_answer_to_another_call_is_refused() -> None:
    caller, other, answerer = call(), call(seed="other"), listen()
    first_of(caller)
    answerer.receive(first_of(other))
    with pytest.raises(RemoteProtocolError):
        caller.receive(answer_of(answerer)[0])


# Bytes that are not what was sent


@pytest.mark.parametrize("number", [0, 1], ids=["first", "answer"])
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


@pytest.mark.parametrize("number", [0, 1], ids=["first", "answer"])
def test_a_message_cut_short_gives_nothing(number: int) -> None:
    waiting, message = waiting_ends()[number]
    for size in range(len(message)):
        end = deepcopy(waiting)
        assert end.receive(message[:size]) is None
        with pytest.raises(RemoteProtocolError):
            end.receive(bytes(HANDSHAKE_MESSAGE_MAX))


@pytest.mark.parametrize("extra", [1, 16, 65_535])
def test_bytes_behind_the_first_message_are_refused(extra: int) -> None:
    waiting, message = waiting_ends()[0]
    with pytest.raises(RemoteProtocolError):
        waiting.receive(message + bytes(extra))
    answerer = listen()
    answerer.receive(message)
    with pytest.raises(RemoteProtocolError, match="before our answer"):
        answerer.receive(bytes(extra))
    with pytest.raises(LocalProtocolError):
        answer_of(answerer)


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_a_masked_low_order_ephemeral_key_draws_no_byte(public: bytes) -> None:
    mask = Mask.of(SECRET, int(WALL // HANDSHAKE_WEEK_SECONDS), SALT)
    message = public + stream("sealed")(60)
    assert_silent(listen(), SALT + mask.hide(1, message))


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_a_low_order_key_in_the_answer_is_refused(public: bytes) -> None:
    caller = call()
    salt = first_of(caller)[:16]
    mask = Mask.of(SECRET, int(WALL // HANDSHAKE_WEEK_SECONDS), salt)
    with pytest.raises(RemoteProtocolError, match="low-order"):
        caller.receive(mask.hide(4, public + bytes(200)))


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_an_address_with_a_low_order_key_is_not_called(public: bytes) -> None:
    caller = call(key=public)
    with pytest.raises(RemoteProtocolError, match="low-order"):
        first_of(caller)


@pytest.mark.parametrize("body", [b"", b"\xf6", b"\x80\x80", b"\x81\x00", b"\xff", b"\xa0"])
def test_a_first_message_with_anything_to_say_meets_silence(body: bytes) -> None:
    noise = HandshakeState(
        Pattern.parse("NK", NK),
        initiator=True,
        prologue=SECRET.prologue,
        e=KeyPair.generate(stream("by hand")),
        rs=RELAY.public,
    )
    payload = len(body).to_bytes(2, "big") + body + bytes(9)
    mask = Mask.of(SECRET, int(WALL // HANDSHAKE_WEEK_SECONDS), SALT)
    assert_silent(listen(), SALT + mask.hide(1, noise.write_message(payload)))


@pytest.mark.parametrize("prologue", [b"", b"\x83\x02\x03", SessionSecret(RELAY.public, Mode.MEMBER, b"").prologue])
def test_another_version_or_mode_is_a_stranger(prologue: bytes) -> None:
    noise = HandshakeState(
        Pattern.parse("NK", NK), initiator=True, prologue=prologue, e=KeyPair.generate(stream("e")), rs=RELAY.public
    )
    mask = Mask.of(SECRET, int(WALL // HANDSHAKE_WEEK_SECONDS), SALT)
    message = noise.write_message(fill(1, b"\x80", stream("fill")))
    assert_silent(listen(), SALT + mask.hide(1, message))


# What a watcher sees


def test_no_bit_of_either_message_keeps_its_value_over_64_handshakes() -> None:
    messages = []
    for number in range(64):
        caller, answerer = call(seed=f"c{number}"), listen()
        first = caller.start(filling(f"m{number}", NOTHING_FILLED))
        answerer.receive(first)
        ephemeral = KeyPair.generate(stream(f"r{number}"))
        messages.append((first, answerer.answer(ephemeral, TERMS, filling(f"a{number}", NOTHING_FILLED))[0]))
    for seen in zip(*messages, strict=True):
        size = min(map(len, seen))
        ones, zeros = b"\xff" * size, bytes(size)
        for data in seen:
            ones, zeros = bytes(map(and_, ones, data)), bytes(map(or_, zeros, data))
        assert (ones, zeros) == (bytes(size), b"\xff" * size)


def test_two_calls_with_one_ephemeral_key_share_no_bytes() -> None:
    ephemeral = KeyPair.generate(stream("e"))
    first, second = (Caller(RELAY.public, ephemeral, stream(seed), WALL).start(stream(f"m{seed}")) for seed in "ab")
    assert not {first[at : at + 8] for at in range(len(first))} & {second[at : at + 8] for at in range(len(second))}


def test_sizes_are_random_and_do_not_tell_the_terms() -> None:
    sizes: dict[Terms, set[int]] = {}
    for terms in (Terms(1, 1), Terms(2**20, 366)):
        sizes[terms] = set()
        for number in range(1500):
            caller, answerer = call(), listen()
            answerer.receive(first_of(caller))
            ephemeral = KeyPair(RELAY.secret, RELAY.public)
            sizes[terms].add(len(answerer.answer(ephemeral, terms, stream(f"fill {number}"))[0]))
    assert sizes[Terms(1, 1)] == sizes[Terms(2**20, 366)]
    assert (min(sizes[terms]), max(sizes[terms])) == (104, 104 + HANDSHAKE_FILL_MAX)


def test_a_caller_draws_at_most_one_answer_five_times_as_long_as_what_it_sent() -> None:
    shortest = len(first_of(call()))
    answerer = listen()
    answerer.receive(first_of(call()))
    longest = len(answer_of(answerer, draw=FILLED)[0])
    assert (shortest, longest) == (69, 359)
    assert longest <= 2 + HANDSHAKE_MESSAGE_MAX


# Our own side


def test_steps_out_of_order_are_our_own_fault() -> None:
    caller, answerer = call(), listen()
    with pytest.raises(LocalProtocolError):
        caller.receive(b"")
    with pytest.raises(LocalProtocolError):
        answer_of(answerer)
    caller, answerer = call(), listen()
    answerer.receive(first_of(caller))
    answer, _ = answer_of(answerer)
    caller.receive(answer)
    for again in (
        lambda: first_of(caller),
        lambda: caller.receive(b""),
        lambda: answerer.receive(b""),
        lambda: answer_of(answerer),
    ):
        with pytest.raises(LocalProtocolError):
            again()
