"""Report: what is signed keeps every limit, what is read keeps the schema, and nothing in between is lost."""

import contextlib
import json
import unicodedata
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor, geohash, report
from protocol.errors import InputRefused, RemoteProtocolError
from protocol.limits import PAYLOAD_SIZE_MAX
from protocol.report import Observed, Report

SALT = bytes(range(16))
NAUGHTY = Path(__file__).parents[3] / "shared" / "data" / "naughty"
FULL = Report(
    category="roadblock",
    title="Bloqueo en el puente",
    text="Hay un camión atravesado.\n\tNo pasen.",
    tags=("ruta", "norte"),
    observed=Observed(1_700_000_000, 900),
    place="9q8yy",
    place_name="Puente viejo",
    basis="saw",
    severity=2,
    state="ongoing",
    lang="es-MX",
    relations=(("updates", bytes(32)), ("same-event", bytes([7]) * 32)),
    ttl_s=86_400,
)
# The map of FULL as a stranger may bend it.
MAP = report.fields(FULL)


def texts(size_max: int, size_min: int = 0) -> st.SearchStrategy[str]:
    plain = st.text(st.characters(codec="utf-8"), min_size=size_min, max_size=40)
    fits = plain.map(lambda text: unicodedata.normalize("NFC", text)).filter(
        lambda text: len(text.encode()) <= size_max
    )
    return fits.filter(lambda text: not text.isspace()) if size_min else fits


REPORTS = st.builds(
    Report,
    category=st.sampled_from(report.CATEGORIES),
    title=texts(report.TITLE_SIZE_MAX, 1),
    text=texts(report.TEXT_SIZE_MAX),
    tags=st.lists(texts(report.TAG_SIZE_MAX, 1), max_size=report.TAGS_MAX, unique=True).map(tuple),
    observed=st.none() | st.builds(Observed, st.integers(0, 2**33), st.integers(0, report.WINDOW_S_MAX)),
    place=st.none() | st.text(geohash.ALPHABET, min_size=3, max_size=7),
    place_name=st.none() | texts(report.PLACE_NAME_SIZE_MAX, 1),
    basis=st.sampled_from(report.BASES),
    severity=st.none() | st.integers(0, 3),
    state=st.sampled_from(report.STATES),
    lang=st.sampled_from([None, "es", "fr-HT", "zh-Hant-TW"]),
    relations=st.lists(
        st.tuples(st.sampled_from(report.RELATIONS), st.binary(min_size=32, max_size=32)), max_size=report.RELATIONS_MAX
    ).map(tuple),
    ttl_s=st.none() | st.integers(1, report.TTL_S_MAX),
)


def payload_of(changed: object) -> bytes:
    return SALT + cbor.encode(changed)


@given(REPORTS)
def test_what_was_signed_is_what_is_read(said: Report) -> None:
    assert report.decode_untrusted(report.encode(said, SALT)) == said


def test_the_smallest_report_says_three_things() -> None:
    small = Report("all-clear", "Todo tranquilo")
    assert report.encode(small, SALT) == payload_of({"v": 1, "cat": "all-clear", "title": "Todo tranquilo"})
    assert report.decode_untrusted(report.encode(small, SALT)) == small


