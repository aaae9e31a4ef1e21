"""Relay kills: a relay, who writes and who reads die at random moments; nothing acknowledged is lost, nothing doubled.

Ana and Beto can only dial out and have one relay. Both file, append, read and list without a pause while one of the
three is killed, stays dead for a moment and comes back, again and again. Whoever was not told an id files the same once
more under the same token, as a client does. In the end:

    reports     every id that was told is listed once, by Ana, by Beto, and by Carla, who joins from the relay alone
    messages    all that the relay acknowledged lie there under their numbers, and no two of them are the same
    entries     nobody put anything there of which it had seen that it lies there
    nodes       equal fingerprints, good logs, exact counters, and no relay that contradicted itself

    python tests/system/test_relay_kills.py --kills 200
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

sys.path.append(str(Path(__file__).parents[1]))  # for a run as a script

import pytest
import trio
from system.daemons import Daemon, invited, met, people, until
from system.relay_process import RelayProcess

from p2pnode import client, keystore, paths
from p2pnode.ambient import SystemAmbient
from p2pnode.calling import RelayAt, dial
from p2pnode.failures import CommandError
from p2pnode.socks import Dialler
from p2pnode.store.file import open_reader
from p2pnode.store.spaces import SpaceRow, spaces
from protocol import invite
from protocol.bundle import SALT_SIZE, Opener, Seen, Unsealer
from protocol.limits import BUNDLE_CHUNK_SIZE
from protocol.log import prove_untrusted
from protocol.mailbox import BEGINNING, topic_of
from protocol.messages import RunMessage

pytestmark = pytest.mark.system

KILLS = 10
ALIVE_SECONDS_MAX = 0.6  # before the next one is killed
DEAD_SECONDS_MAX = 0.3
PATIENCE_SECONDS = 120.0  # for what was held up by two hundred deaths

Entry = tuple[bytes, int]  # key of a log, seq


@dataclass
class Worker:
    """Somebody at one node who files, appends and lists until told to stop, whatever happens to the daemon."""

    node: Daemon
    draw: random.Random
    told: dict[str, str] = field(default_factory=dict)  # title of each report by the id that its node told
    again: int = 0  # reports that had to be filed again because no answer came
    failure: BaseException | None = None
    _stop: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def begin(self) -> None:
        self._thread = Thread(target=self._work)
        self._thread.start()

    def end(self) -> None:
        """Returns when what was begun is done. Its daemon has to be there."""
        assert self._thread is not None
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                for _ in range(self.draw.choice([1, 1, 2, 5])):
                    self._file()
                self._try("sync")
                self._try("report.list", limit=20)
        except BaseException as error:
            self.failure = error

    def _file(self) -> None:
        title = f"{self.node.home.name} {len(self.told)}"
        text = "x" * self.draw.choice([0, 100, 4000])
        once = self.draw.randbytes(16).hex()
        while (answer := self._try("report.new", category="other", title=title, text=text, once=once)) is None:
            self.again += 1
            until(f"{self.node.home.name} to be back", lambda: self._try("status"))
        self.told[answer["id"]] = title

    def _try(self, method: str, **params: object) -> dict[str, str] | None:
        """The answer; None where the daemon is dead, or dies over it."""
        try:
            with client.Daemon(str(self.node.home)) as daemon:
                return daemon.call(method, params) or {}
        except (CommandError, OSError):
            return None


@dataclass(frozen=True)
class Lying:
    """A message as it lies at the relay."""

    body: bytes
    seen: int  # how far its writer had read
    entries: frozenset[Entry]


@dataclass
class Figures:
    """What came of one run."""

    kills: Counter[str] = field(default_factory=Counter)
    reports: int = 0
    again: int = 0
    messages: int = 0
    entries: int = 0
    twice: int = 0  # entries that lie in two messages, of which neither writer had seen the other's

    def __str__(self) -> str:
        deaths = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({deaths}): {self.reports} reports told, {self.again} asked for again, "
            f"{self.messages} messages with {self.entries} entries, {self.twice} of them twice"
        )


def kill_at_random(root: Path, seed: int, kills: int, tell: Callable[[str], None]) -> Figures:
    """The whole story. Raises AssertionError where something was lost or doubled."""
    draw = random.Random(seed)
    figures = Figures()
    with (
        RelayProcess(root / "relay") as relay,
        people(root, "ana", "beto", "carla", start=False) as (ana, beto, carla),
    ):
        ana.start()
        ana.ask("space.create", name="vecinos", pen="Ana")
        ana.ask("relay.add", relay=relay.line)
        for_beto, for_carla = (invited(ana, by_relay=True) for _ in range(2))
        beto.start()
        beto.ask("join", invite=for_beto, name="Beto", by_relay=True)

        workers = [Worker(node, random.Random(draw.random())) for node in (ana, beto)]
        victims: dict[str, Daemon | RelayProcess] = {"relay": relay, "ana": ana, "beto": beto}
        with working(workers):
            for number in range(1, kills + 1):
                name = draw.choice(list(victims))
                figures.kills[name] += 1
                time.sleep(draw.random() * ALIVE_SECONDS_MAX)  # the moment is what is drawn
                victims[name].kill()
                time.sleep(draw.random() * DEAD_SECONDS_MAX)
                victims[name].start()
                if number % 20 == 0:
                    tell(f"{number} of {kills} kills, {sum(len(worker.told) for worker in workers)} reports told")
        told = {id: title for worker in workers for id, title in worker.told.items()}
        figures.reports, figures.again = len(told), sum(worker.again for worker in workers)

        met_at_the_relay(ana, beto)
        for node in (ana, beto):
            assert node.stop() == 0
        carla.start()
        carla.ask("join", invite=for_carla, name="Carla", by_relay=True)
        carla.ask("sync")
        until("Carla to list everything", lambda: len(carla.titles()) >= len(told), seconds=PATIENCE_SECONDS)
        for node in (ana, beto):
            node.start()
        met_at_the_relay(ana, beto, carla)
        for node in (ana, beto, carla):
            listed = Counter(report["id"] for report in node.ask("report.list", limit=0))
            assert listed == Counter(told.keys()), f"{node.home.name} lists every report that was told, and no other"
            assert sorted(node.titles()) == sorted(told.values()), "each once"
            node.assert_good()
            assert not [line for line in node.events if "mailbox.warning" in line], "the relay kept to its story"
        judge_messages(relay, (ana, beto, carla), figures)
    return figures


@contextmanager
def working(workers: list[Worker]) -> Iterator[None]:
    for worker in workers:
        worker.begin()
    try:
        yield
    finally:
        for worker in workers:
            worker.end()


def met_at_the_relay(*nodes: Daemon) -> None:
    """Waits until these hold the same, and the relay all of it."""

    def settled() -> bool:
        told = [node.ask("sync", wait=True, timeout=PATIENCE_SECONDS) for node in nodes]
        return all(one["relays_equal"] == 1 for one in told) and len({node.space["fingerprint"] for node in nodes}) == 1

    until("all and the relay to hold the same", settled, seconds=PATIENCE_SECONDS)
    met(*nodes, seconds=PATIENCE_SECONDS)


# What lies at the relay


def judge_messages(relay: RelayProcess, nodes: tuple[Daemon, ...], figures: Figures) -> None:
    """Looks at every message that lies in the space's topics, and at what the nodes hold to lie there."""
    noted: dict[int, set[tuple[int, Entry]]] = {}
    for node in nodes:
        row, posted = _posted(node)
        for week, lines in posted.items():
            noted.setdefault(week, set()).update(lines)
    for week, acknowledged in noted.items():
        messages = trio.run(everything, invite.parse_relay(relay.line), row, week)
        assert len({message.body for message in messages}) == len(messages), "no message under two numbers"
        lie = {(number, entry) for number, message in enumerate(messages, 1) for entry in message.entries}
        assert acknowledged <= lie, "what was acknowledged lies where it was said to"
        first: dict[Entry, int] = {}
        for number, message in enumerate(messages, 1):
            seen = [entry for entry in message.entries if first.setdefault(entry, number) <= message.seen]
            assert not seen, f"message {number} holds what its writer had seen there, or could not have"
        figures.messages += len(messages)
        figures.entries += len(first)
        figures.twice += sum(len(message.entries) for message in messages) - len(first)


