"""Mailbox: everything that a node holds into a relay's mailbox, and out of it into one that was never on with it.

Real daemons and a real relay on loopback, each a process; the relay is on the disk on which the homes lie, and every
append waits for it. The clock of the appending runs from `sync` until nothing is left to append, that of the reading
from `relay add` to the last commit.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from context import Context
from daemons import ENVIRONMENT, LOOK_SECONDS, BenchFailed, Daemon, Gauge, copied, wait_until
from homes import Pair, Shape
from table import Row

from p2pnode import client

SECONDS_MAX = 300.0


def rows(context: Context) -> list[Row]:
    """How fast reports go into a mailbox and out of it, in many at once and one by one."""
    shape = Shape(100_000 // context.scale, 10)
    pair = context.filled(shape)
    appended, read, ones = [], [], []
    for number in range(context.runs):
        context.tell(f"mailbox, run {number + 1}")
        with _relay(context.root / f"relay-{number}") as relay:
            appended.append(shape.entries / _append(pair, relay))
            read.append(shape.entries / _read(pair, relay))
            ones.append(_latency_ms(pair, relay))
    size = pair.payload_size / 1e6
    return [
        Row(f"{shape.entries:,} reports: appended", appended, "entries/s"),
        Row("  the same in payload", [rate * size for rate in appended], "MB/s"),
        Row("  read and committed by another", read, "entries/s"),
        Row("  the same in payload", [rate * size for rate in read], "MB/s"),
        Row("one report, filed to read by one that waits for news", ones, "ms"),
    ]


@contextmanager
def _relay(home: Path) -> Iterator[str]:
    """A relay as a process; the line by which it is known."""
    command = [
        sys.executable,
        "-m",
        "p2pnode",
        "relay",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--json",
        "--home",
        str(home),
    ]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["relays"][0]
    finally:
        process.terminate()
        process.wait()


def _append(pair: Pair, relay: str) -> float:
    writer = copied(pair.full, "writer")
    with Daemon(writer) as node:
        node.ask("relay.add", relay=relay)
        wait_until("the relay to be read", lambda: node.ask("relay.list")[0]["state"] == "waiting")
        begun = time.monotonic()
        _sync(writer, wait=False)
        counted: list[int] = []  # entries that wait: none before they are counted, and none when all lie there

        def appended() -> bool:
            counted.append(node.ask("relay.list")[0]["waiting"])
            return max(counted) > 0 and counted[-1] == 0

        wait_until("everything to be appended", appended, seconds=SECONDS_MAX, step=LOOK_SECONDS)
        ended = time.monotonic()
        if node.ask("relay.list")[0]["refusal"]:
            raise BenchFailed("the relay did not take everything")
        return ended - begun


def _read(pair: Pair, relay: str) -> float:
    receiver = copied(pair.empty, "receiver")
    with Daemon(receiver) as node, Gauge(receiver) as gauge:
        begun = time.monotonic()
        node.ask("relay.add", relay=relay)
        committed = gauge.when("the last commit", lambda c: c.entries == pair.entries, seconds=SECONDS_MAX)
    return committed - begun


def _latency_ms(pair: Pair, relay: str) -> float:
    """Filed and appended at once, until it is listed on a node that waits at the relay."""
    writer, reader = copied(pair.full, "writer"), copied(pair.empty, "reader")
    with Daemon(writer) as one, Daemon(reader) as two, Gauge(reader) as gauge:
        for node in (one, two):
            node.ask("relay.add", relay=relay)
        gauge.when("everything to be read", lambda c: c.entries >= pair.entries, seconds=SECONDS_MAX)
        for home in (writer, reader):
            _sync(home)
        begun = time.monotonic()
        one.ask("report.new", category="other", title="one")
        _sync(writer, wait=False)
        arrived = gauge.when("the report", lambda c: c.entries > pair.entries, seconds=SECONDS_MAX)
    return (arrived - begun) * 1000


def _sync(home: Path, *, wait: bool = True) -> None:
    with client.Daemon(str(home)) as daemon:
        daemon.call("sync", {"wait": wait, "timeout": SECONDS_MAX}, seconds=None)
