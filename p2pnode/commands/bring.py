"""`p2pnode report import`: reports out of a file, in the order of its lines.

The file is read here, a record at a time, and goes to the daemon in batches, so that the daemon never opens a path it
was given. While it signs one batch the next is being read. A batch is one transaction; the mark of every record makes
a second import, or the rest of one that was interrupted, add only what is missing.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from contextlib import contextmanager

from p2pnode import arguments, client, display
from p2pnode.failures import CommandError, Exit, refused
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from p2pnode.arguments import Parser
    from p2pnode.importing import Record, Refused
    from protocol.report import Report

    Batch = list[dict[str, Any]]

BATCH_SIZE_MAX = 900_000  # bytes as JSON in the worst case, below the daemon's line of 1 MiB
RECORD_OVERHEAD = 1000  # bytes of keys, numbers, ids and punctuation of one record
ESCAPED = 6  # bytes that one character can become
IN_FLIGHT = 2  # batches: one being signed, one being read
REFUSED_SHOWN = 20


def declare(parser: Parser) -> None:
    """Options of `report import`."""
    parser.option("file", metavar="FILE|-")
    parser.option("--format", choices=("ushahidi", "jsonl"))
    parser.option("--precision", metavar="N", type=int)
    parser.option("--timezone", metavar="Z")
    parser.option("--space", metavar="S")


def bring_in(args: Namespace) -> int:
    """Everything that can be taken, each refused line with its reason."""
    from protocol.errors import InputRefused

    tally = Tally()
    with (
        _opened(args.file) as file,
        client.Daemon(arguments.home(args)) as daemon,
        display.Bar(quiet=args.json) as bar,
    ):
        size = os.fstat(file.fileno()).st_size

        def read_on() -> None:
            done = min(file.tell(), size) if size else 0
            bar.update(done, size, say("import.progress", done=tally.imported + tally.skipped))

        try:
            batches = _batches(_reader(args, file), tally)
            _deliver(daemon, batches, arguments.params(args, "space"), tally, read_on)
        except InputRefused as error:
            raise refused(error.field, error.reason, error.limit) from None
    display.result(args.json, tally.as_json(), tally.lines())
    return Exit.DONE if tally.imported + tally.skipped or not tally.refused else Exit.REFUSED


class Tally:
    """What became of the lines."""

    def __init__(self) -> None:
        self.imported = 0
        self.skipped = 0
        self.refused: list[dict[str, Any]] = []
        self.warnings: Counter[str] = Counter()

    def add(self, told: Any) -> None:
        """The daemon's answer to a batch."""
        self.imported += told["imported"]
        self.skipped += told["skipped"]
        self.refused += told["refused"]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        self.refused.sort(key=lambda refusal: int(refusal["line"]))
        told = {"imported": self.imported, "skipped": self.skipped, "refused": self.refused}
        return {**told, "warnings": dict(sorted(self.warnings.items()))}

    def lines(self) -> list[str]:
        """What a person is shown."""
        counts = {"imported": self.imported, "skipped": self.skipped, "refused": len(self.refused)}
        lines = [say("import.done", **{name: f"{count:,}" for name, count in counts.items()})]
        lines += [f"  {display.clean(slug)}: {count:,}" for slug, count in sorted(self.warnings.items())]
        for refusal in self.refused[:REFUSED_SHOWN]:
            why = " ".join(display.clean(refusal.get(key, "")) for key in ("field", "reason"))
            lines.append("  " + say("import.line", line=refusal["line"], why=why.strip()))
        if len(self.refused) > REFUSED_SHOWN:
            lines.append("  " + say("import.more", count=f"{len(self.refused) - REFUSED_SHOWN:,}"))
        return lines


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (the generator closes it; only the opening may fail so)
    except OSError as error:
        raise CommandError(Exit.FAILED, "import.unreadable", reason=error.strerror) from error
    with file:
        yield file


def _reader(args: Namespace, file: BinaryIO) -> Iterator[Record | Refused]:
    """The reader of the format. An array that breaks off must be refused before any of it is kept."""
    from p2pnode import importing
    from protocol import geohash

    options: dict[str, Any] = {}
    if args.timezone is not None:
        options["zone"] = importing.parse_timezone(args.timezone)
    if args.precision is not None:
        options["precision"] = geohash.parse_precision(args.precision)
    head = file.peek(512)[:512]  # type: ignore[attr-defined]  # both kinds of file opened above are buffered
    if (args.format or importing.guess_format(head)) == "ushahidi":
        return importing.ushahidi(file, **options)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[" and file.seekable():
        start = file.tell()
        deque(importing.jsonl(file, **options), maxlen=0)
        file.seek(start)
    return importing.jsonl(file, **options)


def _batches(records: Iterator[Record | Refused], tally: Tally) -> Iterator[Batch]:
    from p2pnode.importing import Refused

    batch: Batch = []
    size = 0
    for record in records:
        if isinstance(record, Refused):
            tally.refused.append({"line": record.line, "field": record.field, "reason": record.reason})
            continue
        tally.warnings.update(record.warnings)
        more = _size_max(record.report)
        if size + more > BATCH_SIZE_MAX:
            yield batch
            batch, size = [], 0
        batch.append({"line": record.line, "mark": record.mark.hex(), "report": as_options(record.report)})
        size += more
    if batch:
        yield batch


def _deliver(
    daemon: client.Daemon, batches: Iterator[Batch], params: dict[str, Any], tally: Tally, read_on: Callable[[], None]
) -> None:
    waiting = 0
    for batch in batches:
        daemon.send("report.import", {**params, "records": batch})
        waiting += 1
        if waiting == IN_FLIGHT:
            tally.add(daemon.receive(seconds=None))
            waiting -= 1
        read_on()
    for _ in range(waiting):
        tally.add(daemon.receive(seconds=None))


def _size_max(report: Report) -> int:
    texts = (report.title, report.text, report.place_name or "", *report.tags)
    return RECORD_OVERHEAD + ESCAPED * sum(map(len, texts))


def as_options(report: Report) -> dict[str, Any]:
    """The report in the words of `report new`, as `importing.report_of` reads them."""
    from protocol.report import rfc3339

    observed = report.observed
    told = {
        "category": report.category,
        "title": report.title,
        "text": report.text,
        "tags": report.tags,
        "observed": observed and {"from": rfc3339(observed.start_s), "to": rfc3339(observed.end_s)},
        "place": report.place and f"geohash:{report.place}",
        "place_name": report.place_name,
        "basis": report.basis,
        "severity": report.severity,
        "state": report.state,
        "lang": report.lang,
        "relations": [{"kind": kind, "id": entry_id.hex()} for kind, entry_id in report.relations],
        "expires": report.ttl_s,
    }
    return {key: value for key, value in told.items() if value not in (None, "", (), [])}
