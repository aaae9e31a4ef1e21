"""Bundles: what was put in comes out, what was damaged is told apart, and who has no secret sees random bytes."""

from collections.abc import Iterator
from operator import and_, or_
from time import thread_time

import pytest
from pairs import SPACE, stream, written

from protocol import bundle, cbor, keys, messages
from protocol.bundle import (
    CONTENT_SIZE,
    SALT_SIZE,
    Damaged,
    Found,
    Head,
    Malformed,
    Opener,
    Part,
    Sealer,
    Seen,
    Type,
    Unsealer,
)
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import frame
from protocol.frontier import LogState, State
from protocol.limits import BUNDLE_CHUNK_SIZE, BUNDLE_FLOOR, MESSAGE_SIZE_MAX, POSITIONS_PER_FRAME
from protocol.log import prove_untrusted
from protocol.mailbox import BEGINNING, Cursor
from protocol.messages import Positions, RunMessage, Welcome
from protocol.padding import padme

SECRET, SALT = b"\x07" * 32, b"salt" * 6
OPENER = Opener(SPACE, SECRET)
STRANGER = Opener(b"\x01" * 32, b"\x01" * 32)
SHORT = RunMessage(written([b"a" * 20, b"b" * 20]))
RUN_FRAMES = b"".join(messages.encode(SHORT))
LARGE = [RunMessage(written([bytes([n]) * 15_000] * 4, log_id=bytes([n]) * 8)) for n in range(8)]  # a chunk each, about


def sealed(*parts: Part, secret: bytes = SECRET, salt: bytes = SALT) -> bytes:
    sealer = Sealer(secret, salt)
    return b"".join(map(sealer.put, parts)) + sealer.finish()


def made_by_hand(*contents: bytes) -> bytes:
    """A bundle with any bytes in its chunks, as somebody can make it who holds the secret."""
    sealer, data = Sealer(SECRET, SALT), b""
    for number, content in enumerate(contents, 1):
        sealer._content = [content]
        data += sealer._seal(CONTENT_SIZE, final=number == len(contents))
    return data


def tagged(*tags: int) -> bytes:
    """Chunks that hold one short run each, with any tags on them."""
    key = keys.derive(SECRET, b"p2pnode bundle 1")
    pieces = keys.Stream(key, keys.keyed_hash(key, b"p2pnode segm 1", SALT + bytes(4), 24))
    push = keys.bindings.crypto_secretstream_xchacha20poly1305_push
    return SALT + b"".join(push(pieces._state, RUN_FRAMES.ljust(CONTENT_SIZE, b"\0"), tag=tag) for tag in tags)


def chunks_of(data: bytes) -> Iterator[bytes]:
    for at in range(SALT_SIZE, len(data), BUNDLE_CHUNK_SIZE):
        yield data[at : at + BUNDLE_CHUNK_SIZE]


def read(data: bytes, *openers: Opener) -> tuple[list[Found], Unsealer]:
    unsealer = Unsealer(data[:SALT_SIZE], openers or (OPENER,))
    return [found for chunk in chunks_of(data) for found in unsealer.read_untrusted(chunk)], unsealer


def found_in(data: bytes) -> list[Found]:
    return read(data)[0]


def rearranged(data: bytes, order: list[int]) -> bytes:
    chunks = list(chunks_of(data))
    return data[:SALT_SIZE] + b"".join(chunks[number] for number in order)


# What was put in


def test_everything_that_a_bundle_may_hold_comes_out_as_it_went_in() -> None:
    positions = tuple(LogState(b"\x02" + n.to_bytes(16, "big"), 3, b"i" * 32, State.ORDINARY) for n in range(700))
    parts: list[Part] = [Head(66), Seen(Cursor(7, b"h" * 32)), Seen(BEGINNING), Positions(positions)]
    parts += [SHORT, Welcome((b"1" * 32, b"2" * 32)), *LARGE]
    found, unsealer = read(sealed(*parts))
    assert found[:3] == parts[:3]
    split = [Positions(positions[:POSITIONS_PER_FRAME]), Positions(positions[POSITIONS_PER_FRAME:])]
    assert found[3:5] == split
    assert found[5:] == parts[4:]
    assert unsealer.whole
    assert [len(prove_untrusted(part.unproven)) for part in found if isinstance(part, RunMessage)] == [2, *[4] * 8]


def test_a_run_longer_than_a_chunk_is_one_run() -> None:
    run = RunMessage(written([bytes([n]) * 16_384 for n in range(64)]))
    data = sealed(run)
    assert len(data) > 16 * BUNDLE_CHUNK_SIZE
    assert found_in(data) == [run]


