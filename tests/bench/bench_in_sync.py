"""In sync: what it costs two nodes with many logs to meet again, in bytes of the stream, both ways."""

import homes
from context import Context
from daemons import Daemon, Gauge, copied, equal, wait_until
from homes import CHANGED, Pair, Shape
from relay import Relay, Traffic
from table import Row, at_most, exactly

LOGS = 10_000
RECONNECTS = 10
QUIET_SECONDS = 0.7  # without a byte: whatever was to be said has been said
SECONDS_MAX = 120.0


def rows(context: Context) -> list[Row]:
    """Meeting again with nothing new, and with a few changed logs."""
    logs = LOGS // context.scale
    pair = context.filled(Shape(logs, logs))
    other = copied(pair.empty, "in-sync")
    context.tell(f"in sync: bringing {logs:,} logs to the other node")
    with Daemon(pair.full) as server, Daemon(other) as client:
        client.ask("peer.add", address=server.address)
        wait_until("both to be equal", lambda: equal(server, client), seconds=SECONDS_MAX)
    meetings, changes = [], []
    with Daemon(pair.full) as server, Relay(server.address) as relay, Daemon(other) as client:
        client.ask("peer.add", address=relay.address)
        for number in range(RECONNECTS):
            context.tell(f"in sync, meeting {number + 1}")
            meetings.append(_meeting(relay, number + 1))
            relay.cut()
        wait_until("both to be connected", lambda: client.ask("status")["peers"] == 1 == server.ask("status")["peers"])
    for number in range(context.runs):
        context.tell(f"in sync, {CHANGED} changed logs, run {number + 1}")
        pair, traffic = _changed(pair, other.name, context)
        changes.append(traffic)
    changed = [change.size_after_handshake for change in changes]
    most = max(meeting.size for meeting in meetings)
    return [
        Row(f"{logs:,} logs in sync, meeting again: both ways, at most", [most], "bytes", at_most(1536)),
        Row("  messages, at most", [max(len(meeting.pieces) for meeting in meetings)], "messages", exactly(3)),
        Row("  from connecting to the last byte", [1000 * m.seconds for m in meetings], "ms"),
        Row(f"{CHANGED} logs changed: reconciliation and the entries themselves", changed, "bytes", at_most(8192)),
        Row("  from connecting to the last byte", [1000 * c.seconds for c in changes], "ms"),
    ]


def _meeting(relay: Relay, number: int) -> Traffic:
    """The next connection, once both have fallen silent."""
    wait_until("the next connection", lambda: len(relay.connections) >= number)
    traffic = relay.connections[number - 1]
    wait_until("silence", lambda: traffic.quiet_for(QUIET_SECONDS))
    return traffic.so_far()


def _changed(pair: Pair, other: str, context: Context) -> tuple[Pair, Traffic]:
    """The full node learns of a few entries while it is alone, then meets the other."""
    pair = homes.change(pair)
    receiver = context.root / other
    with (
        Daemon(pair.full) as server,
        Relay(server.address) as relay,
        Daemon(receiver) as client,
        Gauge(receiver) as gauge,
    ):
        client.ask("peer.add", address=relay.address)
        gauge.when("the new entries", lambda c: c.entries == pair.entries, seconds=SECONDS_MAX)
        return pair, _meeting(relay, 1)
