"""What is on images, for people and for programs."""

import csv
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.printable import printable
from pipeline.tables.printing import print_notes

if TYPE_CHECKING:
    from pipeline.prediction import PredictionList


def show_predictions(result: "PredictionList", console: Console, *, failed: bool = False) -> None:
    """Draw a table with the likeliest classes of every image.

    Args:
        result: What was predicted.
        console: Where to draw it.
        failed: Whether an error that names what could not be read follows.
    """
    if result.images:
        table = Table(title=Text(f"predicted by {printable(result.run)}"), title_justify="left")
        table.add_column("image", overflow="fold")
        for rank in range(1, max(len(image.top) for image in result.images) + 1):
            table.add_column(str(rank))
        for image in result.images:
            classes = (Text(f"{printable(name)} {probability:.1%}") for name, probability in image.top)
            table.add_row(Text(printable(image.path)), *classes)
        console.print(table)
    _remark(result, console, failed)


def csv_predictions(result: "PredictionList", console: Console, *, failed: bool = False) -> None:
    """Write one line for each image and rank on stdout, path,rank,class,probability, with the names as they are.

    Args:
        result: What was predicted.
        console: For what the table has no place for: stderr.
        failed: Whether an error that names what could not be read follows.
    """
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for image in result.images:
        for rank, (name, probability) in enumerate(image.top, start=1):
            writer.writerow([image.path, rank, name, f"{probability:.9g}"])
    _remark(result, console, failed)


def _remark(result: "PredictionList", console: Console, failed: bool) -> None:
    print_notes(console, result.notes if result.images else ())
    print_notes(console, [] if failed else [f"{path} could not be read: {reason}" for path, reason in result.skipped])
