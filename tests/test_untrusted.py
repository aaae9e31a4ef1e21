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
from pairs import (
    DIGEST,
    RELAY,
    SPACE,
    TERMS,
    WALL,
    join,
    local_of,
    met,
    ring,
    say,
    secret_of,
    stream,
    through,
    written,
)
from strangers import anything, atoms, bytes_like, encoded, load, numbers, octets, reshaped, vectors, wounded

import protocol
from protocol import (
    beacon,
    bundle,
    cbor,
    entry,
    frames,
    frontier,
    handshake,
    invite,
    keys,
    log,
    mailbox,
    mask,
    messages,
    noise,
    ranges,
    reconcile,
    records,
    relay_handshake,
    relay_messages,
    report,
    statement,
)
from protocol.errors import InputRefused, RemoteProtocolError
from protocol.events import SnapshotWanted
from protocol.frames import Type
from protocol.mailbox import BEGINNING
from protocol.mask import Mode
from protocol.messages import RunMessage
from protocol.noise import CipherState, KeyPair
from protocol.relay_messages import Append, Appended, Meet, Met, Page, Read, Reason, Refused
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
RELAY_MESSAGES = [
    Read(b"t" * 32, 0, 240),
    Append(b"t" * 32, b"s" * 64, 30, b"message" * 20),
    Meet(b"t" * 32, 60),
    Page(0, bytes(32), 1, 2, (b"one", b"two" * 30)),
    Page(7, bytes(32), 8, 7, ()),
    Appended(3),
    Refused(Reason.FULL),
    Met(leads=True),
    relay_messages.Rekey(),
    relay_messages.Close(),
]
RELAY_FRAMES = [frame for message in RELAY_MESSAGES for frame in relay_messages.encode(message)]
RELAY_BODIES = {relay_messages.Type(frame[0]): frame[4:] for frame in RELAY_FRAMES}
RELAY_GRAMMAR = sorted(set(relay_messages.Type) - {relay_messages.Type[name] for name in ("PART", "REKEY", "CLOSE")})
BUNDLE_SECRET, BUNDLE_SALT = b"e" * 32, b"salt" * 6
BUNDLE_FRAMES = [
    frames.frame(bundle.Type.HEAD, cbor.encode([1, 3])),
    frames.frame(bundle.Type.SEEN, cbor.encode([0, BEGINNING.hash])),
    *(frame for frame in FRAMES if frame[0] in {int(kind) for kind in bundle.Type}),
]


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


def calling() -> relay_handshake.Caller:
    return relay_handshake.Caller(RELAY.public, KeyPair.generate(stream("c")), stream("caller"), WALL)


def answering(data: bytes = b"") -> relay_handshake.Answerer:
    answerer = relay_handshake.Answerer(RELAY, WALL)
    answerer._buffer = data
    return answerer


def an_answer() -> bytes:
    """What a relay says to the caller of `calling`."""
    answerer = answering()
    answerer.receive(calling().start(stream("m")))
    return answerer.answer(KeyPair.generate(stream("e")), TERMS, stream("a"))[0]


def unsealing() -> bundle.Unsealer:
    """A reader that has opened the first chunk of a bundle."""
    unsealer = bundle.Unsealer(BUNDLE_SALT, [bundle.Opener(SPACE, BUNDLE_SECRET)])
    unsealer.read_untrusted(bundle_of(b"")[24:])
    return unsealer


def bundle_of(*contents: bytes) -> bytes:
    """A bundle that a member made by hand, with any bytes in its chunks; the last one is the end."""
    sealer = bundle.Sealer(BUNDLE_SECRET, BUNDLE_SALT)
    sealed = []
    for number, content in enumerate(contents, 1):
        sealer._content = [content]
        sealed.append(sealer._seal(len(content), final=number == len(contents)))
    return b"".join(sealed)


def sealed_piece() -> bytes:
    return keys.Stream(BUNDLE_SECRET, BUNDLE_SALT).seal(b"piece", final=True)


