"""Haiti: 3,593 reports that people really sent, where they are on this machine.

Nothing that anybody wrote is ever printed: texts are compared by their hashes.
"""

import json
from hashlib import blake2b
from pathlib import Path

import pytest
from system.daemons import Daemon

HAITI = Path(__file__).resolve().parents[2] / "../shared/data/reports/haiti-2010-ushahidi.csv"
COUNT = 3593

there = pytest.mark.skipif(not HAITI.is_file(), reason="the reports from Haiti are not on this machine")


def fold(*values: object) -> str:
    """A hash for any values: what is compared instead of what people wrote."""
    return blake2b(json.dumps(values, ensure_ascii=False, sort_keys=True).encode(), digest_size=16).hexdigest()


def texts(node: Daemon) -> list[str]:
    """The hashes of all reports that a node lists, in an order of their own."""
    return sorted(fold(report["title"], report["text"]) for report in node.ask("report.list", limit=0))


def brought_in(node: Daemon) -> None:
    """Imports the file on this node."""
    told = node.run("report", "import", str(HAITI), "--json")
    assert told.returncode == 0, told.stderr
    tally = json.loads(told.stdout)
    assert (tally["imported"], tally["skipped"], tally["refused"]) == (COUNT, 0, [])
