"""Board: one list on every node, whatever the order in which its entries came."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import board
from protocol.board import Filter, Listed
from protocol.report import Observed, Report

NOW = 1_800_000_000
DAY = 86_400
SAID = Report("shooting", "Balazos", tags=("noche",), observed=Observed(NOW - 1000, 600), place="9q8yy")


def entry(number: int, filed_s: int = NOW, lamport: int = 1, said: Report = SAID) -> Listed:
    return Listed(0, bytes([number]) * 32, bytes(32), bytes([9]) * 32, lamport, filed_s, said)


ENTRIES = st.lists(
    st.builds(entry, st.integers(0, 255), st.integers(NOW - 5, NOW + 2 * DAY), st.integers(1, 3)),
    unique_by=lambda listed: listed.id,
    max_size=30,
)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_give_the_same_list(entries: list[Listed], draw: random.Random) -> None:
    again = entries + draw.choices(entries, k=5) if entries else []
    draw.shuffle(again)
    assert board.listing(again, Filter(), NOW) == board.listing(entries, Filter(), NOW)


def test_the_newest_comes_first_then_the_higher_lamport_then_the_lower_id() -> None:
    expected = [entry(5, NOW), entry(9, NOW - 1, 7), entry(1, NOW - 1, 3), entry(2, NOW - 1, 3)]
    assert board.listing(reversed(expected), Filter(), NOW) == expected


def test_what_claims_to_come_from_the_day_after_tomorrow_is_listed_last() -> None:
    honest, ahead, pinned = entry(1, NOW - 10 * DAY), entry(2, NOW + DAY), entry(3, NOW + DAY + 1)
    assert board.listing([pinned, honest, ahead], Filter(), NOW) == [ahead, honest, pinned]


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (Filter(), True),
        (Filter(category="shooting"), True),
        (Filter(category="convoy"), False),
        (Filter(tag="noche"), True),
        (Filter(tag="noch"), False),
        (Filter(status="UNCONFIRMED"), True),
        (Filter(status="VERIFIED"), False),
        (Filter(since=NOW - 400), True),
        (Filter(since=NOW - 399), False),
        (Filter(until=NOW - 1000), True),
        (Filter(until=NOW - 1001), False),
        (Filter(since=NOW - 700, until=NOW - 650), True),
        (Filter(near=(37.77, -122.42), radius_km=10), True),
        (Filter(near=(19.43, -99.13), radius_km=10), False),
        (Filter(category="shooting", tag="other"), False),
    ],
)
def test_a_filter_passes_what_meets_all_of_it(wanted: Filter, passes: bool) -> None:
    assert wanted.matches(entry(1)) is passes


def test_a_report_of_unknown_time_counts_when_it_was_filed() -> None:
    undated = entry(1, NOW, said=replace(SAID, observed=None))
    assert Filter(since=NOW, until=NOW).matches(undated)
    assert not Filter(since=NOW + 1).matches(undated)


def test_a_report_without_a_place_is_near_nothing() -> None:
    assert not Filter(near=(0.0, 0.0), radius_km=20_000).matches(entry(1, said=replace(SAID, place=None)))


def test_a_report_reads_as_the_documented_json() -> None:
    said = replace(SAID, relations=(("updates", bytes([3]) * 32),), ttl_s=DAY, severity=0)
    shown = board.view(entry(1, said=said), "Ocelote Azul")
    assert json.loads(json.dumps(shown)) == {
        "id": "01" * 32,
        "space": "00" * 32,
        "category": "shooting",
        "title": "Balazos",
        "text": "",
        "place": "9q8yy",
        "place_name": None,
        "observed": {"from": "2027-01-15T07:43:20Z", "to": "2027-01-15T07:53:20Z"},
        "filed": "2027-01-15T08:00:00Z",
        "author": {"name": "Ocelote Azul", "key": "09" * 32},
        "tags": ["noche"],
        "basis": "unknown",
        "severity": 0,
        "state": "unknown",
        "lang": None,
        "relations": [{"kind": "updates", "id": "03" * 32}],
        "expires": "1d",
        "status": "UNCONFIRMED",
        "flags": [],
        "counts": {},
    }


def test_a_window_that_nobody_knows_reads_null() -> None:
    assert board.view(entry(1, said=replace(SAID, observed=None)), "x")["observed"] is None
