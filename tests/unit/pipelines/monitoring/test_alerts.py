from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.monitoring.alerts import (
    Alert,
    MalformedAlertsError,
    ReplayedAlertsError,
    parse_notification,
    run_id,
    sort_alerts,
    why,
)
from tests.fixtures.notifications import SINCE, alert, notification


def parsed(*alerts: dict[str, object]) -> tuple[Alert, ...]:
    return parse_notification(notification(*alerts)).alerts


def test_a_notification_is_read_with_its_names_and_times() -> None:
    (found,) = parsed(alert(7))
    assert (found.name, found.project, found.starts_at) == ("PacelineInputsBroken", "flight_delay", SINCE)
    assert found.wants_retrain
    assert found.key == "0000000000000007@2026-11-30T03:00:00.123000+00:00"


def test_nanoseconds_as_go_writes_them_are_the_same_alert_each_time() -> None:
    told = [{**alert(), "startsAt": text} for text in ("2026-11-30T03:00:00.123456789Z", "2026-11-30T03:00:00.123457Z")]
    first, second = parsed(*told)
    assert first.key == second.key


@given(st.binary(max_size=300))
def test_no_bytes_are_taken_for_a_notification_by_chance(body: bytes) -> None:
    with pytest.raises(MalformedAlertsError):
        parse_notification(body)


def test_what_is_new_is_told_from_what_is_known() -> None:
    new, known, over, gone = parsed(alert(1), alert(2), alert(3), alert(4, status="resolved"))
    found = sort_alerts([new, known, over, gone], begun={known.key, over.key, gone.key}, ended={over.key})
    assert (found.begun, found.again, found.over, found.ended) == ((new,), (known,), (over,), (gone,))
    assert sort_alerts([gone], begun=set(), ended={gone.key}).ended_again == (gone,)


def test_only_a_message_with_nothing_but_the_past_is_a_replay() -> None:
    over, known = parsed(alert(1), alert(2))
    with pytest.raises(ReplayedAlertsError, match="was sent before"):
        sort_alerts([over], begun={over.key}, ended={over.key})
    assert sort_alerts([over, known], begun={known.key}, ended={over.key}).again == (known,)


def test_an_alert_that_begins_later_is_another_alert_and_another_run() -> None:
    first, second = parsed(alert(1), alert(1, since=SINCE + timedelta(milliseconds=1)))
    assert first.key != second.key
    assert run_id(first) != run_id(second)


def test_the_reason_of_a_storm_names_the_first_and_counts_the_others() -> None:
    storm = parsed(*(alert(number, alertname=f"Storm{number % 3}") for number in range(1, 400)))
    assert why(storm).startswith("Storm1: Half of the rows are unlike the training data. (and 398 more: Storm0, Storm1")
    assert len(why(storm)) <= 500
