"""Profiles: where the processor time of a profiled daemon went, thread by thread."""

import pstats
import shutil
import sys
from pathlib import Path

TOP = 25


def show(folder: Path, title: str) -> None:
    """Prints the functions with the most time of their own; worker threads are taken together. Removes the folder."""
    for thread in ("loop", "writer", "worker"):
        files = sorted(map(str, folder.glob(f"{thread}-*")))
        if files:
            print(f"\n{title}, {thread}", file=sys.stderr)
            pstats.Stats(*files, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(TOP)
    shutil.rmtree(folder)
