"""Paceline's model server beside what a user would pick instead, in one run with one model on one machine.

    make bench-serving                                        # everything, about half an hour
    .venv/bin/python benchmarks/serving/compare.py --quick    # ours, bare uvicorn and FastAPI, about a minute
    .venv/bin/python benchmarks/serving/compare.py --only paceline,bare,mlserver --rounds 3

Rounds are interleaved (A B C A B C), one server runs at a time, and ratios are taken within a round, so that the noise
of the machine falls on all alike. Each peer has an environment of its own below var/bench-venvs. Results go to
var/bench/serving: results.json after each server, report.md and report.html at the end; Ctrl-C keeps finished rounds.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import contenders
import measures
import onnxruntime
from comparison import ALONE, Comparison, Round, markdown
from comparison_page import page
from model import build
from running import NotOfferedError, running

README = Path(__file__).parent / "README.md"
OUTPUT = contenders.ROOT / "var" / "bench" / "serving"
BUSY_LOAD = 0.5  # a core: above it other work shares the machine
QUICK = "bare,paceline,plain,tuned"
BEGIN, END = "<!-- results: written by compare.py --readme -->", "<!-- end of results -->"


def tell(text: str, end: str = "\n") -> None:
    """Progress, for a person."""
    print(text, file=sys.stderr, end=end, flush=True)  # noqa: T201


def run_round(
    number: int,
    of: int,
    chosen: list[contenders.Contender],
    work: contenders.Workload,
    effort: measures.Effort,
    found: Comparison,
    api_key: str,
) -> Round:
    """All contenders once."""
    done: Round = {ALONE: measures.onnxruntime_alone(work, effort)}
    for place, contender in enumerate(chosen, start=1):
        if contender.key in found.skipped:
            continue
        tell(f"round {number}/{of}, {place}/{len(chosen)} {contender.name}: ", end="")
        try:
            with running(contender, work, api_key) as server:
                if contender.shadows:
                    server.shadow()
                is_variant = contender.group == "variant"
                take = measures.measure_variant if is_variant else measures.measure_all
                done[contender.key] = take(server, effort, lambda text: tell(f"{text} · ", end=""))
            tell("done")
        except NotOfferedError as refused:
            found.skipped[contender.key] = f"this version of the server does not offer it: {refused}"
            tell(f"skipped: {refused}")
        except RuntimeError as error:
            found.skipped[contender.key] = str(error).splitlines()[-1]
            tell(f"FAILED: {error}")
    return done


def environment() -> dict[str, Any]:
    """The machine and the versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=contenders.ROOT, capture_output=True, text=True, check=False
    )
    processor = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "commit": commit.stdout.strip() or "unknown",
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "model": "200 trees on 15 columns, one row 500 different records",
        "load_before": round(os.getloadavg()[0], 2),
    }


def write(found: Comparison, folder: Path, *, is_final: bool) -> None:
    """The results so far; the reports at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(vars(found), indent=1) + "\n")
    if is_final:
        (folder / "report.md").write_text(markdown(found) + "\n")
        (folder / "report.html").write_text(page(found), encoding="utf-8")


def write_readme(found: Comparison) -> None:
    """The generated section of the README."""
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    about = found.environment
    intro = (
        f"Run of {about['date']} at commit {about['commit']}: {about['processor']}, {about['cores']} cores, "
        f"Python {about['python']}, ONNX Runtime {about['onnxruntime']}; medians of {len(found.rounds)} rounds, "
        f"load of the machine before the run {about['load_before']:g}."
    )
    if about["load_before"] > BUSY_LOAD * (about["cores"] or 1):
        intro += (
            " **The machine had other work**: the CPU times hold, the rates, latencies and their ratios say little. "
            "Run it again on a quiet one."
        )
    README.write_text(f"{head}{BEGIN}\n{intro}\n\n{markdown(found)}\n{END}{tail}")


def main() -> int:
    """Runs the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"one short round of {QUICK}")
    parser.add_argument("--only", help="keys of contenders: " + ", ".join(each.key for each in contenders.CONTENDERS))
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 1")
    parser.add_argument("--seconds", type=float, help="of each load; default 4, with --quick 1.2")
    parser.add_argument("--readme", action="store_true", help="write the results into the README")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    seconds = options.seconds or (1.2 if options.quick else 4.0)
    effort = measures.Effort(seconds=seconds, warmup_s=min(1.0, seconds / 4))
    try:
        chosen = contenders.chosen(options.only or (QUICK if options.quick else None))
    except ValueError as error:
        parser.error(str(error))
    found = Comparison(
        rounds=[],
        names={each.key: each.name for each in chosen},
        groups={each.key: each.group for each in chosen},
        settings={each.key: each.setting for each in chosen},
        environment=environment(),
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell's background job would ignore the first
        signal.signal(number, signal.default_int_handler)
    for venv in dict.fromkeys(each.venv for each in chosen if each.venv):
        contenders.install(venv, tell)
    for each in chosen:
        if version := contenders.version_of(each):
            found.settings[each.key] = f"{version}; {each.setting}"
    with tempfile.TemporaryDirectory() as name:
        tell("training the model")
        work = contenders.Workload(*build(Path(name)), Path(name))
        api_key = contenders.make_key(work)
        started = time.monotonic()
        try:
            for number in range(1, rounds + 1):
                found.rounds.append(run_round(number, rounds, chosen, work, effort, found, api_key))
                write(found, options.output, is_final=False)
                tell(f"round {number} of {rounds} done after {time.monotonic() - started:.0f} s")
        except KeyboardInterrupt:
            tell(f"\ninterrupted: {len(found.rounds)} finished rounds are kept")
    if not found.rounds:
        return 130
    write(found, options.output, is_final=True)
    if options.readme:
        write_readme(found)
    print(markdown(found))  # noqa: T201
    tell(f"written: {options.output}/results.json, report.md, report.html")
    return 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