def test_a_run_that_crosses_from_one_segment_into_the_next_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", 2)
    run = RunMessage(written([bytes([n]) * 16_384 for n in range(30)]))
    assert found_in(sealed(run)) == [run]


def test_a_bundle_with_nothing_in_it_is_whole() -> None:
    found, unsealer = read(sealed())
    assert (found, unsealer.whole, unsealer.opener) == ([], True, OPENER)


def test_the_same_salt_gives_the_same_bytes_and_another_none_of_them() -> None:
    assert sealed(SHORT) == sealed(SHORT)
    one, other = sealed(SHORT), sealed(SHORT, salt=b"SALT" * 6)
    assert not {one[at : at + 8] for at in range(len(one))} & {other[at : at + 8] for at in range(len(other))}


def test_a_maker_holds_no_more_than_one_chunk() -> None:
    sealer = Sealer(SECRET, SALT)
    data = b""
    for part in [Head(32), SHORT, *LARGE]:
        data += sealer.put(part)
        assert sum(map(len, sealer._content)) == sealer._size <= CONTENT_SIZE
        assert (len(data) - SALT_SIZE) % BUNDLE_CHUNK_SIZE == 0 or not data
    assert found_in(data + sealer.finish()) == [Head(32), SHORT, *LARGE]


def test_a_chunk_is_filled_to_its_last_byte_and_no_further() -> None:
    room = CONTENT_SIZE - sum(map(len, messages.encode(LARGE[0])))
    around = sum(map(len, messages.encode(RunMessage(written([bytes(600)]))))) - 600
    for size, finished in ((room - around, False), (room - around + 1, True)):
        sealer = Sealer(SECRET, SALT)
        assert sealer.put(LARGE[0]) == b""
        data = sealer.put(RunMessage(written([bytes(size)])))
        assert (len(data) > 0) is finished
        assert found_in(data + sealer.finish()) == [LARGE[0], RunMessage(written([bytes(size)]))]


def test_a_salt_of_another_size_is_our_own_fault() -> None:
    for size in (0, 23, 25):
        with pytest.raises(LocalProtocolError):
            Sealer(SECRET, bytes(size))


# What a watcher sees


def test_the_size_of_the_whole_is_one_that_padme_gives() -> None:
    sizes = {len(sealed(RunMessage(written([bytes(900)] * count)))) for count in (*range(1, 200), 400, 1000)}
    assert all(size == padme(size) >= BUNDLE_FLOOR for size in sizes)


def test_a_short_report_and_a_long_one_look_alike() -> None:
    assert {BUNDLE_FLOOR} == {len(sealed(RunMessage(written([bytes(size)])))) for size in (20, 100, 1000, 3000)}


def test_the_longest_message_of_a_mailbox_is_one_whole_bundle() -> None:
    sealer = Sealer(SECRET, SALT)
    data = b"".join(sealer._seal(CONTENT_SIZE) for _ in range(15))
    sealer._size = CONTENT_SIZE - SALT_SIZE
    assert len(data + sealer.finish()) == MESSAGE_SIZE_MAX


def test_no_bit_of_the_first_512_bytes_is_the_same_in_64_bundles() -> None:
    salts = stream("salts")
    ones, zeros = b"\xff" * 512, bytes(512)
    for _ in range(64):
        data = sealed(Head(2), SHORT, salt=salts(SALT_SIZE))[:512]
        ones, zeros = bytes(map(and_, ones, data)), bytes(map(or_, zeros, data))
    assert (ones, zeros) == (bytes(512), b"\xff" * 512)


# Who may read


def test_a_reader_without_the_secret_finds_nothing() -> None:
    for openers in ([], [STRANGER], [Opener(SPACE, b"\x08" * 32)]):
        unsealer = Unsealer(SALT, openers)
        assert [unsealer.read_untrusted(chunk) for chunk in chunks_of(sealed(SHORT))] == [[Damaged()]]
        assert (unsealer.whole, unsealer.opener) == (False, None)


def test_a_reader_of_many_spaces_learns_whose_it_is() -> None:
    others = [Opener(bytes([n]) * 32, bytes([n]) * 32) for n in range(20, 40)]
    found, unsealer = read(sealed(SHORT, *LARGE), *others, OPENER, STRANGER)
    assert (found, unsealer.opener) == ([SHORT, *LARGE], OPENER)


def test_a_bundle_whose_beginning_is_lost_is_opened_by_its_second_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", 2)
    data = bytearray(sealed(*LARGE))
    data[100] ^= 1
    found, unsealer = read(bytes(data), STRANGER, OPENER)
    assert (found[0], unsealer.opener) == (Damaged(), OPENER)
    assert RunMessage in {type(part) for part in found}


