"""The report of an evaluation: all evidence, what failed first."""

import re
from typing import Any

import msgspec

from pipelines.governance.evaluation_report import Evaluated, evaluation_report
from tests.fixtures.evidence import EVIDENCE, interval

GATES = (
    {"name": "AUC", "passed": True, "reason": "AUC 0.7025 >= minimum 0.55", "area": "quality"},
    {"name": "carrier", "passed": False, "reason": "log loss +0.08 > margin +0.05 on carrier = AA", "area": "slices"},
)
SPENT = {"wall_s": 10.0, "cpu_s": 9.0, "energy_kwh": 2e-5, "method": "estimated: 9 W a core", "cost": 0.0004}
TRIALS = (
    {
        "name": "boosted_trees 0",
        "trainer": "boosted_trees",
        "parameters": {"trees": 200},
        "metrics": {"log_loss": 0.5, "auc": 0.71},
        "curve": [
            {"step": 1.0, "train_log_loss": 0.6, "validation_log_loss": 0.61},
            {"step": 2.0, "train_log_loss": 0.5, "validation_log_loss": 0.52},
        ],
        "chosen": True,
        "spent": SPENT,
    },
    {"name": "neural_net 1", "trainer": "neural_net", "state": "failed", "error": "it diverged", "spent": SPENT},
)
FORMS = (
    {
        "name": "fp32",
        "accepted": True,
        "reason": "as trained",
        "size_bytes": 20_480,
        "log_loss": 0.5,
        "latency": [{"rows": 1, "us_p50": 12.0}, {"rows": 32, "us_p50": 80.0}],
    },
    {"name": "int8", "accepted": False, "reason": "not applicable: a tree ensemble has no matrix product"},
)
EVALUATED = Evaluated(
    title="Flight delay",
    champion="3",
    passed=False,
    gates=GATES,
    outcome={"name": "worse", "reason": "worse on carrier = AA"},
    evidence=EVIDENCE,
    trials=TRIALS,
    candidates=FORMS,
    chosen_form="fp32",
    facts={"bundle": "ab12"},
    label="arrived 15 minutes late or more",
    threshold=0.4,
    costs={"false_positive": 2.0, "false_negative": 3.0},
    windows={"test": {"start": "2013-06-16", "end": "2013-06-30"}},
    rows={"test": 13_000},
    choice="boosted_trees 0 has the least log loss",
    form_choice="no other was accepted",
    not_measured={"Privacy": "no field of the project is personal"},
)


def _with(**changes: Any) -> str:
    return evaluation_report(msgspec.structs.replace(EVALUATED, **changes))


def test_a_failed_gate_is_the_first_thing_that_is_seen() -> None:
    page = evaluation_report(EVALUATED)
    assert '<p class="warning">carrier: log loss +0.08 &gt; margin +0.05 on carrier = AA</p>' in page
    assert page.index("FAILED") < page.index("AUC 0.7025 &gt;= minimum 0.55")
    assert "1 of 2" in page
    assert "Worse than version 3: worse on carrier = AA." in page


def test_all_evidence_has_its_chapter_and_its_plots() -> None:
    page = evaluation_report(EVALUATED)
    headings = [part.partition("</h2>")[0] for part in page.split("<h2>")[1:]]
    assert headings == [
        "Gates",
        "What was judged",
        "Against the champion",
        "Calibration",
        "Beside simpler models",
        "Slices",
        "Fairness",
        "Sanity",
        "When inputs are disturbed",
        "Privacy",
        "Latency of the graph",
        "Optimisation",
        "Trials",
        "Energy and cost of training",
        "Not measured",
        "Lineage",
    ]
    assert page.count("<svg") == 7
    assert "not applicable: a tree ensemble has no matrix product" in page
    assert "2 of 2 trials, all that ended by themselves, took 18 s of processor time and 0.040 Wh" in page
    assert "The choice: boosted_trees 0 has the least log loss." in page
    assert "The choice is <code>fp32</code>: no other was accepted." in page
    assert "It is called positive from a score of 0.4 on. A false call costs 2, a missed one 3" in page
    assert '<td>Test</td><td>2013-06-16 up to 2013-06-30</td><td class="num">13,000</td>' in page
    assert "it diverged" in page


def test_without_a_champion_nothing_is_compared() -> None:
    section = EVIDENCE["comparison"]
    alone = {"comparison": {"comparison": {**section["comparison"], "champion": None, "differences": {}}}}
    page = _with(champion=None, outcome={"name": "first", "reason": "absolute limits only"}, evidence=alone, gates=())
    assert "First: absolute limits only." in page
    assert "Against the champion" not in page
    assert "<h2>Quality on the test rows</h2>" in page
    assert '<td>AUC</td><td>higher</td><td class="num">0.7025</td><td class="num">0.6900 … 0.7150</td>' in page


def test_a_difference_is_shown_only_where_its_whole_interval_says_so() -> None:
    found = {
        "rows": 100,
        "blocks": 10,
        "challenger": {"log_loss": 0.5, "auc": 0.7, "brier": 0.2},
        "champion": {"log_loss": 0.6, "auc": 0.8, "brier": 0.2},
        "differences": {
            "log_loss": interval(-0.1, 0.05),
            "auc": interval(-0.1, 0.05),
            "brier": interval(-0.01, 0.05),
        },
    }
    page = _with(evidence={"comparison": {"comparison": found}})
    rows = dict(re.findall(r"<tr><td>([\w ()]+)</td><td>(?:lower|higher)</td>.*?<td>(\w+)</td></tr>", page))
    assert rows == {"Log loss (nats)": "better", "AUC": "worse", "Brier score": "neither"}


def test_a_training_without_a_price_says_how_to_set_one() -> None:
    page = _with(trials=[{**TRIALS[0], "spent": {**SPENT, "cost": None}}])
    assert "No price is known: <code>PACELINE_PRICE_PER_CPU_HOUR</code> sets one." in page
    assert "At the price of" in evaluation_report(EVALUATED)
