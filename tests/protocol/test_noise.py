"""Noise against the published vectors, and against a peer that changes a single bit."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocol import keys
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.noise import MESSAGE_SIZE_MAX, NK, NONCE_MAX, XX, CipherState, HandshakeState, KeyPair, Pattern, Transport

VECTORS = Path(__file__).parents[2] / "../shared/vectors/noise"
SUITE = "_25519_ChaChaPoly_BLAKE2b"

# Specification sections 7.4, 7.5 and 18.1, messages separated by a slash.
NOTATION = {
    "N": "<- s ... e, es",
    "K": "-> s / <- s ... e, es, ss",
    "X": "<- s ... e, es, s, ss",
    "NN": "e / e, ee",
    "NK": "<- s ... e, es / e, ee",
    "NX": "e / e, ee, s, es",
    "XN": "e / e, ee / s, se",
    "XK": "<- s ... e, es / e, ee / s, se",
    "XX": "e / e, ee, s, es / s, se",
    "KN": "-> s ... e / e, ee, se",
    "KK": "-> s / <- s ... e, es, ss / e, ee, se",
    "KX": "-> s ... e / e, ee, se, s, es",
    "IN": "e, s / e, ee, se",
    "IK": "<- s ... e, es, s, ss / e, ee, se",
    "IX": "e, s / e, ee, se, s, es",
    "NK1": "<- s ... e / e, ee, es",
    "NX1": "e / e, ee, s / es",
    "X1N": "e / e, ee / s / se",
    "X1K": "<- s ... e, es / e, ee / s / se",
    "XK1": "<- s ... e / e, ee, es / s, se",
    "X1K1": "<- s ... e / e, ee, es / s / se",
    "X1X": "e / e, ee, s, es / s / se",
    "XX1": "e / e, ee, s / es, s, se",
    "X1X1": "e / e, ee, s / es, s / se",
    "K1N": "-> s ... e / e, ee / se",
    "K1K": "-> s / <- s ... e, es / e, ee / se",
    "KK1": "-> s / <- s ... e / e, ee, se, es",
    "K1K1": "-> s / <- s ... e / e, ee, es / se",
    "K1X": "-> s ... e / e, ee, s, es / se",
    "KX1": "-> s ... e / e, ee, se, s / es",
    "K1X1": "-> s ... e / e, ee, s / se, es",
    "I1N": "e, s / e, ee / se",
    "I1K": "<- s ... e, es, s / e, ee / se",
    "IK1": "<- s ... e, s / e, ee, se, es",
    "I1K1": "<- s ... e, s / e, ee, es / se",
    "I1X": "e, s / e, ee, s, es / se",
    "IX1": "e, s / e, ee, se, s / es",
    "I1X1": "e, s / e, ee, s / se, es",
}

# X25519 keys whose shared secret is all zero with every private key.
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@dataclass(frozen=True, slots=True)
class Vector:
    """A published exchange: payloads and what they become on the wire, handshake first, transport behind it."""

    pattern: Pattern
    prologue: bytes
    psks: list[bytes]
    initiator: dict[str, bytes]
    responder: dict[str, bytes]
    handshake_hash: bytes | None
    messages: list[tuple[bytes, bytes]]

    def ends(self) -> tuple[HandshakeState, HandshakeState]:
        return self._end(True, self.initiator), self._end(False, self.responder)

    def _end(self, initiator: bool, given: dict[str, bytes]) -> HandshakeState:
        pairs = {name: KeyPair.from_secret(given[name]) for name in ("static", "ephemeral") if name in given}
        return HandshakeState(
            self.pattern,
            initiator=initiator,
            prologue=self.prologue,
            s=pairs.get("static"),
            e=pairs.get("ephemeral"),
            rs=given.get("remote_static"),
            psks=self.psks,
        )


def spec_pattern(name: str) -> Pattern:
    pre, dots, messages = NOTATION[name.split("psk")[0]].rpartition("...")
    lines = [*pre.split("/"), dots]
    lines += [f"{('->', '<-')[index % 2]} {tokens}" for index, tokens in enumerate(messages.split("/"))]
    return Pattern.parse(name, "\n".join(lines))


def published(file: str) -> Iterator[Vector]:
    path = VECTORS / file
    if not path.exists():
        pytest.skip("published Noise vectors are not beside the project")
    for item in json.loads(path.read_text())["vectors"]:
        name = item["protocol_name"].removeprefix("Noise_")
        if not name.endswith(SUITE):
            continue
        assert item["init_prologue"] == item["resp_prologue"]
        assert item.get("init_psks", []) == item.get("resp_psks", [])
        fields = ("static", "ephemeral", "remote_static")
        yield Vector(
            spec_pattern(name.removesuffix(SUITE)),
            bytes.fromhex(item["init_prologue"]),
            [bytes.fromhex(psk) for psk in item.get("init_psks", [])],
            {field: bytes.fromhex(item[f"init_{field}"]) for field in fields if f"init_{field}" in item},
            {field: bytes.fromhex(item[f"resp_{field}"]) for field in fields if f"resp_{field}" in item},
            bytes.fromhex(item["handshake_hash"]) if "handshake_hash" in item else None,
            [(bytes.fromhex(part["payload"]), bytes.fromhex(part["ciphertext"])) for part in item["messages"]],
        )


def play(vector: Vector) -> None:
    """Both ends from the first message to the last, every byte compared."""
    ends = vector.ends()
    size = len(vector.pattern.messages)
    for index, (payload, ciphertext) in enumerate(vector.messages[:size]):
        writer, reader = ends[index % 2], ends[1 - index % 2]
        assert ciphertext == writer.write_message(payload)
        assert payload == reader.read_message(ciphertext)
    assert ends[0].finished
    assert ends[1].finished
    transports = (ends[0].split(), ends[1].split())
    assert transports[0].handshake_hash == transports[1].handshake_hash
    if vector.handshake_hash is not None:
        assert vector.handshake_hash == transports[0].handshake_hash
    for index, (payload, ciphertext) in enumerate(vector.messages[size:], start=size):
        writing = index % 2 if size > 1 else 0  # in a one-way pattern only the initiator speaks
        assert ciphertext == transports[writing].send.encrypt_with_ad(b"", payload)
        assert payload == transports[1 - writing].receive.decrypt_with_ad(b"", ciphertext)


@pytest.mark.parametrize(("file", "count", "several_psks"), [("cacophony.json", 59, 0), ("snow.json", 51, 13)])
def test_every_published_exchange_comes_out_byte_by_byte(file: str, count: int, several_psks: int) -> None:
    vectors = list(published(file))
    for vector in vectors:
        play(vector)
    assert count == len(vectors)
    assert several_psks == sum(len(vector.psks) > 1 for vector in vectors)
    assert set(NOTATION) == {vector.pattern.name.split("psk")[0] for vector in vectors}


# The patterns of this project, carried along so that they are proven on any machine.


def fact(name: str, notation: str, keys_given: Sequence[dict[str, str]], **rest: str) -> Vector:
    return Vector(
        Pattern.parse(name, notation),
        bytes.fromhex(rest["prologue"]),
        [bytes.fromhex(rest["psk"])] if "psk" in rest else [],
        {field: bytes.fromhex(value) for field, value in keys_given[0].items()},
        {field: bytes.fromhex(value) for field, value in keys_given[1].items()},
        bytes.fromhex(rest["handshake_hash"]),
        [
            (bytes.fromhex(a), bytes.fromhex(b))
            for a, b in (line.split() for line in rest["messages"].strip().splitlines())
        ],
    )


# Computed with another implementation, noiseprotocol 0.3.1, from the keys of flynn/noise's vectors.
XXPSK0 = fact(
    "XXpsk0",
    XX,
    [
        {
            "static": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "ephemeral": "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
        },
        {
            "static": "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            "ephemeral": "4142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60",
        },
    ],
    prologue="6e6f74736563726574",
    psk="2176657279736563726574766572797365637265747665727973656372657421",
    handshake_hash="b8454258d19a2e9a9d8e5ecfd1b60dbf5665e6858e55ab5300c4d19c078da252"
    "00764b4845d0f3b944ab79316456951d1c71f55140c1246ea4d504e713680639",
    messages="""
