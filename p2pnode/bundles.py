"""Bundles: sealed files of entries, out of the store and into it, with bounded memory whatever their size.

The file is opened by whoever asks, who may do more than the daemon: it comes here as a descriptor. One thread reads and
opens chunks while the writer's thread commits what the chunks before them held.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import trio

from p2pnode import packing
from p2pnode.exchange import Exchange
from p2pnode.failures import CommandError, Exit
from p2pnode.space import Space
from p2pnode.store import Store
from p2pnode.unpacking import Rehearsal, Taking, Tally
from protocol.bundle import SALT_SIZE, Damaged, Found, Malformed, Opener, Sealer, Unsealer
from protocol.frontier import LogState
from protocol.limits import BUNDLE_CHUNK_SIZE, BUNDLE_SEGMENT_CHUNKS
from protocol.log import Run
from protocol.mask import Entropy
from protocol.messages import Positions, RunMessage

WRITE_SIZE = 1024 * 1024  # bytes written at a time
COMMIT_ENTRIES = 8192  # entries that share a transaction, at most about so many
COMMIT_SIZE = 1024 * 1024  # bytes of the file that do: three times as much is in memory, read, waiting and committed
FOREIGN_SEGMENTS_MAX = 256  # 1 GiB of which nothing opens is not a damaged bundle, it is none of ours
THEIRS_MAX = 2**18  # logs of a maker's frontier that are remembered; it may say what it likes

BUNDLE_SEGMENT_SIZE = BUNDLE_CHUNK_SIZE * BUNDLE_SEGMENT_CHUNKS

T = TypeVar("T")
Told = Callable[[int, int], None]  # hears how many bytes, or entries, of how many are done


@dataclass(frozen=True, slots=True)
class Reading:
    """What an import came to. `damaged` counts places that could not be read; `whole` that the end was there."""

    space: Space
    tally: Tally
    damaged: int
    whole: bool

    def as_json(self) -> dict[str, Any]:
        """What `bundle import --json` prints."""
        told = {"space": self.space.id.hex(), **asdict(self.tally)}
        return {**told, "damaged": self.damaged, "whole": self.whole}


async def read(
    exchange: Exchange, spaces: Mapping[bytes, Space], descriptor: int, *, dry_run: bool, told: Told
) -> Reading:
    """Takes what a bundle holds, or only says what it would. Raises CommandError for a file that does not open."""
    size = _regular_size(descriptor)
    openers = [Opener(space.id, secret) for space in spaces.values() for secret in reversed(space.epochs)]
    source = _Source(descriptor, size, openers)
    send, receive = trio.open_memory_channel[Sequence[Found]](1)
    taking: Taking | Rehearsal | None = None
    remembered = damaged = 0
    exchange.unpacking += 1  # listing waits meanwhile
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, source, send)
            async for found in receive:
                if taking is None and source.opener is not None:
                    taking = await _begun(exchange, spaces[source.opener.space], dry_run=dry_run)
                runs: list[Run] = []
                frontier: list[LogState] = []
                for part in found:
                    match part:
                        case RunMessage(unproven):
                            runs.append(unproven)
                        case Positions(positions):
                            frontier += positions
                        case Damaged() | Malformed():
                            damaged += 1
                        case _:
                            pass
                if frontier and source.opener is not None and not dry_run:
                    space = spaces[source.opener.space]
                    room = max(THEIRS_MAX - remembered, 0)
                    await exchange.store.relays.keep_theirs(space.no, frontier[:room], anew=not remembered)
                    remembered += len(frontier)
                if runs and taking is not None:
                    await taking.take(runs)
                told(source.done, size)
    finally:
        exchange.unpacking -= 1
    if source.opener is None:
        raise CommandError(Exit.REFUSED, "bundle.foreign")
    if taking is not None:
        await taking.finish()
    tally = Tally() if taking is None else taking.tally
    return Reading(spaces[source.opener.space], tally, damaged, source.whole)


async def frontier_of(space: Space, descriptor: int) -> dict[bytes, LogState]:
    """The frontier of whoever made a bundle of this space. Raises CommandError where there is none to be had."""
    size = _regular_size(descriptor)
    source = _Source(descriptor, size, [Opener(space.id, secret) for secret in reversed(space.epochs)])
    frontier: dict[bytes, LogState] = {}
    while (found := await _in_thread(source.next)) is not None:
        for part in found:
            match part:
                case Positions(positions) if len(frontier) < THEIRS_MAX:
                    frontier |= {state.key: state for state in positions}
                case RunMessage():  # positions come first
                    return frontier
                case _:
                    pass
    if source.opener is None:
        raise CommandError(Exit.REFUSED, "bundle.foreign")
    return frontier


async def write(
    store: Store,
    space: Space,
    descriptor: int,
    theirs: Mapping[bytes, LogState],
    *,
    entropy: Entropy,
    told: Told,
) -> dict[str, Any]:
    """Writes what somebody with this frontier lacks into an empty file, and sees it onto the disk."""
    if _regular_size(descriptor):
        raise CommandError(Exit.FAILED, "bundle.exists")
    order = await packing.order(store, space, theirs)
    frontier = await store.query(lambda db: store.log_states(db, space.no))
    sealer = Sealer(space.epochs[-1], entropy(SALT_SIZE))
    waiting: list[bytes] = []
    entries = size = 0
    for part in packing.file_parts(store, space, frontier, order):
        waiting.append(sealer.put(part))
        entries += len(part.unproven) if isinstance(part, RunMessage) else 0
        if sum(map(len, waiting)) >= WRITE_SIZE:
            size += await _written(descriptor, size, waiting)
            told(entries, order.entries)
        await trio.lowlevel.checkpoint()
    waiting.append(sealer.finish())
    size += await _written(descriptor, size, waiting)
    await _in_thread(partial(os.fsync, descriptor))
    return {"entries": entries, "bytes": size}


class _Source:
    """A bundle's file as it was when it was asked for, a few chunks at a time. `next` may be called in a thread."""

    def __init__(self, descriptor: int, size: int, openers: Sequence[Opener]) -> None:
        self.done = 0
        self._descriptor = descriptor
        self._size = size  # what is written behind it meanwhile is not waited for
        self._openers = openers
        self._unsealer: Unsealer | None = None

    @property
    def opener(self) -> Opener | None:
        return None if self._unsealer is None else self._unsealer.opener

    @property
    def whole(self) -> bool:
        return self._unsealer is not None and self._unsealer.whole

    def next(self) -> list[Found] | None:
        """What the next entries' worth of chunks holds, None where nothing more can be of use."""
        if self._unsealer is None:
            self._unsealer = Unsealer(self._read(SALT_SIZE), self._openers)
        found: list[Found] = []
        entries = size = 0
        while entries < COMMIT_ENTRIES and size < COMMIT_SIZE:
            chunk = self._read(BUNDLE_CHUNK_SIZE)
            if not chunk:
                return found or None
            parts = self._unsealer.read_untrusted(chunk)
            self._leave_out(self._unsealer)
            found += parts
            size += len(chunk)
            entries += sum(len(part.unproven) for part in parts if isinstance(part, RunMessage))
        return found

    def _leave_out(self, unsealer: Unsealer) -> None:
        """Goes to where reading has sense again: the next segment, or the end of the file."""
        self.done = min(self.done + unsealer.skip() * BUNDLE_CHUNK_SIZE, self._size)
        foreign = unsealer.opener is None and self.done > FOREIGN_SEGMENTS_MAX * BUNDLE_SEGMENT_SIZE
        if foreign or unsealer.behind:
            self.done = self._size

    def _read(self, size: int) -> bytes:
        pieces = []
        size = min(size, self._size - self.done)
        while size and (piece := os.pread(self._descriptor, size, self.done)):
            pieces.append(piece)
            size -= len(piece)
            self.done += len(piece)
        return b"".join(pieces)


