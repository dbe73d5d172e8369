"""Terraform's root module really applied, against moto's server: what it makes is stable, and drift from it is seen.

No cloud is reached: the provider speaks to an address of the loopback, with credentials that nobody has.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.fixtures.scripts import ROOT, linter, tool

MODULE = ROOT / "deploy" / "terraform"
PROVIDERS = Path("/opt/tf-plugins")
# what moto's server does not do, or forgets, so that an apply would wait for it, fail, or change it each time
_NO_CLUSTER = "belongs to the cluster"
NOT_SUPPORTED = {
    "aws_eks_cluster.this": "its access configuration and security group are not kept",
    "aws_eks_node_group.general": _NO_CLUSTER,
    "aws_eks_node_group.gpu": _NO_CLUSTER,
    "aws_iam_openid_connect_provider.cluster": _NO_CLUSTER,
    "aws_iam_role.account": _NO_CLUSTER,
    "aws_iam_role_policy.bucket_access": _NO_CLUSTER,
    "aws_vpc_security_group_ingress_rule.data": _NO_CLUSTER,
    "aws_launch_template.node": "not all of it is kept: a second apply changes it",
    "aws_db_parameter_group.this": "its parameters are not kept",
    "aws_db_instance.this": "belongs to the parameter group",
    "aws_efs_backup_policy.shared": "PutBackupPolicy is not implemented",
    "aws_elasticache_replication_group.this": "a group has no cache clusters that could be described",
}
OVERRIDE = """
terraform {
  backend "local" {}
}
provider "aws" {
  region            = "eu-central-1"
  s3_use_path_style = true
}
"""
CHANGES = 2  # what plan -detailed-exitcode ends with
APPLY_S_MAX, START_S_MAX = 600.0, 120.0
_EC2 = "2016-11-15"


@dataclass(frozen=True)
class Account:
    """The module's folder, and the server that plays AWS."""

    folder: Path
    url: str
    variables: tuple[str, ...]

    def terraform(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Terraform in the module, with all that is supported as its targets."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}
        told = {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env={**kept, **told, "AWS_EC2_METADATA_DISABLED": "true"},
            capture_output=True,
            text=True,
            timeout=APPLY_S_MAX,
        )

    def planned(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`plan` or `apply` of staging."""
        targets = [f"-target={name}" for name in sorted(_resources(self.folder) - NOT_SUPPORTED.keys())]
        options = ("-input=false", "-no-color", "-var-file=staging.tfvars")
        return self.terraform(command, *options, *self.variables, *targets, *arguments)


def _resources(folder: Path) -> set[str]:
    text = "".join(path.read_text() for path in folder.glob("*.tf"))
    return {f"{kind}.{name}" for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', text, re.MULTILINE)}


def _asked(url: str, action: str, tag: str) -> list[str]:
    """The texts of `tag` in the answer to a question about the network that each account comes with."""
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/ec2/aws4_request"}
    answer = httpx.post(url, data={"Action": action, "Version": _EC2}, headers=headers, trust_env=False, timeout=60)
    return re.findall(rf"<{tag}>([^<]+)</{tag}>", answer.raise_for_status().text)


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    """An empty account with its network, and the module initialised; skips where a part is missing."""
    tool("terraform", "https://developer.hashicorp.com/terraform/install")
    if not PROVIDERS.is_dir():
        pytest.skip(f"no mirror of Terraform's providers in {PROVIDERS}, and none is downloaded here")
    command = [linter("moto_server"), "--host", "127.0.0.1", "--port", "0"]
    # with AWS's own policies, which roles are given by name
    environment = {**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    log = tmp_path / "moto.log"
    with log.open("w") as output, subprocess.Popen(command, env=environment, stderr=output) as server:
        try:
            url = _address(server, log)
            subnets = ",".join(f'"{name}"' for name in dict.fromkeys(_asked(url, "DescribeSubnets", "subnetId")))
            (vpc,) = set(_asked(url, "DescribeVpcs", "vpcId"))
            folder = tmp_path / "module"
            shutil.copytree(MODULE, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "tests"))
            (folder / "override.tf").write_text(OVERRIDE)
            found = Account(folder, url, (f"-var=vpc_id={vpc}", f"-var=private_subnet_ids=[{subnets}]"))
            done = found.terraform("init", f"-plugin-dir={PROVIDERS}", "-input=false", "-no-color")
            assert done.returncode == 0, done.stdout + done.stderr
            yield found
        finally:
            server.terminate()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    until_s = time.monotonic() + START_S_MAX
    while time.monotonic() < until_s and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"moto's server does not come up: {log.read_text()[-2000:]}")


@pytest.mark.slow
def test_an_apply_makes_all_of_it_once_and_a_plan_sees_what_somebody_else_changed(account: Account) -> None:
    made = account.planned("apply", "-auto-approve")
    assert made.returncode == 0, (made.stdout + made.stderr)[-4000:]
    kept = account.terraform("state", "list").stdout.split()
    assert {re.sub(r"\[.*", "", name) for name in kept if not name.startswith("data.")} == (
        _resources(account.folder) - NOT_SUPPORTED.keys()
    )
    again = account.planned("apply", "-auto-approve")
    assert "0 added, 0 changed, 0 destroyed" in again.stdout, (again.stdout + again.stderr)[-4000:]
    bucket = account.terraform("output", "-raw", "bucket").stdout
    suspended = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
    httpx.put(f"{account.url}/{bucket}?versioning", content=suspended, trust_env=False).raise_for_status()
    drifted = account.planned("plan", "-detailed-exitcode")
    assert drifted.returncode == CHANGES
    assert "aws_s3_bucket_versioning.this will be updated in-place" in drifted.stdout