746573745f6d73675f30 358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd1662541fe2db7a97bbe9c0027b1f62071910cfd2266573bb14a7de4342
746573745f6d73675f31 64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466def8302a4ce14b6d8679764f5605d198853b8968688d7432e591c0371dbd9c27c0e397d4a328006c00af1dc428f95bc55c032641bc1cdaccd5aae41c3d70b1d39ac256cf6c07a7430831
746573745f6d73675f32 7ae518aa6a3882fac6b6d6fcd88954cccf404ea1aa2a075d533916de39720ebb1eaeb854d104e73a1406c7ff4ad6beed519efda7f74013ae060269ba43ed1a294c9c44cff50595ad1324
79656c6c6f777375626d6172696e65 378c9175461be8863f0630368bca0f10a44b598f7b676954f26903b02981d5
7375626d6172696e6579656c6c6f77 f71636da66640938945e19dfc76067c6a0b70f5d9a6a013d1f431c71db1f98
""",  # noqa: E501  # a line a message
)

# cacophony's.
NK_VECTOR = fact(
    "NK",
    NK,
    [
        {
            "ephemeral": "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
            "remote_static": "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62",
        },
        {
            "static": "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
            "ephemeral": "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        },
    ],
    prologue="4a6f686e2047616c74",
    handshake_hash="f87aa4eb6416e5b0d2b6e6f0b7bc41f3c5986a5d32d55c08d67cbd412f3ec2fa"
    "04d8e358ab95b3bbfab054a140a98eccf4284bb6309b600981d451ecac484932",
    messages="""
