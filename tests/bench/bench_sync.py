"""Sync: a full node and one that has joined but holds nothing, two daemons over encrypted loopback TCP.

The clock starts with `peer add` and stops at the commit that brings the counters to the full node's.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from context import Context
from daemons import BenchFailed, Daemon, Gauge, copied
from homes import Pair, Shape, title_number
from profiles import profiled
from relay import Relay
from table import Row, at_least, at_most

SAMPLES = 20  # reports looked up by a word that only they have
SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Timed:
    """One sync."""

    rate: float  # entries per second until the last commit
    listed_seconds: float  # from there until everything was on the board


def rows(context: Context) -> list[Row]:
    """How fast, with how many bytes, and the same work done worse."""
    entries = 100_000 // context.scale
    plain, signed = Shape(entries, 10), Shape(entries, 10, sign_each=True)
    scattered = Shape(entries, entries // 2)
    runs, ones, each, logs = [], [], [], []
    for number in range(context.runs):
        context.tell(f"sync, run {number + 1}")
        runs.append(_timed(context, plain))
        ones.append(_timed(context, signed, run_entries_max=1))
        each.append(_timed(context, signed))
        logs.append(_timed(context, scattered))
    if context.profile:
        for title, shape in (("runs", plain), ("every entry signed", signed), (f"{scattered.logs:,} logs", scattered)):
            _profiled(context, title, shape)
    ratios = [run.rate / one.rate for run, one in zip(runs, ones, strict=True)]
    head = f"{entries:,} reports, 10 authors"
    return [
        Row(f"{head}: received and committed", [t.rate for t in runs], "entries/s", at_least(30_000)),
        Row("  listed and searchable behind that", [t.listed_seconds for t in runs], "s", at_most(5)),
        Row("  bytes on the wire beyond the payload", [_overhead(context, plain)], "bytes/entry", at_most(40)),
        Row("the same as runs of one entry", [t.rate for t in ones], "entries/s"),
        Row("  runs against runs of one", ratios, "times", at_least(3)),
        Row("the same, filed one by one: every entry signed", [t.rate for t in each], "entries/s"),
        Row("  bytes on the wire beyond the payload", [_overhead(context, signed)], "bytes/entry"),
        Row(f"{entries:,} reports in {scattered.logs:,} logs", [t.rate for t in logs], "entries/s", at_least(8000)),
        Row("  listed and searchable behind that", [t.listed_seconds for t in logs], "s"),
    ]


def _timed(context: Context, shape: Shape, *, run_entries_max: int | None = None) -> Timed:
    pair = context.filled(shape)
    receiver = copied(pair.empty, "receiver")
    with Daemon(pair.full, run_entries_max=run_entries_max) as server, Daemon(receiver) as client:
        timed = _meet(server, client, pair, shape, receiver)
        _check(server, client, shape)
    context.tell(f"  {timed.rate:,.0f} entries/s, listed {timed.listed_seconds:.1f} s later")
    return timed


def _meet(server: Daemon, client: Daemon, pair: Pair, shape: Shape, receiver: Path) -> Timed:
    address = server.address
    with Gauge(receiver) as gauge:
        begun = time.monotonic()
        client.ask("peer.add", address=address)
        committed = gauge.when("the last commit", lambda c: c.entries == pair.entries, seconds=SECONDS_MAX)
        listed = gauge.when("the board", lambda c: c.pending == 0, seconds=SECONDS_MAX)
    return Timed(shape.entries / (committed - begun), listed - committed)


def _check(server: Daemon, client: Daemon, shape: Shape) -> None:
    """What was measured has to be the whole work."""
    if client.space["fingerprint"] != server.space["fingerprint"]:
        raise BenchFailed("fingerprints differ after the sync")
    last = client.ask("report.list", limit=10, offset=shape.entries - 1)
    if len(last) != 1:
        raise BenchFailed("not everything is listed")
    for number in range(0, shape.entries, shape.entries // SAMPLES):
        if len(client.ask("search", words=title_number(number))) != 1:
            raise BenchFailed(f"report {number} is not found by its word")


def _overhead(context: Context, shape: Shape) -> float:
    """Bytes of both directions for each entry, in a run of its own, without the payloads."""
    pair = context.filled(shape)
    receiver = copied(pair.empty, "receiver")
    with (
        Daemon(pair.full) as server,
        Relay(server.address) as relay,
        Daemon(receiver) as client,
        Gauge(receiver) as gauge,
    ):
        client.ask("peer.add", address=relay.address)
        gauge.when("the last commit", lambda c: c.entries == pair.entries, seconds=SECONDS_MAX)
        return relay.size / shape.entries - pair.payload_size


def _profiled(context: Context, title: str, shape: Shape) -> None:
    pair = context.filled(shape)
    receiver = copied(pair.empty, "receiver")
    with profiled(pair.full, f"{title}: sender") as server, profiled(receiver, f"{title}: receiver") as client:
        timed = _meet(server, client, pair, shape, receiver)
    context.tell(f"{title}, profiled: {timed.rate:,.0f} entries/s, listed {timed.listed_seconds:.1f} s later")
