"""Ushahidi's CSV export: reports the public sent to somebody else's map."""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import BinaryIO

from p2pnode.importing.lines import Broken, Lines
from p2pnode.importing.record import Record, Refused, mark_of
from protocol import geohash
from protocol import report as reports
from protocol.errors import InputRefused
from protocol.report import CATEGORIES, MOMENT_S, Observed, Report

OUTLIER_KM = 500.0  # a position this far from the middle is remarked upon,
OUTLIER_SPREADS = 5  # unless the others are spread so far that it is less than this many times their median distance

_NUMBERING = re.compile(r"[0-9]+[a-z]?\.?\s+")
_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4}) ([0-9]{1,2}):([0-9]{2})")
_COLUMNS = ("serial", "incident title", "incident date", "description", "category", "latitude", "longitude")

# The label behind the number and the last `|`. What is here under `other` is known and has no word of ours.
_OURS = {
    label: slug
    for slug, labels in {
        "body": "deaths, human remains management",
        "disappearance": "missing persons",
        "roadblock": "road blocked",
        "displacement": "shelter needed, idp concentration",
        "outage": "power outage, communication lines down",
        "aid": "emergency, highly vulnerable, medical emergency, people trapped, vital lines, food shortage,"
        "water shortage, contaminated water, fuel shortage, public health, infectious human disease,"
        "chronic care needs, psychiatric need, medical equipment and supply needs, obgyn/women's health,"
        "services available, food distribution point, water distribution point, hospital/clinics operating,"
        "non-food aid distribution point, water sanitation and hygiene promotion, search and rescue, rubble removal",
        "other": "security threats, looting, group violence, security concern, price gouging, fire,"
        "collapsed structure, unstable structure, infrastructure damage, compromised bridge, natural hazards,"
        "earthquake and aftershocks, persons news, asking to forward a message, other",
    }.items()
    for label in (part.strip() for part in labels.split(","))
}


def ushahidi(
    file: BinaryIO, zone: tzinfo = UTC, precision: int = geohash.PRECISION_DEFAULT
) -> Iterator[Record | Refused]:
    """The reports of a CSV export of Ushahidi, its dates read in `zone`. The mark leaves out what others may correct.

    A file that can be rewound is read once before, to know which positions lie far from all others. Raises
    InputRefused for a file that is not such a table, before the first record if it can be rewound.
    """
    far = _far_from_most(file) if file.seekable() else lambda lat, lon: False
    for line, row, reason in _table(file):
        if reason:
            yield Refused(line, reason)
            continue
        try:
            yield _incident(line, row, zone, precision, far)
        except InputRefused as refusal:
            yield Refused(line, refusal.reason, refusal.field)


def _incident(
    line: int, row: dict[str, str], zone: tzinfo, precision: int, far: Callable[[float, float], bool]
) -> Record:
    warnings, marks, text, place = [], [], row["description"], None
    if row.get("verified", "").strip().upper() == "YES":
        marks.append("ushahidi:verified")
    if row.get("approved", "").strip().upper() == "NO":
        marks.append("ushahidi:not-approved")
    if row["latitude"].strip() or row["longitude"].strip():
        lat, lon = _position(row)
        place = geohash.encode(lat, lon, precision)
        if far(lat, lon):
            marks.append("ushahidi:outlier")
            warnings.append("place-outlier")
    else:
        warnings.append("place-missing")

    title = row["incident title"]
    if not title.strip():
        title = _shortened(text.strip().split("\n", 1)[0].strip(), reports.TITLE_SIZE_MAX)
        warnings.append("title-missing")
    place_name = row.get("location", "")
    for whole, size_max, slug in (
        (place_name, reports.PLACE_NAME_SIZE_MAX, "place-name-shortened"),
        (title, reports.TITLE_SIZE_MAX, "title-shortened"),
    ):
        if _shortened(whole, size_max) is not whole:
            text = f"{whole}\n\n{text}"
            warnings.append(slug)

    theirs = list(dict.fromkeys(part.strip() for part in row["category"].split(",") if part.strip()))
    labels = [_NUMBERING.sub("", name.rpartition("|")[2].strip(), count=1).casefold() for name in theirs]
    if not theirs:
        warnings.append("category-missing")
    elif not all(label in _OURS for label in labels):
        warnings.append("category-unknown")
    tags = [*marks, *(_tag(name) for name in theirs)]
    if tags[len(marks) :] != theirs:
        warnings.append("tag-shortened")
    if len(tags) > reports.TAGS_MAX:
        warnings.append("tags-dropped")

    report = Report(
        category=min((_OURS.get(label, "other") for label in labels), key=CATEGORIES.index, default="other"),
        title=_shortened(title, reports.TITLE_SIZE_MAX),
        text=text,
        tags=tuple(tags[: reports.TAGS_MAX]),
        observed=Observed(_moment_s(row["incident date"], zone), MOMENT_S),
        place=place,
        place_name=_shortened(place_name, reports.PLACE_NAME_SIZE_MAX) if place_name.strip() else None,
        basis="public-channel",
    )
    mark = mark_of("ushahidi", row["serial"], row["incident title"], row["incident date"], row["description"])
    return Record(line, mark, reports.publishable(report), tuple(warnings))


