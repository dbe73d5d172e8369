"""A controller that is killed while a share is in force: how soon the share is zero, many times."""

import asyncio
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import numpy as np

from benchmarks.chaos.installation import (
    LEASE_S,
    LOOK_EVERY_S,
    SOUND,
    Installation,
    records,
)
from benchmarks.chaos.processes import Served, forks, free_port, hold, lead, model_server

SHARE, LOOK_S, PATIENCE_S, CLIENT_EVERY_S = 0.5, 0.02, 60.0, 0.03
ON_ITS_WAY_S = 0.1  # a renewal that the server read after its sender had died
LIVES_S = (0.5, 2.5)  # from the first share to the kill: several looks, at any moment between two of them


class Killed(NamedTuple):
    """Seconds from the kill: to the last request that the challenger answered, and to the first look without share."""

    last_answer_s: float
    zero_share_s: float
    client_errors: int

    @property
    def is_within_lease(self) -> bool:
        """Whether no client was answered by the challenger after the lease."""
        return self.last_answer_s <= LEASE_S + ON_ITS_WAY_S


PLAN = {
    "shadow": None,
    "steps": [{"share": SHARE, "minimum_s": 3600, "maximum_s": 7200}, {"share": 1.0}],
    "lease_s": LEASE_S,
    "look_every_s": LOOK_EVERY_S,
    # nothing but the kill is to end it: errors alone are judged, and there are none
    "alpha_shares": dict.fromkeys(("slow_p50", "slow_p95", "slow_p99", "scores", "flips", "split"), 0.0),
}


async def measure(template: Installation, kills: int, seed: int, servers: int) -> list[Killed]:
    """Kills `kills` controllers, on several servers side by side."""
    with tempfile.TemporaryDirectory(prefix="paceline-lease-") as folder:
        places = [template.copy(Path(folder) / str(number)) for number in range(servers)]
        shares = [kills // servers + (number < kills % servers) for number in range(servers)]
        found = await asyncio.gather(
            *(
                _kills(place, count, seed + number)
                for number, (place, count) in enumerate(zip(places, shares, strict=True))
            )
        )
    return [each for some in found for each in some]


async def _kills(place: Installation, count: int, seed: int) -> list[Killed]:
    random = np.random.default_rng(seed)
    port = free_port()
    server = model_server(place, port, place.root / "server.log")
    server.start()
    try:
        await server.wait_ready()
        await lead(place, f"http://127.0.0.1:{port}")
        found: list[Killed] = []
        for attempt in range(2 * count):
            if len(found) < count:
                with suppress(TimeoutError):  # the controller got no share in time: nothing to measure
                    found.append(await _kill(place, server, port, f"{seed}-{attempt}", random))
        return found
    finally:
        server.kill()


async def _kill(place: Installation, server: Served, port: int, name: str, random: np.random.Generator) -> Killed:
    url = f"http://127.0.0.1:{port}"
    rollout = f"lease-{name}"
    arguments = (url, f"sqlite:///{place.ledger}", place.offer(rollout, SOUND), PLAN)
    controller = forks().Process(target=hold, args=arguments, daemon=True)
    controller.start()
    answers: list[tuple[float, str]] = []  # when asked, and the slot that answered or what went wrong
    stop = asyncio.Event()
    clients = asyncio.create_task(_ask(url, int(random.integers(1_000_000)), answers, stop))
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client, asyncio.timeout(PATIENCE_S):
            while (await client.get("/control/observation")).json()["share"] != SHARE:
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(float(random.uniform(*LIVES_S)))
            controller.kill()
            killed_at = time.time()
            while (await client.get("/control/observation")).json()["share"] > 0:
                await asyncio.sleep(LOOK_S)
            zero_at = time.time()
            await asyncio.sleep(0.2)
            await client.delete("/control/challenger", params={"rollout": rollout})
    finally:
        controller.kill()
        controller.join()
        stop.set()
        await clients
    last = max((at for at, slot in answers if slot == "challenger"), default=killed_at)
    errors = sum(slot not in ("champion", "challenger") for _, slot in answers)
    return Killed(max(0.0, last - killed_at), zero_at - killed_at, errors)


async def _ask(url: str, seed: int, answers: list[tuple[float, str]], stop: asyncio.Event) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        for record in records(20_000, seed):
            if stop.is_set():
                return
            at = time.time()
            with suppress(TimeoutError):
                answer = await client.post("/v1/predict", json={"records": [record]})
                body = msgspec.json.decode(answer.content)
                answers.append((at, body["predictions"][0]["slot"] if answer.is_success else str(answer.status_code)))
            await asyncio.sleep(CLIENT_EVERY_S)


def text(found: list[Killed]) -> str:
    """The distribution, as Markdown; empty for none."""
    if not found:
        return ""
    zero, last = (np.array([getattr(each, name) for each in found]) for name in ("zero_share_s", "last_answer_s"))
    within = sum(each.is_within_lease for each in found)
    rows = [
        f"| {name} | "
        + " | ".join(f"{value:.2f} s" for value in (*np.percentile(values, (0, 50, 95)), values.max()))
        + " |"
        for name, values in (("first look without a share", zero), ("last answer of the challenger", last))
    ]
    return "\n".join(
        [
            f"{len(found)} controllers killed (-9) at a random moment, share {SHARE:.0%}, lease {LEASE_S:g} s, "
            f"renewed every {LOOK_EVERY_S:g} s: the challenger answered nothing that was asked later than {LEASE_S:g} "
            f"s after the kill (and {ON_ITS_WAY_S:g} s for a renewal on its way) {within} of {len(found)} times; "
            f"errors that clients saw: {sum(each.client_errors for each in found)}.",
            "",
            "| after the kill | least | median | 95 % | most |",
            "| --- | --: | --: | --: | --: |",
            *rows,
            "",
        ]
    )
