"""Where a node keeps its files, and how its control socket is reached.

Everything of one node is in one directory, its home: `--home DIR`, else P2PNODE_HOME, else the XDG data directory. Only
the socket of the default home lies elsewhere, in the XDG runtime directory, which dies with the login.

The thin client imports this: nothing heavy, plain strings.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "key.json"
SETTINGS = "settings.toml"
STORE = "store.db"
LOG = "daemon.log"
LOCK = "lock"
SOCKET = "control.sock"
RELAY = "relay"  # a relay's home inside a home: it has nothing to do with the node there
SHELF = "shelf.db"

SOCKET_PATH_MAX = 100  # bytes; the kernel's sockaddr_un ends at 104 or 108


def default_home(environ: Mapping[str, str]) -> str:
    """The home of who says nothing."""
    data = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # the XDG rules: a relative path is ignored
        data = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "p2pnode")


def home_of(given: str | None, environ: Mapping[str, str]) -> str:
    """The absolute path of the home, symbolic links resolved."""
    return os.path.realpath(given or environ.get("P2PNODE_HOME") or default_home(environ))


def socket_of(home: str, environ: Mapping[str, str]) -> str:
    """The absolute path of the control socket; it may be longer than the kernel takes, see `reachable`."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if home == os.path.realpath(default_home(environ)) and os.path.isabs(runtime):
        return os.path.join(runtime, "p2pnode", SOCKET)
    return os.path.join(home, SOCKET)


def reachable(directory: int, path: str) -> str:
    """A path short enough for bind and connect: through the open directory when the plain one is too long."""
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    return f"/proc/self/fd/{directory}/{os.path.basename(path)}"
