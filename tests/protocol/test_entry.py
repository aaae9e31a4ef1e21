"""Headers: one encoding, one id, and nothing out of range."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor, keys
from protocol.entry import (
    HEADER_FIELDS,
    Header,
    Kind,
    LogClass,
    LogIdentity,
    decode_header_untrusted,
    entry_id,
    log_key,
    payload_hash,
    tail,
    time_units,
)
from protocol.errors import RemoteProtocolError
from protocol.limits import HEADER_SIZE_MAX, KIND_MAX, LAMPORT_MAX, LOG_KEY_SIZE, PAYLOAD_SIZE_MAX, SEQ_MAX, TIME_MAX

SEED = b"\x2a" * 32
AUTHOR = keys.signer_public(SEED)
SPACE = b"\x05" * 32
ID = b"\x06" * 32
HASH = b"\x07" * 32
LOG = LogIdentity(SPACE, AUTHOR, b"\x08" * 8, LogClass.REPORT)
FOUNDING = LogIdentity(None, AUTHOR, b"\x08" * 8, LogClass.MEMBERSHIP)
HEADER = Header(LOG, 2, ID, 7, 1_900_000, Kind.REPORT, 500, HASH, (b"\x01" * 32, b"\x02" * 32))

VERSION, SPACE_ID, AUTHOR_KEY, LOG_ID, CLASS, SEQ, PREV, LAMPORT, TIME, KIND, SIZE, DIGEST, REFS = range(HEADER_FIELDS)


def fields(header: Header = HEADER) -> list[Any]:
    value = cbor.decode_untrusted(header.encode(), HEADER_SIZE_MAX)
    assert type(value) is list
    return value


def ids32() -> st.SearchStrategy[bytes]:
    return st.binary(min_size=32, max_size=32)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Any valid header."""
    seq = draw(st.integers(1, 3) | st.integers(1, SEQ_MAX))
    kind = draw(st.sampled_from([0, 1, 64]) | st.integers(0, KIND_MAX))
    log_class = draw(st.sampled_from(LogClass))
    founding = seq == 1 and kind == Kind.FOUNDING and log_class is LogClass.MEMBERSHIP
    log = LogIdentity(
        None if founding else draw(ids32()), draw(ids32()), draw(st.binary(min_size=8, max_size=8)), log_class
    )
    return Header(
        log,
        seq,
        None if seq == 1 else draw(ids32()),
        draw(st.integers(1, LAMPORT_MAX)),
        draw(st.integers(0, TIME_MAX)),
        kind,
        draw(st.integers(0, PAYLOAD_SIZE_MAX)),
        draw(ids32()),
        tuple(sorted(draw(st.sets(ids32(), max_size=4)))),
    )


# One header, one encoding


@given(headers())
def test_a_header_comes_back_from_its_encoding(header: Header) -> None:
    assert decode_header_untrusted(header.encode()) == header


@given(headers())
def test_head_and_tail_make_up_the_deterministic_encoding_of_13_fields(header: Header) -> None:
    data = header.encode()
    value = cbor.decode_untrusted(data, HEADER_SIZE_MAX)
    assert len(value) == HEADER_FIELDS
    assert cbor.encode(value) == data
    log = header.log
    assert value[:5] == [1, log.space, log.author, log.log_id, int(log.log_class)]
    rest = (header.seq, header.prev, header.lamport, header.time, header.kind, header.payload_size, header.payload_hash)
    assert data == log.head() + tail(*rest, header.refs)


def test_the_longest_header_fits_its_limit() -> None:
    refs = tuple(bytes([n]) * 32 for n in range(1, 5))
    longest = Header(LOG, SEQ_MAX, ID, LAMPORT_MAX, TIME_MAX, KIND_MAX, PAYLOAD_SIZE_MAX, HASH, refs)
    assert len(longest.encode()) <= HEADER_SIZE_MAX
    assert decode_header_untrusted(longest.encode()) == longest


@given(headers(), headers())
def test_two_headers_have_one_id_exactly_when_they_are_equal(left: Header, right: Header) -> None:
    assert (entry_id(left.encode()) == entry_id(right.encode())) == (left == right)


# Fields out of range

BAD_IDS: list[Any] = [bytes(31), bytes(33), b"", 0, "a" * 32, [ID], True, {}]


def outside(low: int, high: int) -> list[Any]:
    return [low - 1, high + 1, -(2**63), 2**64 - 1, True, False, None, str(low), b"\x01", [low]]


