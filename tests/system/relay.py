"""Relay: a TCP stream between two nodes, passed on, written down, held back or cut by a test."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from system.daemons import Daemon, invited, met, people


@dataclass(eq=False)
class Recorded:
    """One connection: what the side that dialled said, and what it was answered. Held-back bytes are in it too."""

    said: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)
    spoken: int = 0  # pieces that the dialling side has sent
    replied: int = 0  # pieces that it was answered
    held: int = 0  # bytes of either side that were not passed on
    over: bool = False  # cut by a test
    ends: list[socket.socket] = field(default_factory=list)

    def cut(self) -> None:
        """Ends it, as a broken network does."""
        self.over = True
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Relay:
    """Stands before a node; `recorded` are all connections that there were, the newest last.

    `answers_until` holds back every answer once the dialling side has sent so many pieces, `says_until` whatever that
    side says once it was answered so many; `allowance` is how many bytes of answers one connection carries. While
    `gate` is cleared answers wait. With `mute`, nobody learns that the dialling side has gone: as when its battery is
    empty.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.recorded: list[Recorded] = []
        self.answers_until: int | None = None
        self.says_until: int | None = None
        self.allowance: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.mute = False
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.gate.set()
        for recorded in self.recorded:
            recorded.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, job: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=job, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            recorded = Recorded(ends=[client, server])
            self.recorded.append(recorded)
            self._start(self._converse, recorded, client, server)

    def _converse(self, recorded: Recorded, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._answer, args=(recorded, server, client), daemon=True)
        back.start()
        with suppress(OSError):
            while data := client.recv(65536):
                recorded.spoken += 1
                recorded.said += data
                if self.says_until is None or recorded.replied < self.says_until:
                    server.sendall(data)
                else:
                    recorded.held += len(data)
            if self.says_until is None and not self.mute:
                server.shutdown(socket.SHUT_WR)
        back.join()
        client.close()
        server.close()

    def _answer(self, recorded: Recorded, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                recorded.replied += 1
                recorded.answered += data
                self.gate.wait()
                early = self.answers_until is None or recorded.spoken < self.answers_until
                if early and (self.allowance is None or len(recorded.answered) <= self.allowance):
                    client.sendall(data)
                else:
                    recorded.held += len(data)
            client.shutdown(socket.SHUT_WR)


@contextmanager
def pair_over_a_relay(root: Path) -> Iterator[tuple[Daemon, Daemon, Relay]]:
    """Two members; everything that the second ever says to the first goes through the relay."""
    with people(root, "ana", "beto") as (ana, beto), Relay(ana.endpoint) as relay:
        ana.ask("space.create", name="vecinos")
        beto.ask("join", invite=invited(ana, address=[relay.address]))
        met(ana, beto)
        yield ana, beto, relay


def heard(endpoint: tuple[str, int], *said: bytes, seconds: float) -> tuple[bytes, bool]:
    """What a node answers to these bytes within a time, and whether it has closed the connection by then."""
    deadline = time.monotonic() + seconds
    answer = bytearray()
    with socket.create_connection(endpoint) as stream:
        try:
            for piece in said:
                stream.sendall(piece)
            while (left := deadline - time.monotonic()) > 0:
                stream.settimeout(left)
                data = stream.recv(65536)
                if not data:
                    return bytes(answer), True
                answer += data
        except TimeoutError:
            pass
        except ConnectionError:
            return bytes(answer), True
    return bytes(answer), False
