"""`p2pnode relay`: run one for others, and use those that others run."""

from __future__ import annotations

import os
from functools import partial

from p2pnode import arguments, asking, client, display, hardening, homelock, paths
from p2pnode.commands.status import relay_states
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from p2pnode.arguments import Parser


def declare_run(parser: Parser) -> None:
    """Options of `relay run`."""
    parser.option("--listen", metavar="HOST:PORT", action="append", required=True)
    parser.option("--store", metavar="URL")
    parser.option("--quota", metavar="GIB", type=float)
    parser.option("--passphrase-file", metavar="F|-")


def run(args: Namespace) -> int:
    """Be a relay in this terminal until told to stop. Its files lie in a directory of their own inside the home."""
    hardening.harden()
    home = os.path.join(arguments.home(args), paths.RELAY)
    try:
        os.makedirs(home, mode=0o700, exist_ok=True)
    except OSError as error:
        raise CommandError(Exit.FAILED, "home.unusable", home=home, reason=error.strerror) from error
    held = homelock.take(home)
    try:
        return _serve(args, home)
    finally:
        os.close(held)


def _serve(args: Namespace, home: str) -> int:
    from pathlib import Path

    from p2pnode import config, keystore
    from p2pnode.ambient import SystemAmbient

    key = Path(home, paths.KEY)
    if key.exists():
        secret = asking.passphrase(args.passphrase_file) if keystore.needs_passphrase(key) else None
        master = keystore.open(key, secret)
    else:
        secret = None if args.passphrase_file is None else asking.passphrase(args.passphrase_file, twice=True)
        master = keystore.create(key, secret, SystemAmbient().entropy)
    import trio

    from p2pnode.commands.daemon import told_of
    from p2pnode.relay import daemon

    listen = [config.address(text) for text in args.listen]
    settings = daemon.RelaySettings(Path(home), tuple(listen), args.store, args.quota)
    try:
        trio.run(partial(daemon.run, settings, master, ready=partial(_ready, args.json)))
    except BaseExceptionGroup as group:
        raise told_of(group) from None
    return Exit.DONE


def _ready(as_json: bool, relays: list[str]) -> None:
    """Say what to hand on; the line goes to stdout, so that a program can read it."""
    from p2pnode.commands.daemon import notify_systemd

    notify_systemd()
    display.result(as_json, {"relays": relays}, relays)
    display.talk(say("relay.ready"))


def declare_add(parser: Parser) -> None:
    """Options of `relay add`."""
    parser.option("relay", metavar="HOST:PORT/KEY|-")
    parser.option("--space", metavar="S")


def add(args: Namespace) -> int:
    """Use a relay for a space, at once."""
    args.relay = asking.given_or_read(args.relay)
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("relay.add", arguments.params(args, "relay", "space"))
    display.result(args.json, told, [say("relay.added", relay=display.clean(told["relay"]))])
    return Exit.DONE


def declare_list(parser: Parser) -> None:
    """No options of its own."""


def list_relays(args: Namespace) -> int:
    """Those of all spaces, and how it stands with each."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("relay.list")
    rows = [row for relay in told for row in rows_of(relay)]
    heads = say("relay.heads").split("|")
    lines = display.table(heads, rows, display.page_columns(), right="lllr") if rows else [say("relay.none")]
    display.result(args.json, told, lines)
    return Exit.DONE


def rows_of(relay: dict[str, Any]) -> list[list[str]]:
    """One relay in `relay list`; what is wrong with it stands below it."""
    state, *more = relay_states(relay)
    seen, waiting = (relay["seen"] or "-")[:16], f"{relay['waiting']:,}"
    first = [state, display.word("meeting", relay["meeting"]), seen, waiting, display.clean(relay["address"])]
    return [first, *([word, "", "", "", ""] for word in more)]


def declare_remove(parser: Parser) -> None:
    """Options of `relay remove`."""
    parser.option("relay", metavar="HOST:PORT")
    parser.option("--space", metavar="S")


def remove(args: Namespace) -> int:
    """Use it no more; what lies there stays until its day comes."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("relay.remove", arguments.params(args, "relay", "space"))
    display.result(args.json, told, [say("relay.removed", relay=display.clean(told["relay"]))])
    return Exit.DONE


VERBS = {
    "run": (declare_run, run),
    "add": (declare_add, add),
    "list": (declare_list, list_relays),
    "remove": (declare_remove, remove),
}
