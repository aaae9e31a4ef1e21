"""Reconciliation: the reference's bytes, the union for all sets, and peers that lie."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import reconcile
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import RECONCILE_ROUNDS_MAX
from protocol.reconcile import Client, Server, Snapshot

VECTORS = Path(__file__).parents[2] / "../shared/vectors/negentropy/reference-vectors-v1.json"
Item = tuple[int, bytes]


def reference_exchanges() -> list[Any]:
    if not VECTORS.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason="no reference exchanges beside the project"))]
    return [pytest.param(case, id=case["name"]) for case in json.loads(VECTORS.read_text())]


@dataclass
class Exchange:
    """What two ends said until the client was done."""

    client: Client
    rounds: int
    messages: list[bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.messages))


def exchange(ours: Iterable[Item], theirs: Iterable[Item], frame: int = 0) -> Exchange:
    client, server = Client(Snapshot.seal(ours), frame), Server(Snapshot.seal(theirs), frame)
    messages = []
    message: bytes | None = client.start()
    while message is not None:
        answer = server.answer_untrusted(message)
        messages += [message, answer]
        message = client.receive_untrusted(answer)
    return Exchange(client, len(messages) // 2, messages)


def check_union(done: Exchange, ours: Iterable[Item], theirs: Iterable[Item]) -> None:
    our_ids, their_ids = {id for _, id in ours}, {id for _, id in theirs}
    assert sorted(done.client.have) == sorted(our_ids - their_ids)
    assert sorted(done.client.need) == sorted(their_ids - our_ids)


# The reference


@pytest.mark.parametrize("case", reference_exchanges())
def test_both_ends_say_the_bytes_of_the_reference(case: Any) -> None:
    def snapshot(name: str) -> Snapshot:
        return Snapshot.seal((timestamp, bytes.fromhex(id)) for timestamp, id in case[name])

    client = Client(snapshot("client_items"), case["frame_limit_client"])
    server = Server(snapshot("server_items"), case["frame_limit_server"])
    next_message: bytes | None = client.start()
    for message in case["messages"]:
        expected = bytes.fromhex(message["hex"])
        assert next_message == expected
        step = server.answer_untrusted if message["from"] == "client" else client.receive_untrusted
        next_message = step(expected)
    assert next_message is None
    assert sorted(id.hex() for id in client.have) == sorted(case["have"])
    assert sorted(id.hex() for id in client.need) == sorted(case["need"])


def test_a_list_that_just_fills_its_message_is_closed_as_the_reference_closes_it() -> None:
    theirs = [(0, bytes([n]) * 32) for n in range(122)]
    done = exchange([], theirs, frame=4096)
    assert done.messages[1].endswith(b"\0\0\x01" + Snapshot.seal([]).fingerprint(0, 0))
    assert done.rounds == 1
    check_union(done, [], theirs)


# The union, for all sets


@dataclass(frozen=True)
class Shape:
    """Two sets to be drawn: this many items in both, in ours alone, in theirs alone."""

    both: int
    ours: int
    theirs: int
    seed: int
    spread: str

    def draw(self) -> tuple[list[Item], list[Item]]:
        source = random.Random(self.seed)
        draw: Callable[[], Item] = {
            "frontier": lambda: (0, source.randbytes(32)),
            "times": lambda: (source.randrange(2**40), source.randbytes(32)),
            "clustered": lambda: (1_700_000_000 + source.randrange(4), source.randbytes(32)),
            "prefix": lambda: (7, bytes(16) + source.randbytes(16)),
            "extreme": lambda: (source.choice((0, 2**64 - 2)), source.randbytes(32)),
        }[self.spread]
        items = sorted({draw() for _ in range(self.both + self.ours + self.theirs)})
        source.shuffle(items)
        return items[: self.both + self.ours], items[: self.both] + items[self.both + self.ours :]


def shapes(size: int) -> st.SearchStrategy[Shape]:
    part = st.integers(0, 40) | st.integers(0, size)
    spread = st.sampled_from(["frontier", "times", "clustered", "prefix", "extreme"])
    return st.builds(Shape, part, part, part, st.integers(0, 2**32), spread)


def size_bound(items: int, differences: int, rounds: int) -> int:
    """Bytes of both ways: what each difference can cost on each level of its ranges, in the longest encoding."""
    bound = 10 + 1 + 32
    split = 16 * (bound + 1 + 16) + bound + 1  # and the silence before it
    listing = 2 * (2 * (bound + 1) + 2 + 31 * 32) + 32
    levels = 1
    while items >= 32:
        items = -(-items // 16)
        levels += 1
    return 2 * rounds + split + listing + differences * (levels * split + listing)


@given(shapes(4000))
@settings(max_examples=60, deadline=None)
def test_both_ends_learn_the_union_within_the_bytes_bound(shape: Shape) -> None:
    ours, theirs = shape.draw()
    done = exchange(ours, theirs)
    check_union(done, ours, theirs)
    differences = len(done.client.have) + len(done.client.need)
    assert done.rounds <= 6
    assert done.size <= size_bound(max(len(ours), len(theirs)), differences, done.rounds)


@pytest.mark.parametrize("spread", ["frontier", "times", "clustered", "prefix", "extreme"])
@pytest.mark.parametrize(
    ("both", "ours", "theirs"), [(10_000, 0, 0), (9_990, 5, 5), (0, 5_000, 5_000), (5_000, 0, 5_000)]
)
def test_ten_thousand_items_reach_the_union(spread: str, both: int, ours: int, theirs: int) -> None:
    for seed, frame in enumerate((0, 4096, 60_000)):
        left, right = Shape(both, ours, theirs, seed, spread).draw()
        done = exchange(left, right, frame)
        check_union(done, left, right)
        assert not frame or max(map(len, done.messages)) <= frame


@given(shapes(1500), st.integers(4096, 9000))
@settings(max_examples=60, deadline=None)
def test_no_message_passes_the_frame_limit_and_the_union_is_still_reached(shape: Shape, frame: int) -> None:
    ours, theirs = shape.draw()
    done = exchange(ours, theirs, frame)
    check_union(done, ours, theirs)
    assert max(map(len, done.messages)) <= frame


# Neighbours in order, but no two sets of them with one sum: fingerprints are good for random items only.
small_ids = st.binary(min_size=1, max_size=2).map(lambda start: start + sha256(start).digest()[len(start) :])
small_sets = st.sets(st.tuples(st.integers(0, 2), small_ids), max_size=120)


@given(small_sets, small_sets)
@settings(deadline=None)
def test_any_two_small_sets_reach_the_union_of_their_items(ours: set[Item], theirs: set[Item]) -> None:
    ours = {(int.from_bytes(id[:1], "big") % 3, id) for _, id in ours}  # one id has one timestamp
    theirs = {(int.from_bytes(id[:1], "big") % 3, id) for _, id in theirs}
    check_union(exchange(ours, theirs), ours, theirs)


@given(small_sets)
@settings(deadline=None)
def test_a_fingerprint_is_the_hash_of_the_sum_and_the_number(items: set[Item]) -> None:
    snapshot = Snapshot.seal(items)
    total = sum(int.from_bytes(id, "little") for _, id in items) % 2**256
    expected = sha256(total.to_bytes(32, "little") + bytes([len(items)])).digest()[:16]
    assert snapshot.fingerprint(0, len(snapshot)) == expected


def test_a_range_dropped_from_a_full_message_is_not_passed_off_as_empty() -> None:
    ours = sorted(some_items(124))
    server = Server(Snapshot.seal(ours[:93]), 4096)
    client = Client(Snapshot.seal(ours), 4096)
    client.start()
    differs = b"\x01" + bytes(16)
    parts = [b"\x01\x20" + ours[end][1] + differs for end in (31, 62, 93)] + [b"\0\0" + differs]
    message = client.receive_untrusted(b"\x61" + b"".join(parts))  # the fourth list of 31 ids does not fit
    while message is not None:
        message = client.receive_untrusted(server.answer_untrusted(message))
    assert client.have == [id for _, id in ours[93:]]


# A peer that lies (adversaries E4, E5)

HOSTILE = {
    "nothing": b"",
    "no version": b"\x00",
    "another family of versions": b"\x71",
    "bound cut short": b"\x61\x01\x05ab",
    "mode missing": b"\x61\x00\x00",
    "bounds descend": b"\x61\x01\x01\x20\x00\x01\x01\x10\x00",
    "bounds repeat": b"\x61\x01\x01\x20\x00\x01\x01\x20\x00",
    "bounds repeat with a zero behind": b"\x61\x01\x01\x20\x00\x01\x02\x20\x00\x00",
    "first bound is the start": b"\x61\x01\x00\x00",
    "range beyond infinity": b"\x61\x00\x00\x00\x01\x00\x00",
    "infinity twice": b"\x61\x00\x00\x00\x00\x00\x00",
    "fingerprint beyond infinity": b"\x61\x00\x00\x00\x00\x00\x01" + bytes(16),
    "infinity with a prefix": b"\x61\x00\x01\x07\x00",
    "timestamps add up to infinity": b"\x61" + b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\x7e\x00\x00" + b"\x05\x00\x00",
    "prefix of 33": b"\x61\x01\x21" + bytes(33) + b"\x00",
    "prefix of 2^63": b"\x61\x01\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00",
    "fingerprint cut short": b"\x61\x00\x00\x01" + bytes(15),
    "list shorter than its count": b"\x61\x00\x00\x02\x02" + bytes(32),
    "list longer than its count": b"\x61\x00\x00\x02\x01" + bytes(32) + b"\x01" * 32,
    "list of 2^62": b"\x61\x00\x00\x02\xc0\x80\x80\x80\x80\x80\x80\x80\x00" + bytes(64),
    "id twice in a list": b"\x61\x00\x00\x02\x02" + bytes(64),
    "varint with a leading zero": b"\x61\x00\x80\x00\x00",
    "varint of 10 digits, 2^64": b"\x61\x82\x80\x80\x80\x80\x80\x80\x80\x80\x00\x00\x00",
    "varint of 11 digits": b"\x61" + b"\x81" * 10 + b"\x00\x00\x00",
    "varint without end": b"\x61" + b"\xff" * 60_000,
    **{f"mode {mode}": b"\x61\x00\x00" + bytes([mode]) for mode in range(3, 128)},
    **{f"mode {mode}": b"\x61\x00\x00\x81" + bytes([mode - 128]) for mode in range(128, 256)},
}


def some_items(count: int) -> list[Item]:
    source = random.Random(count)
    return [(0, source.randbytes(32)) for _ in range(count)]


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_malformed_message_is_refused_by_both_ends_and_teaches_nothing(message: bytes) -> None:
    learnt_before_the_fault = message[:1] + b"\x01\x01\x01\x02\x00" + message[1:] if len(message) > 1 else message
    for data in (message, learnt_before_the_fault):
        client = Client(Snapshot.seal(some_items(100)), 60_000)
        client.start()
        with pytest.raises(RemoteProtocolError):
            client.receive_untrusted(data)
        assert client.have == client.need == []
        with pytest.raises(RemoteProtocolError):
            Server(Snapshot.seal(some_items(100)), 60_000).answer_untrusted(data)


@given(st.binary(max_size=400).map(lambda data: b"\x61" + data))
def test_any_bytes_give_an_answer_or_a_remote_error(data: bytes) -> None:
    client = Client(Snapshot.seal(some_items(100)), 4096)
    client.start()
    for step in (client.receive_untrusted, Server(Snapshot.seal(some_items(100)), 4096).answer_untrusted):
        try:
            answer = step(data)
        except RemoteProtocolError:
            continue
        assert answer is None or len(answer) <= 4096


@given(st.integers(0, 2**16), st.integers(0, 2**16), st.integers(0, 255))
def test_an_honest_message_damaged_anywhere_gives_an_answer_or_a_remote_error(message: int, at: int, flip: int) -> None:
    messages = exchange(some_items(600), some_items(640), 4096).messages
    index = message % len(messages)
    data = bytearray(messages[index])
    data[at % len(data)] ^= flip
    for damaged in (bytes(data), bytes(data[: at % len(data)])):
        client = Client(Snapshot.seal(some_items(600)), 4096)
        client.start()
        server = Server(Snapshot.seal(some_items(640)), 4096)
        try:
            answer = client.receive_untrusted(damaged) if index % 2 else server.answer_untrusted(damaged)
        except RemoteProtocolError:
            continue
        assert answer is None or len(answer) <= 4096


def refused_after(client: Client, answer: bytes) -> tuple[int, int]:
    """The rounds that a client goes along with the same answer, and the bytes it sends in them."""
    rounds = sent = 0
    while rounds < 10_000:
        try:
            sent += len(client.receive_untrusted(answer) or b"")
        except RemoteProtocolError:
            break
        rounds += 1
    return rounds, sent


def test_a_peer_that_always_differs_is_cut_off_and_what_was_learnt_before_is_kept() -> None:
    ours = some_items(10_000)
    client = Client(Snapshot.seal(ours), 60_000)
    client.start()
    truth = b"\x61\x01\x01\x80\x02\x01" + b"\x07" * 32 + b"\0\0\x01" + bytes(16)
    client.receive_untrusted(truth)
    learnt = (list(client.have), list(client.need))
    assert learnt[1] == [b"\x07" * 32]
    lie = b"\x61\x00\x00\x01" + bytes(16)
    rounds, sent = refused_after(client, lie)
    assert (client.have, client.need) == learnt
    assert rounds <= RECONCILE_ROUNDS_MAX + sum(map(len, learnt)) * 512 // 60_000
    assert sent <= rounds * 1024


def test_a_peer_that_lists_the_same_ids_again_teaches_them_once_and_earns_nothing() -> None:
    client = Client(Snapshot.seal(some_items(1000)), 60_000)
    client.start()
    lie = b"\x61\x01\x01\xf0\x02\x01" + b"\x07" * 32 + b"\0\0\x01" + bytes(16)
    rounds, _ = refused_after(client, lie)
    assert client.need == [b"\x07" * 32]
    assert len(client.have) == len(set(client.have)) <= 1000
    assert rounds <= RECONCILE_ROUNDS_MAX + 1000 * 512 // 60_000


def test_a_client_that_never_ends_is_refused() -> None:
    server = Server(Snapshot.seal(some_items(100)), 60_000)
    question = b"\x61\x00\x00\x01" + bytes(16)
    for _ in range(RECONCILE_ROUNDS_MAX):
        server.answer_untrusted(question)
    with pytest.raises(RemoteProtocolError):
        server.answer_untrusted(question)


def test_more_ids_than_one_exchange_may_keep_end_it_early_and_the_next_one_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconcile, "IDS_MAX", 1000)
    theirs = some_items(5000)
    held: list[Item] = []
    for _ in range(20):
        done = exchange(held, theirs, 4096)
        assert len(done.client.need) < 1000 + 4096 // 32
        held += [(0, id) for id in done.client.need]
        if not done.client.need:
            break
    assert sorted(held) == sorted(theirs)


def test_a_server_answers_another_version_with_its_own_and_a_client_refuses_one() -> None:
    assert Server(Snapshot.seal([]), 0).answer_untrusted(b"\x62 whatever that is") == b"\x61"
    client = Client(Snapshot.seal([]), 0)
    client.start()
    with pytest.raises(RemoteProtocolError):
        client.receive_untrusted(b"\x62")


# Our own mistakes


@pytest.mark.parametrize(
    "items",
    [
        [(0, bytes(32)), (0, bytes(32))],
        [(0, bytes(31))],
        [(0, bytes(33))],
        [(-1, bytes(32))],
        [(2**64 - 1, bytes(32))],
        [(2**64, bytes(32))],
    ],
)
def test_a_snapshot_of_bad_or_equal_items_is_our_own_error(items: list[Item]) -> None:
    with pytest.raises(LocalProtocolError):
        Snapshot.seal(items)


def test_using_an_end_out_of_order_is_our_own_error() -> None:
    empty = Snapshot.seal([])
    client = Client(empty, 0)
    with pytest.raises(LocalProtocolError):
        client.receive_untrusted(b"\x61")
    client.start()
    with pytest.raises(LocalProtocolError):
        client.start()
    assert client.receive_untrusted(b"\x61") is None
    with pytest.raises(LocalProtocolError):
        client.receive_untrusted(b"\x61")
    with pytest.raises(LocalProtocolError):
        client.start()
    for end in (Client, Server):
        with pytest.raises(LocalProtocolError):
            end(empty, 4095)


# Figures


@pytest.fixture(scope="module")
def hundred_thousand() -> list[Item]:
    return some_items(100_000)


def fastest_ms(work: Callable[[], object]) -> float:
    """Of five: other work on the machine is not what is measured."""
    times = []
    for _ in range(5):
        start = perf_counter()
        work()
        times.append((perf_counter() - start) * 1000)
    return min(times)


def test_a_hundred_thousand_items_are_sealed_and_found_equal_fast(hundred_thousand: list[Item]) -> None:
    assert fastest_ms(lambda: Snapshot.seal(hundred_thousand)) < 300
    snapshot = Snapshot.seal(hundred_thousand)
    question = Client(snapshot, 60_000).start()
    assert fastest_ms(lambda: Server(snapshot, 60_000).answer_untrusted(question)) < 50
    assert Server(snapshot, 60_000).answer_untrusted(question) == b"\x61"


def changed(items: list[Item], count: int) -> list[Item]:
    """The same logs, `count` of them in another state: the key stays, the 15 bytes behind it do not."""
    source = random.Random(count)
    result = list(items)
    for index in source.sample(range(len(items)), count):
        result[index] = (0, items[index][1][:17] + source.randbytes(15))
    return result


def test_one_difference_in_a_hundred_thousand_costs_20_kb_and_6_round_trips_at_most(
    hundred_thousand: list[Item],
) -> None:
    for theirs in (hundred_thousand[1:], changed(hundred_thousand, 1)):
        done = exchange(hundred_thousand, theirs, 60_000)
        check_union(done, hundred_thousand, theirs)
        assert done.size <= 20_000
        assert done.rounds <= 6


def test_five_changed_logs_of_ten_thousand_cost_8_kb_at_most() -> None:
    ours = some_items(10_000)
    theirs = changed(ours, 5)
    done = exchange(ours, theirs, 60_000)
    check_union(done, ours, theirs)
    assert done.size <= 8_000


@pytest.mark.parametrize("ours", [0, 50, 100_000])
def test_a_hundred_thousand_unknown_logs_are_learnt_within_the_allowed_rounds(
    hundred_thousand: list[Item], ours: int
) -> None:
    held = changed(hundred_thousand, 100_000)[:ours]
    done = exchange(held, hundred_thousand, 60_000)
    check_union(done, held, hundred_thousand)
