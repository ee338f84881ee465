"""Stage five, `report`: what the runs found as one HTML file, from the ranking down to the images that they miss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.atomic import write_text
from pipeline.comparison import Comparison, compare_outcomes
from pipeline.errors import RunError
from pipeline.outcomes import Outcome, read_outcomes
from pipeline.progress import SILENT, Progress
from pipeline.report.answers import Answered, gather
from pipeline.report.maps import feature_maps
from pipeline.report.page import MARK, Content, render
from pipeline.report.thumbnails import thumbnails
from pipeline.wording import notes_of

HEAD = 2048  # bytes at the beginning of a page in which its mark stands
METRIC = "accuracy"


@dataclass(frozen=True)
class Report:
    """The page that `report` wrote.

    Attributes:
        path: The file.
        size: Its bytes.
        names: The names on it, the best first.
        images: Images that it shows as pictures.
        notes: What limits it.
    """

    path: Path
    size: int
    names: tuple[str, ...]
    images: int
    notes: tuple[str, ...]


def report(
    *runs: Path | str,
    out: Path | str = "report.html",
    on: Literal["test", "val", "train"] = "test",
    cache: Path | str | None = None,
    images: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Report:
    """Write one HTML file about runs, which opens from disk and needs no network.

    Args:
        *runs: Any mix of RUNS, RUNS/NAME and single run folders.
        out: The file; a report that is there is replaced.
        on: The part: `test`, `val` or `train`.
        cache: The feature cache, if it is no longer where the runs were fitted from.
        images: The image set, if it is no longer where the features were extracted from.
        force: Whether to replace also a file that is no report.
        progress: Told what happens.

    Returns:
        Where it is, and what is on it.

    Raises:
        RunError: `out` is something else than a report; or as for `compare`, but one name alone is enough.
        CacheError: A cache that was named is none, or is damaged.
        RecipeMismatch: The cache holds features of another recipe than the runs need.
        NoRoom: The disk is full or read-only.
    """
    path = Path(out)
    _require_replaceable(path, force)
    outcomes = read_outcomes(runs, on, cache, images, progress)
    comparison, ranked = compare_outcomes(outcomes, METRIC, progress)
    answered = gather(ranked)
    maps, digests = feature_maps(answered, None if cache is None else Path(cache), progress)
    pictures = thumbnails(answered, digests, None if images is None else Path(images), progress)
    notes = _notes(ranked, comparison, answered)
    write_text(path, render(Content(ranked, comparison, answered, pictures, maps, notes)))
    return Report(
        path=path,
        size=path.stat().st_size,
        names=tuple(standing.name for standing in comparison.names),
        images=sum(map(bool, pictures.pictures)),
        notes=(*notes, *filter(None, [pictures.note]), *(one.note for one in maps if one.note)),
    )


def _require_replaceable(path: Path, force: bool) -> None:
    """Refuse to take the place of what is no report.

    Raises:
        RunError: It is no file's name, a folder, or another file and `force` is not set.
    """
    name = "Name the file that the report goes to, such as `-o report.html`."
    if path == Path():
        raise RunError(f"An empty name, or `.`, is no file. {name}")
    if path == Path("-"):
        raise RunError(f"A report is a file and is not written to standard output. {name}")
    if path.is_dir():
        raise RunError(f"{path} is a folder. Name the file that the report goes to, such as {path / 'report.html'}.")
    if force or not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(HEAD)
    if MARK.encode() not in head:
        raise RunError(
            f"{path} is there and is no report of manyheads, so it is not replaced. Name another file with `-o`, or "
            "replace it with `--force`."
        )


def _notes(outcomes: Sequence[Outcome], comparison: Comparison, answered: Answered) -> tuple[str, ...]:
    """Say what the reader should know: of the runs, of the tests, of the page."""
    own = notes_of({outcome.name: outcome.notes for outcome in outcomes})
    kept = len(answered.paths)
    cut = f"of {answered.total} images the page shows the {kept} that are missed most often, one by one"
    return (*own, *comparison.notes, *([cut] if kept < answered.total else []))