def _posted(node: Daemon) -> tuple[SpaceRow, dict[int, set[tuple[int, Entry]]]]:
    """A node's space, and by week which entries it holds to lie in which messages."""
    database = open_reader(node.home / paths.STORE, keystore.open(node.home / paths.KEY, None))
    try:
        (row,) = spaces(database)
        sql = """
        SELECT t.week, p.number, l.key, p.first, p.last
        FROM posted AS p JOIN topic AS t ON t.no = p.topic JOIN log AS l ON l.no = p.log
        """
        found: dict[int, set[tuple[int, Entry]]] = {}
        for week, number, key, first, last in database.execute(sql):
            found.setdefault(week, set()).update((number, (key, seq)) for seq in range(first, last + 1))
        return row, found
    finally:
        database.close()


async def everything(relay: invite.Relay, space: SpaceRow, week: int) -> list[Lying]:
    """A topic from its first message to its last; checks that it is one story."""
    ambient = SystemAmbient()
    topic = topic_of(space.epochs[-1], relay.key, week)
    at = RelayAt((relay.address.host, relay.address.port), relay.key)
    cursor = BEGINNING
    found: list[Lying] = []
    async with dial(Dialler(None, ambient.entropy), at, topic.key, ambient) as call:
        while True:
            page = await call.read(topic.key, cursor.number)
            assert (page.first, page.base, page.hash) == (1, cursor.number, cursor.hash)
            for message in page.messages:
                cursor = cursor.behind(message)
                found.append(_unsealed(space, message))
            if cursor.number == page.newest:
                return found


