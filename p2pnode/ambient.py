"""What the world gives a node: the time of day and randomness. One object, handed in, so that a test can own both."""

from __future__ import annotations

import os
import time
from typing import Protocol


class Ambient(Protocol):
    """Clock and entropy. Deadlines are trio's matter; this clock only dates what is written or shown."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""

    def entropy(self, size: int) -> bytes:
        """`size` unpredictable bytes, good for keys."""

    def random(self) -> float:
        """Uniform in [0, 1), good for delays."""


class SystemAmbient:
    """The operating system's clock and entropy."""

    __slots__ = ()

    def now(self) -> float:
        return time.time()

    def entropy(self, size: int) -> bytes:
        return os.urandom(size)

    def random(self) -> float:
        return int.from_bytes(os.urandom(7), "big") / 2**56
