"""What an image is called, and which commands build it."""

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.fixtures.scripts import script

build = script("docker/build.py")
CLEAN = build.Source(version="1.2.0", commit="c" * 40, lock="f" * 64, bundle_format=1)
DIRTY = build.Source(version="1.2.0", commit="c" * 40 + "-dirty", lock="f" * 64, bundle_format=1)
FILLED = build.Source(
    version="1.2.0", commit="c" * 40, lock="f" * 64, bundle_format=1, bundle="b" * 64, bundle_folder="var/bundles/b"
)


def test_a_tag_says_the_version_the_commit_and_the_bundle_inside() -> None:
    assert CLEAN.tags == ("1.2.0", "1.2.0-cccccccccccc")
    assert FILLED.tags == ("1.2.0-cccccccccccc-bbbbbbbbbbbb",), "the version alone means the image without a bundle"
    assert DIRTY.tags == ("1.2.0-cccccccccccc-dirty",)


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_every_engine_gets_the_labels_and_the_tags(engine: str) -> None:
    (command,) = build.commands("serving", CLEAN, engine=engine, registry="ghcr.io/acme/")
    text = " ".join(command)
    assert text.startswith(f"{engine} {'bud' if engine == 'buildah' else 'build'} ")
    assert "--file docker/serving.Dockerfile" in text
    for argument in ("VERSION=1.2.0", f"COMMIT={'c' * 40}", f"LOCK={'f' * 64}", "BUNDLE_FORMAT=1"):
        assert f"--build-arg {argument}" in text
    assert "--tag ghcr.io/acme/paceline-serving:1.2.0-cccccccccccc" in text
    assert ("--format docker" in text) is (engine != "docker"), "without it HEALTHCHECK is lost"
    assert "BUNDLE_ID" not in text


def test_a_push_follows_the_build_for_each_tag() -> None:
    _, *pushed = build.commands("pipelines", CLEAN, engine="podman", registry="r.example", push=True)
    assert pushed == [["podman", "push", f"r.example/paceline-pipelines:{tag}"] for tag in CLEAN.tags]


@pytest.mark.parametrize(("docker_status", "expected"), [(0, "docker"), (1, "podman")])
def test_docker_without_its_daemon_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker_status: int, expected: str
) -> None:
    for name, status in (("docker", docker_status), ("podman", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.found_engine() == expected


def test_without_any_engine_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match="apt-get install buildah"):
        build.found_engine()


@pytest.mark.parametrize(
    ("image", "source", "more", "message"),
    [
        ("serving", DIRTY, {"push": True, "registry": "r"}, "changes that no commit has"),
        ("serving", CLEAN, {"push": True}, "--push needs --registry"),
        ("pipelines", FILLED, {}, "not into pipelines"),
    ],
)
def test_what_must_not_be_built_or_pushed_is_refused(
    image: str, source: object, more: dict[str, object], message: str
) -> None:
    with pytest.raises(build.BuildError, match=message):
        build.commands(image, source, engine="docker", **more)


def test_a_bundle_is_named_by_its_hash_and_taken_only_from_where_builders_see_it(
    tmp_path: Path, bundles: ModuleType
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "2.0.1"\n')
    (tmp_path / "requirements.txt").write_text("numpy==1\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "first"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = build.read_source(tmp_path, None)
    assert (clean.version, clean.is_dirty) == ("2.0.1", False)
    bundle = bundles.tiny_bundle(tmp_path / "var" / "bundles")
    found = build.read_source(tmp_path, bundle.path)
    assert (found.bundle, found.bundle_folder) == (bundle.id, f"var/bundles/{bundle.id}")
    assert found.is_dirty, "the bundle itself is not ignored in this clone"
    (command,) = build.commands("serving", found, engine="docker")
    assert f"BUNDLE=var/bundles/{bundle.id}" in command
    assert f"BUNDLE_ID={bundle.id}" in command
    elsewhere = bundles.tiny_bundle(tmp_path / "elsewhere")
    with pytest.raises(build.BuildError, match="not below var/bundles"):
        build.read_source(tmp_path, elsewhere.path)
