"""Builds, tags and pushes the images, by Docker, Podman or Buildah: `python docker/build.py --help`.

Tags are VERSION and VERSION-COMMIT, and with a bundle inside VERSION-COMMIT-BUNDLE alone: no tag means two contents.
A tree with changes that no commit has gets the commit's name with `-dirty`, and is not pushed.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, before anything is installed

from contracts.bundle import FORMAT, read_bundle  # noqa: E402

IMAGES = ("serving", "serving-gpu", "pipelines")
ENGINES = ("docker", "podman", "buildah")
SHORT_DIGITS = 12


class BuildError(ValueError):
    """An image cannot be built as asked: what was found, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an image is made of: the version and commit of the code, the lock's hash, a bundle to put inside."""

    version: str
    commit: str
    lock: str
    bundle_format: int
    bundle: str | None = None
    bundle_folder: str | None = None

    @property
    def is_dirty(self) -> bool:
        """Whether no commit has this code."""
        return self.commit.endswith("-dirty")

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of an image, the most telling last."""
        commit = self.commit[:SHORT_DIGITS] + ("-dirty" if self.is_dirty else "")
        exact = f"{self.version}-{commit}"
        if self.bundle is not None:
            return (f"{exact}-{self.bundle[:SHORT_DIGITS]}",)
        return (exact,) if self.is_dirty else (self.version, exact)


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what the arguments ask for; returns the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        engine = asked.engine or found_engine()
        source = read_source(ROOT, asked.bundle)
        for image in asked.images or IMAGES:
            for command in commands(
                image,
                source,
                engine=engine,
                registry=asked.registry,
                push=asked.push,
                arguments=asked.build_arg,
                options=asked.engine_option,
            ):
                print("+", " ".join(command), flush=True)  # noqa: T201
                if not asked.dry_run:
                    subprocess.run(command, cwd=ROOT, check=True)
    except (BuildError, OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"docker/build.py: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def commands(
    image: str,
    source: Source,
    *,
    engine: str,
    registry: str = "",
    push: bool = False,
    arguments: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[list[str]]:
    """The commands that build `image` and push it.

    Raises:
        BuildError: a dirty tree is to be pushed, or a bundle put where none belongs.
    """
    if push and source.is_dirty:
        raise BuildError("the tree has changes that no commit has: commit them, or build without --push")
    if push and not registry:
        raise BuildError("--push needs --registry, for example ghcr.io/acme")
    if source.bundle is not None and not image.startswith("serving"):
        raise BuildError(f"a bundle belongs into an image of the model server, not into {image}")
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    names = [f"{prefix}paceline-{image}:{tag}" for tag in source.tags]
    named = {
        "VERSION": source.version,
        "COMMIT": source.commit,
        "LOCK": source.lock,
        "BUNDLE_FORMAT": str(source.bundle_format),
    }
    if source.bundle is not None and source.bundle_folder is not None:
        named |= {"BUNDLE": source.bundle_folder, "BUNDLE_ID": source.bundle}
    build = [engine, "bud" if engine == "buildah" else "build", *options]
    if engine != "docker":
        build += ["--format", "docker"]  # the format of OCI has no HEALTHCHECK
    build += ["--file", f"docker/{image}.Dockerfile"]
    for text in (*(f"{name}={value}" for name, value in named.items()), *arguments):
        build += ["--build-arg", text]
    for name in names:
        build += ["--tag", name]
    return [[*build, "."], *([engine, "push", name] for name in names if push)]


def read_source(root: Path, bundle: Path | None) -> Source:
    """What the tree at `root` and the bundle at `bundle` are.

    Raises:
        BundleError: the bundle is not whole.
        BuildError: it is not below `root`, where a builder could see it.
    """
    commit = _git(root, "rev-parse", "HEAD")
    found = None
    folder = None
    if bundle is not None:
        path = bundle.resolve()
        if not path.is_relative_to(root / "var" / "bundles"):
            raise BuildError(f"{bundle} is not below var/bundles, and builders see nothing else: copy it there")
        found, folder = read_bundle(path).id, str(path.relative_to(root))
    return Source(
        version=tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"],
        commit=commit + ("-dirty" if _git(root, "status", "--porcelain") else ""),
        lock=hashlib.sha256((root / "requirements.txt").read_bytes()).hexdigest(),
        bundle_format=FORMAT,
        bundle=found,
        bundle_folder=folder,
    )


def found_engine() -> str:
    """The first builder on the PATH that can build. Raises BuildError when there is none.

    Docker's command is often there without the daemon that builds.
    """
    for engine in ENGINES:
        if shutil.which(engine) and (engine != "docker" or _answers("docker", "version")):
            return engine
    raise BuildError(f"none of {', '.join(ENGINES)} can build here; on Debian: apt-get install buildah")


def _answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="docker/build.py", description="Builds the images, or some of them.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"of {', '.join(IMAGES)}; all without", default=[])
    parser.add_argument("--engine", choices=ENGINES, help="the first of them on the PATH by default")
    parser.add_argument("--registry", default="", help="before the names, for example ghcr.io/acme")
    parser.add_argument("--push", action="store_true", help="to that registry, where the engine is logged in")
    parser.add_argument("--bundle", type=Path, help="a folder below var/bundles to put inside")
    parser.add_argument(
        "--build-arg", action="append", default=[], help="more arguments of a Dockerfile, as NAME=VALUE"
    )
    parser.add_argument("--engine-option", action="append", default=[], help="options of the engine's build command")
    parser.add_argument("--dry-run", action="store_true", help="only show the commands")
    return parser


if __name__ == "__main__":
    sys.exit(main())
