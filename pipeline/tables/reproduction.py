"""The paper's Table III beside what was measured."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.tables.printing import print_fitting, print_lines, print_notes
from pipeline.wording import counted, duration, interval_text, spread_text

if TYPE_CHECKING:
    from pipeline.reproduction import Reproduction


def show_reproduction(result: "Reproduction", console: Console) -> None:
    """Draw Table III beside what was measured, and say whether the paper holds."""
    from pipeline.reproduction_page import differences, verdict

    metric = ["batch means"] if result.paper_metric else []
    columns = ["published", "corrected", "test", *metric, "95 %", "val", "seeds"]
    print_fitting(console, columns, partial(_table_iii, result), least=3)
    print_lines(console, verdict(result))
    print_lines(console, ["what differs from the paper:", *(f"  {one}" for one in differences(result))])
    print_notes(console, result.notes)
    print_lines(console, [f"tables and figures: {result.page} ({duration(result.seconds)})"])


def _table_iii(result: "Reproduction", columns: Sequence[str]) -> Table:
    table = Table(title=f"Table III, accuracy on {counted(result.images, 'test image')}", title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        cells = {
            "published": f"{row.published.test:.4f}",
            "corrected": " or\n".join(f"{accuracy:.4f}" for accuracy in row.corrected),
            "test": spread_text(row.test),
            "batch means": spread_text(row.batch_means),
            "95 %": interval_text(row.interval),
            "val": spread_text(row.validation),
            "seeds": str(len(row.seeds)),
        }
        table.add_row(row.name, *(cells[heading] for heading in columns))
    return table
