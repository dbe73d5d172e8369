"""What the prediction log costs for each row: on the event loop's thread, in its own, and in bytes on disk.

    .venv/bin/python benchmarks/serving/prediction_log.py [--rate 5000] [--policy drop] [--features-share 1]

Requests of one record, 15 columns, with the encoded row for the flags of unusual predictions. `append` is the CPU time
of handing a group over, `flush` that of the log's thread (JSON, Arrow, compression, file; what the kernel does for
fsync counts too). `held up` is how much later than asked a thread that stands for the event loop woke up.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contracts.encoder import Encoder
from pipelines.evaluation.baseline import make_baseline
from serving.prediction_writer import LoggedGroup, LogPolicy, Mask, PredictionIds, PredictionWriter

TURN_S = 0.001


def groups(rate: int) -> Iterator[list[LoggedGroup]]:
    """The groups of one turn after the other, each of the right time."""
    sys.path.insert(0, str(Path(__file__).parent))
    from model import FIELDS, record_of

    random, encoder, ids = np.random.default_rng(1), Encoder(FIELDS), PredictionIds()
    records = [record_of(random, number) for number in range(2000)]
    rows = [encoder.encode_rows([each]) for each in records]
    baseline = make_baseline(FIELDS, np.concatenate(rows), random.beta(2, 5, 2000).astype(np.float32), {})
    requests = [([each], [each["tailnum"]], features) for each, features in zip(records, rows, strict=True)]
    bundle, number = "b" * 64, 0
    while True:
        made = []
        for _ in range(max(1, round(rate * TURN_S))):
            taken, entities, features = requests[number % len(requests)]
            number += 1
            made.append(
                LoggedGroup(
                    served_at_s=time.time(),
                    request_id=f"{number:032x}",
                    schema=FIELDS,
                    version="7",
                    bundle=bundle,
                    slot="champion",
                    rollout=None,
                    share=0.0,
                    latency_us=150 + number % 50,
                    records=taken,
                    entities=entities,
                    prediction_ids=[ids.next()],
                    scores=[0.25 + number % 100 / 1000],
                    decisions=[False],
                    errors=[None],
                    features=features,
                    baseline=baseline,
                    client="benchmark",
                )
            )
        yield made


def measure(folder: Path, rate: int, seconds: float, policy: LogPolicy, features_share: float = 0.0) -> dict[str, Any]:
    """One run: CPU microseconds and bytes for each row, and how long the turns were held up in milliseconds."""
    writer = PredictionWriter(
        folder, project="benchmark", mask=Mask(b"key"), policy=policy, features_share=features_share
    )
    loop = asyncio.new_event_loop()
    answers = threading.Thread(target=loop.run_forever, daemon=True)
    answers.start()
    writer.start(loop)
    thread = next(each for each in threading.enumerate() if each.name == "prediction-writer")
    clock = time.pthread_getcpuclockid(thread.ident or 0)
    source = groups(rate)
    next(source)
    appending_s, rows, late_s = 0.0, 0, []
    flushed_s = time.clock_gettime(clock)
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        due += TURN_S
        time.sleep(max(0.0, due - time.perf_counter()))
        late_s.append(max(0.0, time.perf_counter() - due))
        made = next(source)
        started = time.thread_time()
        for group in made:
            writer.append(group)
        if policy == "fail":
            writer.committed()
        appending_s += time.thread_time() - started
        rows += len(made)
    time.sleep(1.0)
    flushed_s = time.clock_gettime(clock) - flushed_s
    size = sum(path.stat().st_size for path in folder.glob("day=*/*.arrows"))
    writer.stop()
    loop.call_soon_threadsafe(loop.stop)
    answers.join()
    if writer.written_rows < rows:
        raise RuntimeError(f"{writer.written_rows} of {rows} rows are in the log")
    late_s.sort()
    return {
        "policy": policy,
        "rows": rows,
        "append_us": round(appending_s / rows * 1e6, 2),
        "flush_us": round(flushed_s / rows * 1e6, 2),
        "bytes": round(size / rows, 1),
        "held_up_ms_p99": round(late_s[int(len(late_s) * 0.99)] * 1e3, 2),
        "held_up_ms_max": round(late_s[-1] * 1e3, 2),
    }


def main() -> None:
    """Measures both policies, or the one that was asked for, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--policy", choices=("drop", "fail"), action="append")
    parser.add_argument("--features-share", type=float, default=0.05, help="of the requests, logged with features")
    options = parser.parse_args()
    policies: list[LogPolicy] = options.policy or ["drop", "fail"]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.rate} requests a second")  # noqa: T201
    for policy in policies:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(Path(folder), options.rate, options.seconds, policy, options.features_share))  # noqa: T201


if __name__ == "__main__":
    main()
