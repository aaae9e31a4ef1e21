"""`p2pnode wipe`: nothing readable is left, whatever happens half-way.

The key goes first: overwritten, flushed, removed. From that moment the store is noise; the rest is tidying up, and a
wipe that was killed is finished by the next one. (A flash disk may keep the overwritten block in its spare area; the
passphrase still stands before it there.)
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from contextlib import suppress

from p2pnode import arguments, asking, display, homelock, paths
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from p2pnode.arguments import Parser

KILL_SECONDS = 1.0
KEYS = tuple(os.path.join(place, paths.KEY + fresh) for place in ("", paths.RELAY) for fresh in ("", ".new"))
REST = (
    *(os.path.join(paths.RELAY, paths.SHELF + fresh + end) for fresh in ("", ".new") for end in ("", "-wal", "-shm")),
    *(os.path.join(paths.RELAY, name) for name in (paths.LOG, paths.LOG + ".1", paths.LOCK)),
    *(paths.STORE + fresh + suffix for fresh in ("", ".new") for suffix in ("", "-wal", "-shm", "-journal")),
    paths.SETTINGS,
    paths.SETTINGS + ".new",
    paths.LOG,
    paths.LOG + ".1",
    paths.SOCKET,
)


def declare(parser: Parser) -> None:
    """Options of `wipe`."""
    parser.option("--yes", action="store_true")


def wipe(args: Namespace) -> int:
    """Keys, then the daemon that holds them in memory, then everything of ours in the home."""
    home = arguments.home(args)
    if not any(os.path.lexists(os.path.join(home, name)) for name in (*KEYS, *REST, paths.LOCK)):
        raise CommandError(Exit.NOT_FOUND, "wipe.nothing", home=home)
    if not args.yes:
        _confirm(home)
    for name in KEYS:
        _shred(os.path.join(home, name))
    _flush(home)
    relay = os.path.join(home, paths.RELAY)
    relay_ended = homelock.end_holder(relay, signal.SIGKILL, patience_seconds=KILL_SECONDS)
    ended = homelock.end_holder(home, signal.SIGKILL, patience_seconds=KILL_SECONDS) and relay_ended
    socket = paths.socket_of(home, os.environ)
    for path in (*(os.path.join(home, name) for name in REST), socket, os.path.join(home, paths.LOCK)):
        with suppress(FileNotFoundError):
            os.unlink(path)
    with suppress(OSError):
        os.rmdir(relay)
    left = len(os.listdir(home))
    if left == 0:
        with suppress(OSError):  # the home may be a mount point, or our working directory
            os.rmdir(home)
    told = {"home": home, "left": left, "daemon_ended": ended}
    lines = [say("wipe.done"), *([say("wipe.left", left=left, home=home)] if left else [])]
    display.result(args.json, told, lines)
    return Exit.DONE if ended else Exit.FAILED


def _confirm(home: str) -> None:
    if not asking.on_terminal():
        raise CommandError(Exit.WRONG_USE, "wipe.unconfirmed")
    word = say("wipe.word")
    display.talk(say("wipe.warning", home=home))
    if asking.answered(say("wipe.ask", word=word)).strip().lower() != word:
        raise CommandError(Exit.FAILED, "wipe.kept")


def _shred(path: str) -> None:
    """Overwrite a file in place and remove it."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError:  # a link, a directory, no permission: what can be removed is removed
        with suppress(OSError):
            os.unlink(path)
        return
    try:
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode):
            os.pwrite(file, os.urandom(min(found.st_size, 1024 * 1024)), 0)
            os.fsync(file)
    finally:
        os.close(file)
    os.unlink(path)


def _flush(home: str) -> None:
    if sys.platform == "win32":
        return
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


VERBS = {"wipe": (declare, wipe)}
