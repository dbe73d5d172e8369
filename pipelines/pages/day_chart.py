"""Charts of days: values with intervals, and days of which nothing is known yet, which are hatched and never zero."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from pipelines.pages.plots import HEIGHT, WIDE, number_text

_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 18, 14, 44
_CELL_HEIGHT, _NAME_WIDTH, _HEAD = 24, 170, 26
_MOST_LABELS = 12
_HATCH = (
    '<defs><pattern id="{id}" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="7" height="7" style="fill:var(--line);opacity:.45"/>'
    '<line x1="0" y1="0" x2="0" y2="7" style="stroke:var(--soft);stroke-width:2;opacity:.55"/></pattern></defs>'
)


class DayValue(NamedTuple):
    """A value with its interval; without a value `text` says why, and the day is hatched."""

    day: str
    value: float | None
    low: float | None
    high: float | None
    text: str


class DayLine(NamedTuple):
    """The values of one thing. `tone` is a colour of the page: `t1` … `t8`."""

    name: str
    tone: str
    values: Sequence[DayValue]


def day_chart(title: str, unit: str, lines: Sequence[DayLine], name: str) -> Markup:
    """Dots with their intervals, one column a day; a day without any value is hatched. `name` is unique on the page.

    Raises:
        ValueError: there is no day.
    """
    days = sorted({value.day for line in lines for value in line.values})
    if not days:
        raise ValueError(f"the chart {title!r} has no days")
    step = (WIDE - _LEFT - _RIGHT) / len(days)
    shown = [(line, value) for line in lines for value in line.values if value.value is not None]
    up, ticks = _scale(
        [each for _, value in shown for each in (value.value, value.low, value.high) if each is not None]
    )
    parts = [_HATCH.format(id=f"hatch-{name}")]
    parts += [
        f'<line class="grid" x1="{_LEFT}" x2="{WIDE - _RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{number_text(tick)}</text>'
        for tick in ticks
    ]
    for place, day in enumerate(days):
        left = _LEFT + step * place
        texts = [f"{line.name}: {value.text}" for line in lines for value in line.values if value.day == day]
        if all(value.value is None for line in lines for value in line.values if value.day == day):
            parts.append(
                f'<rect class="unknown" x="{left:.1f}" y="{_TOP}" width="{step:.1f}" '
                f'height="{HEIGHT - _BOTTOM - _TOP}" fill="url(#hatch-{name})">'
                f"<title>{escape(day)}: {escape('; '.join(texts))}</title></rect>"
            )
        if place % max(1, -(-len(days) // _MOST_LABELS)) == 0:
            parts.append(
                f'<text class="tick" x="{left + step / 2:.1f}" y="{HEIGHT - _BOTTOM + 17}" text-anchor="middle">'
                f"{escape(day[5:])}</text>"
            )
    offset = {
        line.name: (place - (len(lines) - 1) / 2) * min(9.0, step / (len(lines) + 1))
        for place, line in enumerate(lines)
    }
    for line, value in shown:
        x = _LEFT + step * (days.index(value.day) + 0.5) + offset[line.name]
        parts.append(_dot(x, up, line, value))
    legend = "".join(f'<span class="key dots {line.tone}">{escape(line.name)}</span>' for line in lines)
    return Markup(
        f'<figure class="chart wide"><figcaption><b>{escape(title)}</b><span class="legend">{legend}'
        f"<span>{escape(unit)} · hatched: not known yet</span></span></figcaption>"
        f'<svg viewBox="0 0 {WIDE} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def day_grid(title: str, unit: str, rows: Sequence[DayLine], name: str) -> Markup:
    """One row for each of `rows`, one cell a day: the deeper the colour, the higher the value; hatched without one.

    Raises:
        ValueError: there is no day.
    """
    days = sorted({value.day for row in rows for value in row.values})
    if not days:
        raise ValueError(f"the grid {title!r} has no days")
    step = (WIDE - _NAME_WIDTH - _RIGHT) / len(days)
    known = [value.value for row in rows for value in row.values if value.value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    height = _HEAD + _CELL_HEIGHT * len(rows) + 6
    parts = [_HATCH.format(id=f"hatch-{name}")]
    for place, day in enumerate(days):
        if place % max(1, -(-len(days) // _MOST_LABELS)) == 0:
            x = _NAME_WIDTH + step * (place + 0.5)
            parts.append(f'<text class="tick" x="{x:.1f}" y="16" text-anchor="middle">{escape(day[5:])}</text>')
    for line, row in enumerate(rows):
        top = _HEAD + _CELL_HEIGHT * line
        parts.append(
            f'<text class="name" x="{_NAME_WIDTH - 12}" y="{top + 16}" text-anchor="end">{escape(row.name)}</text>'
        )
        for value in row.values:
            left = _NAME_WIDTH + step * days.index(value.day)
            box = f'x="{left + 1:.1f}" y="{top + 1}" width="{max(step - 2, 1):.1f}" height="{_CELL_HEIGHT - 2}" rx="3"'
            tip = f"<title>{escape(row.name)}, {escape(value.day)}: {escape(value.text)}</title>"
            if value.value is None:
                parts.append(f'<rect class="unknown" {box} fill="url(#hatch-{name})">{tip}</rect>')
            else:
                deep = 0.12 + 0.78 * ((value.value - low) / (high - low) if high > low else 0.5)
                parts.append(f'<rect class="bar {row.tone}" {box} opacity="{deep:.2f}">{tip}</rect>')
    return Markup(
        f'<figure class="chart wide"><figcaption><b>{escape(title)}</b><span class="legend"><span>{escape(unit)}, '
        f"{number_text(low)} to {number_text(high)} · hatched: not known yet</span></span></figcaption>"
        f'<svg viewBox="0 0 {WIDE} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _dot(x: float, up: Callable[[float], float], line: DayLine, value: DayValue) -> str:
    if value.value is None:
        return ""
    spread = ""
    if value.low is not None and value.high is not None:
        low, high = up(value.low), up(value.high)
        spread = (
            f'<path class="spread" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"/>'
        )
    return (
        f'{spread}<circle class="dot {line.tone}" cx="{x:.1f}" cy="{up(value.value):.1f}" r="4">'
        f"<title>{escape(line.name)}, {escape(value.day)}: {escape(value.text)}</title></circle>"
    )


def _scale(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    """From values to pixels, and four ticks; without a value from 0 to 1."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = (high - low or abs(high) or 1.0) * 0.08
    low, high = low - margin, high + margin
    base, reach = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    return lambda value: base - (value - low) / (high - low) * reach, [
        low + (high - low) * at for at in (0.1, 0.37, 0.63, 0.9)
    ]
