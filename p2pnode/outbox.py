"""Outbox: notifications that a client of the control socket has not taken yet, and the JSON that goes out there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import trio


def encoded(message: dict[str, object]) -> bytes:
    """One message as one line."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


@dataclass(eq=False, slots=True)
class Outbox:
    """`send` never waits; too many notifications cut the client off."""

    method: str
    scope: trio.CancelScope
    unread_bytes_max: int
    unread: bytearray = field(default_factory=bytearray)
    sending: int = 0
    overflowed: bool = False
    filled: trio.Event = field(default_factory=trio.Event)
    drained: trio.Event = field(default_factory=trio.Event)

    def send(self, value: object) -> None:
        if self.overflowed:
            return
        self.unread += encoded({"jsonrpc": "2.0", "method": self.method, "params": value})
        if len(self.unread) + self.sending > self.unread_bytes_max:
            self.overflowed = True
            self.unread.clear()
            self.scope.cancel()
        self.filled.set()

    async def pump(self, stream: trio.SocketStream) -> None:
        while True:
            await self.filled.wait()
            self.filled = trio.Event()
            content = bytes(self.unread)
            self.unread.clear()
            self.sending = len(content)
            try:
                await stream.send_all(content)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.scope.cancel()
                return
            self.sending = 0
            if not self.unread:
                self.drained.set()
                self.drained = trio.Event()

    async def emptied(self) -> None:
        while (self.unread or self.sending) and not self.overflowed:
            await self.drained.wait()
