"""A private Tor network: an authority and some relays of Debian's tor, all on the loopback of one machine.

    with tornet.network(machine, path) as net:         # a namespace: nothing of it can get out
        client = net.join("client", "SocksPort 9050")  # one more tor, with these lines in its torrc
        client.bootstrapped()                          # until it could build circuits

Ten to forty seconds pass until a client is bootstrapped.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from system.daemons import until
from system.namespaces import Namespace

RELAYS = 4  # of fewer there are not always enough for a path
BOOTSTRAP_SECONDS = 45.0

_EVERYONE = """\
TestingTorNetwork 1
DirAuthority authority orport=5000 no-v2 v3ident={identity} 127.0.0.1:7000 {fingerprint}
AssumeReachable 1
PathsNeededToBuildCircuits 0.25
VanguardsLiteEnabled 0
Log notice file {home}/log
DataDirectory {home}
DisableDebuggerAttachment 0
ShutdownWaitLength 0
"""
_RELAY = """\
Nickname {name}
Address 127.0.0.1
ORPort 127.0.0.1:{port}
ExitRelay 0
SocksPort 0
"""
_AUTHORITY = """\
DirPort 127.0.0.1:7000
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ContactInfo nobody@example.org
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
"""


@dataclass(frozen=True, slots=True)
class Tor:
    """One process of the network."""

    home: Path
    process: "subprocess.Popen[str]"

    @property
    def log(self) -> str:
        path = self.home / "log"
        return path.read_text() if path.exists() else ""

    def knows_all(self) -> bool:
        """Whether it could tell a client of every relay."""
        journal = self.home / "cached-microdescs.new"
        return journal.exists() and journal.read_bytes().count(b"\nonion-key") > RELAYS

    def reload(self) -> None:
        """Makes it read its files again."""
        self.process.send_signal(signal.SIGHUP)
        until("it to have read them", lambda: "Received reload signal (hup)" in self.log)

    def bootstrapped(self) -> None:
        """Waits until it could build circuits."""
        until(f"{self.home.name} to bootstrap", lambda: "Bootstrapped 100%" in self.log, seconds=BOOTSTRAP_SECONDS)


class Network:
    """The network, once its authority has an identity."""

    def __init__(self, machine: Namespace, path: Path) -> None:
        self._machine = machine
        self._path = path
        home = self._home("authority")
        identity = _made_identity(home / "keys")
        lines = _RELAY.format(name="authority", port=5000) + _AUTHORITY
        anybody = "0" * 40  # its own fingerprint is known only once it has been asked for
        torrc = self._written(home, lines, identity=identity, fingerprint=anybody)
        subprocess.run(["tor", "-f", torrc, "--list-fingerprint"], check=True, capture_output=True)
        self._known = {"identity": identity, "fingerprint": (home / "fingerprint").read_text().split()[1]}
        self.join("authority", lines)
        ports = {f"relay{number}": 5000 + number for number in range(1, RELAYS + 1)}
        relays = [self.join(name, _RELAY.format(name=name, port=port)) for name, port in ports.items()]
        # who comes before all know of all waits long for the next chance
        until("all to know of all", lambda: all(map(Tor.knows_all, relays)), seconds=BOOTSTRAP_SECONDS)

    def join(self, name: str, lines: str) -> Tor:
        """Starts one more tor of this network."""
        home = self._home(name)
        torrc = self._written(home, lines, **self._known)
        return Tor(home, self._machine.start("tor", "-f", torrc, stdout=subprocess.DEVNULL))

    def _home(self, name: str) -> Path:
        home = self._path / name
        home.mkdir(mode=0o700, exist_ok=True)
        return home

    def _written(self, home: Path, lines: str, **known: str) -> str:
        torrc = home / "torrc"
        torrc.write_text(_EVERYONE.format(home=home, **known) + lines)
        return str(torrc)


@contextmanager
def network(machine: Namespace, path: Path) -> Iterator[Network]:
    """Its processes end with the machine."""
    path.mkdir(mode=0o700)
    yield Network(machine, path)


def available() -> str | None:
    """Why there is none here; None where there can be one."""
    missing = [program for program in ("tor", "tor-gencert") if shutil.which(program) is None]
    return f"no {missing[0]} (Debian's package tor)" if missing else None


def _made_identity(keys: Path) -> str:
    """An authority's long-lived and signing keys; the fingerprint of the first."""
    keys.mkdir(mode=0o700)
    certificate = keys / "authority_certificate"
    places = ["-i", str(keys / "authority_identity_key"), "-s", str(keys / "authority_signing_key")]
    subprocess.run(
        ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", *places, "-c", str(certificate)],
        input="",
        text=True,
        check=True,
        capture_output=True,
    )
    (line,) = [line for line in certificate.read_text().splitlines() if line.startswith("fingerprint ")]
    return line.split()[1]
