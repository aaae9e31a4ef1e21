"""Report: what somebody says happened, somewhere, at some time. Specification section "Reports".

    payload = salt (16 random bytes) || deterministic CBOR map

    key      value                                              absent means
    v        1
    cat      slug
    title    text, 1 to 200 bytes
    text     text, at most 8 KiB                                nothing more to say
    tags     1 to 16 distinct texts of 1 to 80 bytes            no tags
    when     [start, length], seconds since 1970 and seconds    not known when
    cell     geohash of 3 to 7 characters                       not known or not said where
    place    text, 1 to 200 bytes                               no name for the place
    basis    slug                                               not said
    sev      0 to 3                                             not said
    state    slug                                               not known
    lang     language tag (RFC 5646), at most 35 characters     not said
    rel      1 to 8 of [slug, entry id]                         stands alone
    ttl      1 second to 10 years                               as long as the space keeps reports

Every other key is ignored: `media` will carry attachments one day, and until then such a report is shown without
them. A slug that this version does not know is shown as it stands, for the same reason; only what a person publishes
here is held to the lists below. No rule asks what Unicode says about a character: two nodes may know two Unicodes.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from protocol import cbor, geohash
from protocol.errors import InputRefused, RemoteProtocolError
from protocol.limits import PAYLOAD_SALT_SIZE, PAYLOAD_SIZE_MAX

VERSION = 1

CATEGORIES = (  # in the order in which one of several is chosen to stand for a report
    *("shooting", "disappearance", "body", "explosion", "press-attack", "arson", "extortion", "roadblock"),
    *("convoy", "checkpoint", "operation", "displacement", "outage", "aid", "found", "rumour", "all-clear", "other"),
)
NOT_DANGER = frozenset({"all-clear", "aid", "found", "rumour", "other"})
BASES = ("saw", "heard", "own-media", "told", "public-channel", "official", "inference", "unknown")
STATES = ("ongoing", "ended", "unknown")
RELATIONS = ("updates", "same-event", "translates")

TITLE_SIZE_MAX = 200
TEXT_SIZE_MAX = 8 * 1024
PLACE_NAME_SIZE_MAX = 200
TAGS_MAX = 16
TAG_SIZE_MAX = 80
RELATIONS_MAX = 8
SEVERITY_MAX = 3
TIME_S_MAX = 253_402_300_799  # the last second of the year 9999, the last that RFC 3339 can write
WINDOW_S_MAX = 366 * 86_400  # an uncertainty of more than a year is no observation
TTL_S_MAX = 10 * 366 * 86_400
MOMENT_S = 15 * 60  # how long a window is when only a moment was named: nobody's watch is better in such an hour
ID_SIZE = 32

_SLUG = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LANG = re.compile(r"(?=.{2,35}\Z)[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8}){0,8}")


@dataclass(frozen=True, slots=True)
class Observed:
    """The window in which it happened; its length is the uncertainty."""

    start_s: int
    length_s: int

    @property
    def end_s(self) -> int:
        return self.start_s + self.length_s


@dataclass(frozen=True, slots=True)
class Report:
    """One report. `place` is a geohash cell, `relations` pairs of a kind and an entry id; `attachments` waits."""

    category: str
    title: str
    text: str = ""
    tags: tuple[str, ...] = ()
    observed: Observed | None = None
    place: str | None = None
    place_name: str | None = None
    basis: str = "unknown"
    severity: int | None = None
    state: str = "unknown"
    lang: str | None = None
    relations: tuple[tuple[str, bytes], ...] = ()
    attachments: tuple[()] = ()
    ttl_s: int | None = None


def encode(report: Report, salt: bytes) -> bytes:
    """The payload of a report. Raises InputRefused for what `publishable` refuses."""
    assert len(salt) == PAYLOAD_SALT_SIZE
    return salt + cbor.encode(fields(publishable(report)))


def fields(report: Report) -> dict[str, cbor.Value]:
    """The map that stands for a report, without what says nothing."""
    observed = report.observed
    every: dict[str, cbor.Value] = {
        "v": VERSION,
        "cat": report.category,
        "title": report.title,
        "text": report.text or None,
        "tags": list(report.tags) or None,
        "when": None if observed is None else [observed.start_s, observed.length_s],
        "cell": report.place,
        "place": report.place_name,
        "basis": None if report.basis == "unknown" else report.basis,
        "sev": report.severity,
        "state": None if report.state == "unknown" else report.state,
        "lang": report.lang,
        "rel": [[kind, entry_id] for kind, entry_id in report.relations] or None,
        "ttl": report.ttl_s,
    }
    return {key: value for key, value in every.items() if value is not None}


def decode_untrusted(payload: bytes) -> Report:
    """The report in a payload. Raises RemoteProtocolError where the board has to take it as void."""
    if len(payload) < PAYLOAD_SALT_SIZE:
        raise RemoteProtocolError("report: no salt")
    value = cbor.decode_untrusted(payload[PAYLOAD_SALT_SIZE:], PAYLOAD_SIZE_MAX - PAYLOAD_SALT_SIZE)
    if type(value) is not dict:
        raise RemoteProtocolError("report: not a map")
    get: Callable[..., Any] = value.get  # each is checked below before anything relies on its type
    version, category, title, text, tags = get("v"), get("cat"), get("title"), get("text", ""), get("tags")
    if type(version) is not int or version != VERSION:
        raise RemoteProtocolError("report: version")
    if not _is_slug(category, CATEGORIES):
        raise RemoteProtocolError("report: category")
    if not _is_text(title, 1, TITLE_SIZE_MAX) or not _is_text(text, 0, TEXT_SIZE_MAX):
        raise RemoteProtocolError("report: title or text")
    if "tags" in value:
        if type(tags) is not list or not 1 <= len(tags) <= TAGS_MAX:
            raise RemoteProtocolError("report: tags")
        if not all(_is_text(tag, 1, TAG_SIZE_MAX) for tag in tags) or len(set(tags)) < len(tags):
            raise RemoteProtocolError("report: tags")
    cell, place_name, lang = get("cell"), get("place"), get("lang")
    if "cell" in value and (type(cell) is not str or not geohash.is_cell(cell)):
        raise RemoteProtocolError("report: cell")
    if "place" in value and not _is_text(place_name, 1, PLACE_NAME_SIZE_MAX):
        raise RemoteProtocolError("report: place")
    if "lang" in value and (type(lang) is not str or _LANG.fullmatch(lang) is None):
        raise RemoteProtocolError("report: language")
    basis, state, severity, ttl_s = get("basis", "unknown"), get("state", "unknown"), get("sev"), get("ttl")
    if not _is_slug(basis, BASES) or not _is_slug(state, STATES):
        raise RemoteProtocolError("report: basis or state")
    if "sev" in value and not _is_int(severity, 0, SEVERITY_MAX):
        raise RemoteProtocolError("report: severity")
    if "ttl" in value and not _is_int(ttl_s, 1, TTL_S_MAX):
        raise RemoteProtocolError("report: time to live")
    observed = _observed_untrusted(get("when")) if "when" in value else None
    relations = _relations_untrusted(get("rel")) if "rel" in value else ()
    tags = tuple(tags or ())
    return Report(
        category, title, text, tags, observed, cell, place_name, basis, severity, state, lang, relations, (), ttl_s
    )


def _observed_untrusted(value: object) -> Observed:
    if type(value) is not list or len(value) != 2:
        raise RemoteProtocolError("report: window")
    start, length = value
    if not _is_int(start, 0, TIME_S_MAX) or not _is_int(length, 0, min(WINDOW_S_MAX, TIME_S_MAX - start)):
        raise RemoteProtocolError("report: window")
    return Observed(start, length)


def _relations_untrusted(value: object) -> tuple[tuple[str, bytes], ...]:
    if type(value) is not list or not 1 <= len(value) <= RELATIONS_MAX:
        raise RemoteProtocolError("report: relations")
    for item in value:
        if type(item) is not list or len(item) != 2 or not _is_slug(item[0], RELATIONS):
            raise RemoteProtocolError("report: relations")
        if type(item[1]) is not bytes or len(item[1]) != ID_SIZE:
            raise RemoteProtocolError("report: relations")
    return tuple((kind, entry_id) for kind, entry_id in value)


def _is_slug(value: object, known: tuple[str, ...]) -> bool:
    return type(value) is str and (value in known or _SLUG.fullmatch(value) is not None)


def _is_text(value: object, low: int, high: int) -> bool:
    # Four bytes at most for a character: most texts need no second look.
    return type(value) is str and low <= len(value) and (len(value) * 4 <= high or len(value.encode()) <= high)


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


# What a person gives


def publishable(report: Report) -> Report:
    """The same report in the form that is signed: texts in NFC, each tag once.

    Raises InputRefused, naming the option at fault, unless it keeps every limit and uses only the words of our lists.
    """
    _one_of(report.category, CATEGORIES, "category")
    _one_of(report.basis, BASES, "basis")
    _one_of(report.state, STATES, "state")
    if len(report.relations) > RELATIONS_MAX:
        raise InputRefused("relations", "too-many", RELATIONS_MAX)
    for kind, entry_id in report.relations:
        _one_of(kind, RELATIONS, "relations")
        if len(entry_id) != ID_SIZE:
            raise InputRefused("relations", "not-an-id")
    tags = tuple(dict.fromkeys(_clean(tag, 1, TAG_SIZE_MAX, "tag") for tag in report.tags))
    if len(tags) > TAGS_MAX:
        raise InputRefused("tag", "too-many", TAGS_MAX)
    observed, lang, place_name = report.observed, report.lang, report.place_name
    if observed is not None:
        _within(observed.start_s, 0, TIME_S_MAX, "observed")
        _within(observed.length_s, 0, WINDOW_S_MAX, "observed")
        _within(observed.end_s, 0, TIME_S_MAX, "observed")
    if report.place is not None and not geohash.is_cell(report.place):
        raise InputRefused("place", "not-a-place")
    if report.severity is not None:
        _within(report.severity, 0, SEVERITY_MAX, "severity")
    if report.ttl_s is not None:
        _within(report.ttl_s, 1, TTL_S_MAX, "expires")
    if lang is not None and _LANG.fullmatch(lang) is None:
        raise InputRefused("lang", "not-a-language")
    return replace(
        report,
        title=_clean(report.title, 1, TITLE_SIZE_MAX, "title"),
        text=_clean(report.text, 0, TEXT_SIZE_MAX, "text"),
        tags=tags,
        place_name=None if place_name is None else _clean(place_name, 1, PLACE_NAME_SIZE_MAX, "place_name"),
    )


def _clean(text: str, size_min: int, size_max: int, field: str) -> str:
    text = unicodedata.normalize("NFC", text)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:  # half a surrogate pair, from JSON or a terminal
        raise InputRefused(field, "not-text") from error
    if size > size_max:
        raise InputRefused(field, "too-long", size_max)
    if size < size_min or (size_min and text.isspace()):
        raise InputRefused(field, "empty")
    return text


def _one_of(word: str, words: Iterable[str], field: str) -> None:
    if word not in words:
        raise InputRefused(field, "unknown", ", ".join(words))


def _within(value: int, low: int, high: int, field: str) -> None:
    if not _is_int(value, low, high):
        raise InputRefused(field, "out-of-range", f"{low}..{high}")


# Times as people and programs write them

_UNITS_S: Mapping[str, int] = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"([0-9]{1,9})([wdhms])")
_ISO = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9:.,]{2,20})(Z|[+-][0-9]{2}:?[0-9]{2})?)?", re.ASCII)


def rfc3339(time_s: int) -> str:
    """A moment in UTC; what lies after the year 9999 reads as its last second."""
    return datetime.fromtimestamp(min(time_s, TIME_S_MAX), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str, field: str, zone: tzinfo = UTC) -> Observed:
    """An ISO 8601 date or time as the window it names: a whole day, or a moment (of length 0).

    `zone` counts where the text has none. Raises InputRefused.
    """
    found = _ISO.fullmatch(text.strip().upper())
    if found is None:
        raise InputRefused(field, "not-a-time")
    try:
        start = datetime.fromisoformat(found[0])
        start = start if start.tzinfo else start.replace(tzinfo=zone)
        start_s = int(start.timestamp() // 1)
        length_s = 0 if found[2] else int((start + timedelta(days=1)).timestamp() // 1) - start_s
    except (ValueError, OverflowError) as error:
        raise InputRefused(field, "not-a-time") from error
    _within(start_s, 0, TIME_S_MAX, field)
    return Observed(start_s, length_s)


def parse_observed(text: str, zone: tzinfo = UTC) -> Observed | None:
    """`unknown`, one time (a day, or a moment that stands for 15 minutes) or `FROM/TO`. Raises InputRefused."""
    if text.strip().lower() == "unknown":
        return None
    first, slash, last = text.partition("/")
    start = parse_time(first, "observed", zone)
    if not slash:
        return Observed(start.start_s, start.length_s or MOMENT_S)
    end_s = parse_time(last, "observed", zone).end_s
    if end_s < start.start_s:
        raise InputRefused("observed", "ends-before-it-starts")
    return Observed(start.start_s, end_s - start.start_s)


def parse_duration(text: str, field: str) -> int:
    """Seconds in `90s`, `15m`, `24h`, `7d` or `2w`. Raises InputRefused."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise InputRefused(field, "not-a-duration")
    return int(found[1]) * _UNITS_S[found[2]]


def duration_text(seconds: int) -> str:
    """What parse_duration reads as these seconds, in the largest unit that fits."""
    unit = next(unit for unit, size in _UNITS_S.items() if seconds % size == 0)
    return f"{seconds // _UNITS_S[unit]}{unit}"
