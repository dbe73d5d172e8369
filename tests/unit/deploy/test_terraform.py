"""Terraform's root module: valid by the real provider's schema, planned with a mocked one, and without a finding."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.scripts import ROOT, linter, tool

MODULE = ROOT / "deploy" / "terraform"
PROVIDERS = Path("/opt/tf-plugins")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the provider of the machine's mirror; skips where there is neither Terraform nor a mirror."""
    terraform = tool("terraform", "https://developer.hashicorp.com/terraform/install")
    if not PROVIDERS.is_dir():
        pytest.skip(f"no mirror of Terraform's providers in {PROVIDERS}, and none is downloaded here")
    folder = tmp_path_factory.mktemp("terraform") / "module"
    shutil.copytree(MODULE, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    command = [terraform, "init", "-backend=false", f"-plugin-dir={PROVIDERS}", "-input=false", "-no-color"]
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _environment() -> dict[str, str]:
    """Without the machine's own configuration, and without credentials that could reach somebody's account."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}


def _terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["terraform", *arguments], cwd=folder, env=_environment(), capture_output=True, text=True)


@pytest.mark.slow
def test_the_module_is_valid_and_plans_what_its_tests_ask_for(module: Path) -> None:
    assert _terraform(module, "fmt", "-check", "-recursive").stdout == ""
    valid = json.loads(_terraform(module, "validate", "-json").stdout)
    assert (valid["valid"], valid["diagnostics"]) == (True, [])
    tested = _terraform(module, "test", "-no-color")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "0 failed" in tested.stdout
    # and an argument that the provider does not have is found
    outputs = module / "outputs.tf"
    outputs.write_text(outputs.read_text().replace("aws_eks_cluster.this.name", "aws_eks_cluster.this.nmae"))
    broken = json.loads(_terraform(module, "validate", "-json").stdout)
    assert (broken["valid"], "nmae" in json.dumps(broken["diagnostics"])) == (False, True)


def test_checkov_has_no_finding_that_is_not_explained(tmp_path: Path) -> None:
    checkov = linter("checkov")

    def scan(folder: Path) -> dict[str, object]:
        command = [checkov, "-d", str(folder), "--framework", "terraform", "--skip-download", "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    results = scan(MODULE)["results"]
    assert isinstance(results, dict)
    assert [f"{each['check_id']} {each['resource']}" for each in results["failed_checks"]] == []
    assert len(results["passed_checks"]) > 100
    shutil.copytree(MODULE, tmp_path / "module")
    storage = tmp_path / "module" / "storage.tf"
    storage.write_text(storage.read_text().replace("encrypted  = true", "encrypted  = false"))
    found = scan(tmp_path / "module")["results"]
    assert isinstance(found, dict)
    assert {each["resource"] for each in found["failed_checks"]} == {"aws_efs_file_system.shared"}


def test_every_exception_says_why() -> None:
    for path in MODULE.glob("*.tf"):
        for line in re.findall(r"#checkov:skip=.*", path.read_text()):
            assert re.fullmatch(r"#checkov:skip=CKV2?_AWS_\d+:.{8,}", line), f"{path.name}: {line}"
