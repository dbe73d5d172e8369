"""The results as Markdown, and whether the goal is reached. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from pipelines.optimization.candidates import Candidate, Optimised

SIZE_SHARE_MAX = 0.30
GOAL_ROWS = 32


class Way(NamedTuple):
    """One way to int8: its size, medians at one row and at `GOAL_ROWS`, and what it loses on all validation rows."""

    title: str
    size_bytes: int
    us_1: float
    us_32: float
    log_loss_difference: float


class Ratio(NamedTuple):
    """The time of a candidate for `GOAL_ROWS` rows as a share of fp32's, in turns: median and ends of the rounds."""

    median: float
    low: float
    high: float


def candidates_table(optimised: Optimised) -> str:
    """A row for each candidate; those that could not be made below, with the reason."""
    measured = [each for each in optimised.candidates if each.size_bytes is not None]
    (reference, *_) = measured
    sizes = [latency.rows for latency in reference.latency]
    head = ["candidate", "bytes", "of fp32", "zstd", *(f"p50 of {rows}" for rows in sizes), "p99 of 1", "p99 of 32"]
    head += ["AUC", "log loss", "at most", "worst part", "peak MB", "accepted"]
    lines = [f"| {' | '.join(head)} |", f"| --- | {' | '.join(['---:'] * (len(head) - 2))} | --- |"]
    lines += [f"| {' | '.join(_cells(each, reference))} |" for each in measured]
    refused = {each.reason: [] for each in optimised.candidates if each.size_bytes is None}  # type: dict[str, list[str]]
    for each in optimised.candidates:
        if each.size_bytes is None:
            refused[each.reason].append(each.name)
    lines += ["", *(f"- {', '.join(f'`{name}`' for name in names)}: {reason}" for reason, names in refused.items())]
    return "\n".join([*lines, "", f"Chosen: `{optimised.chosen}`, {optimised.reason}."])


def _cells(found: Candidate, reference: Candidate) -> list[str]:
    size, first = found.size_bytes or 0, reference.size_bytes or 1
    p99 = {latency.rows: f"{latency.us_p99:.0f}" for latency in found.latency}
    worst = max(found.parts, key=lambda part: (part.bound or -1) - part.margin)
    memory = (found.peak_memory_bytes or 0) / 1e6
    refusal = found.reason.split(" > ")[0].split(" at most")[0]
    return [
        f"`{found.name}`",
        f"{size:,}",
        f"{size / first:.1%}",
        f"{found.compressed_bytes:,}",
        *(f"{latency.us_p50:.1f}" for latency in found.latency),
        p99.get(1, "–"),
        p99.get(GOAL_ROWS, "–"),
        f"{found.auc:.4f}",
        f"{found.parts[0].difference:+.5f}",
        f"{found.parts[0].bound:+.5f}",
        f"{worst.title}: {worst.bound:+.5f}",
        f"{memory:.1f}",
        "yes" if found.accepted else f"no: {refusal}",
    ]


def operators_table(optimised: Optimised, names: Sequence[str]) -> str:
    """The slowest operators of the named candidates."""
    lines = ["| candidate | slowest operators for the largest batch (nodes, share of the time) |", "| --- | --- |"]
    for each in optimised.candidates:
        if each.name in names and each.operators:
            shown = ", ".join(f"{one.name} ({one.nodes}, {one.share:.0%})" for one in each.operators[:5])
            lines.append(f"| `{each.name}` | {shown} |")
    return "\n".join(lines)


def ways_table(ways: Sequence[Way]) -> str:
    """A row for each way; the first is fp32."""
    reference = ways[0]
    lines = [
        f"| way | bytes | of fp32 | p50 of 1 | p50 of {GOAL_ROWS} | of fp32 | log loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {way.title} | {way.size_bytes:,} | {way.size_bytes / reference.size_bytes:.1%} | {way.us_1:.1f} | "
        f"{way.us_32:.1f} | {way.us_32 / reference.us_32:.0%} | {way.log_loss_difference:+.5f} |"
        for way in ways
    ]
    return "\n".join(lines)


def goal(optimised: Optimised, ratios: dict[str, Ratio]) -> tuple[bool, str]:
    """Whether an accepted int8 candidate is small enough and faster for `GOAL_ROWS` rows in each round, and which."""
    first = next(each.size_bytes or 1 for each in optimised.candidates if each.name == "fp32")
    tried = []
    for each in optimised.candidates:
        if each.name not in ratios or each.size_bytes is None:
            continue
        share, ratio = each.size_bytes / first, ratios[each.name]
        told = (
            f"`{each.name}`: {share:.1%} of the size, {ratio.median:.0%} of the time for {GOAL_ROWS} rows "
            f"({ratio.low:.0%} to {ratio.high:.0%} over rounds), {'accepted' if each.accepted else 'refused'}"
        )
        tried.append((each.accepted and share <= SIZE_SHARE_MAX and ratio.high < 1, ratio.median, told))
    tried.sort(key=lambda one: (not one[0], one[1]))
    reached = bool(tried) and tried[0][0]
    return reached, "; ".join(told for _, _, told in tried)
