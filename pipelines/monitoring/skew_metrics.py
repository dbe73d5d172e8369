"""What the last comparison of features says, as metrics. Pure: from its entry in the ledger to samples."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# each family's labels, beside the project, and what it says
SKEW_FAMILIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "paceline_skew_last_success_timestamp_seconds": (
        (),
        "Unix time of the last comparison that ended well",
    ),
    "paceline_skew_rows_sampled": ((), "Logged rows with their features that it has read"),
    "paceline_skew_rows_compared": (
        ("against",),
        "Of these, rows held against training's encoding, the source",
    ),
    "paceline_skew_rows_differing": (("against",), "Of these, rows that differ in a byte"),
    "paceline_skew_field_rows_differing": (("against", "column"), "Rows that differ in an encoded column"),
    "paceline_skew_rows_unknown": (
        ("why",),
        "Sampled rows that could not be compared, by why",
    ),
    "paceline_skew_damaged_segments": ((), "Files of the prediction log that it could not read"),
}


class SkewMetric(NamedTuple):
    """One value; `labels` without the project, in the family's order."""

    name: str
    labels: tuple[str, ...]
    value: float


def skew_metrics(compared: Mapping[str, Any]) -> Iterator[SkewMetric]:
    """The samples of an entry `skew`. What was not compared has no count of differences: that is not 0."""
    yield SkewMetric("paceline_skew_rows_sampled", (), compared["sampled"])
    yield SkewMetric("paceline_skew_damaged_segments", (), len(compared["damaged"]))
    for against in ("encoding", "source"):
        found = compared[against]
        yield SkewMetric("paceline_skew_rows_compared", (against,), found["rows"])
        if found["rows"]:
            yield SkewMetric("paceline_skew_rows_differing", (against,), found["differing"])
        for column in found["columns"]:
            labels = against, column["column"]
            yield SkewMetric("paceline_skew_field_rows_differing", labels, column["rows"])
    for why in ("not_due", "absent", "ambiguous"):
        yield SkewMetric("paceline_skew_rows_unknown", (why,), compared[why])
    without = sum(compared["without_bundle"].values())
    yield SkewMetric("paceline_skew_rows_unknown", ("no_bundle",), without)
