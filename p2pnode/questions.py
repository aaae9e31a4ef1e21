"""Questions: the logs that a session still has to ask about, and those whose answer it awaits.

What membership logs say has to be known before the rest is judged: they are asked about first, and all answered before
anything else is. At most `asked_max` questions are open at once, and a new lot is asked when half of them are answered.
"""

from collections import deque
from collections.abc import Iterable

from protocol.entry import LogClass


class Questions:
    """By log key; keys sort in the order of classes."""

    def __init__(self, asked_max: int) -> None:
        self._max = asked_max
        self._to_ask: deque[bytes] = deque()
        self._asked: set[bytes] = set()
        self._governing = False  # the open ones are about membership logs

    def __bool__(self) -> bool:
        return bool(self._to_ask or self._asked)

    def __contains__(self, key: object) -> bool:
        """Whether an answer about this log is awaited."""
        return key in self._asked

    def add(self, keys: Iterable[bytes]) -> None:
        """These are to be asked about too, in this order."""
        self._to_ask.extend(keys)

    def answered(self, keys: Iterable[bytes]) -> None:
        self._asked.difference_update(keys)

    def due(self) -> list[bytes]:
        """The keys to ask about now; from here on their answers are awaited."""
        if not self._to_ask or 2 * len(self._asked) > self._max:
            return []
        governing = _governs(self._to_ask[0])
        if self._governing and not governing and self._asked:
            return []
        self._governing = governing
        keys: list[bytes] = []
        while self._to_ask and len(self._asked) + len(keys) < self._max and _governs(self._to_ask[0]) == governing:
            keys.append(self._to_ask.popleft())
        self._asked.update(keys)
        return keys


def _governs(key: bytes) -> bool:
    return key[0] == LogClass.MEMBERSHIP
