"""Fingerprint: the digest of a space's frontier, kept by bucket, so that one new entry costs one bucket of 256.

Buckets are marked after COMMIT and taken off the list before they are read: a commit that falls in between leaves its
mark behind and is counted the next time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import apsw

from p2pnode.store.heads import bucket_states, log_states
from protocol.frontier import BUCKETS, LogState, bucket_digest, bucket_of, digest

SCAN_FROM = 64  # that many buckets are read faster in one pass over all logs


@dataclass(slots=True)
class Fingerprint:
    """Of one space; lives as long as the process."""

    space: bytes
    buckets: list[bytes] = field(default_factory=lambda: [b""] * BUCKETS)
    stale: set[int] = field(default_factory=lambda: set(range(BUCKETS)))

    def mark(self, keys: Iterable[bytes]) -> None:
        """These logs have changed."""
        self.stale.update(map(bucket_of, keys))

    def take(self) -> set[int]:
        """The buckets to read again; they count as read from here on."""
        taken, self.stale = self.stale, set()
        return taken

    def put(self, digests: Mapping[int, bytes]) -> None:
        """What was read of them."""
        for bucket, value in digests.items():
            self.buckets[bucket] = value

    def digest(self) -> bytes:
        """D, as of the buckets put in last."""
        return digest(self.space, self.buckets)


def read_buckets(db: apsw.Connection, space_no: int, wanted: Iterable[int]) -> dict[int, bytes]:
    """The digests of these buckets as of now."""
    buckets = sorted(wanted)
    states = log_states(db, space_no) if len(buckets) >= SCAN_FROM else bucket_states(db, space_no, buckets)
    states.sort(key=_by_bucket)  # stable: within a bucket they stay in the order of their keys
    digests = {bucket: bucket_digest(part) for bucket, part in groupby(states, key=_by_bucket)}
    empty = bucket_digest(())
    return {bucket: digests.get(bucket, empty) for bucket in buckets}


def _by_bucket(state: LogState) -> int:
    return state.key[1]
