"""Run frames: a run on the wire, as a header part and one byte string for each payload.

    RUN       CBOR array of what the entries share and of columns; a column of equal steps is one number
    PAYLOADS  CBOR array of byte strings, as many frames as it takes, with nothing between them

The receiver computes what is left out: prev, length and hash of every payload that is there.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

from protocol import cbor
from protocol.entry import Kind, LogClass, LogIdentity, check_log_untrusted
from protocol.errors import LocalProtocolError
from protocol.frames import Type, frame, is_int, list_untrusted, need, tuple_untrusted
from protocol.limits import FRAME_BODY_MAX, RUN_ENTRIES_MAX, RUN_SIZE_MAX, SEQ_MAX
from protocol.log import Run, rebuild_untrusted


def encode_run(run: Run) -> Iterator[bytes]:
    """The frames of a run; of two runs where a header part full of refs, signatures or hashes is too long for one."""
    header = _header_part(run)
    if len(header) > FRAME_BODY_MAX:
        half = min((index + 1 for index in run.signatures), key=lambda count: abs(count - len(run) // 2))
        if half == len(run):
            raise LocalProtocolError("run without the signatures it must carry")
        yield from encode_run(run.first(half))
        yield from encode_run(run.since(run.first_seq + half))
        return
    yield frame(Type.RUN, header)
    part: list[bytes] = []
    size = 3  # the array's own head
    for payload in run.payloads:
        if payload is None:
            continue
        if size + len(payload) + 3 > FRAME_BODY_MAX:
            yield frame(Type.PAYLOADS, cbor.encode(part))
            part, size = [], 3
        part.append(payload)
        size += len(payload) + 3
    if part:
        yield frame(Type.PAYLOADS, cbor.encode(part))


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
        items = tuple_untrusted(body, 12)
        author, log_id, cls, first_seq, prev, count = items[:6]
        lamports, times, kinds, signatures, refs, lacks = items[6:]
        need(is_int(count, 1, RUN_ENTRIES_MAX) and is_int(first_seq, 1, SEQ_MAX))
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
            {index: tuple(value) for index, value in _pairs(refs, 2).items() if need(type(value) is list)},
            _pairs(lacks, 3),
        )
        need(all(type(value) is bytes for value in self._columns[5].values()))
        need(all(0 <= index < count for index in self._columns[7]))
        self._payloads: list[bytes] = []
        self._size = 0  # of the payloads: the bound of a run holds before it is whole
        self._needed = count - len(self._columns[7])
        self.run: Run | None = None
        if self._needed == 0:
            self._complete()

    def receive_untrusted(self, body: bytes) -> None:
        """Takes the next PAYLOADS frame. Raises RemoteProtocolError for what cannot belong to the run."""
        part = list_untrusted(body, RUN_ENTRIES_MAX)
        need(bool(part) and all(type(payload) is bytes for payload in part))
        self._payloads += part
        self._size += sum(map(len, part))
        need(len(self._payloads) <= self._needed and self._size <= RUN_SIZE_MAX)
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
    need(type(value) is list and len(value) == count and all(type(item) is int for item in value))
    return value  # type: ignore[no-any-return]  # checked above


def _pairs(value: Any, width: int) -> dict[int, Any]:
    """A sparse column: [index, value, …] with rising indexes, `width` items an entry (index included)."""
    need(type(value) is list and len(value) % width == 0)
    indexes = value[::width]
    need(all(type(index) is int for index in indexes) and all(a < b for a, b in pairwise(indexes)))
    if width == 2:
        return dict(zip(indexes, value[1::2], strict=True))
    return {index: (size, digest) for index, size, digest in zip(indexes, value[1::3], value[2::3], strict=True)}
