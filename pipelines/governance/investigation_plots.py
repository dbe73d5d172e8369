"""The drawings of an investigation: evidence, failures, latency and scores of both versions over time and by phase."""

from collections.abc import Callable, Sequence
from math import log10
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipelines.monitoring.rollout_rows import SCORE_BINS, Part
from pipelines.pages.plots import WIDE, Axis, Bar, Series, bars, chart

if TYPE_CHECKING:
    from pipelines.governance.investigation import Investigation

TONES = {"champion": "t1", "challenger": "t3"}
_ARMS = ("champion", "challenger")
_LINES = ("t3", "t2", "t4", "t5", "t6", "t7")
_LOWEST = -4.0  # powers of ten below the limit: less is no evidence at all


def evidence_over_time(found: "Investigation") -> list[Markup]:
    """Each comparison's e-value as a part of its limit."""
    looks = found.looks
    if len(looks) < 2:
        return []
    unit, length = _unit(found)
    courses: dict[str, list[tuple[float, float | None]]] = {}
    for look in looks:
        at = (look.at_s - found.started_s) / length
        for each in look.findings:
            if 0 < each.limit < float("inf"):
                height = max(_LOWEST, log10(max(each.e_value, 1e-300) / each.limit))
                courses.setdefault(each.name, []).append((at, height))
    told = sorted(courses, key=lambda name: -max(height or _LOWEST for _, height in courses[name]))[: len(_LINES)]
    drawings = []
    if told:
        highest = max(height or _LOWEST for name in told for _, height in courses[name])
        drawings.append(
            chart(
                "Evidence against the version, as a part of what rolls it back",
                Axis(f"{unit} since the start"),
                Axis("powers of ten", start=_LOWEST, end=max(1.0, highest)),
                [Series(name, courses[name], tone) for name, tone in zip(told, _LINES, strict=False)],
                marks=[(0.0, "limit")],
                width=WIDE,
            )
        )
    return drawings


def over_time(found: "Investigation") -> list[Markup]:
    """Share, failures, latency and mean scores over time, the scores' distribution, and latency by phase."""
    rows = found.rows
    drawn = [
        _shares(found),
        _lines(found, "Failed predictions", "a second", lambda part: part.errors / rows.bucket_s),
        _latencies(found),
        _lines(found, "Mean score", "score", lambda part: part.mean_score),
        _scores(found),
        _by_phase(found, "p95 by phase", "milliseconds", lambda part: part.p95_ms),
    ]
    return [each for each in drawn if each is not None]


def _shares(found: "Investigation") -> Markup | None:
    time, length = _unit(found)
    steps = [((look.at_s - found.started_s) / length, look.share * 100) for look in found.looks]
    if max((share for _, share in steps), default=0) == 0:
        return None
    series = [Series("share", _staircase(steps), TONES["challenger"], "area")]
    return chart("Share of the entities", Axis(f"{time} since the start"), Axis("%", start=0.0), series)


def _lines(found: "Investigation", title: str, unit: str, value: Callable[[Part], float | None]) -> Markup | None:
    points = {arm: _points(found, arm, value) for arm in _ARMS}
    series = [
        Series(_name(found, arm), points[arm], TONES[arm])
        for arm in _ARMS
        if any(height is not None for _, height in points[arm])
    ]
    time, _ = _unit(found)
    if not series:
        return None
    start = None if unit == "score" else 0.0
    return chart(title, Axis(f"{time} since the start"), Axis(unit, start=start), series)


def _latencies(found: "Investigation") -> Markup | None:
    """p50 and p95 of both, on one scale of powers."""
    series = []
    for arm in _ARMS:
        for name, style in (("p50_ms", "dashed"), ("p95_ms", "line")):
            points = _points(found, arm, lambda part, name=name: getattr(part, name))  # type: ignore[misc]
            if any(height is not None for _, height in points):
                label = f"{_name(found, arm)} {name.removesuffix('_ms')}"
                series.append(Series(label, points, TONES[arm], style))  # type: ignore[arg-type]
    time, _ = _unit(found)
    if not series:
        return None
    return chart("Latency", Axis(f"{time} since the start"), Axis("ms", scale="log"), series)


def _scores(found: "Investigation") -> Markup | None:
    """How scores are distributed, as shares of each version's answers over all phases."""
    series = []
    for arm in _ARMS:
        counts = [0] * SCORE_BINS
        for part in found.rows.parts:
            if part.arm == arm:
                counts = [mine + more for mine, more in zip(counts, part.scores, strict=True)]
        if total := sum(counts):
            points = [((place + 0.5) / SCORE_BINS, count / total * 100) for place, count in enumerate(counts)]
            series.append(Series(_name(found, arm), points, TONES[arm], "area" if arm == "champion" else "line"))
    if not series:
        return None
    return chart("Scores", Axis("score", start=0.0, end=1.0), Axis("% of the answers", start=0.0), series)


def _by_phase(found: "Investigation", title: str, unit: str, value: Callable[[Part], float | None]) -> Markup | None:
    shown = [
        Bar(f"{part.name}, {part.arm}", height, TONES[part.arm], f"{height:.2f}")
        for part in found.rows.parts
        if (height := value(part)) is not None
    ]
    return bars(title, unit, shown) if len(shown) > 1 else None


def _points(
    found: "Investigation", arm: str, value: Callable[[Part], float | None]
) -> Sequence[tuple[float, float | None]]:
    """One point for each interval that had rows; a longer pause breaks the line."""
    _, length = _unit(found)
    points, last = list[tuple[float, float | None]](), None
    for part in found.rows.over_time:
        if part.arm != arm:
            continue
        if last is not None and part.start_s - last > 3 * found.rows.bucket_s:
            points.append(((last + found.rows.bucket_s - found.started_s) / length, None))
        points.append(((part.start_s + found.rows.bucket_s / 2 - found.started_s) / length, value(part)))
        last = part.start_s
    return points


def _name(found: "Investigation", arm: str) -> str:
    return f"{arm} {found.version if arm == 'challenger' else found.champion or ''}".strip()


def _unit(found: "Investigation") -> tuple[str, float]:
    """The unit of time that gives readable numbers."""
    seconds = found.ended_s - found.started_s
    return ("hours", 3600.0) if seconds > 4 * 3600 else ("minutes", 60.0) if seconds > 240 else ("seconds", 1.0)


def _staircase(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float | None]]:
    """Each value holds until the next: a share jumps, it does not grow."""
    points: list[tuple[float, float | None]] = []
    for place, (at, share) in enumerate(steps):
        if place and points[-1][1] != share:
            points.append((at, points[-1][1]))
        points.append((at, share))
    return points
