"""Untrusted: whatever a stranger sends, there comes out a value or a RemoteProtocolError, and nothing else.

Every function and method of `protocol` whose name ends in `_untrusted` is found by introspection and must have its
sweep here; so must every class that takes a stranger's bytes piece by piece. A sweep gives calls: on random bytes, on
valid encodings with a few wounds, on values of the right shape with a part replaced, and on values of any shape.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import DIGEST, SPACE, WALL, join, local_of, met, say, secret_of, stream, written
from strangers import anything, atoms, bytes_like, encoded, load, numbers, octets, reshaped, vectors, wounded

import protocol
from protocol import (
    beacon,
    cbor,
    entry,
    frames,
    frontier,
    handshake,
    invite,
    keys,
    log,
    mask,
    messages,
    noise,
    ranges,
    reconcile,
    records,
    report,
    statement,
)
from protocol.errors import InputRefused, RemoteProtocolError
from protocol.events import SnapshotWanted
from protocol.frames import Type
from protocol.mask import Mode
from protocol.messages import RunMessage
from protocol.noise import CipherState, KeyPair
from protocol.run_frames import RunReader

# What is valid

HEADERS = vectors("entry", "valid", "header")
RUN_FRAMES = vectors("run", "valid", "frames")
RUN_CASES = [case["frames"] for case in load("run")["valid"]]
RUN_BODIES = [frame[4:] for frame in RUN_FRAMES if frame[0] == Type.RUN]
PAYLOAD_BODIES = [frame[4:] for frame in RUN_FRAMES if frame[0] == Type.PAYLOADS]
FRAMES = vectors("message", "valid", "frame") + RUN_FRAMES
BODIES = {Type(frame[0]): frame[4:] for frame in FRAMES}
POSITIONS = [cbor.encode(item) for item in cbor.decode_untrusted(BODIES[Type.POSITION], 2**20)]
KEY_BODIES = [BODIES[kind] for kind in (Type.SAME, Type.DECLINE, Type.END)]
PAYLOADS = vectors("payload", "valid", "payload") + vectors("payload", "invalid", "payload")
MAPS = [payload[16:] for payload in vectors("payload", "valid", "payload")]
MEMBERSHIP_MAPS, REPORT_MAPS = MAPS[:6], MAPS[6:]
INVITATIONS = [case["text"] for case in load("invitation")["valid"]]
INVITATION_BODIES = [invite._unbase32(text)[3:-4] for text in INVITATIONS]
HANDSHAKES = vectors("handshake", "valid", "messages") + vectors("handshake", "invalid", "bytes")
HANDSHAKE_PAYLOADS = vectors("handshake", "valid", "payloads")
HANDSHAKE_BODIES = [payload[2 : 2 + payload[1]] for payload in HANDSHAKE_PAYLOADS]
RECORDS = vectors("record", "valid", "record") + vectors("record", "invalid", "stream")
RUN = written([b"a" * 20, b"b" * 20, b"c" * 20], first_seq=5, prev=b"p" * 32)
SNAPSHOT = reconcile.Snapshot.seal((0, bytes([n]) * 32) for n in range(100))
NEGENTROPY = [
    reconcile.Client(SNAPSHOT, 0).start(),
    reconcile.Client(reconcile.Snapshot.seal([]), 0).start(),
    reconcile.Server(SNAPSHOT, 0).answer_untrusted(reconcile.Client(reconcile.Snapshot.seal([]), 0).start()),
]
REPORT_VALUES = [cbor.encode(["updates", b"i" * 32]), cbor.encode([["updates", b"i" * 32]]), cbor.encode([0, 900])]


# Sweeps: by the name of the function

INSIDE = replace(RUN.log)
FOUNDING = replace(RUN.log, space=None, log_class=entry.LogClass.MEMBERSHIP)
ids = st.binary(min_size=32, max_size=32)
handshake_payloads = wounded(HANDSHAKE_PAYLOADS) | bytes_like(HANDSHAKE_BODIES).map(
    lambda body: len(body).to_bytes(2, "big") + body + bytes(20)
)
some_payloads = st.lists(st.none() | st.binary(max_size=40) | st.just(bytes(16_385)), max_size=6)
columns = st.lists(numbers, max_size=6)
membership_payloads = bytes_like(MEMBERSHIP_MAPS).map(bytes(16).__add__) | wounded(PAYLOADS)
padded = st.builds(lambda body, size: body.ljust(size, b"\0"), st.binary(max_size=9), st.sampled_from([256, 272, 288]))


def unfinished(salt: bytes = b"salt" * 4) -> handshake.Responder:
    """A responder that awaits the third message."""
    responder = handshake.Responder([secret_of()], stream("r"), WALL)
    responder.receive(dialled().start())
    responder.accept(local_of("responder"), KeyPair.generate(stream("e")), DIGEST)
    return responder


def dialled() -> handshake.Initiator:
    return handshake.Initiator(
        secret_of(), local_of("initiator"), KeyPair.generate(stream("d")), DIGEST, stream("i"), WALL
    )


def with_buffer(responder: handshake.Responder, data: bytes) -> handshake.Responder:
    responder._buffer = data
    return responder


def answered(payload: bytes, wound: Callable[[bytes], bytes]) -> object:
    """What an initiator makes of a second message that holds this payload, or is wounded."""
    pattern = noise.Pattern.parse("XXpsk0", noise.XX)
    ends = [
        noise.HandshakeState(
            pattern,
            initiator=initiator,
            s=local_of(name).static,
            e=KeyPair.generate(stream(name)),
            psks=[bytes(32)],
        )
        for initiator, name in ((True, "initiator"), (False, "responder"))
    ]
    ends[1].read_message(ends[0].write_message(b""))
    message = wound(ends[1].write_message(payload))
    return handshake._remote_untrusted(ends[0], message, local_of("initiator"))


def masking() -> mask.Mask:
    return mask.Mask.of(secret_of(), 7, b"salt" * 4)


def bisection(draw: tuple[int, int]) -> frontier.Bisection:
    low, gap = draw
    return frontier.Bisection(b"\x02" * 17, differs=low + gap, agrees=low)


def rebuilt(*draws: Any) -> object:
    space, run_log, first_seq, prev, lamports, times, kinds, payloads, signatures, refs, lacks = draws
    return log.rebuild_untrusted(
        space, run_log, first_seq, prev, lamports, times, kinds, payloads, signatures, refs, lacks
    )


def sparse(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[int, Any]]:
    return st.dictionaries(st.integers(-1, 6) | numbers, values, max_size=4)


@st.composite
def nearly_runs(draw: st.DrawFn) -> tuple[Any, ...]:
    """The columns of a real run, some of them replaced."""
    real: list[Any] = [RUN.space, RUN.log, RUN.first_seq, RUN.prev, list(RUN.lamports), list(RUN.times)]
    real += [list(RUN.kinds), list(RUN.payloads), dict(RUN.signatures), {}, {}]
    other = [ids, st.sampled_from([INSIDE, FOUNDING]), numbers, atoms, columns, columns, columns, some_payloads]
    other += [sparse(octets), sparse(st.lists(atoms, max_size=5).map(tuple)), sparse(st.tuples(atoms, atoms))]
    for at in draw(st.sets(st.integers(0, 10), max_size=3)):
        real[at] = draw(other[at])
    return tuple(real)


reads = {
    "cbor.decode_untrusted": (cbor.decode_untrusted, st.tuples(bytes_like(HEADERS + MAPS), st.integers(0, 2**20))),
    "entry.decode_header_untrusted": (entry.decode_header_untrusted, st.tuples(bytes_like(HEADERS))),
    "entry.check_log_untrusted": (entry.check_log_untrusted, st.tuples(anything, anything, anything, anything)),
    "entry.check_fields_untrusted": (
        entry.check_fields_untrusted,
        st.tuples(st.sampled_from([INSIDE, FOUNDING]), atoms, atoms, atoms, atoms, atoms, anything),
    ),
    "entry.check_refs_untrusted": (entry.check_refs_untrusted, st.tuples(anything | st.lists(atoms, max_size=5))),
    "entry.check_payload_binding_untrusted": (entry.check_payload_binding_untrusted, st.tuples(anything, anything)),
    "frontier.Bisection.answered_untrusted": (
        lambda start, seq, theirs, ours: bisection(start).answered_untrusted(seq, theirs, ours),
        st.tuples(st.tuples(st.integers(0, 9), st.integers(2, 9)), st.integers(0, 20), st.none() | ids, ids),
    ),
    "handshake.Responder._open_untrusted": (
        lambda data: with_buffer(handshake.Responder([secret_of()], stream("r"), WALL), data)._open_untrusted(),
        st.tuples(wounded(HANDSHAKES) | st.binary(max_size=600)),
    ),
    "handshake.Responder._finish_untrusted": (
        lambda data: with_buffer(unfinished(), data)._finish_untrusted(),
        st.tuples(wounded(HANDSHAKES) | st.binary(max_size=600)),
    ),
    "mask.Mask.reveal_untrusted": (
        lambda number, data: masking().reveal_untrusted(number, data),
        st.tuples(st.sampled_from([1, 2, 3]), wounded(HANDSHAKES) | st.binary(max_size=600)),
    ),
    "handshake._unfill_untrusted": (handshake._unfill_untrusted, st.tuples(handshake_payloads)),
    "handshake._remote_untrusted": (
        lambda payload, cut: answered(payload, lambda message: message[:cut] if cut else message),
        st.tuples(handshake_payloads, st.just(0) | st.integers(0, 200)),
    ),
    "invite._body_untrusted": (invite._body_untrusted, st.tuples(bytes_like(INVITATION_BODIES))),
    "invite._address_untrusted": (invite._address_untrusted, st.tuples(anything)),
    "log.rebuild_untrusted": (rebuilt, nearly_runs()),
    "log.prove_untrusted": (
        lambda author, signatures: log.prove_untrusted(
            replace(RUN, log=replace(RUN.log, author=author), signatures=signatures)
        ),
        st.tuples(octets | st.just(RUN.log.author), st.dictionaries(st.integers(0, 2), octets, max_size=3)),
    ),
    "statement.decode_untrusted": (
        statement.decode_untrusted,
        st.tuples(st.integers(0, 4), membership_payloads),
    ),
    "statement.statement_untrusted": (
        lambda kind, seq, payload: statement.statement_untrusted(SPACE, SPACE, b"a" * 32, 1, seq, kind, payload),
        st.tuples(st.integers(0, 4), st.integers(1, 2), membership_payloads),
    ),
    "frames.list_untrusted": (frames.list_untrusted, st.tuples(bytes_like(KEY_BODIES), st.integers(0, 9))),
    "frames.tuple_untrusted": (frames.tuple_untrusted, st.tuples(bytes_like(KEY_BODIES), st.integers(0, 9))),
    "frames.split_untrusted": (
        lambda content: list(frames.split_untrusted(content)),
        st.tuples(wounded([*FRAMES, b"".join(FRAMES[:5])]) | st.binary(max_size=200)),
    ),
    "messages.decode_untrusted": (
        messages.decode_untrusted,
        st.sampled_from(sorted(set(Type) - {Type.RUN, Type.PAYLOADS})).flatmap(
            lambda kind: st.tuples(
                st.just(kind), bytes_like([BODIES[kind]]) if BODIES[kind][:1] > b"\x7f" else st.binary(max_size=99)
            )
        ),
    ),
    "run_frames.RunReader.receive_untrusted": (
        lambda header, bodies: [RunReader(SPACE, header).receive_untrusted(body) for body in bodies],
        st.tuples(st.sampled_from(RUN_BODIES), st.lists(bytes_like(PAYLOAD_BODIES), max_size=3)),
    ),
    "messages._keys_untrusted": (messages._keys_untrusted, st.tuples(bytes_like(KEY_BODIES))),
    "messages._position_untrusted": (
        messages._position_untrusted,
        st.tuples(anything | reshaped(POSITIONS)),
    ),
    "reconcile.Client.receive_untrusted": (
        lambda message: asking().receive_untrusted(message),
        st.tuples(wounded(NEGENTROPY) | st.binary(max_size=300).map(b"\x61".__add__)),
    ),
    "reconcile.Server.answer_untrusted": (
        lambda message: reconcile.Server(SNAPSHOT, 4096).answer_untrusted(message),
        st.tuples(wounded(NEGENTROPY) | st.binary(max_size=300).map(b"\x61".__add__)),
    ),
    "ranges.ranges_untrusted": (
        ranges.ranges_untrusted,
        st.tuples(wounded(NEGENTROPY) | st.binary(min_size=1, max_size=300)),
    ),
    "records._unpad_untrusted": (
        records._unpad_untrusted,
        st.tuples(wounded([b"\0\5hello" + bytes(249), b"\1\x0f" + bytes(286)]) | padded),
    ),
    "report.decode_untrusted": (
        report.decode_untrusted,
        st.tuples(bytes_like(REPORT_MAPS).map(bytes(16).__add__) | wounded(PAYLOADS)),
    ),
    "report._observed_untrusted": (report._observed_untrusted, st.tuples(anything | reshaped(REPORT_VALUES))),
    "report._relations_untrusted": (report._relations_untrusted, st.tuples(anything | reshaped(REPORT_VALUES))),
}


def asking() -> reconcile.Client:
    client = reconcile.Client(SNAPSHOT, 4096)
    client.start()
    return client


# Classes that take a stranger's bytes piece by piece


def opened_run(header: bytes, bodies: list[bytes]) -> object:
    reader = RunReader(SPACE, header)
    for body in bodies:
        if reader.run is None:
            reader.receive_untrusted(body)
    return log.prove_untrusted(reader.run) if reader.run is not None else None


def read_records(data: bytes, pieces: list[int], honest_key: bool) -> object:
    key = vectors_key() if honest_key else bytes(32)
    reader = records.RecordReader(CipherState(key))
    return [list(reader.receive(piece)) for piece in cut(data, pieces)]


def sealed_records(bodies: list[bytes], length: int | None) -> object:
    """Records that a member made by hand: authentic, with any body and length inside."""
    cipher = CipherState(bytes(32))
    stream_ = b"".join(
        cipher.encrypt_with_ad(b"", (len(body) if length is None else length).to_bytes(2, "big"))
        + cipher.encrypt_with_ad(b"", body)
        for body in bodies
    )
    return list(records.RecordReader(CipherState(bytes(32))).receive(stream_))


def vectors_key() -> bytes:
    return bytes.fromhex(load("record")["key"])


def cut(data: bytes, pieces: list[int]) -> Iterator[bytes]:
    at = 0
    for size in pieces:
        yield data[at : at + size]
        at += size
    yield data[at:]


def shown(end: handshake.Initiator | handshake.Responder, data: bytes, pieces: list[int]) -> object:
    """A handshake that somebody else answers; it stops where the session, or ours to answer, begins."""
    if isinstance(end, handshake.Initiator):
        end.start()
    for piece in cut(data, pieces):
        if end.receive(piece) is not None:
            break
    return end


def told(mode: Mode, to_responder: bool, contents: list[bytes]) -> object:
    """What a member may tell us in any number of authentic records, with a reconciliation under way."""
    pair = met(mode)
    source, target = (pair.initiator, pair.responder) if to_responder else (pair.responder, pair.initiator)
    if mode is Mode.MEMBER and not to_responder:
        target.reconcile(SNAPSHOT)
    for content in contents:
        for event in target.receive(say(source, content), 0.0):
            match event:
                case SnapshotWanted():
                    target.answer(SNAPSHOT)
                case RunMessage(unproven):
                    log.prove_untrusted(unproven)
                case _:
                    pass
        target.data_to_send(0.0)
    return target.phase


def called(data: bytes, pieces: list[int], as_initiator: bool) -> object:
    """A connection before its handshake is done."""
    pair = join()
    end = pair.initiator if as_initiator else pair.responder
    for piece in cut(data, pieces):
        for event in end.receive(piece, 0.0):
            pair.react(end, event)
    return end.data_to_send(0.0)


sizes = st.lists(st.integers(0, 300), max_size=4)
contents = st.lists(wounded([*FRAMES, *(b"".join(FRAMES[at : at + 3]) for at in range(12))]), max_size=4)
negentropy = wounded(NEGENTROPY).map(lambda body: bytes([Type.RECONCILE]) + len(body).to_bytes(3, "big") + body)
opening = wounded(NEGENTROPY).map(lambda body: bytes([Type.RECONCILE_OPEN]) + len(body).to_bytes(3, "big") + body)
reshaped_frames = st.sampled_from([kind for kind, body in BODIES.items() if body[:1] > b"\x7f"]).flatmap(
    lambda kind: (
        reshaped([BODIES[kind]]).map(encoded).map(lambda body: bytes([kind]) + len(body).to_bytes(3, "big") + body)
    )
)


@st.composite
def runs_with_another_header(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A real run whose header part was changed anywhere, or in a sparse column, with the payloads that it came with."""
    header, *payloads = (bytes.fromhex(frame)[4:] for frame in draw(st.sampled_from(RUN_CASES)))
    if draw(st.booleans()):
        return encoded(draw(reshaped([header]))), payloads
    columns = cbor.decode_untrusted(header, 2**20)
    at, last = draw(st.sampled_from([9, 10, 11])), columns[5] - 1
    width = 2 if at == 11 else 1
    columns[at] = [draw(st.sampled_from([0, last])), *draw(st.lists(anything, min_size=width, max_size=width))]
    return encoded(columns), payloads


