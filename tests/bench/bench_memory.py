"""Memory: what a daemon holds on to after a large sync and after a restart; and how soon `status` answers beside it."""

import time
from statistics import median

from context import Context
from daemons import Daemon, Gauge, command, copied
from homes import Shape
from table import Row, below

SETTLE_SECONDS = 60.0
SETTLE_SECONDS_QUICK = 15.0
SECONDS_MAX = 300.0
STATUS_CALLS = 11


def rows(context: Context) -> list[Row]:
    """Resident memory with everything received, peers connected all the while."""
    entries = 100_000 // context.scale
    settle_seconds = SETTLE_SECONDS if context.scale == 1 else SETTLE_SECONDS_QUICK
    pair = context.filled(Shape(entries, 10))
    after, restarted, status_ms = [], [], []
    for number in range(context.runs):
        context.tell(f"memory, run {number + 1}")
        receiver = copied(pair.empty, "receiver")
        with Daemon(pair.full) as server:
            with Daemon(receiver) as daemon, Gauge(receiver) as gauge:
                daemon.ask("peer.add", address=server.address)
                gauge.when("everything", lambda c: c.entries == pair.entries and not c.pending, seconds=SECONDS_MAX)
                time.sleep(settle_seconds)
                after.append(daemon.rss_mb)
                status_ms.append(median(_status_ms(daemon) for _ in range(STATUS_CALLS)))
            with Daemon(receiver) as daemon:
                time.sleep(SETTLE_SECONDS_QUICK)
                restarted.append(daemon.rss_mb)
    return [
        Row(f"{settle_seconds:.0f} s after receiving {entries:,} reports", after, "MB RSS", below(80)),
        Row("after a restart, peer connected", restarted, "MB RSS", below(80)),
        Row(f"`p2pnode status` as a process, median of {STATUS_CALLS}", status_ms, "ms", below(100)),
    ]


def _status_ms(daemon: Daemon) -> float:
    begun = time.monotonic()
    command(daemon.home, "status")
    return 1000 * (time.monotonic() - begun)