4c756477696720766f6e204d69736573 ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944f3041e39b0c8ba56008f2d1183fea6ac83564ead0267b0842ec4c521ed1e1407
4d757272617920526f746862617264 95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088432281dcc1835131f305dca14525e15e27d1f32294aa835e40fc18be480c1db9
462e20412e20486179656b 357e24e9f28ba22080666f7efacc01b2a0a4e358e742aeeff2aaf5
4361726c204d656e676572 8b23b34ff3169de06a39551e969ca7876cc5122a4acff74bf2ec29
""",  # noqa: E501  # a line a message
)

OURS = pytest.mark.parametrize("vector", [XXPSK0, NK_VECTOR], ids=lambda vector: vector.pattern.name)


@OURS
def test_the_patterns_we_use_come_out_byte_by_byte(vector: Vector) -> None:
    play(vector)


def reader_before(vector: Vector, index: int) -> HandshakeState:
    """The end that is to read message `index`, everything before it honest."""
    ends = vector.ends()
    for earlier, (payload, _) in enumerate(vector.messages[:index]):
        ends[1 - earlier % 2].read_message(ends[earlier % 2].write_message(payload))
    return ends[1 - index % 2]


def assert_refused(vector: Vector, index: int, message: bytes) -> None:
    """Every message of ours is encrypted, so whatever was changed shows at once and the handshake is over."""
    reader = reader_before(vector, index)
    with pytest.raises(RemoteProtocolError):
        reader.read_message(message)
    assert not reader.finished
    for call in (
        reader.split,
        lambda: reader.read_message(vector.messages[index][1]),
        lambda: reader.write_message(b""),
    ):
        with pytest.raises(LocalProtocolError):
            call()


@OURS
def test_every_flipped_bit_is_refused_at_that_message(vector: Vector) -> None:
    for index in range(len(vector.pattern.messages)):
        message = vector.messages[index][1]
        for bit in range(8 * len(message)):
            changed = bytearray(message)
            changed[bit // 8] ^= 1 << bit % 8
            assert_refused(vector, index, bytes(changed))


@OURS
def test_every_other_length_is_refused_at_that_message(vector: Vector) -> None:
    for index in range(len(vector.pattern.messages)):
        message = vector.messages[index][1]
        for size in range(len(message)):
            assert_refused(vector, index, message[:size])
        for extra in (1, 16, 32, MESSAGE_SIZE_MAX - len(message), MESSAGE_SIZE_MAX - len(message) + 1):
            assert_refused(vector, index, message + bytes(extra))


def test_what_is_changed_in_a_message_in_clear_is_refused_at_the_next_encrypted_one() -> None:
    base = XXPSK0
    plain = Vector(Pattern.parse("XX", XX), base.prologue, [], base.initiator, base.responder, None, base.messages)
    first = plain.ends()[0].write_message(b"clear")
    for bit in range(8 * len(first)):
        changed = bytearray(first)
        changed[bit // 8] ^= 1 << bit % 8
        initiator, responder = plain.ends()
        initiator.write_message(b"clear")
        responder.read_message(bytes(changed))
        with pytest.raises(RemoteProtocolError):
            initiator.read_message(responder.write_message(b""))
        assert not initiator.finished
    with pytest.raises(RemoteProtocolError, match="too long"):
        plain.ends()[1].read_message(bytes([9]) * (MESSAGE_SIZE_MAX + 1))


@OURS
def test_a_changed_transport_message_is_refused_and_costs_no_nonce(vector: Vector) -> None:
    ends = vector.ends()
    size = len(vector.pattern.messages)
    for index, (payload, _) in enumerate(vector.messages[:size]):
        ends[1 - index % 2].read_message(ends[index % 2].write_message(payload))
    reader = ends[1 - size % 2].split().receive
    payload, ciphertext = vector.messages[size]
    for bit in range(8 * len(ciphertext)):
        changed = bytearray(ciphertext)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            reader.decrypt_with_ad(b"", bytes(changed))
    assert payload == reader.decrypt_with_ad(b"", ciphertext)


@pytest.mark.parametrize("differs", ["psk", "prologue"])
def test_another_psk_or_prologue_is_refused_at_the_first_message(differs: str) -> None:
    other = Vector(
        XXPSK0.pattern,
        b"other" if differs == "prologue" else XXPSK0.prologue,
        [bytes(32)] if differs == "psk" else XXPSK0.psks,
        XXPSK0.initiator,
        XXPSK0.responder,
        None,
        [],
    )
    with pytest.raises(RemoteProtocolError):
        other.ends()[1].read_message(XXPSK0.messages[0][1])


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_a_low_order_ephemeral_key_ends_the_handshake_at_its_first_use(public: bytes) -> None:
    initiator, responder = XXPSK0.ends()
    initiator.e = KeyPair(bytes(32), public)
    responder.read_message(initiator.write_message(b""))
    with pytest.raises(RemoteProtocolError):
        responder.write_message(b"")
    with pytest.raises(LocalProtocolError):
        responder.write_message(b"")


def finished() -> tuple[Transport, Transport]:
    initiator, responder = XXPSK0.ends()
    responder.read_message(initiator.write_message(b""))
    initiator.read_message(responder.write_message(b""))
    responder.read_message(initiator.write_message(b""))
    return initiator.split(), responder.split()


def test_both_ends_learn_the_other_ones_static_key() -> None:
    initiator, responder = finished()
    assert keys.dh_public(XXPSK0.responder["static"]) == initiator.remote_static
    assert keys.dh_public(XXPSK0.initiator["static"]) == responder.remote_static


def test_a_rekey_on_both_sides_goes_on_and_the_nonce_with_it() -> None:
    initiator, responder = finished()
    initiator.send.encrypt_with_ad(b"", b"")
    responder.receive.nonce = 1
    initiator.send.rekey()
    sealed = initiator.send.encrypt_with_ad(b"", b"after")
    with pytest.raises(RemoteProtocolError):
        responder.receive.decrypt_with_ad(b"", sealed)
    responder.receive.rekey()
    assert responder.receive.decrypt_with_ad(b"", sealed) == b"after"
    assert (initiator.send.nonce, responder.receive.nonce) == (2, 2)


def test_rekey_is_the_specifications() -> None:
    cipher = CipherState(bytes(range(32)))
    cipher.rekey()
    key = keys.seal(bytes(range(32)), bytes(4) + b"\xff" * 8, bytes(32), b"")[:32]
    assert keys.seal(key, bytes(12), b"plain", b"ad") == cipher.encrypt_with_ad(b"ad", b"plain")


def test_the_last_nonce_is_never_used() -> None:
    cipher = CipherState(bytes(32))
    cipher.nonce = NONCE_MAX - 1
    last = cipher.encrypt_with_ad(b"", b"last")
    with pytest.raises(LocalProtocolError):
        cipher.encrypt_with_ad(b"", b"one more")
    with pytest.raises(LocalProtocolError):
        cipher.decrypt_with_ad(b"", last)


def test_what_is_called_out_of_turn_is_our_own_fault() -> None:
    initiator, responder = XXPSK0.ends()
    for call in (
        initiator.split,
        lambda: initiator.read_message(b""),
        lambda: responder.write_message(b""),
        lambda: initiator.write_message(bytes(MESSAGE_SIZE_MAX)),
        CipherState().rekey,
    ):
        with pytest.raises(LocalProtocolError):
            call()


def test_a_session_is_split_off_once() -> None:
    initiator, responder = NK_VECTOR.ends()
    responder.read_message(initiator.write_message(b""))
    initiator.read_message(responder.write_message(b""))
    initiator.split()
    with pytest.raises(LocalProtocolError):
        initiator.split()


def test_keys_that_do_not_fit_the_pattern_are_our_own_fault() -> None:
    xx, nk = XXPSK0.pattern, NK_VECTOR.pattern
    pair = KeyPair.from_secret(bytes(32))
    for wrong in (
        lambda: HandshakeState(xx, initiator=True),
        lambda: HandshakeState(xx, initiator=True, psks=[bytes(31)]),
        lambda: HandshakeState(xx, initiator=True, psks=[bytes(32)], rs=pair.public),
        lambda: HandshakeState(nk, initiator=True),
        lambda: HandshakeState(nk, initiator=False),
        lambda: HandshakeState(xx, initiator=True, psks=[bytes(32)]).write_message(b""),
        lambda: Pattern.parse("XX", "<- e\n-> e, ee"),
        lambda: Pattern.parse("XX", "-> e, f"),
        lambda: Pattern.parse("XX", "-> e\n...\n-> e, ee"),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()


def test_secrets_do_not_show_when_printed() -> None:
    pair = KeyPair.from_secret(b"\x07" * 32)
    transport = finished()[0]
    shown = repr(pair) + repr(transport)
    assert repr(pair.secret) not in shown
    assert repr(transport.handshake_hash) not in shown
