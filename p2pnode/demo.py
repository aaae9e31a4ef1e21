"""Demo: three real daemons on this machine do what three people's would, in front of whoever asks.

Separate processes, separate temporary homes, encrypted loopback TCP. Asks nothing, leaves nothing, and fails loudly:
what it shows is checked, and a step that does not hold ends it with exit code 1.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import resources
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from p2pnode import client, display
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

if TYPE_CHECKING:
    from argparse import Namespace

PROGRAM = [sys.executable, "-m", "p2pnode"]  # this very program: nothing of a stranger's is run
REPORTS = "demo_reports.jsonl"
SPACE = "Vecinos de San Jacinto"
SEARCH = "camion"
PATIENCE_SECONDS = 20.0
LIVE_TRIES = 5


class Failed(Exception):
    """A step did not do what it should; the text says which."""


class Person:
    """One person with a node of their own."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.home = root / name.lower()
        self.process: subprocess.Popen[bytes] | None = None
        self.run("init", "--no-passphrase")

    def run(self, *words: str, given: str | None = None) -> str:
        """One command of this person's, as it would be typed."""
        command = [*PROGRAM, *words, "--home", str(self.home)]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
        if done.returncode:
            raise Failed(f"p2pnode {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def wake(self) -> None:
        """Starts this person's daemon and waits until it answers."""
        command = [*PROGRAM, "run", "--listen", "127.0.0.1:0", "--lan", "off", "--home", str(self.home)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        wait_for("the daemon to answer", self.status)

    def sleep(self) -> None:
        """Stops the daemon, as when a phone is switched off."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)
            self.process = None

    def ask(self, method: str, **params: Any) -> Any:
        """One call over the control socket."""
        with client.Daemon(str(self.home)) as daemon:
            return daemon.call(method, params)

    def status(self) -> Any:
        with suppress(CommandError):
            return self.ask("status")
        return None

    def fingerprint(self) -> str | None:
        told = self.status()
        return told["spaces"][0]["fingerprint"] if told and told["spaces"] else None


def main(args: Namespace) -> int:
    """Runs the demo; 0 when everything held."""
    begun = time.monotonic()
    # short: the paths of control sockets must fit the kernel's limit, and the macOS default is long
    root = Path(tempfile.mkdtemp(prefix="p2pnode-demo-"))
    people: list[Person] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.INTERRUPTED))
    try:
        _show(root, people)
        tell("demo.done", seconds=f"{time.monotonic() - begun:.1f}")
        return Exit.DONE
    except (Failed, CommandError, OSError, subprocess.SubprocessError) as error:
        display.talk(say("demo.failed", reason=str(error)))
        return Exit.FAILED
    finally:
        for person in people:
            if person.process is not None:
                person.process.kill()
                person.process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _show(root: Path, people: list[Person]) -> None:
    tell("demo.begin", root=str(root))
    for name in ("Ana", "Beto", "Carla"):
        people.append(Person(name, root))
        people[-1].wake()
    ana, beto, carla = people
    tell("demo.nodes")

    ana.run("space", "create", SPACE, "--pen", "Ana")
    for guest in (beto, carla):
        invitation = json.loads(ana.run("invite", "create", "--json"))["invite"]
        guest.run("join", "-", "--name", guest.name, given=invitation)
        tell("demo.joined", name=guest.name, length=len(invitation))

    reports = resources.files("p2pnode").joinpath(REPORTS).read_text(encoding="utf-8").splitlines()
    third = len(reports) // 3
    before = _file(ana, reports[:third])
    same = _meet(people)
    tell("demo.first", count=before, fingerprint=same[:16])

    carla.sleep()
    tell("demo.offline", name=carla.name)
    counts = _file(ana, reports[third : 2 * third]), _file(beto, reports[2 * third :])
    _meet([ana, beto])
    tell("demo.others", ana=counts[0], beto=counts[1])

    started = time.monotonic()
    carla.wake()
    same = _meet(people)
    tell("demo.reunion", ms=f"{1000 * (time.monotonic() - started):.0f}", fingerprint=same[:16])

    answers = {json.dumps([hit["id"] for hit in person.ask("search", words=SEARCH, limit=0)]) for person in people}
    found = json.loads(answers.pop())
    if answers or not found:
        raise Failed(f"search {SEARCH!r} does not answer the same everywhere")
    tell("demo.search", words=SEARCH, count=len(found))
    for report in carla.ask("search", words=SEARCH, limit=3):
        print("    " + display.fit(f"{report['category']:14}{display.quoted(report['title'])}", 100))

    latencies = sorted(_live(ana, carla, number) for number in range(LIVE_TRIES))
    tell("demo.live", ms=f"{1000 * latencies[LIVE_TRIES // 2]:.1f}")

    ana.sleep()
    beto.sleep()
    alone = carla.ask("search", words=SEARCH, limit=0)
    if len(alone) != len(found):
        raise Failed("Carla alone does not find what she found with the others")
    tell("demo.alone", held=len(carla.ask("report.list", limit=0)), count=len(alone))


def _file(person: Person, lines: list[str]) -> int:
    """Imports fictional reports as this person; the count."""
    told = json.loads(person.run("report", "import", "-", "--format", "jsonl", "--json", given="\n".join(lines) + "\n"))
    if told["refused"] or told["imported"] != len(lines):
        raise Failed(f"import: {told['imported']} of {len(lines)}, {len(told['refused'])} refused")
    return int(told["imported"])


def _meet(people: list[Person]) -> str:
    """Waits until all hold the same and have listed it; the fingerprint that they share."""

    def met() -> str | None:
        told = [person.status() for person in people]
        if any(status is None or not status["spaces"] or status["spaces"][0]["pending"] for status in told):
            return None
        prints = {status["spaces"][0]["fingerprint"] for status in told}
        return prints.pop() if len(prints) == 1 else None

    return str(wait_for("equal fingerprints", met))


def _live(sender: Person, watcher: Person, number: int) -> float:
    """Seconds from filing on one node to the line that a watcher on another receives."""
    arrived: list[float] = []
    with client.Daemon(str(watcher.home)) as daemon:
        watching: list[bool] = []

        def told(note: Any) -> None:
            if note.get("watching"):
                watching.append(True)
            else:
                arrived.append(time.monotonic())
                raise _Arrived

        def watch() -> None:
            with suppress(_Arrived, CommandError):
                daemon.call("watch", {}, told=told, seconds=PATIENCE_SECONDS)

        thread = Thread(target=watch, daemon=True)
        thread.start()
        wait_for("the watcher", lambda: watching)
        filed = time.monotonic()
        sender.ask("report.new", category="all-clear", title=f"Todo tranquilo en la plaza ({number})", basis="saw")
        thread.join(PATIENCE_SECONDS)
    if not arrived:
        raise Failed("a report that was filed did not arrive")
    return arrived[0] - filed


class _Arrived(Exception):
    """Ends a watch."""


def wait_for(what: str, condition: Any) -> Any:
    """The condition's first true value. Raises Failed when it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.03)
    raise Failed(f"waited too long for {what}")


def tell(key: str, **fields: Any) -> None:
    """One line of the story."""
    print(say(key, **fields), flush=True)
