"""One daemon per home: an exclusive flock on a file in it, taken before anything else there is touched.

The kernel drops the lock when its holder dies, however it dies, so nothing stale is left. The file holds the holder's
process id, for `stop` and `wipe`.
"""

from __future__ import annotations

import fcntl
import os
import time

from p2pnode import paths
from p2pnode.failures import CommandError, Exit

STEP_SECONDS = 0.02


def take(home: str, *, patience_seconds: float = 0.2) -> int:
    """Hold the home for as long as the returned descriptor is open. A second daemon is refused.

    The patience outlasts the instant in which `holder` looks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        held = os.open(os.path.join(home, paths.LOCK), flags, 0o600)
    except OSError as error:
        raise CommandError(Exit.FAILED, "home.unusable", home=home, reason=error.strerror) from error
    deadline = time.monotonic() + patience_seconds
    while not _locked(held, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(held)
            raise CommandError(Exit.FAILED, "daemon.second", home=home)
        time.sleep(STEP_SECONDS)
    os.ftruncate(held, 0)
    os.pwrite(held, b"%d\n" % os.getpid(), 0)
    return held


def holder(home: str) -> int | None:
    """The process id of the daemon that holds the home; None when there is none."""
    try:
        seen = os.open(os.path.join(home, paths.LOCK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if _locked(seen, fcntl.LOCK_SH):
            return None
        written = os.pread(seen, 32, 0).strip()
        return int(written) if written.isdigit() and int(written) > 1 else None
    finally:
        os.close(seen)


def end_holder(home: str, signal_number: int, *, patience_seconds: float) -> bool:
    """Signal the holder and wait until it let go. True when nobody holds the home any more."""
    pid = holder(home)
    if pid is None:
        return True
    try:
        os.kill(pid, signal_number)
    except OSError:
        return holder(home) is None
    deadline = time.monotonic() + patience_seconds
    while holder(home) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(STEP_SECONDS)
    return True


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
