"""`p2pnode bundle`: entries in a sealed file, for a stick or any other way that files go.

The file is opened here and handed to the daemon open: it never opens a path that it was given. An export appears under
its name when it is whole and on the disk.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from p2pnode import arguments, client, display
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

    from p2pnode.arguments import Parser

COUNTS = ("new", "known", "refused", "forked", "unknown", "early", "damaged")


def declare_export(parser: Parser) -> None:
    """Options of `bundle export`."""
    parser.option("file", metavar="FILE")
    parser.option("--since", metavar="FILE")
    parser.option("--for-peer", action="store_true")
    parser.option("--space", metavar="S")


def export(args: Namespace) -> int:
    """Everything, or what the maker of another bundle lacks."""
    with (
        client.Daemon(arguments.home(args)) as daemon,
        _fresh(args.file) as file,
        display.Bar(quiet=args.json) as bar,
    ):
        params = arguments.params(args, "space", "for_peer")
        if args.since is not None:
            with _opened(args.since) as since:
                kept = daemon.call("bundle.since", arguments.params(args, "space"), seconds=None, file=since)
            params["since"] = kept["since"]

        def told_on_the_way(note: Any) -> None:
            bar.update(note["done"], note["total"], say("bundle.packing", done=note["done"], total=note["total"]))

        told = daemon.call("bundle.export", params, told=told_on_the_way, seconds=None, file=file)
    line = say(
        "bundle.written", file=display.clean(args.file), entries=f"{told['entries']:,}", size=_size(told["bytes"])
    )
    display.result(args.json, told, [line])
    return Exit.DONE


def declare_import(parser: Parser) -> None:
    """Options of `bundle import`."""
    parser.option("file", metavar="FILE")
    parser.option("--dry-run", action="store_true")


def bring_in(args: Namespace) -> int:
    """What is whole and authentic, and what became of the rest."""
    with (
        _opened(args.file) as file,
        client.Daemon(arguments.home(args)) as daemon,
        display.Bar(quiet=args.json) as bar,
    ):

        def told_on_the_way(note: Any) -> None:
            bar.update(note["done"], note["total"], say("bundle.reading"))

        params = arguments.params(args, "dry_run")
        told = daemon.call("bundle.import", params, told=told_on_the_way, seconds=None, file=file)
    display.result(args.json, told, _lines(told, dry_run=args.dry_run))
    return Exit.DONE if told["whole"] and not told["damaged"] else Exit.FAILED


def _lines(told: dict[str, Any], *, dry_run: bool) -> list[str]:
    counts = {name: f"{told[name]:,}" for name in COUNTS}
    lines = [say("bundle.would" if dry_run else "bundle.taken", **counts)]
    lines += [f"  {say(f'bundle.{name}', count=counts[name])}" for name in COUNTS[2:] if told[name]]
    if not told["whole"]:
        lines.append(f"  {say('bundle.cut')}")
    return lines


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CommandError(Exit.FAILED, "bundle.unreadable", reason=error.strerror) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _fresh(path: str) -> Iterator[int]:
    """A new file that gets its name when all went well; an existing one is left alone."""
    if os.path.lexists(path):
        raise CommandError(Exit.FAILED, "bundle.exists")
    part = f"{path}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise CommandError(Exit.FAILED, "bundle.part", file=display.clean(part)) from error
    except OSError as error:
        raise CommandError(Exit.FAILED, "bundle.unwritable", reason=error.strerror) from error
    try:
        yield descriptor
        _name(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    finally:
        os.close(descriptor)


def _name(part: str, path: str) -> None:
    """Gives a file its name, and sees that onto the disk too: the stick may be pulled the moment we say so."""
    try:
        os.rename(part, path)
    except OSError as error:
        raise CommandError(Exit.FAILED, "bundle.unwritable", reason=error.strerror) from error
    with suppress(OSError):  # not every file system can
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


VERBS = {"export": (declare_export, export), "import": (declare_import, bring_in)}
