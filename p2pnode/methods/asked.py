"""Asked: the params of a call, taken one by one and checked; what is left over at the end is refused.

Every refusal is InputRefused and names the option, as if it had been typed.
"""

from collections.abc import Mapping
from typing import Any

from p2pnode.control import Descriptor
from p2pnode.failures import CommandError, Exit
from p2pnode.space import Space
from protocol.errors import InputRefused

ID_PREFIX_MIN = 6
NUMBER_MAX = 2**53  # exact in everybody's JSON, and a whole number that the store can take


class Asked:
    """The params of one call; `done` refuses those that nobody took."""

    def __init__(self, params: Mapping[str, object]) -> None:
        self._left = {name: value for name, value in params.items() if value is not None}

    def text(self, name: str, default: str | None = None) -> str:
        value = self._left.pop(name, default)
        if value is None:
            raise InputRefused(name, "missing")
        if type(value) is not str:
            raise InputRefused(name, "not-text")
        return value

    def maybe(self, name: str) -> str | None:
        return self.text(name) if name in self._left else None

    def number(self, name: str, default: float | None = None) -> float:
        value = self._left.pop(name, default)
        if value is None:
            raise InputRefused(name, "missing")
        if (type(value) is int or type(value) is float) and 0 <= value <= NUMBER_MAX:
            return float(value)
        raise InputRefused(name, "not-a-number")

    def maybe_number(self, name: str) -> float | None:
        return self.number(name) if name in self._left else None

    def has(self, name: str) -> bool:
        return name in self._left

    def whole(self, name: str, default: int) -> int:
        value = self.number(name, default)
        if value != int(value):
            raise InputRefused(name, "not-a-number")
        return int(value)

    def flag(self, name: str) -> bool:
        value = self._left.pop(name, False)
        if type(value) is not bool:
            raise InputRefused(name, "not-a-flag")
        return value

    def list(self, name: str) -> list[Any]:
        value = self._left.pop(name, [])
        if type(value) is not list:
            raise InputRefused(name, "not-a-list")
        return value

    def file(self, name: str) -> int:
        """The descriptor of the open file that came with the call."""
        value = self._left.pop(name, None)
        if value is None:
            raise InputRefused(name, "missing")
        if type(value) is not Descriptor:
            raise InputRefused(name, "not-a-file")
        return value.number

    def rest(self) -> dict[str, object]:
        """Everything not taken yet."""
        left, self._left = self._left, {}
        return left

    def done(self) -> None:
        for name in self._left:
            raise InputRefused(name, "unknown")


def id_prefix(text: str) -> str:
    """The beginning of an id, in lower-case hex."""
    prefix = text.strip().lower()
    if len(prefix) < ID_PREFIX_MIN or set(prefix) - set("0123456789abcdef") or len(prefix) > 64:
        raise InputRefused("id", "not-an-id", ID_PREFIX_MIN)
    return prefix


def space_of(spaces: Mapping[bytes, Space], asked: Asked) -> Space:
    """The space a call is about: by name or beginning of its id; the only one where nothing is said."""
    wanted = asked.maybe("space")
    found = list(spaces.values())
    if wanted is None:
        if not found:
            raise CommandError(Exit.NOT_FOUND, "space.none")
        if len(found) > 1:
            raise CommandError(Exit.NOT_FOUND, "space.several", count=len(found))
        return found[0]
    named = [space for space in found if space.name == wanted]
    if len(wanted) >= ID_PREFIX_MIN:
        named += [space for space in found if space.id.hex().startswith(wanted.lower()) and space not in named]
    if not named:
        raise CommandError(Exit.NOT_FOUND, "space.unknown")
    if len(named) > 1:
        raise CommandError(Exit.NOT_FOUND, "space.ambiguous")
    return named[0]
