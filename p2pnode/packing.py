"""Packing: entries of the store into bundles: a file for a stick, messages for a mailbox.

What somebody lacks is decided first, log by log; then runs are read and sealed as they come, membership in the order
in which it grew, so that whoever reads from the front knows each author before its entries.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from p2pnode.space import Space
from p2pnode.store import HeldLog, Lack, Store
from protocol.bundle import SALT_SIZE, Head, Part, Sealer, Seen
from protocol.entry import LogClass
from protocol.frontier import LogState, State
from protocol.limits import POSITIONS_PER_FRAME, RUN_ENTRIES_MAX, RUN_SIZE_MAX
from protocol.log import Run, lean
from protocol.mailbox import Cursor
from protocol.mask import Entropy
from protocol.messages import Positions, RunMessage

RUN_OVERHEAD = 256  # bytes of a run's frames beyond its columns
ENTRY_OVERHEAD = 160  # of a signature, refs or a hash in them, at most
COLUMNS_OVERHEAD = 24  # of what every entry has
ROOM_EIGHTHS = 5  # of a message that runs may take: frames of long payloads leave a quarter of a chunk empty
MESSAGE_SIZE_MIN = 64 * 1024  # a relay that takes no longer messages is of no use


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be packed: stretches of logs, and how many entries they are."""

    lacks: Sequence[Lack]
    entries: int


async def order(store: Store, space: Space, theirs: Mapping[bytes, LogState]) -> Order:
    """What we hold and somebody with this frontier does not. A log that differs from ours is packed whole."""
    states = await store.query(lambda db: store.log_states(db, space.no))
    differing = [ours for ours in states if theirs.get(ours.key) != ours]
    held: dict[bytes, HeldLog] = {}
    for at in range(0, len(differing), POSITIONS_PER_FRAME):
        held |= store.held(space.no, [ours.key for ours in differing[at : at + POSITIONS_PER_FRAME]])
    lacks = [
        Lack(ours.key, first, held[ours.key].head.high, held[ours.key].head.fork)
        for ours in differing
        if (first := _first_lacking(store, space, ours, theirs.get(ours.key))) is not None
    ]
    ranks = {author: rank for rank, author in enumerate(space.members.authors)}  # each behind who invited it
    lacks.sort(key=lambda lack: _place(lack.key, held[lack.key], ranks))
    return Order(lacks, sum(lack.last - lack.first + 1 for lack in lacks))


def _first_lacking(store: Store, space: Space, ours: LogState, theirs: LogState | None) -> int | None:
    if theirs is None:
        return 1
    if ours.state is State.FORKED:
        return min(ours.high, theirs.high) + 1 if theirs.state is State.ORDINARY or ours.high < theirs.high else None
    if theirs.state is State.FORKED or ours.high < theirs.high:
        return None
    if theirs.high == 0:
        return 1
    return theirs.high + 1 if store.id_at(space.no, ours.key, theirs.high) == theirs.newest else 1


def _place(key: bytes, log: HeldLog, ranks: Mapping[bytes, int]) -> tuple[int, int, int, bytes]:
    """Where a log stands in a bundle: membership by who invited whom, a claim first; the newest of the rest first."""
    if key[0] == LogClass.MEMBERSHIP:
        return (key[0], ranks.get(log.log.author, len(ranks)), log.head.lamport, key)
    return (key[0], 0, -log.head.lamport, key)


def runs(
    store: Store,
    space: Space,
    lacks: Sequence[Lack],
    size_max: int = RUN_SIZE_MAX,
    entries_max: int = RUN_ENTRIES_MAX,
) -> Iterator[Run]:
    """The runs of these stretches, each read when it is asked for; what is damaged here is left out."""
    for lack in lacks:
        log = store.held(space.no, [lack.key]).get(lack.key)
        first = lack.first
        while log is not None and first <= lack.last:
            run = store.read_held(space.no, log, first, entries_max, size_max)
            if run is None:
                break
            yield lean(run)
            first = run.last_seq + 1
        if lack.fork is not None and first > lack.last:
            evidence = store.fork_evidence(space.no, lack.key)
            if evidence is not None:
                yield lean(evidence)


def file_parts(store: Store, space: Space, frontier: Sequence[LogState], order: Order) -> Iterator[Part]:
    """The parts of a bundle for a stick: with the frontier, so that the answer can be an exact difference."""
    yield Head(order.entries)
    for at in range(0, len(frontier), POSITIONS_PER_FRAME):
        yield Positions(tuple(frontier[at : at + POSITIONS_PER_FRAME]))
    for run in runs(store, space, order.lacks):
        yield RunMessage(run)


@dataclass(frozen=True, slots=True)
class Packed:
    """A sealed message and the runs in it."""

    message: bytes
    runs: Sequence[Run]


def messages(
    store: Store, space: Space, lacks: Sequence[Lack], size_max: int, cursor: Cursor, entropy: Entropy
) -> Iterator[Packed]:
    """Bundles of at most `size_max` bytes for a mailbox that stands at this cursor."""
    for share in fitting(store, space, lacks, size_max):
        yield seal_message(space.epochs[-1], share, cursor, entropy)


def fitting(store: Store, space: Space, lacks: Sequence[Lack], size_max: int) -> Iterator[Sequence[Run]]:
    """The runs of these stretches, in shares that fit into bundles of `size_max` bytes."""
    half = _room(size_max) // 2  # for payloads, and as much for what stands around them
    entries_max = min(half // (ENTRY_OVERHEAD + COLUMNS_OVERHEAD), RUN_ENTRIES_MAX)
    return shares(runs(store, space, lacks, half, entries_max), size_max)


def shares(runs: Iterable[Run], size_max: int) -> Iterator[Sequence[Run]]:
    """Runs in shares that fit into bundles of `size_max` bytes; none is longer than half of one."""
    waiting: list[Run] = []
    size = 0
    for run in runs:
        more = _size_max(run)
        if waiting and size + more > _room(size_max):
            yield waiting
            waiting, size = [], 0
        waiting.append(run)
        size += more
    if waiting:
        yield waiting


def _room(size_max: int) -> int:
    return size_max * ROOM_EIGHTHS // 8


def seal_message(secret: bytes, runs: Sequence[Run], cursor: Cursor, entropy: Entropy) -> Packed:
    """One message for a topic."""
    sealer = Sealer(secret, entropy(SALT_SIZE))
    pieces = [sealer.put(Seen(cursor)), *(sealer.put(RunMessage(run)) for run in runs), sealer.finish()]
    return Packed(b"".join(pieces), runs)


def _size_max(run: Run) -> int:
    payloads = sum(len(payload) for payload in run.payloads if payload is not None)
    sparse = len(run.signatures) + len(run.lacks) + len(run.refs)
    return RUN_OVERHEAD + payloads + ENTRY_OVERHEAD * sparse + COLUMNS_OVERHEAD * len(run)
