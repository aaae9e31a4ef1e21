"""The systemd user unit: what it says, and where it is put.

Only restrictions that a user's own systemd can apply without a user namespace. The passphrase, where the key needs
one, comes as a systemd credential: a file only this service sees, never an argument or a variable.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNIT_NAME = "p2pnode.service"
CREDENTIAL = "passphrase"


def command() -> list[str]:
    """The installed script beside this interpreter, else the module."""
    script = os.path.join(os.path.dirname(sys.executable), "p2pnode")
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "p2pnode"]


def unit(program: Sequence[str], home: str, passphrase_path: str | None) -> str:
    """The text of the unit."""
    words = [*program, "run", "--home", home]
    credential = ""
    if passphrase_path is not None:
        words += ["--passphrase-file"]
        credential = f"LoadCredential={CREDENTIAL}:{passphrase_path.replace('%', '%%')}\n"
    start = " ".join(map(_quoted, words)) + (f" %d/{CREDENTIAL}" if passphrase_path is not None else "")
    return f"""\
[Unit]
Description=p2pnode: reports between neighbours, without a server
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
ExecStart={start}
{credential}Restart=on-failure
RestartSec=5
# wrong use, refused settings, wrong passphrase: trying again changes nothing
RestartPreventExitStatus=2 5 6
TimeoutStopSec=30
UMask=0077
LimitCORE=0
NoNewPrivileges=yes
MemoryDenyWriteExecute=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=default.target
"""


def install(text: str, environ: Mapping[str, str]) -> str:
    """Write the unit where the user's systemd looks; returns the path."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".config")
    directory = os.path.join(base, "systemd", "user")
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, UNIT_NAME)
    fresh = path + ".new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
    os.replace(fresh, path)
    return path


def _quoted(word: str) -> str:
    """One word of ExecStart: quotes, and nothing that systemd would expand."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
