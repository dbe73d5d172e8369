"""Scores given since the last look, from the counters of a server's metrics page. Pure.

Counters begin anew when a server does: a series that went back in any bucket was restarted, and all that it has now is
new. A version that was not there before began at 0. Shadow rows are nobody's answers, and are left out.
"""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from contracts.slots import SCORE_BINS

FAMILY = "paceline_scores"
SHADOW = "shadow"
Series = dict[str, list[int]]  # by "version/slot": how many scores so far in each bin


class NoScoresError(ValueError):
    """The page is none of a model server's."""


def read_counters(page: str) -> Series:
    """The scores by version and slot since the server began, from `page` in Prometheus' text format.

    Raises:
        NoScoresError: it has no family `paceline_scores`, or one with other buckets.
    """
    cumulative = dict[str, dict[float, int]]()
    has_family = False
    for family in text_string_to_metric_families(page):
        if family.name != FAMILY:
            continue
        has_family = True
        for sample in family.samples:
            if sample.name == f"{FAMILY}_bucket" and sample.labels["le"] != "+Inf":
                key = f"{sample.labels['version']}/{sample.labels['slot']}"
                cumulative.setdefault(key, {})[float(sample.labels["le"])] = int(sample.value)
    if not has_family:
        raise NoScoresError(f"the page has no {FAMILY}: is it the /metrics of a model server?")
    series: Series = {}
    for key, buckets in cumulative.items():
        if len(buckets) != SCORE_BINS:
            raise NoScoresError(f"{FAMILY} of {key} has {len(buckets)} buckets, expected {SCORE_BINS}")
        running = [buckets[edge] for edge in sorted(buckets)]
        series[key] = [after - before for before, after in zip([0, *running], running, strict=False)]
    return series


def new_scores(before: Series | None, now: Series) -> list[int]:
    """The scores in each bin that clients were given between two pages; None before the first: nothing is known."""
    total = [0] * SCORE_BINS
    if before is None:
        return total
    for key, counts in now.items():
        if key.endswith(f"/{SHADOW}"):
            continue
        for place, count in enumerate(_grown(before, key, counts)):
            total[place] += count
    return total


def _grown(before: Mapping[str, list[int]], key: str, counts: list[int]) -> list[int]:
    earlier = before.get(key)
    if earlier is None or any(now < then for now, then in zip(counts, earlier, strict=True)):
        return counts
    return [now - then for now, then in zip(counts, earlier, strict=True)]
