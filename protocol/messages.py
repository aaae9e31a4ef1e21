"""Messages: what two nodes say to each other once the channel stands, and the frames that carry it.

    frame = type (1 byte) || length (3 bytes, big-endian) || body
    record content = frame*            a frame never crosses a record, so nothing is decoded beyond 64 KiB

A message is one frame, except a run: its header part (RUN) is followed by as many PAYLOADS frames as it takes, with
nothing between them. Specification section "Messages" has a page for each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Any

from protocol import cbor
from protocol.entry import ID_SIZE, Kind, LogClass, LogIdentity, check_log_untrusted
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frontier import LogState, State
from protocol.keys import KEY_SIZE
from protocol.limits import (
    FRAME_BODY_MAX,
    FRAME_HEADER_SIZE,
    LOG_KEY_SIZE,
    POSITIONS_PER_FRAME,
    RUN_ENTRIES_MAX,
    RUN_SIZE_MAX,
    SEQ_MAX,
)
from protocol.log import Run, rebuild_untrusted

EPOCHS_MAX = 16  # secrets handed over in one welcome


class Type(IntEnum):
    """The first byte of a frame."""

    RECONCILE_OPEN = 1
    RECONCILE = 2
    POSITION = 3
    SAME = 4
    DECLINE = 5
    END = 6
    PROBE = 7
    WANT = 8
    RUN = 9
    PAYLOADS = 10
    TOTALS = 11
    DIGEST = 12
    REKEY = 13
    WELCOME = 14
    JOINED = 15
    CLOSE = 16


@dataclass(frozen=True, slots=True)
class Reconcile:
    """One Negentropy V1 message; `opens` starts a new reconciliation over fresh snapshots."""

    body: bytes
    opens: bool


@dataclass(frozen=True, slots=True)
class Positions:
    """How far the sender holds these logs: a question, or the answer "I am behind: send me"."""

    positions: tuple[LogState, ...]


@dataclass(frozen=True, slots=True)
class Same:
    """For each key: we hold exactly what you hold."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Decline:
    """For each key: not wanted here, or not to be had here."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class End:
    """For each key: that was all of the log that you lacked."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """The ids differ at a height both hold: "my entry `seq` of this log has this id". None: not held."""

    key: bytes
    seq: int
    id: bytes | None


@dataclass(frozen=True, slots=True)
class Want:
    """Payloads missing in entries `first` to `last` of a log."""

    key: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RunMessage:
    """A run with its headers rebuilt and its ids computed; its signatures are still to be proven."""

    unproven: Run


@dataclass(frozen=True, slots=True)
class Totals:
    """How many entries the sender is about to serve on top of what it announced, so that progress can be shown."""

    entries: int


@dataclass(frozen=True, slots=True)
class Digest:
    """The sender's frontier digest as of now; a question wants the other side's in return."""

    digest: bytes
    question: bool


@dataclass(frozen=True, slots=True)
class Rekey:
    """The sender's next record is under a new key."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Join: the secrets of the space's newest epochs, oldest first; the first claim was taken and is stored."""

    epochs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """Join: the joiner has stored its welcome; the invitation is used up."""


@dataclass(frozen=True, slots=True)
class Close:
    """The sender is done and sends nothing more."""


Message = (
    Reconcile
    | Positions
    | Same
    | Decline
    | End
    | Probe
    | Want
    | RunMessage
    | Totals
    | Digest
    | Rekey
    | Welcome
    | Joined
    | Close
)

_KEY_LISTS: dict[type, Type] = {Same: Type.SAME, Decline: Type.DECLINE, End: Type.END}
_EMPTY: dict[type, Type] = {Rekey: Type.REKEY, Joined: Type.JOINED, Close: Type.CLOSE}
_NOTHING_MORE: dict[Type, Message] = {Type.REKEY: Rekey(), Type.JOINED: Joined(), Type.CLOSE: Close()}


def encode(message: Message) -> list[bytes]:
    """The frames of a message, each fit for one record."""
    match message:
        case Reconcile(body, opens):
            return [_frame(Type.RECONCILE_OPEN if opens else Type.RECONCILE, body)]
        case Positions(positions):
            return [
                _frame(Type.POSITION, cbor.encode([[p.key, p.high, p.newest, int(p.state)] for p in part]))
                for part in _parts(positions, POSITIONS_PER_FRAME)
            ]
        case Same(keys) | Decline(keys) | End(keys):
            kind = _KEY_LISTS[type(message)]
            return [_frame(kind, cbor.encode(list(part))) for part in _parts(keys, POSITIONS_PER_FRAME)]
        case Probe(key, seq, id):
            return [_frame(Type.PROBE, cbor.encode([key, seq, id]))]
        case Want(key, first, last):
            return [_frame(Type.WANT, cbor.encode([key, first, last]))]
        case RunMessage(run):
            return list(_encode_run(run))
        case Totals(entries):
            return [_frame(Type.TOTALS, cbor.encode([entries]))]
        case Digest(digest, question):
            return [_frame(Type.DIGEST, cbor.encode([digest, question]))]
        case Welcome(epochs):
            return [_frame(Type.WELCOME, cbor.encode(list(epochs)))]
        case Rekey() | Joined() | Close():
            return [_frame(_EMPTY[type(message)], b"")]


def split_untrusted(content: bytes) -> Iterator[tuple[Type, bytes]]:
    """The frames of one record's content. Raises RemoteProtocolError for an unknown type or a frame cut short."""
    at = 0
    while at < len(content):
        length = int.from_bytes(content[at + 1 : at + FRAME_HEADER_SIZE], "big")
        body = content[at + FRAME_HEADER_SIZE : at + FRAME_HEADER_SIZE + length]
        if at + FRAME_HEADER_SIZE > len(content) or len(body) != length:
            raise RemoteProtocolError("frame: cut short")
        if not Type.RECONCILE_OPEN <= content[at] <= Type.CLOSE:
            raise RemoteProtocolError("frame: unknown type")
        yield Type(content[at]), body
        at += FRAME_HEADER_SIZE + length


