from datetime import date
from pathlib import Path

import pytest

from pipelines.capacity.prices import PRICES, Offer, cost, read_prices


def test_every_price_of_the_repository_has_its_source_and_a_date_in_the_past() -> None:
    table = read_prices()
    assert table.offers
    for offer in table.offers:
        assert "https://" in offer.source
        assert date(2025, 1, 1) < offer.as_of <= date.today()


def test_resources_cost_what_they_ask_for_by_the_hour() -> None:
    table = read_prices()
    found = cost(table, table.offers[0], replicas=10, fewest=4, zones=2, cores=0.5, memory_mib=1000)
    assert found is not None
    each = 0.5 * 0.04048 + 1.048576 * 0.004445
    assert found.at_peak == pytest.approx(10 * each * 730)
    assert found.at_least == pytest.approx(4 * each * 730)
    assert found.nodes is None


def test_nodes_are_whole_in_each_zone_and_keep_a_tenth_for_the_system() -> None:
    table = read_prices()
    node = next(offer for offer in table.offers if offer.cpus == 2)
    found = cost(table, node, replicas=9, fewest=3, zones=3, cores=0.9, memory_mib=500)
    assert found is not None
    assert found.nodes == 6  # two replicas of 0.9 cores fill the 1.8 that are left of a node
    assert found.at_peak == pytest.approx(6 * 0.0816 * 730)
    assert found.at_least == pytest.approx(3 * 0.0816 * 730)
    assert cost(table, node, replicas=9, fewest=3, zones=3, cores=1.9, memory_mib=500) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("per_cpu_hour: 0.04048", "aws-fargate-x86: expected either per_cpu_hour and per_gb_hour"),
        ("as_of: 2026-03-10", "as_of"),
        ("currency: USD", "currency"),
        ("per_cpu_hour: 0.04048->per_cpu_hour: -1", "per_cpu_hour"),
        ("region: us-east-1->zone: us-east-1a", "zone"),
    ],
)
def test_a_table_that_lacks_something_is_refused_by_name(tmp_path: Path, changed: str, message: str) -> None:
    before, _, after = changed.partition("->")
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES.read_text().replace(before, after, 1))
    with pytest.raises(ValueError, match=message) as caught:
        read_prices(file)
    assert str(file) in str(caught.value)


def test_an_offer_is_not_both() -> None:
    with pytest.raises(ValueError, match="both: expected either"):
        Offer(
            name="both", region="r", source="s", as_of=date(2026, 1, 1),
            per_cpu_hour=1, per_gb_hour=1, per_hour=1, cpus=1, memory_gb=1,
        )  # fmt: skip
