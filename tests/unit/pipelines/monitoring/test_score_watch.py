"""The fast watch over scores, look by look."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from pipelines.monitoring.score_watch import ScoreWatch, ScoreWatchLimits, accepted, is_gap, look, usual_band

LIMITS = ScoreWatchLimits(look_s=300)
START_S = datetime(2013, 1, 1, tzinfo=UTC).timestamp()
THRESHOLD = 0.6
DAY = 288  # looks
APPROVED, USUAL = 0.95, 0.60


def _counts(chance: np.random.Generator, share: float, requests: int = 3000) -> list[int]:
    """Scores of a look, of which `share` lie above the threshold: 10 requests a second."""
    return list(map(int, chance.multinomial(requests, [(1 - share) / 6] * 6 + [share / 4] * 4)))


def _watched(
    watch: ScoreWatch, start: int, looks: int, share: float | None = None, seed: int = 1
) -> tuple[ScoreWatch, list[tuple[int, str]]]:
    """The watch after more looks, and the looks at which its state changed. The usual share follows the hour,
    and differs a little from day to day."""
    chance, changes = np.random.default_rng(seed + start), []
    for number in range(start, start + looks):
        now_s, before = START_S + number * LIMITS.look_s, watch.state
        of_day = 0.02 * np.sin(number // DAY * 1.7)
        usual = USUAL + 0.08 * np.sin(2 * np.pi * (number % DAY) / DAY) + of_day
        watch = look(watch, _counts(chance, usual if share is None else share), now_s, THRESHOLD, LIMITS)
        if watch.state != before:
            changes.append((number - start, watch.state))
    return watch, changes


@pytest.fixture(scope="module")
def settled() -> ScoreWatch:
    """After five usual days."""
    watch, changes = _watched(ScoreWatch(), 0, 5 * DAY)
    assert changes == [(4 * DAY, "quiet")] or changes == [(3 * DAY, "quiet")], "it learns for some days first"
    return watch


def test_usual_days_raise_no_alarm(settled: ScoreWatch) -> None:
    watch, changes = _watched(settled, 5 * DAY, 25 * DAY)
    assert changes == []
    assert watch.evidence is not None
    assert watch.evidence < LIMITS.log_threshold / 2
    assert len(watch.usual) <= LIMITS.reference_days + 1


@pytest.mark.parametrize("hour", [0, 6, 12, 18])
@pytest.mark.parametrize("share", [APPROVED, 0.15])
def test_approvals_that_go_from_60_to_95_percent_or_fall_are_found_within_the_hour(
    settled: ScoreWatch, hour: int, share: float
) -> None:
    start = 5 * DAY
    watch, _ = _watched(settled, start, hour * 12)
    alarmed, changes = _watched(watch, start + hour * 12, 12, share)
    assert changes
    assert changes[0][1] == "alarm"
    assert changes[0][0] < 12
    assert alarmed.alarm is not None
    assert "of the last" in alarmed.alarm.reason
    assert (alarmed.alarm.edge == 0.6) or share != APPROVED


def test_an_alarm_lasts_until_the_scores_are_back_and_teaches_nothing(settled: ScoreWatch) -> None:
    start = 5 * DAY
    alarmed, changes = _watched(settled, start, 3 * DAY, APPROVED)
    assert [state for _, state in changes] == ["alarm"], "three days of it are no new usual"
    days = {day for day in alarmed.usual if day >= "2013-01-06"}
    assert days == set()
    back, changes = _watched(alarmed, start + 3 * DAY, 48)
    assert [state for _, state in changes] == ["quiet"]
    assert back.alarm is None


def test_an_alarm_of_one_hour_ends_in_an_hour_where_the_share_may_be_anything() -> None:
    """What was said of the night ends with the band of the day."""
    night, day = [1000, 0] + [0] * 8, [200, 200, 200, 200, 200] + [0] * 5
    hours = {hour: night if hour < 6 else day for hour in range(24)}
    watch = ScoreWatch(usual={f"2012-12-{number}": hours for number in (29, 30, 31)})
    changes = []
    for number in range(24):
        counts = [300, 0, 300] + [0] * 7 if number < 12 else day
        was = watch.state
        watch = look(watch, counts, START_S + (3.5 if number < 12 else 11) * 3600 + number * 300, 0.6, LIMITS)
        changes += [watch.state] if watch.state != was else []
    assert changes == ["quiet", "alarm", "quiet"]


def test_a_person_who_accepts_the_scores_makes_it_learn_them(settled: ScoreWatch) -> None:
    alarmed, _ = _watched(settled, 5 * DAY, DAY, APPROVED)
    after, changes = _watched(accepted(alarmed), 6 * DAY, 6 * DAY, APPROVED)
    assert [state for _, state in changes] == ["quiet"]
    assert after.alarm is None
    assert after.band is not None
    assert after.band[0][5] > 0.8


def test_scores_that_are_stuck_on_one_side_of_the_threshold_are_found_too(settled: ScoreWatch) -> None:
    watch = settled
    for number in range(12):
        counts = [0] * 5 + [1170, 1830] + [0] * 3  # approvals as usual, all scores around the threshold
        watch = look(watch, counts, START_S + (5 * DAY + number) * LIMITS.look_s, THRESHOLD, LIMITS)
    assert watch.state == "alarm"
    assert watch.alarm is not None
    assert watch.alarm.edge != THRESHOLD


def test_without_scores_nothing_is_said(settled: ScoreWatch) -> None:
    watch = settled
    for number in range(24):
        watch = look(watch, [0] * 10, START_S + (5 * DAY + number) * LIMITS.look_s, THRESHOLD, LIMITS)
    assert (watch.state, watch.scores, watch.share_above(5)) == ("quiet", 0, None)
    assert watch.detectors == settled.detectors


def test_a_handful_of_requests_is_no_alarm_and_a_handful_of_days_no_usual(settled: ScoreWatch) -> None:
    one = look(settled, [0] * 9 + [20], START_S + 5 * DAY * LIMITS.look_s, THRESHOLD, LIMITS)
    assert one.state == "quiet"
    young, _ = _watched(ScoreWatch(), 0, 2 * DAY)
    blind, changes = _watched(young, 2 * DAY, 12, APPROVED)
    assert (blind.state, changes) == ("learning", [])


def test_it_goes_on_from_json_as_if_nothing_had_happened(settled: ScoreWatch) -> None:
    again = msgspec.json.decode(msgspec.json.encode(settled), type=ScoreWatch)
    assert again == settled
    assert _watched(again, 5 * DAY, 12, APPROVED) == _watched(settled, 5 * DAY, 12, APPROVED)


def test_an_hour_that_few_days_have_is_compared_with_all_hours() -> None:
    day = {hour: [50] * 10 for hour in range(8, 18)}
    usual = {f"2013-01-0{number}": day for number in (1, 2, 3)}
    low, high = usual_band(usual, datetime(2013, 1, 4, 3, tzinfo=UTC), LIMITS) or (None, None)
    assert low is not None
    assert high is not None
    assert (low[5], high[5]) == (pytest.approx(0.3), pytest.approx(0.5))
    assert usual_band(usual, datetime(2013, 1, 3, 9, tzinfo=UTC), LIMITS) is None, "today is no past day"


def test_a_long_pause_is_a_gap() -> None:
    watch = ScoreWatch(looked_s=1000.0)
    assert not is_gap(watch, 1000.0 + 5 * LIMITS.look_s, LIMITS)
    assert is_gap(watch, 1001.0 + 5 * LIMITS.look_s, LIMITS)
    assert is_gap(watch, 999.0, LIMITS), "a clock that was set back"
    assert is_gap(ScoreWatch(), 0.0, LIMITS)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"false_alarms_per_year": 0}, "false_alarms_per_year is above 0, found 0"),
        ({"look_s": 0}, "look_s is above 0, found 0"),
        ({"margin": 1}, r"margin lies in \[0, 1\), found 1"),
        ({"minimum_days": 0}, "minimum_days is at least 1, found 0"),
        ({"reference_days": 2}, "reference_days is 2, less than minimum_days, 3"),
    ],
)
def test_limits_without_a_meaning_are_refused_by_name(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(limits, ScoreWatchLimits)


def test_counts_of_other_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 10 counts"):
        look(ScoreWatch(), [1] * 9, 0.0, THRESHOLD, LIMITS)
