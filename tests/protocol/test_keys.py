"""Keys against the published edge cases: the network's rule for signatures is libsodium's, and every node has it."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol import keys
from protocol.errors import LocalProtocolError, RemoteProtocolError

VECTORS = Path(__file__).parents[2] / "../shared/vectors"


def published(path: str) -> Any:
    file = VECTORS / path
    if not file.exists():
        pytest.skip("published vectors are not beside the project")
    return json.loads(file.read_text())


def test_wycheproofs_151_signatures_get_its_verdicts() -> None:
    cases = [
        (test["tcId"], bytes.fromhex(group["publicKey"]["pk"]), test)
        for group in published("ed25519/ed25519_test.json")["testGroups"]
        for test in group["tests"]
    ]
    assert len(cases) == 151
    for number, public, test in cases:
        message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
        assert (number, test["result"] == "valid") == (number, keys.verified(public, b"", message, signature))


def test_of_the_12_disputed_signatures_only_the_mixed_order_one_is_valid() -> None:
    cases = published("ed25519/speccheck-cases.json")
    valid = [
        number
        for number, case in enumerate(cases)
        if keys.verified(*(bytes.fromhex(part) for part in (case["pub_key"], "", case["message"], case["signature"])))
    ]
    assert len(cases) == 12
    assert valid == [3]


def test_nobody_can_sign_for_a_small_order_key() -> None:
    published_keys = published("ed25519/small-order-public-keys.json")
    signature = bytes.fromhex(published_keys["universal_forgery"]["signature"])
    points = [bytes.fromhex(point["hex"]) for point in published_keys["points"]]
    assert len(points) == 14
    for public in points:
        for number in range(64):
            assert not keys.verified(public, keys.SIGN_ENTRY, bytes([number]), signature)
            for torsion in points:
                assert not keys.verified(public, keys.SIGN_ENTRY, bytes([number]), torsion + bytes(32))


def test_wycheproofs_518_key_agreements_come_out_and_the_all_zero_ones_are_refused() -> None:
    tests = [test for group in published("x25519/x25519_test.json")["testGroups"] for test in group["tests"]]
    refused = 0
    for test in tests:
        secret, public, shared = (bytes.fromhex(test[name]) for name in ("private", "public", "shared"))
        if any(shared):
            assert (test["tcId"], shared) == (test["tcId"], keys.dh(secret, public))
        else:
            refused += 1
            with pytest.raises(RemoteProtocolError):
                keys.dh(secret, public)
    assert (len(tests), refused) == (518, 31)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_public_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        keys.dh(bytes(32), b"\x09" * size)
    assert not keys.verified(bytes(size), b"", b"", bytes(64))


SEED = bytes(range(32))
PURPOSES = {value for name, value in vars(keys).items() if name.startswith("SIGN_")}


def test_a_signature_is_good_for_one_purpose_one_message_and_one_key() -> None:
    public, secret = keys.signer_public(SEED), keys.signer_secret(SEED)
    signature = keys.sign(secret, keys.SIGN_ENTRY, b"message")
    assert keys.verified(public, keys.SIGN_ENTRY, b"message", signature)
    for purpose in PURPOSES - {keys.SIGN_ENTRY}:
        assert not keys.verified(public, purpose, b"message", signature)
    assert not keys.verified(public, keys.SIGN_ENTRY, b"massage", signature)
    assert not keys.verified(keys.signer_public(bytes(32)), keys.SIGN_ENTRY, b"message", signature)


def test_no_purpose_of_a_signature_begins_another_one() -> None:
    assert len(PURPOSES) >= 2
    assert not any(left != right and left.startswith(right) for left in PURPOSES for right in PURPOSES)


def test_every_flipped_bit_and_every_other_length_of_a_signature_is_refused() -> None:
    public = keys.signer_public(SEED)
    signature = keys.sign(keys.signer_secret(SEED), keys.SIGN_ENTRY, b"message")
    for bit in range(512):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not keys.verified(public, keys.SIGN_ENTRY, b"message", bytes(changed))
    for size in (*range(64), 65, 128):
        assert not keys.verified(public, keys.SIGN_ENTRY, b"message", (signature + signature)[:size])


def test_purposes_keep_hashes_and_derived_keys_apart() -> None:
    values = {
        keys.hash_of(b"one", b"data"),
        keys.hash_of(b"two", b"data"),
        keys.keyed_hash(SEED, b"one", b"data"),
        keys.keyed_hash(SEED, b"two", b"data"),
        keys.derive(SEED, b"one"),
        keys.derive(SEED, b"two"),
    }
    assert len(values) == 6


# RFC 8439, section 2.8.2.
RFC_KEY = bytes(range(0x80, 0xA0))
RFC_NONCE = bytes.fromhex("070000004041424344454647")
RFC_AD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
RFC_TEXT = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
RFC_SEALED = bytes.fromhex(
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
    "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
    "3ff4def08e4b7a9de576d26586cec64b6116"
    "1ae10b594f09e26a7e902ecbd0600691"
)


def test_sealing_is_the_rfcs() -> None:
    assert keys.seal(RFC_KEY, RFC_NONCE, RFC_TEXT, RFC_AD) == RFC_SEALED
    assert keys.unseal(RFC_KEY, RFC_NONCE, RFC_SEALED, RFC_AD) == RFC_TEXT


def test_what_was_not_sealed_so_is_refused_whatever_its_length() -> None:
    for size in (*range(len(RFC_SEALED)), len(RFC_SEALED) + 1):
        with pytest.raises(RemoteProtocolError):
            keys.unseal(RFC_KEY, RFC_NONCE, (RFC_SEALED + b"\0")[:size], RFC_AD)
    for key, nonce, ad in (
        (bytes(32), RFC_NONCE, RFC_AD),
        (RFC_KEY, bytes(12), RFC_AD),
        (RFC_KEY, RFC_NONCE, b""),
    ):
        with pytest.raises(RemoteProtocolError):
            keys.unseal(key, nonce, RFC_SEALED, ad)


def test_a_nonce_of_another_size_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError):
        keys.seal(RFC_KEY, bytes(8), b"", b"")
