"""Importing: every record is published as it stood or refused with its reason, and no file breaks the reader."""

import csv
import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.importing import (
    Record,
    Refused,
    guess_format,
    jsonl,
    parse_timezone,
    report_of,
    ushahidi,
)
from p2pnode.importing.lines import RECORD_SIZE_MAX
from protocol import board, geohash, report
from protocol.errors import InputRefused
from protocol.report import Observed, Report

SHARED = Path(__file__).parents[3] / "shared" / "data"
HAITI = SHARED / "reports" / "haiti-2010-ushahidi.csv"
DEMO = Path(__file__).parents[2] / "p2pnode" / "demo_reports.jsonl"

COLUMNS = ["Serial", "INCIDENT TITLE", "INCIDENT DATE", "LOCATION", "DESCRIPTION", "CATEGORY"]
COLUMNS += ["LATITUDE", "LONGITUDE", "APPROVED", "VERIFIED"]
ROW = {
    "Serial": "7",
    "INCIDENT TITLE": "Puente cerrado",
    "INCIDENT DATE": "12/01/2010 16:53",
    "LOCATION": "Vado",
    "DESCRIPTION": "No hay paso.",
    "CATEGORY": "5c. Route barree | Road blocked, 2a. Penurie d'aliments | Food Shortage, ",
    "LATITUDE": "18.54",
    "LONGITUDE": "-72.33",
    "APPROVED": "YES",
    "VERIFIED": "NO",
}


def table(*rows: dict[str, str], columns: list[str] = COLUMNS) -> io.BytesIO:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\r\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return io.BytesIO(text.getvalue().encode())


def incident(**changes: str) -> Record:
    [record] = ushahidi(table(ROW | {key.replace("_", " ").upper(): value for key, value in changes.items()}))
    assert isinstance(record, Record), record
    return record


def refusals(file: io.BytesIO) -> list[Refused]:
    return [item for item in ushahidi(file) if isinstance(item, Refused)]


def lines(*objects: object) -> io.BytesIO:
    return io.BytesIO("".join(json.dumps(item) + "\n" for item in objects).encode())


# The real file


@pytest.fixture(scope="module")
def haiti() -> list[Record | Refused]:
    if not HAITI.is_file():
        pytest.skip("the shared test data is not beside this checkout")
    with HAITI.open("rb") as file:
        return list(ushahidi(file, parse_timezone("America/Port-au-Prince")))


def haiti_rows() -> Iterator[dict[str, str]]:
    with HAITI.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def test_every_report_from_haiti_is_read_and_every_text_stays_as_it_was(haiti: list[Record | Refused]) -> None:
    assert len(haiti) == 3593
    for row, record in zip(haiti_rows(), haiti, strict=True):
        assert isinstance(record, Record)
        same = (record.report.title, record.report.text, record.report.place_name) == (
            row["INCIDENT TITLE"],
            row["DESCRIPTION"],
            row["LOCATION"],
        )
        assert same, f"line {record.line} differs"  # never print a text of a real person
        assert set(record.report.tags) >= {part.strip() for part in row["CATEGORY"].split(",") if part.strip()}
        payload = report.encode(record.report, bytes(16))
        assert report.decode_untrusted(payload) == record.report


def test_somebody_elses_verification_is_a_tag_and_never_a_status(haiti: list[Any]) -> None:
    assert sum("ushahidi:verified" in record.report.tags for record in haiti) == 216
    listed = [board.Listed(0, record.mark * 2, bytes(32), bytes(32), 1, 0, record.report) for record in haiti]
    assert {board.view(item, "x")["status"] for item in listed} == {"UNCONFIRMED"}


def test_the_three_positions_outside_haiti_are_flagged(haiti: list[Any]) -> None:
    flagged = [record for record in haiti if "place-outlier" in record.warnings]
    assert len(flagged) == 3
    assert all("ushahidi:outlier" in record.report.tags for record in flagged)


