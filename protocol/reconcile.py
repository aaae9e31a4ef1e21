"""Reconciliation: two nodes learn which 32-byte items each lacks, in few messages. Negentropy V1, byte for byte.

    client                                                    server
    fingerprints of 16 ranges of all that it holds   -->
                                                     <--      silence where they agree; else 16 narrower ranges,
                                                              or the ids themselves where few are left
    the same, and so on until nothing is open        -->      … the client alone keeps the result

A fingerprint is a sum, so prefix sums over a sealed snapshot
give that of any range at once; whoever may choose ids can make two sets with one sum, so ours are keyed by the session.
A message that would pass its size limit ends with one fingerprint over all that it leaves open; the exchange goes on
from there.

A peer may answer "different" for ever or list ids that do not exist. So rounds are capped (plus some for what was
learned in them), ids are capped, an id counts once, and what was learned before the peer misbehaved stays in `have`
and `need`. Specification section "Reconciliation"; wire format: negentropy-protocol-v1, by Doug Hoyte.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import assert_never

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import RECONCILE_ROUNDS_MAX
from protocol.ranges import (
    FINGERPRINT_SIZE,
    INFINITY,
    ITEM_SIZE,
    KEY_SIZE,
    TIMESTAMP_INFINITE,
    TIMESTAMP_SIZE,
    VERSION,
    Fingerprint,
    IdList,
    Mode,
    Range,
    Skip,
    ranges_untrusted,
    varint_bytes,
)

FRAME_SIZE_MIN = 4096  # below it a frame might hold no progress

IDS_MAX = 2**18  # needed ids kept of one exchange, 30 MB; then it ends early and the next one finds the rest
ROUND_PAYS = 512  # a full frame has an id for every 32 bytes; one in 16 of that is progress worth a round more

_BUCKETS = 16
_FRAME_RESERVE = 200  # the reference's: room for an id, two bounds and the closing fingerprint


class Snapshot:
    """A set of items, sorted and never changed again."""

    __slots__ = ("_keys", "_sums")

    def __init__(self, keys: list[bytes]) -> None:
        """`seal` is the way in. `keys` are sorted: timestamp, 8 bytes big-endian, then the id."""
        self._keys = keys
        self._sums = list(accumulate((int.from_bytes(key[TIMESTAMP_SIZE:], "little") for key in keys), initial=0))

    @classmethod
    def seal(cls, items: Iterable[tuple[int, bytes]]) -> "Snapshot":
        """The snapshot of these (timestamp, 32-byte id). Raises LocalProtocolError for two equal ones or a bad one."""
        try:
            keys = sorted([timestamp.to_bytes(TIMESTAMP_SIZE, "big") + id for timestamp, id in items])
        except OverflowError as error:
            raise LocalProtocolError("item: timestamp out of range") from error
        if any(len(key) != KEY_SIZE for key in keys) or (keys and keys[-1] >= INFINITY):
            raise LocalProtocolError("item: size of its id, or an infinite timestamp")
        if any(a == b for a, b in pairwise(keys)):
            raise LocalProtocolError("item: twice in one snapshot")
        return cls(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def ids(self, lower: int, upper: int) -> list[bytes]:
        return [key[TIMESTAMP_SIZE:] for key in self._keys[lower:upper]]

    def find(self, bound: bytes, lower: int = 0) -> int:
        """The number of items below a bound that lies at or above item `lower`."""
        return bisect_left(self._keys, bound, lower)

    def fingerprint(self, lower: int, upper: int) -> bytes:
        """Of the items with these indexes: SHA-256 over the sum of their ids and their number, 16 bytes of it."""
        total = (self._sums[upper] - self._sums[lower]) % 2**256
        return sha256(total.to_bytes(32, "little") + varint_bytes(upper - lower)).digest()[:FINGERPRINT_SIZE]

    def bound_at(self, index: int) -> bytes:
        """The shortest bound that separates item `index` from the one before it."""
        before, key = self._keys[index - 1], self._keys[index]
        if before[:TIMESTAMP_SIZE] != key[:TIMESTAMP_SIZE]:
            return key[:TIMESTAMP_SIZE]
        size = TIMESTAMP_SIZE
        while before[size] == key[size]:
            size += 1
        return key[: size + 1]

    def item_bound(self, index: int) -> bytes:
        """Item `index` itself as a bound; infinity behind the last one."""
        return self._keys[index] if index < len(self._keys) else INFINITY


class Client:
    """The end that asks, and learns: `have` are ids that only we hold, `need` those that only the server holds."""

    __slots__ = ("_frame_size_max", "_open", "_rounds", "_seen", "_snapshot", "have", "need")

    def __init__(self, snapshot: Snapshot, frame_size_max: int) -> None:
        """`frame_size_max` bounds every message that we send, in bytes; 0 is no bound."""
        _check_frame_size(frame_size_max)
        self._snapshot = snapshot
        self._frame_size_max = frame_size_max
        self._open = False
        self._rounds = 0
        self._seen: set[bytes] = set()
        self.have: list[bytes] = []
        self.need: list[bytes] = []

    def start(self) -> bytes:
        """The first message."""
        if self._open or self._rounds:
            raise LocalProtocolError("reconciliation already started")
        self._open = True
        out = _Message(self._snapshot, self._frame_size_max)
        out.split(0, len(self._snapshot), INFINITY)
        return bytes(out.data)

    def receive_untrusted(self, message: bytes) -> bytes | None:
        """Our next message, None once there is nothing left to ask.

        Raises RemoteProtocolError for a malformed answer, of which nothing is kept, and for an answer too many.
        """
        if not self._open:
            raise LocalProtocolError("reconciliation not open")
        self._rounds += 1
        if self._rounds > _rounds_max(self._frame_size_max, len(self._seen)):
            raise RemoteProtocolError("reconcile: does not end")
        if message[:1] != bytes([VERSION]):
            raise RemoteProtocolError("reconcile: version")
        reply = _answer(self._snapshot, ranges_untrusted(message), self._frame_size_max, self._learn)
        self._open = len(reply) > 1 and len(self.need) < IDS_MAX
        return reply if self._open else None

    def _learn(self, lower: int, upper: int, listed: Sequence[bytes]) -> None:
        ours, theirs = self._snapshot.ids(lower, upper), set(listed)
        have = [id for id in ours if id not in theirs and id not in self._seen]
        theirs.difference_update(ours)
        need = [id for id in listed if id in theirs and id not in self._seen]
        self.have += have
        self.need += need
        self._seen.update(have, need)


class Server:
    """The end that answers; it learns nothing."""

    __slots__ = ("_frame_size_max", "_rounds", "_snapshot")

    def __init__(self, snapshot: Snapshot, frame_size_max: int) -> None:
        """`frame_size_max` bounds every message that we send, in bytes; 0 is no bound."""
        _check_frame_size(frame_size_max)
        self._snapshot = snapshot
        self._frame_size_max = frame_size_max
        self._rounds = 0

    def answer_untrusted(self, message: bytes) -> bytes:
        """Our answer to one message of the client. Raises RemoteProtocolError for a malformed one, or one too many.

        To another version of the protocol the answer is ours alone, so that the client can choose it.
        """
        self._rounds += 1
        if self._rounds > _rounds_max(self._frame_size_max, len(self._snapshot)):
            raise RemoteProtocolError("reconcile: does not end")
        if not message or message[0] >> 4 != VERSION >> 4:
            raise RemoteProtocolError("reconcile: version")
        if message[0] != VERSION:
            return bytes([VERSION])
        return _answer(self._snapshot, ranges_untrusted(message), self._frame_size_max, None)


def _check_frame_size(frame_size_max: int) -> None:
    if 0 < frame_size_max < FRAME_SIZE_MIN:
        raise LocalProtocolError("reconcile: frame size")


def _rounds_max(frame_size_max: int, ids: int) -> int:
    """How many rounds an honest exchange may take that lists this many ids."""
    return RECONCILE_ROUNDS_MAX + (ids * ROUND_PAYS // frame_size_max if frame_size_max else 0)


# The decision


def _answer(
    snapshot: Snapshot,
    ranges: Iterable["Range"],
    frame_size_max: int,
    learn: Callable[[int, int, Sequence[bytes]], None] | None,
) -> bytes:
    """Our message in answer to these ranges. A client passes `learn`, which takes ids in; a server lists its own."""
    out = _Message(snapshot, frame_size_max)
    lower = 0
    for range_ in ranges:
        upper = snapshot.find(range_.upper, lower)
        keep = len(out.data)
        match range_:
            case Skip(bound):
                out.skip(bound)
            case Fingerprint(bound, digest):
                if digest == snapshot.fingerprint(lower, upper):
                    out.skip(bound)
                else:
                    out.split(lower, upper, bound)
            case IdList(bound, ids):
                if learn is not None:
                    learn(lower, upper, ids)
                    out.skip(bound)
                else:
                    lower = upper = out.list_ids(lower, upper, bound)
                    keep = len(out.data)
            case _:
                assert_never(range_)
        if out.is_full:
            # The reference leaves the range it just dropped out of the closing fingerprint. That it differs is known,
            # so any fingerprint will do but one: that of nothing, which a peer with nothing there would agree to.
            out.close(keep, upper if upper < len(snapshot) else lower)
            break
        lower = upper
    return bytes(out.data)


class _Message:
    """A message of ours, range by range."""

    __slots__ = ("_quiet", "_room", "_snapshot", "_timestamp", "data")

    def __init__(self, snapshot: Snapshot, frame_size_max: int) -> None:
        self.data = bytearray([VERSION])
        self._snapshot = snapshot
        self._room = frame_size_max - _FRAME_RESERVE if frame_size_max else None
        self._quiet: bytes | None = None  # up to this bound there is nothing to say, and it is not said yet
        self._timestamp = 0  # of the last bound: the next one is written as its distance

    @property
    def is_full(self) -> bool:
        return self._room is not None and len(self.data) > self._room

    def skip(self, bound: bytes) -> None:
        self._quiet = bound

    def split(self, lower: int, upper: int, bound: bytes) -> None:
        """Says how we differ in a range: by the fingerprints of 16 parts of it, or by the ids where they are few."""
        if upper - lower < _BUCKETS * 2:
            self._range(bound, Mode.ID_LIST, *self._listed(lower, upper))
            return
        size, longer = divmod(upper - lower, _BUCKETS)
        for bucket in range(_BUCKETS):
            end = lower + size + (bucket < longer)
            part_bound = bound if end == upper else self._snapshot.bound_at(end)
            self._range(part_bound, Mode.FINGERPRINT, self._snapshot.fingerprint(lower, end))
            lower = end

    def list_ids(self, lower: int, upper: int, bound: bytes) -> int:
        """Lists what we hold in a range, or as much as fits; returns the index behind the last item listed."""
        if self._room is not None and upper > (fitting := lower + (self._room - len(self.data)) // ITEM_SIZE + 1):
            upper, bound = fitting, self._snapshot.item_bound(fitting)
        self._range(bound, Mode.ID_LIST, *self._listed(lower, upper))
        return upper

    def close(self, keep: int, lower: int) -> None:
        """Ends a message that became too long: `keep` bytes of it, then one fingerprint from item `lower` on."""
        del self.data[keep:]
        self._quiet = None
        self._range(INFINITY, Mode.FINGERPRINT, self._snapshot.fingerprint(lower, len(self._snapshot)))

    def _listed(self, lower: int, upper: int) -> tuple[bytes, bytes]:
        return varint_bytes(upper - lower), b"".join(self._snapshot.ids(lower, upper))

    def _range(self, bound: bytes, mode: Mode, *payload: bytes) -> None:
        if self._quiet is not None:
            self._bound(self._quiet)
            self.data += varint_bytes(Mode.SKIP)
            self._quiet = None
        self._bound(bound)
        self.data += varint_bytes(mode) + b"".join(payload)

    def _bound(self, bound: bytes) -> None:
        timestamp, prefix = int.from_bytes(bound[:TIMESTAMP_SIZE], "big"), bound[TIMESTAMP_SIZE:]
        if timestamp == TIMESTAMP_INFINITE:
            self.data += varint_bytes(0) + varint_bytes(0)
        else:
            self.data += varint_bytes(timestamp - self._timestamp + 1) + varint_bytes(len(prefix)) + prefix
            self._timestamp = timestamp
