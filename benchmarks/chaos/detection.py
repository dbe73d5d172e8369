"""From the first broken answer of a live challenger to zero share, under 200 requests a second.

The plan is the default one, with its look a second and its split of alpha; it stays at its first step. The clock starts
just before the fault is planted, so before the first broken answer, and stops at the first look that shows no share.

    python -m benchmarks.chaos.detection [--repeats 5] [--readme]
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from rich.console import Console

from benchmarks.chaos.__main__ import README, machine, write_section
from benchmarks.chaos.installation import PROJECT, SOUND, Installation, install, records
from benchmarks.chaos.processes import forks, free_port, hold, lead, model_server
from pipelines.benchmarking.bodies import classify_of, requests_of
from pipelines.benchmarking.connections import target_of
from pipelines.benchmarking.load import Load

RATE, ENTITIES = 200, 40_000
SHARES = (0.05, 0.25, 0.5)
SOUND_S, LOOK_S, PATIENCE_S = 4.0, 0.01, 180.0
console = Console(stderr=True)


class Kind(NamedTuple):
    """A fault: the share of failures before, and after it; `limit_s` is the goal."""

    name: str
    before: float
    after: float
    limit_s: float


KINDS = (Kind("every answer fails", 0.0, 1.0, 2.0), Kind("0.5 % → 20 % fail", 0.005, 0.2, 10.0))


class Detected(NamedTuple):
    """One repetition. `cause` is what took the share away: the hard limit or the judge."""

    kind: Kind
    share: float
    seconds: float
    cause: str
    client_errors: int
    answers: int


def main() -> int:
    """Exit code 1 when a goal is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each fault at each share")
    parser.add_argument("--readme", action="store_true", help="write the results into the README")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paceline-detection-") as folder:
        found = asyncio.run(measure(install(Path(folder) / "one", versions=2), options.repeats))
    text = _text(found)
    sys.stdout.write(text)
    if options.readme:
        write_section(README, "detection", text)
    return 0 if all(each.seconds <= each.kind.limit_s and not each.client_errors for each in found) else 1


async def measure(place: Installation, repeats: int) -> list[Detected]:
    """Every fault at every share, on one server."""
    port = free_port()
    server = model_server(place, port, place.root / "server.log")
    server.start()
    found = []
    try:
        await server.wait_ready()
        await lead(place, f"http://127.0.0.1:{port}")
        cases = [(kind, share) for kind in KINDS for share in SHARES for _ in range(repeats)]
        with console.status("starting") as status:
            for number, (kind, share) in enumerate(cases):
                status.update(f"{number + 1} of {len(cases)}: {kind.name} at {share:.0%}")
                found.append(await _detect(place, f"http://127.0.0.1:{port}", kind, share, number))
    finally:
        server.kill()
    return found


async def _detect(place: Installation, url: str, kind: Kind, share: float, number: int) -> Detected:
    rollout = f"detection-{number}"
    # nothing advances before the fault, and no proof that it may is asked
    plan = {"shadow": None, "steps": [{"share": share, "minimum_s": 3600, "maximum_s": 7200}, {"share": 1.0}]}
    arguments = (url, f"sqlite:///{place.ledger}", place.offer(rollout, SOUND), plan)
    controller = forks().Process(target=hold, args=arguments, daemon=True)
    load, stop = _load(url, number)
    clients = asyncio.create_task(load.open_loop(np.arange(int(RATE * PATIENCE_S)) / RATE))
    controller.start()
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client, asyncio.timeout(PATIENCE_S):
            while (await _look(client))["share"] != share:
                await asyncio.sleep(LOOK_S)
            if kind.before:
                await _plant(client, kind.before)
            await asyncio.sleep(SOUND_S)
            if (await _look(client))["share"] != share:
                raise RuntimeError(f"{rollout} ended before the fault: {await _look(client)}")
            planted_s = time.monotonic()
            await _plant(client, kind.after)
            while (shown := await _look(client))["share"] > 0:
                await asyncio.sleep(LOOK_S)
            seconds = time.monotonic() - planted_s
        await asyncio.to_thread(controller.join, PATIENCE_S)
    finally:
        controller.kill()
        stop.set()
        await clients
    answered = [load.recording.labels[code] for code in load.recording.label]
    cause = "hard limit" if shown["tripped"] else "judge"
    return Detected(kind, share, seconds, cause, sum(label.status != 200 for label in answered), len(answered))


async def _plant(client: httpx.AsyncClient, error_share: float) -> None:
    (await client.post("/control/fault", json={"error_share": error_share})).raise_for_status()


async def _look(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/control/observation")).raise_for_status().json()


def _load(url: str, seed: int) -> tuple[Load, asyncio.Event]:
    target, stop = target_of(url), asyncio.Event()
    requests = requests_of(
        records(ENTITIES, seed), target=target, protocol="records", rows=1, project=PROJECT, datatypes={}
    )
    return Load(target, requests, timeout_s=15.0, classify=classify_of("records"), stop=stop), stop


def _text(found: list[Detected]) -> str:
    told = [
        f"Run on {machine()}. {RATE} requests a second, the default plan; errors that clients saw: "
        f"{sum(each.client_errors for each in found)} of {sum(each.answers for each in found):,}.",
        "",
        "| fault | share | repetitions | median | worst | goal | what took the share away |",
        "| --- | --: | --: | --: | --: | --: | --- |",
    ]
    for kind in KINDS:
        for share in SHARES:
            some = [each for each in found if (each.kind, each.share) == (kind, share)]
            if not some:
                continue
            seconds = [each.seconds for each in some]
            causes = sorted({each.cause for each in some})
            told.append(
                f"| {kind.name} | {share:.0%} | {len(some)} | {np.median(seconds):.2f} s | {max(seconds):.2f} s "
                f"| {kind.limit_s:g} s | {', '.join(causes)} |"
            )
    return "\n".join(told) + "\n"


if __name__ == "__main__":
    sys.exit(main())
