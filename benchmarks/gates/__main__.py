"""The escape matrix: which gate catches which fault, and which faults escape.

`make bench-gates` plants every fault, one at a time, and writes the table into this folder's README.
"""

import argparse
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.gates.data_faults import DATA, LABELS, LEAKS
from benchmarks.gates.matrix import AS_OF, PARTS, Matrix, Outcome, in_order
from benchmarks.gates.model_faults import EVALUATION, EXPORT, FEATURES, TRAINING
from benchmarks.gates.quantisation_faults import QUANTISATION

FAULTS = (*DATA, *LEAKS, *LABELS, *FEATURES, *TRAINING, *EXPORT, *QUANTISATION, *EVALUATION)
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
console = Console(stderr=True)


def main() -> int:
    """Exit code 1 when a clean retrain is refused: then the table says nothing."""
    options = _options()
    chosen = [fault for fault in FAULTS if not options.only or options.only in (fault.stage, fault.name)]
    if not chosen:
        console.print(f"--only: found {options.only!r}, expected a stage or a name of: {_names()}")
        return 2
    with tempfile.TemporaryDirectory(prefix="paceline-gates-") as folder, console.status("starting") as status:
        matrix = Matrix(Path(folder), status.update)
        controls = {trainer: matrix.run(None, trainer) for trainer in sorted({fault.trainer for fault in chosen})}
        # what is planted in a form of the graph is judged by optimisation alone, whatever becomes of the model
        judged = {fault.trainer for fault in chosen if not fault.forms}
        if refused := [controls[trainer] for trainer in sorted(judged) if controls[trainer].part is not None]:
            for control in refused:
                console.print(f"{control.what} is refused: {control.caught_by}: {control.reason}")
            return 1
        outcomes = []
        for number, fault in enumerate(chosen, 1):
            status.update(f"{number} of {len(chosen)}: {fault.name} ({fault.stage})")
            outcomes.append(matrix.run(fault))
            console.print(_line(outcomes[-1]), highlight=False)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes)))
    text = results(outcomes)
    sys.stdout.write(text)
    if options.readme:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return 0


def results(outcomes: list[Outcome]) -> str:
    """The table as Markdown, earliest first, and what escaped by name."""
    escaped = [outcome for outcome in outcomes if outcome.part is None]
    crashed = [outcome for outcome in outcomes if outcome.crashed]
    by_part = Counter(outcome.part for outcome in outcomes)
    lines = [
        f"{len(outcomes)} faults, planted one at a time in a retrain as of {AS_OF}; run on {date.today()}.",
        "",
        f"**Caught: {len(outcomes) - len(escaped)}** "
        f"({', '.join(f'{part} {by_part[part]}' for part in PARTS if by_part[part])}). "
        f"**Escaped: {len(escaped)}**. Stopped by an error that is no check's: {len(crashed)}.",
        "",
        "| fault | planted in | what | caught in | by | numbers |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(outcome) for outcome in in_order(outcomes)),
        "",
    ]
    if escaped:
        lines.append("Escaped, by name:")
        lines += [f"- **{each.name}** ({each.stage}): {each.what}{_warned(each)}" for each in escaped]
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome) -> str:
    by = ", ".join(outcome.caught_by) if outcome.caught_by else "–"
    where = "**escaped**" if outcome.part is None else outcome.part + (" (crash)" if outcome.crashed else "")
    cells = (outcome.name, outcome.stage, outcome.what, where, by, outcome.reason)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _warned(outcome: Outcome) -> str:
    return f"; validation warned of {', '.join(outcome.warnings)}" if outcome.warnings else ""


def _line(outcome: Outcome) -> str:
    where = "ESCAPED" if outcome.part is None else f"{outcome.part}: {', '.join(outcome.caught_by)}"
    return f"{outcome.name:<32} {where} ({outcome.seconds:.0f} s)"


def _names() -> str:
    return ", ".join(fault.name for fault in FAULTS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description=__doc__)
    parser.add_argument("--only", metavar="STAGE or NAME", help="one stage, such as data or export, or one fault")
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the outcomes for machines")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
