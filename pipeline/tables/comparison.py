"""Which name is better, pair by pair, and what of it is within noise."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.printable import printable
from pipeline.tables.printing import NAME_WIDTH, print_fitting, print_lines, print_notes
from pipeline.wording import (
    METRICS,
    amount_text,
    counted,
    detectable_text,
    ends_text,
    noise_text,
    notes_of,
    p_text,
    pair_text,
    part_text,
    span_text,
)

if TYPE_CHECKING:
    from pipeline.comparison import Comparison, Pair

NAMES = ("95 %", "seeds", "between seeds", "splits", "between splits")
PAIRS = ("difference", "p, Holm", "95 %", "p", "detectable", "")


def show_comparison(result: "Comparison", console: Console) -> None:
    """Draw the ranking and the pairs, and say in plain words what they mean."""
    metric = METRICS[result.metric]
    several = any(len(standing.fits) > 1 for standing in result.names)
    print_fitting(console, NAMES if several else NAMES[:3], partial(_ranking, result), least=2)
    shown = result.told
    print_fitting(console, PAIRS, partial(_pairs, result, shown), least=2)
    print_lines(console, [pair_text(pair, result) for pair in shown])
    if len(shown) < len(result.pairs):
        print_notes(console, [f"of {len(result.pairs)} pairs only those of the best are shown; --json has all"])
    methods = list(dict.fromkeys(pair.method for pair in result.pairs))
    print_lines(
        console,
        [
            f"{metric}; {'test' if len(methods) < 2 else 'tests, as runs allow'}: {' or '.join(methods)}; p, Holm: "
            f"corrected for {counted(len(result.pairs), 'pair')}; detectable: the true difference that would be seen "
            "four times in five"
        ],
    )
    print_notes(console, notes_of({standing.name: standing.notes for standing in result.names}))
    print_notes(console, result.notes)
    print_lines(console, [f"picture: {result.picture}, and as SVG beside it"])


def _ranking(result: "Comparison", columns: Sequence[str]) -> Table:
    table = Table(title=part_text(result.part, result.images, len(result.names[0].fits)), title_justify="left")
    table.add_column("name", overflow="fold", max_width=NAME_WIDTH)
    for heading in (METRICS[result.metric], *columns):
        table.add_column(heading, justify="right", no_wrap=True)
    for standing in result.names:
        figure, deviation = standing.figure, standing.deviation
        cells = (
            f"{figure.low:.3f} to {figure.high:.3f}",
            span_text(standing.fits),
            "" if deviation.seeds is None else f"± {deviation.seeds:.4f}",
            str(len(standing.fits)),
            "" if deviation.splits is None else f"± {deviation.splits:.4f}",
        )
        table.add_row(Text(printable(standing.name)), f"{figure.value:.4f}", *cells[: len(columns)])
    return table


def _pairs(result: "Comparison", pairs: Sequence["Pair"], columns: Sequence[str]) -> Table:
    table = Table()
    for heading in ("better", "than"):
        table.add_column(heading, overflow="fold", max_width=NAME_WIDTH)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in pairs:
        found = pair.difference
        cells = (
            amount_text(result.metric, found.value),
            p_text(pair.adjusted),
            ends_text(result.metric, found.low, found.high),
            p_text(found.p),
            detectable_text(result.metric, pair.detectable),
            noise_text(pair.shown),
        )
        table.add_row(*(Text(printable(name)) for name in (pair.first, pair.second)), *cells[: len(columns)])
    return table