async def _pass_on(source: _Source, send: "trio.MemorySendChannel[Sequence[Found]]") -> None:
    async with send:
        while (found := await _in_thread(source.next)) is not None:
            await send.send(found)


async def _begun(exchange: Exchange, space: Space, *, dry_run: bool) -> Taking | Rehearsal:
    if not dry_run:
        return Taking(exchange, space)
    twin = await exchange.store.write(lambda db: space.copied(), durable=False)
    return Rehearsal(exchange.store, twin)


async def _written(descriptor: int, at: int, waiting: list[bytes]) -> int:
    """Writes all of what waits behind what is there, and empties it; how many bytes."""
    data = b"".join(waiting)
    waiting.clear()
    await _in_thread(partial(_write_all, descriptor, at, data))
    return len(data)


async def _in_thread(job: Callable[[], T]) -> T:
    """Reads or writes. Raises CommandError for what the disk or the stick refuses."""
    try:
        return await trio.to_thread.run_sync(job)
    except OSError as error:
        raise CommandError(Exit.FAILED, "bundle.disk", reason=error.strerror) from error


def _write_all(descriptor: int, at: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count


def _regular_size(descriptor: int) -> int:
    """The size of the file. Raises CommandError for a pipe or a device, which might keep a thread for ever."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise CommandError(Exit.REFUSED, "bundle.no_file")
    return found.st_size
