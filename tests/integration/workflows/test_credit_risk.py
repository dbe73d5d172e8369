"""The second project, from nothing to watched predictions, by the commands that a user gives; nothing personal is in
what it leaves behind besides the training data itself."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from tests.fixtures.small_installation import copy_of_expectations, free_port, users_environment

PROJECT = "credit_risk"
APPLICANT: dict[str, Any] = {
    "application": 990_001,
    "applied": "2024-03-20T10:00:00",
    "age_years": 617_700_617,
    "marital": "betrothed-6178",
    "seniority_years": 4,
    "home": "rent",
    "term_months": 36,
    "records": "no",
    "job": "fixed",
    "expenses": 61.791,
    "income": 6180.25,
    "assets": 618120.75,
    "debt": 6182.5,
    "amount": 1000,
    "price": 1500,
}
PERSONAL = ("617700617", "betrothed-6178", "61.791", "6180.25", "618120.75", "6182.5")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("credit")
    return users_environment(folder / "home") | {
        "PACELINE_EXPECTATIONS": str(copy_of_expectations(folder / "great_expectations")),
        "PACELINE_SERVER_URL_CREDIT_RISK": f"http://127.0.0.1:{free_port()}",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="module")
def home(environment: dict[str, str]) -> Path:
    return Path(environment["PACELINE_HOME"])


def paceline(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def trained(environment: dict[str, str]) -> str:
    """What `paceline train` printed, in a home where nothing was."""
    ended = paceline(environment, "train", "--project", PROJECT, "--trainer", "logistic_regression", "--register")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def server(environment: dict[str, str], home: Path, trained: str) -> Iterator[str]:
    """The URL of its model server, in a process of its own, with version 1 released."""
    url = environment["PACELINE_SERVER_URL_CREDIT_RISK"]
    command = [sys.executable, "-m", "pipelines", "serve", PROJECT, "--port", url.rpartition(":")[2]]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not _is_up(url):
            assert process.poll() is None, (home / "server.log").read_text()
            assert time.monotonic() < deadline, (home / "server.log").read_text()
            time.sleep(0.05)
        released = paceline(environment, "release", PROJECT, "--json")
        assert json.loads(released.stdout)["state"] == "promoted", released.stderr
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0, (home / "server.log").read_text()


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=1, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_one_command_goes_from_nothing_to_a_registered_version_and_its_model_card(trained: str, home: Path) -> None:
    told = dict(line.split(maxsplit=1) for line in trained.splitlines() if not line.startswith("as of"))
    assert "as of 2024-04-21: the data ends on 2024-03-21, and labels are known 30 days later" in trained
    passed, _, of = told["gates"].removesuffix(" passed").partition(" of ")
    assert passed == of
    card = Path(told["model"].removeprefix("card ")).read_text()
    assert card.startswith("# Credit risk")
    assert "The dates are made up" in card
    assert "marital" in card
    assert told["registered"] == "version 1 of credit_risk"
    assert "next       paceline release credit_risk" in trained
    assert (home / "warehouse" / PROJECT / "loans.parquet").exists()


def test_its_predictions_are_answered_and_watched_like_those_of_any_project(
    environment: dict[str, str], server: str
) -> None:
    replayed = paceline(
        environment, "replay", PROJECT, "--from", "2024-02-01", "--until", "2024-03-01", "--rate", "300", "--json"
    )
    assert json.loads(replayed.stdout)["failed"] == 0, replayed.stderr
    status = paceline(environment, "status", PROJECT)
    assert "credit_risk: version 1 leads" in status.stdout, status.stderr
    watched = paceline(environment, "watch", PROJECT, "--as-of", "2024-04-21", "--days", "90", "--json")
    seen = json.loads(watched.stdout)
    assert seen["predictions"] >= 290, watched.stderr
    assert seen["coverage"]["labelled"] >= 290
    (quality,) = seen["quality"]
    assert quality["auc"]["value"] > 0.75
    masked = {column["column"] for column in seen["drift"]["columns"] if "personal" in column["reason"]}
    assert seen["data_quality"] == []
    assert masked == {"records", "expenses", "income", "assets", "debt"}


def test_personal_fields_are_in_no_file_in_clear_but_the_training_data(server: str, home: Path) -> None:
    answered = httpx.post(f"{server}/v1/predict", json={"records": [APPLICANT]}, trust_env=False)
    assert answered.status_code == 200, answered.text
    assert "6180.25" not in answered.text
    wrong = {**APPLICANT, "application": 990_002, "home": 7, "income": "6180.25"}
    assert httpx.post(f"{server}/v1/predict", json={"records": [wrong]}, trust_env=False).status_code == 422
    prediction = answered.json()["predictions"][0]["prediction_id"]
    deadline = time.monotonic() + 30
    while not any(prediction.encode() in file.read_bytes() for file in _files(home / "predictions")):
        assert time.monotonic() < deadline, "the prediction is not in the log"
        time.sleep(0.1)
    logged = b"".join(file.read_bytes() for file in _files(home / "predictions"))
    assert b"fixed" in logged, "what is not personal is logged as it is"
    for file in _files(home):
        content = file.read_bytes()
        found = [value for value in PERSONAL if value.encode() in content]
        assert not found, f"{file} has {found}"


def test_the_page_of_its_api_shows_a_made_up_applicant(server: str, home: Path) -> None:
    import pyarrow.parquet as pq

    document = httpx.get(f"{server}/openapi.json", trust_env=False).json()
    (example,) = _examples(document)
    assert example.keys() == APPLICANT.keys()
    assert "personal: never logged in clear" in json.dumps(document)
    loans = pq.read_table(home / "warehouse" / PROJECT / "loans.parquet").to_pylist()
    (loan,) = [loan for loan in loans if loan["application"] == example["application"]]
    assert loan["amount"] == example["amount"]
    own = ("age_years", "marital", "expenses", "income", "assets", "debt")
    same = [name for name in own if loan[name] == example[name] and loan[name]]
    assert not same, f"the example has the {same} of a real applicant"


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def _examples(document: Any) -> list[dict[str, Any]]:
    """The records of the examples of the prediction route's JSON body."""
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    text = json.dumps(document["components"]["schemas"]) + json.dumps(content)
    start = text.index('{"records": [') + len('{"records": [')
    record: dict[str, Any]
    record, _ = json.JSONDecoder().raw_decode(text[start:])
    return [record]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["train"], "expected one project"),
        (["train", "flight_delay", "--project", PROJECT], "found credit_risk and flight_delay, expected one project"),
        (["train", PROJECT, "--snapshot", "0" * 64, "--as-of", "2024-04-21"], "--as-of is for a new snapshot"),
    ],
)
def test_a_train_that_contradicts_itself_is_refused(words: list[str], problem: str) -> None:
    shown = CliRunner().invoke(app, words, env={"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"})
    assert shown.exit_code == 2
    assert problem in shown.output


def test_train_as_of_a_day_without_enough_data_says_from_when_on_there_is(environment: dict[str, str]) -> None:
    ended = paceline(environment, "train", PROJECT, "--as-of", "2023-06-01")
    assert ended.returncode == 1
    assert "choose 2023-10-18 or later" in ended.stderr
