"""The record by which members recognise an announcer, and by which nobody else recognises anything."""

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from protocol import beacon

PORT = 4001
HOUR = 490_000
INSTANCE = "0123456789abcdef"


def key(number: int) -> bytes:
    return bytes([number]) * 32


def entropy(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def spaces(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(bytes([number]) * 4, key(number)) for number in numbers]


def recognised(record: bytes, *numbers: int, instance: str = INSTANCE, port: int = PORT, hour: int = HOUR) -> set[int]:
    return {found.space[0] for found in beacon.recognise(record, instance, port, hour, spaces(*numbers))}


def test_a_member_recognises_exactly_the_spaces_that_are_shared() -> None:
    record = beacon.make([key(1), key(2), key(3)], INSTANCE, PORT, HOUR, entropy())

    assert recognised(record, 2, 3, 4) == {2, 3}


def test_the_wrong_key_instance_or_port_recognises_nothing() -> None:
    record = beacon.make([key(1)], INSTANCE, PORT, HOUR, entropy())

    assert recognised(record, 9) == set()
    assert recognised(record, 1, instance="fedcba9876543210") == set()
    assert recognised(record, 1, port=PORT + 1) == set()


def test_clocks_may_differ_by_an_hour_and_a_record_of_another_day_is_nothing() -> None:
    record = beacon.make([key(1)], INSTANCE, PORT, HOUR, entropy())

    assert [hour for hour in range(HOUR - 30, HOUR + 30) if recognised(record, 1, hour=hour)] == [
        HOUR - 1,
        HOUR,
        HOUR + 1,
    ]


def test_the_tag_is_the_same_for_every_member_and_another_under_every_instance() -> None:
    tags = set()
    for number in range(4):
        record = beacon.make([key(1), key(2)], str(number), PORT, HOUR, entropy(number))
        tag = {beacon.recognise(record, str(number), PORT, hour, spaces(1))[0].tag for hour in (HOUR, HOUR + 1)}
        assert len(tag) == 1
        tags |= tag

    assert len(tags) == 4


@given(st.integers(0, 8), st.integers())
def test_a_record_has_one_size_and_no_order_whatever_it_holds(count: int, seed: int) -> None:
    record = beacon.make([key(number) for number in range(count)], INSTANCE, PORT, HOUR, entropy(seed))
    slots = [record[at : at + beacon.SLOT_SIZE] for at in range(0, len(record), beacon.SLOT_SIZE)]

    assert len(record) == 128
    assert slots == sorted(slots)
    assert len(set(slots)) == beacon.SLOTS
    assert recognised(record, *range(count)) == set(range(count))


def test_nothing_but_random_fill_when_there_is_no_space() -> None:
    record = beacon.make([], INSTANCE, PORT, HOUR, entropy())

    assert len(record) == 128
    assert recognised(record, *range(20)) == set()


def test_of_more_than_eight_spaces_all_have_their_turn_under_some_instance() -> None:
    many = [key(number) for number in range(20)]
    seen: set[int] = set()
    for number in range(40):
        record = beacon.make(many, f"{number:016x}", PORT, HOUR, entropy())
        found = recognised(record, *range(20), instance=f"{number:016x}")
        assert len(found) == beacon.SLOTS
        seen |= found

    assert seen == set(range(20))


def test_the_slots_of_twenty_spaces_are_not_lower_than_those_of_one() -> None:
    def mean(count: int) -> float:
        records = (
            beacon.make([key(number) for number in range(count)], f"{at:016x}", PORT, HOUR, entropy(at))
            for at in range(400)
        )
        firsts = [slot for record in records for slot in record[:: beacon.SLOT_SIZE]]
        return sum(firsts) / len(firsts)

    assert abs(mean(20) - mean(1)) < 10  # choosing the lowest 8 of 20 would make it 65


def test_two_epochs_of_one_space_are_one_recognition() -> None:
    record = beacon.make([key(1), key(2)], INSTANCE, PORT, HOUR, entropy())

    assert len(beacon.recognise(record, INSTANCE, PORT, HOUR, [(b"space", key(1)), (b"space", key(2))])) == 1


@given(st.binary(max_size=300), st.text(), st.integers(-1, 70_000), st.integers(-5, 2**40))
def test_any_bytes_are_recognised_as_nothing(record: bytes, instance: str, port: int, hour: int) -> None:
    assert beacon.recognise(record, instance, port, hour, spaces(1, 2)) == []
