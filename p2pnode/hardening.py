"""What a process does before it holds a secret: private files, no core dump, no debugger of the same user."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

PR_SET_DUMPABLE = 4


def harden() -> None:
    """Set umask 077, forbid core dumps, and make the process not dumpable where the system knows that."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
