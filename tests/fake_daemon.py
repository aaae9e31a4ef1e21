"""A daemon that only answers: what the command line is tested against. Every call it got is in `calls`.

Where an open file came beside a call, the callable that answers finds its descriptor in the params as `file`.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from p2pnode import paths

Answer = Any  # a result, a callable of the params, or an Exception-like {"error": …}


class FakeDaemon:
    """Serves a home's control socket from a thread until closed."""

    def __init__(self, home: Path, answers: Mapping[str, Answer], notes: Mapping[str, list[Any]] | None = None) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answers = answers
        self._notes = notes or {}
        self._listener = socket.socket(socket.AF_UNIX)
        directory = os.open(home, os.O_RDONLY)
        self._listener.bind(paths.reachable(directory, str(home / paths.SOCKET)))
        os.close(directory)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "FakeDaemon":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("wb") as lines:
            buffer, files = b"", list[int]()
            while True:
                data, sent, _, _ = socket.recv_fds(connection, 65536, 4)
                if not data:
                    return
                buffer, files = buffer + data, [*files, *sent]
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    going_on = self._answered(lines, json.loads(line), files)
                    for number in files:
                        os.close(number)
                    files = []
                    if not going_on:
                        return

    def _answered(self, lines: Any, request: dict[str, Any], files: list[int]) -> bool:
        self.calls.append((request["method"], request["params"]))
        for note in self._notes.get(request["method"], []):
            self._say(lines, {"method": request["method"], "params": note})
        answer = self._answers.get(request["method"])
        if isinstance(answer, Callable):  # type: ignore[arg-type]
            answer = answer({**request["params"], "file": files[0]} if files else request["params"])
        if answer is None:
            return False
        if isinstance(answer, dict) and set(answer) == {"error"}:
            self._say(lines, {"id": request["id"], "error": answer["error"]})
        else:
            self._say(lines, {"id": request["id"], "result": answer})
        return True

    @staticmethod
    def _say(lines: Any, message: dict[str, Any]) -> None:
        lines.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        lines.flush()
