"""What all results are printed with: lines, notes, tables that fit, and what to type next."""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.printable import printable

NAME_WIDTH = 24  # columns that a name takes; what is longer goes on below, so that there is room for figures
RANDOM_WEIGHTS = "random weights: the base was never trained, its features are random projections of the pixels"


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print texts as they are, each on a line of its own."""
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print what the user should know about a result."""
    for note in notes:
        console.print(Text(f"note: {printable(note)}", style="yellow"), soft_wrap=True)


def print_next(console: Console, *arguments: str | Path, label: str = "next") -> None:
    """Print a command that can be typed as it stands."""
    line = " ".join([program(), *(shlex.quote(str(argument)) for argument in arguments)])
    console.print(Text.assemble((f"{label}: ", "bold"), printable(line)), soft_wrap=True)


def print_fitting(
    console: Console, columns: Sequence[str], draw: Callable[[Sequence[str]], Table], least: int = 1
) -> None:
    """Print a table with as many of its columns as the terminal has room for, never with cut figures.

    Args:
        console: Where to print.
        columns: Headings, the most important first.
        draw: Makes the table with the first few of them.
        least: So many are shown whatever the width.
    """
    unbounded = console.options.update(width=1000)
    for count in range(len(columns), least - 1, -1):
        table = draw(columns[:count])
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    console.print(table)


def program() -> str:
    """Return what to type to run manyheads again, as it was called now: on the PATH, by its path, or as cli.py."""
    called = Path(sys.argv[0])
    if called.name == "cli.py":
        return f"python {shlex.quote(sys.argv[0])}"
    found = shutil.which("manyheads")
    if called.name != "manyheads" or not called.exists() or (found and called.samefile(found)):
        return "manyheads"
    return shlex.quote(sys.argv[0])