def _position(row: dict[str, str]) -> tuple[float, float]:
    return (
        geohash.parse_degrees(row["latitude"], 90, "latitude"),
        geohash.parse_degrees(row["longitude"], 180, "longitude"),
    )


def _moment_s(text: str, zone: tzinfo) -> int:
    found = _DATE.fullmatch(text.strip())
    if found is None:
        raise InputRefused("incident date", "not-a-time")
    day, month, year, hour, minute = map(int, found.groups())
    try:
        return int(datetime(year, month, day, hour, minute, tzinfo=zone).timestamp())
    except (ValueError, OverflowError) as error:
        raise InputRefused("incident date", "not-a-time") from error


def _shortened(text: str, size_max: int) -> str:
    """The text itself where its NFC fits, else its beginning and an ellipsis."""
    data = unicodedata.normalize("NFC", text).encode()
    return text if len(data) <= size_max else data[: size_max - 3].decode(errors="ignore") + "…"


def _tag(name: str) -> str:
    if len(name.encode()) > reports.TAG_SIZE_MAX:
        name = _NUMBERING.sub("", name, count=1)
    return _shortened(name, reports.TAG_SIZE_MAX)


def _far_from_most(file: BinaryIO) -> Callable[[float, float], bool]:
    """Whether a position is out of all proportion: read once through the file, counted by squares of one degree."""
    start, squares = file.tell(), Counter[tuple[int, int]]()
    for _, row, reason in _table(file):
        if not reason:
            with suppress(InputRefused):
                lat, lon = _position(row)
                squares[round(lat), round(lon)] += 1
    file.seek(start)
    lat = _median((square[0], count) for square, count in squares.items())
    lon = _median((square[1], count) for square, count in squares.items())
    spread_km = _median((geohash.distance_km(lat, lon, *square), count) for square, count in squares.items())
    limit_km = max(OUTLIER_KM, OUTLIER_SPREADS * spread_km)
    return lambda *position: geohash.distance_km(lat, lon, *position) > limit_km


def _median(counted: Iterable[tuple[float, int]]) -> float:
    ordered = sorted(counted)
    half, below = sum(count for _, count in ordered) / 2, 0
    for value, count in ordered:
        below += count
        if below >= half:
            return value
    return 0.0


def _table(file: BinaryIO) -> Iterator[tuple[int, dict[str, str], str]]:
    """(first line, row by lower-case column, reason for refusing it or "") of a CSV file with Ushahidi's columns."""
    rows = _rows(file)
    _, header, reason = next(rows, (1, [], "empty"))
    if reason:
        raise InputRefused("file", reason)
    columns = ["serial" if name.strip() == "#" else name.strip().casefold() for name in header]
    for name in _COLUMNS:
        if columns.count(name) != 1:
            raise InputRefused("file", "columns", name)
    for line, row, reason in rows:
        fits = len(row) == len(columns)
        yield line, dict(zip(columns, row, strict=True)) if fits else {}, reason or ("" if fits else "columns")


def _rows(file: BinaryIO) -> Iterator[tuple[int, list[str], str]]:
    lines = Lines(file)
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin()
        line = lines.number + 1
        try:
            row = next(reader)
            if row:
                yield line, row, ""
            continue
        except StopIteration:
            return
        except Broken as broken:
            reason = broken.reason
        except csv.Error:
            reason = "not-csv"
        lines.skip(quotes=True)
        yield line, [], reason
        reader = csv.reader(lines, strict=True)
