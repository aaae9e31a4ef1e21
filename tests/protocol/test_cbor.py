"""CBOR: one encoding per value, and nothing that a stranger sends becomes anything but a value or a refusal."""

import json
from pathlib import Path
from time import process_time
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.cbor import DEPTH_MAX, INT_MAX, INT_MIN, Value, decode_untrusted, encode
from protocol.errors import LocalProtocolError, RemoteProtocolError

SHARED = Path(__file__).parents[2] / "../shared"
SIZE_MAX = 64 * 1024

BYTES_OF_RFC = {"40": b"", "4401020304": b"\1\2\3\4"}  # JSON has no word for them
REFUSED_OF_RFC = 47  # tags, floats, simple values, indefinite lengths, keys that are not text
REFUSED_OF_DCBOR = 16  # floats
NOT_NFC = "6345cc88"  # valid from peers: whether text is NFC depends on the Unicode version


def published(path: str) -> Any:
    file = SHARED / path
    if not file.exists():
        pytest.skip("published vectors are not beside the project")
    return json.loads(file.read_text())


def taken(data: bytes) -> bool:
    try:
        decode_untrusted(data, SIZE_MAX)
    except RemoteProtocolError:
        return False
    return True


def assert_refused(item: bytes) -> None:
    """Bare, and at every place where a value may stand."""
    for data in (item, b"\x81" + item, b"\xa1\x61a" + item, b"\x82\x00" + item, b"\x81\x81\x81" + item):
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(data, SIZE_MAX)


@pytest.mark.parametrize(
    ("path", "count", "refused"),
    [("appendix_a.json", 82, REFUSED_OF_RFC), ("dcbor-valid.json", 40, REFUSED_OF_DCBOR)],
)
def test_published_items_are_read_as_published_or_refused(path: str, count: int, refused: int) -> None:
    items = published(f"vectors/cbor/{path}")
    assert count == len(items)
    for item in items:
        data = bytes.fromhex(item["hex"])
        if not taken(data):
            refused -= 1
            assert_refused(data)
            continue
        value = decode_untrusted(data, SIZE_MAX)
        expected = BYTES_OF_RFC.get(item["hex"], item.get("decoded"))
        assert expected == value
        assert data == encode(value)
    assert refused == 0


def test_items_that_are_not_well_formed_are_refused_everywhere() -> None:
    cases = published("vectors/cbor/rfc8949-appendix-f.json")["cases"]
    assert len(cases) == 94
    for case in cases:
        assert_refused(bytes.fromhex(case["hex"]))


def test_items_that_are_not_deterministic_are_refused_everywhere() -> None:
    items = [item["hex"] for item in published("vectors/cbor/dcbor-invalid.json")]
    assert len(items) == 37
    assert [item for item in items if taken(bytes.fromhex(item))] == [NOT_NFC]
    for item in items:
        if item != NOT_NFC:
            assert_refused(bytes.fromhex(item))


def test_text_that_is_not_utf_8_is_refused_as_a_value_and_as_a_key() -> None:
    texts = [bytes.fromhex(item) for item in published("data/naughty/invalid-utf8.json")["hex"]]
    assert len(texts) == 20
    for text in texts:
        item = bytes([0x60 + len(text)]) + text
        assert_refused(item)
        assert_refused(b"\xa1" + item + b"\x00")


def test_naughty_but_valid_text_comes_back_byte_by_byte() -> None:
    for text in (*published("data/naughty/blns.json"), "\0", "\ufffe\uffff", "e" + "\u0301" * 5000):
        assert text == decode_untrusted(encode(text), SIZE_MAX)


@pytest.mark.parametrize("tag", [*range(64), 100, 256, 258, 260, 261, 1004, 43000, 55799, 2**32, 2**64 - 1])
def test_every_tag_is_refused_around_anything(tag: int) -> None:
    head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
    for item in (b"\x00", b"\x41\x01", b"\x63abc", b"\x80", b"\x82\x00\x01", b"\x82\x61a\x61a", b"\xa0", b"\xf6"):
        assert_refused(head + item)


@pytest.mark.parametrize(
    "hex",
    [
        "a26161f46161f5",  # one key twice, false then true
        "a26161f56161f4",
        "a10000",  # keys that are not text
        "a1416100",
        "a1f600",
        "a18000",
        "a1a000",
        "a1fb7ff800000000000000",
        "a2616200616100",  # keys out of order
        "f97e00",  # floats, whatever they are worth
        "f90000",
        "fb4014000000000000",
        "c249010000000000000000",  # 65 bits
        "3b8000000000000000",
        "9bffffffffffffffff",  # declared sizes that nobody can hold
        "bbffffffffffffffff",
        "5b7fffffffffffffff",
        "5a7fffffff00",
        "7a7fffffff00",
        "5bffffffffffffffff",
        "5f4101ff",
        "9f00ff",
        "bf616100ff",
        "0000",  # more than one value
        "",
        "d81c81d81d00",  # a list that holds itself
        "d9010280",
    ],
)
def test_hostile_items_are_refused_everywhere(hex: str) -> None:
    assert_refused(bytes.fromhex(hex))


@pytest.mark.parametrize("head", [b"\x81", b"\xa1\x61a", b"\xc1", b"\x9f", b"\xd8\x1d", b"\xbf\x61a"])
@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 400, 10_000, 1_000_000])
def test_deep_nesting_is_refused_in_no_time(head: bytes, depth: int) -> None:
    for data in (head * depth, head * depth + b"\x00"):
        began = process_time()
        assert not taken(data)
        assert process_time() - began < 0.05
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(head * depth, 10**7)


def test_nesting_up_to_the_bound_is_read() -> None:
    value: Value = 0
    for _ in range(DEPTH_MAX - 1):
        value = [value]
    assert value == decode_untrusted(encode(value), SIZE_MAX)


def test_nothing_over_the_callers_bound_is_looked_at() -> None:
    assert decode_untrusted(encode(bytes(7)), 8) == bytes(7)
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(encode(bytes(8)), 8)


def test_integers_end_at_64_bits_either_way() -> None:
    for number in (INT_MIN, INT_MAX, -1, 0):
        assert number == decode_untrusted(encode(number), SIZE_MAX)
    for number in (INT_MIN - 1, INT_MAX + 1):
        assert_refused(cbor2.dumps(number))


@pytest.mark.parametrize("value", ["\ud800", object(), [object()], {"a": len}])
def test_what_has_no_encoding_is_our_own_fault(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        encode(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(INT_MIN, INT_MAX) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def depth(value: Value) -> int:
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case _:
            return 0


@given(VALUES.filter(lambda value: depth(value) < DEPTH_MAX))
def test_a_value_comes_back_as_it_was_types_included(value: Value) -> None:
    back = decode_untrusted(encode(value), SIZE_MAX)
    assert repr(sorted_maps(value)) == repr(sorted_maps(back))


def sorted_maps(value: Value) -> Value:
    match value:
        case list():
            return [sorted_maps(item) for item in value]
        case dict():
            return sorted((key, sorted_maps(item)) for key, item in value.items())
        case _:
            return value


@given(VALUES, st.randoms(use_true_random=False))
@example([], None)
def test_changed_bytes_are_refused_or_are_the_encoding_of_something_else(value: Value, random: Any) -> None:
    data = bytearray(encode(value))
    if random is not None:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    if taken(bytes(data)):
        assert bytes(data) == encode(decode_untrusted(bytes(data), SIZE_MAX))


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    if taken(data):
        assert data == encode(decode_untrusted(data, SIZE_MAX))
