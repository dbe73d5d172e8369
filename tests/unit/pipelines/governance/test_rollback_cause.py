from typing import Any

import pytest

from pipelines.governance.rollback_cause import CAUSES, LIGHT, cause_of


def finding(name: str, e_value: float, limit: float | None = 100.0) -> dict[str, Any]:
    return {"name": name, "what": name, "e_value": e_value, "limit": limit}


LOOKED = {"type": "Looked"}


@pytest.mark.parametrize(
    ("expected", "state", "last", "tripped", "findings", "reason"),
    [
        ("errors", "rolled_back", LOOKED, None, [finding("split", 1), finding("errors", 500)], ""),
        ("errors", "rolled_back", LOOKED, None, [finding("errors in pairs", 500)], ""),
        ("latency", "rolled_back", LOOKED, None, [finding("errors", 101), finding("slower than p95", 900)], ""),
        ("scores", "rolled_back", LOOKED, None, [finding("score deciles", 900)], ""),
        ("flips", "rolled_back", LOOKED, None, [finding("flips", 900)], ""),
        ("split", "rolled_back", LOOKED, None, [finding("split", 101), finding("errors", 1e9)], ""),
        ("hard_limit", "rolled_back", LOOKED, "hard_limit", [], "8 errors"),
        ("lease", "rolled_back", LOOKED, "lease", [finding("errors", 3, None)], ""),
        ("share_refused", "rolled_back", {"type": "ShareRefused"}, None, [], ""),
        ("load_refused", "refused", {"type": "LoadRefused"}, None, [], ""),
        ("promotion_refused", "rolled_back", {"type": "PromotionRefused"}, None, [], ""),
        ("unreachable", "rolled_back", {"type": "Unreachable"}, None, [], ""),
        ("aborted", "rolled_back", {"type": "Aborted", "by": "ada"}, None, [], ""),
        ("aborted", "rolled_back", {"type": "Commanded", "command": {"command": "abort"}}, None, [], ""),
        ("operator", "rolled_back", {"type": "Commanded", "command": {"command": "rollback"}}, None, [], ""),
        ("operator", "rolled_back", {"type": "Commanded", "command": {"command": "reject"}}, None, [], ""),
        ("superseded", "superseded", {"type": "Aborted"}, None, [], ""),
        ("traffic", "rolled_back", LOOKED, None, [finding("errors", 2)], "3 of 200: too little traffic to judge by"),
        ("lost", "rolled_back", LOOKED, None, [], "the server holds no rollout, expected x"),
        ("unknown", "rolled_back", {}, None, [], "for a reason of its own"),
    ],
)
def test_a_cause_is_read_from_what_ended_the_rollout(
    expected: str, state: str, last: dict[str, Any], tripped: str | None, findings: list[dict[str, Any]], reason: str
) -> None:
    assert cause_of(state, last, tripped, findings, reason).name == expected


def test_every_cause_says_what_to_do_next() -> None:
    assert all(cause.steps and cause.title for cause in CAUSES.values())


def test_what_says_nothing_against_a_version_wakes_nobody() -> None:
    assert {CAUSES[name].severity for name in LIGHT} == {"notice"}
