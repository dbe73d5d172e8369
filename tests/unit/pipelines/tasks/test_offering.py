import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.ledger import Ledger
from pipelines.rollout.controller import run_rollout
from pipelines.rollout.events import Offer
from pipelines.tasks.offering import Opened, next_offer, open_rollout, read_book
from pipelines.tasks.releasing import settle_at
from pipelines.tasks.sites import Site
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform
from tests.fixtures.sites import PROJECT, QUICK, MemoryRegistry, make_site

AS_OF = {"1": "2013-01-07", "2": "2013-01-14", "3": "2013-01-21", "4": "2013-01-28"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        for project in (PROJECT, "loans"):
            opened.swap_champion(project, None, "1", "b1", "bootstrap", "the first")
        yield opened


def site_of(ledger: Ledger, when_busy: Any = "queue", project: str = PROJECT) -> Site:
    plan = msgspec.structs.replace(QUICK, when_busy=when_busy)
    return make_site(ledger, SimulatedPlatform(SimulatedClock()), MemoryRegistry(AS_OF), plan, project)


@pytest.fixture
def site(ledger: Ledger) -> Site:
    return site_of(ledger)


def run(site: Site, opened: Opened) -> dict[str, Any]:
    """Runs what was opened to its end, and settles it."""
    assert opened.offer is not None, opened.reason
    platform: Any = asyncio.run(site.platform().__aenter__())
    offer = msgspec.convert(opened.offer, Offer)
    ended = asyncio.run(
        run_rollout(platform, site.ledger, site.plan, offer, clock=platform.clock, sleep=platform.clock.sleep)
    )
    return settle_at(site, {"rollout": offer.rollout, "version": offer.version, **msgspec.to_builtins(ended)})


def fail(site: Site, opened: Opened, reason: str = "too many errors") -> dict[str, Any]:
    assert opened.offer is not None, opened.reason
    ended = {"state": "rolled_back", "reason": reason, "version": opened.offer["version"]}
    return settle_at(site, {"rollout": opened.offer["rollout"], **ended})


def waiting(site: Site) -> list[str]:
    return [ticket.body["version"] for ticket in read_book(site.ledger, site.project).waiting]


def test_a_rollout_that_has_not_ended_is_gone_on_with(site: Site) -> None:
    first = open_rollout(site, "2")
    assert open_rollout(site, "2") == first
    assert run(site, first)["state"] == "promoted"
    assert open_rollout(site, "2").reason == "version 2 is the champion already"


def test_an_offer_waits_until_the_running_rollout_has_ended(site: Site) -> None:
    first = open_rollout(site, "2")
    second = open_rollout(site, "3")
    assert (second.offer, second.waits) == (first.offer, "3")
    assert second.reason == "version 3 waits until the rollout flights-v2-1 has ended"
    assert (waiting(site), next_offer(site)) == (["3"], None)
    settled = run(site, second)
    assert settled["next"] == {"version": "3", "note": None}
    third = open_rollout(site, "3")
    assert third.offer is not None
    assert (third.offer["rollout"], third.offer["expected_champion"], waiting(site)) == ("flights-v3-1", "2", [])
    assert run(site, third)["next"] is None


def test_of_the_offers_that_wait_the_newest_keeps_its_turn_and_the_reason_is_told(site: Site) -> None:
    first = open_rollout(site, "2")
    open_rollout(site, "3")
    open_rollout(site, "4")
    assert waiting(site) == ["4"]
    refused = site.ledger.entries(kinds=["release.refused"])[-1].body
    assert (refused["version"], refused["reason"]) == ("3", "version 4 waits as well, as of 2013-01-28: newer")
    again = open_rollout(site, "3")  # a retried task
    assert (again.offer, again.reason) == (None, "version 4 waits as well, as of 2013-01-28: newer")
    assert fail(site, first)["next"] == {"version": "4", "note": None}


def test_offers_with_a_persons_note_keep_their_order(site: Site) -> None:
    first = open_rollout(site, "2")
    open_rollout(site, "4", note="first in line", by="ann")
    open_rollout(site, "3", note="to compare", by="ann")
    assert waiting(site) == ["4", "3"]
    assert fail(site, first)["next"] == {"version": "4", "note": "first in line"}
    early = open_rollout(site, "3", note="to compare", by="ann")  # out of turn: what goes first is run first
    assert early.offer is not None
    assert (early.offer["version"], early.waits, waiting(site)) == ("4", "3", ["3"])


def test_an_opening_says_who_offered_it_and_gave_the_note_also_after_it_has_waited(site: Site) -> None:
    first = open_rollout(site, "2", by="scheduled")
    open_rollout(site, "3", note="to compare", by="ann")
    fail(site, first)
    open_rollout(site, **next_offer(site), by="operator_triggered")  # type: ignore[arg-type]  # as Airflow does by itself
    opened = [(each.body["note"], each.body["by"]) for each in site.ledger.entries(kinds=["release.opened"])]
    assert opened == [(None, "scheduled"), ("to compare", "ann")]


def test_a_note_of_nobody_is_an_error_and_opens_nothing(site: Site) -> None:
    with pytest.raises(ValueError, match="a note names who gives it; found nobody"):
        open_rollout(site, "2", note="the clock was wrong", by=" ")
    assert site.ledger.entries(kinds=["release.opened"]) == []


def test_who_waited_is_judged_again_when_its_turn_comes(site: Site) -> None:
    first = open_rollout(site, "4")
    open_rollout(site, "3")
    assert run(site, first)["next"] == {"version": "3", "note": None}
    assert "older data does not replace newer" in open_rollout(site, "3").reason
    assert (waiting(site), next_offer(site)) == ([], None)


def test_a_newer_offer_ends_the_running_rollout_where_the_plan_says_supersede(ledger: Ledger) -> None:
    site = site_of(ledger, "supersede")
    first = open_rollout(site, "3")
    older = open_rollout(site, "2")
    assert (older.waits, ledger.entries(kinds=["rollout.command"])) == ("2", [])
    newer = open_rollout(site, "4")
    open_rollout(site, "4")  # a retried task
    command = ledger.entries(kinds=["rollout.command"])
    assert [(entry.subject, entry.body["command"]) for entry in command] == [("flights-v3-1", "abort")]
    assert newer.offer == first.offer
    settled = run(site, newer)
    assert settled["state"] == "rolled_back"
    assert "superseded by version 4" in settled["reason"]
    assert settled["next"] == {"version": "4", "note": None}
    assert run(site, open_rollout(site, "4"))["state"] == "promoted"


def test_an_offer_is_refused_where_the_plan_says_so(ledger: Ledger) -> None:
    site = site_of(ledger, "refuse")
    first = open_rollout(site, "2")
    second = open_rollout(site, "3")
    assert second.offer is None
    assert "flights-v2-1 has not ended, and the plan's when_busy is refuse" in second.reason
    assert (waiting(site), fail(site, first)["next"]) == ([], None)


def test_two_projects_do_not_disturb_each_other(ledger: Ledger) -> None:
    flights, loans = site_of(ledger), site_of(ledger, project="loans")
    first, second = open_rollout(flights, "2"), open_rollout(loans, "2")
    assert (first.waits, second.waits) == (None, None)
    open_rollout(flights, "3")
    assert (waiting(flights), waiting(loans)) == (["3"], [])
    assert run(loans, second)["next"] is None
    assert (ledger.champion("loans").version, ledger.champion(PROJECT).version) == ("2", "1")  # type: ignore[union-attr]
    assert run(flights, first)["next"] == {"version": "3", "note": None}


def test_of_two_that_open_at_once_one_wins_and_the_other_waits(ledger: Ledger) -> None:
    site = site_of(ledger)

    class Slow:
        """The book is read, and before the opening is written somebody else opens."""

        raced = False

        def __getattr__(self, name: str) -> Any:
            return getattr(ledger, name)

        def append(self, project: str, kind: str, *arguments: Any, **options: Any) -> Any:
            if kind == "release.opened" and not self.raced:
                self.raced = True
                assert open_rollout(site, "2").waits is None
            return ledger.append(project, kind, *arguments, **options)

    slow = make_site(Slow(), None, site.registry, site.plan)
    opened = open_rollout(slow, "3")
    assert (opened.waits, [entry.subject for entry in ledger.entries(kinds=["release.opened"])]) == (
        "3",
        ["flights-v2-1"],
    )


def test_a_version_that_was_rolled_back_needs_a_note_that_is_new(site: Site) -> None:
    fail(site, open_rollout(site, "2"))
    assert "was rolled_back on" in open_rollout(site, "2").reason
    fail(site, open_rollout(site, "2", note="the clock was wrong", by="ann"))
    again = open_rollout(site, "2", note="the clock was wrong ", by="ann")  # a cleared task brings its old note again
    assert again.offer is None
    assert "this note is that of flights-v2-2" in again.reason
    assert open_rollout(site, "2", note="the clock is right now", by="ann").offer is not None


def test_a_bundle_that_was_rolled_back_does_not_come_back_under_another_number(site: Site) -> None:
    fail(site, open_rollout(site, "2"))

    class Renamed(MemoryRegistry):
        def version(self, project: str, version_or_alias: str) -> Any:
            found = super().version(project, version_or_alias)
            return found and msgspec.structs.replace(found, bundle="b2" if found.version == "3" else found.bundle)

    registered_again = make_site(site.ledger, None, Renamed(AS_OF))
    assert "was rolled_back on" in open_rollout(registered_again, "3").reason


def test_a_rollout_whose_settling_crashed_is_settled_by_the_next_offer(site: Site) -> None:
    first = open_rollout(site, "2")
    platform: Any = asyncio.run(site.platform().__aenter__())
    offer = msgspec.convert(first.offer, Offer)
    clock = platform.clock
    asyncio.run(run_rollout(platform, site.ledger, site.plan, offer, clock=clock, sleep=clock.sleep))
    second = open_rollout(site, "3")
    assert (second.offer, second.waits) == (first.offer, "3")
    assert run(site, second)["next"] == {"version": "3", "note": None}
    assert site.registry.version(PROJECT, "champion").version == "2"  # type: ignore[union-attr]