def test_six_reports_from_haiti_have_no_category_and_become_other(haiti: list[Any]) -> None:
    bare = [record for record in haiti if "category-missing" in record.warnings]
    assert [record.report.category for record in bare] == ["other"] * 6
    assert {warning for record in haiti for warning in record.warnings} == {"category-missing", "place-outlier"}


def test_every_report_from_haiti_has_a_mark_of_its_own_that_does_not_depend_on_the_precision(haiti: list[Any]) -> None:
    with HAITI.open("rb") as file:
        again = [item.mark for item in ushahidi(file, UTC, 3) if isinstance(item, Record)]
    assert [record.mark for record in haiti] == again
    assert len(set(again)) == 3593


def test_what_is_listed_is_imported_as_the_same_reports(haiti: list[Any]) -> None:
    views = [
        board.view(board.Listed(0, number.to_bytes(32, "big"), bytes(32), bytes(32), 1, 0, record.report), "x")
        for number, record in enumerate(haiti)
    ]
    for file in (
        lines(*views),
        io.BytesIO(json.dumps(views).encode()),
        io.BytesIO(json.dumps(views, indent=2).encode()),
    ):
        assert [item.report for item in jsonl(file) if isinstance(item, Record)] == [item.report for item in haiti]


# Ushahidi


def test_a_row_becomes_a_report() -> None:
    record = incident()
    assert record == Record(
        line=2,
        mark=record.mark,
        report=Report(
            category="roadblock",
            title="Puente cerrado",
            text="No hay paso.",
            tags=("5c. Route barree | Road blocked", "2a. Penurie d'aliments | Food Shortage"),
            observed=Observed(1263315180, 900),
            place="d7k96",
            place_name="Vado",
            basis="public-channel",
        ),
    )


def test_dates_are_read_in_the_zone_that_was_named() -> None:
    for name, start_s in (("UTC", 1263315180), ("-05:00", 1263333180), ("America/Port-au-Prince", 1263333180)):
        [record] = ushahidi(table(ROW), parse_timezone(name))
        assert isinstance(record, Record)
        assert record.report.observed == Observed(start_s, 900)


def test_the_exact_position_leaves_no_trace() -> None:
    here, there = incident(latitude="18.543210", longitude="-72.301234"), incident(latitude="18.51", longitude="-72.33")
    assert here == there
    assert "543210" not in repr(here)


def test_a_title_and_a_place_that_are_too_long_are_kept_whole_at_the_head_of_the_text() -> None:
    title, place = "ñ" * 150, "Calle " * 50
    record = incident(incident_title=title, location=place)
    assert record.report.title == "ñ" * 98 + "…"
    assert record.report.place_name == place[:197] + "…"
    assert record.report.text == f"{title}\n\n{place}\n\nNo hay paso."
    assert set(record.warnings) == {"title-shortened", "place-name-shortened"}


def test_a_category_that_is_too_long_for_a_tag_loses_its_number_and_then_its_end() -> None:
    short, long = "12b. " + "á" * 39, "9. " + "á" * 60
    record = incident(category=f"{short},{long}")
    assert record.report.tags == ("á" * 39, "á" * 38 + "…")
    assert set(record.warnings) == {"category-unknown", "tag-shortened"}


def test_too_many_categories_are_cut_but_the_marks_stay() -> None:
    record = incident(category=",".join(f"c{number}" for number in range(30)), verified="YES", approved="NO")
    assert record.report.tags[:3] == ("ushahidi:verified", "ushahidi:not-approved", "c0")
    assert len(record.report.tags) == 16
    assert "tags-dropped" in record.warnings


def test_a_missing_title_is_taken_from_the_text() -> None:
    record = incident(incident_title="  ", description="\n Humo en el cerro \nNada más")
    assert (record.report.title, record.report.text) == ("Humo en el cerro", "\n Humo en el cerro \nNada más")


