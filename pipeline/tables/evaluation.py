"""The ranking of names, and what of it is within noise."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.printable import printable
from pipeline.tables.printing import NAME_WIDTH, print_fitting, print_lines, print_notes
from pipeline.wording import interval_text, notes_of, part_text, span_text, spread_text, standing

if TYPE_CHECKING:
    from pipeline.evaluation import Evaluation, Summary

RANKING = ("accuracy", "95 %", "seeds", "min", "max", "balanced", "macro F1", "log loss", "ECE", "base")
MEANS = ("balanced_accuracy", "macro_f1", "log_loss", "calibration_error")  # of columns that have no deviation


def show_evaluation(result: "Evaluation", console: Console) -> None:
    """Draw the ranking, and say what is within noise."""
    best = result.names[0]
    several = any(len(summary.fits) > 1 for summary in result.names)
    # --json and the files beside the runs have all figures.
    columns = [*RANKING[:3], *(["splits"] if several else []), *RANKING[3:]]
    print_fitting(console, columns, partial(_ranking, result), least=3)
    over = ("runs", "splits") if several else ("seeds", "seeds and images")
    legend = f"accuracy: mean ± standard deviation over {over[0]}; 95 %: of the mean, over {over[1]}"
    print_lines(console, [f"{legend}; ECE: expected calibration error"])
    print_lines(console, [_distance(summary, best) for summary in result.names[1:]])
    if not result.comparable:
        print_notes(
            console, [f"these names were not evaluated on the same {result.part} images: the order means little"]
        )
    print_notes(console, notes_of({summary.name: summary.notes for summary in result.names}))
    print_lines(console, [f"confusion matrix: {summary.picture}" for summary in result.names])
    print_lines(console, ["reliability diagrams are beside them"])


def _ranking(result: "Evaluation", columns: Sequence[str]) -> Table:
    best = result.names[0]
    table = Table(title=part_text(result.part, best.images, len(best.fits)), title_justify="left")
    table.add_column("name", overflow="fold", max_width=NAME_WIDTH)
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "base" else "right", no_wrap=True)
    for summary in result.names:
        accuracy = summary.metrics["accuracy"]
        means = (
            summary.metrics[name].mean for name in ("balanced_accuracy", "macro_f1", "log_loss", "calibration_error")
        )
        texts: tuple[str | Text, ...] = (
            spread_text(accuracy),
            interval_text(summary.interval),
            span_text(summary.fits),
            f"{accuracy.smallest:.4f}",
            f"{accuracy.largest:.4f}",
            *(f"{mean:.4f}" for mean in means),
            Text(printable(summary.base) + (" (random)" if summary.weights.startswith("random:") else "")),
        )
        cells: dict[str, str | Text] = dict(zip(RANKING, texts, strict=True)) | {"splits": str(len(summary.fits))}
        table.add_row(Text(printable(summary.name)), *(cells[column] for column in columns))
    return table


def _distance(summary: "Summary", best: "Summary") -> str:
    if summary.behind is None:
        other = "was fitted on other splits" if max(len(summary.fits), len(best.fits)) > 1 else "saw other images"
        return f"{summary.name} {other} than {best.name}: not compared"
    return standing(summary.name, best.name, summary.behind, summary.images)
