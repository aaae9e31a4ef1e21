"""Bench: every figure that this project promises, measured between real daemons on this machine.

    python tests/bench/run.py [--quick] [--only NAME]… [--runs 5] [--profile]

Prints one table: the median of the runs, its goal, and what this machine can do at most. `--quick` does a tenth of the
work once, for whoever is changing something; only the whole bench on a quiet machine says what is true.
"""

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # the checkout, whatever else is installed
sys.path.append(str(Path(__file__).resolve().parents[1]))  # what tests and benches share

import bench_bundle
import bench_import
import bench_in_sync
import bench_latency
import bench_mailbox
import bench_memory
import bench_relay_store
import bench_sync
import machine
import table
from context import Context
from daemons import BenchFailed
from table import Row

from p2pnode.failures import CommandError

BENCHES: dict[str, Callable[[Context], list[Row]]] = {
    "import": bench_import.rows,
    "sync": bench_sync.rows,
    "in-sync": bench_in_sync.rows,
    "latency": bench_latency.rows,
    "bundle": bench_bundle.rows,
    "mailbox": bench_mailbox.rows,
    "memory": bench_memory.rows,
    "relay-store": bench_relay_store.rows,
}
QUICK_SCALE = 10


def main() -> int:
    """0 when everything ran and, in the whole bench, every goal was met."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    root = Path(tempfile.mkdtemp(prefix="p2pnode-bench-"))
    context = Context(root, 1 if args.quick else args.runs, QUICK_SCALE if args.quick else 1, args.profile)
    sections: list[tuple[str, Sequence[Row]]] = []
    failed = False
    try:
        context.tell("measuring the machine")
        sections.append(("this machine", machine.rows(root)))
        for name in args.only or BENCHES:
            try:
                sections.append((name, BENCHES[name](context)))
            except (BenchFailed, CommandError) as error:
                context.tell(f"{name}: {error}")
                sections.append((f"{name}: FAILED: {error}", []))
                failed = True
    finally:
        shutil.rmtree(root, ignore_errors=True)
    size = "a tenth of the work, once" if args.quick else f"medians of {context.runs}"
    print(f"p2pnode, {size}; Python {platform.python_version()}, {os.cpu_count()} processors\n")
    print("\n".join(table.lines(sections)))
    missed = any(row.missed for _, rows in sections for row in rows)
    return int(failed or (missed and not args.quick))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure p2pnode on this machine.", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, one run")
    parser.add_argument("--only", action="append", choices=BENCHES, help="this bench; may be given again")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median counts (5)")
    parser.add_argument("--profile", action="store_true", help="once more under a profiler: the top 25 of each thread")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
