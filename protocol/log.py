"""Log: an append-only sequence of one author and one class, and the runs in which it travels.

A run is consecutive entries of one log. It carries what they share once, leaves out what the receiver can compute
(prev, length and hash of payloads that are present) and is authentic because its last entry is signed: each entry
names the id of the one before it, so one signature covers them all. Entries whose seq is divisible by 64 and entries
with a payload over 8 KiB keep their own signature, so that no stretch is ever unprovable.

    rebuild_untrusted  columns from the wire -> Run       every header rebuilt, every id computed
    prove_untrusted    Run                                every signature that it carries, checked
    judge              (Head, Run) -> Judgement           what to do with it, given what is held

A run from a stranger is nothing until both of the first two have passed. Specification section "Runs".
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Protocol

from protocol import keys
from protocol.entry import (
    LogIdentity,
    check_fields_untrusted,
    check_payload_binding_untrusted,
    check_refs_untrusted,
    entry_id,
    log_key,
    payload_hash,
    tail,
)
from protocol.errors import RemoteProtocolError
from protocol.limits import (
    CHECKPOINT_INTERVAL,
    CHECKPOINT_PAYLOAD_SIZE,
    KIND_MAX,
    LAMPORT_MAX,
    PAYLOAD_SIZE_MAX,
    RUN_ENTRIES_MAX,
    RUN_SIZE_MAX,
    SEQ_MAX,
    TIME_MAX,
)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive entries of one log as columns; index 0 is the entry with seq `first_seq`.

    `payloads[i]` is None where the payload is not at hand; then `lacks[i]` is its (length, hash). `refs` and
    `signatures` are sparse, by index. Bytes of `ids` are what the headers hash to: never taken from a peer.
    """

    space: bytes
    log: LogIdentity
    first_seq: int
    prev: bytes | None
    lamports: Sequence[int]
    times: Sequence[int]
    kinds: Sequence[int]
    payloads: Sequence[bytes | None]
    signatures: Mapping[int, bytes]
    ids: Sequence[bytes]
    refs: Mapping[int, tuple[bytes, ...]]
    lacks: Mapping[int, tuple[int, bytes]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> bytes:
        return log_key(self.space, self.log)

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.ids) - 1

    def prev_of(self, index: int) -> bytes | None:
        """The id that the entry at `index` names as the one before it."""
        return self.ids[index - 1] if index else self.prev

    def first(self, count: int) -> "Run":
        """The first `count` entries of the run; to be sent, the last of them has to be signed."""
        return replace(
            self,
            lamports=self.lamports[:count],
            times=self.times[:count],
            kinds=self.kinds[:count],
            payloads=self.payloads[:count],
            ids=self.ids[:count],
            signatures={index: value for index, value in self.signatures.items() if index < count},
            refs={index: value for index, value in self.refs.items() if index < count},
            lacks={index: value for index, value in self.lacks.items() if index < count},
        )

    def since(self, seq: int) -> "Run":
        """The part of the run from `seq` on, which lies inside it."""
        skip = seq - self.first_seq
        if skip == 0:
            return self
        return replace(
            self,
            first_seq=seq,
            prev=self.prev_of(skip),
            lamports=self.lamports[skip:],
            times=self.times[skip:],
            kinds=self.kinds[skip:],
            payloads=self.payloads[skip:],
            ids=self.ids[skip:],
            signatures={i - skip: value for i, value in self.signatures.items() if i >= skip},
            refs={i - skip: value for i, value in self.refs.items() if i >= skip},
            lacks={i - skip: value for i, value in self.lacks.items() if i >= skip},
        )


