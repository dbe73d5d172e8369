"""A rollout whose ledger is away waits for it, and makes none in its place."""

import asyncio
from pathlib import Path

import pytest

from pipelines.ledger import Ledger
from pipelines.tasks import releasing

OFFER = {
    "rollout": "flight_delay-v2-1",
    "project": "flight_delay",
    "version": "2",
    "bundle": "b2",
    "path": "/b2",
    "expected_champion": "1",
}
OUTCOME = {
    "state": "rolled_back",
    "reason": "it was worse",
    "seconds": 1.0,
    "steps": [],
    "tripped": None,
    "challenger_requests": 7,
}


def test_a_rollout_goes_on_when_the_ledger_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, away = tmp_path / "ledger", tmp_path / "away"
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        body = {"version": "2", **OUTCOME}
        ledger.append("flight_delay", "rollout.rolled_back", OFFER["rollout"], body, f"{OFFER['rollout']}/outcome")
    monkeypatch.setenv("PACELINE_LEDGER_URL", f"sqlite:///{folder}/ledger.db")
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(releasing, "LEDGER_ASK_AGAIN_S", 0.01)
    folder.rename(away)

    async def roll_out() -> dict[str, object]:
        running = asyncio.create_task(releasing.roll_out("flight_delay", OFFER))
        done, _ = await asyncio.wait([running], timeout=0.2)
        assert not done, "it ended without its ledger"
        assert not folder.exists()
        away.rename(folder)
        return await asyncio.wait_for(running, 30)

    outcome = asyncio.run(roll_out())
    assert (outcome["state"], outcome["reason"], outcome["version"]) == ("rolled_back", "it was worse", "2")
