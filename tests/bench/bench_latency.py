"""Latency: from the call that files a report on one node to the line that a watcher on another receives.

One thread does both, so that nothing but the two daemons lies between the two moments: it files, waits for the
watcher's line, then reads the answer to its call.
"""

import time
from contextlib import suppress
from statistics import quantiles
from typing import Any

from context import Context
from daemons import PATIENCE_SECONDS, Daemon, copied, equal, wait_until
from profiles import profiled
from table import Row, at_least, below

from p2pnode import client

SAMPLES = 500
WARM_UP = 20
FILED = 2000


class _Enough(Exception):
    """Ends a watch."""


def rows(context: Context) -> list[Row]:
    """Live push while a peer is connected, then filing as fast as the answers come."""
    median_ms, p99_ms, alone, connected = [], [], [], []
    samples = SAMPLES // min(context.scale, 5)
    for number in range(context.runs):
        context.tell(f"latency, run {number + 1}")
        sender, watcher = copied(context.pair.full, "sender"), copied(context.pair.empty, "watcher")
        with Daemon(sender) as a:
            alone.append(_filing_rate(a, FILED // context.scale))
            with Daemon(watcher) as b:
                _meet(a, b)
                percentiles = quantiles(_samples_ms(a, b, samples), n=100)
                connected.append(_filing_rate(a, FILED // context.scale))
        median_ms.append(percentiles[49])
        p99_ms.append(percentiles[98])
    if context.profile:
        _profiled(context)
    return [
        Row(f"filed on one node, seen by `watch` on the other: p50 of {samples}", median_ms, "ms", below(10)),
        Row("  p99", p99_ms, "ms", below(40)),
        Row("filed one by one through the socket, durable", alone, "reports/s", at_least(500)),
        Row("  the same with a peer that gets each at once", connected, "reports/s"),
    ]


def _meet(a: Daemon, b: Daemon) -> None:
    """Both connected, with nothing left to tell each other."""
    b.ask("peer.add", address=a.address)
    wait_until("both to be connected", lambda: a.ask("status")["peers"] == 1 == b.ask("status")["peers"])
    wait_until("both to be equal", lambda: equal(a, b))


def _profiled(context: Context) -> None:
    sender, receiver = copied(context.pair.full, "sender"), copied(context.pair.empty, "watcher")
    with profiled(sender, "filing one by one: sender") as a, profiled(receiver, "filing one by one: receiver") as b:
        _meet(a, b)
        _filing_rate(a, FILED // context.scale)


def _report(number: int) -> dict[str, Any]:
    return {"category": "all-clear", "title": f"Todo tranquilo en la plaza ({number})", "basis": "saw"}


def _samples_ms(a: Daemon, b: Daemon, count: int) -> list[float]:
    taken: list[float] = []
    with client.Daemon(str(a.home)) as filing, client.Daemon(str(b.home)) as watching:
        filed_at = 0.0

        def seen(note: Any) -> None:
            nonlocal filed_at
            if "id" in note:
                taken.append(1000 * (time.perf_counter() - filed_at))
                assert filing.receive()["id"] == note["id"]
                if len(taken) == count + WARM_UP:
                    raise _Enough
            filed_at = time.perf_counter()
            filing.send("report.new", _report(len(taken)))

        with suppress(_Enough):
            watching.call("watch", {}, told=seen, seconds=PATIENCE_SECONDS)
    return taken[WARM_UP:]


def _filing_rate(a: Daemon, count: int) -> float:
    with client.Daemon(str(a.home)) as daemon:
        begun = time.monotonic()
        for number in range(count):
            daemon.call("report.new", _report(number))
        return count / (time.monotonic() - begun)
