"""The page on which people watch and steer rollouts: its frame, and its live parts, drawn at every asking."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.views.rollouts import QUESTIONS

_TEMPLATES = Path(__file__).parent / "templates"
_TONES = ("t2", "t4", "t5", "t6")  # red is the limit's
_DRAWN_MIN = 1e-4  # of e-value over limit: what is less is drawn there
_SPARK_WIDTH, _SPARK_HEIGHT = 150, 30
_MINUTES_FROM_S = 600.0


def rollout_console(
    overview: list[dict[str, Any]],
    project: str,
    rollout: str | None,
    user: str,
    nonce: str,
    reported_week: str | None = None,
) -> str:
    """The page's frame for `project`: the tabs, the commands, and the script, which carries `nonce`.

    It shows `rollout`, or else the one that runs, or the last one; with the last weekly report, where there is one.
    """
    from pipelines.pages import render

    return render(
        "rollout_console.html",
        [_TEMPLATES],
        title="Paceline: rollouts",
        overview=overview,
        project=project,
        rollout=rollout,
        user=user,
        nonce=nonce,
        reported_week=reported_week,
    )


def live_parts(found: dict[str, Any], now_s: float) -> dict[str, Any]:
    """What changes, as HTML by its place on the page, with what the commands need to know."""
    from pipelines.pages import render

    told = found["rollout"]
    values = {
        "found": found,
        "told": told,
        "duration": duration,
        "status": status_of(told),
        "question": open_question(told, now_s),
        "charts": [] if told is None else charts(told),
        "plan": plan_facts(found["plan"] if told is None else told["plan"]),
        "findings": [] if told is None else [_drawn(each, told) for each in told["findings"]],
    }
    return {
        "top": render("rollout_top.html", [_TEMPLATES], **values),
        "more": render("rollout_more.html", [_TEMPLATES], **values),
        "running": found["running"] if told is None or told["rollout"] not in found["all_running"] else told["rollout"],
        "shown": None if told is None else told["rollout"],
        "phase": None if told is None else told["phase"],
        "refusals": {} if told is None else told["refusals"],
        "asks": values["question"] is not None,
        "answers": {} if told is None else {str(each["entry"]): each["answer"] for each in told["commands"]},
    }


def duration(seconds: float) -> str:
    """Seconds in words: `8 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def plan_facts(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """A plan as names and words, the version of it first; a step with its share, requests and time."""
    return [(name.replace("_", " "), _fact(value)) for name, value in plan.items()]


def _fact(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_fact(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(_step(each) if "share" in each else _fact(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _step(step: dict[str, Any]) -> str:
    return f"{step['share'] * 100:g} %: {step['minimum_requests']:,} requests, {duration(step['minimum_s'])}"


def status_of(told: dict[str, Any] | None) -> tuple[str, str]:
    """The state in a word or two, and its tone."""
    if told is None:
        return "no rollout yet", ""
    if told["state"] != "running":
        return told["state"].replace("_", " "), {"promoted": "good", "not_chosen": ""}.get(told["state"], "bad")
    if told["paused"]:
        return "paused", "warn"
    return ("waiting for a person", "warn") if told["asks"] else ("running", "live")


def open_question(told: dict[str, Any] | None, now_s: float) -> dict[str, Any] | None:
    """The question that nobody has answered yet, in words, with the seconds that are left; or None."""
    if told is None or told["state"] != "running":
        return None
    for question in reversed(told["questions"]):
        if question["answer"] is None:
            left_s = max(0.0, question["asked_s"] + question["timeout_s"] - now_s)
            return {**question, "left_s": left_s, "text": QUESTIONS.get(question["question"], question["question"])}
    return None


def charts(told: dict[str, Any]) -> list[Markup]:
    """The evidence against its limit, and failures of both versions, over the rollout's time."""
    from pipelines.pages.plots import WIDE, WIDTH, Axis, Series, chart

    points = told["points"]
    if len(points) < 2:
        return []
    in_minutes = points[-1]["seconds"] > _MINUTES_FROM_S
    unit, scale = ("min", 60.0) if in_minutes else ("s", 1.0)
    time = Axis(f"since the rollout began, {unit}", unit=f" {unit}", start=0.0)
    evidence = [
        Series(name, [(p["seconds"] / scale, _drawable(p["ratios"].get(name))) for p in points], _TONES[place])
        for place, name in enumerate(_nearest(points))
    ]
    rates = [
        Series(name, [(p["seconds"] / scale, _percent(p[key])) for p in points], tone)
        for name, key, tone in (
            (f"challenger {told['version']}", "failure_rate", "t3"),
            (f"champion {told['expected_champion']}", "reference_failure_rate", "t1"),
        )
    ]
    has_rates = any(value is not None for series in rates for _, value in series.points)
    axis, limit = Axis("e-value ÷ its limit", "log"), [(1.0, "limit: rolled back above")]
    width = WIDTH if has_rates else WIDE
    title = "Evidence against the challenger" + (f": {evidence[0].name}" if len(evidence) == 1 else "")
    found = [chart(title, time, axis, evidence, limit, width)]
    if has_rates:
        found.append(chart("Entities that failed, so far", time, Axis("%", unit=" %"), rates))
    return found


def _drawable(ratio: float | None) -> float | None:
    return None if ratio is None else max(ratio, _DRAWN_MIN)


def _drawn(finding: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    from pipelines.pages.plots import number_text

    values = [point["ratios"].get(finding["name"]) for point in told["points"]]
    shown = f"{finding['e_value']:.2g}" if not 0.01 <= finding["e_value"] < 1e6 else number_text(finding["e_value"])
    curve = spark([value for value in values if value is not None], finding["name"])
    what = finding["what"].removeprefix(f"{finding['name']}: ").removeprefix(f"{finding['name']} for ")
    return {**finding, "what": what, "shown": shown, "spark": curve}


def _nearest(points: list[dict[str, Any]]) -> list[str]:
    """The kinds of evidence that came nearest to their limits, those that never moved only where none did."""
    courses: dict[str, list[float]] = {}
    for point in points:
        for name, value in point["ratios"].items():
            courses.setdefault(name, []).append(max(value, _DRAWN_MIN))
    ranked = sorted(courses, key=lambda name: (-max(courses[name]), name))
    moving = [name for name in ranked if len(set(courses[name])) > 1]
    return (moving or ranked)[: len(_TONES)]


def spark(ratios: list[float], name: str) -> Markup:
    """A small curve of e-value over limit, in orders of magnitude, up to the limit, which is its upper edge."""
    from math import log10

    if len(ratios) < 2:
        return Markup("")
    lowest = -4.0
    heights = [min(1.0, max(0.0, (log10(max(value, 1e-12)) - lowest) / -lowest)) for value in ratios]
    across = (_SPARK_WIDTH - 6) / (len(heights) - 1)
    placed = [
        f"{3 + place * across:.1f} {3 + (1 - height) * (_SPARK_HEIGHT - 6):.1f}" for place, height in enumerate(heights)
    ]
    return Markup(
        '<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="{name} over time">'
        '<line class="edge" x1="3" x2="{right}" y1="3" y2="3"/><path class="line" d="M{path}"/></svg>'
    ).format(width=_SPARK_WIDTH, height=_SPARK_HEIGHT, name=name, right=_SPARK_WIDTH - 3, path=Markup("L").join(placed))


def _percent(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate
