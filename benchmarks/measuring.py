"""What all benchmarks share: works that are measured in turn, medians, one table, one JSON document."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.environment import machine, versions
from pipeline.scenes import draw_image_set

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Return the wall time of a piece of work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rounds(works: Mapping[str, Work], count: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Measure works in turn, so that whatever else the machine does meets all of them.

    Args:
        works: Name -> work.
        count: Rounds in which each is measured once.
        warm_up: Whether each runs once before, unmeasured.

    Returns:
        Name -> seconds of each round.
    """
    for work in works.values() if warm_up else ():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(count):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


@contextmanager
def images_or_drawn(images: Path | None) -> Iterator[Path]:
    """Give a folder of images: the one that was named, or one with 200 drawn ones that goes away again."""
    if images is not None:
        yield images
        return
    with tempfile.TemporaryDirectory() as folder:
        draw_image_set(Path(folder) / "images", 20, 0)
        yield Path(folder) / "images"


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each work's times."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(times: Mapping[str, Sequence[float]], slow: str, quick: str) -> float:
    """Return how many times as long one work takes as another: the median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(times[slow], times[quick], strict=True))


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()) -> None:
    """Print one table; texts stand left, numbers right."""
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        numbers = all(isinstance(row[place], int | float) for row in rows)
        table.add_column(name, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def write(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write a benchmark's result as JSON, with the machine and the versions that it was measured on."""
    if path is not None:
        document = {**result, "machine": machine(), "versions": versions()}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
