"""Options: the words in which people and programs describe a report, be they a command's options or keys of JSON."""

import re
from collections.abc import Mapping
from datetime import UTC, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from protocol import geohash
from protocol import report as reports
from protocol.errors import InputRefused
from protocol.report import Observed, Report

_OURS_TO_JUDGE = frozenset({"id", "space", "filed", "author", "status", "flags", "counts", "attachments"})


def report_of(
    given: Mapping[str, object], zone: tzinfo = UTC, precision: int | None = None, typed: bool = True
) -> tuple[Report, list[str]]:
    """The report that options of `report new`, or the keys of a report's JSON, describe; and a slug per warning.

    `typed` says that a person gave them, who may have meant a word by what is a geohash, too; a program is warned only.
    None counts as not given; a key may be written with a dash or an underscore. Who wrote it, when it was filed and
    what others think of it is never taken over. Raises InputRefused, naming the key at fault.
    """
    left = {key.replace("-", "_"): value for key, value in given.items() if value is not None}

    def text(key: str) -> str | None:
        value = left.pop(key, None)
        if value is not None and type(value) is not str:
            raise InputRefused(key, "not-text")
        return value

    def needed(key: str) -> str:
        value = text(key)
        if value is None:
            raise InputRefused(key, "missing")
        return value

    if "precision" in left:
        precision = geohash.parse_precision(left.pop("precision"))
    place, expires = text("place"), left.pop("expires", None)
    report = Report(
        category=needed("category"),
        title=needed("title"),
        text=text("text") or "",
        tags=(*_texts(left.pop("tag", ()), "tag"), *_texts(left.pop("tags", ()), "tags")),
        observed=_observed(left.pop("observed", None), zone),
        place=None if place is None else geohash.parse_place(place, precision, typed),
        place_name=text("place_name"),
        basis=text("basis") or "unknown",
        severity=_whole(left.pop("severity", None), "severity"),
        state=text("state") or "unknown",
        lang=text("lang"),
        relations=_relations(left.pop("relations", ()), text("updates")),
        ttl_s=reports.parse_duration(expires, "expires") if type(expires) is str else _whole(expires, "expires"),
    )
    warnings = ["unknown-key"] if left.keys() - _OURS_TO_JUDGE else []
    if not typed and place is not None and place == report.place and geohash.is_word(place):
        warnings.append("place-may-be-a-word")
    return reports.publishable(report), warnings


def _texts(value: object, key: str) -> tuple[str, ...]:
    many = value if isinstance(value, list | tuple) else (value,)
    if not all(type(item) is str for item in many):
        raise InputRefused(key, "not-text")
    return tuple(many)


def _whole(value: object, key: str) -> int | None:
    if type(value) is str and re.fullmatch("[0-9]{1,9}", value, re.ASCII):
        return int(value)
    if value is not None and type(value) is not int:
        raise InputRefused(key, "not-a-number")
    return value


def _observed(value: object, zone: tzinfo) -> Observed | None:
    match value:
        case None:
            return None
        case str():
            return reports.parse_observed(value, zone)
        case {"from": str(first), "to": str(last), **rest} if not rest and "/" not in first + last:
            return reports.parse_observed(f"{first}/{last}", zone)
    raise InputRefused("observed", "not-a-time")


def _relations(value: object, updates: str | None) -> tuple[tuple[str, bytes], ...]:
    named = [] if updates is None else [("updates", updates)]
    for item in value if isinstance(value, list | tuple) else (value,):
        match item:
            case {"kind": str(kind), "id": str(entry_id), **rest} if not rest:
                named.append((kind, entry_id))
            case _:
                raise InputRefused("relations", "not-an-id")
    if not all(re.fullmatch("[0-9a-fA-F]{64}", entry_id) for _, entry_id in named):
        raise InputRefused("updates" if updates is not None else "relations", "not-an-id")
    return tuple((kind, bytes.fromhex(entry_id)) for kind, entry_id in named)


def parse_timezone(text: str) -> tzinfo:
    """`UTC`, an offset such as `-05:00`, or a name such as `America/Port-au-Prince`. Raises InputRefused."""
    found = re.fullmatch(r"([+-])([0-9]{2}):?([0-9]{2})", text)
    if text.upper() in ("UTC", "Z"):
        return UTC
    try:
        if found is not None:
            offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
            return timezone(-offset if found[1] == "-" else offset)
        return ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise InputRefused("timezone", "unknown") from error