def assembled(size: int, parts: list[bytes]) -> object:
    assembly = relay_messages.Assembly(size)
    return [assembly.add_untrusted(part) for part in parts]


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
        st.tuples(st.sampled_from([1, 2, 3, 4]), wounded(HANDSHAKES) | st.binary(max_size=600)),
    ),
    "mask.unfill_untrusted": (mask.unfill_untrusted, st.tuples(handshake_payloads)),
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
        lambda content: list(frames.split_untrusted(content, Type)),
        st.tuples(wounded([*FRAMES, b"".join(FRAMES[:5])]) | st.binary(max_size=200)),
    ),
    "frames.parts_untrusted": (
        lambda content, padded: list(frames.parts_untrusted(content, padded=padded)),
        st.tuples(
            (wounded([*FRAMES, b"".join(FRAMES[:5]) + bytes(40)]) | st.binary(max_size=200))
            | st.lists(st.sampled_from([b"\0", b"\0\0\0\1", b"\5"]), max_size=40).map(b"".join),
            st.booleans(),
        ),
    ),
    "relay_handshake.Answerer._open_untrusted": (
        lambda data: answering(data)._open_untrusted(),
        st.tuples(wounded([calling().start(stream("m")), *HANDSHAKES]) | st.binary(max_size=600)),
    ),
    "relay_handshake.terms_untrusted": (
        relay_handshake.terms_untrusted,
        st.tuples(anything | reshaped([cbor.encode([2**20, 30])])),
    ),
    "relay_messages.decode_untrusted": (
        relay_messages.decode_untrusted,
        st.sampled_from(RELAY_GRAMMAR).flatmap(lambda kind: st.tuples(st.just(kind), bytes_like([RELAY_BODIES[kind]]))),
    ),
    "relay_messages.Assembly.add_untrusted": (
        assembled,
        st.tuples(st.integers(1, 40), st.lists(st.binary(max_size=20), max_size=6)),
    ),
    "bundle.Unsealer.read_untrusted": (
        lambda salt, chunks: [
            bundle.Unsealer(salt, [bundle.Opener(SPACE, BUNDLE_SECRET)]).read_untrusted(chunk) for chunk in chunks
        ],
        st.tuples(
            st.just(BUNDLE_SALT) | st.binary(max_size=40),
            st.lists(wounded([bundle_of(b"".join(BUNDLE_FRAMES))[24:]]) | st.binary(max_size=99), max_size=3),
        ),
    ),
    "bundle.Unsealer._open_segment_untrusted": (
        lambda number, chunk: unsealing()._open_segment_untrusted(number, chunk),
        st.tuples(st.integers(0, 2**32 - 1), wounded([bundle_of(b"content")[24:]]) | st.binary(max_size=99)),
    ),
    "bundle.Unsealer._open_untrusted": (
        lambda chunk: unsealing()._open_untrusted(keys.Stream(BUNDLE_SECRET, BUNDLE_SALT), chunk),
        st.tuples(wounded([sealed_piece()]) | st.binary(max_size=99)),
    ),
    "bundle.Unsealer._split_untrusted": (
        lambda content: unsealing()._split_untrusted(content),
        st.tuples(wounded([b"".join(BUNDLE_FRAMES[at : at + 4]) for at in range(9)]) | st.binary(max_size=200)),
    ),
    "bundle.Unsealer._part_untrusted": (
        lambda parts: [unsealing()._part_untrusted(number, body) for number, body in parts],
        st.tuples(
            st.lists(
                st.sampled_from(BUNDLE_FRAMES).flatmap(
                    lambda frame: st.tuples(st.just(frame[0]) | st.integers(0, 255), bytes_like([frame[4:]]))
                ),
                max_size=4,
            )
        ),
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


def shown(
    end: handshake.Initiator | handshake.Responder | relay_handshake.Caller | relay_handshake.Answerer,
    data: bytes,
    pieces: list[int],
) -> object:
    """A handshake that somebody else answers; it stops where the session, or ours to answer, begins."""
    match end:
        case handshake.Initiator():
            end.start()
        case relay_handshake.Caller():
            end.start(stream("m"))
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


def rung(data: bytes, pieces: list[int], as_caller: bool) -> object:
    """A relay's or a caller's end before its handshake is done."""
    pair = ring()
    end = pair.initiator if as_caller else pair.responder
    for piece in cut(data, pieces):
        for event in end.receive(piece, 0.0):
            pair.react(end, event)
    return end.data_to_send(0.0)


def relayed(to_relay: bool, contents: list[bytes]) -> object:
    """What a caller may tell a relay in any number of authentic records, or a relay a caller that has asked much."""
    pair = through()
    source, target = (pair.initiator, pair.responder) if to_relay else (pair.responder, pair.initiator)
    if not to_relay:
        for request in (Read(b"t" * 32, 0, 240), Read(b"t" * 32, 7, 240), *RELAY_MESSAGES[1:3]):
            target.send(request)
    for content in contents:
        for event in target.receive(say(source, content), 0.0):
            match event:
                case Read() | Append() | Meet():
                    target.send(Refused(Reason.FULL))
                case _:
                    pass
        target.data_to_send(0.0)
    return target.phase


def unsealed(contents: list[bytes]) -> object:
    """A bundle of a member with anything in its chunks, each of them cut in two chunks or put behind another."""
    unsealer = bundle.Unsealer(BUNDLE_SALT, [bundle.Opener(bytes(32), bytes(32)), bundle.Opener(SPACE, BUNDLE_SECRET)])
    sealer = bundle.Sealer(BUNDLE_SECRET, BUNDLE_SALT)
    for number, content in enumerate(contents):
        sealer._content = [content]
        chunk = sealer._seal(len(content), final=number == 3)
        for found in unsealer.read_untrusted(chunk[0 if number else 24 :]):
            if isinstance(found, RunMessage):
                with suppress(RemoteProtocolError):
                    log.prove_untrusted(found.unproven)
    return unsealer.whole


relay_contents = wounded([*RELAY_FRAMES, *(b"".join(RELAY_FRAMES[at : at + 3]) for at in range(len(RELAY_FRAMES)))])
reshaped_relay_frames = st.sampled_from(RELAY_GRAMMAR).flatmap(
    lambda kind: (
        reshaped([RELAY_BODIES[kind]])
        .map(encoded)
        .map(lambda body: bytes([kind]) + len(body).to_bytes(3, "big") + body)
    )
)
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
    "Caller.receive": (
        lambda data, pieces: shown(calling(), data, pieces),
        st.tuples(wounded([an_answer(), *HANDSHAKES]) | st.binary(max_size=600), sizes),
    ),
    "Answerer.receive": (
        lambda data, pieces: shown(answering(), data, pieces),
        st.tuples(wounded([calling().start(stream("m")), *HANDSHAKES]) | st.binary(max_size=600), sizes),
    ),
    "RelayConnection.receive, handshake": (
        rung,
        st.tuples(
            wounded([calling().start(stream("m")), an_answer(), *HANDSHAKES]) | st.binary(max_size=600),
            sizes,
            st.booleans(),
        ),
    ),
    "RelayConnection.receive, open": (
        relayed,
        st.tuples(st.booleans(), st.lists(relay_contents | reshaped_relay_frames, max_size=5)),
    ),
    "Unsealer.read_untrusted, of a member": (
        unsealed,
        st.tuples(
            st.lists(
                wounded([*BUNDLE_FRAMES, *(b"".join(BUNDLE_FRAMES[at : at + 3]) for at in range(9))])
                | st.binary(max_size=99),
                min_size=1,
                max_size=5,
            )
        ),
    ),
    "Stream.unseal": (
        lambda pieces: [keys.Stream(BUNDLE_SECRET, BUNDLE_SALT).unseal(piece) for piece in pieces],
        st.tuples(st.lists(wounded([sealed_piece()]) | st.binary(max_size=40), max_size=3)),
    ),
    "mailbox.may_append": (mailbox.may_append, st.tuples(octets, octets, octets)),
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
