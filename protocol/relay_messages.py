"""Relay messages: what a relay and its callers say to each other once their channel stands.

    caller   READ     [topic, after, wait]               the messages of a topic behind a number
             APPEND   [topic, signature, size, days]     one more message, then its PARTs
             MEET     [token, wait]                      join me with whoever shows the same token
    relay    PAGE     [base, hash, first, newest, count] answers READ; `count` MESSAGEs follow, from base + 1 on
             MESSAGE  [size]                             then its PARTs
             APPENDED [number]                           answers APPEND, once it is on the disk
             MET      [leads]                            answers MEET; what follows are the other's bytes, raw
             REFUSED  [reason]                           answers any of the three
    both     PART     bytes                              a piece of a message
             REKEY, CLOSE                                as between members

Every request has one answer, in the order of the requests. Specification "Relays".
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from protocol import cbor
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import Type as MemberType
from protocol.frames import frame, is_bytes, is_int, need, tuple_untrusted
from protocol.keys import KEY_SIZE, SIGNATURE_SIZE
from protocol.limits import FRAME_BODY_MAX, KEEP_DAYS_MAX, MESSAGE_SIZE_MAX, PAGE_MESSAGES_MAX, WAIT_SECONDS_MAX
from protocol.mailbox import HASH_SIZE
from protocol.messages import Close, Rekey

NUMBER_MAX = 2**53  # of a message in its topic


class Type(IntEnum):
    """The first byte of a frame that passes between a relay and its caller."""

    READ = 1
    PAGE = 2
    MESSAGE = 3
    PART = 4
    APPEND = 5
    APPENDED = 6
    REFUSED = 7
    MEET = 8
    MET = 9
    REKEY = int(MemberType.REKEY)
    CLOSE = int(MemberType.CLOSE)


class Reason(IntEnum):
    """Why a relay does not do what it was asked."""

    FULL = 1  # the relay holds all that it may
    TOPIC_FULL = 2
    NO_NEW_TOPICS = 3  # the relay is nearly full: it takes messages for topics that it knows
    TOO_LONG = 4
    UNSIGNED = 5  # the signature is not the topic's
    TOO_MUCH = 6  # this address has had its share for today
    NOBODY = 7  # nobody else showed the token
    FAILED = 8  # the relay's disk


@dataclass(frozen=True, slots=True)
class Read:
    """Asks for what a topic holds behind message `after`; waits up to so many seconds for news where it is nothing."""

    topic: bytes
    after: int
    wait_seconds: int


@dataclass(frozen=True, slots=True)
class Page:
    """What a topic holds behind `base`: `hash` is its running hash there.

    `first` is the oldest message that is still kept and `newest` the last one ever; `base` is what was asked for, or
    right before `first` where that has expired, or `newest` where less is there than was asked for.
    """

    base: int
    hash: bytes
    first: int
    newest: int
    messages: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Append:
    """A message that a topic's holder signed; it asks to be kept for so many days."""

    topic: bytes
    signature: bytes = field(repr=False)
    days: int
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Appended:
    """The message is on the relay's disk under this number; the same message again has the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Not done."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Meet:
    """Asks to be joined with whoever shows the same token, waiting so many seconds for one to come."""

    token: bytes = field(repr=False)
    wait_seconds: int


@dataclass(frozen=True, slots=True)
class Met:
    """Joined: every byte behind this is the other's. Who `leads` opens the session."""

    leads: bool


Request = Read | Append | Meet
Answer = Page | Appended | Refused | Met
Message = Request | Answer | Rekey | Close


@dataclass(frozen=True, slots=True)
class PageHead:
    """A page whose messages are still to come."""

    base: int
    hash: bytes
    first: int
    newest: int
    count: int


@dataclass(frozen=True, slots=True)
class AppendHead:
    """An append whose message is still to come."""

    topic: bytes
    signature: bytes
    size: int
    days: int


