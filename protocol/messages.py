"""Messages: what two nodes say to each other once the channel stands.

A message is one frame, except a run, which run_frames knows. Specification section "Messages" has a page for each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from protocol import cbor
from protocol.entry import ID_SIZE
from protocol.errors import LocalProtocolError
from protocol.frames import Type, frame, is_bytes, is_int, is_key, list_untrusted, need, tuple_untrusted
from protocol.frontier import LogState, State
from protocol.keys import KEY_SIZE
from protocol.limits import POSITIONS_PER_FRAME, SEQ_MAX
from protocol.log import Run
from protocol.run_frames import encode_run

EPOCHS_MAX = 16  # secrets handed over in one welcome


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
            return [frame(Type.RECONCILE_OPEN if opens else Type.RECONCILE, body)]
        case Positions(positions):
            return [
                frame(Type.POSITION, cbor.encode([[p.key, p.high, p.newest, int(p.state)] for p in part]))
                for part in _parts(positions, POSITIONS_PER_FRAME)
            ]
        case Same(keys) | Decline(keys) | End(keys):
            kind = _KEY_LISTS[type(message)]
            return [frame(kind, cbor.encode(list(part))) for part in _parts(keys, POSITIONS_PER_FRAME)]
        case Probe(key, seq, id):
            return [frame(Type.PROBE, cbor.encode([key, seq, id]))]
        case Want(key, first, last):
            return [frame(Type.WANT, cbor.encode([key, first, last]))]
        case RunMessage(run):
            return list(encode_run(run))
        case Totals(entries):
            return [frame(Type.TOTALS, cbor.encode([entries]))]
        case Digest(digest, question):
            return [frame(Type.DIGEST, cbor.encode([digest, question]))]
        case Welcome(epochs):
            return [frame(Type.WELCOME, cbor.encode(list(epochs)))]
        case Rekey() | Joined() | Close():
            return [frame(_EMPTY[type(message)], b"")]


def decode_untrusted(kind: Type, body: bytes) -> Message:
    """The message of one frame; for RUN and PAYLOADS see RunReader. Raises RemoteProtocolError when it is malformed."""
    match kind:
        case Type.RECONCILE_OPEN | Type.RECONCILE:
            return Reconcile(body, kind is Type.RECONCILE_OPEN)
        case Type.POSITION:
            positions = list_untrusted(body, POSITIONS_PER_FRAME)
            need(bool(positions))
            return Positions(tuple(map(_position_untrusted, positions)))
        case Type.SAME:
            return Same(_keys_untrusted(body))
        case Type.DECLINE:
            return Decline(_keys_untrusted(body))
        case Type.END:
            return End(_keys_untrusted(body))
        case Type.PROBE:
            key, seq, id = tuple_untrusted(body, 3)
            need(is_key(key) and is_int(seq, 1, SEQ_MAX) and (id is None or is_bytes(id, ID_SIZE)))
            return Probe(key, seq, id)
        case Type.WANT:
            key, first, last = tuple_untrusted(body, 3)
            need(is_key(key) and is_int(first, 1, SEQ_MAX) and is_int(last, first, SEQ_MAX))
            return Want(key, first, last)
        case Type.TOTALS:
            (entries,) = tuple_untrusted(body, 1)
            need(is_int(entries, 0, 2**53))
            return Totals(entries)
        case Type.DIGEST:
            digest, question = tuple_untrusted(body, 2)
            need(is_bytes(digest, 32) and type(question) is bool)
            return Digest(digest, question)
        case Type.WELCOME:
            epochs = list_untrusted(body, EPOCHS_MAX)
            need(bool(epochs) and all(is_bytes(secret, KEY_SIZE) for secret in epochs))
            return Welcome(tuple(epochs))
        case Type.REKEY | Type.JOINED | Type.CLOSE:
            need(not body)
            return _NOTHING_MORE[kind]
        case Type.RUN | Type.PAYLOADS:
            raise LocalProtocolError("runs are read by RunReader")


# Small parts


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


def _keys_untrusted(body: bytes) -> tuple[bytes, ...]:
    value = list_untrusted(body, POSITIONS_PER_FRAME)
    need(bool(value) and all(is_key(key) for key in value))
    return tuple(value)


def _position_untrusted(item: Any) -> LogState:
    need(type(item) is list and len(item) == 4)
    key, high, newest, state = item
    need(is_key(key) and is_int(high, 0, SEQ_MAX) and is_int(state, 0, max(State)))
    need((newest is None) if high == 0 else is_bytes(newest, ID_SIZE))
    return LogState(key, high, newest, State(state))