def test_line_ends_and_tabs_inside_a_text_are_kept_and_lines_are_counted() -> None:
    first, second = ushahidi(table(ROW | {"DESCRIPTION": "a\n\tb\r\nc"}, ROW | {"Serial": "8"}))
    assert isinstance(first, Record)
    assert first.report.text == "a\n\tb\r\nc"
    assert (first.line, second.line) == (2, 5)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"LATITUDE": "nan"}, "not-a-position", "latitude"),
        ({"LATITUDE": "inf"}, "not-a-position", "latitude"),
        ({"LONGITUDE": "1e308"}, "not-a-position", "longitude"),
        ({"LATITUDE": "91"}, "out-of-range", "latitude"),
        ({"LONGITUDE": "-181"}, "out-of-range", "longitude"),
        ({"LATITUDE": ""}, "not-a-position", "latitude"),
        ({"INCIDENT DATE": "2010-01-12"}, "not-a-time", "incident date"),
        ({"INCIDENT DATE": "31/02/2010 10:00"}, "not-a-time", "incident date"),
        ({"INCIDENT DATE": "12/01/1910 10:00"}, "out-of-range", "observed"),
        ({"INCIDENT DATE": "12/01/0001 00:00"}, "out-of-range", "observed"),
        ({"DESCRIPTION": "x" * 8193}, "too-long", "text"),
        ({"DESCRIPTION": "x" * (RECORD_SIZE_MAX + 9)}, "too-long", ""),
        ({"DESCRIPTION": "x\n" * RECORD_SIZE_MAX}, "too-long", ""),
        ({"DESCRIPTION": "a\0b"}, "nul", ""),
        ({"INCIDENT TITLE": " ", "DESCRIPTION": ""}, "empty", "title"),
    ],
)
def test_a_row_that_cannot_be_published_is_refused_and_the_next_one_is_read(
    changes: dict[str, str], reason: str, field: str
) -> None:
    bad, good = ushahidi(table(ROW | changes, ROW))
    assert bad == Refused(2, reason, field)
    assert isinstance(good, Record)


def test_a_row_without_a_position_has_no_place() -> None:
    record = incident(latitude=" ", longitude="")
    assert (record.report.place, record.warnings) == (None, ("place-missing",))


