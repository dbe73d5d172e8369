import json
from collections.abc import Callable
from typing import Any

import pytest

from serving.access import RequestHead
from serving.access.audit import RefusalAudit

HEAD = RequestHead("POST", "/v1/predict", b"", [], "http", None, "10.0.0.1")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The lines of the log, read as JSON."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "serving.access.audit.logger.warning", lambda text, *values: lines.append(json.loads(text % values))
    )
    return lines


def audited(now_s: list[float]) -> tuple[RefusalAudit, Callable[..., None]]:
    audit = RefusalAudit(lambda: now_s[0])

    def refuse(head: RequestHead = HEAD, reason: str = "rate", client: str = "acme", label: str = "acme") -> None:
        audit.refused(head, status=429, reason=reason, needed="predict", client=client, key_id="k1", label=label)

    return audit, refuse


def test_the_first_refusal_is_told_at_once_with_all_that_is_known(told: list[dict[str, Any]]) -> None:
    _, refuse = audited([0.0])
    refuse()
    assert told == [
        {
            "event": "access_refused",
            "status": 429,
            "reason": "rate",
            "needed": "predict",
            "client": "acme",
            "key_id": "k1",
            "peer": "10.0.0.1",
            "method": "POST",
            "path": "/v1/predict",
        }
    ]


def test_what_follows_of_the_same_kind_is_one_line_when_its_time_is_over(told: list[dict[str, Any]]) -> None:
    now_s = [0.0]
    audit, refuse = audited(now_s)
    for _ in range(1000):
        refuse()
    refuse(reason="scope")
    assert len(told) == 2
    now_s[0] = 10.0
    audit.flush()
    assert len(told) == 3
    assert (told[2]["reason"], told[2]["more"], told[2]["within_s"]) == ("rate", 999, 10.0)
    audit.flush()
    refuse()
    assert len(told) == 4, "in the next window again at once"


def test_an_attacker_with_many_addresses_and_paths_writes_a_bounded_number_of_lines(
    told: list[dict[str, Any]],
) -> None:
    now_s = [0.0]
    audit, refuse = audited(now_s)
    for number in range(5000):
        refuse(HEAD._replace(peer=f"2001:db8::{number:x}", path="/" + "x" * 60_000))
    now_s[0] = 10.0
    audit.flush()
    assert len(told) == 101
    assert told[-1]["more"] == 4900
    assert max(len(json.dumps(line)) for line in told) < 500
    [family] = audit.collect()
    assert [sample.value for sample in family.samples if sample.name.endswith("_total")] == [5000]


def test_a_path_cannot_look_like_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("serving.access.audit.logger.warning", lambda text, *values: lines.append(text % values))
    _, refuse = audited([0.0])
    refuse(HEAD._replace(path='/x\n{"event": "access_refused", "client": "other"}'))
    assert len(lines[0].splitlines()) == 1
    assert json.loads(lines[0])["client"] == "acme"
