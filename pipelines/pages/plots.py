"""Charts as inline SVG: nothing to load, sharp at any size, colours from the page's style in light and dark."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

WIDTH, WIDE, HEIGHT = 560, 1140, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 18, 14, 44
_MAXIMUM_DOTS = 240
_LABEL_GAP = 14
Scale = Literal["linear", "log", "nines"]


class Series(NamedTuple):
    """A line. `tone` is a colour of the page: `t1` … `t8`, or `muted`. A point without a value breaks the line."""

    name: str
    points: Sequence[tuple[float, float | None]]
    tone: str
    style: Literal["line", "area", "dots", "dashed"] = "line"
    tips: Sequence[str] = ()


class Axis(NamedTuple):
    """`nines` is for percentiles: 90, 99, 99.9 … at equal distances."""

    title: str
    scale: Scale = "linear"
    unit: str = ""
    start: float | None = None
    end: float | None = None


class Bar(NamedTuple):
    """One bar; `low` and `high` are the spread over the rounds."""

    name: str
    value: float | None
    tone: str
    text: str
    low: float | None = None
    high: float | None = None


def number_text(value: float) -> str:
    """Three significant digits, with thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def chart(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    marks: Sequence[tuple[float, str]] = (),
    width: int = WIDTH,
) -> Markup:
    """Lines over a grid. `marks` are horizontal lines with a label, for example an objective.

    Raises:
        ValueError: no series has a point.
    """
    xs = [px for each in series for px, py in each.points if py is not None]
    ys = [py for each in series for _, py in each.points if py is not None] + [mark for mark, _ in marks]
    if not xs:
        raise ValueError(f"the chart {title!r} has no points")
    across, x_ticks = _scaled(x, xs, _LEFT, width - _RIGHT, tight=True)
    up, y_ticks = _scaled(y, ys, HEIGHT - _BOTTOM, _TOP, tight=False)
    parts = [_grid(x, y, across, up, x_ticks, y_ticks, width)]
    for value, label in marks:
        parts.append(
            f'<line class="mark" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>'
            f'<text class="mark" x="{_LEFT + 6}" y="{up(value) - 5:.1f}">'
            f"{escape(label)}</text>"
        )
    parts += [_series(each, across, up, x, y) for each in series]
    legend = "".join(
        f'<span class="key {each.tone} {each.style}">{escape(each.name)}</span>' for each in series if len(series) > 1
    )
    return Markup(
        f'<figure class="chart{" wide" if width == WIDE else ""}">'
        f'<figcaption><b>{escape(title)}</b><span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def bars(title: str, unit: str, found: Sequence[Bar], note: str = "") -> Markup:
    """Horizontal bars from zero, with their values; one without a value says so in words."""
    row, left, right = 30, 190, 150
    height = row * len(found) + 8
    most = max((bar.high or bar.value or 0.0 for bar in found), default=0.0) or 1.0
    reach = WIDTH - left - right
    parts = []
    for place, bar in enumerate(found):
        middle = 4 + row * place + row / 2
        parts.append(
            f'<text class="name" x="{left - 12}" y="{middle + 4:.0f}" text-anchor="end">{escape(bar.name)}</text>'
        )
        if bar.value is None:
            parts.append(f'<text class="none" x="{left + 4}" y="{middle + 4:.0f}">{escape(bar.text)}</text>')
            continue
        length = max(2.0, bar.value / most * reach)
        parts.append(
            f'<rect class="bar {bar.tone}" x="{left}" y="{middle - 10:.0f}" width="{length:.1f}" height="20" rx="3">'
            f"<title>{escape(bar.name)}: {escape(bar.text)}</title></rect>"
        )
        end = length
        if bar.low is not None and bar.high is not None and bar.high > bar.low:
            low, high = (left + value / most * reach for value in (bar.low, bar.high))
            end = max(length, high - left)
            parts.append(
                f'<path class="spread" d="M{low:.1f} {middle:.0f}H{high:.1f}M{low:.1f} {middle - 4:.0f}v8'
                f'M{high:.1f} {middle - 4:.0f}v8"/>'
            )
        parts.append(f'<text class="value" x="{left + end + 8:.1f}" y="{middle + 4:.0f}">{escape(bar.text)}</text>')
    caption = f"<b>{escape(title)}</b><span class='legend'>{escape(unit)}{' · ' if note else ''}{escape(note)}</span>"
    return Markup(
        f'<figure class="chart"><figcaption>{caption}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _series(series: Series, across: Callable[[float], float], up: Callable[[float], float], x: Axis, y: Axis) -> str:
    placed = [(across(px), None if py is None else up(py), px, py) for px, py in series.points]
    parts, run = [], list[str]()
    first_x = 0.0
    last_x = 0.0
    for position, (px, py, _, _) in enumerate([*placed, (0.0, None, 0.0, None)]):
        if py is not None:
            if not run:
                first_x = px
            last_x = px
            run.append(f"{px:.1f} {py:.1f}")
        if (py is None or position == len(placed)) and run:
            path = "M" + "L".join(run)
            if series.style == "area":
                base = HEIGHT - _BOTTOM
                parts.append(f'<path class="fill {series.tone}" d="{path}L{last_x:.1f} {base}L{first_x:.1f} {base}Z"/>')
            if series.style != "dots":
                kind = "line dashed" if series.style == "dashed" else "line"
                parts.append(f'<path class="{kind} {series.tone}" d="{path}"/>')
            run = []
    shown = [(place, each) for place, each in enumerate(placed) if each[1] is not None]
    kind = "dot" if series.style == "dots" or len(shown) < 30 else "dot hidden"
    for place, (px, py, vx, vy) in shown if len(shown) <= _MAXIMUM_DOTS else []:
        default = f"{series.name}: {number_text(vy or 0.0)}{y.unit} at {number_text(vx)}{x.unit}"
        tip = series.tips[place] if place < len(series.tips) else default
        parts.append(
            f'<circle class="{kind} {series.tone}" cx="{px:.1f}" cy="{py:.1f}" r="4">'
            f"<title>{escape(tip)}</title></circle>"
        )
    return "".join(parts)


def _grid(
    x: Axis,
    y: Axis,
    across: Callable[[float], float],
    up: Callable[[float], float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    width: int,
) -> str:
    base = HEIGHT - _BOTTOM
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{number_text(tick)}</text>'
        for tick in y_ticks
    ]
    for tick in x_ticks:
        text = f"{tick:g}" if x.scale == "nines" else number_text(tick)
        parts.append(
            f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{_TOP}" y2="{base}"/>'
            f'<text class="tick" x="{across(tick):.1f}" y="{base + 17}" text-anchor="middle">{text}</text>'
        )
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f'<text class="title" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.title)}</text>')
    parts.append(
        f'<text class="title" transform="translate(13 {(_TOP + base) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.title)}</text>"
    )
    return "".join(parts)


def _scaled(
    axis: Axis, values: Sequence[float], begin: float, end: float, *, tight: bool
) -> tuple[Callable[[float], float], list[float]]:
    """A function from values to pixels, and the ticks."""
    if axis.scale == "nines":
        highest = max(max(values), 99.0)
        forward: Callable[[float], float] = lambda value: -math.log10(1 - min(value, 99.9999) / 100)  # noqa: E731
        ticks = [tick for tick in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999) if tick <= highest]
        low, high = 0.0, forward(highest)
    elif axis.scale == "log":
        positive = [value for value in values if value > 0] or [1.0]
        forward = lambda value: math.log10(max(value, 1e-9))  # noqa: E731
        low, high = (forward(value) for value in (min(positive), max(positive)))
        if not tight:
            low, high = low - 0.08, high + 0.08
        if high - low < 0.5:
            low, high = low - 0.25, high + 0.25
        steps = range(1, 10) if high - low < 0.75 else (1, 2, 5) if high - low < 2.2 else (1,)
        powers = range(math.floor(low) - 1, math.ceil(high) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps if low <= forward(step * 10.0**power) <= high]
    else:
        forward = float
        low = axis.start if axis.start is not None else (min(values) if tight else 0.0)
        high = axis.end if axis.end is not None else max(values)
        if high <= low:
            high = low + 1.0
        step = _nice((high - low) / 5)
        if not tight:
            high = math.ceil(high / step - 1e-9) * step
        ticks = [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    span = (high - low) or 1.0
    return lambda value: begin + (forward(value) - low) / span * (end - begin), ticks


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step - 1e-12)
