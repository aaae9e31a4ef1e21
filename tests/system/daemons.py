"""Daemons: real ones, as processes with homes of their own, for stories about whole nodes.

    with gathered(tmp_path, "ana", "beto") as (ana, beto):     # ana's space, everybody in it, all in sync
        ana.ask("report.new", category="other", title="…")     # over the control socket
        beto.kill()                                            # SIGKILL; beto.start() brings the same home back

Everything that was started is dead when the block ends. The program under test is the one that was imported.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, Self

import p2pnode
from p2pnode import client, keystore, paths
from p2pnode.failures import CommandError
from p2pnode.store.file import open_reader
from p2pnode.store.spaces import counters, recount

PROGRAM = [sys.executable, "-m", "p2pnode"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(p2pnode.__file__).parents[1]), "P2PNODE_TRACEBACK": "1"}
PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.01


def until(what: str, condition: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(LOOK_SECONDS)
    return value


class Daemon:
    """One home and the daemon that runs on it now, if any. Its port is drawn once and kept, as a person's is."""

    def __init__(self, home: Path, *, passphrase: str | None = None, new: bool = True) -> None:
        self.home = home
        self.listen: str | None = "127.0.0.1:0"
        self.lan = "off"
        self.proxy: str | None = None
        self.within: list[str] = []  # what leads every command line, as `ip netns exec NAME`
        self.process: subprocess.Popen[bytes] | None = None
        self._secret: list[str] = []
        if passphrase is not None:
            secret = home.with_name(home.name + ".secret")
            secret.write_text(passphrase + "\n")
            self._secret = ["--passphrase-file", str(secret)]
        if new:
            self.init()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    # Its life

    def init(self) -> None:
        """Makes its home."""
        made = self.run("init", *(self._secret or ["--no-passphrase"]))
        assert made.returncode == 0, made.stderr

    def start(self) -> Self:
        """Starts it and waits until it answers."""
        self.launch()
        until(f"{self.home.name} to answer", self._answers)
        if self.listen is not None and self.listen.endswith(":0"):
            self.listen = self.address
        return self

    def launch(self) -> None:
        """Starts the process without waiting for anything."""
        assert self.process is None
        listen = [] if self.listen is None else ["--listen", self.listen]
        proxy = [] if self.proxy is None else ["--proxy", self.proxy]
        command = self.command("run", *listen, "--lan", self.lan, *proxy, *self._secret)
        with self.stderr.open("ab") as complaints:
            self.process = subprocess.Popen(command, **self._surroundings, stdin=subprocess.DEVNULL, stderr=complaints)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it in order; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """The exit code of a daemon that ends by itself."""
        assert self.process is not None
        code = self.process.wait(PATIENCE_SECONDS)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL, at this moment."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.home.name} ended at once: {self.complaints[-2000:]}"
        with suppress(CommandError):
            return bool(self.ask("status"))
        return False

    # Talking to it

    def ask(self, method: str, **params: Any) -> Any:
        """One call over the control socket."""
        with client.Daemon(str(self.home)) as daemon:
            return daemon.call(method, params)

    def command(self, *words: str) -> list[str]:
        """The command line of one p2pnode command on this home."""
        return [*self.within, *PROGRAM, *words, "--home", str(self.home)]

    def run(self, *words: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
        """One command, as it would be typed."""
        options: dict[str, Any] = {"input": given, "capture_output": True, "text": True, "timeout": PATIENCE_SECONDS}
        return subprocess.run(self.command(*words), **self._surroundings, **options, check=False)

    @property
    def _surroundings(self) -> dict[str, Any]:
        return {"cwd": self.home.parent, "env": ENVIRONMENT}

    # Looking at it

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.ask("status")["node"]["listen"][0])

    @property
    def endpoint(self) -> tuple[str, int]:
        """The same for sockets."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    @property
    def space(self) -> Any:
        """Its only space, as `status` tells it."""
        (space,) = self.ask("status")["spaces"]
        return space

    @property
    def stderr(self) -> Path:
        return self.home.with_name(self.home.name + ".stderr")

    @property
    def complaints(self) -> str:
        """Everything its daemons ever said to a person."""
        return self.stderr.read_text(errors="replace")

    @property
    def events(self) -> list[str]:
        """The lines of its log, without the time."""
        return [line.partition(" ")[2] for line in (self.home / paths.LOG).read_text().splitlines()]

    def titles(self) -> list[str]:
        """The titles of all reports it lists."""
        return [report["title"] for report in self.ask("report.list", limit=0)]

    def assert_good(self) -> None:
        """Everything held is what was signed, and every counter equals a recount. Stops it."""
        assert self.ask("log.check")["bad"] == 0
        if self.process is not None:
            assert self.stop() == 0
        database = open_reader(self.home / paths.STORE, keystore.open(self.home / paths.KEY, None))
        try:
            assert counters(database, 1) == recount(database, 1)
        finally:
            database.close()


@contextmanager
def people(root: Path, *names: str, start: bool = True) -> Iterator[list[Daemon]]:
    """A node for each name, without any space; they start at the same time."""
    nodes = [Daemon(root / name, new=False) for name in names]
    together([node.init for node in nodes])
    try:
        if start:
            together([node.start for node in nodes])
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()


@contextmanager
def gathered(root: Path, *names: str) -> Iterator[list[Daemon]]:
    """The same in one space: the first founded it and invited the others, and all hold the same."""
    with people(root, *names) as nodes:
        gather(nodes)
        yield nodes


def gather(nodes: Sequence[Daemon]) -> None:
    """Founds a space with the first node and lets the others in."""
    founder, *guests = nodes
    founder.ask("space.create", name="vecinos", pen="Founder")
    for guest in guests:
        guest.ask("join", invite=invited(founder), name=guest.home.name)
    met(*nodes)


def invited(host: Daemon, **params: Any) -> str:
    """An invitation by this member."""
    return str(host.ask("invite.create", **params)["invite"])


def met(*nodes: Daemon, seconds: float = PATIENCE_SECONDS) -> str:
    """Waits until all know of the same entries and list them; the fingerprint that they share."""

    def equal() -> str | None:
        told = [node.space for node in nodes]
        prints = {space["fingerprint"] for space in told}
        return prints.pop() if len(prints) == 1 and not any(space["pending"] for space in told) else None

    return str(until("equal fingerprints", equal, seconds=seconds))


def together(jobs: Sequence[Callable[[], object]]) -> None:
    """Does all jobs at once and waits for them; the first that failed fails here."""
    failures: list[BaseException] = []

    def attempt(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=attempt, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def batch(first: int, count: int, *, text: str = "", **fields: Any) -> list[dict[str, Any]]:
    """Records for `report.import`, titled by their numbers: the same number is the same record."""
    return [
        {
            "line": number,
            "mark": f"{number:032x}",
            "report": {"category": "other", "title": f"Aviso número {number}", "text": text, **fields},
        }
        for number in range(first, first + count)
    ]


def fill(node: Daemon, count: int, *, at_once: int = 1000, text: str = "", **fields: Any) -> None:
    """Files so many reports."""
    for first in range(0, count, at_once):
        records = batch(first, min(at_once, count - first), text=text, **fields)
        assert node.ask("report.import", records=records)["imported"] == len(records)
