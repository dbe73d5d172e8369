"""The alerts ask for metrics that the server really has, with labels that these really have."""

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import Metrics
from serving.prediction_writer import Mask, PredictionWriter
from serving.slots import Slots

RULES = Path(__file__).parents[3] / "deploy" / "observability" / "model-server.rules.yml"


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The series of a server, by the names that an expression uses."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Metrics(Slots(server="a"), PredictionWriter(Path(folder), project="p", mask=Mask(b"key")))
        families = list(text_string_to_metric_families(asyncio.run(metrics.exposition()).decode()))
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_the_server_has_and_says_what_to_do(rule: dict[str, Any], known: set[str]) -> None:
    asked = set(re.findall(r"paceline_\w+", rule["expr"]))
    assert asked
    assert asked <= known
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["action"].endswith(".")