def decode_untrusted(kind: Type, body: bytes) -> Message:
    """The message of one frame; for RUN and PAYLOADS see RunReader. Raises RemoteProtocolError when it is malformed."""
    match kind:
        case Type.RECONCILE_OPEN | Type.RECONCILE:
            return Reconcile(body, kind is Type.RECONCILE_OPEN)
        case Type.POSITION:
            positions = _list(body, POSITIONS_PER_FRAME)
            _need(bool(positions))
            return Positions(tuple(map(_position_untrusted, positions)))
        case Type.SAME:
            return Same(_keys_untrusted(body))
        case Type.DECLINE:
            return Decline(_keys_untrusted(body))
        case Type.END:
            return End(_keys_untrusted(body))
        case Type.PROBE:
            key, seq, id = _tuple(body, 3)
            _need(_is_key(key) and _is_int(seq, 1, SEQ_MAX) and (id is None or _is_bytes(id, ID_SIZE)))
            return Probe(key, seq, id)
        case Type.WANT:
            key, first, last = _tuple(body, 3)
            _need(_is_key(key) and _is_int(first, 1, SEQ_MAX) and _is_int(last, first, SEQ_MAX))
            return Want(key, first, last)
        case Type.TOTALS:
            (entries,) = _tuple(body, 1)
            _need(_is_int(entries, 0, 2**53))
            return Totals(entries)
        case Type.DIGEST:
            digest, question = _tuple(body, 2)
            _need(_is_bytes(digest, 32) and type(question) is bool)
            return Digest(digest, question)
        case Type.WELCOME:
            epochs = _list(body, EPOCHS_MAX)
            _need(bool(epochs) and all(_is_bytes(secret, KEY_SIZE) for secret in epochs))
            return Welcome(tuple(epochs))
        case Type.REKEY | Type.JOINED | Type.CLOSE:
            _need(not body)
            return _NOTHING_MORE[kind]
        case Type.RUN | Type.PAYLOADS:
            raise LocalProtocolError("runs are read by RunReader")


