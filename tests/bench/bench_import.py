"""Import: real reports out of a file, through the command as a person types it, then on two more nodes."""

import json
import time
from pathlib import Path
from typing import Any

from context import Context
from daemons import ROOT, BenchFailed, Daemon, command, copied, equal, wait_until
from profiles import profiled
from table import Row, at_least, exactly

from p2pnode import client, importing
from p2pnode.commands.bring import as_options

FILE = ROOT.parent / "shared/data/reports/haiti-2010-ushahidi.csv"
BATCH = 256
SEARCHES = ("agua", "water")
NEAR = {"near": "18.54,-72.33", "radius": 5, "limit": 0}


def rows(context: Context) -> list[Row]:
    """Reports per second into a node, and whether two others come to hold and answer the same."""
    if not FILE.exists():
        context.tell(f"skipped: no {FILE.name} beside this checkout")
        return []
    rates, daemon_rates, refused = [], [], 0
    for number in range(context.runs):
        context.tell(f"import, run {number + 1}")
        home = copied(context.pair.full, f"import-{number}")
        with Daemon(home) as daemon:
            begun = time.monotonic()
            told = json.loads(command(home, "report", "import", str(FILE), "--json"))
            rates.append(told["imported"] / (time.monotonic() - begun))
            refused += len(told["refused"])
            listed = daemon.ask("report.list", limit=1, offset=told["imported"] - 1)
        if len(listed) != 1:
            raise BenchFailed("not every imported report is listed")
        daemon_rates.append(_daemon_rate(copied(context.pair.full, "import-daemon")))
    if context.profile:
        profiled_home = copied(context.pair.full, "import-profiled")
        with profiled(profiled_home, "import: daemon"):
            command(profiled_home, "report", "import", str(FILE), "--json")
    return [
        Row("reports through `p2pnode report import`, wall", rates, "reports/s", at_least(5000)),
        Row("the same inside the daemon, reading the file left out", daemon_rates, "reports/s"),
        Row("lines refused, all runs", [refused], "lines", exactly(0)),
        *_spread(context, home),
    ]


def _daemon_rate(home: Path) -> float:
    """The rate at which the daemon takes batches that are ready."""
    with FILE.open("rb") as file:
        records = [record for record in importing.ushahidi(file) if isinstance(record, importing.Record)]
    told = [{"line": r.line, "mark": r.mark.hex(), "report": as_options(r.report)} for r in records]
    batches = [told[at : at + BATCH] for at in range(0, len(told), BATCH)]
    with Daemon(home), client.Daemon(str(home)) as daemon:
        begun = time.monotonic()
        for batch in batches:
            daemon.call("report.import", {"records": batch})
        return len(told) / (time.monotonic() - begun)


def _spread(context: Context, home: Path) -> list[Row]:
    """B and C get it; each is asked together, then alone."""
    context.tell("import: two more nodes")
    b, c = copied(context.pair.empty, "import-b"), context.root / "import-c"
    command(c, "init", "--no-passphrase")
    with Daemon(home) as first, Daemon(b) as second, Daemon(c) as third:
        expected = _answers(first)
        third.ask("join", invite=first.ask("invite.create")["invite"])
        second.ask("peer.add", address=first.address)
        wait_until("B and C to hold the import", lambda: equal(first, second, third))
        same = [_answers(daemon) == expected for daemon in (second, third)]
    for other in (b, c):
        with Daemon(other) as alone:
            same.append(_answers(alone) == expected)
    found = " ".join(str(len(answer)) for answer in expected)
    return [Row(f"B and C, together and alone, answer as A does ({found})", [sum(same)], "of 4", exactly(4))]


def _answers(daemon: Daemon) -> list[list[dict[str, Any]]]:
    asked = [daemon.ask("search", words=words, limit=0) for words in SEARCHES]
    return [*asked, daemon.ask("report.list", **NEAR)]
