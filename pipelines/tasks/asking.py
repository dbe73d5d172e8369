"""The judge for looks that others have counted: simulations, audits, replays."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from pipelines.rollout.looks import Look, answer, ask, begin
from pipelines.tasks.simulating import read_plan


def verdicts(plan_file: Path | None, lines: Iterable[str | bytes]) -> Iterator[str]:
    """One verdict as a JSON line for each look in `lines`; empty lines are passed over.

    Raises:
        ValueError: a line is no look, with its number and what is wrong; or the file has no plan.
    """
    plan = read_plan(plan_file)
    asked, decode, encode = begin(plan), msgspec.json.Decoder(Look).decode, msgspec.json.Encoder().encode
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            look = decode(line)
            asked, judgement = ask(asked, look, plan)
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(f"line {number} is no look that can be judged: {error}") from error
        yield encode(answer(look, judgement)).decode()
