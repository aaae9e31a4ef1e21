"""Messages: every one comes back as it was said, every malformed one is refused, every frame fits a record."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import AUTHOR_SEED, SPACE, written

from protocol import cbor, keys
from protocol.entry import LogClass
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import Type, split_untrusted
from protocol.frontier import LogState, State
from protocol.limits import (
    FRAME_BODY_MAX,
    FRAME_HEADER_SIZE,
    LAMPORT_MAX,
    PAYLOAD_SIZE_MAX,
    POSITIONS_PER_FRAME,
    RECORD_CONTENT_MAX,
    RUN_ENTRIES_MAX,
    RUN_SIZE_MAX,
    SEQ_MAX,
    TIME_MAX,
)
from protocol.log import Run, must_be_signed, prove_untrusted, rebuild
from protocol.messages import (
    EPOCHS_MAX,
    Close,
    Decline,
    Digest,
    End,
    Joined,
    Message,
    Positions,
    Probe,
    Reconcile,
    Rekey,
    RunMessage,
    Same,
    Totals,
    Want,
    Welcome,
    decode_untrusted,
    encode,
)
from protocol.run_frames import RunReader

KEY, ID, DIGEST = b"\x02" + b"k" * 16, b"i" * 32, b"d" * 32
REF = b"r" * 32


def read(frames: list[bytes]) -> list[Message]:
    """What the frames say, runs included."""
    said: list[Message] = []
    reader: RunReader | None = None
    for content in frames:
        for kind, body in split_untrusted(content, Type):
            match kind:
                case Type.RUN:
                    assert reader is None
                    reader = RunReader(SPACE, body)
                case Type.PAYLOADS:
                    assert reader is not None
                    reader.receive_untrusted(body)
                case _:
                    said.append(decode_untrusted(kind, body))
            if reader is not None and reader.run is not None:
                said.append(RunMessage(reader.run))
                reader = None
    assert reader is None
    return said


def refused(kind: Type, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(kind, body)


# Round trips

log_keys = st.builds(
    lambda log_class, rest: bytes([log_class]) + rest, st.sampled_from(LogClass), st.binary(min_size=16, max_size=16)
)
ids = st.binary(min_size=32, max_size=32)
seqs = st.integers(1, SEQ_MAX)
positions = st.builds(LogState, log_keys, seqs, ids, st.sampled_from(State)) | st.builds(
    LogState, log_keys, st.just(0), st.none(), st.sampled_from(State)
)
key_lists = st.lists(log_keys, min_size=1, max_size=20).map(tuple)
said = st.one_of(
    st.builds(Reconcile, st.binary(max_size=200), st.booleans()),
    st.builds(Positions, st.lists(positions, min_size=1, max_size=20).map(tuple)),
    st.builds(Same, key_lists),
    st.builds(Decline, key_lists),
    st.builds(End, key_lists),
    st.builds(Probe, log_keys, seqs, st.none() | ids),
    st.tuples(log_keys, seqs, seqs).map(lambda want: Want(want[0], *sorted(want[1:]))),
    st.builds(Totals, st.integers(0, 2**53)),
    st.builds(Digest, ids, st.booleans()),
    st.builds(Welcome, st.lists(ids, min_size=1, max_size=EPOCHS_MAX).map(tuple)),
    st.sampled_from([Rekey(), Joined(), Close()]),
)


@given(st.lists(said, max_size=5))
def test_what_is_said_is_what_is_heard(messages: list[Message]) -> None:
    frames = [frame for message in messages for frame in encode(message)]
    assert messages == read(frames)
    assert messages == read([b"".join(frames)])


def test_every_type_of_frame_has_a_message() -> None:
    run = RunMessage(written([b"x" * 20]))
    keys_of = [Same((KEY,)), Decline((KEY,)), End((KEY,))]
    talk = [Positions((LogState(KEY, 0, None, State.ORDINARY),)), Probe(KEY, 1, None), Want(KEY, 1, 1), Totals(0)]
    rest = [Digest(DIGEST, True), Rekey(), Welcome((ID,)), Joined(), Close()]
    every: list[Message] = [run, *keys_of, *talk, *rest, Reconcile(b"", True), Reconcile(b"", False)]
    assert set(Type) == {Type(frame[0]) for message in every for frame in encode(message)}
    assert every == read([frame for message in every for frame in encode(message)])


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Runs that honest authors and honest holders could send, in every shape of their columns."""
    count = draw(st.integers(1, 12))
    first_seq = draw(st.sampled_from([1, 2, 60, 1000, SEQ_MAX - count + 1]))
    lamports = [draw(st.integers(1, 2**40))]
    kinds, times = [draw(st.integers(1, 255))], [draw(st.integers(0, TIME_MAX))]
    alike = draw(st.booleans())
    for _ in range(count - 1):
        lamports.append(lamports[-1] + (1 if alike else draw(st.integers(1, 2**30))))
        times.append(times[-1] if alike else draw(st.integers(0, TIME_MAX)))
        kinds.append(kinds[-1] if alike else draw(st.integers(1, 255)))
    payloads = draw(st.lists(st.none() | st.binary(max_size=40), min_size=count, max_size=count))
    if draw(st.booleans()):
        payloads[0] = b"big" * 2731
    log = replace(written([b""]).log, log_class=draw(st.sampled_from(LogClass)))
    refs = draw(st.dictionaries(st.integers(0, count - 1), st.sets(ids, min_size=1, max_size=4).map(sorted).map(tuple)))
    lacks = {
        index: (draw(st.integers(0, PAYLOAD_SIZE_MAX)), draw(ids))
        for index, payload in enumerate(payloads)
        if payload is None
    }
    prev = None if first_seq == 1 else draw(ids)
    bare = rebuild(SPACE, log, first_seq, prev, lamports, times, kinds, payloads, {}, refs, lacks)
    secret = keys.signer_secret(AUTHOR_SEED)
    signatures = {
        index: keys.sign(secret, keys.SIGN_ENTRY, bare.ids[index])
        for index, payload in enumerate(payloads)
        if must_be_signed(index, count, first_seq + index, lacks[index][0] if payload is None else len(payload))
        or draw(st.booleans())
    }
    return replace(bare, signatures=signatures)


