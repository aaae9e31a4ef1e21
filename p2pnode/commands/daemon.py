"""`p2pnode run`, `start`, `stop`: the daemon in this terminal, behind it, and no more."""

from __future__ import annotations

import os
import signal
import sys
from argparse import SUPPRESS
from contextlib import suppress
from functools import partial
from pathlib import Path

from p2pnode import arguments, asking, display, hardening, homelock, paths
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from p2pnode.arguments import Parser
    from p2pnode.config import Settings

START_SECONDS = 60.0  # a large store may have to recover its journal
STOP_SECONDS = 20.0  # for sessions to end, then the last commit
READY = b"ready\n"


def declare_run(parser: Parser) -> None:
    """Options of `run`; `start` has the same and hands them on."""
    parser.option("--listen", metavar="HOST:PORT", action="append")
    parser.option("--lan", choices=("off", "listen", "announce"))
    parser.option("--proxy", metavar="HOST:PORT|off")
    parser.option("--passphrase-file", metavar="F|-")


def declare_run_here(parser: Parser) -> None:
    """`run` can also be the process that `start` made."""
    declare_run(parser)
    parser.add_argument("--detached", action="store_true", help=SUPPRESS)


def run(args: Namespace) -> int:
    """Hold the home, open the key, be a node until told to stop."""
    hardening.harden()
    home = arguments.home(args)
    settings, held = _prepared(args, home)
    try:
        return _serve(args, settings)
    finally:
        os.close(held)


def start(args: Namespace) -> int:
    """Make a process of `run`, give it the passphrase through a pipe, wait until it answers."""
    home = arguments.home(args)
    if homelock.holder(home) is not None:
        if args.proxy is not None:  # nobody believes in a proxy that is not in use
            raise CommandError(Exit.FAILED, "start.otherwise")
        display.talk(say("start.already"))
        return Exit.DONE
    hardening.harden()
    from p2pnode import keystore

    secret = b""
    if keystore.needs_passphrase(Path(home, paths.KEY)):
        secret = asking.passphrase(args.passphrase_file).encode() + b"\n"
    _spawned(_run_command(args, home), secret)
    display.talk(say("start.done"))
    return Exit.DONE


def declare_stop(parser: Parser) -> None:
    """No options of its own."""


def stop(args: Namespace) -> int:
    """SIGTERM, then wait until the home is free: after this a backup or a move is safe."""
    home = arguments.home(args)
    if homelock.holder(home) is None:
        raise CommandError(Exit.NO_DAEMON, "daemon.absent", home=home)
    if not homelock.end_holder(home, signal.SIGTERM, patience_seconds=STOP_SECONDS):
        raise CommandError(Exit.TIMED_OUT, "stop.slow")
    display.talk(say("stop.done"))
    return Exit.DONE


def _prepared(args: Namespace, home: str) -> tuple[Settings, int]:
    from p2pnode import config

    socket = paths.socket_of(home, os.environ)
    settings = config.resolve(home, socket, listen=args.listen, lan=args.lan, proxy=args.proxy)
    found = os.stat(home)
    if found.st_uid != os.geteuid():
        raise CommandError(Exit.FAILED, "home.foreign", home=home)
    os.chmod(home, 0o700)
    return settings, homelock.take(home)


def _serve(args: Namespace, settings: Settings) -> int:
    from p2pnode import keystore

    secret = asking.passphrase(args.passphrase_file) if keystore.needs_passphrase(settings.key) else None
    master_key = keystore.open(settings.key, secret)
    import trio

    from p2pnode import daemon

    try:
        trio.run(partial(daemon.run, settings, master_key, ready=partial(_ready, args.detached)))
    except BaseExceptionGroup as group:
        raise told_of(group) from None
    return Exit.DONE


def _ready(detached: bool) -> None:
    """Say that clients are answered: to systemd, to `start`, or to whoever sits here."""
    notify_systemd()
    if not detached:
        display.talk(say("run.ready"))
        return
    os.write(sys.stdout.fileno(), READY)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def notify_systemd() -> None:
    """The sd_notify protocol: one datagram."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if where[:1] in ("/", "@"):
        import socket

        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(b"READY=1", where.replace("@", "\0", 1) if where[0] == "@" else where)


def told_of(error: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to tell a person of a nursery's group: its first error that is no bug; a bug stays what it is."""
    told, bugs = error.split((CommandError, KeyboardInterrupt, OSError))
    return error if bugs is not None or told is None else _first(told)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _run_command(args: Namespace, home: str) -> list[str]:
    command = [sys.executable, "-m", "p2pnode", "run", "--detached", "--json", f"--home={home}"]
    command += [f"--listen={address}" for address in args.listen or ()]
    command += [f"--lan={args.lan}"] if args.lan else []
    command += [f"--proxy={args.proxy}"] if args.proxy else []
    return [*command, "--passphrase-file=-"]


def _spawned(command: list[str], secret: bytes) -> None:
    """Start the command and return once it is ready; raise what it complained about when it ends instead."""
    import json
    import subprocess

    import p2pnode

    package = os.path.dirname(os.path.dirname(os.path.abspath(p2pnode.__file__)))
    # its working directory leads its import path: the package it finds is the one that runs now
    process = subprocess.Popen(  # noqa: S603 (our own interpreter and words)
        command,
        cwd=package,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError):
        process.stdin.write(secret)
        process.stdin.close()
    if _first_line(process.stdout.fileno()) == READY:
        return
    process.kill()
    complaint = process.stderr.read().splitlines()[-1:]
    process.wait()
    try:
        error = json.loads(complaint[0])["error"]
    except (ValueError, LookupError, TypeError):
        raise CommandError(Exit.FAILED, "start.failed") from None
    raise CommandError(error["code"], "daemon.says", detail=error["message"])


def _first_line(descriptor: int) -> bytes:
    import select

    ready, _, _ = select.select([descriptor], [], [], START_SECONDS)
    return os.read(descriptor, len(READY)) if ready else b""


VERBS = {"run": (declare_run_here, run), "start": (declare_run, start), "stop": (declare_stop, stop)}
