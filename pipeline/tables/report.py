"""Where a report is, and what is in it."""

from typing import TYPE_CHECKING

from rich.console import Console

from cache.atomic import human_size
from pipeline.tables.printing import print_lines, print_notes
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.report import Report


def show_report(result: "Report", console: Console) -> None:
    """Say where the page is and what limits it."""
    what = f"{counted(len(result.names), 'name')}, {counted(result.images, 'picture')}"
    print_lines(console, [f"{result.path}: {human_size(result.size)}, {what}"])
    print_notes(console, result.notes)
