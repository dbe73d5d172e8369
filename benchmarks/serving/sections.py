"""What the measurements of one server beside itself say of the machine, and where the README has their tables."""

import os
from pathlib import Path

README = Path(__file__).parent / "README.md"


def about_turns(turns: str, seconds: float, load: float) -> str:
    """Under which circumstances `turns` of `seconds` each were taken; `load` is that of the machine before them."""
    about = (
        f"{turns} of turns of {seconds:g} s, {os.cpu_count()} cores, load of the machine before them {load:.1f};"
        " 95 % intervals."
    )
    if load > 0.5 * (os.cpu_count() or 1):
        about += " The machine had other work: the CPU time says something, the time by the clock little."
    return about


def write_section(begin: str, end: str, text: str) -> None:
    """Puts `text` between the two markers of the README."""
    head, _, rest = README.read_text().partition(begin)
    README.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