def test_rows_that_are_not_csv_or_not_utf8_or_of_the_wrong_width_are_refused_alone() -> None:
    good = table(ROW).getvalue().splitlines(keepends=True)[1]
    broken = [b'"a"b,c\r\n', b"\xff\xfe,1\r\n", b'"two\n\xe9 lines",1\n', b"1,2,3\r\n", b"\r\n"]
    items = list(ushahidi(io.BytesIO(table().getvalue() + b"".join(line + good for line in broken))))
    assert [(item.line, item.reason) for item in items if isinstance(item, Refused)] == [
        (2, "not-csv"),
        (4, "not-utf8"),
        (6, "not-utf8"),
        (9, "columns"),
    ]
    assert sum(isinstance(item, Record) for item in items) == 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\r\n\r\n", "empty"),
        (b"a,b,c\r\n1,2,3\r\n", "columns"),
        (b"\xff\xfeS\0e\0", "nul"),
        (b"\x89PNG\r\n\x1a\n", "not-utf8"),
        (b"x" * (RECORD_SIZE_MAX + 1), "too-long"),
        (table(columns=[*COLUMNS, "latitude"]).getvalue(), "columns"),
        (table(ROW).getvalue() + b'"never closed\r\n1,2\r\n', "quote-not-closed"),
        (table(ROW).getvalue() + b'"never closed' + b"x\n" * RECORD_SIZE_MAX, "quote-not-closed"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused_before_its_first_record(data: bytes, reason: str) -> None:
    with pytest.raises(InputRefused) as refused:
        next(iter(ushahidi(io.BytesIO(data))))
    assert (refused.value.field, refused.value.reason) == ("file", reason)


def test_columns_may_come_in_any_order_after_a_byte_order_mark() -> None:
    file = io.BytesIO(b"\xef\xbb\xbf" + table(ROW, columns=["VERIFIED", *reversed(COLUMNS[:-1])]).getvalue())
    [record] = ushahidi(file)
    assert record == incident()


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_a_pipe_is_read_once_and_without_a_look_at_outliers() -> None:
    rows = [ROW | {"Serial": str(number)} for number in range(20)] + [ROW | {"LATITUDE": "-40"}]
    assert [item.warnings for item in ushahidi(table(*rows)) if isinstance(item, Record)][-1] == ("place-outlier",)
    assert all(isinstance(item, Record) and not item.warnings for item in ushahidi(Pipe(table(*rows).getvalue())))


class Bomb(io.RawIOBase):
    """A table whose first field never seems to end."""

    def __init__(self, size: int) -> None:
        self._head, self._left = table().getvalue(), size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._head[: len(buffer)] or b"x" * min(len(buffer), self._left)
        self._head, self._left = self._head[len(piece) :], self._left - len(piece) * (not self._head)
        buffer[: len(piece)] = piece
        return len(piece)


def test_a_field_of_any_length_is_never_held() -> None:
    tracemalloc.start()
    items = list(ushahidi(io.BufferedReader(Bomb(20_000_000))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert items == [Refused(2, "too-long")]
    assert peak < 2_000_000


@settings(max_examples=60)
@given(st.binary(max_size=60), st.integers(0, 10_000), st.booleans())
def test_any_damage_to_a_file_is_a_refusal(junk: bytes, position: int, overwrite: bool) -> None:
    whole = table(*[ROW | {"Serial": str(number), "DESCRIPTION": 'a "b"\nc'} for number in range(4)]).getvalue()
    at = position % len(whole)
    for reader, data in (
        (ushahidi, whole),
        (jsonl, lines(GIVEN, GIVEN).getvalue()),
        (jsonl, json.dumps([GIVEN] * 3).encode()),
    ):
        damaged = data[:at] + junk + data[at + len(junk) * overwrite :]
        try:
            for item in reader(io.BytesIO(damaged)):
                assert isinstance(item, Record | Refused)
        except InputRefused:
            pass


# JSON

GIVEN: dict[str, object] = {"category": "convoy", "title": "Camionetas"}
PLAIN = Report("convoy", "Camionetas")


def test_an_object_a_line_and_an_array_are_read_alike() -> None:
    objects = [GIVEN | {"id": number} for number in range(3)]
    by_line = list(jsonl(lines(*objects)))
    for data in (json.dumps(objects), "\ufeff \n" + json.dumps(objects, indent=3), " [ ] "):
        read = list(jsonl(io.BytesIO(data.encode())))
        assert [replace(item, line=0) for item in read] == [replace(item, line=0) for item in by_line[: len(read)]]
    assert [item.line for item in by_line] == [1, 2, 3]


def test_blank_lines_are_counted_but_not_reported() -> None:
    data = b"\xef\xbb\xbf\n \r\n" + lines(GIVEN).getvalue() + b"\n\r\n" + lines(GIVEN).getvalue().rstrip()
    assert [item.line for item in jsonl(io.BytesIO(data))] == [3, 6]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"place": "18.54,-72.33"}, {"place": "d7k96"}),
        ({"place": "18.54,-72.33", "precision": 3}, {"place": "d7k"}),
        ({"place": "9q8yyk8"}, {"place": "9q8yyk8"}),
        ({"place": "puente"}, {"place": "puente"}),
        ({"observed": "unknown"}, {}),
        ({"observed": "2010-01-12T21:53Z"}, {"observed": Observed(1263333180, 900)}),
        (
            {"observed": {"from": "2010-01-12T21:53:00Z", "to": "2010-01-12T21:54:00Z"}},
            {"observed": Observed(1263333180, 60)},
        ),
        ({"tag": "a"}, {"tags": ("a",)}),
        ({"tag": ["a"], "tags": ["b", "a"]}, {"tags": ("a", "b")}),
        ({"place-name": "Vado"}, {"place_name": "Vado"}),
        (
            {"severity": 0, "state": "ended", "basis": "saw", "lang": "es"},
            {"severity": 0, "state": "ended", "basis": "saw", "lang": "es"},
        ),
        ({"severity": "2"}, {"severity": 2}),
        ({"expires": "7d"}, {"ttl_s": 604_800}),
        ({"updates": "AB" * 32}, {"relations": (("updates", b"\xab" * 32),)}),
        ({"place": None, "observed": None, "tags": [], "flags": [], "counts": {}}, {}),
        ({"status": "VERIFIED", "author": {"name": "x", "key": "y"}, "filed": "2010-01-01T00:00:00Z"}, {}),
    ],
)
def test_keys_of_the_json_and_names_of_the_options_are_read(given: dict[str, object], expected: dict[str, Any]) -> None:
    [record] = jsonl(lines(GIVEN | given))
    assert isinstance(record, Record)
    assert record.report == replace(PLAIN, **expected)


