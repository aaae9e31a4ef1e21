"""Door: how many may come in, from where, and how fast, before anybody knows who they are.

Whoever has not finished a handshake is a stranger. Strangers are few, fewer still from one address (loopback and what
comes through it excepted: a proxy has one address for everybody), and the oldest gives way to the newest. First
messages are tried at a bounded rate: who comes with a crowd waits, and is heard.
"""

from collections import Counter
from ipaddress import ip_address
from math import inf
from typing import Protocol

import trio

from protocol.limits import Limits


class Caller(Protocol):
    """A link that has come in."""

    def drop(self, reason: str, /) -> None:
        """Ends it at once."""


class Door:
    """One for everything that a process listens on."""

    def __init__(self, limits: Limits) -> None:
        self.inside = 0  # links, finished handshake or not
        self.strangers: dict[Caller, str] = {}  # and their addresses, oldest first
        self._limits = limits
        self._last_turn = -inf

    def admits(self, address: str) -> bool:
        """Whether one more stranger may come in from there; the oldest goes where there are too many."""
        crowd = Counter(self.strangers.values())[address]
        if crowd >= self._limits.strangers_per_address_max and not is_loopback(address):
            return False
        if len(self.strangers) >= self._limits.strangers_max:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.drop("crowded")
        return self.inside < self._limits.sessions_max

    def enter(self, caller: Caller, address: str) -> None:
        """A stranger has come in."""
        self.strangers[caller] = address

    def met(self, caller: Caller) -> None:
        """It is a stranger no more, or has gone."""
        self.strangers.pop(caller, None)

    def turn(self) -> float:
        """When the next first message may be tried: so many a second."""
        rate, now = self._limits.handshakes_per_second, trio.current_time()
        latest = now + self._limits.strangers_max / rate  # more than these are never waiting
        self._last_turn = max(now - 1, min(self._last_turn + 1 / rate, latest))
        return self._last_turn


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own, where one stands for many."""
    return ip_address(address.split("%")[0]).is_loopback
