"""Table: what a bench found, each figure with its unit, its goal and whether it is met."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure has to reach."""

    text: str
    met: Callable[[float], bool]


def at_least(bound: float) -> Goal:
    return Goal(f">= {number(bound)}", lambda figure: figure >= bound)


def at_most(bound: float) -> Goal:
    return Goal(f"<= {number(bound)}", lambda figure: figure <= bound)


def below(bound: float) -> Goal:
    return Goal(f"< {number(bound)}", lambda figure: figure < bound)


def exactly(bound: float) -> Goal:
    return Goal(f"= {number(bound)}", lambda figure: figure == bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: the median of what the runs gave."""

    name: str
    values: Sequence[float]
    unit: str
    goal: Goal | None = None

    @property
    def figure(self) -> float:
        return median(self.values)

    @property
    def missed(self) -> bool:
        return self.goal is not None and not self.goal.met(self.figure)

    def cells(self) -> list[str]:
        spread = f"{number(min(self.values))} .. {number(max(self.values))}" if len(self.values) > 1 else ""
        goal, verdict = ("", "") if self.goal is None else (self.goal.text, "no" if self.missed else "yes")
        return [self.name, number(self.figure), self.unit, goal, verdict, spread]


HEAD = ["", "figure", "unit", "goal", "ok?", "lowest .. highest run"]
RIGHT = (1,)  # columns set to the right


def number(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def lines(sections: Sequence[tuple[str, Sequence[Row]]]) -> list[str]:
    """The sections as one table, columns aligned throughout."""
    cells = [HEAD, *(row.cells() for _, rows in sections for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(HEAD))]

    def line(parts: Sequence[str]) -> str:
        set_out = [part.rjust(widths[at]) if at in RIGHT else part.ljust(widths[at]) for at, part in enumerate(parts)]
        return "  " + "  ".join(set_out).rstrip()

    text = [line(HEAD)]
    for title, rows in sections:
        text += ["", title, *(line(row.cells()) for row in rows)]
    return text