@pytest.mark.parametrize(
    ("line", "reason", "field"),
    [
        (b"{", "not-json", ""),
        (b'{"category":"convoy","title":"a"} x', "not-json", ""),
        (b"7", "not-an-object", ""),
        (b'"text"', "not-an-object", ""),
        (b"{" * 100_000, "not-json", ""),
        (b'{"a":' * 20_000, "not-json", ""),
        (b'{"severity":NaN}', "not-json", ""),
        (b'{"n":' + b"9" * 5000 + b"}", "not-json", ""),
        (b'{"category":"convoy","title":"a","title":"b"}', "duplicate-key", ""),
        (b'{"category":"convoy","title":"a","x":{"y":1,"y":2}}', "duplicate-key", ""),
        (b'{"title":"\xff"}', "not-utf8", ""),
        (b'{"title":"a\0b"}', "nul", ""),
        (b'{"title":"' + b"x" * RECORD_SIZE_MAX + b'"}', "too-long", ""),
        (b"{}", "missing", "category"),
        (b'{"category":"convoy"}', "missing", "title"),
        (b'{"category":"gossip","title":"a"}', "unknown", "category"),
        (b'{"category":"convoy","title":"\\ud800"}', "not-text", "title"),
        (b'{"category":"convoy","title":5}', "not-text", "title"),
        (b'{"category":"convoy","title":"a","severity":1.0}', "not-a-number", "severity"),
        (b'{"category":"convoy","title":"a","severity":true}', "not-a-number", "severity"),
        (b'{"category":"convoy","title":"a","severity":9}', "out-of-range", "severity"),
        (b'{"category":"convoy","title":"a","place":"1e308,0"}', "not-a-position", "place"),
        (b'{"category":"convoy","title":"a","place":[1,2]}', "not-text", "place"),
        (b'{"category":"convoy","title":"a","precision":9}', "out-of-range", "precision"),
        (b'{"category":"convoy","title":"a","observed":{"from":"2010-01-01"}}', "not-a-time", "observed"),
        (b'{"category":"convoy","title":"a","observed":5}', "not-a-time", "observed"),
        (b'{"category":"convoy","title":"a","tags":[1]}', "not-text", "tags"),
        (b'{"category":"convoy","title":"a","updates":"12ab"}', "not-an-id", "updates"),
        (b'{"category":"convoy","title":"a","relations":[{"kind":"updates"}]}', "not-an-id", "relations"),
        (b'{"category":"convoy","title":"a","expires":"soon"}', "not-a-duration", "expires"),
        (b'{"category":"convoy","title":"a","id":[1]}', "not-text", "id"),
    ],
)
def test_a_line_that_cannot_be_published_is_refused_and_the_next_one_is_read(
    line: bytes, reason: str, field: str
) -> None:
    first, bad, good = jsonl(io.BytesIO(lines(GIVEN).getvalue() + line + b"\n" + lines(GIVEN).getvalue()))
    assert bad == Refused(2, reason, field)
    assert isinstance(first, Record)
    assert isinstance(good, Record)