def test_the_largest_report_fits_a_payload() -> None:
    largest = replace(
        FULL,
        title="t" * report.TITLE_SIZE_MAX,
        text="x" * report.TEXT_SIZE_MAX,
        tags=tuple(f"{number:02}" + "g" * (report.TAG_SIZE_MAX - 2) for number in range(report.TAGS_MAX)),
        place_name="p" * report.PLACE_NAME_SIZE_MAX,
        relations=(("same-event", bytes(32)),) * report.RELATIONS_MAX,
        lang="es" + "-abcdefgh" * 3,
        ttl_s=report.TTL_S_MAX,
    )
    payload = report.encode(largest, SALT)
    assert report.decode_untrusted(payload) == largest
    assert len(payload) < 12 * 1024 < PAYLOAD_SIZE_MAX


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"category": "gossip"}, "category", "unknown"),
        ({"basis": "dreamt"}, "basis", "unknown"),
        ({"state": "over"}, "state", "unknown"),
        ({"title": ""}, "title", "empty"),
        ({"title": " \n\u3000"}, "title", "empty"),
        ({"title": "ñ" * 101}, "title", "too-long"),
        ({"text": "x" * 8193}, "text", "too-long"),
        ({"text": "half \ud83d"}, "text", "not-text"),
        ({"tags": ("",)}, "tag", "empty"),
        ({"tags": ("x" * 81,)}, "tag", "too-long"),
        ({"tags": tuple(map(str, range(17)))}, "tag", "too-many"),
        ({"observed": Observed(-1, 0)}, "observed", "out-of-range"),
        ({"observed": Observed(0, report.WINDOW_S_MAX + 1)}, "observed", "out-of-range"),
        ({"observed": Observed(report.TIME_S_MAX, 1)}, "observed", "out-of-range"),
        ({"place": "9q"}, "place", "not-a-place"),
        ({"place": "9q8yyk8y"}, "place", "not-a-place"),
        ({"place_name": ""}, "place_name", "empty"),
        ({"place_name": "x" * 201}, "place_name", "too-long"),
        ({"severity": 4}, "severity", "out-of-range"),
        ({"severity": True}, "severity", "out-of-range"),
        ({"lang": "español"}, "lang", "not-a-language"),
        ({"lang": "es\n"}, "lang", "not-a-language"),
        ({"ttl_s": 0}, "expires", "out-of-range"),
        ({"relations": (("updates", b"short"),)}, "relations", "not-an-id"),
        ({"relations": (("likes", bytes(32)),)}, "relations", "unknown"),
        ({"relations": (("updates", bytes(32)),) * 9}, "relations", "too-many"),
    ],
)
def test_input_out_of_limits_is_refused_under_the_name_of_its_option(
    changes: dict[str, object], field: str, reason: str
) -> None:
    with pytest.raises(InputRefused) as refused:
        report.encode(replace(FULL, **changes), SALT)  # type: ignore[arg-type]
    assert (refused.value.field, refused.value.reason) == (field, reason)


def test_text_is_made_nfc_before_it_is_measured_and_signed() -> None:
    decomposed = unicodedata.normalize("NFD", "ñ" * 100)
    signed = report.decode_untrusted(report.encode(replace(FULL, title=decomposed, tags=("á", "a\u0301")), SALT))
    assert (signed.title, signed.tags) == ("ñ" * 100, ("á",))


def test_text_that_a_peer_did_not_make_nfc_is_kept_as_it_came() -> None:
    assert report.decode_untrusted(payload_of(MAP | {"title": "n\u0303"})).title == "n\u0303"