def rebuild(
    space: bytes,
    log: LogIdentity,
    first_seq: int,
    prev: bytes | None,
    lamports: Sequence[int],
    times: Sequence[int],
    kinds: Sequence[int],
    payloads: Sequence[bytes | None],
    signatures: Mapping[int, bytes],
    refs: Mapping[int, tuple[bytes, ...]],
    lacks: Mapping[int, tuple[int, bytes]],
) -> Run:
    """The run with these columns, its headers rebuilt and its ids computed. The columns are trusted to be in range."""
    head = log.head()
    ids = []
    before = prev
    seq = first_seq
    for index, payload in enumerate(payloads):
        size, digest = (len(payload), payload_hash(payload)) if payload is not None else lacks[index]
        before = entry_id(
            head + tail(seq, before, lamports[index], times[index], kinds[index], size, digest, refs.get(index, ()))
        )
        ids.append(before)
        seq += 1
    return Run(space, log, first_seq, prev, lamports, times, kinds, payloads, signatures, ids, refs, lacks)


def rebuild_untrusted(
    space: bytes,
    log: LogIdentity,
    first_seq: int,
    prev: bytes | None,
    lamports: list[int],
    times: list[int],
    kinds: list[int],
    payloads: list[bytes | None],
    signatures: dict[int, bytes],
    refs: dict[int, tuple[bytes, ...]],
    lacks: dict[int, tuple[int, bytes]],
) -> Run:
    """The run that a peer sent as columns; their CBOR types are already checked, nothing else.

    Raises RemoteProtocolError unless 1 to 1,024 entries and at most 1 MiB of payload, columns of equal length, every
    field in the range of a valid header, lamport strictly rising, a signature on the last entry and on every
    checkpoint, (length, hash) exactly where a payload is absent, and no founding entry but that of this space.
    Signatures are not checked here.
    """
    count = len(payloads)
    if not 1 <= count <= RUN_ENTRIES_MAX or not len(lamports) == len(times) == len(kinds) == count:
        raise RemoteProtocolError("run: count")
    check_fields_untrusted(log, first_seq, prev, lamports[0], times[0], kinds[0], list(refs.get(0, ())))
    if first_seq + count - 1 > SEQ_MAX:
        raise RemoteProtocolError("run: seq")
    if log.space is None and count != 1:
        raise RemoteProtocolError("run: a founding log has one entry")
    if log.space is not None and log.space != space:
        raise RemoteProtocolError("run: of another space")
    if any(a >= b for a, b in pairwise(lamports)) or lamports[-1] > LAMPORT_MAX:
        raise RemoteProtocolError("run: lamport does not rise")
    if min(times) < 0 or max(times) > TIME_MAX or min(kinds) < 0 or max(kinds) > KIND_MAX:
        raise RemoteProtocolError("run: time or kind")
    if log.space is not None and log.log_class == 0 and 0 in kinds:
        raise RemoteProtocolError("run: founding entry inside a space")
    size = 0
    for index, payload in enumerate(payloads):
        if payload is None:
            check_payload_binding_untrusted(*lacks.get(index, (None, None)))
            length = lacks[index][0]
        else:
            length = len(payload)
            size += length
            if length > PAYLOAD_SIZE_MAX:
                raise RemoteProtocolError("run: payload too long")
        if _is_checkpoint(first_seq + index, length) and index not in signatures:
            raise RemoteProtocolError("run: checkpoint without signature")
    if size > RUN_SIZE_MAX:
        raise RemoteProtocolError("run: too much payload")
    if any(not 0 <= index < count or payloads[index] is not None for index in lacks):
        raise RemoteProtocolError("run: length and hash of a payload that is there")
    if count - 1 not in signatures:
        raise RemoteProtocolError("run: last entry without signature")
    if any(not 0 <= i < count or len(value) != keys.SIGNATURE_SIZE for i, value in signatures.items()):
        raise RemoteProtocolError("run: signatures")
    for index, value in refs.items():
        if not 0 <= index < count or not value:
            raise RemoteProtocolError("run: refs")
        check_refs_untrusted(list(value))
    run = rebuild(space, log, first_seq, prev, lamports, times, kinds, payloads, signatures, refs, lacks)
    if log.space is None and run.ids[0] != space:
        raise RemoteProtocolError("run: founding entry of another space")
    return run


