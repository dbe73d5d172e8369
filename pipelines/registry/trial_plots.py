"""Plots of trials, as figures: how one learned, how all of them compare, and which parameters mattered."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.registry.port import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = (8.0, 4.5)
_CURVES = {"train_log_loss": "trained on", "validation_log_loss": "to stop by"}


def curve(trial: Trial) -> "Figure | None":
    """The log loss by step, of the rows trained on and of those to stop by; None without a curve."""
    steps = [point for point in trial.curve if "step" in point]
    if not steps:
        return None
    figure, axes = _figure(trial.name if trial.error is None else f"{trial.name}: {trial.state}")
    for key, label in _CURVES.items():
        known = [(point["step"], point[key]) for point in steps if key in point]
        if known:
            axes.plot(*zip(*known, strict=True), label=label)
    stopping = [(point["validation_log_loss"], point["step"]) for point in steps if "validation_log_loss" in point]
    if stopping:
        least, step = min(stopping)
        axes.axvline(step, color="0.6", linestyle=":", label=f"least: {least:.4f} after step {step:g}")
    axes.set_xlabel("step (trees or epochs)")
    axes.set_ylabel("log loss")
    axes.legend()
    return figure


def overview(trials: Sequence[Trial], importances: Mapping[str, Mapping[str, float]]) -> "dict[str, Figure]":
    """By file name: the validation log loss of all trials, and for each trainer of a search what mattered."""
    plots = {}
    if any("log_loss" in trial.metrics for trial in trials):
        plots["trials"] = _trials(trials)
    for trainer, shares in importances.items():
        plots[f"importance-{trainer}"] = _importance(trainer, shares)
    return plots


def _trials(trials: Sequence[Trial]) -> "Figure":
    """Bars are one standard error of the distance from the best, on the same rows."""
    figure, axes = _figure("Validation log loss of the trials; bars: one standard error of the distance from the best")
    rows = list(range(len(trials)))
    for row, trial in enumerate(trials):
        loss = trial.metrics.get("log_loss")
        if loss is None:
            axes.annotate(
                trial.state, (0.5, row), xycoords=("axes fraction", "data"), va="center", ha="center", color="0.4"
            )
            continue
        color = "tab:green" if trial.chosen else "tab:blue"
        axes.errorbar([loss], [row], xerr=[trial.behind_se or 0.0], fmt="o", color=color, capsize=3)
        if trial.chosen:
            axes.annotate("chosen", (loss, row), textcoords="offset points", xytext=(0, 8), ha="center", color=color)
    axes.set_yticks(rows, [trial.name for trial in trials])
    axes.set_ylim(len(trials) - 0.4, -0.6)
    axes.set_xlabel("log loss")
    figure.set_size_inches(_INCHES[0], max(2.5, 1 + 0.35 * len(trials)))
    return figure


def _importance(trainer: str, shares: Mapping[str, float]) -> "Figure":
    figure, axes = _figure(f"Which parameters of {trainer} explain the log loss's variance")
    ordered = sorted(shares.items(), key=lambda share: (share[1], share[0]))
    axes.barh([name for name, _ in ordered], [share for _, share in ordered])
    axes.set_xlim(0, 1)
    return figure


def _figure(title: str) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes
