"""Frontier: how far every log of a space is held, in the forms in which two nodes compare it.

    record = CBOR [log_key, high, newest, state]      one log
    bucket = BLAKE2b of the sorted records of the logs whose key's second byte is its number, 256 of them
    D      = BLAKE2b(space_id, bucket 0 … bucket 255)   equal exactly when two nodes hold the same entries
    item   = log_key || 15 bytes keyed by the session over (high, newest, state)   what reconciliation compares

D has two floors so that one changed log costs one bucket, not the whole frontier. An item's last bytes are keyed by
the handshake hash: whoever wants two states that look alike would have to know the key of sessions to come.

A log that is forked or cut counts as its last trusted entry and its state; nothing beyond is compared. Where two ends
hold different entries of one log at one height, a Bisection finds the lowest such seq: there the author signed two
things. Specification section "Frontier".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from protocol import cbor
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.keys import hash_of, keyed_hash
from protocol.limits import LOG_KEY_SIZE

BUCKETS = 256
DIGEST_SIZE = 32
ITEM_SIZE = 32

_BUCKET_PERSON = b"p2pnode bucket 1"
_DIGEST_PERSON = b"p2pnode front 1"
_ITEM_PERSON = b"p2pnode item 1"


class State(IntEnum):
    """Whether a log counts as far as it is held, or only as far as it is trusted."""

    ORDINARY = 0
    FORKED = 1
    CUT = 2


@dataclass(frozen=True, slots=True)
class LogState:
    """How far one log counts: seq and id of its newest entry (0 and None where none does)."""

    key: bytes
    high: int
    newest: bytes | None
    state: State


def bucket_of(key: bytes) -> int:
    """The bucket of a log; the first byte of its key is its class and would not spread."""
    return key[1]


def bucket_digest(states: Iterable[LogState]) -> bytes:
    """32 bytes over the logs of one bucket, given in the order of their keys; an empty bucket has a digest too."""
    records = []
    before = b""
    for state in states:
        if state.key <= before:
            raise LocalProtocolError("bucket: keys do not rise")
        before = state.key
        records.append(cbor.encode([state.key, state.high, state.newest, int(state.state)]))
    return hash_of(_BUCKET_PERSON, b"".join(records), DIGEST_SIZE)


def digest(space: bytes, buckets: Sequence[bytes]) -> bytes:
    """D: the 32 bytes of a whole frontier, from the digests of its 256 buckets."""
    if len(buckets) != BUCKETS:
        raise LocalProtocolError("digest: not 256 buckets")
    return hash_of(_DIGEST_PERSON, space + b"".join(buckets), DIGEST_SIZE)


def item(session_key: bytes, state: LogState) -> bytes:
    """The 32 bytes that stand for a log in one session's reconciliation; `session_key` is its handshake hash."""
    content = cbor.encode([state.high, state.newest, int(state.state)])
    return state.key + keyed_hash(session_key, _ITEM_PERSON, content, ITEM_SIZE - LOG_KEY_SIZE)


def key_of(item: bytes) -> bytes:
    """The log key in an item."""
    return item[:LOG_KEY_SIZE]


@dataclass(frozen=True, slots=True)
class Bisection:
    """The search for the lowest seq at which two ends hold different entries of one log.

    An entry's id covers everything before it, so two ends agree up to some seq and differ at every one above it. One
    end searches: it asks with PROBE (`asks`, its own id there), the other answers with its id at that seq and
    remembers nothing. At most 32 questions; whatever the answers, the interval halves.
    """

    key: bytes
    differs: int  # the lowest seq at which the ends are known to differ
    agrees: int = 0  # the highest at which they are known to agree; 0: nowhere yet

    @property
    def found(self) -> int | None:
        """The lowest seq that differs, once it is known."""
        return self.differs if self.agrees + 1 == self.differs else None

    @property
    def asks(self) -> int:
        """The seq to ask about while nothing is found."""
        return (self.agrees + self.differs) // 2

    def answered_untrusted(self, seq: int, theirs: bytes | None, ours: bytes | None) -> "Bisection":
        """The search after the peer's answer about `seq`; `ours` is the id we hold there.

        Raises RemoteProtocolError for an answer to another question, and for a peer that does not hold what lies
        below an entry it said it holds.
        """
        if self.found is not None or ours is None:
            raise LocalProtocolError("bisection: nothing asked, or nothing held there")
        if seq != self.asks:
            raise RemoteProtocolError("probe: another seq than asked")
        if theirs is None:
            raise RemoteProtocolError("probe: a gap in a log that is held")
        return replace(self, agrees=seq) if theirs == ours else replace(self, differs=seq)
