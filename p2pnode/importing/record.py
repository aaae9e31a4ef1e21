"""Record: one source record of a file, read and ready to be published, or refused with its reason."""

from dataclasses import dataclass

from protocol import cbor, keys
from protocol.report import Report

MARK_SIZE = 16

_MARK_PERSON = b"p2pnode import"


@dataclass(frozen=True, slots=True)
class Record:
    """One report of a file, ready to be published. `line` counts from 1, `warnings` are slugs."""

    line: int
    mark: bytes
    report: Report
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that cannot be published: which field (a column or key, "" for the whole line) and a slug for why."""

    line: int
    reason: str
    field: str = ""


def mark_of(*source: cbor.Value) -> bytes:
    """What identifies a source record: the same for the same values, whatever became of them here."""
    return keys.hash_of(_MARK_PERSON, cbor.encode(list(source)), MARK_SIZE)