classes = {
    "RunReader": (opened_run, st.tuples(bytes_like(RUN_BODIES), st.lists(bytes_like(PAYLOAD_BODIES), max_size=3))),
    "RunReader, with all its payloads": (opened_run, runs_with_another_header()),
    "RecordReader.receive": (read_records, st.tuples(wounded(RECORDS) | st.binary(max_size=99), sizes, st.booleans())),
    "RecordReader.receive, of a member": (
        sealed_records,
        st.tuples(
            st.lists(padded | st.binary(max_size=300), max_size=3),
            st.none() | st.integers(0, 65_535),
        ),
    ),
    "Initiator.receive": (
        lambda data, pieces: shown(dialled(), data, pieces),
        st.tuples(wounded(HANDSHAKES) | st.binary(max_size=600), sizes),
    ),
    "Responder.receive": (
        lambda data, pieces: shown(handshake.Responder([secret_of()], stream("r"), WALL), data, pieces),
        st.tuples(wounded([dialled().start(), *HANDSHAKES]) | st.binary(max_size=600), sizes),
    ),
    "Responder.receive, third message": (
        lambda data, pieces: shown(unfinished(), data, pieces),
        st.tuples(wounded(HANDSHAKES) | st.binary(max_size=600), sizes),
    ),
    "Connection.receive, handshake": (
        called,
        st.tuples(wounded([dialled().start(), *HANDSHAKES]) | st.binary(max_size=600), sizes, st.booleans()),
    ),
    "Connection.receive, open": (
        told,
        st.tuples(
            st.sampled_from([Mode.MEMBER, Mode.MEMBER, Mode.JOIN, Mode.REKEY]),
            st.booleans(),
            contents | st.lists(reshaped_frames | negentropy | opening, max_size=5),
        ),
    ),
    "HandshakeState.read_message": (
        lambda message: noise.HandshakeState(
            noise.Pattern.parse("XXpsk0", noise.XX), initiator=False, e=KeyPair.generate(stream("e")), psks=[bytes(32)]
        ).read_message(message),
        st.tuples(wounded(HANDSHAKES) | st.binary(max_size=100)),
    ),
    "keys.unseal": (
        keys.unseal,
        st.tuples(st.just(bytes(32)), st.just(bytes(12)), st.binary(max_size=100), st.binary(max_size=9)),
    ),
    "keys.dh": (keys.dh, st.tuples(st.just(b"\x01" * 32), octets)),
    "keys.verified": (keys.verified, st.tuples(octets, st.just(keys.SIGN_ENTRY), octets, octets)),
    "beacon.recognise": (
        beacon.recognise,
        st.tuples(
            st.binary(max_size=130) | st.binary(min_size=128, max_size=128),
            st.text(),
            st.integers(-5, 70_000),
            st.integers(0, 2**40),
            st.just([(SPACE, bytes(32))]),
        ),
    ),
}