def test_a_run_from_another_space_under_this_spaces_secret_does_not_prove() -> None:
    (run,) = read(sealed(SHORT), Opener(b"\x09" * 32, SECRET))[0]
    assert isinstance(run, RunMessage)
    with pytest.raises(RemoteProtocolError):
        prove_untrusted(run.unproven)


# Damage


def test_every_flipped_bit_is_noticed() -> None:
    data = sealed(Head(2), SHORT)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        found, unsealer = read(bytes(changed))
        assert (found, unsealer.whole) == ([Damaged()], False)


def test_a_bundle_cut_short_anywhere_is_not_whole() -> None:
    data = sealed(Head(2), SHORT)
    for size in range(len(data)):
        found, unsealer = read(data[:size])
        assert (found, unsealer.whole) == ([Damaged()] if size > SALT_SIZE else [], False)


@pytest.mark.parametrize("segment", [1, 2, 64])
def test_a_bundle_cut_between_two_chunks_gives_what_came_before_and_is_not_whole(
    segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", segment)
    data = sealed(*LARGE)
    before = 0
    for end in range(SALT_SIZE, len(data), BUNDLE_CHUNK_SIZE):
        found, unsealer = read(data[:end])
        assert (found, unsealer.whole) == (LARGE[: len(found)], False)
        assert len(found) >= before
        before = len(found)
    assert found_in(data) == LARGE


def test_something_behind_the_end_is_noticed() -> None:
    long, short = sealed(*LARGE), sealed(SHORT)
    for data in (long + b"\0", long + short, short + b"\0", short + short):
        found, unsealer = read(data)
        assert Damaged() in found
        assert not unsealer.whole
    *_, last = chunks_of(long)
    unsealer = read(long)[1]
    assert unsealer.whole
    assert (unsealer.read_untrusted(last), unsealer.whole) == ([Damaged()], False)


def test_chunks_in_another_order_twice_or_of_another_bundle_end_their_segment() -> None:
    data, other = sealed(*LARGE), sealed(*reversed(LARGE), salt=b"SALT" * 6)
    count = len(list(chunks_of(data)))
    in_order = list(range(count))
    for order in ([1, 0, *in_order[2:]], [0, 2, 1, *in_order[3:]], [0, 0, *in_order[1:]], [0, *in_order[2:]]):
        found, unsealer = read(rearranged(data, order))
        assert found == [*LARGE[: order.index(order[0] + 1) if order[:2] == [0, 1] else len(found) - 1], Damaged()]
        assert not unsealer.whole
    mixed = data[: SALT_SIZE + BUNDLE_CHUNK_SIZE] + other[SALT_SIZE + BUNDLE_CHUNK_SIZE :]
    assert found_in(mixed) == [*found_in(data[: SALT_SIZE + BUNDLE_CHUNK_SIZE]), Damaged()]


def test_segments_in_another_order_or_left_out_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", 2)
    data = sealed(*LARGE)
    count = len(list(chunks_of(data)))
    for order in ([2, 3, 0, 1, *range(4, count)], [0, 1, *range(4, count)], [0, 1, 0, 1, *range(4, count)]):
        found, unsealer = read(rearranged(data, order))
        assert Damaged() in found
        assert unsealer.whole is (len(order) == count)  # where nothing is missing, the end is in its place
        assert set(map(type, found)) <= {Damaged, RunMessage}


@pytest.mark.parametrize("hurt", range(8))
def test_a_damaged_chunk_costs_the_rest_of_its_segment_and_no_other(hurt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", 3)
    runs = [RunMessage(written([b"x" * 20], log_id=bytes([n]) * 8)) for n in range(8)]
    data = bytearray(made_by_hand(*(b"".join(messages.encode(run)) for run in runs)))
    assert found_in(bytes(data)) == runs
    data[SALT_SIZE + hurt * BUNDLE_CHUNK_SIZE + 1000] ^= 1
    found, unsealer = read(bytes(data))
    end = (hurt // 3 + 1) * 3
    assert (found, unsealer.whole) == ([*runs[:hurt], Damaged(), *runs[end:]], end < 8)


def test_a_run_whose_payloads_were_in_a_lost_chunk_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", 1)
    long = RunMessage(written([bytes([n]) * 15_000 for n in range(8)]))
    head, *payloads = messages.encode(long)
    assert len(payloads) == 2
    data = made_by_hand(head, *payloads, RUN_FRAMES)
    assert found_in(data) == [long, SHORT]
    for number in range(3):
        changed = bytearray(data)
        changed[SALT_SIZE + number * BUNDLE_CHUNK_SIZE] ^= 1
        assert found_in(bytes(changed)) == [Damaged(), SHORT]


def test_the_ends_of_two_runs_around_a_lost_chunk_do_not_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", 1)
    runs = [RunMessage(written([bytes([n]) * 12_000] * 10, log_id=bytes([n]) * 8)) for n in range(2)]
    (head, payloads, more), (other_head, *other_payloads) = map(messages.encode, runs)
    data = bytearray(made_by_hand(head, payloads, more, other_head, *other_payloads))
    assert found_in(bytes(data)) == runs
    for lost in (2, 3):
        data[SALT_SIZE + lost * BUNDLE_CHUNK_SIZE] ^= 1
    assert found_in(bytes(data)) == [Damaged(), Damaged()]


# Members who mean harm, and later versions


def test_types_that_a_reader_does_not_know_are_passed_over() -> None:
    known = messages.encode(SHORT)
    unknown = [bytes([number, 0, 0, 2, 0, 1]) for number in (0, 1, 13, 16, 31, 34, 255)]
    content = b"".join([*unknown, known[0], *unknown, known[1], *unknown])
    found, unsealer = read(made_by_hand(content))
    assert (found, unsealer.whole) == ([SHORT], True)


MALFORMED = [
    frame(Type.HEAD, cbor.encode([2, 0])),
    frame(Type.SEEN, cbor.encode([0, b""])),
    frame(Type.POSITION, cbor.encode([])),
    frame(Type.WELCOME, b"\xff"),
    frame(Type.RUN, cbor.encode([])),
    messages.encode(SHORT)[0][:4] + b"\xff" * len(messages.encode(SHORT)[0][4:]),
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=lambda data: Type(data[0]).name)
def test_a_malformed_frame_is_told_and_what_follows_is_read(malformed: bytes) -> None:
    assert found_in(made_by_hand(RUN_FRAMES + malformed + RUN_FRAMES)) == [SHORT, Malformed(), SHORT]


def test_a_run_that_is_interrupted_is_not_told() -> None:
    head, payloads = messages.encode(SHORT)
    other = frame(Type.HEAD, cbor.encode([1, 0]))
    assert found_in(made_by_hand(head + other + payloads)) == [Head(0)]
    assert found_in(made_by_hand(payloads + head + head + payloads)) == [SHORT]
    assert found_in(made_by_hand(head + frame(Type.PAYLOADS, b"\x80") + payloads)) == [Malformed()]


@pytest.mark.parametrize("cut", [b"\x20\xff\xff\xff", b"\x20\0\xff\xf0", b"\x63\0\xff\xff"])
def test_a_frame_longer_than_its_chunk_ends_the_chunk_and_not_the_bundle(cut: bytes) -> None:
    assert found_in(made_by_hand(RUN_FRAMES + cut, RUN_FRAMES)) == [SHORT, Malformed(), SHORT]


def test_a_header_that_its_chunk_has_no_room_for_ends_the_chunk_and_not_the_bundle() -> None:
    filling = bytes([99]) + (CONTENT_SIZE - 4 - 3).to_bytes(3, "big") + bytes(CONTENT_SIZE - 4 - 3)
    for end in (b"\x20\0\1", b"\x20\0\0", b"\0\0\1"):
        assert found_in(made_by_hand(filling + end, RUN_FRAMES)) == [Malformed(), SHORT]
    assert found_in(made_by_hand(filling + bytes(3), RUN_FRAMES)) == [SHORT]


def test_a_bundle_is_of_one_secret_from_beginning_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_SEGMENT_CHUNKS", 1)
    ours, theirs = (sealed(*LARGE[:3], secret=opener.secret) for opener in (OPENER, STRANGER))
    assert len(ours) == len(theirs)
    second = SALT_SIZE + BUNDLE_CHUNK_SIZE
    found, unsealer = read(ours[:second] + theirs[second:], STRANGER, OPENER)
    assert Damaged() in found
    assert (found, unsealer.opener) == (found_in(ours[:second] + bytes(len(ours) - second)), OPENER)


def test_an_end_in_the_middle_is_the_end() -> None:
    found, unsealer = read(tagged(0, 3, 0))
    assert (found, unsealer.whole) == ([SHORT, SHORT, Damaged()], False)


@pytest.mark.parametrize("tag", [1, 2])
def test_tags_that_no_maker_needs_change_nothing(tag: int) -> None:
    found, unsealer = read(tagged(tag, 3))
    assert (found, unsealer.whole) == ([SHORT, SHORT], True)


def test_a_chunk_full_of_empty_frames_takes_no_longer_than_another() -> None:
    data = made_by_hand(bytes(4) * 16_000 + b"\0\0\0\1x")  # all of type 0
    start = thread_time()
    assert found_in(data) == []
    assert thread_time() - start < 0.1  # looking for the padding at each of them took three times as long
