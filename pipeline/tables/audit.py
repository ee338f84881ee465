"""What an audit found: the headline, the first near-duplicates and doubtful labels, and where all of them are."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.printable import printable
from pipeline.tables.printing import print_lines, print_notes
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.audit import Audit
    from pipeline.doubt import Audited

SHOWN = 15
NARROWEST = 12  # columns for a path or a class name, which goes on below, before a column of figures is left out
PAIRS = ("image", "other image", "similarity", "parts", "labels", "cosine")
LABELS = ("image", "label", "suggested", "own", "other", "part")
NAMES = {"image", "other image", "label", "labels", "suggested"}


def show_audit(result: "Audit", console: Console) -> None:
    """Say what was found, and draw the first of it."""
    print_lines(console, [_leak(result), _straddling(result), _labels(result)])
    if result.pairs:
        columns = _room(console, PAIRS, partial(_pairs, result))
        console.print(_pairs(result, columns))
    if result.doubtful:
        columns = _room(console, LABELS, partial(_doubtful, result))
        console.print(_doubtful(result, columns))
        print_lines(console, _legend(columns))
    print_notes(console, result.notes)
    if result.folder is not None:
        print_lines(console, [f"pictures and tables: {result.folder}"])
    elif result.pairs or result.doubtful:
        print_lines(console, ["to see them as pictures, and all of them in tables, add --out DIR to the same command"])


def _leak(result: "Audit") -> str:
    """Say how many test images a head may have seen, and what that does to an accuracy."""
    if not result.tested:
        return f"the split ({result.split}) has no test part, so none of it can have a near-duplicate in train"
    if not result.leaked:
        return f"no test image of {result.tested} has a near-duplicate in train (split: {result.split})"
    it = "it" if result.leaked == 1 else "them"
    points = 100 * result.leaked / result.tested
    return (
        f"{result.leaked} of {counted(result.tested, 'test image')} {'has' if result.leaked == 1 else 'have'} a "
        f"near-duplicate in train (split: {result.split}): a head that remembers {it} gets {it} right, so up to "
        f"{points:.1f} points of an accuracy may be owed to memory; no result was changed"
    )


def _straddling(result: "Audit") -> str:
    across = sum(pair.straddles for pair in result.pairs)
    differ = sum(pair.labels_differ for pair in result.pairs)
    return (
        f"{counted(len(result.pairs), 'near-duplicate pair')} among {counted(result.images, 'image')}, {across} of "
        f"them across parts of the split, {differ} with different labels"
    )


def _labels(result: "Audit") -> str:
    if result.accuracy is None:
        return "no label was judged"
    return (
        f"{counted(len(result.doubtful), 'label')} may be wrong; out of sample, {100 * result.accuracy:.1f} % of all "
        "labels are the likeliest class"
    )


def _room(console: Console, columns: Sequence[str], draw: Callable[[Sequence[str], int], Table]) -> Sequence[str]:
    """Return the columns that there is room for, at least three, once names are as narrow as they may be."""
    unbounded = console.options.update(width=1000)
    for count in range(len(columns), 3, -1):
        if console.measure(draw(columns[:count], NARROWEST), options=unbounded).maximum <= console.width:
            return columns[:count]
    return columns[:3]


def _legend(columns: Sequence[str]) -> list[str]:
    if "own" not in columns:
        return []
    if "other" not in columns:
        return ["own: probability of the image's own label"]
    return ["own, other: probability of the image's own label and of the suggested one; the largest difference first"]


def _pairs(result: "Audit", columns: Sequence[str], widest: int | None = None) -> Table:
    table = _table(_title("near-duplicates", len(result.pairs)), columns, widest)
    for pair in result.pairs[:SHOWN]:
        parts, labels = ((pair.first.part, pair.second.part), (pair.first.label, pair.second.label))
        cells = (
            _path(pair.first),
            _path(pair.second),
            Text("identical" if pair.identical else f"{pair.similarity:.3f}"),
            Text(" / ".join(parts), style="red" if pair.straddles else ""),
            Text(printable(" / ".join(dict.fromkeys(labels))), style="red" if pair.labels_differ else ""),
            Text(f"{pair.cosine:.3f}"),
        )
        table.add_row(*cells[: len(columns)])
    return table


def _doubtful(result: "Audit", columns: Sequence[str], widest: int | None = None) -> Table:
    table = _table(_title("doubtful labels", len(result.doubtful)), columns, widest)
    for one in result.doubtful[:SHOWN]:
        cells = (
            _path(one.image),
            Text(printable(one.image.label)),
            Text(printable(one.suggested)),
            Text(f"{one.probability:.3f}"),
            Text(f"{one.suggested_probability:.3f}"),
            Text(one.image.part),
        )
        table.add_row(*cells[: len(columns)])
    return table


def _table(title: str, columns: Sequence[str], widest: int | None) -> Table:
    """Make an empty table; names go on below where they are wider than that, or than there is room for."""
    table = Table(title=title, title_justify="left")
    for heading in columns:
        if heading in NAMES:
            table.add_column(heading, overflow="fold", max_width=widest)
        else:
            table.add_column(heading, justify="left" if heading.startswith("part") else "right", no_wrap=True)
    return table


def _title(what: str, count: int) -> str:
    return what if count <= SHOWN else f"{what}: the first {SHOWN} of {count}"


def _path(image: "Audited") -> Text:
    return Text(printable(image.path))