# Runs


def _encode_run(run: Run) -> Iterator[bytes]:
    """The frames of a run; of two runs where a header part full of refs, signatures or hashes is too long for one."""
    header = _header_part(run)
    if len(header) > FRAME_BODY_MAX:
        half = min((index + 1 for index in run.signatures), key=lambda count: abs(count - len(run) // 2))
        if half == len(run):
            raise LocalProtocolError("run without the signatures it must carry")
        yield from _encode_run(_first(run, half))
        yield from _encode_run(run.since(run.first_seq + half))
        return
    yield _frame(Type.RUN, header)
    part: list[bytes] = []
    size = 3  # the array's own head
    for payload in run.payloads:
        if payload is None:
            continue
        if size + len(payload) + 3 > FRAME_BODY_MAX:
            yield _frame(Type.PAYLOADS, cbor.encode(part))
            part, size = [], 3
        part.append(payload)
        size += len(payload) + 3
    if part:
        yield _frame(Type.PAYLOADS, cbor.encode(part))


def _first(run: Run, count: int) -> Run:
    """The first `count` entries of a run; the last of them is signed."""
    return replace(
        run,
        lamports=run.lamports[:count],
        times=run.times[:count],
        kinds=run.kinds[:count],
        payloads=run.payloads[:count],
        ids=run.ids[:count],
        signatures={index: value for index, value in run.signatures.items() if index < count},
        refs={index: value for index, value in run.refs.items() if index < count},
        lacks={index: value for index, value in run.lacks.items() if index < count},
    )


def _header_part(run: Run) -> bytes:
    lamports = [run.lamports[0], *(b - a for a, b in pairwise(run.lamports))]
    times = [run.times[0], *(b - a for a, b in pairwise(run.times))]
    return cbor.encode(
        [
            run.log.author,
            run.log.log_id,
            int(run.log.log_class),
            run.first_seq,
            run.prev,
            len(run),
            lamports if any(step != 1 for step in lamports[1:]) else lamports[0],
            times if any(times[1:]) else times[0],
            list(run.kinds) if any(kind != run.kinds[0] for kind in run.kinds) else run.kinds[0],
            [item for index in sorted(run.signatures) for item in (index, run.signatures[index])],
            [item for index in sorted(run.refs) for item in (index, list(run.refs[index]))],
            [item for index in sorted(run.lacks) for item in (index, *run.lacks[index])],
        ]
    )


class RunReader:
    """A run on its way in: made of its RUN frame, completed by PAYLOADS frames.

    `run` is None until every payload that the header part announces is here.
    """

    __slots__ = ("_columns", "_log", "_needed", "_payloads", "_size", "_space", "run")

    def __init__(self, space: bytes, body: bytes) -> None:
        """Raises RemoteProtocolError for a malformed header part. Its ranges are checked when the run is whole."""
        author, log_id, cls, first_seq, prev, count, lamports, times, kinds, signatures, refs, lacks = _tuple(body, 12)
        _need(_is_int(count, 1, RUN_ENTRIES_MAX) and _is_int(first_seq, 1, SEQ_MAX))
        self._space = space
        kind_column = _column(kinds, count)
        founding = cls == LogClass.MEMBERSHIP and first_seq == 1 and kind_column[0] == Kind.FOUNDING
        self._log: LogIdentity = check_log_untrusted(None if founding else space, author, log_id, cls)
        steps = _column(lamports, count)
        self._columns: tuple[Any, ...] = (
            first_seq,
            prev,
            list(range(lamports, lamports + count)) if type(lamports) is int else list(accumulate(steps)),
            [times] * count if type(times) is int else list(accumulate(_column(times, count))),
            kind_column,
            _pairs(signatures, 2),
            {index: tuple(value) for index, value in _pairs(refs, 2).items() if _need(type(value) is list)},
            _pairs(lacks, 3),
        )
        _need(all(type(value) is bytes for value in self._columns[5].values()))
        _need(all(0 <= index < count for index in self._columns[7]))
        self._payloads: list[bytes] = []
        self._size = 0  # of the payloads: the bound of a run holds before it is whole
        self._needed = count - len(self._columns[7])
        self.run: Run | None = None
        if self._needed == 0:
            self._complete()

    def receive_untrusted(self, body: bytes) -> None:
        """Takes the next PAYLOADS frame. Raises RemoteProtocolError for what cannot belong to the run."""
        part = _list(body, RUN_ENTRIES_MAX)
        _need(bool(part) and all(type(payload) is bytes for payload in part))
        self._payloads += part
        self._size += sum(map(len, part))
        _need(len(self._payloads) <= self._needed and self._size <= RUN_SIZE_MAX)
        if len(self._payloads) == self._needed:
            self._complete()

    def _complete(self) -> None:
        first_seq, prev, lamports, times, kinds, signatures, refs, lacks = self._columns
        payloads: list[bytes | None] = list(self._payloads)
        for index in sorted(lacks):
            payloads.insert(index, None)
        self.run = rebuild_untrusted(
            self._space, self._log, first_seq, prev, lamports, times, kinds, payloads, signatures, refs, lacks
        )


def _column(value: Any, count: int) -> list[int]:
    """A column of ints: one int stands for `count` equal ones."""
    if type(value) is int:
        return [value] * count
    _need(type(value) is list and len(value) == count and all(type(item) is int for item in value))
    return value  # type: ignore[no-any-return]  # checked above


def _pairs(value: Any, width: int) -> dict[int, Any]:
    """A sparse column: [index, value, …] with rising indexes, `width` items an entry (index included)."""
    _need(type(value) is list and len(value) % width == 0)
    indexes = value[::width]
    _need(all(type(index) is int for index in indexes) and all(a < b for a, b in pairwise(indexes)))
    if width == 2:
        return dict(zip(indexes, value[1::2], strict=True))
    return {index: (size, digest) for index, size, digest in zip(indexes, value[1::3], value[2::3], strict=True)}


# Small parts


def _frame(kind: Type, body: bytes) -> bytes:
    if len(body) > FRAME_BODY_MAX:
        raise LocalProtocolError("frame longer than a record")
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


def _need(condition: bool) -> bool:
    if not condition:
        raise RemoteProtocolError("message: malformed")
    return True


def _list(body: bytes, count_max: int) -> list[Any]:
    value = cbor.decode_untrusted(body, FRAME_BODY_MAX)
    _need(type(value) is list and len(value) <= count_max)
    return value  # type: ignore[no-any-return]  # checked above


def _tuple(body: bytes, count: int) -> list[Any]:
    value = _list(body, count)
    _need(len(value) == count)
    return value


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_bytes(value: Any, size: int) -> bool:
    return type(value) is bytes and len(value) == size


def _is_key(value: Any) -> bool:
    return _is_bytes(value, LOG_KEY_SIZE) and value[0] <= max(LogClass)


def _keys_untrusted(body: bytes) -> tuple[bytes, ...]:
    value = _list(body, POSITIONS_PER_FRAME)
    _need(bool(value) and all(_is_key(key) for key in value))
    return tuple(value)


def _position_untrusted(item: Any) -> LogState:
    _need(type(item) is list and len(item) == 4)
    key, high, newest, state = item
    _need(_is_key(key) and _is_int(high, 0, SEQ_MAX) and _is_int(state, 0, max(State)))
    _need((newest is None) if high == 0 else _is_bytes(newest, ID_SIZE))
    return LogState(key, high, newest, State(state))