BAD_FIELDS: dict[int, list[Any]] = {
    VERSION: outside(1, 1),
    SPACE_ID: [*BAD_IDS, None],
    AUTHOR_KEY: [*BAD_IDS, None],
    LOG_ID: [bytes(7), bytes(9), b"", None, 8, "a" * 8],
    CLASS: outside(0, 2),
    SEQ: [*outside(1, SEQ_MAX), 2**53 + 1, 2**63],
    PREV: [*BAD_IDS, None],
    LAMPORT: [*outside(1, LAMPORT_MAX), 2**63],
    TIME: [*outside(0, TIME_MAX), 2**63],
    KIND: outside(0, KIND_MAX),
    SIZE: outside(0, PAYLOAD_SIZE_MAX),
    DIGEST: [*BAD_IDS, None],
    REFS: [
        None,
        ID,
        {},
        [b"\x01" * 31],
        [None],
        [b"\x01" * 32, b"\x01" * 32],
        [b"\x02" * 32, b"\x01" * 32],
        [bytes([n]) * 32 for n in range(5)],
        [[ID]],
    ],
}
BAD = [(field, value) for field, values in BAD_FIELDS.items() for value in values]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_field_of_wrong_type_size_or_range_is_refused(field: int, value: Any) -> None:
    changed = fields()
    changed[field] = value
    with pytest.raises(RemoteProtocolError):
        decode_header_untrusted(cbor.encode(changed))


