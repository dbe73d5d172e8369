"""The walk-forward for people: one HTML file that loads nothing else."""

from datetime import date
from pathlib import Path

from markupsafe import Markup

from pipelines.backtest.walk_forward import Step, WalkForward
from pipelines.pages import Card, render
from pipelines.pages.plots import WIDE, Axis, Series, chart

_TEMPLATES = Path(__file__).parent / "templates"
_RETRAINED, _FIRST = "retrained each period", "never retrained"


def walk_forward_page(found: WalkForward) -> str:
    """The whole page."""
    steps = found.steps
    first, last = steps[0], steps[-1]
    return render(
        "walk_forward.html",
        [_TEMPLATES],
        title=f"{found.project}: what retraining is worth",
        summary=(
            f"{len(steps)} retrains of {found.trainer} from {first.start} to {last.end}, each on all labels known by "
            "then, judged on the events of the period after it."
        ),
        cards=_cards(found),
        charts=_charts(found),
        steps=steps,
        retrained=found.retrained,
        first=found.first,
        footer="Made by paceline backtest; --json writes the same numbers for machines.",
    )


def _cards(found: WalkForward) -> list[Card]:
    retrained, first = found.retrained, found.first
    return [
        Card("mean AUC", _figure(retrained.auc), more=f"never retrained {_figure(first.auc)}", lead=True),
        Card(
            "mean log loss", _figure(retrained.log_loss), more=f"never retrained {_figure(first.log_loss)}", lead=True
        ),
        Card("retrains", f"{len(found.steps)}"),
        Card("events judged", f"{sum(step.rows for step in found.steps):,}"),
        Card("training, together", f"{sum(step.seconds for step in found.steps):.0f}", "s"),
    ]


def _charts(found: WalkForward) -> list[Markup]:
    steps = found.steps
    middle = Axis("day of the year" if steps[0].start.year == steps[-1].start.year else "day")
    losses = [
        _series(_RETRAINED, steps, [step.retrained.log_loss for step in steps], "t1"),
        _series(_FIRST, steps, [step.first.log_loss for step in steps], "t2"),
        Series(
            "share of positive labels",
            [(_day(step), step.label_share) for step in steps],
            "muted",
            "area",
            [f"{step.start}: {step.label_share:.1%} of {step.rows:,} events" for step in steps],
        ),
    ]
    drawn = [chart("Log loss in each period", middle, Axis("log loss, share"), losses, width=WIDE)]
    if all(step.retrained.auc is not None and step.first.auc is not None for step in steps):
        ranked = [
            _series(_RETRAINED, steps, [step.retrained.auc for step in steps], "t1"),
            _series(_FIRST, steps, [step.first.auc for step in steps], "t2"),
        ]
        drawn.append(chart("AUC in each period", middle, Axis("AUC", start=0.5, end=1.0), ranked, width=WIDE))
    return drawn


def _series(name: str, steps: tuple[Step, ...], values: list[float | None] | list[float], tone: str) -> Series:
    points = [(_day(step), value) for step, value in zip(steps, values, strict=True)]
    tips = [f"{name}, from {step.start}: {_figure(value)}" for step, value in zip(steps, values, strict=True)]
    return Series(name, points, tone, "line", tips)


def _day(step: Step) -> float:
    return float((step.start - date(step.start.year, 1, 1)).days + 1)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
