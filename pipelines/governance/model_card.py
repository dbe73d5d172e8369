"""The model card: what a model is for, what it was made from, how good it is, and where it must not be trusted.

It is hashed with its bundle, so it says nothing that changes between two runs on the same content: no times, no hosts,
and no gates, which compare with whoever leads on that day. Those are in the ledger and in a prediction's lineage.
After Mitchell et al., "Model Cards for Model Reporting", 2019.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_METRICS = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss (nats)",
    "brier": "Brier score",
    "calibration_error": "Expected calibration error",
    "false_positive_rate": "False-positive rate at the threshold",
    "f1": "F1 at the threshold",
    "base_rate": "Share of positive outcomes",
    "base_rate_log_loss": "Log loss of the base rate alone (nats)",
    "mean_score": "Mean score",
}
_PARTS = {"train": "Training", "validation": "Validation", "test": "Test"}


def model_card(
    *,
    title: str,
    description: str,
    owner: str,
    label: str,
    windows: Mapping[str, Any],
    rows: Mapping[str, int],
    trainer: str,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    limits: Sequence[str] = (),
) -> str:
    """The card as Markdown.

    Args:
        description: of the project: what is predicted, from what, for whom, and what it is not for.
        label: what an outcome of 1 means.
        windows: by part (`train`, `validation`, `test`) the days `start` up to and without `end`.
        rows: by part.
        metrics: on the test rows, by the names of `pipelines.evaluation.metrics`.
        limits: sentences on where the model must not be trusted, beside those that follow from its windows.
    """
    sections = [
        [f"# {title}", description.strip(), f"Owner: {owner}. Outcome: {label or 'see the description'}."],
        ["## Intended use", _intended_use(label)],
        ["## Data", _data(windows, rows)],
        ["## Model", _model(trainer, parameters)],
        ["## Quality on the test rows", _quality(metrics)],
        ["## Limits", _limits(windows, rows, metrics, limits)],
    ]
    return "\n\n".join(part for section in sections for part in section) + "\n"


def _intended_use(label: str) -> str:
    of = f"“{label}”" if label else "the outcome"
    return (
        f"The score is a calibrated probability of {of} for one event that has not happened yet. "
        "It supports a decision at the project's threshold; other uses have not been evaluated."
    )


def _data(windows: Mapping[str, Any], rows: Mapping[str, int]) -> str:
    lines = [
        (name, f"{windows[part]['start']} up to {windows[part]['end']}", f"{rows.get(part, 0):,}")
        for part, name in _PARTS.items()
        if part in windows
    ]
    return _table(("Part", "Days", "Rows"), lines)


def _model(trainer: str, parameters: Mapping[str, Any]) -> str:
    if not parameters:
        return f"Trainer `{trainer}` with its default parameters."
    return f"Trainer `{trainer}`.\n\n" + _table(
        ("Parameter", "Value"), ((f"`{name}`", f"`{value}`") for name, value in sorted(parameters.items()))
    )


def _quality(metrics: Mapping[str, float]) -> str:
    known = [name for name in _METRICS if name in metrics] + sorted(metrics.keys() - _METRICS.keys())
    return _table(("Metric", "Value"), ((_METRICS.get(name, name), f"{metrics[name]:.4f}") for name in known))


def _limits(
    windows: Mapping[str, Any], rows: Mapping[str, int], metrics: Mapping[str, float], more: Sequence[str]
) -> str:
    said = []
    if "train" in windows:
        first, last = windows["train"]["start"], windows["train"]["end"]
        said.append(f"It knows only what happened from {first} up to {last}; seasons outside of it are new to it.")
    if "test" in rows:
        said.append(f"The quality above is that of {rows['test']:,} rows of one test window; live quality may differ.")
    if "base_rate" in metrics:
        said.append(
            f"{metrics['base_rate']:.1%} of the test outcomes were positive; where that share is another, "
            "the calibration is off until the next retrain."
        )
    said.append("A category that training has not seen, and a missing value, are scored as “missing”.")
    return "\n".join(f"- {sentence}" for sentence in (*said, *more))


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    """Text that cannot end a cell or the table."""
    return " ".join(text.split()).replace("|", "\\|")
