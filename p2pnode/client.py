"""The thin client: one connection to the daemon, one line of JSON each way. It must feel instant: nothing heavy here.

The daemon is trusted once the kernel says that it is the same user; its answers are not bounded here.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from p2pnode import paths
from p2pnode.failures import CommandError, Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ANSWER_SECONDS = 30.0  # for calls that wait for nobody but the daemon
CHUNK_SIZE = 256 * 1024


class Daemon:
    """A connection to the daemon of one home. Raises CommandError: NO_DAEMON when nobody answers."""

    def __init__(self, home: str) -> None:
        self.home = home
        self._socket = _connected(home, paths.socket_of(home, os.environ))
        self._buffer = bytearray()
        self._number = 0

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        told: Callable[[Any], None] | None = None,
        seconds: float | None = ANSWER_SECONDS,
        file: int | None = None,
    ) -> Any:
        """One call and its result; `told` gets the notifications on the way. `seconds` is the longest silence.

        `file` is a descriptor that goes with it: the daemon opens no path.
        """
        self.send(method, params, file=file)
        return self.receive(told=told, seconds=seconds)

    def send(self, method: str, params: dict[str, Any] | None = None, *, file: int | None = None) -> None:
        """Ask without waiting; answers come in the order of the questions."""
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params or {}}
        try:
            line = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        except UnicodeEncodeError as error:  # bytes on the command line that are not text
            raise CommandError(Exit.REFUSED, "input.not_utf8") from error
        try:
            self._socket.settimeout(None)
            if file is not None:
                line = line[socket.send_fds(self._socket, [line], [file]) :]
            self._socket.sendall(line)
        except OSError as error:
            raise CommandError(Exit.NO_DAEMON, "daemon.gone") from error

    def receive(self, *, told: Callable[[Any], None] | None = None, seconds: float | None = ANSWER_SECONDS) -> Any:
        """The next result. Raises the daemon's error in this client's language."""
        self._socket.settimeout(seconds)
        while True:
            message = json.loads(self._line())
            if "id" not in message:
                if told is not None:
                    told(message["params"])
            elif "error" in message:
                raise _failure(message["error"])
            else:
                return message["result"]

    def _line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            try:
                chunk = self._socket.recv(CHUNK_SIZE)
            except TimeoutError as error:
                raise CommandError(Exit.TIMED_OUT, "daemon.silent") from error
            except OSError as error:
                raise CommandError(Exit.NO_DAEMON, "daemon.gone") from error
            if not chunk:
                raise CommandError(Exit.NO_DAEMON, "daemon.gone")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def _connected(home: str, path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(paths.reachable(directory, path))
        finally:
            os.close(directory)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connection.close()
        initialised = os.path.lexists(os.path.join(home, paths.KEY))
        raise CommandError(Exit.NO_DAEMON, "daemon.absent" if initialised else "daemon.never", home=home) from None
    except OSError as error:
        connection.close()
        raise CommandError(Exit.NO_DAEMON, "daemon.unreachable", reason=error.strerror) from error
    if int.from_bytes(credentials[4:8], sys.byteorder) != os.geteuid():
        connection.close()
        raise CommandError(Exit.NO_DAEMON, "daemon.foreign")
    return connection


def _failure(error: dict[str, Any]) -> CommandError:
    data = error.get("data")
    if data is None:  # JSON-RPC's own: this client and the daemon are of different versions, or it has a bug
        return CommandError(Exit.FAILED, "daemon.puzzled", detail=error["message"])
    try:
        failure = CommandError(error["code"], data["key"], **data["fields"])
        failure.message  # noqa: B018 (a key or field this version does not know raises here)
    except (KeyError, ValueError, IndexError):
        return CommandError(error["code"], "daemon.says", detail=error["message"])
    return failure
