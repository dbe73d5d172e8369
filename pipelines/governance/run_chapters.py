"""The chapters of an evaluation report about the run: latency, the forms of the graph, trials, energy and cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages.document import Block, Chapter, Figure, Table
from pipelines.pages.plots import Axis, Series, chart

_TONES = ("t1", "t2", "t4", "t5", "t6", "t7", "t3", "t8")


def latency(section: Mapping[str, Any]) -> Chapter | None:
    """Quantiles of the challenger's graph runs."""
    measured = section.get("challenger", ())
    if not measured:
        return None
    lines = [
        (f"{found['rows']}", f"{found['us_p50']:,.0f}", f"{found['us_p95']:,.0f}", f"{found['us_p99']:,.0f}")
        for found in measured
    ]
    said: list[Block] = [
        f"Of the graph alone, {measured[0]['runs']:,} runs on one thread of the machine that evaluated, without server "
        "and network (`paceline bench serve` measures those). A p99 of so few runs is rough: other work on the machine "
        "shows in it.",
        Table(("Rows at once", "p50, µs", "p95, µs", "p99, µs"), lines),
    ]
    if difference := section.get("difference_us_p50"):
        said.append(
            f"One row: {difference['estimate']:+.1f} µs beside the champion (95 % {difference['low']:+.1f} … "
            f"{difference['high']:+.1f}), run in turns."
        )
    return Chapter("Latency of the graph", said)


def optimisation(candidates: Sequence[Mapping[str, Any]], chosen: str, reason: str, timed_on: str) -> Chapter | None:
    """The forms of the graph: what each costs and saves, and why one serves."""
    if not candidates:
        return None
    lines, not_made = [], dict[str, list[str]]()
    for found in candidates:
        if found.get("size_bytes") is None:
            not_made.setdefault(found["reason"], []).append(found["name"])
            continue
        verdict = "serves" if found["name"] == chosen else "accepted" if found["accepted"] else "refused"
        size = f"{found['size_bytes'] / 1024:,.0f}"
        lines.append((found["name"], verdict, size, _figure(found.get("log_loss")), _times(found), found["reason"]))
    measured = [found for found in candidates if found.get("latency")]
    why = f"The choice is `{chosen}`: {reason}. " if reason else ""
    said: list[Block] = [
        f"{why}Log losses here are of the validation rows, which the final fit has seen: they are lower than on the "
        "test rows, and only their differences count.",
        Table(("Form", "Result", "KiB", "Log loss", "p50, µs (rows at once)", "Why"), lines),
    ]
    if timed_on:
        said.append(f"Timed on {timed_on}.")
    if not_made:
        said.append(Table(("Not made", "Why"), [(", ".join(names), why) for why, names in not_made.items()]))
    if measured:
        drawn = [
            Series(found["name"], [(float(t["rows"]), t["us_p50"]) for t in found["latency"]], tone)
            for found, tone in zip(measured, _TONES, strict=False)
        ]
        said.append(Figure(chart("Latency by batch", Axis("rows at once", "log"), Axis("p50, µs", "log"), drawn)))
    return Chapter("Optimisation", said)


def trials(found: Sequence[Mapping[str, Any]], reason: str) -> Chapter | None:
    """Every trial of the search, why one went on, and the learning curve of that."""
    if not found:
        return None
    has_errors = any(trial.get("error") for trial in found)
    lines = [
        (
            trial["name"],
            "chosen" if trial.get("chosen") else str(trial.get("state", "finished")),
            _figure(trial.get("metrics", {}).get("log_loss")),
            _behind(trial),
            _figure(trial.get("metrics", {}).get("auc")),
            *_took(trial),
            ", ".join(f"{name} {value}" for name, value in sorted(trial.get("parameters", {}).items())) or "defaults",
            *([trial.get("error") or ""] if has_errors else []),
        )
        for trial in found
    ]
    head = ("Trial", "Result", "Log loss", "Behind the best (± SE)", "AUC", "Seconds", "Wh", "Parameters")
    said: list[Block] = [
        f"{f'The choice: {reason}. ' if reason else ''}Trials are compared on the newer half of the "
        "validation rows, in pairs by day; among those within one standard error of the best the simplest goes on.",
        Table((*head, "Error") if has_errors else head, lines),
    ]
    for trial in found:
        curve: Sequence[Mapping[str, float]] = trial.get("curve") or []
        if trial.get("chosen") and len(curve) > 1:
            names = [name for name in curve[0] if name != "step"]
            drawn = [
                Series(name.replace("_", " "), [(point["step"], point[name]) for point in curve], tone)
                for name, tone in zip(names, _TONES, strict=False)
            ]
            least = min(point[name] for point in curve for name in names)
            said.append(Figure(chart("Learning curve", Axis("step"), Axis("log loss", start=least), drawn)))
    return Chapter("Trials", said)


def energy(found: Sequence[Mapping[str, Any]]) -> Chapter | None:
    """What training took: time, energy, and what it cost where a price is known."""
    spent = [trial["spent"] for trial in found if trial.get("spent")]
    if not spent:
        return None
    seconds = sum(each["cpu_s"] for each in spent)
    hours = sum(each["energy_kwh"] or 0.0 for each in spent)
    said: list[Block] = [
        f"{len(spent)} of {len(found)} trials, all that ended by themselves, took {seconds:,.0f} s of processor time "
        f"and {hours * 1000:,.3f} Wh ({spent[0]['method']}).",
    ]
    prices = [each["cost"] for each in spent if each.get("cost") is not None]
    if prices:
        said.append(f"At the price of `PACELINE_PRICE_PER_CPU_HOUR` that is {sum(prices):,.4f}.")
    else:
        said.append("No price is known: `PACELINE_PRICE_PER_CPU_HOUR` sets one.")
    said.append(
        "Neither optimisation nor this evaluation is in these numbers: `paceline bench train` measures every part of a "
        "retrain. The same totals are tags of the registered version (`training_energy_wh`, `training_cpu_s`)."
    )
    return Chapter("Energy and cost of training", said)


def _behind(trial: Mapping[str, Any]) -> str:
    if not trial.get("behind"):
        return "–"  # it failed, or it is the best
    error = "" if trial.get("behind_se") is None else f" ± {trial['behind_se']:.4f}"
    return f"{trial['behind']:+.4f}{error}"


def _took(trial: Mapping[str, Any]) -> tuple[str, str]:
    spent = trial.get("spent")
    if spent is None:
        return (f"{trial['seconds']:,.1f}" if trial.get("seconds") is not None else "–"), "–"
    return f"{spent['wall_s']:,.1f}", f"{1000 * spent['energy_kwh']:,.3f}"


def _times(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{time['us_p50']:,.0f} ({time['rows']})" for time in found.get("latency", ())) or "–"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
