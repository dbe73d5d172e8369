"""A forest plot: estimates with their intervals on one scale, beside what they must not cross."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from pipelines.pages.plots import WIDE, WIDTH

_ROW, _RIGHT, _FOOT = 26, 132, 34
_CHARACTER = 8.2  # pixels: the mean width of a name's letters at 13 px, in the widest of the usual system fonts
_SHORT_NAME, _LONGEST_NAME = 24, 64  # characters: with longer ones than the short the plot has the page's width


class Estimate(NamedTuple):
    """One line of the plot. Without an interval a dot alone is drawn; without an estimate `text` says why."""

    name: str
    estimate: float | None
    low: float | None
    high: float | None
    text: str
    tone: str = "t1"


def forest(title: str, unit: str, found: Sequence[Estimate], marks: Sequence[tuple[float, str]] = ()) -> Markup:
    """The plot; `marks` are vertical lines with a label: zero is always one. With long names it is a wide one.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not found:
        raise ValueError(f"the plot {title!r} has no lines")
    values = [0.0, *(value for value, _ in marks)]
    values += [value for line in found for value in (line.estimate, line.low, line.high) if value is not None]
    low, high = min(values), max(values)
    margin = (high - low or 1.0) * 0.06
    low, high = low - margin, high + margin
    longest = min(_LONGEST_NAME, max(len(line.name) for line in found))
    is_wide = longest > _SHORT_NAME
    width = WIDE if is_wide else WIDTH
    left = 12 + round(_CHARACTER * max(longest, 8))
    reach = width - left - _RIGHT
    base = _ROW * len(found) + 8

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * reach

    parts = [_line(across(0.0), base, "grid"), _foot(across(0.0), base, "0", "tick")]
    for value, label in marks:
        parts += [_line(across(value), base, "mark"), _foot(across(value), base, label, "mark")]
    for place, line in enumerate(found):
        parts.append(_drawn(line, 4 + _ROW * place + _ROW / 2, across, (left, width)))
    caption = f'<b>{escape(title)}</b><span class="legend">{escape(unit)}</span>'
    return Markup(
        f'<figure class="chart{" wide" if is_wide else ""}"><figcaption>{caption}</figcaption>'
        f'<svg viewBox="0 0 {width} {base + _FOOT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def interval_text(estimate: float, low: float, high: float, digits: int = 3) -> str:
    """An estimate with its interval, signs shown."""
    return f"{estimate:+.{digits}f} ({low:+.{digits}f} … {high:+.{digits}f})"


def _drawn(line: Estimate, middle: float, place: Callable[[float], float], between: tuple[int, int]) -> str:
    left, width = between
    short = line.name if len(line.name) <= _LONGEST_NAME else line.name[: _LONGEST_NAME - 1] + "…"
    parts = [
        f'<text class="name" x="{left - 12}" y="{middle + 4:.0f}" text-anchor="end">{escape(short)}'
        f"<title>{escape(line.name)}</title></text>"
    ]
    if line.estimate is None or not math.isfinite(line.estimate):
        return "".join([*parts, f'<text class="none" x="{left + 4}" y="{middle + 4:.0f}">{escape(line.text)}</text>'])
    if line.low is not None and line.high is not None:
        parts.append(f'<path class="line {line.tone}" d="M{place(line.low):.1f} {middle:.0f}H{place(line.high):.1f}"/>')
    parts.append(
        f'<circle class="dot {line.tone}" cx="{place(line.estimate):.1f}" cy="{middle:.0f}" r="4.5">'
        f"<title>{escape(line.name)}: {escape(line.text)}</title></circle>"
        f'<text class="value" x="{width - _RIGHT + 10}" y="{middle + 4:.0f}">{escape(line.text)}</text>'
    )
    return "".join(parts)


def _line(x: float, base: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{base}"/>'


def _foot(x: float, base: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{base + 16}" text-anchor="middle">{escape(text)}</text>'
