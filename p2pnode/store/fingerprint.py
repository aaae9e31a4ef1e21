"""Fingerprint: the digest of a space's frontier, kept by bucket, so that one new entry costs one bucket of 256.

Buckets are marked after COMMIT and taken off the list before they are read: a commit that falls in between leaves its
mark behind and is counted the next time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

import apsw
import trio

from p2pnode.store.database import Database
from p2pnode.store.heads import bucket_states, log_states, space_id
from protocol.frontier import BUCKETS, LogState, bucket_digest, bucket_of, digest

SCAN_FROM = 64  # that many buckets are read faster in one pass over all logs


@dataclass(slots=True)
class _Fingerprint:
    space: bytes
    buckets: list[bytes] = field(default_factory=lambda: [b""] * BUCKETS)
    stale: set[int] = field(default_factory=lambda: set(range(BUCKETS)))
    left_out: frozenset[bytes] = frozenset()  # logs of authors that do not belong any more


class Fingerprints:
    """Those of all spaces; nothing of them outlives the process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[int, _Fingerprint] = {}
        self._one_at_a_time = trio.Lock()

    def space_id(self, space_no: int) -> bytes:
        """The id of a space, read once."""
        return self._of(space_no).space

    def mark(self, space_no: int, keys: Iterable[bytes]) -> None:
        """These logs have changed."""
        self._of(space_no).stale.update(map(bucket_of, keys))

    def leave_out(self, space_no: int, keys: frozenset[bytes]) -> None:
        """From now on exactly these logs do not count."""
        fingerprint = self._of(space_no)
        self.mark(space_no, fingerprint.left_out ^ keys)
        fingerprint.left_out = keys

    def left_out(self, space_no: int) -> frozenset[bytes]:
        """The logs that are held and do not count."""
        return self._of(space_no).left_out

    async def digest(self, space_no: int) -> bytes:
        """D of the space: what has changed since the last call is hashed, nothing else."""
        async with self._one_at_a_time:
            fingerprint = self._of(space_no)
            if stale := fingerprint.stale:
                fingerprint.stale = set()
                try:
                    left_out = fingerprint.left_out
                    digests = await self._database.query(lambda db: read_buckets(db, space_no, stale, left_out))
                except BaseException:
                    fingerprint.stale |= stale
                    raise
                for bucket, value in digests.items():
                    fingerprint.buckets[bucket] = value
            return digest(fingerprint.space, fingerprint.buckets)

    def _of(self, space_no: int) -> _Fingerprint:
        if space_no not in self._known:
            self._known[space_no] = _Fingerprint(self._database.peek(lambda db: space_id(db, space_no)))
        return self._known[space_no]


def read_buckets(
    db: apsw.Connection, space_no: int, wanted: Iterable[int], left_out: frozenset[bytes] = frozenset()
) -> dict[int, bytes]:
    """The digests of these buckets as of now."""
    buckets = sorted(wanted)
    states = log_states(db, space_no) if len(buckets) >= SCAN_FROM else bucket_states(db, space_no, buckets)
    if left_out:
        states = [state for state in states if state.key not in left_out]
    states.sort(key=_by_bucket)  # stable: within a bucket they stay in the order of their keys
    digests = {bucket: bucket_digest(part) for bucket, part in groupby(states, key=_by_bucket)}
    empty = bucket_digest(())
    return {bucket: digests.get(bucket, empty) for bucket in buckets}


def _by_bucket(state: LogState) -> int:
    return state.key[1]
