"""Context: what every bench is told, and the homes that they share."""

import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import homes
from homes import Pair, Shape


@dataclass
class Context:
    """`root` is a directory that is removed in the end; `scale` divides every size."""

    root: Path
    runs: int
    scale: int
    profile: bool
    _filled: dict[Shape, Pair] = field(default_factory=dict)

    @cached_property
    def pair(self) -> Pair:
        """Two members of a space with ten more authors and no report."""
        self.tell("making a space, two members and ten authors")
        return homes.make_pair(self.root)

    def filled(self, shape: Shape) -> Pair:
        """The pair, its full home with reports of this shape, made once."""
        if shape not in self._filled:
            pair = self.pair
            self.tell(f"making {shape.entries:,} reports in {shape.logs:,} logs")
            self._filled[shape] = homes.filled(pair, shape, f"full-{len(self._filled)}")
        return self._filled[shape]

    @staticmethod
    def tell(text: str) -> None:
        """How far the bench has come, for whoever waits."""
        print(text, file=sys.stderr, flush=True)
