"""Broken challengers under live traffic: what catches each, and after how many requests.

`make bench-broken` rolls each of them out twice, with a shadow and without, on replayed real flights; `ARGS=--readme`
writes the table into this folder's README.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console

from benchmarks.broken.faults import BROKEN, SOUND, Broken
from benchmarks.broken.installation import PROJECT, RATE_PER_S, Served, Server, flights, july, train
from contracts.slots import HardLimits, InjectFault, LoadSlot, Observation
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.rollout.platforms.local import LocalPlatform

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
SHADOW = ShadowStep(minimum_pairs=500, slice_by="carrier", maximum_shift=0.2, maximum_flip_share=0.35)
PLAN = Plan(
    shadow=SHADOW,
    steps=tuple(Step(share=share, minimum_s=10) for share in (0.05, 0.1, 0.25, 0.5, 1.0)),
    error_rate_margin=0.1,
    hard_limits=HardLimits(memory_mb=300),
)
console = Console(stderr=True)


@dataclass(frozen=True)
class Run:
    """What came of one rollout."""

    broken: Broken
    has_shadow: bool
    outcome: Outcome
    clients: dict[str, Any]
    deaths: int
    pairs: int

    @property
    def where(self) -> str:
        """The phase in which it ended."""
        return self.outcome.steps[-1].name if self.outcome.steps else self.outcome.state

    @property
    def is_good(self) -> bool:
        """Whether it ended as it should, in time, and no client saw an error that could be avoided."""
        broken, outcome = self.broken, self.outcome
        if self.clients["failed"] and not self.deaths:
            return False
        if broken is SOUND:
            return outcome.state == "promoted"
        if not self.has_shadow and broken.requests is None:
            return True  # what only a shadow or the outcomes can see
        if outcome.state == "promoted":
            return False
        if self.has_shadow and self.where == "shadow":
            return self.pairs <= broken.pairs
        return outcome.challenger_requests <= (broken.requests or 0)


class BreakingPlatform(LocalPlatform):
    """Breaks the challenger as soon as it is loaded."""

    def __init__(self, url: str, fault: InjectFault) -> None:
        super().__init__(url)
        self._server_url, self._fault = url, fault

    async def load(self, message: LoadSlot) -> None:
        await super().load(message)
        async with httpx.AsyncClient(base_url=self._server_url, trust_env=False) as client:
            body = msgspec.to_builtins(self._fault)
            (await client.post("/control/fault", json=body)).raise_for_status()


def main() -> int:
    """Exit code 1 when one is not caught in time, or the sound one is not promoted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    parser.add_argument("--home", type=Path, help="a folder that keeps the model for the next time")
    parser.add_argument("--only", metavar="NAME", help=f"one of: {', '.join(each.name for each in (SOUND, *BROKEN))}")
    options = parser.parse_args()
    chosen = [each for each in (SOUND, *BROKEN) if options.only in (None, each.name)]
    if not chosen:
        parser.error(f"--only: found {options.only!r}")
    with tempfile.TemporaryDirectory(prefix="paceline-broken-") as name:
        home = Path(name)
        with console.status("training a model of real flights"):
            served = train(options.home or home)
        records = july()
        runs = []
        for each in chosen:
            for has_shadow in (True, False):
                with console.status(f"{each.name}, {'with' if has_shadow else 'without'} a shadow"):
                    runs.append(_run(home, served, records, each, has_shadow=has_shadow))
                console.print(_line(runs[-1]), highlight=False)
    text = _text(runs)
    sys.stdout.write(text)
    if options.readme:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return 0 if all(run.is_good for run in runs) else 1


def _run(home: Path, served: Served, records: list[dict[str, Any]], broken: Broken, *, has_shadow: bool) -> Run:
    name = f"{broken.name.replace(' ', '-')}-{'shadow' if has_shadow else 'steps'}"
    plan = PLAN if has_shadow else msgspec.structs.replace(PLAN, shadow=None)
    offer = Offer(
        rollout=name, project=PROJECT, version="2", bundle=served.bundle, path=served.path, expected_champion="1"
    )
    pairs = [0]

    def count(observation: Observation) -> None:
        if observation.shadowed is not None:
            pairs.append(observation.shadowed.pairs)

    server = Server(home / "runs" / name)
    try:
        server.install(served)
        with Ledger.open(f"sqlite:///{home}/runs/{name}/ledger.db") as ledger:
            ledger.swap_champion(PROJECT, None, "1", served.bundle, "bootstrap", "the first")
            with flights(server.url, records) as clients:
                outcome = asyncio.run(_roll_out(server.url, ledger, plan, offer, broken.fault, count))
    finally:
        server.stop()
    return Run(broken, has_shadow, outcome, clients, server.deaths, max(pairs))


async def _roll_out(
    url: str, ledger: Ledger, plan: Plan, offer: Offer, fault: InjectFault, on_look: Callable[[Observation], None]
) -> Outcome:
    async with BreakingPlatform(url, fault) as platform:
        return await run_rollout(platform, ledger, plan, offer, on_look=on_look)


def _line(run: Run) -> str:
    good = "ok" if run.is_good else "NOT AS IT SHOULD BE"
    return f"{good}: {run.broken.name}: {run.outcome.state} in {run.where}: {run.outcome.reason}"


def _text(runs: list[Run]) -> str:
    lines = [
        f"{RATE_PER_S:g} requests a second, flights of July 2013; run on {date.today()}, {os.cpu_count()} cores.",
        "",
        "| challenger | shadow | ended in | after | allowed | seconds | by | client errors |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_row, runs),
        "",
    ]
    return "\n".join(lines)


def _row(run: Run) -> str:
    broken, outcome = run.broken, run.outcome
    in_shadow = run.has_shadow and run.where == "shadow"
    after = f"{run.pairs:,} pairs" if in_shadow else f"{outcome.challenger_requests:,} requests"
    allowed = broken.pairs if in_shadow else broken.requests
    errors = f"{run.clients['failed']:,} of {run.clients['requests']:,}"
    if run.deaths:
        errors += f" ({run.deaths} restarts)"
    elif run.clients["failed"]:
        errors += f": {run.clients['first_error']}"
    cells = [
        f"**{broken.name}**: {broken.what}",
        "yes" if run.has_shadow else "no",
        "promoted" if outcome.state == "promoted" else run.where,
        after,
        "–" if allowed is None or broken is SOUND else f"{allowed:,}",
        f"{outcome.seconds:.0f}",
        outcome.reason.split(": e-value")[0].replace("|", "/"),
        errors,
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
