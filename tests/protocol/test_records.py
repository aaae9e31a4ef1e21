"""Records: what goes in comes out whatever the pieces, and a watcher or a liar gets nothing."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import keys
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import RECORD_BODY_MAX, RECORD_CONTENT_MAX, RECORD_FLOOR, REKEY_RECORDS, REKEY_SECONDS
from protocol.noise import NONCE_MAX, CipherState
from protocol.records import RecordReader, RecordWriter, body_size

KEY = bytes(range(32))
OVERHEAD = 2 + 16 + 16


def ends() -> tuple[RecordWriter, RecordReader]:
    return RecordWriter(CipherState(KEY), now=0.0), RecordReader(CipherState(KEY))


def sealed(head: bytes, body: bytes) -> bytes:
    """A record made by hand, honest or not."""
    cipher = CipherState(KEY)
    return cipher.encrypt_with_ad(b"", head) + cipher.encrypt_with_ad(b"", body)


def refused(stream: bytes) -> None:
    reader = ends()[1]
    with pytest.raises(RemoteProtocolError):
        list(reader.receive(stream))
    with pytest.raises(LocalProtocolError):
        list(reader.receive(b""))


def test_a_record_is_what_the_specification_says() -> None:
    nonces = [bytes(4) + number.to_bytes(8, "little") for number in range(2)]
    body = b"\0\5hello" + bytes(249)
    expected = keys.seal(KEY, nonces[0], b"\1\0", b"") + keys.seal(KEY, nonces[1], body, b"")
    assert expected == ends()[0].write(b"hello")


@given(st.lists(st.binary(max_size=1500), max_size=8), st.randoms(use_true_random=False))
def test_contents_arrive_whole_and_in_order_in_any_pieces(contents: list[bytes], random: object) -> None:
    writer, reader = ends()
    stream = b"".join(map(writer.write, contents))
    arrived: list[bytes] = []
    while stream:
        size = random.randint(1, 700)  # type: ignore[attr-defined]  # Hypothesis' Random
        arrived += reader.receive(stream[:size])
        stream = stream[size:]
    assert contents == arrived


@pytest.mark.parametrize("piece", [1, 10**9])
def test_one_byte_at_a_time_and_all_at_once_give_the_same(piece: int) -> None:
    contents = [b"", b"x", bytes(5000), bytes(RECORD_CONTENT_MAX), b"end"]
    writer, reader = ends()
    stream = b"".join(map(writer.write, contents))
    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    assert contents == [content for part in pieces for content in reader.receive(part)]


def test_sizes_show_only_a_few_bits_and_cost_at_most_12_percent() -> None:
    known = {0: 256, 254: 256, 255: 272, 1000: 1024, 5000: 5120, 30_000: 30_720, RECORD_CONTENT_MAX: RECORD_BODY_MAX}
    assert known == {size: body_size(size) for size in known}
    sizes = [body_size(size) for size in range(RECORD_CONTENT_MAX + 1)]
    assert all(small <= big for small, big in pairwise(sizes))
    assert all(2 + content <= size <= max(RECORD_FLOOR, 1.12 * (2 + content)) for content, size in enumerate(sizes))
    assert len(set(sizes)) == 128


def test_the_longest_record_is_one_noise_message_and_nothing_longer_is_written() -> None:
    writer, _ = ends()
    assert OVERHEAD + RECORD_BODY_MAX == len(writer.write(bytes(RECORD_CONTENT_MAX))) < 65_536
    with pytest.raises(LocalProtocolError):
        writer.write(bytes(RECORD_CONTENT_MAX + 1))


def test_a_length_that_no_padding_gives_is_refused_before_its_body_is_awaited() -> None:
    valid = {body_size(size) for size in range(RECORD_CONTENT_MAX + 1)}
    for length in (0, 1, 255, 257, 271, RECORD_BODY_MAX - 1, RECORD_BODY_MAX + 1, 65_535):
        assert length not in valid
        refused(sealed(length.to_bytes(2, "big"), b"")[:18])


def test_a_count_or_padding_other_than_the_writers_is_refused() -> None:
    for body in (
        b"\0\5hello" + bytes(248) + b"\1",  # the last byte of the padding
        b"\0\5hello" + b"\1" + bytes(248),  # the first
        b"\0\5hello" + bytes(265),  # padded further than need be
        b"\0\xff" + bytes(254),  # count beyond the body
        b"\xff\xff" + bytes(254),
        b"\0\xff" + bytes(1022),
    ):
        refused(sealed(len(body).to_bytes(2, "big"), body))


def test_every_flipped_bit_is_refused() -> None:
    record = ends()[0].write(b"hello")
    for bit in range(8 * len(record)):
        changed = bytearray(record)
        changed[bit // 8] ^= 1 << bit % 8
        refused(bytes(changed))


def test_a_record_cut_short_gives_nothing() -> None:
    record = ends()[0].write(b"hello")
    for size in range(len(record)):
        assert not list(ends()[1].receive(record[:size]))


def test_reordered_repeated_and_dropped_records_are_refused() -> None:
    writer, _ = ends()
    first, second, third = (writer.write(content) for content in (b"1", b"2", b"3"))
    for stream, before in (
        (second + first, []),
        (first + first, [b"1"]),
        (first + third, [b"1"]),
        (second, []),
        (first + second[18:], [b"1"]),  # a body without its head
        (first[:18] + first, []),
    ):
        arrived: list[bytes] = []
        reader = ends()[1]
        with pytest.raises(RemoteProtocolError):
            arrived.extend(reader.receive(stream))  # keeps what came before the error
        assert before == arrived


def test_a_rekey_between_two_records_of_one_piece_takes_effect_between_them() -> None:
    writer, reader = ends()
    stream = writer.write(b"rekey")
    writer.rekey(1.0)
    stream += writer.write(b"after")
    arrived = []
    for content in reader.receive(stream):
        arrived.append(content)
        if content == b"rekey":
            reader.rekey()
    assert arrived == [b"rekey", b"after"]


def test_a_reader_that_misses_the_rekey_reads_nothing_more() -> None:
    writer, reader = ends()
    stream = writer.write(b"rekey")
    writer.rekey(1.0)
    stream += writer.write(b"after")
    with pytest.raises(RemoteProtocolError):
        list(reader.receive(stream))


def test_a_rekey_is_due_by_the_hour_or_by_the_million() -> None:
    writer = RecordWriter(CipherState(KEY), now=100.0)
    assert not writer.rekey_due(100.0 + REKEY_SECONDS - 1)
    assert writer.rekey_due(100.0 + REKEY_SECONDS)
    writer.rekey(100.0 + REKEY_SECONDS)
    assert not writer.rekey_due(100.0 + REKEY_SECONDS)
    writer._records = REKEY_RECORDS - 1
    writer.write(b"")
    assert writer.rekey_due(100.0 + REKEY_SECONDS)
    writer.rekey(100.0 + REKEY_SECONDS)
    assert not writer.rekey_due(100.0 + REKEY_SECONDS)


def test_neither_end_uses_the_last_nonce() -> None:
    for nonce in (NONCE_MAX - 1, NONCE_MAX):
        sender, receiver = CipherState(KEY), CipherState(KEY)
        sender.nonce = receiver.nonce = nonce
        with pytest.raises(LocalProtocolError):
            RecordWriter(sender, now=0.0).write(b"")
        receiver.nonce = NONCE_MAX
        with pytest.raises(RemoteProtocolError):
            list(RecordReader(receiver).receive(bytes(18)))


def test_what_is_not_asked_for_waits() -> None:
    writer, reader = ends()
    arrived = reader.receive(writer.write(b"1") + writer.write(b"2"))
    assert next(arrived) == b"1"
    assert list(reader.receive(writer.write(b"3"))) == [b"2", b"3"]
