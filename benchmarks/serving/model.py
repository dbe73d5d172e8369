"""The model of the benchmark: 200 trees on flight-like columns, trained here on made-up rows, in a real bundle."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np

from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, Bundle, Manifest, write_bundle
from contracts.encoder import Encoder
from contracts.hashing import canonical_json
from contracts.input_schema import Field, InputSchema
from pipelines.evaluation.baseline import make_baseline, make_golden
from pipelines.inference import score
from pipelines.training.plan import TrialSpec
from pipelines.training.trainer import train

CARRIERS, ORIGINS = ("9E", "AA", "B6", "DL", "EV", "MQ", "UA", "US", "WN"), ("EWR", "JFK", "LGA")
NUMBERS = tuple(f"number_{place}" for place in range(11))
FIELDS = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("minute_of_day", "day_of_week")),
        Field(name="carrier", kind="category", vocabulary=CARRIERS),
        Field(name="origin", kind="category", vocabulary=ORIGINS),
        *(Field(name=name, kind="number", minimum=-100, maximum=100, required=False) for name in NUMBERS),
    ),
)


def build(folder: Path, rows: int = 20_000) -> tuple[Bundle, list[dict[str, Any]]]:
    """A verified bundle below `folder`, and 500 different records for it."""
    random = np.random.default_rng(1)
    records = [record_of(random, number) for number in range(rows)]
    features = Encoder(FIELDS).encode_rows(records)
    signal = features[:, 4] * 0.1 + np.sin(features[:, 5]) + (features[:, 2] == 3)
    labels = (random.random(rows) < 1 / (1 + np.exp(-signal + 1))).astype(np.float64)
    half = rows // 2
    trial = TrialSpec(trainer="boosted_trees", parameters={"trees": 200, "patience": 200})
    trained = train(
        trial, 1, FIELDS, (features[:half], labels[:half]), (features[half:], labels[half:]), lambda text: None
    )
    scores = score(trained.graph, features[:500])
    files = {
        MODEL: trained.graph,
        SCHEMA: canonical_json(FIELDS),
        BASELINE: canonical_json(make_baseline(FIELDS, features[:half], scores, trained.metrics)),
        GOLDEN: canonical_json(make_golden(records[:16], scores[:16])),
        CARD: b"# The benchmark's model\n",
    }
    manifest = Manifest(
        project="benchmark",
        trainer="boosted_trees",
        optimization="fp32",
        parameters={},
        snapshot="0" * 64,
        lock="0" * 64,
        threshold=0.5,
        frameworks={},
    )
    return write_bundle(folder / "bundles", manifest, files), records[:500]


def install(url: str, bundle: Bundle) -> None:
    """Makes `bundle` the champion of the model server at `url`."""
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        slot = {"version": "1", "bundle": bundle.id, "path": str(bundle.path)}
        client.put("/control/challenger", json=slot).raise_for_status()
        client.post("/control/promote", json={"version": "1", "expected": None}).raise_for_status()


def record_of(random: np.random.Generator, number: int) -> dict[str, Any]:
    """A made-up record by `FIELDS`; another for each `number`."""
    return {
        "tailnum": f"N{number:05}",
        "scheduled": f"2013-07-{number % 28 + 1:02}T{number % 24:02}:{number % 60:02}:00",
        "carrier": CARRIERS[number % len(CARRIERS)],
        "origin": ORIGINS[number % len(ORIGINS)],
        **{name: round(float(value), 3) for name, value in zip(NUMBERS, random.normal(size=len(NUMBERS)), strict=True)},
    }
