"""Daemons: real ones, as processes on loopback, and ways to look at them that cost them nothing."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from p2pnode import client, keystore, paths
from p2pnode.failures import CommandError
from p2pnode.store import Counters
from p2pnode.store.file import open_reader
from p2pnode.store.spaces import counters

ROOT = Path(__file__).resolve().parents[2]  # the checkout that is measured
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
MAIN = Path(__file__).with_name("daemon_main.py")
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.003  # between two looks at something that is being timed


class BenchFailed(Exception):
    """Something did not happen that had to; the text says what."""


def command(home: Path, *words: str) -> str:
    """The output of one p2pnode command, run as a process."""
    line = [sys.executable, "-m", "p2pnode", *words, "--home", str(home)]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False, cwd=home.parent)
    if done.returncode:
        raise BenchFailed(f"p2pnode {words[0]}: {done.stderr.strip()}")
    return done.stdout


def copied(home: Path, name: str) -> Path:
    """A fresh copy of a home whose daemon does not run, written out to the disk."""
    target = home.with_name(name)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(home, target, ignore=shutil.ignore_patterns(paths.SOCKET, paths.LOCK))
    os.sync()
    return target


def wait_until(
    what: str, condition: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS, step: float = 0.02
) -> Any:
    """The condition's first true value. Raises BenchFailed when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise BenchFailed(f"waited {seconds:.0f} s for {what}")
        time.sleep(step)
    return value


class Daemon:
    """The daemon of one home, alive inside a `with`.

    `run_entries_max` and `profile` need a main of our own, which is the daemon's in everything else.
    """

    def __init__(self, home: Path, *, run_entries_max: int | None = None, profile: Path | None = None) -> None:
        self.home = home
        extra = [] if run_entries_max is None else ["--run-entries-max", str(run_entries_max)]
        extra += [] if profile is None else ["--profile", str(profile)]
        own_main = [str(MAIN), *extra] if extra else ["-m", "p2pnode", "run"]
        self._command = [sys.executable, *own_main, "--listen", "127.0.0.1:0", "--lan", "off", "--home", str(home)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._complaints.open("wb") as complaints:
            self._process = subprocess.Popen(
                self._command, env=ENVIRONMENT, cwd=self.home.parent, stdin=subprocess.DEVNULL, stderr=complaints
            )
        try:
            wait_until("the daemon to answer", self._answers)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._process is not None
        ended_before = self._process.poll() is not None
        try:
            self._process.terminate()
            self._process.wait(PATIENCE_SECONDS)
        finally:
            self._kill()
        if kind is None and (ended_before or self._process.returncode):
            raise BenchFailed(f"the daemon ended with {self._process.returncode}: {self._complaint()}")

    def ask(self, method: str, **params: Any) -> Any:
        """One call over the control socket."""
        with client.Daemon(str(self.home)) as daemon:
            return daemon.call(method, params)

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.ask("status")["node"]["listen"][0])

    @property
    def space(self) -> Any:
        """Its only space, as `status` tells it."""
        return self.ask("status")["spaces"][0]

    @property
    def rss_mb(self) -> float:
        """Resident memory now."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kib) * 1024 / 1e6

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise BenchFailed(f"the daemon ended at once: {self._complaint()}")
        with suppress(CommandError):
            return bool(self.ask("status"))
        return False

    @property
    def _complaints(self) -> Path:
        return self.home.with_name(self.home.name + ".stderr")

    def _complaint(self) -> str:
        return self._complaints.read_text(errors="replace")[-2000:].strip()

    def _kill(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Gauge:
    """The counters of a running daemon's store, read from the file: asking the daemon would slow what is timed."""

    def __init__(self, home: Path) -> None:
        self._database = open_reader(home / paths.STORE, keystore.open(home / paths.KEY, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def counters(self) -> Counters:
        """Those of its only space, as the last commit left them."""
        return counters(self._database, 1)

    def when(self, what: str, condition: Callable[[Counters], bool], *, seconds: float) -> float:
        """The moment (monotonic) at which a commit made the condition true."""
        wait_until(what, lambda: condition(self.counters()), seconds=seconds, step=LOOK_SECONDS)
        return time.monotonic()


def equal(*daemons: Daemon) -> bool:
    """Whether all know of the same entries and have listed them."""
    told = [daemon.space for daemon in daemons]
    return len({space["fingerprint"] for space in told}) == 1 and not any(space["pending"] for space in told)
