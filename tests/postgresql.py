"""PostgreSQL: a server of our own for the length of a test, out of Debian's package, gone without a trace afterwards.

It answers on a socket in a directory of its own and never on the network; it waits for the disk as in earnest. The
server refuses to be root: as root it is started as the user `postgres`, whom the package made.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

START_SECONDS = 60.0
OWNER = "postgres"


def absent() -> str | None:
    """Why no server can be started here; None where one can."""
    try:
        import psycopg  # noqa: F401  what is asked is whether it is there
    except ImportError:
        return "psycopg is not installed: pip install '.[test]'"
    if _programs() is None:
        return "no PostgreSQL server under /usr/lib/postgresql: apt-get install postgresql"
    if os.getuid() == 0 and not _owner_exists():
        return f"the server refuses to be root, and there is no user {OWNER}"
    return None


@dataclass
class Server:
    """A running server. Its user needs no password: only the directory of the socket keeps others out."""

    programs: Path
    root: Path
    _process: subprocess.Popen[bytes] | None = None
    _names: Iterator[int] = field(default_factory=count)

    def database(self) -> str:
        """What to connect to for an empty database."""
        import psycopg

        name = f"relay_{next(self._names)}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._address(name)

    def start(self) -> None:
        """Returns when the server answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.root), "fsync": "on"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.root / "log").open("ab") as log:
            command = [self.programs / "postgres", "-D", self.root / "data", *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.root, **_as_owner())
        deadline = time.monotonic() + START_SECONDS
        asking = [self.programs / "pg_isready", "-q", "-h", self.root]
        while subprocess.run(asking, check=False).returncode != 0:
            assert self._process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends every connection and writes everything down; SIGQUIT leaves at once, as in a crash."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(START_SECONDS)

    def _address(self, database: str) -> str:
        return f"host={self.root} user={OWNER} dbname={database}"


@contextmanager
def server(under: Path | None = None) -> Iterator[Server]:
    """A server that has nothing in it, in a directory of its own under this one, which others have to let pass."""
    programs = _programs()
    assert programs is not None
    root = Path(tempfile.mkdtemp(prefix="p2pnode-postgresql-", dir=under))
    try:
        if os.getuid() == 0:
            shutil.chown(root, OWNER)
        making = [programs / "initdb", "-D", root / "data", "-U", OWNER, "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(making, check=True, capture_output=True, cwd=root, **_as_owner())
        started = Server(programs, root)
        started.start()
        try:
            yield started
        finally:
            started.stop()
    finally:
        shutil.rmtree(root)


def _programs() -> Path | None:
    """The directory with the newest version's programs."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def _owner_exists() -> bool:
    try:
        pwd.getpwnam(OWNER)
    except KeyError:
        return False
    return True


def _as_owner() -> dict[str, str]:
    return {"user": OWNER, "group": OWNER} if os.getuid() == 0 else {}
