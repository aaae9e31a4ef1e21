"""Bundle: everything that a node holds into a sealed file, and out of it into one that has joined and holds nothing.

The same reports go over a direct sync in the same run: the machine drifts, the ratio does not. An import is timed as a
sync is, until the commit that brings the counters to the full node's.
"""

import os
import time
from pathlib import Path

import bench_sync
from context import Context
from daemons import BenchFailed, Daemon, Gauge, copied
from homes import Pair, Shape
from table import Row, at_least

from p2pnode import client

SECONDS_MAX = 300.0


def rows(context: Context) -> list[Row]:
    """How fast a stick is written and read, and how that compares with meeting."""
    shape = Shape(100_000 // context.scale, 10)
    pair = context.filled(shape)
    written, taken, read, direct = [], [], [], []
    size = 0
    for number in range(context.runs):
        context.tell(f"bundle, run {number + 1}")
        file = context.root / f"bundle-{number}"
        with Daemon(pair.full):
            seconds, size = _export(pair.full, file)
        written.append(size / 1e6 / seconds)
        seconds = _import(context, pair, file)
        taken.append(shape.entries / seconds)
        read.append(size / 1e6 / seconds)
        direct.append(bench_sync._timed(context, shape).rate)
        file.unlink()
    ratios = [rate / other for rate, other in zip(taken, direct, strict=True)]
    head = f"{shape.entries:,} reports, {size / 1e6:.0f} MB"
    return [
        Row(f"{head}: exported, on the disk", written, "MB/s"),
        Row("  imported and committed", read, "MB/s"),
        Row("  the same in entries", taken, "entries/s"),
        Row("  a direct sync of the same", direct, "entries/s"),
        Row("  imported against synced", ratios, "times", at_least(0.8)),
    ]


def _export(home: Path, file: Path) -> tuple[float, int]:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with client.Daemon(str(home)) as daemon:
            begun = time.monotonic()
            told = daemon.call("bundle.export", seconds=None, file=descriptor)
            return time.monotonic() - begun, told["bytes"]
    finally:
        os.close(descriptor)


def _import(context: Context, pair: Pair, file: Path) -> float:
    receiver = copied(pair.empty, "receiver")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        with Daemon(receiver) as node, Gauge(receiver) as gauge, client.Daemon(str(receiver)) as daemon:
            begun = time.monotonic()
            daemon.send("bundle.import", file=descriptor)
            committed = gauge.when("the last commit", lambda c: c.entries == pair.entries, seconds=SECONDS_MAX)
            told = daemon.receive(seconds=None)
            gauge.when("the board", lambda c: c.pending == 0, seconds=SECONDS_MAX)
            if told["damaged"] or not told["whole"] or told["refused"]:
                raise BenchFailed("the bundle did not come whole")
            with Daemon(pair.full) as full:
                if node.space["fingerprint"] != full.space["fingerprint"]:
                    raise BenchFailed("fingerprints differ after the import")
    finally:
        os.close(descriptor)
    context.tell(f"  {pair.entries / (committed - begun):,.0f} entries/s")
    return committed - begun
