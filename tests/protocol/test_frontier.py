"""The frontier's digests and items, and the search for a fork."""

import random
from dataclasses import replace
from math import ceil, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frontier import (
    BUCKETS,
    Bisection,
    LogState,
    State,
    bucket_digest,
    bucket_of,
    digest,
    item,
    key_of,
)
from protocol.limits import SEQ_MAX

SPACE = b"\x05" * 32
SESSION = b"\x09" * 64

keys = st.tuples(st.integers(0, 2), st.binary(min_size=16, max_size=16)).map(lambda parts: bytes([parts[0]]) + parts[1])
ids = st.binary(min_size=32, max_size=32)
states = st.builds(LogState, keys, st.integers(1, SEQ_MAX), ids, st.sampled_from(State))
frontiers = st.lists(states, max_size=30, unique_by=lambda state: state.key)


def whole(frontier: list[LogState], space: bytes = SPACE) -> bytes:
    buckets: list[list[LogState]] = [[] for _ in range(BUCKETS)]
    for state in sorted(frontier, key=lambda state: state.key):
        buckets[bucket_of(state.key)].append(state)
    return digest(space, [bucket_digest(bucket) for bucket in buckets])


# Digests


@given(frontiers, frontiers)
def test_two_frontiers_have_one_digest_exactly_when_they_are_equal(left: list[LogState], right: list[LogState]) -> None:
    def order(frontier: list[LogState]) -> list[LogState]:
        return sorted(frontier, key=lambda state: state.key)

    assert (whole(left) == whole(right)) == (order(left) == order(right))


@given(states, st.integers(1, SEQ_MAX), ids, st.sampled_from(State))
def test_every_field_of_a_state_counts_in_digest_and_item(
    state: LogState, high: int, newest: bytes, mode: State
) -> None:
    for other in (replace(state, high=high), replace(state, newest=newest), replace(state, state=mode)):
        assert (bucket_digest([state]) == bucket_digest([other])) == (state == other)
        assert (item(SESSION, state) == item(SESSION, other)) == (state == other)


@given(frontiers)
def test_the_space_counts_in_the_digest(frontier: list[LogState]) -> None:
    assert whole(frontier) != whole(frontier, b"\x06" * 32)


def test_a_log_that_counts_for_nothing_still_differs_from_no_log() -> None:
    nothing_trusted = LogState(b"\x02" + bytes(16), 0, None, State.FORKED)
    assert bucket_digest([nothing_trusted]) != bucket_digest([])
    assert bucket_digest([nothing_trusted]) != bucket_digest([replace(nothing_trusted, state=State.CUT)])


def test_logs_of_all_classes_spread_over_the_buckets() -> None:
    source = random.Random(1)
    assert {bucket_of(b"\x02" + source.randbytes(16)) for _ in range(5000)} == set(range(BUCKETS))


@given(states)
def test_a_bucket_out_of_order_is_our_own_error(state: LogState) -> None:
    with pytest.raises(LocalProtocolError):
        bucket_digest([state, state])
    with pytest.raises(LocalProtocolError):
        bucket_digest([replace(state, key=b"\x02" * 17), replace(state, key=b"\x01" * 17)])


def test_a_digest_of_other_than_256_buckets_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        digest(SPACE, [bytes(32)] * 255)


# Items


@given(states)
def test_an_item_is_32_bytes_that_begin_with_the_key_and_change_with_the_session(state: LogState) -> None:
    ours = item(SESSION, state)
    assert len(ours) == 32
    assert key_of(ours) == state.key
    assert key_of(item(b"\x0a" * 64, state)) == state.key
    assert ours != item(b"\x0a" * 64, state)


# Bisection

KEY = b"\x02" + bytes(16)


def chain(length: int, fork: int, branch: int) -> list[bytes]:
    """Ids of seq 1, 2, …; those from `fork` on belong to a branch."""
    return [bytes([branch if seq >= fork else 0]) + seq.to_bytes(31, "big") for seq in range(1, length + 1)]


def search(ours: list[bytes], theirs: list[bytes]) -> tuple[int, int]:
    """The seq found and the number of questions it took."""
    bisection = Bisection(KEY, min(len(ours), len(theirs)))
    questions = 0
    while bisection.found is None:
        seq = bisection.asks
        bisection = bisection.answered_untrusted(seq, theirs[seq - 1], ours[seq - 1])
        questions += 1
    return bisection.found, questions


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_search_finds_what_a_comparison_of_all_entries_finds(data: st.DataObject) -> None:
    ours_length = data.draw(st.integers(1, 3000))
    theirs_length = data.draw(st.integers(1, 3000))
    both = min(ours_length, theirs_length)
    fork = data.draw(st.integers(1, both))
    ours, theirs = chain(ours_length, fork, 1), chain(theirs_length, fork, 2)
    naive = next(seq for seq in range(1, both + 1) if ours[seq - 1] != theirs[seq - 1])
    found, questions = search(ours, theirs)
    assert found == naive == fork
    assert questions <= ceil(log2(both)) if both > 1 else questions == 0


@given(st.integers(1, SEQ_MAX), st.randoms(use_true_random=False))
def test_a_peer_that_answers_anything_is_done_after_32_questions(differs: int, source: random.Random) -> None:
    bisection = Bisection(KEY, differs)
    questions = 0
    while bisection.found is None:
        assert 0 <= bisection.agrees < bisection.asks < bisection.differs <= differs
        theirs = source.choice([bytes(32), b"\x01" * 32])
        bisection = bisection.answered_untrusted(bisection.asks, theirs, bytes(32))
        questions += 1
    assert questions <= 32
    assert 1 <= bisection.found <= differs


def test_two_ends_that_both_search_ask_the_same_so_each_question_is_an_answer() -> None:
    ours, theirs = chain(1000, 617, 1), chain(900, 617, 2)
    left = right = Bisection(KEY, 900)
    while left.found is None:
        seq = left.asks
        assert seq == right.asks
        left, right = (
            left.answered_untrusted(seq, theirs[seq - 1], ours[seq - 1]),
            right.answered_untrusted(seq, ours[seq - 1], theirs[seq - 1]),
        )
    assert left.found == right.found == 617


def test_an_answer_to_another_question_or_with_a_gap_is_refused() -> None:
    bisection = Bisection(KEY, 100)
    for seq in (0, 49, 51, 100, SEQ_MAX):
        with pytest.raises(RemoteProtocolError):
            bisection.answered_untrusted(seq, bytes(32), bytes(32))
    with pytest.raises(RemoteProtocolError):
        bisection.answered_untrusted(50, None, bytes(32))


def test_searching_on_after_it_is_found_or_without_an_entry_of_ours_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        Bisection(KEY, 1).answered_untrusted(0, bytes(32), bytes(32))
    with pytest.raises(LocalProtocolError):
        Bisection(KEY, 100).answered_untrusted(50, bytes(32), None)
