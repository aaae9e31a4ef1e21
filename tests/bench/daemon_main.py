"""Daemon main: `p2pnode run` for a home without passphrase, with other limits or under cProfile.

Every thread is profiled on its own, by the processor time that it used: waiting for each other is not work.
"""

import argparse
import cProfile
import marshal
import os
import threading
import time
from functools import partial
from pathlib import Path

import trio

from p2pnode import config, daemon, hardening, homelock, keystore, paths
from protocol.limits import RUN_ENTRIES_MAX, Limits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", required=True)
    parser.add_argument("--listen", action="append")
    parser.add_argument("--lan")
    parser.add_argument("--run-entries-max", type=int, default=RUN_ENTRIES_MAX)
    parser.add_argument("--profile", type=Path)
    args = parser.parse_args()
    hardening.harden()
    settings = config.resolve(args.home, paths.socket_of(args.home, os.environ), listen=args.listen, lan=args.lan)
    held = homelock.take(args.home)
    master_key = keystore.open(settings.key, None)
    limits = Limits(run_entries_max=args.run_entries_max)
    work = partial(trio.run, partial(daemon.run, settings, master_key, ready=lambda: None, limits=limits))
    if args.profile is None:
        work()
    else:
        _profiled(work, args.profile)
    os.close(held)


def _profiled(work: "partial[None]", target: Path) -> None:
    """Runs it, and writes the profile of the event loop, of the store's thread and of all worker threads."""
    profiles: list[tuple[str, cProfile.Profile]] = []
    plain = threading.Thread.run

    def run(self: threading.Thread) -> None:
        with _profile(profiles, "writer" if self.name == "store" else "worker"):
            plain(self)

    threading.Thread.run = run  # type: ignore[method-assign]
    with _profile(profiles, "loop"):
        work()
    target.mkdir(exist_ok=True)
    for number, (name, profile) in enumerate(profiles):
        profile.snapshot_stats()  # of a worker thread that is still there too
        (target / f"{name}-{number}").write_bytes(marshal.dumps(profile.stats))


def _profile(profiles: list[tuple[str, cProfile.Profile]], name: str) -> cProfile.Profile:
    profile = cProfile.Profile(time.thread_time)
    profiles.append((name, profile))
    return profile


if __name__ == "__main__":
    main()
