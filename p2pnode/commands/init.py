"""`p2pnode init`: a home, its settings and its key."""

from __future__ import annotations

import os
from pathlib import Path

from p2pnode import arguments, asking, config, display, hardening, keystore, paths
from p2pnode.ambient import SystemAmbient
from p2pnode.failures import CommandError, Exit
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from p2pnode.arguments import Parser


def declare(parser: Parser) -> None:
    """Options of `init`."""
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--passphrase-file", metavar="F|-", help=say("option.passphrase-file"))
    secret.add_argument("--no-passphrase", action="store_true", help=say("option.no-passphrase"))
    parser.option("--profile", choices=config.PROFILES, default="home")
    parser.option("--proxy", metavar="HOST:PORT")


def init(args: Namespace) -> int:
    """Settings, then the key, then the store that it opens: a daemon never takes a lost store for a new one."""
    hardening.harden()
    home = arguments.home(args)
    _check_free(home)
    proxy = config.proxy(args.proxy) if args.proxy is not None else None
    passphrase = None if args.no_passphrase else asking.passphrase(args.passphrase_file, twice=True)
    if passphrase == "":
        raise CommandError(Exit.REFUSED, "passphrase.empty")
    _make_private(home)
    ambient = SystemAmbient()
    stored = config.drawn(args.profile, ambient, proxy=proxy)
    config.write(home, stored)
    master_key = keystore.create(Path(home, paths.KEY), passphrase, ambient.entropy)
    from p2pnode import store
    from p2pnode.complaint import understood

    with understood():
        store.make(Path(home, paths.STORE), master_key)
    lan = stored.lan if proxy is None else "off"
    told = {"home": home, "profile": stored.profile, "passphrase": passphrase is not None, "lan": lan}
    protection = say("init.bare" if passphrase is None else "init.sealed")
    lines = [say("init.done", home=home), protection, say("init.next")]
    display.result(args.json, told, lines)
    return Exit.DONE


def _check_free(home: str) -> None:
    """Before anything is asked: is this place free, or half a home that an interrupted init left?"""
    try:
        found = set(os.listdir(home))
    except FileNotFoundError:
        return
    except OSError as error:
        raise CommandError(Exit.FAILED, "home.unusable", home=home, reason=error.strerror) from error
    if paths.KEY in found:
        raise CommandError(Exit.FAILED, "home.already", home=home)
    if paths.STORE in found:
        raise CommandError(Exit.FAILED, "home.keyless", home=home)
    if not found <= {paths.SETTINGS, paths.SETTINGS + ".new", paths.KEY + ".new", paths.LOCK, paths.LOG}:
        raise CommandError(Exit.FAILED, "home.occupied", home=home)


def _make_private(home: str) -> None:
    try:
        os.makedirs(home, mode=0o700, exist_ok=True)
        if os.stat(home).st_uid != os.geteuid():
            raise CommandError(Exit.FAILED, "home.foreign", home=home)
        os.chmod(home, 0o700)
    except OSError as error:
        raise CommandError(Exit.FAILED, "home.unusable", home=home, reason=error.strerror) from error


VERBS = {"init": (declare, init)}