@given(runs())
def test_a_run_comes_back_with_its_ids_and_proofs(run: Run) -> None:
    (message,) = read(encode(RunMessage(run)))
    assert message == RunMessage(run)
    assert isinstance(message, RunMessage)
    assert prove_untrusted(message.unproven) == run


# Frames


def test_a_frame_may_fill_a_record_and_no_more() -> None:
    (frame,) = encode(Reconcile(bytes(FRAME_BODY_MAX), opens=False))
    assert len(frame) == RECORD_CONTENT_MAX == FRAME_HEADER_SIZE + FRAME_BODY_MAX
    assert read([frame]) == [Reconcile(bytes(FRAME_BODY_MAX), opens=False)]
    with pytest.raises(LocalProtocolError):
        encode(Reconcile(bytes(FRAME_BODY_MAX + 1), opens=False))


@pytest.mark.parametrize("make", [Same, Decline, End])
@pytest.mark.parametrize("count", [1, POSITIONS_PER_FRAME, POSITIONS_PER_FRAME + 1, 5000])
def test_long_lists_of_keys_are_cut_into_frames(make: Any, count: int) -> None:
    said = make(tuple(b"\x00" + n.to_bytes(16, "big") for n in range(count)))
    frames = encode(said)
    assert len(frames) == -(-count // POSITIONS_PER_FRAME)
    assert all(len(frame) <= RECORD_CONTENT_MAX for frame in frames)
    assert said.keys == tuple(key for part in read(frames) for key in part.keys)  # type: ignore[union-attr]


def test_long_lists_of_positions_are_cut_into_frames_and_the_longest_frame_fits() -> None:
    longest = LogState(KEY, SEQ_MAX, ID, State.CUT)
    frames = encode(Positions((longest,) * 1025))
    assert len(frames) == 3
    assert max(map(len, frames)) <= RECORD_CONTENT_MAX
    assert read(frames) == [Positions((longest,) * 512)] * 2 + [Positions((longest,))]


def test_nothing_in_a_list_is_no_frame() -> None:
    assert [encode(message) for message in (Positions(()), Same(()), Decline(()), End(()))] == [[]] * 4


@pytest.mark.parametrize("size", [PAYLOAD_SIZE_MAX, 1000, 20, 0])
def test_every_frame_of_a_full_run_fits_a_record(size: int) -> None:
    run = written([bytes(size)] * min(RUN_ENTRIES_MAX, RUN_SIZE_MAX // max(size, 1)))
    frames = encode(RunMessage(run))
    assert max(map(len, frames)) <= RECORD_CONTENT_MAX
    assert read(frames) == [RunMessage(run)]


@pytest.mark.parametrize("content", [b"\x10", b"\x10\x00\x00", b"\x10\x00\x00\x01", b"\x0b\xff\xff\xff" + bytes(60)])
def test_a_frame_cut_short_is_refused(content: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="cut short"):
        list(split_untrusted(content, Type))


@pytest.mark.parametrize("kind", [0, 17, 18, 127, 128, 255])
def test_a_frame_of_unknown_type_is_refused(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown type"):
        list(split_untrusted(bytes([kind, 0, 0, 0]), Type))


def test_frames_before_a_bad_one_are_handed_over_first() -> None:
    frames = split_untrusted(b"\x10\x00\x00\x00\x00", Type)
    assert next(frames) == (Type.CLOSE, b"")
    with pytest.raises(RemoteProtocolError):
        next(frames)


# Malformed messages

POSITION = [KEY, 1, ID, 0]
MALFORMED: list[tuple[Type, Any]] = [
    *((kind, body) for kind in (Type.SAME, Type.DECLINE, Type.END) for body in ([], [KEY[:16]], [KEY + b"\0"], [None])),
    *((kind, body) for kind in (Type.SAME, Type.DECLINE, Type.END) for body in ({}, KEY, 0, [[KEY]], [KEY] * 513)),
    (Type.SAME, [b"\x03" + KEY[1:]]),
    *((Type.POSITION, body) for body in ([], {}, POSITION, [POSITION] * 513, [POSITION[:3]], [[*POSITION, 0]], [{}])),
    (Type.POSITION, [["x" * 17, 1, ID, 0]]),
    (Type.POSITION, [[b"\x03" + KEY[1:], 1, ID, 0]]),
    *((Type.POSITION, [[KEY, high, ID, 0]]) for high in (0, -1, SEQ_MAX + 1, True, None, b"")),
    *((Type.POSITION, [[KEY, 1, newest, 0]]) for newest in (None, ID[:31], ID + b"\0", "x" * 32, 0)),
    (Type.POSITION, [[KEY, False, None, 0]]),
    *((Type.POSITION, [[KEY, 1, ID, state]]) for state in (-1, 3, True, None, b"")),
    *((Type.PROBE, body) for body in ([], [KEY, 1], [KEY, 1, ID, 0], {}, KEY, [KEY[1:], 1, ID])),
    *((Type.PROBE, [KEY, seq, ID]) for seq in (0, -1, SEQ_MAX + 1, True, None)),
    *((Type.PROBE, [KEY, 1, id]) for id in (ID[:31], "x" * 32, False, 0)),
    *((Type.WANT, body) for body in ([], [KEY, 1], [KEY, 1, 2, 3], {}, [KEY[1:], 1, 2], [KEY, 2, 1], [KEY, 0, 1])),
    *((Type.WANT, [KEY, 1, last]) for last in (SEQ_MAX + 1, True, None, "2")),
    *((Type.TOTALS, body) for body in ([], [1, 2], [-1], [2**53 + 1], [True], [None], 1, {})),
    *((Type.DIGEST, body) for body in ([], [DIGEST], [DIGEST, True, 0], [DIGEST[:31], True], [None, True])),
    *((Type.DIGEST, [DIGEST, question]) for question in (0, 1, None, "yes")),
    *((Type.WELCOME, body) for body in ([], [ID] * (EPOCHS_MAX + 1), [ID[:31]], [ID, None], ["x" * 32], {}, ID)),
]


@pytest.mark.parametrize(("kind", "value"), MALFORMED, ids=lambda value: getattr(value, "name", ""))
def test_a_malformed_message_is_refused(kind: Type, value: Any) -> None:
    refused(kind, cbor.encode(value))


@pytest.mark.parametrize("kind", sorted(set(Type) - {Type.RECONCILE_OPEN, Type.RECONCILE, Type.RUN, Type.PAYLOADS}))
def test_a_body_that_is_no_single_value_is_refused(kind: Type) -> None:
    for body in (b"\xff", b"\x81", b"\x80\x80", b"\x9f\xff", bytes(FRAME_BODY_MAX + 1)):
        refused(kind, body)


@pytest.mark.parametrize("kind", [Type.REKEY, Type.JOINED, Type.CLOSE])
@pytest.mark.parametrize("body", [b"\x80", b"\xf6", b"\x00"])
def test_a_message_without_a_body_has_none(kind: Type, body: bytes) -> None:
    refused(kind, body)


def test_runs_are_not_read_one_frame_at_a_time() -> None:
    for kind in (Type.RUN, Type.PAYLOADS):
        with pytest.raises(LocalProtocolError):
            decode_untrusted(kind, b"")


# Malformed runs: what a vector does not say already

NAMES = ["author", "log_id", "class", "first_seq", "prev", "count", "lamports", "times", "kinds"]
NAMES += ["signatures", "refs", "lacks"]
RUN = written([b"a" * 20, b"b" * 20, b"c" * 20], first_seq=5, prev=ID)
COLUMNS = cbor.decode_untrusted(encode(RunMessage(RUN))[0][FRAME_HEADER_SIZE:], FRAME_BODY_MAX)
PAYLOADS = encode(RunMessage(RUN))[1][FRAME_HEADER_SIZE:]
ANYTHING_ELSE = [None, True, -1, 2**64 - 1, b"", b"x" * 40, "text", {}, {"a": 1}, [None], [[]], [0, None], [0] * 4]


@pytest.mark.parametrize("value", [*ANYTHING_ELSE, LAMPORT_MAX + 1, [0, []], [0, [None]], [0, [REF, REF]]], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_another_type_is_refused(name: str, value: Any) -> None:
    columns = list(COLUMNS)
    columns[NAMES.index(name)] = value
    with pytest.raises(RemoteProtocolError):
        whole(columns)


def whole(columns: list[Any]) -> Run | None:
    reader = RunReader(SPACE, cbor.encode(columns))
    reader.receive_untrusted(PAYLOADS)
    return reader.run


def test_the_columns_as_they_were_are_a_run() -> None:
    assert whole(COLUMNS) == RUN


def test_payloads_beyond_a_runs_bounds_are_refused_when_they_come() -> None:
    header = encode(RunMessage(written([b""] * RUN_ENTRIES_MAX)))[0][FRAME_HEADER_SIZE:]
    reader = RunReader(SPACE, header)
    part = cbor.encode([bytes(PAYLOAD_SIZE_MAX)] * 3)
    for _ in range(RUN_SIZE_MAX // PAYLOAD_SIZE_MAX // 3):
        reader.receive_untrusted(part)
    with pytest.raises(RemoteProtocolError):
        reader.receive_untrusted(part)


def test_a_payload_too_long_is_refused() -> None:
    reader = RunReader(SPACE, encode(RunMessage(written([b"x"])))[0][FRAME_HEADER_SIZE:])
    with pytest.raises(RemoteProtocolError):
        reader.receive_untrusted(cbor.encode([bytes(PAYLOAD_SIZE_MAX + 1)]))


def test_payloads_after_the_last_one_are_refused() -> None:
    reader = RunReader(SPACE, encode(RunMessage(RUN))[0][FRAME_HEADER_SIZE:])
    reader.receive_untrusted(PAYLOADS)
    for more in ([], [b""], [b"a" * 20]):
        with pytest.raises(RemoteProtocolError):
            reader.receive_untrusted(cbor.encode(more))


# Runs whose header part would not fit


def heavy(count: int) -> Run:
    """A run with all the refs that its author may give it."""
    refs = tuple(bytes([n]) * 32 for n in range(4))
    return written([b"x" * 20] * count, refs=dict.fromkeys(range(count), refs))


@pytest.mark.parametrize("count", [1, 64, 300, 500, RUN_ENTRIES_MAX])
def test_a_run_too_heavy_for_one_frame_goes_as_several(count: int) -> None:
    run = heavy(count)
    parts = [message.unproven for message in read(encode(RunMessage(run))) if isinstance(message, RunMessage)]
    assert (len(parts) > 1) == (count > 450)
    assert run.ids == [id for part in map(prove_untrusted, parts) for id in part.ids]
    assert run.payloads == [payload for part in parts for payload in part.payloads]
    assert run.refs == {part.first_seq - 1 + index: refs for part in parts for index, refs in part.refs.items()}


def test_a_run_of_nothing_but_big_payloads_that_are_absent_goes_as_several() -> None:
    run = heavy(RUN_ENTRIES_MAX)
    lacks = {index: (PAYLOAD_SIZE_MAX, bytes([index % 256]) * 32) for index in range(len(run))}
    bare = replace(run, payloads=[None] * len(run), lacks=lacks)
    columns = (bare.log, 1, None, bare.lamports, bare.times, bare.kinds, bare.payloads)
    signed = rebuild(SPACE, *columns, {}, bare.refs, lacks)
    secret = keys.signer_secret(AUTHOR_SEED)
    run = replace(signed, signatures={n: keys.sign(secret, keys.SIGN_ENTRY, id) for n, id in enumerate(signed.ids)})
    parts = [message.unproven for message in read(encode(RunMessage(run))) if isinstance(message, RunMessage)]
    assert len(parts) > 3
    assert run.ids == [id for part in parts for id in part.ids]
    assert run.lacks == {part.first_seq - 1 + index: lack for part in parts for index, lack in part.lacks.items()}


def test_a_run_without_its_checkpoints_is_not_sent() -> None:
    run = heavy(RUN_ENTRIES_MAX)
    last = len(run) - 1
    with pytest.raises(LocalProtocolError):
        encode(RunMessage(replace(run, signatures={last: run.signatures[last]})))