def encode(message: Message) -> Iterator[bytes]:
    """The frames of a message, each fit for one record."""
    match message:
        case Read(topic, after, wait_seconds):
            yield frame(Type.READ, cbor.encode([topic, after, wait_seconds]))
        case Page(base, hash, first, newest, messages):
            yield frame(Type.PAGE, cbor.encode([base, hash, first, newest, len(messages)]))
            for body in messages:
                yield frame(Type.MESSAGE, cbor.encode([len(body)]))
                yield from _parts(body)
        case Append(topic, signature, days, body):
            yield frame(Type.APPEND, cbor.encode([topic, signature, len(body), days]))
            yield from _parts(body)
        case Appended(number):
            yield frame(Type.APPENDED, cbor.encode([number]))
        case Refused(reason):
            yield frame(Type.REFUSED, cbor.encode([int(reason)]))
        case Meet(token, wait_seconds):
            yield frame(Type.MEET, cbor.encode([token, wait_seconds]))
        case Met(leads):
            yield frame(Type.MET, cbor.encode([leads]))
        case Rekey():
            yield frame(Type.REKEY, b"")
        case Close():
            yield frame(Type.CLOSE, b"")


def decode_untrusted(kind: Type, body: bytes) -> Read | PageHead | AppendHead | Appended | Refused | Meet | Met | int:
    """What one frame says; of MESSAGE the size of what follows. Raises RemoteProtocolError when it is malformed."""
    match kind:
        case Type.READ:
            topic, after, wait = tuple_untrusted(body, 3)
            need(is_bytes(topic, KEY_SIZE) and is_int(after, 0, NUMBER_MAX) and is_int(wait, 0, WAIT_SECONDS_MAX))
            return Read(topic, after, wait)
        case Type.PAGE:
            base, hash, first, newest, count = tuple_untrusted(body, 5)
            need(is_bytes(hash, HASH_SIZE) and is_int(newest, 0, NUMBER_MAX) and is_int(first, 1, newest + 1))
            need(is_int(base, first - 1, newest))
            # where there is one, it comes: a reader that went on asking for what never comes would ask for ever
            need(is_int(count, min(newest - base, 1), min(newest - base, PAGE_MESSAGES_MAX)))
            return PageHead(base, hash, first, newest, count)
        case Type.APPEND:
            topic, signature, size, days = tuple_untrusted(body, 4)
            need(is_bytes(topic, KEY_SIZE) and is_bytes(signature, SIGNATURE_SIZE))
            need(is_int(size, 1, MESSAGE_SIZE_MAX) and is_int(days, 1, KEEP_DAYS_MAX))
            return AppendHead(topic, signature, size, days)
        case Type.MESSAGE:
            (size,) = tuple_untrusted(body, 1)
            need(is_int(size, 1, MESSAGE_SIZE_MAX))
            return int(size)
        case Type.APPENDED:
            (number,) = tuple_untrusted(body, 1)
            need(is_int(number, 1, NUMBER_MAX))
            return Appended(number)
        case Type.REFUSED:
            (reason,) = tuple_untrusted(body, 1)
            need(is_int(reason, 1, 255))
            # a newer relay may have reasons that we have no word for
            return Refused(Reason(reason) if reason in Reason._value2member_map_ else Reason.FAILED)
        case Type.MEET:
            token, wait = tuple_untrusted(body, 2)
            need(is_bytes(token, KEY_SIZE) and is_int(wait, 0, WAIT_SECONDS_MAX))
            return Meet(token, wait)
        case Type.MET:
            (leads,) = tuple_untrusted(body, 1)
            need(type(leads) is bool)
            return Met(leads)
        case Type.PART | Type.REKEY | Type.CLOSE:
            raise LocalProtocolError("frames without a grammar")


class Assembly:
    """One message of announced size, put together from its parts."""

    __slots__ = ("_body", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._body = bytearray()  # not a list of parts: each may be one byte long, and would weigh fifty

    def add_untrusted(self, part: bytes) -> bytes | None:
        """The whole message with its last part. Raises RemoteProtocolError for an empty part or a byte too many."""
        if not 0 < len(part) <= self._size - len(self._body):
            raise RemoteProtocolError("message: part that does not fit")
        self._body += part
        return None if len(self._body) < self._size else bytes(self._body)


def _parts(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), FRAME_BODY_MAX):
        yield frame(Type.PART, body[at : at + FRAME_BODY_MAX])
