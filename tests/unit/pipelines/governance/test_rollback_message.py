from typing import Any

import msgspec
import pytest

from pipelines.governance.rollback_message import NotifyPolicy, message, slack_blocks

OPENED = {
    "version": "2",
    "champion": "1",
    "state": "rolled_back",
    "cause": "errors",
    "title": "It failed for more entities than the champion",
    "reason": "errors for 10 of 292\nagainst 16 of 4,208",
    "phase": "25 %",
    "by": None,
    "severity": "page",
    "affected": "Nobody.",
    "where": "",
    "next": ["Read the errors."],
    "page": "reports/p/investigations/r/index.html",
    "evidence": "e" * 64,
}


def told(**changes: Any) -> Any:
    return message("p", "P", "r", {**OPENED, **changes}, page="/var/reports/p/index.html", pages_url=None)


def test_a_subject_is_one_line_and_no_longer_than_mail_bears() -> None:
    subject = told(title="It\r\nBcc: everybody@example.org" + "x" * 400).subject
    assert "\n" not in subject
    assert "\r" not in subject
    assert len(subject) == 200


def test_a_person_who_did_it_is_named() -> None:
    assert told(by="ada").why.endswith("(by ada)")


def test_where_it_failed_most_belongs_to_the_why() -> None:
    assert told(where="carrier UA failed most: 5 of 9").why.endswith("; carrier UA failed most: 5 of 9")


def test_without_a_champion_nobody_is_said_to_have_the_traffic() -> None:
    assert told(champion=None, phase="").what == "P: Version 2 was rolled back."


def test_slack_takes_no_section_that_is_too_long() -> None:
    blocks = slack_blocks(told(reason="y" * 9_000))
    assert max(len(block["text"]["text"]) for block in blocks) <= 3_000


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"channels": [{"kind": "pager", "connection": "c"}]}, "pager"),
        ({"channels": [{"kind": "slack", "connection": "https://hooks.slack.com/services/T/B/secret"}]}, "regex"),
        ({"channels": [{"kind": "email", "connection": "c", "to": []}]}, "at least one address"),
        ({"channels": [{"kind": "email", "connection": "c", "to": ["ada"]}]}, "regex"),
        ({"channels": [{"kind": "slack", "connection": "c"}] * 2}, "found twice: slack:c"),
        ({"pages_url": "https://user:password@example.org"}, "regex"),
        ({"channels": [{"kind": "slack", "connection": "c", "token": "t"}]}, "token"),
    ],
)
def test_a_policy_that_cannot_be_meant_or_holds_a_secret_is_refused(policy: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(policy, NotifyPolicy)
