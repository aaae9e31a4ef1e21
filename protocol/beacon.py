"""Beacon: the record by which members of a space recognise an announcer on the LAN. Specification section "Beacon".

    record = 8 slots of 16 bytes, sorted
    slot   = BLAKE2b-128 under the epoch key of (hour || port || instance), or 16 random bytes

`instance` is the announcement's random name, new every hour. To whoever lacks an epoch key all slots are random bytes:
the record shows neither how many spaces the announcer has nor that two records are of one node. Sorting puts made and
random slots into an order that depends on neither. A copy of a record is good for the same instance and port only, and
for an hour before and after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol import keys

SLOTS = 8
SLOT_SIZE = 16
RECORD_SIZE = SLOTS * SLOT_SIZE
HOUR_SECONDS = 3600

_SLOT_PERSON = b"p2pnode beacon 1"
_TURN_PERSON = b"p2pnode beacon 2"


@dataclass(frozen=True, slots=True)
class Recognised:
    """A slot of ours in somebody's record. The tag is the slot: the same tag at two addresses means a copy."""

    space: bytes
    tag: bytes


def hour_of(now: float) -> int:
    """The hour that slots are made for, from seconds since 1970."""
    return int(now) // HOUR_SECONDS


def make(epoch_keys: Sequence[bytes], instance: str, port: int, hour: int, entropy: Callable[[int], bytes]) -> bytes:
    """The record of one announcement. Of more than 8 keys, 8 have their turn, others under the next instance."""
    asked = _asked(instance, port, hour)
    # Not the lowest 8 slots: a record of low slots would show that its maker has many spaces.
    turns = sorted(set(epoch_keys), key=lambda key: keys.keyed_hash(key, _TURN_PERSON, asked))[:SLOTS]
    slots = [_slot(key, asked) for key in turns]
    slots += [entropy(SLOT_SIZE) for _ in range(SLOTS - len(slots))]
    return b"".join(sorted(slots))


def recognise(
    record: bytes, instance: str, port: int, hour: int, spaces: Sequence[tuple[bytes, bytes]]
) -> list[Recognised]:
    """Which of the (space id, epoch key) pairs the record was made with, within an hour of `hour`; each space once.

    Any bytes may be given; what is no record is recognised as nothing.
    """
    if len(record) != RECORD_SIZE or not 0 <= port <= 0xFFFF:
        return []
    slots = {record[at : at + SLOT_SIZE] for at in range(0, RECORD_SIZE, SLOT_SIZE)}
    found: dict[bytes, Recognised] = {}
    for near in (hour, hour - 1, hour + 1):
        asked = _asked(instance, port, near)
        for space, key in spaces:
            if (tag := _slot(key, asked)) in slots:
                found.setdefault(space, Recognised(space, tag))
    return list(found.values())


def _asked(instance: str, port: int, hour: int) -> bytes:
    return max(0, hour).to_bytes(8, "big") + port.to_bytes(2, "big") + instance.encode("utf-8", "surrogatepass")


def _slot(key: bytes, asked: bytes) -> bytes:
    return keys.keyed_hash(key, _SLOT_PERSON, asked, SLOT_SIZE)
