from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from contracts.bundle import Manifest
from pipelines.governance.lineage import Lineage, lineage, render

BUNDLE, SNAPSHOT, LOCK = "b" * 64, "5" * 64, "1" * 64
PREDICTION = {
    "prediction_id": "019b-77",
    "request_id": "r1",
    "served_at": "2026-01-02T03:04:05Z",
    "event_time": "2013-07-01T08:30:00",
    "project": "flight_delay",
    "version": "3",
    "bundle": BUNDLE,
    "slot": "challenger",
    "rollout": "flight_delay-3",
    "share": 0.25,
    "entity": "N14228",
    "score": 0.4321,
    "decision": True,
    "latency_us": 900,
    "error": None,
    "inputs": "{}",
}
MANIFEST = Manifest(
    project="flight_delay",
    trainer="boosted_trees",
    optimization="fp32",
    parameters={"seed": 7, "learning_rate": 0.1},
    snapshot=SNAPSHOT,
    lock=LOCK,
    threshold=0.4,
    frameworks={"numpy": "2.3.0"},
)
WINDOWS = {"as_of": "2013-07-01", "train": {"start": "2013-01-01", "end": "2013-06-02"}}
DATA = {"project": "flight_delay", "windows": WINDOWS, "rows_by_part": {"train": 140000}}
TAGS = {"bundle": BUNDLE, "snapshot": SNAPSHOT, "lock": LOCK, "commit": "abc123", "schema_version": "1"}


@dataclass
class Line:
    kind: str
    subject: str
    body: dict[str, Any] = field(default_factory=dict)
    at: datetime = datetime(2026, 1, 2, 3, tzinfo=UTC)


def _gates(reason: str) -> dict[str, Any]:
    return {"gates": [{"name": "log_loss", "passed": True, "reason": reason}]}


ENTRIES = [
    Line("gates", BUNDLE, _gates("an earlier champion")),
    Line("gates", BUNDLE, _gates("0.51 vs 0.53")),
    Line("gates", "c" * 64, _gates("another bundle")),
    Line("registered", "3", {"version": "3", "bundle": BUNDLE}),
    Line("release.opened", "flight_delay-3", {"version": "3", "bundle": BUNDLE, "reason": "offered"}),
    Line("rollout.event", "flight_delay-3", {"reason": "one look of many"}),
    Line("rollout.verdict", "flight_delay-3", {"verdict": "advance", "reason": "errors 0 of 60"}),
    Line("release.opened", "flight_delay-4", {"version": "4", "bundle": "c" * 64, "reason": "another version"}),
    Line("rollout.verdict", "flight_delay-4", {"verdict": "rollback", "reason": "of another version"}),
    Line("champion.swapped", "flight_delay-3", {"version": "3", "bundle": BUNDLE, "reason": "took the lead"}),
]


def _trace(**changes: Any) -> Lineage:
    given: dict[str, Any] = {"bundle": MANIFEST, "snapshot": DATA, "tags": TAGS, "entries": ENTRIES, **changes}
    prediction = given.pop("prediction", PREDICTION)
    return lineage(prediction, **given)


def test_every_link_from_the_prediction_to_the_data_is_there() -> None:
    found = _trace()
    assert found.gaps == ()
    assert (found.version, found.bundle, found.snapshot, found.commit) == ("3", BUNDLE, SNAPSHOT, "abc123")
    assert (found.lock, found.parameters, found.trainer) == (LOCK, MANIFEST.parameters, "boosted_trees")
    assert found.rows == {"train": 140000}


def test_the_gates_are_those_of_the_bundles_last_evaluation() -> None:
    assert [gate.reason for gate in _trace().gates] == ["0.51 vs 0.53"]


def test_the_history_is_that_of_the_version_and_its_rollouts_without_single_looks() -> None:
    assert [(step.kind, step.reason) for step in _trace().history] == [
        ("registered", f"version 3, bundle {BUNDLE}"),
        ("release.opened", "offered"),
        ("rollout.verdict", "advance: errors 0 of 60"),
        ("champion.swapped", "took the lead"),
    ]


