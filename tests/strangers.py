"""Strangers: strategies for bytes and values as somebody would send them who means harm or has a bug.

wounded      a valid encoding with a bit flipped, a part cut out, doubled or replaced, or its end lost
reshaped     the value of a valid encoding with parts replaced, added or left out
anything     a value of any shape, also of shapes that no valid encoding has
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from protocol import cbor

VECTORS = Path(__file__).parent / "vectors"


def load(name: str) -> Any:
    """One of our own files of vectors."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def vectors(name: str, group: str, *fields: str) -> list[bytes]:
    """Bytes from our own vectors; where the field holds several, all of them."""
    found: list[bytes] = []
    for case in load(name)[group]:
        for field in fields:
            values = case[field] if isinstance(case[field], list) else [case[field]]
            found += [bytes.fromhex(value) for value in values if value is not None]
    return found


# Strategies

EDGES = [-(2**63) - 1, -(2**63), -1, 0, 1, 2, 3, 23, 24, 64, 255, 256, 1024, 16_384, 2**31, 2**32 - 1, 2**32, 2**53]
SIZES = [0, 1, 7, 8, 16, 17, 31, 32, 33, 63, 64, 65]
numbers = st.sampled_from([*EDGES, 2**53 - 1, 2**63, 2**64 - 1, 2**64]) | st.integers(-(2**65), 2**65)
octets = st.sampled_from(SIZES).flatmap(lambda size: st.binary(min_size=size, max_size=size)) | st.binary(max_size=80)
words = st.sampled_from(["", "v", "cat", "key", "es", "d2g6f", "x" * 81, "\0", "\ud800", "ﬁ"]) | st.text(max_size=20)
atoms = st.none() | st.booleans() | numbers | octets | words | st.sampled_from([0.5, float("nan"), ()])
anything = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5) | numbers, inner, max_size=4),
    max_leaves=12,
)


def encoded(value: object) -> bytes:
    """The bytes of a value, of a kind that our own encoder would refuse too."""
    try:
        return cbor.cbor2.dumps(value, canonical=True)
    except Exception:  # a lone surrogate, say: the bytes of another value will do
        return b"\xf6"


@st.composite
def wounded(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """A valid encoding with up to three wounds: a bit flipped, a part cut out, doubled or replaced, an end lost."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["flip", "cut", "double", "replace", "end"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:end]
            case "double":
                data[at:at] = data[at:end]
            case "replace":
                data[at:end] = draw(st.binary(max_size=40))
            case _:
                del data[at:]
    return bytes(data)


@st.composite
def reshaped(draw: st.DrawFn, valid: list[bytes]) -> Any:
    """The value of a valid encoding with up to two of its parts, at any depth, replaced, doubled or left out."""
    value = cbor.decode_untrusted(valid[draw(st.integers(0, len(valid) - 1))], 2**20)
    for _ in range(draw(st.integers(0, 2))):
        paths = list(_paths(value))
        path = paths[draw(st.integers(0, len(paths) - 1))]
        change = draw(st.sampled_from(["replace", "replace", "replace", "double", "drop"]))
        value = _changed(value, path, change, draw(anything))
    return value


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a value, itself first."""
    yield ()
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, part in parts:
        yield from ((at, *path) for path in _paths(part))


def _changed(value: Any, path: tuple[Any, ...], change: str, other: Any) -> Any:
    if not path:
        return other
    at, *rest = path
    if rest or change == "replace":
        part = _changed(value[at], tuple(rest), change, other)
        return value | {at: part} if isinstance(value, dict) else [*value[:at], part, *value[at + 1 :]]
    if isinstance(value, dict):
        rest_of = {key: part for key, part in value.items() if key != at}
        return value | {f"{at}x": other} if change == "double" else rest_of
    return [*value[:at], *([value[at]] * 2 if change == "double" else []), *value[at + 1 :]]


def bytes_like(valid: list[bytes]) -> st.SearchStrategy[bytes]:
    """Strangers' bytes where one of these would be valid CBOR."""
    return st.one_of(wounded(valid), reshaped(valid).map(encoded), anything.map(encoded), st.binary(max_size=200))