def _unsealed(space: SpaceRow, message: bytes) -> Lying:
    unsealer = Unsealer(message[:SALT_SIZE], [Opener(space.id, secret) for secret in space.epochs])
    entries: set[Entry] = set()
    seen = -1
    for at in range(SALT_SIZE, len(message), BUNDLE_CHUNK_SIZE):
        for part in unsealer.read_untrusted(message[at : at + BUNDLE_CHUNK_SIZE]):
            match part:
                case Seen(cursor):
                    seen = cursor.number
                case RunMessage(unproven):
                    run = prove_untrusted(unproven)
                    fresh = {(run.key, seq) for seq in range(run.first_seq, run.last_seq + 1)}
                    assert not fresh & entries, "no entry twice in one message"
                    entries |= fresh
                case _:
                    raise AssertionError("something else lies in a mailbox")
    assert unsealer.whole
    return Lying(message, seen, frozenset(entries))


def test_whoever_dies_at_whatever_moment_nothing_acknowledged_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"python tests/system/test_relay_kills.py --kills {KILLS} --seed {seed}")  # shown when the test fails
    figures = kill_at_random(tmp_path, seed, KILLS, print)
    assert figures.kills.total() == KILLS
    assert figures.messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS, help="how many")
    parser.add_argument(
        "--seed", type=int, help="draws the same victims and pauses; what they meet with is the machine's"
    )
    asked = parser.parse_args()
    seed = random.randrange(2**32) if asked.seed is None else asked.seed
    print(f"python tests/system/test_relay_kills.py --kills {asked.kills} --seed {seed}", flush=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="p2pnode-kills-") as root:
        figures = kill_at_random(Path(root), seed, asked.kills, lambda line: print(line, flush=True))
    print(f"{figures}; nothing lost, nothing doubled, in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
