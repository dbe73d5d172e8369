"""A real server logs what it encoded of real flights; the training code recomputes it, and asks the source."""

import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, Bundle, Golden, Manifest, write_bundle
from contracts.encoder import Encoder
from contracts.hashing import canonical_json
from contracts.prediction_row import is_sampled
from pipelines.cli import app
from pipelines.data.schema import fit_schema
from pipelines.evaluation.baseline import make_baseline
from pipelines.inference import score
from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.pipeline_metrics import Leading, Record, samples_of
from pipelines.tasks import replaying, skewing
from pipelines.wiring import find_project, home, open_ledger
from tests.fixtures.arrow_bodies import arrow_body, arrow_table
from tests.fixtures.bundles import tiny_graph
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import logged_rows
from tests.fixtures.watched_flights import PROJECT

DAY, AS_OF = date(2013, 3, 4), "2013-03-06"
ROWS_A_REQUEST = 10
Start = Callable[..., ModelServerProcess]
# what a server runs that was deployed with other feature code than the model was trained by
ANOTHER_ENCODER = """
import contracts.column_encoder, contracts.encoder, contracts.field_values as values
import numpy as np

minute, codes, rows = values.PART["minute_of_day"], values.word_codes, contracts.encoder.Encoder.encode_rows
values.PART["minute_of_day"] = lambda moment: (minute(moment) + 240) % 1440  # another time zone

def reordered(field):
    code_of, longest = codes(field)
    if field.name != "carrier":
        return code_of, longest
    return {word: float(code) for code, word in enumerate(reversed(field.vocabulary))}.get, longest

def changed(self, records):
    features = rows(self, records).copy()
    features[:, self.schema.columns.index("distance_miles")] *= np.float32(1.609344)  # kilometres
    humidity = features[:, self.schema.columns.index("humidity_pct")]
    humidity.view(np.uint32)[...] ^= np.uint32(1)  # the last bit
    return features

values.word_codes = contracts.column_encoder.word_codes = reordered
contracts.encoder.Encoder.encode_rows = changed
"""


@pytest.fixture
def bundle(watched: Path) -> Bundle:
    """A bundle of every field of the project, by the vocabularies of the day before.

    Its score rests on one column, so that golden rows do not tell what becomes of the others.
    """
    project = find_project(PROJECT)
    before = flights(DAY - timedelta(days=1))
    schema = fit_schema(project.schema, pa.Table.from_pylist(before))
    features = Encoder(schema).encode_rows(before)
    graph = tiny_graph(len(schema.columns), distance_column=schema.columns.index("departures_in_hour"))
    scores = score(graph, features)
    manifest = Manifest(
        project=PROJECT,
        trainer="linear",
        optimization="none",
        parameters={},
        snapshot="0" * 64,
        lock="0" * 64,
        threshold=project.decision_threshold,
        frameworks={},
    )
    files = {
        MODEL: graph,
        SCHEMA: canonical_json(schema),
        BASELINE: canonical_json(make_baseline(schema, features, scores, {})),
        GOLDEN: canonical_json(Golden(records=before[:30], scores=scores[:30].tolist(), tolerance=1e-5)),
        CARD: b"The farther the later.",
    }
    return write_bundle(home().bundles, manifest, files)


def flights(day: date = DAY, rows: int = 200) -> list[dict[str, Any]]:
    """Flights of a day as clients send them: missing values are left out."""
    return [
        {name: value for name, value in {**row, "scheduled": row["scheduled"].isoformat()}.items() if value is not None}
        for row in replaying.records(PROJECT, day, day + timedelta(days=1))[:rows]
    ]


def answered(start: Start, bundle: Bundle, records: list[dict[str, Any]], **settings: str) -> ModelServerProcess:
    """A server that has answered `records`: some alone, some together, some as an Arrow stream; all is in its log."""
    server = start(predictions=str(home().predictions(PROJECT)), **settings)
    server.install(bundle, "7")
    for start_row in range(0, len(records), ROWS_A_REQUEST):
        some = records[start_row : start_row + ROWS_A_REQUEST]
        if start_row % (3 * ROWS_A_REQUEST) == 0:
            for record in some:
                server.predict(record).raise_for_status()
        elif start_row % (3 * ROWS_A_REQUEST) == ROWS_A_REQUEST:
            server.predict(*some).raise_for_status()
        else:
            headers = {"content-type": "application/vnd.apache.arrow.stream"}
            body = arrow_body(arrow_table(some))
            server.client.post("/v1/predict", content=body, headers=headers).raise_for_status()
    assert server.stop() == 0
    return server


