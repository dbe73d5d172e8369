"""The Dockerfiles: what every image keeps to, what hadolint says, and the bill of materials."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.fixtures.scripts import ROOT, linter, script

IMAGES = ("serving", "serving-gpu", "pipelines")
LABELS = ("org.opencontainers.image.revision", "dev.paceline.lock", "dev.paceline.bundle-format")
_STAGE = re.compile(r"^FROM ", re.MULTILINE)


def _dockerfile(image: str) -> str:
    return (ROOT / "docker" / f"{image}.Dockerfile").read_text().replace("\\\n", " ")


def _findings(text: str) -> set[str]:
    """The rules that a Dockerfile breaks."""
    stages = _STAGE.split(text)[1:]
    last = stages[-1]
    users = re.findall(r"^USER (\S+)", last, re.MULTILINE)
    copied = re.findall(r"^COPY .*--from=(\S+) /(\S*)", last, re.MULTILINE)
    rules = {
        "has several stages": len(stages) > 1,
        "pins its base by digest": bool(re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)),
        "starts every stage from that base": all(stage.startswith("${BASE}") for stage in stages),
        "names a user by number who is not root": bool(users) and users[-1][0] in "123456789",
        "asks for its health": "\nHEALTHCHECK " in last and "HEALTHCHECK NONE" not in last,
        "carries its labels": all(label in last for label in LABELS),
        "installs nothing in the last stage": not re.search(r"\b(pip|apt-get|apk|curl|wget)\b", last),
        "keeps no cache": "--no-cache-dir" in text or "pip" not in text,
        "takes only what was made from other stages": bool(copied)
        and all(folder.startswith("opt/") for _, folder in copied),
    }
    return {rule for rule, holds in rules.items() if not holds}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_keeps_to_the_rules(image: str) -> None:
    assert _findings(_dockerfile(image)) == set()


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda text: text[: text.index("\nFROM", text.index("FROM") + 4)], "has several stages"),
        (lambda text: re.sub(r"@sha256:\w+", "", text), "pins its base by digest"),
        (lambda text: text.replace("FROM ${BASE} AS", "FROM debian AS"), "starts every stage from that base"),
        (lambda text: re.sub(r"USER \S+", "USER root", text), "names a user by number who is not root"),
        (lambda text: re.sub(r"USER \S+", "USER 0:0", text), "names a user by number who is not root"),
        (lambda text: re.sub(r"HEALTHCHECK .*", "", text), "asks for its health"),
        (lambda text: text.replace("dev.paceline.lock", "lock"), "carries its labels"),
        (lambda text: text.replace("\nUSER", "\nRUN apt-get install gcc\nUSER"), "installs nothing in the last stage"),
        (lambda text: text.replace("--no-cache-dir", ""), "keeps no cache"),
        (lambda text: text.replace("--from=install /opt", "--from=install /build /opt"), "takes only what was made"),
    ],
)
def test_each_rule_finds_an_image_that_breaks_it(broken: Callable[[str], str], rule: str) -> None:
    found = _findings(broken(_dockerfile("serving")))
    assert any(each.startswith(rule) for each in found), found


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_has_nothing_to_say(image: str) -> None:
    done = subprocess.run([linter("hadolint"), f"docker/{image}.Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_what_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp && apt-get install gcc\n")
    done = subprocess.run([linter("hadolint"), str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "DL3007" in done.stdout


def test_no_image_takes_more_of_the_tree_than_it_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = set()
    for image in IMAGES:
        for sources in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", _dockerfile(image), re.MULTILINE):
            copied |= {each.partition("/")[0] for each in sources.split() if not each.startswith("$")}
    assert copied - allowed == set(), "these would be missing in the context"
    assert allowed - copied == {"var/bundles"}, "no image takes these"


def test_the_bill_of_materials_has_every_pin(tmp_path: Path) -> None:
    tool = linter("cyclonedx-py")
    subprocess.run([ROOT / "docker" / "sbom", tmp_path, Path(tool).parent], check=True, capture_output=True)
    lock = script("docker/lock.py")
    for image in IMAGES:
        found = json.loads((tmp_path / f"{image}.cdx.json").read_text())
        assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
        assert found["metadata"]["component"]["name"] == "paceline"
        listed = {unquote(component["purl"]) for component in found["components"]}
        pins = lock.pinned((ROOT / "docker" / f"requirements-{image}.txt").read_text())
        assert {f"pkg:pypi/{name}@{version}" for name, version in pins.items()} - {
            purl.lower() for purl in listed
        } == set()
