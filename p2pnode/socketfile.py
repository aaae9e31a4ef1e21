"""The file behind the control socket: bound only where nobody else can reach, look or leave something behind."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import trio

from p2pnode import paths
from p2pnode.failures import CommandError, Exit


def open_listener(path: Path | str) -> trio.SocketListener:
    """Bind the control socket. Refuses a foreign directory, whatever is not a socket of ours, and a live daemon.

    The caller holds the home's lock; a socket that nobody answers at is therefore stale and replaced.
    """
    directory, name = os.path.split(os.path.abspath(path))
    opened = _private_directory(directory)
    try:
        _clear_stale(opened, directory, name)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(paths.reachable(opened, os.path.join(directory, name)))
            os.chmod(name, 0o600, dir_fd=opened)
            bound.listen(128)
        except OSError as error:
            bound.close()
            raise CommandError(Exit.FAILED, "socket.unusable", path=directory, reason=error.strerror) from error
    finally:
        os.close(opened)
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def _private_directory(directory: str) -> int:
    """A descriptor of a directory that is ours alone; made when it is absent."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise CommandError(Exit.FAILED, "socket.unusable", path=directory, reason=error.strerror) from error
    found = os.fstat(opened)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(opened)
        raise CommandError(Exit.FAILED, "socket.directory_open", path=directory)
    return opened


def _clear_stale(opened: int, directory: str, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=opened, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise CommandError(Exit.FAILED, "socket.foreign", path=os.path.join(directory, name))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers EAGAIN: somebody is there
        outcome = probe.connect_ex(paths.reachable(opened, os.path.join(directory, name)))
    if outcome != errno.ECONNREFUSED:
        raise CommandError(Exit.FAILED, "socket.live", path=os.path.join(directory, name))
    os.unlink(name, dir_fd=opened)