def test_objects_of_an_array_are_refused_by_their_number() -> None:
    text = '[{"category":"convoy","title":"a"}, 7, {"a":1,"a":2}, {}]'
    assert list(jsonl(io.BytesIO(text.encode())))[1:] == [
        Refused(2, "not-an-object"),
        Refused(3, "duplicate-key"),
        Refused(4, "missing", "category"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[{}",
        "[{},",
        "[{},]",
        "[{}{}]",
        "[{} x]",
        "[]]",
        "[{}]\n[{}]",
        "[,{}]",
        "[" * 50_000,
        '[{"a":"' + "x" * 300_000,
    ],
)
def test_an_array_that_is_not_whole_is_refused_as_a_file(text: str) -> None:
    with pytest.raises(InputRefused) as refused:
        list(jsonl(io.BytesIO(text.encode())))
    assert refused.value.field == "file"


def test_an_array_is_read_in_pieces_that_end_anywhere() -> None:
    objects = [GIVEN | {"text": "ñ€𝄞" * draw} for draw in random.Random(3).choices(range(400), k=300)]
    records = list(jsonl(io.BytesIO(json.dumps(objects, ensure_ascii=False).encode())))
    assert [record.report.text for record in records if isinstance(record, Record)] == [
        item["text"] for item in objects
    ]


def test_the_mark_is_made_of_the_id_or_else_of_what_is_said() -> None:
    named, renamed, bare, other, same = jsonl(
        lines(
            GIVEN | {"id": "a"},
            GIVEN | {"id": "a", "title": "corrected"},
            GIVEN,
            GIVEN | {"title": "else"},
            {"status": "VERIFIED"} | GIVEN,
        )
    )
    assert isinstance(named, Record)
    marks = [item.mark for item in (named, renamed, bare, other, same) if isinstance(item, Record)]
    assert marks[0] == marks[1]
    assert marks[2] == marks[4]
    assert len(set(marks)) == 3
    assert {len(mark) for mark in marks} == {16}


def test_a_key_nobody_knows_and_a_cell_that_may_be_a_word_are_remarked_upon() -> None:
    [record] = jsonl(lines(GIVEN | {"severty": 3, "place": "sur"}))
    assert isinstance(record, Record)
    assert record.warnings == ("unknown-key", "place-may-be-a-word")


def test_what_a_person_types_is_read_by_the_same_rules_but_no_word_becomes_a_place() -> None:
    assert report_of(GIVEN | {"place": "geohash:sur"}) == (replace(PLAIN, place="sur"), [])
    with pytest.raises(InputRefused):
        report_of(GIVEN | {"place": "sur"})


# Around the readers


def test_the_demo_reads_without_a_remark() -> None:
    with DEMO.open("rb") as file:
        records = list(jsonl(file))
    assert len(records) == 400
    assert all(isinstance(record, Record) and not record.warnings for record in records)
    assert len({record.report.category for record in records if isinstance(record, Record)}) == len(report.CATEGORIES)
    assert len({record.mark for record in records if isinstance(record, Record)}) == 400


def test_a_format_is_guessed_by_the_first_byte_that_is_not_blank() -> None:
    heads = {b'{"a"': "jsonl", b"\xef\xbb\xbf\n [": "jsonl", b"Serial,": "ushahidi", b"": "ushahidi"}
    assert {head: guess_format(head) for head in heads} == heads


def test_time_zones_are_names_or_offsets() -> None:
    assert parse_timezone("utc") is UTC
    assert parse_timezone("-05:30") == timezone(-timedelta(hours=5, minutes=30))
    assert parse_timezone("+0100") == timezone(timedelta(hours=1))
    for text in ("", "Nowhere/Town", "../../etc/passwd", "/etc/localtime", "+99:00", "America", "\0", "x" * 5000):
        with pytest.raises(InputRefused):
            parse_timezone(text)


def test_places_on_the_grid_survive_the_round_trip_at_every_precision() -> None:
    for precision in range(3, 8):
        cell = geohash.encode(18.54, -72.33, precision)
        [record] = jsonl(lines(GIVEN | {"place": cell}))
        assert isinstance(record, Record)
        assert record.report.place == cell