@pytest.mark.parametrize(
    "bent",
    [
        *({key: value for key, value in MAP.items() if key != missing} for missing in ("v", "cat", "title")),
        *(MAP | {"v": version} for version in (0, 2, True, "1", None)),
        *(MAP | {"cat": slug} for slug in ("", "Shooting", "a b", "x" * 33, "1st", "\x1b[31m", "cat\n", 3, None)),
        *(MAP | {"title": bad} for bad in ("", "x" * 201, "ñ" * 101, b"bytes", 1, None)),
        *(MAP | {"text": text} for text in ("x" * 8193, b"", None, 0)),
        *(
            MAP | {"tags": tags}
            for tags in ([], ["a", "a"], [""], [1], "a", None, {"a": 1}, [["a"]], list("abcdefghijklmnopq"))
        ),
        *(MAP | {"when": when} for when in ([], [1], [1, 2, 3], [-1, 0], [0, -1], [True, 1], ["1", 1], None, 5)),
        *(MAP | {"when": when} for when in ([2**64 - 1, 0], [0, report.WINDOW_S_MAX + 1], [report.TIME_S_MAX, 1])),
        *(MAP | {"cell": cell} for cell in ("", "9q", "9q8yyk8y", "9q8ya", "9Q8YY", b"9q8yy", 7, None)),
        *(MAP | {"place": place} for place in ("", "x" * 201, None, 1)),
        *(MAP | {key: value} for key in ("basis", "state") for value in ("", "Saw!", None, 1)),
        *(MAP | {"sev": severity} for severity in (-1, 4, True, "1", None)),
        *(MAP | {"ttl": ttl} for ttl in (0, -5, report.TTL_S_MAX + 1, "1d", None)),
        *(MAP | {"lang": lang} for lang in ("", "e", "es_MX", "es-", "x" * 36, None, 1)),
        *(
            MAP | {"rel": rel}
            for rel in ([], None, [["updates"]], [["updates", b"x"]], [["UP", bytes(32)]], [[1, bytes(32)]])
        ),
        MAP | {"rel": [["updates", bytes(32)]] * 9},
        [],
        None,
        "report",
    ],
)
def test_a_map_that_breaks_the_schema_is_void(bent: object) -> None:
    with pytest.raises(RemoteProtocolError):
        report.decode_untrusted(payload_of(bent))


def test_keys_and_slugs_of_later_versions_do_not_void_a_report() -> None:
    later = MAP | {"cat": "flood", "basis": "sensor", "state": "paused", "media": [bytes(32)], "x": {"deep": [1]}}
    read = report.decode_untrusted(payload_of(later))
    assert read == replace(FULL, category="flood", basis="sensor", state="paused")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        SALT,
        SALT[:15],
        SALT + b"\xbf\xff",
        SALT + b"\xa1\x01\x02",
        payload_of(MAP) + b"\0",
        payload_of(MAP)[:-1],
        SALT + b"\xa3ccaterumouretitleax" + b"av\x01",
        SALT + b"\xa4av\x01av\x01ccatfrumouretitleax",
        SALT + b"\xa3av\xfb\x3f\xf0\0\0\0\0\0\0ccatfrumouretitleax",
        SALT + b"\xa3av\x18\x01ccatfrumouretitleax",
        SALT + b"\xa4av\x01ax\xc1\x01ccatfrumouretitleax",
        SALT + b"\x9b" + b"\xff" * 8,
        SALT + b"\x81" * 10_000,
        SALT + bytes(PAYLOAD_SIZE_MAX),
    ],
)
def test_bytes_that_are_not_one_deterministic_map_are_void(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        report.decode_untrusted(payload)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=8) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*MAP, "x"]), inner, max_size=9),
    max_leaves=20,
).map(payload_of))  # fmt: skip
def test_any_bytes_are_a_report_or_a_remote_error(payload: bytes) -> None:
    try:
        read = report.decode_untrusted(payload)
    except RemoteProtocolError:
        return
    assert report.decode_untrusted(payload_of(report.fields(read))) == read


@given(st.integers(0), st.integers(0, 255))
def test_a_changed_byte_never_escapes_as_another_exception(position: int, value: int) -> None:
    payload = bytearray(report.encode(FULL, SALT))
    payload[position % len(payload)] = value
    with contextlib.suppress(RemoteProtocolError):
        report.decode_untrusted(bytes(payload))


def test_strings_that_break_programs_pass_byte_for_byte() -> None:
    if not NAUGHTY.is_dir():
        pytest.skip("the shared test data is not beside this checkout")
    strings = json.loads((NAUGHTY / "blns.json").read_text(encoding="utf-8"))
    assert len(strings) > 500
    for string in strings:
        text = unicodedata.normalize("NFC", string)[:2000]
        assert report.decode_untrusted(payload_of(MAP | {"text": text})).text == text


