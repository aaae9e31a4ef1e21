"""Forks: the proof that an author signed two different things at one place of a log.

    evidence = CBOR [branch, branch], ours first;  branch = [[header, …], signature of the last one]

Each branch begins at the lowest seq at which the two differ (or right behind it, where only the link to it differs)
and ends at its next signed entry, which is at most 64 entries away. The proof stands by itself: whoever reads it needs
neither the log nor the payloads.
"""

import apsw

from p2pnode.store.statements import one
from protocol import cbor
from protocol.entry import Header, decode_header_untrusted, payload_hash
from protocol.limits import CHECKPOINT_INTERVAL, HEADER_SIZE_MAX
from protocol.log import Run, rebuild

EVIDENCE_SIZE_MAX = 2 * CHECKPOINT_INTERVAL * (HEADER_SIZE_MAX + 8)


def evidence(ours: Run | None, theirs: Run, seq: int) -> bytes:
    """The proof that two proven runs of one log differ at `seq`; `theirs` may begin right behind it.

    Without `ours` (damaged here) it proves nothing by itself, but still to every node that holds the log.
    """
    return cbor.encode([[] if ours is None else _branch(ours, seq), _branch(theirs, seq)])


def keep(db: apsw.Connection, log_no: int, seq: int, proof: bytes) -> None:
    """Puts a proof in the place of one for a higher seq."""
    db.execute("INSERT OR REPLACE INTO fork VALUES (?, ?, ?)", (log_no, seq, proof))


def other_branch(db: apsw.Connection, log_no: int, space: bytes) -> Run | None:
    """The branch that is not held, as a run without payloads: sent behind our own it proves the fork to a peer."""
    proof = one(db, "SELECT evidence FROM fork WHERE log = ?", log_no)
    if proof is None:
        return None
    _, (encoded, signature) = cbor.decode_untrusted(proof, EVIDENCE_SIZE_MAX)
    headers = [decode_header_untrusted(header) for header in encoded]
    first = headers[0]
    return rebuild(
        space,
        first.log,
        first.seq,
        first.prev,
        [header.lamport for header in headers],
        [header.time for header in headers],
        [header.kind for header in headers],
        [None] * len(headers),
        {len(headers) - 1: signature},
        {index: header.refs for index, header in enumerate(headers) if header.refs},
        {index: (header.payload_size, header.payload_hash) for index, header in enumerate(headers)},
    )


def _branch(run: Run, seq: int) -> list[object]:
    part = run.since(max(seq, run.first_seq))
    last = min(part.signatures)
    headers = []
    for index in range(last + 1):
        payload = part.payloads[index]
        size, digest = part.lacks[index] if payload is None else (len(payload), payload_hash(payload))
        header = Header(
            part.log,
            part.first_seq + index,
            part.prev_of(index),
            part.lamports[index],
            part.times[index],
            part.kinds[index],
            size,
            digest,
            part.refs.get(index, ()),
        )
        headers.append(header.encode())
    return [headers, part.signatures[last]]
