"""Geohash: the grid is the published one, a place is its cell, people's ways of naming one are read."""

import contextlib
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import geohash
from protocol.errors import InputRefused

LATS = st.floats(-90, 90)
LONS = st.floats(-180, 180)
PRECISIONS = st.integers(1, 7)


@pytest.mark.parametrize(
    ("lat", "lon", "cell"),
    [
        (57.64911, 10.40744, "u4pruyd"),  # the example of the page that first described geohashes
        (42.6, -5.6, "ezs42"),
        (0.0, 0.0, "s000000"),
        (-90.0, -180.0, "0000000"),
        (90.0, 180.0, "zzzzzzz"),
        (-25.382708, -49.265506, "6gkzwgj"),
    ],
)
def test_the_grid_is_the_published_one(lat: float, lon: float, cell: str) -> None:
    assert geohash.encode(lat, lon, len(cell)) == cell


@given(LATS, LONS, PRECISIONS)
def test_a_position_lies_in_its_cell(lat: float, lon: float, precision: int) -> None:
    south, west, north, east = geohash.bounds(geohash.encode(lat, lon, precision))
    assert south <= lat <= north
    assert west <= lon <= east


@given(LATS, LONS, st.integers(2, 7))
def test_a_coarser_cell_contains_the_finer_one(lat: float, lon: float, precision: int) -> None:
    assert geohash.encode(lat, lon, precision)[:-1] == geohash.encode(lat, lon, precision - 1)


@given(st.text(geohash.ALPHABET, min_size=3, max_size=7))
def test_the_middle_of_a_cell_gives_the_cell_back(cell: str) -> None:
    south, west, north, east = geohash.bounds(cell)
    assert geohash.encode((south + north) / 2, (west + east) / 2, len(cell)) == cell
    assert geohash.is_cell(cell)


def test_a_hundred_reports_from_one_house_say_one_cell() -> None:
    draw = random.Random(1)
    said = {
        geohash.encode(18.5401 + draw.uniform(-1e-4, 1e-4), -72.3301 + draw.uniform(-1e-4, 1e-4)) for _ in range(100)
    }
    assert len(said) == 1


@pytest.mark.parametrize("text", ["", "9q", "9q8yyk8y", "9q8ya", "9q8yi", "9Q8YY", "9q8y\n", "９q8yy"])
def test_what_is_not_a_cell_of_three_to_seven_characters_is_none(text: str) -> None:
    assert not geohash.is_cell(text)


def test_a_cell_at_the_equator_has_the_published_size() -> None:
    width, height = geohash.size_km("s0000")
    assert (width, height) == pytest.approx((4.89, 4.89), abs=0.01)


@given(
    st.text(geohash.ALPHABET, min_size=1, max_size=7),
    LATS,
    LONS,
    st.floats(0.1, 15_000),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_circle_that_holds_a_point_of_a_cell_touches_it(
    cell: str, lat: float, lon: float, radius_km: float, up: float, across: float
) -> None:
    south, west, north, east = geohash.bounds(cell)
    point = south + (north - south) * up, west + (east - west) * across
    if geohash.distance_km(lat, lon, *point) <= radius_km:
        assert geohash.touches_circle(cell, lat, lon, radius_km + 1e-6)


@given(st.text(geohash.ALPHABET, min_size=1, max_size=3), LATS, LONS, st.floats(0.1, 15_000))
def test_a_circle_touches_a_cell_only_if_it_reaches_its_rim_or_lies_inside(
    cell: str, lat: float, lon: float, radius_km: float
) -> None:
    south, west, north, east = geohash.bounds(cell)
    steps = [step / 64 for step in range(65)]
    rim = [(side, west + (east - west) * step) for side in (south, north) for step in steps]
    rim += [(south + (north - south) * step, side) for side in (west, east) for step in steps]
    nearest = min(geohash.distance_km(lat, lon, *point) for point in rim)
    gap = max(geohash.size_km(cell)[1], (east - west) * 111.2) / 64
    inside = south <= lat <= north and west <= lon <= east
    if nearest > radius_km + gap and not inside:
        assert not geohash.touches_circle(cell, lat, lon, radius_km)


def test_a_circle_reaches_across_the_date_line_and_over_the_pole() -> None:
    assert geohash.touches_circle(geohash.encode(0, -179.99), 0.0, 179.99, 5)
    assert not geohash.touches_circle(geohash.encode(0, -179), 0.0, 179.99, 5)
    assert geohash.touches_circle(geohash.encode(89.99, 0), 89.99, 180.0, 5)


@pytest.mark.parametrize(
    ("text", "precision", "cell"),
    [
        ("18.54,-72.33", None, "d7k96"),
        ("-12.05, -77.04", None, "6mc5q"),
        ("+18.54,-72.33", 7, "d7k96p4"),
        ("9q8yy", None, "9q8yy"),
        ("9Q8YYK", None, "9q8yyk"),
        ("9q8yyk", 4, "9q8y"),
        ("9q8yy", 7, "9q8yy"),
        ("9q8yyk8ytpxr", None, "9q8yy"),
        ("9q8yyk8ytpxr", 6, "9q8yyk"),
        ("geohash:sur", None, "sur"),
        ("GEOHASH:puente", None, "puente"),
    ],
)
def test_a_place_is_read_in_every_way_that_people_name_one(text: str, precision: int | None, cell: str) -> None:
    assert geohash.parse_place(text, precision) == cell


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sur", "may-be-a-word"),
        ("este", "may-be-a-word"),
        ("puente", "may-be-a-word"),
        ("9q", "too-coarse"),
        ("norte grande", "not-a-place"),
        ("", "not-a-place"),
        ("geohash:", "not-a-place"),
        ("9q8ya", "not-a-place"),
        ("91,0", "out-of-range"),
        ("0,-181", "out-of-range"),
        ("nan,0", "not-a-position"),
        ("0,inf", "not-a-position"),
        ("1e308,0", "not-a-position"),
        ("1,2,3", "not-a-position"),
        (",", "not-a-position"),
        ("١,٢", "not-a-position"),
        ("0x1,0", "not-a-position"),
        ("1_0,0", "not-a-position"),
    ],
)
def test_what_names_no_place_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InputRefused) as refused:
        geohash.parse_place(text)
    assert (refused.value.field, refused.value.reason) == ("place", reason)


def test_a_program_may_name_a_cell_that_is_a_word() -> None:
    assert geohash.parse_place("puente", typed=False) == "puente"


@given(st.text(max_size=30))
def test_any_text_is_a_cell_or_refused(text: str) -> None:
    with contextlib.suppress(InputRefused):
        assert geohash.is_cell(geohash.parse_place(text))


@pytest.mark.parametrize("value", [2, 8, "2", "5.0", "", True, 5.0, None])
def test_a_precision_is_a_whole_number_from_three_to_seven(value: object) -> None:
    with pytest.raises(InputRefused):
        geohash.parse_precision(value)
    assert [geohash.parse_precision(good) for good in (3, "7")] == [3, 7]


def test_distances_agree_with_a_known_one() -> None:
    assert geohash.distance_km(0, 0, 0, 180) == pytest.approx(math.pi * geohash.EARTH_RADIUS_KM)
    assert geohash.distance_km(19.43, -99.13, 18.54, -72.34) == pytest.approx(2822, rel=0.005)
