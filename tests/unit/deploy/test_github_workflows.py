"""The workflows of GitHub Actions: what GitHub accepts, what is safe, and that they run what a laptop runs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.scripts import ROOT, linter

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}  ?# v\d+\.\d+\.\d+$")
each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)


def _jobs(file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["jobs"]
    return found


def _runs(file: Path) -> str:
    return "\n".join(step.get("run", "") for job in _jobs(file).values() for step in job["steps"])


@pytest.mark.parametrize(("schema", "files"), [("github-workflows", WORKFLOWS), ("github-actions", ACTIONS)])
def test_github_accepts_the_files(schema: str, files: list[Path]) -> None:
    command = [linter("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (len(files) > 0, done.returncode) == (True, 0), done.stdout + done.stderr


def _audit(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [linter("zizmor"), "--offline", "--no-progress", "--persona=pedantic", str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_an_audit_of_the_workflows_finds_nothing() -> None:
    done = _audit(GITHUB)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "after", "finding"),
    [
        (r"(actions/checkout@)[0-9a-f]{40} # v[\d.]+", r"\1v6", "unpinned-uses"),
        (r"  pull_request:\n", "  pull_request_target:\n", "dangerous-triggers"),
        (r"\npermissions: \{\}\n", "\npermissions: write-all\n", "excessive-permissions"),
        (r"make images ARGS=\"\$IMAGE ", 'make images ARGS="${{ github.head_ref }} ', "template-injection"),
    ],
)
def test_the_audit_finds_what_is_unsafe(tmp_path: Path, before: str, after: str, finding: str) -> None:
    broken, count = re.subn(before, after, (GITHUB / "workflows" / "ci.yml").read_text())
    assert count > 0
    (tmp_path / "ci.yml").write_text(broken)
    done = _audit(tmp_path / "ci.yml")
    assert done.returncode != 0
    assert finding in done.stdout


@pytest.mark.parametrize("file", [*WORKFLOWS, *ACTIONS], ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_an_action_is_named_by_a_commit_with_its_version_beside_it(file: Path) -> None:
    used = re.findall(r"uses: (.+)", file.read_text())
    assert used
    for each in used:
        if each.startswith("$/"):
            assert (ROOT / each.removeprefix("$/") / "action.yml").is_file(), each
        else:
            assert PINNED.fullmatch(each), each


def test_one_version_of_an_action_is_used_everywhere() -> None:
    used = {each for file in [*WORKFLOWS, *ACTIONS] for each in re.findall(r"uses: (\S+@\S+)", file.read_text())}
    names = [each.partition("@")[0] for each in used]
    assert len(names) == len(set(names))


@each_workflow
def test_the_targets_of_make_and_the_files_that_a_workflow_names_are_there(file: Path) -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", _runs(file)))
    assert named <= TARGETS
    for pattern in re.findall(r"cache-dependency-path: ([\w.*-]+)", file.read_text()):
        assert list(ROOT.glob(pattern)), pattern


def test_a_change_is_checked_as_on_a_laptop() -> None:
    jobs = _jobs(GITHUB / "workflows" / "ci.yml")
    made = {
        name: re.findall(r"\bmake ([a-z-]+)", "\n".join(s.get("run", "") for s in job["steps"]))
        for name, job in jobs.items()
    }
    assert made["check"] == ["check"]
    assert made["test"] == ["install-lint", "test"]
    assert made["all"] == ["install-lint", "test-all"]
    assert made["images"] == ["images"]


@each_workflow
def test_a_job_has_a_time_limit_and_only_the_rights_that_it_says(file: Path) -> None:
    found = yaml.safe_load(file.read_text())
    assert found["permissions"] == {}
    assert "group" in found["concurrency"]
    for name, job in found["jobs"].items():
        assert job["timeout-minutes"] <= 120, name
        assert set(job["permissions"].values()) <= {"read", "write"}, name
    writers = {name for name, job in found["jobs"].items() if "write" in job["permissions"].values()}
    assert writers == ({"images", "page"} if file.stem == "release" else set())


def test_nothing_is_pushed_before_the_tests_and_the_scan_and_what_is_pushed_is_signed_by_its_digest() -> None:
    jobs = _jobs(GITHUB / "workflows" / "release.yml")
    assert "test" in jobs["images"]["needs"]
    steps = [str(step.get("uses", "") + step.get("run", "")) for step in jobs["images"]["steps"]]

    def place(text: str) -> int:
        (found,) = [number for number, step in enumerate(steps) if text in step]
        return found

    assert place("anchore/scan-action@") < place("docker/login-action@") < place("--push")
    assert (
        place("--push") < place('cosign sign --yes "$REPOSITORY@$DIGEST"') < place("actions/attest-build-provenance@")
    )
    assert "pull_request" not in (GITHUB / "workflows" / "release.yml").read_text()


def test_the_images_of_a_release_are_those_that_there_are() -> None:
    from tests.fixtures.scripts import script

    matrix = _jobs(GITHUB / "workflows" / "release.yml")["images"]["strategy"]["matrix"]["image"]
    assert tuple(matrix) == script("docker/build.py").IMAGES


def test_the_version_that_a_workflow_reads_is_the_one_of_the_package() -> None:
    import tomllib

    for file in WORKFLOWS:
        for expression in set(re.findall(r"\$\((grep -oPm1 [^)]+)\)", file.read_text())):
            found = subprocess.run(["bash", "-c", expression], cwd=ROOT, capture_output=True, text=True, check=True)
            assert found.stdout.strip() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
