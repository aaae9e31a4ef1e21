"""Relay: a TCP stream passed on unchanged, its bytes counted. Bytes are link bytes of the stream, both ways."""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

TO_SERVER = ">"
TO_CLIENT = "<"


@dataclass(slots=True)
class Traffic:
    """What went over one connection, in the order in which it passed."""

    pieces: list[tuple[str, int]] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def note(self, direction: str, size: int) -> None:
        self.pieces.append((direction, size))
        self.last = time.monotonic()

    @property
    def size(self) -> int:
        return sum(size for _, size in self.pieces)

    @property
    def size_after_handshake(self) -> int:
        """Without the first three pieces: one message each, as neither side goes on before it has worked."""
        return sum(size for _, size in self.pieces[3:])

    @property
    def seconds(self) -> float:
        """From the first byte's connection to the last byte so far."""
        return self.last - self.begun

    def quiet_for(self, seconds: float) -> bool:
        return bool(self.pieces) and time.monotonic() > self.last + seconds

    def so_far(self) -> "Traffic":
        """What has passed until now, as it is."""
        return Traffic(list(self.pieces), self.begun, self.last)


class Relay:
    """Stands before a server; `connections` are all that there were, the newest last."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.connections: list[Traffic] = []
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def size(self) -> int:
        return sum(traffic.size for traffic in self.connections)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Ends every connection, as a broken network does."""
        ends, self._open = self._open, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                traffic = Traffic()
                self.connections.append(traffic)
                self._open += [client, server]
                for way in ((client, server, TO_SERVER), (server, client, TO_CLIENT)):
                    threading.Thread(target=self._pass_on, args=(*way, traffic), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, direction: str, traffic: Traffic) -> None:
        with suppress(OSError):
            while data := source.recv(256 * 1024):
                traffic.note(direction, len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
