"""Runs: rebuilt, proven and judged."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import keys
from protocol.entry import Kind, LogClass, LogIdentity, entry_id, payload_hash, tail
from protocol.errors import RemoteProtocolError
from protocol.limits import (
    CHECKPOINT_INTERVAL,
    CHECKPOINT_PAYLOAD_SIZE,
    KIND_MAX,
    LAMPORT_MAX,
    PAYLOAD_SIZE_MAX,
    RUN_ENTRIES_MAX,
    RUN_SIZE_MAX,
    SEQ_MAX,
    TIME_MAX,
)
from protocol.log import (
    Head,
    Judgement,
    Run,
    Verdict,
    judge,
    must_be_signed,
    prove_untrusted,
    rebuild,
    rebuild_untrusted,
)

SPACE = b"\x05" * 32
SEED = b"\x2a" * 32
OTHER_SEED = b"\x2b" * 32


def log_of(seed: bytes = SEED, log_class: LogClass = LogClass.REPORT) -> LogIdentity:
    return LogIdentity(SPACE, keys.signer_public(seed), b"\x08" * 8, log_class)


def write(
    payloads: Sequence[bytes],
    first_seq: int = 1,
    prev: bytes | None = None,
    lamport: int = 1,
    seed: bytes = SEED,
    log: LogIdentity | None = None,
    kind: int = Kind.REPORT,
) -> Run:
    """The run that an honest author makes of these payloads, with the signatures it must carry and no other."""
    count = len(payloads)
    run = rebuild(
        SPACE,
        log or log_of(seed),
        first_seq,
        prev,
        list(range(lamport, lamport + count)),
        [1_900_000] * count,
        [int(kind)] * count,
        list(payloads),
        {},
        {},
        {},
    )
    secret = keys.signer_secret(seed)
    return replace(
        run,
        signatures={
            index: keys.sign(secret, keys.SIGN_ENTRY, run.ids[index])
            for index, payload in enumerate(payloads)
            if must_be_signed(index, count, first_seq + index, len(payload))
        },
    )


def extend(run: Run, payloads: Sequence[bytes]) -> Run:
    return write(payloads, run.last_seq + 1, run.ids[-1], run.lamports[-1] + 1)


def signed(run: Run, seed: bytes = SEED) -> Run:
    """The same columns with the ids and signatures that fit them."""
    again = rebuild(run.space, run.log, run.first_seq, run.prev, *mutable(run)[4:7], *mutable(run)[7:])
    secret = keys.signer_secret(seed)
    return replace(again, signatures={i: keys.sign(secret, keys.SIGN_ENTRY, again.ids[i]) for i in run.signatures})


def mutable(run: Run) -> list[Any]:
    """The columns of a run as RunReader hands them over."""
    return [
        run.space,
        run.log,
        run.first_seq,
        run.prev,
        list(run.lamports),
        list(run.times),
        list(run.kinds),
        list(run.payloads),
        dict(run.signatures),
        dict(run.refs),
        dict(run.lacks),
    ]


def receive(run: Run) -> Run:
    return prove_untrusted(rebuild_untrusted(*mutable(run)))


def refused(run: Run) -> bool:
    try:
        receive(run)
    except RemoteProtocolError:
        return True
    return False


def texts(count: int, mark: int = 0) -> list[bytes]:
    return [bytes([mark]) * 16 + index.to_bytes(4, "big") for index in range(count)]


# Runs that pass


@given(st.integers(1, 200), st.integers(1, 200), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_an_honest_run_is_rebuilt_to_the_same_ids(count: int, skip: int, source: random.Random) -> None:
    run = write([source.randbytes(source.randrange(60)) for _ in range(count)])
    assert receive(run) == run
    later = run.since(min(skip, count))
    assert receive(later) == later
    assert later.last_seq == run.last_seq
    assert later.ids == run.ids[later.first_seq - 1 :]
    assert later.prev == run.prev_of(later.first_seq - 1)


def test_an_id_is_the_hash_of_the_whole_header() -> None:
    run = write([b"one", b"two"])
    head = run.log.head()
    first = entry_id(head + tail(1, None, 1, 1_900_000, Kind.REPORT, 3, payload_hash(b"one"), ()))
    second = entry_id(head + tail(2, first, 2, 1_900_000, Kind.REPORT, 3, payload_hash(b"two"), ()))
    assert list(run.ids) == [first, second]


def test_a_payload_that_is_absent_leaves_the_ids_as_they_were() -> None:
    run = write(texts(5))
    lacking = replace(
        run,
        payloads=[*run.payloads[:2], None, *run.payloads[3:]],
        lacks={2: (20, payload_hash(run.payloads[2] or b""))},
    )
    assert receive(lacking).ids == run.ids
    assert receive(lacking).since(3).lacks == {0: lacking.lacks[2]}
    assert receive(lacking).since(4).lacks == {}


def test_references_count_in_the_id_and_move_with_their_entry() -> None:
    plain = write(texts(3))
    entangled = signed(replace(plain, refs={1: (b"\x01" * 32, b"\x02" * 32)}))
    assert receive(entangled).refs == entangled.refs
    assert entangled.ids[0] == plain.ids[0]
    assert entangled.ids[1] != plain.ids[1]
    assert entangled.since(2).refs == {0: (b"\x01" * 32, b"\x02" * 32)}


def test_a_run_of_the_largest_count_and_one_of_the_largest_size_pass() -> None:
    assert len(receive(write(texts(RUN_ENTRIES_MAX)))) == RUN_ENTRIES_MAX
    full = [bytes(PAYLOAD_SIZE_MAX)] * (RUN_SIZE_MAX // PAYLOAD_SIZE_MAX)
    assert len(receive(write(full))) == len(full)


def test_the_last_seq_and_lamport_there_are_can_be_used() -> None:
    run = write(texts(2), first_seq=SEQ_MAX - 1, prev=b"\x01" * 32, lamport=LAMPORT_MAX - 1)
    assert receive(run).last_seq == SEQ_MAX


def test_a_founding_entry_passes_in_the_space_that_it_founds_and_in_no_other() -> None:
    founding = found()
    assert receive(founding) == founding
    with pytest.raises(RemoteProtocolError):
        receive(replace(founding, space=b"\x06" * 32))


def found() -> Run:
    return founded_with([b"founding"])


def founded_with(payloads: Sequence[bytes]) -> Run:
    """A founding entry, and what its author would put behind it."""
    log = LogIdentity(None, keys.signer_public(SEED), b"\x08" * 8, LogClass.MEMBERSHIP)
    run = write(payloads, log=log, kind=Kind.FOUNDING)
    return replace(run, space=run.ids[0])


# Runs that are malformed

GOOD = write(texts(130))
CHECKPOINTS = [63, 127, 129]  # seq 64, seq 128 and the last


def with_value(run: Run, name: str, index: int, value: Any) -> Run:
    """The run with one value of a column replaced, its ids and signatures left as they are."""
    values: Any = [*getattr(run, name)[:index], value, *getattr(run, name)[index + 1 :]]
    return replace(run, **{name: values})


def column(name: str, index: int, value: Any) -> Callable[[Run], Run]:
    def change(run: Run) -> Run:
        return signed(with_value(run, name, index, value))

    return change


MALFORMED: dict[str, Callable[[Run], Run]] = {
    "no entry": lambda run: replace(run, payloads=[], lamports=[], times=[], kinds=[], signatures={}),
    "a lamport too few": lambda run: replace(run, lamports=run.lamports[:-1]),
    "a time too many": lambda run: replace(run, times=[*run.times, 1]),
    "a kind too few": lambda run: replace(run, kinds=run.kinds[:-1]),
    "seq 0": lambda run: replace(run, first_seq=0),
    "seq over the end": lambda run: write(texts(3), first_seq=SEQ_MAX - 1, prev=b"\x01" * 32),
    "an entry before the first": lambda run: replace(run, prev=b"\x01" * 32),
    "none before the second": lambda run: replace(run, first_seq=2),
    "prev of 31 bytes": lambda run: replace(run, first_seq=2, prev=b"\x01" * 31),
    "lamport 0": column("lamports", 0, 0),
    "lamport repeats": column("lamports", 5, 5),
    "lamport falls": column("lamports", 5, 1),
    "lamport over the limit": column("lamports", 129, LAMPORT_MAX + 1),
    "time below 0": column("times", 77, -1),
    "time over the limit": column("times", 77, TIME_MAX + 1),
    "kind below 0": column("kinds", 77, -1),
    "kind over the limit": column("kinds", 77, KIND_MAX + 1),
    "payload over the limit": lambda run: write([bytes(PAYLOAD_SIZE_MAX + 1)]),
    "large payload unsigned": column("payloads", 77, bytes(CHECKPOINT_PAYLOAD_SIZE + 1)),
    "five references": lambda run: signed(replace(run, refs={3: tuple(bytes([n]) * 32 for n in range(5))})),
    "references fall": lambda run: signed(replace(run, refs={3: (b"\x02" * 32, b"\x01" * 32)})),
    "reference twice": lambda run: signed(replace(run, refs={0: (b"\x02" * 32, b"\x02" * 32)})),
    "reference of 31 bytes": lambda run: signed(replace(run, refs={3: (b"\x02" * 31,)})),
    "no references, said": lambda run: signed(replace(run, refs={3: ()})),
    "references of no entry": lambda run: replace(run, refs={130: (b"\x02" * 32,)}),
    "references before the first": lambda run: replace(run, refs={-1: (b"\x02" * 32,)}),
    "length of a payload that is there": lambda run: replace(run, lacks={3: (20, bytes(32))}),
    "length of no entry": lambda run: replace(run, lacks={130: (20, bytes(32))}),
    "payload absent without length": lambda run: replace(run, payloads=[None, *run.payloads[1:]]),
    "length over the limit": lambda run: lacking(run, PAYLOAD_SIZE_MAX + 1, bytes(32)),
    "length below 0": lambda run: lacking(run, -1, bytes(32)),
    "hash of 31 bytes": lambda run: lacking(run, 20, bytes(31)),
    "absent large payload unsigned": lambda run: signed(lacking(run, CHECKPOINT_PAYLOAD_SIZE + 1, bytes(32))),
    "signature of no entry": lambda run: replace(run, signatures={**run.signatures, 130: bytes(64)}),
    "signature before the first": lambda run: replace(run, signatures={**run.signatures, -1: bytes(64)}),
    "signature of 63 bytes": lambda run: replace(run, signatures={**run.signatures, 3: bytes(63)}),
    "another space": lambda run: replace(run, space=b"\x06" * 32),
    "founding log of two": lambda run: founded_with(texts(2)),
}


def lacking(run: Run, size: int, digest: bytes) -> Run:
    return replace(run, payloads=[*run.payloads[:3], None, *run.payloads[4:]], lacks={3: (size, digest)})


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_run_is_refused_before_its_signatures_are_looked_at(change: Callable[[Run], Run]) -> None:
    with pytest.raises(RemoteProtocolError):
        rebuild_untrusted(*mutable(change(GOOD)))


@pytest.mark.parametrize("index", CHECKPOINTS)
def test_a_checkpoint_without_its_signature_is_refused(index: int) -> None:
    without = {at: signature for at, signature in GOOD.signatures.items() if at != index}
    assert sorted(GOOD.signatures) == CHECKPOINTS
    with pytest.raises(RemoteProtocolError):
        rebuild_untrusted(*mutable(replace(GOOD, signatures=without)))


def test_one_entry_or_one_byte_too_many_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        rebuild_untrusted(*mutable(write(texts(RUN_ENTRIES_MAX + 1))))
    payloads = [bytes(PAYLOAD_SIZE_MAX)] * (RUN_SIZE_MAX // PAYLOAD_SIZE_MAX)
    with pytest.raises(RemoteProtocolError):
        rebuild_untrusted(*mutable(write([*payloads, b"\0"])))


def test_a_founding_entry_inside_a_space_or_behind_another_entry_is_refused() -> None:
    membership = log_of(log_class=LogClass.MEMBERSHIP)
    for kinds in ([0], [1, 0]):
        run = write(texts(len(kinds)), log=membership, kind=Kind.INVITE)
        with pytest.raises(RemoteProtocolError):
            rebuild_untrusted(*mutable(signed(replace(run, kinds=kinds))))


def test_large_payloads_and_every_64th_entry_must_be_signed() -> None:
    assert must_be_signed(9, 10, 10, 0)
    assert not must_be_signed(8, 10, 9, CHECKPOINT_PAYLOAD_SIZE)
    assert must_be_signed(8, 10, 9, CHECKPOINT_PAYLOAD_SIZE + 1)
    assert must_be_signed(0, 10, CHECKPOINT_INTERVAL, 0)
    assert not must_be_signed(0, 10, CHECKPOINT_INTERVAL + 1, 0)


# Runs that are forged


def test_every_bit_flipped_in_a_signature_is_refused() -> None:
    run = write(texts(3))
    for bit in range(64 * 8):
        signature = bytearray(run.signatures[2])
        signature[bit // 8] ^= 1 << bit % 8
        assert refused(replace(run, signatures={2: bytes(signature)}))


def test_every_bit_flipped_in_what_a_run_carries_is_refused() -> None:
    run = extend(write(texts(3)), texts(2))
    for changed in flips(run.log.author):
        assert refused(replace(run, log=replace(run.log, author=changed)))
    for changed in flips(run.log.log_id):
        assert refused(replace(run, log=replace(run.log, log_id=changed)))
    for changed in flips(run.prev or b""):
        assert refused(replace(run, prev=changed))
    for changed in flips(run.payloads[0] or b""):
        assert refused(replace(run, payloads=[changed, *run.payloads[1:]]))


def flips(data: bytes) -> list[bytes]:
    whole = int.from_bytes(data, "big")
    return [(whole ^ (1 << bit)).to_bytes(len(data), "big") for bit in range(len(data) * 8)]


@given(
    st.sampled_from(["lamports", "times", "kinds"]),
    st.integers(0, 9),
    st.integers(0, 300) | st.integers(0, LAMPORT_MAX),
)
def test_any_other_number_in_a_header_is_refused(name: str, index: int, value: int) -> None:
    run = write(texts(10))
    assert refused(with_value(run, name, index, value)) == (getattr(run, name)[index] != value)


def test_another_class_first_seq_or_reference_is_refused() -> None:
    run = extend(write(texts(3)), texts(2))
    for log_class in (LogClass.MEMBERSHIP, LogClass.VOICE):
        assert refused(replace(run, log=replace(run.log, log_class=log_class)))
    assert refused(replace(run, first_seq=run.first_seq + 1))
    assert refused(replace(run, refs={0: (b"\x01" * 32,)}))
    assert refused(replace(run, lacks={0: (20, bytes(32))}, payloads=[None, *run.payloads[1:]]))


def test_a_run_cut_short_spliced_or_reordered_is_refused() -> None:
    run = write(texts(130))
    other = write(texts(130, mark=1))
    for count in (1, 64, 100, 129):
        kept = {index: value for index, value in run.signatures.items() if index < count}
        columns = {name: getattr(run, name)[:count] for name in ("lamports", "times", "kinds", "payloads", "ids")}
        part = replace(run, **columns, signatures=kept)
        assert refused(part) == (count != 64)  # at a checkpoint a run may end
        moved = replace(part, signatures={**kept, count - 1: run.signatures[129]})
        assert refused(moved)
    assert refused(replace(run, payloads=[*run.payloads[:100], *other.payloads[100:]]))
    assert refused(replace(run, payloads=[*other.payloads[:1], *run.payloads[1:]]))
    assert refused(replace(run, payloads=[run.payloads[1], run.payloads[0], *run.payloads[2:]]))
    assert refused(replace(run, signatures=other.signatures))
    assert refused(replace(run, signatures={**run.signatures, 63: other.signatures[63]}))


def test_a_run_that_starts_later_than_it_says_is_refused() -> None:
    run = write(texts(10)).since(4)
    assert refused(replace(run, prev=write(texts(10)).ids[3]))
    assert not refused(run)


def test_a_run_signed_by_another_author_or_under_a_wrong_extra_signature_is_refused() -> None:
    run = write(texts(5))
    assert refused(signed(run, OTHER_SEED))
    wrong = keys.sign(keys.signer_secret(SEED), keys.SIGN_ENTRY, run.ids[0])
    assert refused(replace(run, signatures={**run.signatures, 1: wrong}))
    assert refused(replace(run, log=log_of(OTHER_SEED)))
    claim = keys.sign(keys.signer_secret(SEED), keys.SIGN_CLAIM, run.ids[4])
    assert refused(replace(run, signatures={4: claim}))


# Judging


@dataclass
class Held:
    """A log as a node holds it."""

    ids: list[bytes]
    lamport: int
    fork: int | None = None
    looked_up: int = 0

    @classmethod
    def of(cls, run: Run, fork: int | None = None) -> "Held":
        return cls(list(run.ids), run.lamports[-1], fork)

    def judge(self, run: Run) -> Judgement:
        head = Head(len(self.ids), self.ids[-1] if self.ids else None, self.lamport, self.fork)
        return judge(head, run, self.id_at)

    def id_at(self, seq: int) -> bytes | None:
        self.looked_up += 1
        return self.ids[seq - 1] if 1 <= seq <= len(self.ids) else None


WHOLE = write(texts(40))
BRANCH = extend(replace(WHOLE, **{n: getattr(WHOLE, n)[:20] for n in ("lamports", "ids")}), texts(20, mark=9))


def part(run: Run, first: int, last: int) -> Run:
    """The entries with these seqs, as if an honest sender had cut the run there."""
    run = run.since(first)
    count = last - first + 1
    return replace(
        run, **{name: getattr(run, name)[:count] for name in ("lamports", "times", "kinds", "payloads", "ids")}
    )


def test_a_log_not_held_takes_a_run_from_the_first_entry_and_no_other() -> None:
    nothing = Held([], 0)
    assert nothing.judge(WHOLE) == Judgement(Verdict.EXTENDS, WHOLE)
    assert nothing.judge(WHOLE.since(2)) == Judgement(Verdict.EARLY)


@pytest.mark.parametrize("high", [1, 19, 39])
def test_a_run_that_overlaps_or_adjoins_extends_by_its_new_part(high: int) -> None:
    held = Held.of(part(WHOLE, 1, high))
    for first in (1, high, high + 1):
        judgement = held.judge(WHOLE.since(first))
        assert judgement.verdict is Verdict.EXTENDS
        assert judgement.run == WHOLE.since(high + 1)


def test_a_run_that_is_held_already_is_known_wherever_it_lies() -> None:
    held = Held.of(WHOLE)
    for first, last in ((1, 40), (1, 1), (40, 40), (7, 22)):
        assert held.judge(part(WHOLE, first, last)) == Judgement(Verdict.KNOWN)


def test_a_run_behind_a_gap_is_early() -> None:
    held = Held.of(part(WHOLE, 1, 10))
    assert held.judge(WHOLE.since(12)) == Judgement(Verdict.EARLY)
    assert held.judge(BRANCH) == Judgement(Verdict.EARLY)


def test_a_second_branch_is_a_fork_at_the_first_entry_that_differs() -> None:
    held = Held.of(WHOLE)
    assert held.judge(BRANCH) == Judgement(Verdict.FORK, seq=21)
    assert held.judge(BRANCH.since(30)) == Judgement(Verdict.FORK, seq=29)  # its prev proves no more than that
    assert Held.of(part(WHOLE, 1, 21)).judge(BRANCH) == Judgement(Verdict.FORK, seq=21)
    assert Held.of(part(WHOLE, 1, 21)).judge(BRANCH.since(22)) == Judgement(Verdict.FORK, seq=21)
    assert Held.of(WHOLE).judge(write(texts(1, mark=9))) == Judgement(Verdict.FORK, seq=1)


def test_a_forked_log_takes_nothing_beyond_and_only_a_lower_fork_is_news() -> None:
    held = Held.of(WHOLE, fork=30)
    assert held.judge(extend(WHOLE, texts(3))) == Judgement(Verdict.HELD)
    assert held.judge(extend(WHOLE, texts(9)).since(45)) == Judgement(Verdict.HELD)
    assert held.judge(BRANCH.since(31)) == Judgement(Verdict.HELD)
    assert held.judge(BRANCH) == Judgement(Verdict.FORK, seq=21)
    assert held.judge(part(WHOLE, 1, 30)) == Judgement(Verdict.KNOWN)
    assert Held.of(WHOLE, fork=21).judge(BRANCH) == Judgement(Verdict.HELD)
    assert Held.of(WHOLE, fork=5).judge(BRANCH) == Judgement(Verdict.HELD)
    assert Held.of(part(WHOLE, 1, 20), fork=21).judge(BRANCH) == Judgement(Verdict.HELD)


def test_a_lamport_that_does_not_rise_over_what_is_held_is_refused() -> None:
    held = Held.of(part(WHOLE, 1, 20))
    for lamport in (1, 20):
        run = write(texts(2), first_seq=21, prev=WHOLE.ids[19], lamport=lamport)
        assert not refused(run)
        with pytest.raises(RemoteProtocolError):
            held.judge(run)
    run = write(texts(2), first_seq=21, prev=WHOLE.ids[19], lamport=21)
    assert held.judge(run) == Judgement(Verdict.EXTENDS, run)


def test_a_log_whose_fork_is_the_first_entry_stays_held() -> None:
    assert Held.of(part(WHOLE, 1, 1), fork=1).judge(WHOLE.since(2)) == Judgement(Verdict.HELD)


def naive(held: Held, run: Run) -> tuple[Verdict, int]:
    """Every entry compared with every entry held, one by one."""
    if held.fork is not None and run.first_seq > held.fork:
        return Verdict.HELD, 0
    if run.first_seq > len(held.ids) + 1:
        return Verdict.EARLY, 0
    claimed = {run.first_seq + index: id for index, id in enumerate(run.ids)}
    if run.prev is not None:
        claimed[run.first_seq - 1] = run.prev
    differing = [seq for seq in sorted(claimed) if seq <= len(held.ids) and held.ids[seq - 1] != claimed[seq]]
    if differing and (held.fork is None or differing[0] < held.fork):
        return Verdict.FORK, differing[0]
    if not differing and run.last_seq <= len(held.ids):
        return Verdict.KNOWN, 0
    return (Verdict.HELD if held.fork is not None else Verdict.EXTENDS), 0


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_judging_agrees_with_comparing_every_entry(data: st.DataObject) -> None:
    branch_at = data.draw(st.integers(1, 40))
    trunk = part(WHOLE, 1, branch_at - 1).ids if branch_at > 1 else []
    branch = write(
        texts(41 - branch_at, mark=9), branch_at, trunk[-1] if trunk else None, branch_at
    )  # like WHOLE up to branch_at
    high = data.draw(st.integers(0, 40))
    held = Held(list(WHOLE.ids[:high]), high, data.draw(st.none() | st.integers(1, high + 1)))
    source = data.draw(st.sampled_from([WHOLE, branch]))
    first = data.draw(st.integers(source.first_seq, source.last_seq))
    last = data.draw(st.integers(first, source.last_seq))
    run = part(source, first, last)
    judgement = held.judge(run)
    assert (judgement.verdict, judgement.seq) == naive(held, run)
    assert (judgement.run is not None) == (judgement.verdict is Verdict.EXTENDS)


def test_judging_a_long_overlap_takes_few_look_ups() -> None:
    run = write(texts(RUN_ENTRIES_MAX))
    held = Held.of(run)
    assert held.judge(run).verdict is Verdict.KNOWN
    assert held.looked_up <= 12


@given(st.permutations(range(4)))
@settings(deadline=None)
def test_evidence_in_any_order_ends_at_the_lowest_fork(order: list[int]) -> None:
    evidence = [
        BRANCH,
        write(texts(3, mark=7), 11, WHOLE.ids[9], 11),
        BRANCH.since(30),
        write(texts(1, mark=8), 40, WHOLE.ids[38], 40),
    ]
    held = Held.of(WHOLE)
    for index in order:
        judgement = held.judge(evidence[index])
        assert judgement.verdict in (Verdict.FORK, Verdict.HELD)
        if judgement.verdict is Verdict.FORK:
            assert held.fork is None or judgement.seq < held.fork
            held.fork = judgement.seq
    assert held.fork == 11


def test_what_follows_a_founding_entry_under_its_log_id_never_touches_it() -> None:
    founding = found()
    later = LogIdentity(founding.space, founding.log.author, founding.log.log_id, LogClass.MEMBERSHIP)
    second = replace(write(texts(1), 2, founding.ids[0], 2, log=later, kind=Kind.INVITE), space=founding.space)
    first = replace(write(texts(1), log=later, kind=Kind.INVITE), space=founding.space)
    assert not refused(second)
    assert founding.key not in (second.key, first.key)
    assert Held([], 0).judge(second) == Judgement(Verdict.EARLY)
