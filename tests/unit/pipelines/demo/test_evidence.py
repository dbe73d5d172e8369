"""What the demo claims is counted in the prediction log; here on logs whose truth is known."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.assignment import position
from pipelines.backtest.replay import Answer
from pipelines.demo import evidence

ROLLOUT = "flight_delay-v2-1"
START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


def row(number: int, entity: str, slot: str, share: float, error: str | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "prediction_id": f"{number:08}-{slot}",
        "request_id": str(number),
        "served_at": (START + timedelta(milliseconds=10 * number)).isoformat(),
        "version": "2" if slot == "challenger" else "1",
        "slot": slot,
        "rollout": ROLLOUT,
        "share": share,
        "entity": entity,
        "score": None if error else 0.3,
        "error": error,
    } | changes


def write(root: Path, rows: list[dict[str, Any]]) -> Path:
    folder = root / "day=2026-01-01"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "segment.parquet")
    (folder / ".draft.parquet").write_bytes(b"unfinished")
    return root


def sticky(entities: int, share: float) -> list[dict[str, Any]]:
    names = [f"N{number}" for number in range(entities)]
    return [
        row(number, name, "challenger" if position(ROLLOUT, name) < share else "champion", share)
        for number, name in enumerate(names)
    ]


def test_a_sticky_split_fits_its_share(tmp_path: Path) -> None:
    (split,) = evidence.step_splits(write(tmp_path, sticky(2000, 0.25)), ROLLOUT)
    assert (split.share, split.entities) == (0.25, 2000)
    assert split.fits


def test_a_split_of_another_share_does_not_fit(tmp_path: Path) -> None:
    wrong = [entry | {"share": 0.25} for entry in sticky(2000, 0.35)]
    (split,) = evidence.step_splits(write(tmp_path, wrong), ROLLOUT)
    assert not split.fits


def test_an_entity_that_comes_back_to_the_champion_is_counted(tmp_path: Path) -> None:
    grown = [row(1, "N1", "champion", 0.05), row(2, "N1", "challenger", 0.25), row(3, "N1", "challenger", 0.5)]
    assert evidence.side_changes(write(tmp_path / "grown", grown), ROLLOUT) == 0
    back = [*grown, row(4, "N1", "champion", 0.5)]
    assert evidence.side_changes(write(tmp_path / "back", back), ROLLOUT) == 1


def test_what_comes_after_the_promotion_is_no_part_of_the_rollouts_steps(tmp_path: Path) -> None:
    rows = [
        row(1, "N1", "champion", 0.95),
        row(2, "N2", "challenger", 0.95),
        row(3, "N2", "champion", 0.05, version="2"),
        row(4, "N1", "holdout", 0.05),
    ]
    root = write(tmp_path, rows)
    assert evidence.side_changes(root, ROLLOUT) == 0
    assert [(split.share, split.entities) for split in evidence.step_splits(root, ROLLOUT)] == [(0.95, 2)]


def test_an_answer_of_the_champion_after_the_challengers_error_is_no_change_of_sides(tmp_path: Path) -> None:
    rows = [
        row(1, "N1", "challenger", 0.25),
        row(2, "N1", "challenger", 0.25, error="fault"),
        row(2, "N1", "champion", 0.25),
        row(3, "N1", "challenger", 0.25),
    ]
    root = write(tmp_path, rows)
    assert evidence.side_changes(root, ROLLOUT) == 0
    found = evidence.breakdown(root, ROLLOUT)
    assert found is not None
    assert (found.challenger_requests, found.challenger_errors, found.answered_by_champion) == (2, 1, 1)
    assert found.seconds_to_last_challenger_request == pytest.approx(0.01)


def test_a_challenger_that_never_failed_has_no_breakdown(tmp_path: Path) -> None:
    assert evidence.breakdown(write(tmp_path, [row(1, "N1", "challenger", 0.25)]), ROLLOUT) is None


def test_a_random_prediction_is_one_that_was_answered_by_the_version(tmp_path: Path) -> None:
    rows = [
        row(1, "N1", "challenger", 0.25, error="fault"),
        row(2, "N2", "challenger", 0.25),
        row(3, "N3", "champion", 0),
    ]
    root = write(tmp_path, rows)
    assert evidence.random_prediction(root, "2") == "00000002-challenger"
    assert evidence.random_prediction(root, "7") is None


def test_no_log_is_an_error_and_not_an_empty_answer(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no predictions were logged"):
        evidence.step_splits(tmp_path, ROLLOUT)


def test_failed_answers_are_counted_with_the_first_reason(tmp_path: Path) -> None:
    answers = [
        Answer(sent_s=0, entity="N1", status=200, latency_ms=1, version="1"),
        Answer(sent_s=1, entity="N1", status=503, latency_ms=9, error="503: no champion"),
    ]
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers))
    view = evidence.read_answers(path)
    assert (view.requests, view.failed, view.first_error) == (2, 1, "503: no champion")
    assert view.by_version == {"1": 1}
