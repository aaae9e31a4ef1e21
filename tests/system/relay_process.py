"""Relay process: a real `p2pnode relay run` with a home of its own, for stories about people who never meet.

with RelayProcess(tmp_path / "relay") as relay:
    ana.ask("relay.add", relay=relay.line)             # HOST:PORT/KEY, as its first start said it
    relay.kill()                                       # SIGKILL; relay.start() brings it back at the same place
"""

import json
import signal
import subprocess
from pathlib import Path
from typing import Self

from system.daemons import ENVIRONMENT, PATIENCE_SECONDS, PROGRAM, Daemon, until

from p2pnode import paths


class RelayProcess:
    """One home and the relay that runs on it now, if any. Its port is drawn once and kept, as an operator's is."""

    def __init__(self, home: Path, *, store: str | None = None) -> None:
        """`store` is a PostgreSQL database; None: a file in the home."""
        self.home = home
        self.line = ""  # what its operator hands on, once it has started
        self.process: subprocess.Popen[bytes] | None = None
        self._listen = "127.0.0.1:0"
        self._store = [] if store is None else ["--store", store]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    # Its life

    def start(self) -> Self:
        """Starts it and waits until it says what to hand on."""
        assert self.process is None
        command = [*PROGRAM, "relay", "run", "--listen", self._listen, *self._store, "--home", str(self.home), "--json"]
        with self.stdout.open("wb") as said, self.stderr.open("ab") as complaints:
            self.process = subprocess.Popen(
                command, cwd=self.home.parent, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=said, stderr=complaints
            )
        told = json.loads(until(f"{self.home.name} to be ready", self._said))
        (self.line,) = told["relays"]
        self._listen = self.address
        return self

    def stop(self) -> int:
        """Ends it in order; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_SECONDS)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL, at this moment."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def _said(self) -> str | None:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.home.name} ended at once: {self.stderr.read_text()[-2000:]}"
        line, end, _ = self.stdout.read_text().partition("\n")
        return line if end else None

    # Looking at it

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.line.partition("/")[0]

    @property
    def endpoint(self) -> tuple[str, int]:
        """The same for sockets."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def at(self, address: str) -> str:
        """The line under which it is known to whoever reaches it by another address."""
        return f"{address}/{self.line.partition('/')[2]}"

    @property
    def events(self) -> list[str]:
        """The lines of its log, without the time."""
        return [line.partition(" ")[2] for line in (self.files / paths.LOG).read_text().splitlines()]

    @property
    def files(self) -> Path:
        """The directory of its own inside its home."""
        return self.home / paths.RELAY

    @property
    def stdout(self) -> Path:
        return self.home.with_name(self.home.name + ".stdout")

    @property
    def stderr(self) -> Path:
        return self.home.with_name(self.home.name + ".stderr")


def holding(node: Daemon, id: str) -> int:
    """At how many relays a report lies, as far as its node has seen."""
    return int(node.ask("sync.explain", id=id)["relays_holding"] or 0)


def appended(node: Daemon, *ids: str, relays: int = 1) -> None:
    """Has a node append at once, and waits until these reports lie at so many relays."""
    node.ask("sync")
    for id in ids:
        until("a report to lie at its relays", lambda id=id: holding(node, id) == relays)
