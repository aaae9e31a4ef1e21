"""Geohash: places as cells of a fixed grid, the only form in which a place exists once it has been read.

A cell is named by letters and digits; every further one cuts it into 32. A place is snapped to its cell and never
jittered: 25 jittered reports average back to the house, while a cell stays the same cell however often it is said.
Reports carry 3 to 7 characters: 156 km down to 150 m. Nothing finer can be represented above this module.

Halving the globe again and again meets only numbers that a float holds exactly, so every machine draws the same grid.
"""

import math
import re

from protocol.errors import InputRefused

ALPHABET = "0123456789bcdefghjkmnpqrstuvwxyz"
PRECISION_MIN = 3
PRECISION_MAX = 7
PRECISION_DEFAULT = 5  # 4.9 km: near the reporter; 6 is for a public place
EARTH_RADIUS_KM = 6371.0

_VALUE = {letter: value for value, letter in enumerate(ALPHABET)}
_CELL = re.compile(f"[{ALPHABET}]{{{PRECISION_MIN},{PRECISION_MAX}}}")
_GEOHASH = re.compile(f"[{ALPHABET}]{{1,24}}")
_DEGREES = re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{0,32})?")
_PREFIX = "geohash:"


def is_cell(text: str) -> bool:
    """Whether a report may carry this text as its place."""
    return _CELL.fullmatch(text) is not None


def encode(lat: float, lon: float, precision: int = PRECISION_DEFAULT) -> str:
    """The cell of `precision` characters around a position in degrees."""
    assert -90 <= lat <= 90
    assert -180 <= lon <= 180
    low, high = [-180.0, -90.0], [180.0, 90.0]  # longitude goes first and takes every second bit
    position = lon, lat
    bits = 0
    for step in range(5 * precision):
        axis = step & 1
        middle = (low[axis] + high[axis]) / 2
        upper = position[axis] >= middle
        (low if upper else high)[axis] = middle
        bits = bits << 1 | upper
    return "".join(ALPHABET[bits >> 5 * place & 31] for place in reversed(range(precision)))


def bounds(cell: str) -> tuple[float, float, float, float]:
    """South, west, north and east edge of a cell in degrees."""
    low, high = [-180.0, -90.0], [180.0, 90.0]
    axis = 0
    for letter in cell:
        for bit in (16, 8, 4, 2, 1):
            (low if _VALUE[letter] & bit else high)[axis] = (low[axis] + high[axis]) / 2
            axis ^= 1
    return low[1], low[0], high[1], high[0]


def size_km(cell: str) -> tuple[float, float]:
    """Width and height of a cell, the width taken at its middle."""
    south, west, north, east = bounds(cell)
    degree = math.radians(1) * EARTH_RADIUS_KM
    return (east - west) * degree * math.cos(math.radians((south + north) / 2)), (north - south) * degree


def distance_km(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Along the surface, on a sphere."""
    a, b = math.radians(lat), math.radians(other_lat)
    half_lon = math.radians(other_lon - lon) / 2
    square = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, square)))


def touches_circle(cell: str, lat: float, lon: float, radius_km: float) -> bool:
    """Whether any point of the cell lies within the radius around a position in degrees."""
    south, west, north, east = bounds(cell)
    if west <= lon <= east or (lon in (-180, 180) and (west == -180 or east == 180)):
        return distance_km(lat, lon, min(max(lat, south), north), lon) <= radius_km
    # Every parallel comes nearest where it meets the nearer of the two side edges. Along that edge, a meridian, it is
    # nearest at `summit` or, when the edge does not reach there, at one of its ends.
    edge = min(west, east, key=lambda side: abs(math.remainder(side - lon, 360)))
    across = math.cos(math.radians(edge - lon))
    summit = math.degrees(math.atan2(math.sin(math.radians(lat)), math.cos(math.radians(lat)) * across))
    nearest = (south, north, min(max(summit, south), north))
    return min(distance_km(lat, lon, point, edge) for point in nearest) <= radius_km


# What people type


def is_word(name: str) -> bool:
    """Whether a geohash may as well be a word: it holds no digit."""
    return not any(letter.isdigit() for letter in name)


def parse_position(text: str, field: str) -> tuple[float, float]:
    """`LAT,LON` in degrees. Raises InputRefused under the name of the option it came from."""
    lat, comma, lon = text.partition(",")
    if not comma:
        raise InputRefused(field, "not-a-position")
    return parse_degrees(lat, 90, field), parse_degrees(lon, 180, field)


def parse_degrees(text: str, limit: int, field: str) -> float:
    """Plain decimal degrees from -limit to limit. Raises InputRefused; no exponent, no `nan`, no `inf` gets in."""
    text = text.strip()
    if _DEGREES.fullmatch(text) is None:
        raise InputRefused(field, "not-a-position")
    degrees = float(text)
    if not -limit <= degrees <= limit:
        raise InputRefused(field, "out-of-range", limit)
    return degrees


def parse_precision(value: object) -> int:
    """How many characters a cell shall have. Raises InputRefused unless it is a whole number from 3 to 7."""
    if type(value) is str and len(value) == 1 and value in "34567":
        value = int(value)
    if type(value) is not int or not PRECISION_MIN <= value <= PRECISION_MAX:
        raise InputRefused("precision", "out-of-range", f"{PRECISION_MIN}..{PRECISION_MAX}")
    return value


def parse_place(text: str, precision: int | None = None, typed: bool = True) -> str:
    """The cell that a person means by `LAT,LON`, a geohash with a digit in it, or `geohash:` and any geohash.

    A position takes the default precision unless one is given. A geohash stays as it is, is cut where a coarser
    precision was asked for, and counts as a position where it is finer than any report may be. A program means what it
    says: with `typed` false no digit is needed. Raises InputRefused.
    """
    text = text.strip().lower()
    if "," in text:
        lat, lon = parse_position(text, "place")
        return encode(lat, lon, precision or PRECISION_DEFAULT)
    name = text.removeprefix(_PREFIX)
    if _GEOHASH.fullmatch(name) is None:
        raise InputRefused("place", "not-a-place")
    if typed and name == text and is_word(name):
        raise InputRefused("place", "may-be-a-word")  # `sur`, `este` and `puente` are valid geohashes
    if len(name) < PRECISION_MIN:
        raise InputRefused("place", "too-coarse", PRECISION_MIN)
    if precision is None:
        precision = PRECISION_DEFAULT if len(name) > PRECISION_MAX else PRECISION_MAX
    return name[:precision]