def test_a_champions_prediction_during_anothers_rollout_has_its_own_history() -> None:
    row = {**PREDICTION, "slot": "champion", "rollout": "flight_delay-4", "share": 0.05}
    assert {step.reason for step in _trace(prediction=row).history} == {step.reason for step in _trace().history}


def test_what_is_gone_is_a_gap_and_the_rest_is_still_shown() -> None:
    found = _trace(bundle=None, snapshot=None, entries=[])
    assert found.snapshot == SNAPSHOT  # the registry's tag still knows it
    assert found.gaps == (
        f"the bundle {BUNDLE} is not kept any more",
        f"the snapshot {SNAPSHOT} is not kept any more",
        f"the ledger has no gates for the bundle {BUNDLE}",
    )
    assert _trace(tags=None).gaps == ("the registry does not know version 3",)
    assert _trace(tags={**TAGS, "commit": ""}).gaps == ("version 3 has no commit among its tags",)


def test_links_that_contradict_each_other_are_gaps() -> None:
    other = "9" * 64
    found = _trace(tags={**TAGS, "bundle": other, "snapshot": other, "lock": other})
    assert found.gaps == (
        f"the registry's tag bundle is {other}, the prediction says {BUNDLE}",
        f"the registry's tag snapshot is {other}, the bundle says {SNAPSHOT}",
        f"the registry's tag lock is {other}, the bundle says {LOCK}",
    )
    foreign = _trace(bundle=msgspec.structs.replace(MANIFEST, project="loans"), snapshot={**DATA, "project": "loans"})
    assert foreign.gaps == (
        "the bundle is of the project 'loans', the prediction of 'flight_delay'",
        "the snapshot is of the project 'loans', the prediction of 'flight_delay'",
    )


def test_the_text_goes_from_the_prediction_back_to_the_data() -> None:
    assert render(_trace()) == (
        "prediction        019b-77 (score 0.4321, decision yes, served 2026-01-02T03:04:05Z)\n"
        "event             2013-07-01T08:30:00, entity N14228\n"
        "version           flight_delay 3, as challenger in rollout flight_delay-3 at share 0.25\n"
        f"bundle            {BUNDLE} (boosted_trees, fp32)\n"
        "parameters        learning_rate 0.1, seed 7\n"
        f"snapshot          {SNAPSHOT}\n"
        "  train           2013-01-01 up to 2013-06-02, 140,000 rows\n"
        "commit            abc123\n"
        f"lock              {LOCK}\n"
        "libraries         numpy 2.3.0\n"
        "gate log_loss     passed: 0.51 vs 0.53\n"
        f"registered        2026-01-02T03:00:00+00:00 version 3, bundle {BUNDLE}\n"
        "release.opened    2026-01-02T03:00:00+00:00 offered\n"
        "rollout.verdict   2026-01-02T03:00:00+00:00 advance: errors 0 of 60\n"
        "champion.swapped  2026-01-02T03:00:00+00:00 took the lead"
    )


def test_the_text_says_who_got_the_prediction_and_what_was_unusual_where_that_is_known() -> None:
    row = {**PREDICTION, "client": "loans-app", "unusual": "outside_baseline:distance"}
    text = render(_trace(prediction=row))
    assert "given to          loans-app\n" in text
    assert "unusual           outside_baseline:distance\n" in text
    assert "given to" not in render(_trace(prediction={**PREDICTION, "client": None}))


def test_the_text_of_a_failed_prediction_says_so_and_names_the_gaps() -> None:
    row = {**PREDICTION, "score": None, "decision": None, "rollout": None, "slot": "champion"}
    text = render(_trace(prediction=row, bundle=None, snapshot=None, tags=None, entries=[]))
    assert "no score, decision no decision" not in text
    assert "no score, no decision" in text
    assert f"GAP         the bundle {BUNDLE} is not kept any more" in text
    assert "snapshot    unknown" in text


def test_a_lineage_survives_json() -> None:
    found = _trace()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Lineage) == found
