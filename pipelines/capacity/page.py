"""A sizing for people: a few lines for the terminal, and one HTML file with the ramp."""

from pathlib import Path

from markupsafe import Markup

from pipelines.capacity.measured import MeasuredServer, RampStep
from pipelines.capacity.sizing import Demand, Sizing
from pipelines.pages import Card, render
from pipelines.pages.plots import Axis, Series, chart, number_text

_TEMPLATES = Path(__file__).parent / "templates"
_NOTE = "Prices are list prices without discounts, traffic, load balancers and the control plane."


def capacity_page(measured: MeasuredServer, demand: Demand, sizing: Sizing) -> str:
    """The whole page."""
    return render(
        "capacity.html",
        [_TEMPLATES],
        title=f"Capacity of {measured.project}",
        summary=(
            f"For {demand.peak_per_s:,.10g} requests a second, p99 ≤ {measured.objective_ms:g} ms, {_zones(demand)}. "
            f"Measured on version {measured.version} at {measured.measured.replace('T', ' ')}, {measured.machine}."
        ),
        warnings=sizing.warnings,
        cards=_cards(measured, sizing),
        charts=_charts(measured, demand),
        settings=settings_table(measured, sizing),
        measured=measured,
        sizing=sizing,
        footer=f"{_NOTE} Made by paceline capacity; --json writes the same numbers for machines.",
    )


def capacity_text(measured: MeasuredServer, demand: Demand, sizing: Sizing) -> str:
    """The table, how each number came about, and the costs."""
    lines = [
        f"{measured.project} version {measured.version}: {demand.peak_per_s:,.10g} requests a second, "
        f"p99 <= {measured.objective_ms:g} ms, {_zones(demand)}",
        "",
    ]
    rows = settings_table(measured, sizing)
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:<{width}}  {value}" for name, value in rows]
    lines += ["", "how"] + [f"  {line}" for line in sizing.arithmetic]
    lines += ["", "a month, at the peak's replicas and at the fewest"]
    lines += [
        f"  {each.offer}: {each.at_peak:,.2f} and {each.at_least:,.2f} {each.currency} ({each.how}; "
        f"{each.source}, {each.as_of})"
        for each in sizing.costs
    ]
    lines.append(f"  {_NOTE}")
    lines += [f"warning: {each}" for each in sizing.warnings]
    return "\n".join(lines)


def settings_table(measured: MeasuredServer, sizing: Sizing) -> list[tuple[str, str]]:
    """Names and values, as a manifest has them where it has them."""
    lost = sizing.utilisation_without_a_zone
    return [
        ("saturation of one replica", f"{measured.saturation_per_s:,.4g} requests a second"),
        ("start-up time", f"{measured.start_s:.2f} s"),
        ("replicas at the peak", f"{sizing.replicas} ({sizing.per_zone} in each zone)"),
        ("minReplicas, maxReplicas", f"{sizing.replicas_min}, {sizing.replicas_max}"),
        ("utilisation at the peak", f"{sizing.utilisation_at_peak:.0%} of saturation"),
        ("without one zone", "an outage" if lost is None else f"{lost:.0%} of saturation"),
        ("resources.requests", f"cpu: {_milli(sizing.cpu_request)}, memory: {sizing.memory_request_mib}Mi"),
        ("resources.limits", f"cpu: {_milli(sizing.cpu_limit)}, memory: {sizing.memory_limit_mib}Mi"),
        ("HPA target, CPU", f"averageUtilization: {sizing.cpu_target_percent}"),
        ("HPA target, queue", f"averageValue: {_milli(sizing.queue_target_rows)} (paceline_queue_rows)"),
    ]


def _milli(value: float) -> str:
    """A Kubernetes quantity."""
    return f"{round(value * 1000)}m"


def _zones(demand: Demand) -> str:
    return "one zone" if demand.zones == 1 else f"{demand.zones} zones"


def _cards(measured: MeasuredServer, sizing: Sizing) -> list[Card]:
    cards = [
        Card("Replicas", str(sizing.replicas), "", f"{sizing.per_zone} in each zone", lead=True),
        Card("Saturation", number_text(measured.saturation_per_s), "/s", "of one replica"),
        Card("p99 there", number_text(measured.p99_ms), "ms", f"objective {measured.objective_ms:g} ms"),
        Card("CPU request", _milli(sizing.cpu_request), "", f"limit {_milli(sizing.cpu_limit)}"),
        Card("Memory request", str(sizing.memory_request_mib), "MiB", f"limit {sizing.memory_limit_mib} MiB"),
        Card("Start-up", f"{measured.start_s:.2f}", "s", "until ready"),
    ]
    if sizing.costs:
        best = min(sizing.costs, key=lambda each: each.at_peak)
        cards.append(Card("A month, at the peak", number_text(best.at_peak), best.currency, best.offer))
    return cards


def _charts(measured: MeasuredServer, demand: Demand) -> list[Markup]:
    steps = sorted((step for step in measured.steps if step.p99_ms is not None), key=lambda step: step.rate)
    if not steps:
        return []
    rate = Axis("requests a second, log scale", "log", " /s")
    series = [
        Series(name, [(step.rate, step.p99_ms) for step in chosen], tone, "dots", [_tip(step) for step in chosen])
        for name, tone, chosen in (
            ("meets the objective", "t1", [step for step in steps if step.meets]),
            ("does not", "t3", [step for step in steps if not step.meets]),
        )
        if chosen
    ]
    marks = [(measured.objective_ms, f"objective: p99 ≤ {measured.objective_ms:g} ms")]
    drawn = [chart("The ramp: p99 by rate", rate, Axis("p99 in ms, log scale", "log", " ms"), series, marks)]
    aimed = demand.utilisation * measured.saturation_per_s
    if cores := [(step.rate, step.cpu_cores) for step in steps if step.cpu_cores is not None]:
        aim = f"{demand.utilisation:.0%} of saturation: {number_text(aimed)} /s"
        linear = Axis("requests a second", unit=" /s", start=0.0)
        line = Series("cores", cores, "t4")
        drawn.append(chart("CPU by rate", linear, Axis("cores"), [line], [(demand.utilisation * measured.cores, aim)]))
    if queue := [(step.rate, step.queue_rows) for step in steps if step.queue_rows]:
        rows = Axis("rows on average, log scale", "log")
        drawn.append(chart("Rows that waited, by rate", rate, rows, [Series("rows", queue, "t2", "dots")]))
    return drawn


def _tip(step: RampStep) -> str:
    return f"{number_text(step.rate)} /s: {step.reason}"
