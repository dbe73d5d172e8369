"""Staging first: a challenger leads on a server that nobody else uses, and is tried there, before it gets any traffic.

| kind | body |
| --- | --- |
| `release.staging` | the settings, what was measured, each gate with its reason, and why it was refused, if it was |
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import httpx
import msgspec

from contracts.bundle import BundleError, Golden, read_bundle
from contracts.slots import LoadSlot, PromoteSlot
from pipelines.benchmarking.connections import target_of
from pipelines.benchmarking.results import BenchResult
from pipelines.benchmarking.server_metrics import read_metrics
from pipelines.rollout.platforms.local import LocalPlatform
from pipelines.rollout.platforms.port import PlatformError
from pipelines.rollout.staging import Staging, StagingEvidence, staging_gates, staging_refusal
from pipelines.tasks.benching import API_KEY_VARIABLE, Options, bench_serve
from pipelines.tasks.sites import Site

STAGED = "release.staging"
CONTROL_TOKEN_VARIABLE = "PACELINE_CONTROL_TOKEN"
_SMOKE_TIMEOUT_S = 30.0
_WARMUP_S = 1.0
logger = logging.getLogger("paceline")


def refusal(site: Site, rollout: str, version: str, bundle: str) -> str | None:
    """Why `rollout` must not begin; the ledger gets what was found. None: staging is off, or it passed.

    Asked again for the same rollout it answers what the ledger has.
    """
    policy = site.staging
    if policy is None:
        return None
    key = f"staged/{rollout}"
    known = next((each for each in site.ledger.entries(site.project, (STAGED,)) if each.key == key), None)
    if known is not None:
        told: str | None = known.body["refused"]
        return told
    found = asyncio.run(_staged(policy, version, bundle, Path(site.path(bundle))))
    gates = staging_gates(policy, found)
    refused = staging_refusal(gates)
    for gate in gates:
        logger.log(logging.INFO if gate.passed else logging.ERROR, "%s on staging: %s", gate.name, gate.reason)
    body: dict[str, Any] = {
        "version": version,
        "bundle": bundle,
        "policy": msgspec.to_builtins(policy),
        "found": msgspec.to_builtins(found),
        "gates": msgspec.to_builtins(gates),
        "refused": refused,
    }
    # a refused one may be staged again under the same name, when what stood in its way has gone
    site.ledger.append(site.project, STAGED, rollout, body, key=key if refused is None else None)
    return refused


async def _staged(policy: Staging, version: str, bundle: str, path: Path) -> StagingEvidence:
    try:
        golden = await asyncio.to_thread(lambda: read_bundle(path, bundle).golden)
        await _deploy(policy, version, bundle, path)
    except (BundleError, OSError, PlatformError) as error:
        return StagingEvidence(refused=str(error))
    worst = await _smoke(policy, golden)
    found = StagingEvidence(golden_rows=len(golden.scores), golden_worst=worst, golden_tolerance=golden.tolerance)
    if worst is None or worst > golden.tolerance:
        return found
    return await _loaded(policy, found)


async def _deploy(policy: Staging, version: str, bundle: str, path: Path) -> None:
    async with LocalPlatform(policy.url, token=os.environ.get(CONTROL_TOKEN_VARIABLE)) as server:
        observed = await server.observe()
        leads = observed.champion
        if leads is not None and leads.version == version:
            return
        await server.load(LoadSlot(version=version, bundle=bundle, path=str(path)))
        await server.promote(PromoteSlot(version=version, expected=None if leads is None else leads.version))


async def _smoke(policy: Staging, golden: Golden) -> float | None:
    """The largest difference between a golden score and the server's answer; None where there was none."""
    headers = {"x-api-key": key} if (key := os.environ.get(API_KEY_VARIABLE)) else {}
    try:
        async with httpx.AsyncClient(base_url=policy.url, timeout=_SMOKE_TIMEOUT_S, trust_env=False) as client:
            answer = await client.post("/v1/predict", json={"records": golden.records}, headers=headers)
        if answer.status_code != 200:
            logger.error("golden rows on staging: %s %s", answer.status_code, answer.text[:300])
            return None
        scores = [float(each["score"]) for each in answer.json()["predictions"]]
    except (httpx.TransportError, ValueError, LookupError, TypeError) as error:
        logger.error("golden rows on staging: %s: %s", type(error).__name__, error)
        return None
    if len(scores) != len(golden.scores):
        return None
    return max((abs(got - asked) for got, asked in zip(scores, golden.scores, strict=True)), default=0.0)


async def _loaded(policy: Staging, found: StagingEvidence) -> StagingEvidence:
    rate, key = policy.times * policy.peak_per_s, os.environ.get(API_KEY_VARIABLE)
    target = target_of(policy.url)
    before = await asyncio.to_thread(read_metrics, target, key)
    options = Options(rate=rate, duration_s=policy.seconds, warmup_s=_WARMUP_S, api_key=key)
    try:
        result: BenchResult = await bench_serve(policy.url, options)
    except (ConnectionError, PermissionError, RuntimeError, ValueError) as error:
        logger.error("the load on staging: %s", error)
        return msgspec.structs.replace(found, asked_per_s=rate)
    after = await asyncio.to_thread(read_metrics, target, key)
    measured, process = result.measured, result.server_process
    memory = process.resident_mb if process else after.resident_bytes / 1e6 if after else None
    cores = None
    if before is not None and after is not None:
        cores = (after.cpu_s - before.cpu_s) / (policy.seconds + _WARMUP_S)
    counts = measured.counts
    return msgspec.structs.replace(
        found,
        asked_per_s=rate,
        answered_per_s=measured.rates.answered,
        p99_ms=measured.latency_ms.p99,
        failed_share=counts.failed / counts.requests if counts.requests else None,
        memory_mb=memory,
        cores=cores,
    )
