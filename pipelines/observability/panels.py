"""What a board of Grafana is made of, before it is drawn: curves, panels, rows of panels."""

from dataclasses import dataclass

_CHOSEN = 'project=~"$project"'


@dataclass(frozen=True)
class Asked:
    """One curve family: its expression, and how a curve is called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """`unit` is one of Grafana's (s, reqps, percentunit, short, d)."""

    title: str
    says: str
    unit: str
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Board:
    """A board: rows of panels."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def panel_of(title: str, says: str, unit: str, *asked: tuple[str, str]) -> Panel:
    """A panel of expressions and legends; `CHOSEN` in one stands for the board's choice of projects."""
    return Panel(title, says, unit, tuple(Asked(e.replace("CHOSEN", _CHOSEN), legend) for e, legend in asked))