def test_text_that_is_not_utf8_is_void() -> None:
    if not NAUGHTY.is_dir():
        pytest.skip("the shared test data is not beside this checkout")
    for item in json.loads((NAUGHTY / "invalid-utf8.json").read_text(encoding="utf-8"))["hex"]:
        raw = bytes.fromhex(item)
        head = bytes([0x60 + len(raw)]) if len(raw) < 24 else bytes([0x78, len(raw)])
        with pytest.raises(RemoteProtocolError):
            report.decode_untrusted(SALT + b"\xa3av\x01ccatfrumouretitle" + head + raw)


# Times


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("unknown", None),
        ("2010-01-12", Observed(1263254400, 86_400)),
        ("2010-01-12T21:53Z", Observed(1263333180, 900)),
        ("2010-01-12 21:53:00", Observed(1263333180, 900)),
        ("2010-01-12t16:53-05:00", Observed(1263333180, 900)),
        ("2010-01-12T21:53:59.999Z", Observed(1263333239, 900)),
        ("2010-01-12T21:00Z/2010-01-12T22:30Z", Observed(1263330000, 5400)),
        ("2010-01-12T21:00Z/2010-01-12T21:00Z", Observed(1263330000, 0)),
        ("2010-01-12/2010-01-13", Observed(1263254400, 2 * 86_400)),
    ],
)
def test_a_window_is_read_from_the_ways_to_write_one(text: str, window: Observed | None) -> None:
    assert report.parse_observed(text) == window


def test_a_time_without_a_zone_takes_the_one_given() -> None:
    zone = timezone(timedelta(hours=-5))
    assert report.parse_observed("2010-01-12T16:53", zone) == Observed(1263333180, 900)
    assert report.parse_observed("2010-01-12T21:53Z", zone) == Observed(1263333180, 900)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("yesterday", "not-a-time"),
        ("", "not-a-time"),
        ("/", "not-a-time"),
        ("2010-13-01", "not-a-time"),
        ("2010-01-12T25:00", "not-a-time"),
        ("12/01/2010", "not-a-time"),
        ("2010-01-12/", "not-a-time"),
        ("1969-12-31", "out-of-range"),
        ("0001-01-01T00:00+14:00", "out-of-range"),
        ("2010-01-13/2010-01-11", "ends-before-it-starts"),
        ("1263333180", "not-a-time"),
        ("٢٠١٠-01-12", "not-a-time"),
    ],
)
def test_what_is_no_window_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputRefused) as refused:
        report.parse_observed(text)
    assert (refused.value.field, refused.value.reason) == ("observed", reason)


@given(st.text(max_size=40))
def test_any_text_is_a_window_or_refused(text: str) -> None:
    with contextlib.suppress(InputRefused):
        report.parse_observed(text)


@given(st.integers(0, report.TIME_S_MAX - 86_400))
def test_a_printed_time_is_read_back_to_the_second(time_s: int) -> None:
    assert report.parse_time(report.rfc3339(time_s), "since", UTC) == Observed(time_s, 0)


def test_times_after_the_year_9999_still_print() -> None:
    assert report.rfc3339((2**32 - 1) * 900) == "9999-12-31T23:59:59Z"
    assert report.rfc3339(0) == "1970-01-01T00:00:00Z"


@given(st.integers(1, report.TTL_S_MAX))
def test_a_duration_is_printed_as_it_is_read(seconds: int) -> None:
    assert report.parse_duration(report.duration_text(seconds), "expires") == seconds


def test_durations_are_whole_numbers_of_a_unit() -> None:
    assert [report.parse_duration(text, "expires") for text in ("90s", "15m", "24h", "7d", "2W")] == [
        90,
        900,
        86_400,
        604_800,
        1_209_600,
    ]
    for text in ("", "7", "d", "1.5h", "-1d", "1y", "9999999999s", "١d"):
        with pytest.raises(InputRefused):
            report.parse_duration(text, "expires")
