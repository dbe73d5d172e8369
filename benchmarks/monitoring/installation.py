"""Real flights with a champion that learnt from the first of them, in a home of its own, and a log of its answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, Bundle, Golden, Manifest, write_bundle
from contracts.encoder import Encoder
from contracts.hashing import canonical_json
from pipelines.data.schema import fit_schema
from pipelines.data.snapshots import Snapshot, take_snapshot
from pipelines.data.windows import Window, Windows
from pipelines.evaluation.baseline import make_baseline
from pipelines.inference import score
from pipelines.projects import Project
from pipelines.tasks import ingesting
from pipelines.training.trainer import train
from pipelines.wiring import find_project, home, open_ledger
from serving.prediction_writer import LoggedGroup, Mask, PredictionIds, PredictionWriter

PROJECT, VERSION = "flight_delay", "1"
_GROUP_ROWS = 500
Change = Callable[[list[dict[str, Any]]], None]


@contextmanager
def events_of(project: Project) -> Iterator[ibis.Table]:
    """The project's events, while the connection is open."""
    connection = ibis.duckdb.connect()
    try:
        yield project.source().events(connection, home().warehouse(project.name))
    finally:
        connection.disconnect()


def windows(train_days: int) -> Windows:
    """Training from 1 January on, then a week to validate and one to test by."""
    start = date(2013, 1, 1)
    ends = [start + timedelta(days=days) for days in (train_days, train_days + 7, train_days + 14)]
    return Windows(
        as_of=ends[2] + timedelta(days=1),
        train=Window(start, ends[0]),
        validation=Window(ends[0], ends[1]),
        test=Window(ends[1], ends[2]),
    )


def install(train_days: int = 45) -> Bundle:
    """Ingests, takes a snapshot, and makes a bundle of it the champion; in the home of the environment."""
    project = find_project(PROJECT)
    ingesting.ingest(PROJECT)
    with events_of(project) as events:
        snapshot = take_snapshot(home().snapshots, events, windows(train_days), project.schema, project.label, PROJECT)
    bundle = _bundle(project, snapshot)
    assert open_ledger().swap_champion(PROJECT, None, VERSION, bundle.id, "installation", "a measurement")
    return bundle


def records_of(bundle: Bundle, day: date) -> list[dict[str, Any]]:
    """The flights of a day as clients send them."""
    project = find_project(PROJECT)
    names = [field.name for field in bundle.schema.fields]
    with events_of(project) as events:
        moment = events[project.schema.time]
        start = datetime(day.year, day.month, day.day)
        chosen = events.filter((moment >= start) & (moment < start + timedelta(days=1)))
        table: pa.Table = chosen.select(names).order_by(names).to_pyarrow()
    records = table.to_pylist()
    for record in records:
        record[project.schema.time] = record[project.schema.time].isoformat()
    return [{name: value for name, value in record.items() if value is not None} for record in records]


def serve(bundle: Bundle, day: date, change: Change = lambda records: None, *, features_share: float = 0.0) -> int:
    """Logs the answers to the flights of `day`, as the model server does, and says how many.

    Those of a `features_share` of the requests are logged with their features.
    """
    records = records_of(bundle, day)
    change(records)
    features = Encoder(bundle.schema).encode_rows(records)
    scores = score(bundle.model_path, features).tolist()
    served_at_s = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
    ids = PredictionIds(lambda: served_at_s)
    writer = PredictionWriter(
        home().predictions(PROJECT),
        project=PROJECT,
        mask=Mask(b"key"),
        flush_every_s=3600,
        features_share=features_share,
    )
    writer.start()
    for start in range(0, len(records), _GROUP_ROWS):
        some = records[start : start + _GROUP_ROWS]
        writer.append(
            LoggedGroup(
                served_at_s=served_at_s,
                request_id=f"{day}-{start}",
                schema=bundle.schema,
                version=VERSION,
                bundle=bundle.id,
                slot="champion",
                rollout=None,
                share=0.0,
                latency_us=100,
                records=some,
                entities=[str(record["tailnum"]) for record in some],
                prediction_ids=ids.take(len(some)),
                scores=scores[start : start + len(some)],
                decisions=[value >= bundle.manifest.threshold for value in scores[start : start + len(some)]],
                errors=[None] * len(some),
                features=features[start : start + len(some)],
            )
        )
    writer.stop()
    return writer.written_rows


def _bundle(project: Project, snapshot: Snapshot) -> Bundle:
    schema = fit_schema(project.schema, snapshot.table("train"))
    names = tuple(field.name for field in schema.fields)
    features = {
        part: Encoder(schema).encode_rows(snapshot.records(part, names)) for part in ("train", "validation", "test")
    }
    trial = next(each for each in project.training.trials if each.trainer == "boosted_trees")
    labels = {part: snapshot.labels(part).astype(np.float64) for part in ("train", "validation")}
    graph = train(
        trial,
        project.training.seed,
        schema,
        (features["train"], labels["train"]),
        (features["validation"], labels["validation"]),
        lambda _: None,
    ).graph
    scores = score(graph, features["test"])
    manifest = Manifest(
        project=PROJECT,
        trainer="boosted_trees",
        optimization="none",
        parameters={},
        snapshot=snapshot.id,
        lock="0" * 64,
        threshold=project.decision_threshold,
        frameworks={},
    )
    files = {
        MODEL: graph,
        SCHEMA: canonical_json(schema),
        BASELINE: canonical_json(make_baseline(schema, features["train"], scores, {"auc": 0.65, "log_loss": 0.55})),
        GOLDEN: canonical_json(Golden(records=[], scores=[], tolerance=1e-4)),
        CARD: b"Boosted trees, for measurements of the watch.",
    }
    return write_bundle(home().bundles, manifest, files)