def rewrite_flights(change: Callable[[pa.Table], pa.Table]) -> None:
    """What somebody does to the source's table."""
    path = home().warehouse(PROJECT) / "flights.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def test_a_server_with_the_feature_code_of_training_differs_in_no_byte(model_servers: Start, bundle: Bundle) -> None:
    answered(model_servers, bundle, flights(), features_share="1", log_policy="fail")
    found = skewing.compare(PROJECT, AS_OF, days=3)
    assert (found["sampled"], found["encoding"]["rows"], found["source"]["rows"]) == (200, 200, 200)
    assert (found["encoding"]["differing"], found["source"]["differing"]) == (0, 0)
    assert (found["damaged"], found["without_bundle"], found["no_source"]) == ([], {}, None)
    # what a compaction makes of the log says the same
    root, today = home().predictions(PROJECT), datetime.now(UTC).date().isoformat()
    assert compact_day(root, today).rows == 200
    assert skewing.compare(PROJECT, AS_OF, days=3) == found
    entries = open_ledger().entries(project=PROJECT, kinds=(skewing.COMPARED,))
    assert [entry.body for entry in entries] == [json.loads(json.dumps(found))] * 2
    # what cannot be read is named, and the rest compared
    (root / f"day={today}" / "torn.arrows").write_bytes(b"no segment at all")
    (root / f"day={today}" / "compacted-torn.parquet").write_bytes(b"PAR1 and no table")
    torn = skewing.look(PROJECT, DAY.isoformat(), AS_OF)
    assert torn["encoding"]["rows"] == 200
    assert [each["path"] for each in torn["damaged"]] == [
        f"day={today}/compacted-torn.parquet", f"day={today}/torn.arrows",
    ]  # fmt: skip
    assert "torn.arrows" in skewing.skew_text(torn)


@pytest.mark.slow
def test_only_the_declared_share_of_the_requests_is_compared(model_servers: Start, bundle: Bundle) -> None:
    answered(model_servers, bundle, flights(), features_share="0.4")
    rows = logged_rows(home().predictions(PROJECT))
    assert len(rows) == 200
    sampled = [is_sampled(row["request_id"], 0.4) for row in rows]
    assert [row["features"] is not None for row in rows] == sampled
    assert skewing.compare(PROJECT, AS_OF, days=3)["sampled"] == sum(sampled)


def test_each_change_of_the_deployed_encoder_is_found_and_no_other_column_is_blamed(
    model_servers: Start, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deployed").mkdir()
    (tmp_path / "deployed" / "sitecustomize.py").write_text(ANOTHER_ENCODER)
    with monkeypatch.context() as patch:
        paths = [str(tmp_path / "deployed"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        answered(model_servers, bundle, flights(), features_share="1")
    said = CliRunner().invoke(app, ["skew", PROJECT, "--as-of", AS_OF, "--days", "3", "--json"])
    assert said.exit_code == 2, said.output
    found = json.loads(said.stdout)
    assert (found["encoding"]["rows"], found["encoding"]["differing"]) == (200, 200)
    columns = {column["column"]: column for column in found["encoding"]["columns"]}
    assert set(columns) == {"scheduled.minute_of_day", "carrier", "distance_miles", "humidity_pct"}
    assert columns["scheduled.minute_of_day"]["largest"] in (240.0, 1200.0)
    assert 0 < columns["humidity_pct"]["largest"] < 1e-4
    assert found["encoding"]["versions"] == {"7": 200}
    # the clients have sent what the source has: it is not their fault
    assert found["source"]["differing"] == 0
    record = Record()
    [entry] = open_ledger().entries(project=PROJECT, kinds=(skewing.COMPARED,))
    record.add(entry)
    samples = {(each.name, each.labels): each.value for each in samples_of(PROJECT, record, Leading(), None)}
    assert samples["paceline_skew_rows_differing", (PROJECT, "encoding")] == 200
    assert samples["paceline_skew_rows_differing", (PROJECT, "source")] == 0
    assert samples["paceline_skew_field_rows_differing", (PROJECT, "encoding", "carrier")] > 0


def test_what_clients_send_otherwise_is_found_and_what_the_source_lacks_is_not_known_yet(
    model_servers: Start, bundle: Bundle
) -> None:
    sent = flights(rows=120)
    for record in sent[:30]:
        record["temperature_f"] = round((record["temperature_f"] - 32) / 1.8, 2)  # a client in Celsius
    arrivals: list[pa.Table] = []

    def not_yet_arrived(table: pa.Table) -> pa.Table:
        arrivals.append(table)
        is_late = pc.and_(pc.equal(table["month"], DAY.month), pc.equal(table["carrier"], "UA"))
        delays = pc.if_else(is_late, None, table["arr_delay"])
        return table.set_column(table.column_names.index("arr_delay"), "arr_delay", delays)

    rewrite_flights(not_yet_arrived)
    answered(model_servers, bundle, sent, features_share="1")
    united = sum(record["carrier"] == "UA" for record in sent)
    sent_otherwise = {record["carrier"] == "UA" for record in sent[:30]}
    assert sent_otherwise == {True, False}
    before = skewing.look(PROJECT, DAY.isoformat(), AS_OF)
    assert before["encoding"]["differing"] == 0
    assert (before["absent"], before["source"]["rows"]) == (united, 120 - united)
    [column] = before["source"]["columns"]
    assert (column["column"], column["rows"]) == (
        "temperature_f", sum(record["carrier"] != "UA" for record in sent[:30]),
    )  # fmt: skip
    assert all(example["request_id"] for example in column["examples"])
    rewrite_flights(lambda table: arrivals[0])
    after = skewing.look(PROJECT, DAY.isoformat(), AS_OF)
    assert (after["absent"], after["source"]["rows"], after["source"]["differing"]) == (0, 120, 30)
    # on the day itself none of it is due, whatever the warehouse has already
    early = skewing.look(PROJECT, DAY.isoformat(), DAY.isoformat())
    assert (early["not_due"], early["source"]["rows"], early["encoding"]["rows"]) == (120, 0, 120)
    assert open_ledger().entries(project=PROJECT, kinds=(skewing.COMPARED,)) == []
