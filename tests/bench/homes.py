"""Homes: nodes with as much in them as a bench wants, made through the daemon's own parts and without its sockets.

A pair is two members of one space. `full` holds everything, listed and searchable; `empty` has joined, knows every
author, and holds none of their reports. Reports are fictional: words of those that the package ships, in any order.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from random import Random
from typing import TypeVar

import trio
from daemons import BenchFailed, Daemon, command, copied, equal, wait_until

from p2pnode import config, keystore, paths
from p2pnode.ambient import SystemAmbient
from p2pnode.author import sign_run
from p2pnode.node import Node
from p2pnode.space import Space
from p2pnode.store import Store
from protocol import invite, keys, statement
from protocol.entry import Kind, LogClass, LogIdentity, time_units
from protocol.limits import LOG_ID_SIZE, PAYLOAD_SALT_SIZE, RUN_ENTRIES_MAX, Limits
from protocol.log import Run, Verdict, rebuild
from protocol.report import Observed, Report, encode
from protocol.statement import Role

AUTHORS = 10
CHANGED = 5  # logs that `change` appends to
COMMIT_ENTRIES = 4096
DAY_SECONDS = 24 * 3600
MONTH_SECONDS = 30 * DAY_SECONDS
TEXT_LETTERS = 320  # with title, place and the rest a payload of about 500 bytes

T = TypeVar("T")

_AMBIENT = SystemAmbient()


@dataclass(frozen=True, slots=True)
class Shape:
    """How many reports in how many logs. Unless `sign_each`, they are signed as an import is: checkpoints and ends."""

    entries: int
    logs: int
    sign_each: bool = False


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a log can be continued."""

    seed: bytes
    log: LogIdentity
    seq: int
    id: bytes | None
    lamport: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two homes of one space. `entries` is what `full` holds in all, `payload_size` the mean of its reports."""

    full: Path
    empty: Path
    seeds: Sequence[bytes]
    entries: int = 0
    payload_size: float = 0.0
    tips: Sequence[Tip] = ()  # of CHANGED logs


def make_pair(root: Path) -> Pair:
    """Both members and the authors, no report yet."""
    full, empty = root / "a", root / "b"
    for home in (full, empty):
        command(home, "init", "--no-passphrase")
    seeds = _inside(full, _found)
    with Daemon(full) as host, Daemon(empty) as guest:
        invitation = host.ask("invite.create")["invite"]
        guest.ask("join", invite=invitation)
        wait_until("the pair to be equal", lambda: equal(host, guest))
    return Pair(full, empty, seeds)


def filled(pair: Pair, shape: Shape, name: str) -> Pair:
    """A pair of which one home holds reports of this shape; the empty one is shared."""
    return _inside(copied(pair.full, name), partial(_fill, pair=pair, shape=shape))


def change(pair: Pair) -> Pair:
    """One more short report in each of CHANGED logs of the full home."""
    return _inside(pair.full, partial(_change, pair=pair))


def _inside(home: Path, job: Callable[[Node], Awaitable[T]]) -> T:
    """What a job does with the node of a home that is not running."""

    async def main() -> T:
        settings = config.resolve(str(home), str(home / paths.SOCKET), listen=["off"], lan="off")
        store = Store.open(settings.store, keystore.open(settings.key, None), create=True)
        try:
            spaces = [await Space.load(store, row, _AMBIENT) for row in await store.load_spaces()]
            async with trio.open_nursery() as nursery:
                result = await job(Node(settings, store, spaces, _AMBIENT, Limits(), nursery))
            while await store.index_some():
                pass
            return result
        finally:
            await store.close()

    return trio.run(main)


async def _found(node: Node) -> list[bytes]:
    """The space and its authors, each admitted by an invitation, a claim and the grant; returns their seeds."""
    space = await node.found("bench", "founder")
    seeds = []
    for number in range(AUTHORS):
        invitation = invite.decode(await node.invite(space, (), DAY_SECONDS, Role.WRITER))
        seed = _AMBIENT.entropy(keys.KEY_SIZE)
        body = statement.claim(space.id, keys.signer_public(seed), invitation.admission_seed, f"author {number}")
        log = LogIdentity(space.id, keys.signer_public(seed), _AMBIENT.entropy(LOG_ID_SIZE), LogClass.MEMBERSHIP)
        claim = _next_run(space, Tip(seed, log, 0, None, 0), Kind.CLAIM, [statement.encode(body, bytes(16))])
        await _commit(node, space, [claim])
        await node.author.grant_due(space)
        seeds.append(seed)
    return seeds


async def _fill(node: Node, pair: Pair, shape: Shape) -> Pair:
    (space,) = node.spaces.values()
    payloads = _payloads(shape.entries)
    lamport = node.store.counters(space.no).lamport_max
    tips: list[Tip] = []
    waiting: list[Run] = []
    size = 0
    for number in range(shape.logs):
        seed = pair.seeds[number % AUTHORS]
        log = LogIdentity(space.id, keys.signer_public(seed), _AMBIENT.entropy(LOG_ID_SIZE), LogClass.REPORT)
        tip = Tip(seed, log, 0, None, lamport)
        count = shape.entries // shape.logs
        for first in range(0, count, RUN_ENTRIES_MAX):
            part = [next(payloads) for _ in range(min(count - first, RUN_ENTRIES_MAX))]
            run = _next_run(space, tip, Kind.REPORT, part)
            if shape.sign_each:
                run = _signed_throughout(run, seed)
            tip = _tip_behind(tip, run)
            size += sum(map(len, part))
            waiting.append(run)
        if sum(map(len, waiting)) >= COMMIT_ENTRIES:
            await _commit(node, space, waiting)
            waiting = []
        if number % (shape.logs // min(CHANGED, shape.logs)) == 0 and len(tips) < CHANGED:
            tips.append(tip)
    await _commit(node, space, waiting)
    entries = node.store.counters(space.no).entries
    return replace(pair, full=node.settings.home, entries=entries, payload_size=size / (shape.logs * count), tips=tips)


async def _change(node: Node, pair: Pair) -> Pair:
    (space,) = node.spaces.values()
    short = [encode(Report("other", f"Cambio {tip.seq}"), _AMBIENT.entropy(PAYLOAD_SALT_SIZE)) for tip in pair.tips]
    runs = [_next_run(space, tip, Kind.REPORT, [payload]) for tip, payload in zip(pair.tips, short, strict=True)]
    await _commit(node, space, runs)
    tips = [_tip_behind(tip, run) for tip, run in zip(pair.tips, runs, strict=True)]
    return replace(pair, entries=node.store.counters(space.no).entries, tips=tips)


async def _commit(node: Node, space: Space, runs: Sequence[Run]) -> None:
    if not runs:
        return
    outcomes = await node.store.commit_runs(space.no, runs, space)
    if any(outcome.verdict is not Verdict.EXTENDS for outcome in outcomes):
        raise BenchFailed(f"a run of our own was not taken: {outcomes[0].verdict}")


def _next_run(space: Space, tip: Tip, kind: Kind, payloads: Sequence[bytes]) -> Run:
    """The next entries of a log, filed one after another over the last month, signed as the daemon does."""
    count = len(payloads)
    ages = range(MONTH_SECONDS, 0, -MONTH_SECONDS // count)
    now = _AMBIENT.now()
    run = rebuild(
        space.id,
        tip.log,
        tip.seq + 1,
        tip.id,
        range(tip.lamport + 1, tip.lamport + 1 + count),
        [time_units(now - age) for age in ages[:count]],
        [int(kind)] * count,
        payloads,
        {},
        {},
        {},
    )
    return sign_run(run, keys.signer_secret(tip.seed))


def _tip_behind(tip: Tip, run: Run) -> Tip:
    return replace(tip, seq=run.last_seq, id=run.ids[-1], lamport=run.lamports[-1])


def _signed_throughout(run: Run, seed: bytes) -> Run:
    secret = keys.signer_secret(seed)
    return replace(run, signatures={at: keys.sign(secret, keys.SIGN_ENTRY, id) for at, id in enumerate(run.ids)})


def _payloads(count: int) -> Iterator[bytes]:
    """So many reports, the same in every run of the bench but for their salts. Their titles are numbered from 0."""
    draw = Random(2)
    shipped = [json.loads(line) for line in resources.files("p2pnode").joinpath("demo_reports.jsonl").open()]
    words = " ".join(report["text"] for report in shipped).split()
    places = [report["place"] for report in shipped if report.get("place")]
    now = int(_AMBIENT.now())
    for number in range(count):
        original = draw.choice(shipped)
        text = " ".join(draw.choices(words, k=TEXT_LETTERS // 4))[:TEXT_LETTERS].strip()
        report = Report(
            category=original["category"],
            title=f"{original['title']} {title_number(number)}",
            text=text,
            tags=("bench", f"zona-{number % 40}"),
            observed=Observed(now - draw.randrange(MONTH_SECONDS), 900),
            place=draw.choice(places),
            place_name=original.get("place_name"),
            basis=original["basis"],
            lang="es",
        )
        yield encode(report, _AMBIENT.entropy(PAYLOAD_SALT_SIZE))


def title_number(number: int) -> str:
    """The word by which a search finds one report and no other."""
    return f"n{number:06d}"
