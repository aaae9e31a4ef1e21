"""Storing: small logs with real signatures, and a store to put them in."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from p2pnode.store import Store
from protocol import keys, report, statement
from protocol.entry import Kind, LogClass, LogIdentity, payload_hash
from protocol.log import Run, must_be_signed, rebuild
from protocol.report import Report
from protocol.statement import Founding

KEY = b"k" * 32
NOW = 1_800_000_000


@dataclass
class Everybody:
    """A gate that takes whatever comes, and remembers what it was told."""

    told: list[str] = field(default_factory=list)
    admit: bool = True

    def admits(self, run: Run, /) -> bool:
        self.told.append("admits")
        return self.admit

    def taken(self, run: Run, /) -> None:
        self.told.append("taken")

    def committed(self) -> None:
        self.told.append("committed")

    def rolled_back(self) -> None:
        self.told.append("rolled back")


def seed_of(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=32).digest()


def signed(run: Run, author: str) -> Run:
    secret = keys.signer_secret(seed_of(author))
    return replace(
        run,
        signatures={
            index: keys.sign(secret, keys.SIGN_ENTRY, run.ids[index])
            for index, payload in enumerate(run.payloads)
            if must_be_signed(index, len(run), run.first_seq + index, len(payload or b""))
        },
    )


def founding(name: str = "founder") -> Run:
    body = Founding("vecinos", name, statement.epoch_hash(b"e" * 32))
    log = LogIdentity(None, keys.signer_public(seed_of(name)), b"founding", LogClass.MEMBERSHIP)
    payload = statement.encode(body, bytes(16))
    run = rebuild(b"", log, 1, None, [1], [2_000_000], [int(Kind.FOUNDING)], [payload], {}, {}, {})
    return signed(replace(run, space=run.ids[0]), name)


SPACE = founding().space


def log_of(author: str, number: int = 0, log_class: LogClass = LogClass.REPORT) -> LogIdentity:
    return LogIdentity(SPACE, keys.signer_public(seed_of(author)), number.to_bytes(8, "big"), log_class)


def entries(
    author: str,
    payloads: Sequence[bytes],
    *,
    after: Run | None = None,
    number: int = 0,
    log_class: LogClass = LogClass.REPORT,
    lamport: int | None = None,
    kind: int = Kind.REPORT,
    times: Sequence[int] | None = None,
    refs: dict[int, tuple[bytes, ...]] | None = None,
) -> Run:
    """The next entries of a log, the last one and the checkpoints signed."""
    first, prev = (after.last_seq + 1, after.ids[-1]) if after is not None else (1, None)
    if lamport is None:
        lamport = after.lamports[-1] + 1 if after is not None else 1
    count = len(payloads)
    run = rebuild(
        SPACE,
        log_of(author, number, log_class),
        first,
        prev,
        list(range(lamport, lamport + count)),
        list(times) if times is not None else [NOW // 900] * count,
        [int(kind)] * count,
        list(payloads),
        {},
        refs or {},
        {},
    )
    return signed(run, author)


def without_payloads(run: Run, *indexes: int) -> Run:
    """The same run with some payloads left out, as a peer sends it that no longer holds them."""
    payloads = list(run.payloads)
    lacks = dict(run.lacks)
    for index in indexes:
        payload = payloads[index]
        assert payload is not None
        payloads[index], lacks[index] = None, (len(payload), payload_hash(payload))
    return replace(run, payloads=payloads, lacks=lacks)


def filed(**fields: object) -> bytes:
    """The payload of a report."""
    said: dict[str, object] = {"category": "roadblock", "title": "Bloqueo"}
    return report.encode(Report(**{**said, **fields}), os.urandom(16))  # type: ignore[arg-type]


@asynccontextmanager
async def opened(path: Path, *, inline: bool = False, space: bool = True) -> AsyncIterator[tuple[Store, int]]:
    """A store with one space in it, and the space's number."""
    store = Store.open(path, KEY, inline=inline)
    try:
        rows = await store.load_spaces()
        if not rows and space:
            run = founding()
            rows = [
                await store.add_space(
                    run.space, epochs=[b"e" * 32], static_secret=b"s" * 32, author_seed=seed_of("founder"), founding=run
                )
            ]
        yield store, rows[0].no if rows else 0
    finally:
        await store.close()
