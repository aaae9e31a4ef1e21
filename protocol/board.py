"""Board: what a reader sees of the entries a node holds. Specification section "Board".

Pure and free of order: the same entries give the same list on every node, in whatever order and however often they
came. Newest first by the time of filing, then lamport, then id. That time is only the author's claim, so what claims
to come from more than a day ahead is listed last: nobody pins a report to the top.

Nobody has a voice on a report yet, so every status reads UNCONFIRMED. An empty list reads "no reports (unknown)", never
"calm"; that sentence belongs to whoever prints it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from protocol import geohash
from protocol.report import Report, duration_text, rfc3339

AHEAD_S_MAX = 24 * 3600
STATUSES = ("UNCONFIRMED",)


@dataclass(frozen=True, slots=True)
class Listed:
    """A report and the entry that carries it. `no` is the store's own number for it, 0 where there is none."""

    no: int
    id: bytes
    space: bytes
    author: bytes
    lamport: int
    filed_s: int
    report: Report


@dataclass(frozen=True, slots=True)
class Filter:
    """What a reader asks for; None asks for everything. `near` is (lat, lon) in degrees and needs `radius_km`."""

    category: str | None = None
    since: int | None = None
    until: int | None = None
    near: tuple[float, float] | None = None
    radius_km: float | None = None
    tag: str | None = None
    status: str | None = None

    def matches(self, listed: Listed) -> bool:
        """Whether a report passes: its window meets the one asked for, its cell touches the circle."""
        report, window = listed.report, listed.report.observed
        first_s, last_s = (listed.filed_s, listed.filed_s) if window is None else (window.start_s, window.end_s)
        return (
            (self.category is None or self.category == report.category)
            and (self.since is None or last_s >= self.since)
            and (self.until is None or first_s <= self.until)
            and (self.near is None or self._touches(report.place, *self.near))
            and (self.tag is None or self.tag in report.tags)
            and (self.status is None or self.status == status(listed))
        )

    def _touches(self, cell: str | None, lat: float, lon: float) -> bool:
        return cell is not None and geohash.touches_circle(cell, lat, lon, self.radius_km or 0.0)


def listing(entries: Iterable[Listed], wanted: Filter, now_s: int) -> list[Listed]:
    """The reports that pass, each once, in the order of the board."""
    found = {listed.id: listed for listed in entries if wanted.matches(listed)}
    return sorted(found.values(), key=lambda listed: sort_key(listed, now_s))


def sort_key(listed: Listed, now_s: int) -> tuple[bool, int, int, bytes]:
    """Newest first; what is dated more than a day ahead comes last."""
    return listed.filed_s > now_s + AHEAD_S_MAX, -listed.filed_s, -listed.lamport, listed.id


def status(listed: Listed) -> str:
    """What the voices say of a report."""
    return STATUSES[0]


def view(listed: Listed, author_name: str) -> dict[str, Any]:
    """A report as JSON: bytes as hex, times as RFC 3339 in UTC, words as they were signed (clean them for display)."""
    report, observed = listed.report, listed.report.observed
    return {
        "id": listed.id.hex(),
        "space": listed.space.hex(),
        "category": report.category,
        "title": report.title,
        "text": report.text,
        "place": report.place,
        "place_name": report.place_name,
        "observed": observed and {"from": rfc3339(observed.start_s), "to": rfc3339(observed.end_s)},
        "filed": rfc3339(listed.filed_s),
        "author": {"name": author_name, "key": listed.author.hex()},
        "tags": list(report.tags),
        "basis": report.basis,
        "severity": report.severity,
        "state": report.state,
        "lang": report.lang,
        "relations": [{"kind": kind, "id": entry_id.hex()} for kind, entry_id in report.relations],
        "expires": None if report.ttl_s is None else duration_text(report.ttl_s),
        "status": status(listed),
        "flags": [],
        "counts": {},
    }