def test_a_float_where_an_integer_belongs_is_refused() -> None:
    for field in (VERSION, CLASS, SEQ, LAMPORT, TIME, KIND, SIZE):
        changed = fields()
        changed[field] = float(changed[field])
        with pytest.raises(RemoteProtocolError):
            decode_header_untrusted(cbor.encode(changed))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-1],
        lambda value: [*value, None],
        lambda value: [],
        lambda value: [value],
        lambda value: {str(index): field for index, field in enumerate(value)},
        lambda value: 1,
        lambda value: None,
    ],
)
def test_anything_but_an_array_of_13_is_refused(change: Callable[[list[Any]], Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_header_untrusted(cbor.encode(change(fields())))


@pytest.mark.parametrize("field", [VERSION, CLASS, SEQ, LAMPORT, TIME, KIND, SIZE])
def test_an_integer_written_longer_than_needed_is_refused(field: int) -> None:
    parts = [cbor.encode(value) for value in fields()]
    parts[field] = b"\x1b" + fields()[field].to_bytes(8, "big")
    with pytest.raises(RemoteProtocolError):
        decode_header_untrusted(b"\x8d" + b"".join(parts))


def test_the_array_in_another_form_or_with_bytes_behind_is_refused() -> None:
    body = HEADER.encode()[1:]
    assert decode_header_untrusted(b"\x8d" + body) == HEADER
    for data in (b"\x9f" + body + b"\xff", b"\x98\x0d" + body, b"\xd9\xd9\xf7\x8d" + body, b"\x8d" + body + b"\x00"):
        with pytest.raises(RemoteProtocolError):
            decode_header_untrusted(data)


def test_the_first_entry_names_none_before_it_and_every_other_does() -> None:
    for seq, prev in ((1, ID), (2, None)):
        with pytest.raises(RemoteProtocolError):
            decode_header_untrusted(Header(LOG, seq, prev, 1, 0, Kind.REPORT, 0, HASH).encode())


@pytest.mark.parametrize(
    ("log", "seq", "kind", "valid"),
    [
        (FOUNDING, 1, Kind.FOUNDING, True),
        (FOUNDING, 1, Kind.INVITE, False),
        (FOUNDING, 2, Kind.FOUNDING, False),
        (LogIdentity(None, AUTHOR, bytes(8), LogClass.VOICE), 1, 0, False),
        (LogIdentity(None, AUTHOR, bytes(8), LogClass.REPORT), 1, 0, False),
        (LogIdentity(SPACE, AUTHOR, bytes(8), LogClass.MEMBERSHIP), 1, Kind.FOUNDING, False),
        (LogIdentity(SPACE, AUTHOR, bytes(8), LogClass.MEMBERSHIP), 1, Kind.CLAIM, True),
        (LogIdentity(SPACE, AUTHOR, bytes(8), LogClass.REPORT), 1, 0, True),  # a foreign kind is void, not refused
    ],
)
def test_a_header_names_no_space_exactly_where_it_founds_one(
    log: LogIdentity, seq: int, kind: int, valid: bool
) -> None:
    data = Header(log, seq, None if seq == 1 else ID, 1, 0, kind, 0, HASH).encode()
    if valid:
        assert decode_header_untrusted(data).log == log
    else:
        with pytest.raises(RemoteProtocolError):
            decode_header_untrusted(data)


# Any bytes


@given(st.binary(max_size=HEADER_SIZE_MAX + 8))
def test_any_bytes_are_a_header_or_a_remote_error(data: bytes) -> None:
    try:
        header = decode_header_untrusted(data)
    except RemoteProtocolError:
        return
    assert header.encode() == data


scalars = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=3) | st.booleans() | st.none()


@given(st.lists(st.integers(0, HEADER_FIELDS - 1), min_size=1, max_size=3), st.data())
def test_any_value_in_any_field_is_a_header_or_a_remote_error(positions: list[int], data: st.DataObject) -> None:
    changed = fields()
    for position in positions:
        changed[position] = data.draw(scalars | st.lists(scalars, max_size=5))
    encoded = cbor.encode(changed)
    try:
        header = decode_header_untrusted(encoded)
    except RemoteProtocolError:
        return
    assert header.encode() == encoded


def test_a_header_cut_short_anywhere_or_over_the_limit_is_refused() -> None:
    data = HEADER.encode()
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            decode_header_untrusted(data[:size])
    with pytest.raises(RemoteProtocolError):
        decode_header_untrusted(data.ljust(HEADER_SIZE_MAX + 1, b"\0"))


# Signatures


def test_every_bit_flipped_in_header_or_signature_is_refused() -> None:
    header = HEADER.encode()
    signature = keys.sign(keys.signer_secret(SEED), keys.SIGN_ENTRY, entry_id(header))

    def accepted(header: bytes, signature: bytes) -> bool:
        try:
            author = decode_header_untrusted(header).log.author
        except RemoteProtocolError:
            return False
        return keys.verified(author, keys.SIGN_ENTRY, entry_id(header), signature)

    def flipped(data: bytes, bit: int) -> bytes:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    assert accepted(header, signature)
    assert not any(accepted(flipped(header, bit), signature) for bit in range(len(header) * 8))
    assert not any(accepted(header, flipped(signature, bit)) for bit in range(len(signature) * 8))
    assert not any(accepted(header, signature[:size]) for size in range(len(signature)))
    assert not accepted(header, signature + b"\0")


def test_a_signature_made_for_another_purpose_is_none_for_an_entry() -> None:
    id = entry_id(HEADER.encode())
    purposes = {value for name, value in vars(keys).items() if name.startswith("SIGN_")} - {keys.SIGN_ENTRY}
    assert purposes
    for purpose in (*purposes, b""):
        signature = keys.sign(keys.signer_secret(SEED), purpose, id)
        assert not keys.verified(AUTHOR, keys.SIGN_ENTRY, id, signature)


# Names and small parts


def test_log_keys_sort_by_class_and_differ_for_every_part_of_the_name() -> None:
    other = b"\x09" * 32
    logs = [
        LOG,
        LogIdentity(SPACE, other, LOG.log_id, LOG.log_class),
        LogIdentity(SPACE, AUTHOR, bytes(8), LOG.log_class),
        LogIdentity(SPACE, AUTHOR, LOG.log_id, LogClass.VOICE),
        LogIdentity(SPACE, AUTHOR, LOG.log_id, LogClass.MEMBERSHIP),
    ]
    found = [log_key(SPACE, log) for log in logs]
    assert len(set(found)) == len(logs)
    assert {len(key) for key in found} == {LOG_KEY_SIZE}
    assert [key[0] for key in sorted(found)] == [0, 1, 2, 2, 2]
    assert log_key(other, LOG) != log_key(SPACE, LOG)


def test_a_founding_entry_has_a_log_that_no_later_entry_is_in() -> None:
    later = LogIdentity(SPACE, FOUNDING.author, FOUNDING.log_id, FOUNDING.log_class)
    assert log_key(SPACE, FOUNDING) != log_key(SPACE, later)
    assert log_key(SPACE, FOUNDING)[0] == LogClass.MEMBERSHIP


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_payload_hashes_and_ids_of_the_same_bytes_differ(left: bytes, right: bytes) -> None:
    assert (payload_hash(left) == payload_hash(right)) == (left == right)
    assert payload_hash(left) != entry_id(left)


def test_time_is_rounded_down_to_quarters_of_an_hour_and_stays_in_range() -> None:
    assert time_units(0.0) == 0
    assert time_units(899.9) == 0
    assert time_units(900.0) == 1
    assert time_units(-1e12) == 0
    assert time_units(1e300) == TIME_MAX
