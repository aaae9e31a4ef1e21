"""Profiles: where the processor time of a profiled daemon went, thread by thread."""

import pstats
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemons import Daemon

TOP = 25


@contextmanager
def profiled(home: Path, title: str) -> Iterator[Daemon]:
    """The daemon of a home under the profiler, whose findings are printed once it has ended."""
    folder = home.with_name(home.name + ".profile")
    with Daemon(home, profile=folder) as daemon:
        yield daemon
    _show(folder, title)


def _show(folder: Path, title: str) -> None:
    """Prints the functions with the most time of their own; worker threads are taken together. Removes the folder."""
    for thread in ("loop", "writer", "worker"):
        files = sorted(map(str, folder.glob(f"{thread}-*")))
        if files:
            print(f"\n{title}, {thread}", file=sys.stderr)
            pstats.Stats(*files, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(TOP)
    shutil.rmtree(folder)