ALSO_REFUSED = {"invite._body_untrusted", "invite._address_untrusted"}  # a person pasted it: the reason is for them


def found() -> set[str]:
    """The names of all functions and methods of the package that end in _untrusted."""
    names = set()
    for module_info in pkgutil.iter_modules(protocol.__path__):
        module = importlib.import_module(f"protocol.{module_info.name}")
        places = [module, *(value for _, value in inspect.getmembers(module, inspect.isclass))]
        for place in places:
            for name, function in inspect.getmembers(place, inspect.isfunction):
                if name.endswith("_untrusted") and function.__module__ == module.__name__:
                    names.add(f"{module_info.name}.{function.__qualname__}")
    return names


def only_a_value_or_a_refusal(name: str, call: Callable[[], object]) -> None:
    with suppress(RemoteProtocolError, *([InputRefused] if name in ALSO_REFUSED else [])):
        call()


def test_every_function_that_promises_to_take_any_bytes_is_swept() -> None:
    assert found() == set(reads)


@pytest.mark.parametrize("name", sorted(reads))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_give_a_value_or_a_refusal(name: str, data: st.DataObject) -> None:
    function, arguments = reads[name]
    drawn = data.draw(arguments)
    only_a_value_or_a_refusal(name, lambda: function(*drawn))


@pytest.mark.parametrize("name", sorted(classes))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_stream_gives_events_or_a_refusal(name: str, data: st.DataObject) -> None:
    function, arguments = classes[name]
    drawn = data.draw(arguments)
    only_a_value_or_a_refusal(name, lambda: function(*drawn))


REASONS = {"truncated", "too-long", "characters", "checksum", "version", "malformed"}
nearly_invitations = wounded([text.encode() for text in INVITATIONS]).map(lambda data: data.decode("latin-1"))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | nearly_invitations)
def test_any_text_is_an_invitation_or_refused_with_a_reason_that_does_not_repeat_it(text: str) -> None:
    refusal: InputRefused | None = None
    try:
        invite.decode(text)
    except InputRefused as error:
        refusal = error
    if refusal is not None:
        assert (refusal.field, refusal.reason in REASONS) == ("invite", True)
        assert len(text) < 12 or text not in str(refusal)