def prove_untrusted(run: Run) -> Run:
    """The same run, once every signature that it carries is valid. Raises RemoteProtocolError otherwise.

    All of them are checked, not only the last: a later reader is served from a checkpoint on its signature alone.
    """
    author = run.log.author
    for index, signature in run.signatures.items():
        if not keys.verified(author, keys.SIGN_ENTRY, run.ids[index], signature):
            raise RemoteProtocolError("run: signature")
    return run


def _is_checkpoint(seq: int, payload_size: int) -> bool:
    return seq % CHECKPOINT_INTERVAL == 0 or payload_size > CHECKPOINT_PAYLOAD_SIZE


def must_be_signed(run_index: int, run_count: int, seq: int, payload_size: int) -> bool:
    """Whether a run has to carry the signature of this entry."""
    return run_index == run_count - 1 or _is_checkpoint(seq, payload_size)


def lean(run: Run) -> Run:
    """The run with no signature that it does not have to carry: each costs its receiver more than the entry itself."""
    count = len(run)
    sizes = [len(payload) if payload is not None else run.lacks[i][0] for i, payload in enumerate(run.payloads)]
    kept = {
        index: signature
        for index, signature in run.signatures.items()
        if must_be_signed(index, count, run.first_seq + index, sizes[index])
    }
    return run if len(kept) == len(run.signatures) else replace(run, signatures=kept)


# Judging a run against what is held


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log is held: seq and id of its newest entry, lamport of it, and where a proven fork stops it.

    A log not held at all is `Head(0, None, 0)`. `fork` is the lowest seq at which two authentic entries differ; a
    forked log is never extended.
    """

    high: int
    newest: bytes | None
    lamport: int
    fork: int | None = None


class Verdict(Enum):
    """What to do with a proven run."""

    EXTENDS = "extends"  # take judgement.run: the part that is new
    KNOWN = "known"  # every entry is held already
    EARLY = "early"  # what comes before it is not held: say how far we are
    FORK = "fork"  # judgement.seq is the lowest seq of the run at which the author signed two things
    HELD = "held"  # the log is forked: nothing beyond the fork is taken, and the run proves no lower one


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    run: Run | None = None
    seq: int = 0


class IdLookup(Protocol):
    """The id held at a seq of the log, None where none is held."""

    def __call__(self, seq: int, /) -> bytes | None: ...


def judge(head: Head, run: Run, held_id: IdLookup) -> Judgement:
    """What a proven run means for a log that is held as far as `head` says. Pure but for the look-ups it asks for.

    A run that links to the held chain at any point must agree with it from there back; the first seq at which it does
    not is a fork, provided the differing entry is authentic (it is: the run is proven and so is what we hold). An id
    covers all entries before it, so two chains agree up to some seq and differ ever after: bisect finds it. On a log
    that is forked already only a fork at a lower seq is news.
    """
    if head.fork is not None and run.first_seq > head.fork:
        return Judgement(Verdict.HELD)
    if run.first_seq > head.high + 1:
        return Judgement(Verdict.EARLY)
    differs: int | None = None
    if run.first_seq > 1 and held_id(run.first_seq - 1) != run.prev:
        differs = run.first_seq - 1
    else:
        overlap = range(run.first_seq, min(head.high, run.last_seq) + 1)
        agreed = bisect_left(overlap, True, key=lambda seq: held_id(seq) != run.ids[seq - run.first_seq])
        if agreed < len(overlap):
            differs = overlap[agreed]
    if differs is not None:
        if head.fork is not None and differs >= head.fork:
            return Judgement(Verdict.HELD)
        return Judgement(Verdict.FORK, seq=differs)
    if run.last_seq <= head.high:
        return Judgement(Verdict.KNOWN)
    if head.fork is not None:
        return Judgement(Verdict.HELD)
    fresh = run.since(head.high + 1)
    if fresh.lamports[0] <= head.lamport:
        raise RemoteProtocolError("log: lamport does not rise")
    return Judgement(Verdict.EXTENDS, fresh)
