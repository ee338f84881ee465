"""How results look as text: one function for each command's result."""

import csv
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cache.atomic import human_size
from pipeline.printable import printable
from pipeline.terminal import duration

if TYPE_CHECKING:
    from cache.description import Description
    from pipeline.demo import Demo
    from pipeline.doctor import Diagnosis
    from pipeline.evaluation import Evaluation, Summary
    from pipeline.extraction import Extraction
    from pipeline.fitting import Fitting
    from pipeline.metrics import Spread
    from pipeline.prediction import PredictionList

RANKING = ("accuracy", "95 %", "seeds", "min", "max", "balanced", "macro F1", "log loss", "base")
RANDOM_WEIGHTS = "random weights: the base was never trained, its features are random projections of the pixels"


def show_extraction(result: "Extraction", console: Console) -> None:
    """Say what an extraction computed, found and left out."""
    recipe = result.recipe
    said = [
        f"{result.images} images of {result.classes} classes in {result.cache}: {result.computed} computed, "
        f"{result.cached} cached; {recipe['dimension']} {recipe['storage']} numbers each, "
        f"{human_size(result.size)}, {duration(result.seconds)}."
    ]
    if result.changes:
        changes = result.changes
        said.append(
            f"Since the last time: {changes.new} new, {changes.renamed} renamed, {changes.changed} changed, "
            f"{changes.removed} removed."
        )
    if result.shares:
        shares = ", ".join(f"{what} {share:.0%}" for what, share in result.shares.items())
        said.append(f"Time went to: {shares} (decoding: only what the base had to wait for).")
    _print(console, said)
    _warn(console, [RANDOM_WEIGHTS] if result.random_weights else [])
    if result.strays:
        _warn(console, [f"{counted(len(result.strays), 'image')} outside every class folder, left out:"])
        _print(console, [f"  {path}" for path in result.strays])
    if result.skipped:
        _warn(console, [f"{counted(len(result.skipped), 'image')} could not be read, left without features:"])
        _print(console, [f"  {path}: {reason}" for path, reason in result.skipped])
    _next(console, "fit-head", result.cache, "RUNS")


def show_fitting(result: "Fitting", console: Console) -> None:
    """Say which runs were fitted."""
    first = result.runs[0]
    kept = len(result.runs) - result.fitted
    folder = first.path.parent
    _print(
        console,
        [
            f"{counted(result.fitted, 'run')} fitted, {kept} kept, in {folder} ({duration(result.seconds)}); "
            f"split: {first.split} = {'/'.join(str(len(paths)) for paths in first.images.values())} images."
        ],
    )
    if any(run.history for run in result.runs):
        ends = [run.history[-1] for run in result.runs if run.history]
        means = {
            part: sum(end[f"{part}_accuracy"] or 0 for end in ends) / len(ends)
            for part in ("train", "val")
            if ends[0][f"{part}_accuracy"] is not None
        }
        said = ", ".join(f"{part} {mean:.3f}" for part, mean in means.items())
        _print(console, [f"accuracy in the last epoch, mean over seeds: {said}"])
    _next(console, "evaluate", folder.parent)


def show_evaluation(result: "Evaluation", console: Console) -> None:
    """Draw the ranking, and say what is within noise."""
    best = result.names[0]
    table = _ranking(result, RANKING)
    # A narrow terminal gets fewer columns, never cut figures; --json and the files beside the runs have them all.
    if console.measure(table, options=console.options.update(width=1000)).maximum > console.width:
        table = _ranking(result, RANKING[:3])
    console.print(table)
    _print(console, ["accuracy: mean ± standard deviation over seeds; 95 %: of the mean, over seeds and images"])
    _print(console, [_distance(summary, best) for summary in result.names[1:]])
    if not result.comparable:
        _warn(console, [f"these names were not evaluated on the same {result.part} images: the order means little"])
    noted: dict[str, list[str]] = {}
    for summary in result.names:
        for note in summary.notes:
            noted.setdefault(note, []).append(summary.name)
    everywhere = len(result.names)
    _warn(
        console, [note if len(names) == everywhere else f"{', '.join(names)}: {note}" for note, names in noted.items()]
    )
    _print(console, [f"confusion matrix: {summary.picture}" for summary in result.names])


def _ranking(result: "Evaluation", columns: Sequence[str]) -> Table:
    table = Table(title=f"{result.part}, {counted(result.names[0].images, 'image')}", title_justify="left")
    table.add_column("name", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "base" else "right", no_wrap=True)
    for summary in result.names:
        accuracy = summary.metrics["accuracy"]
        cells: tuple[str | Text, ...] = (
            _mean(accuracy),
            f"{summary.interval[0]:.3f} to {summary.interval[1]:.3f}",
            str(len(summary.seeds)),
            f"{accuracy.smallest:.4f}",
            f"{accuracy.largest:.4f}",
            *(f"{summary.metrics[name].mean:.4f}" for name in ("balanced_accuracy", "macro_f1", "log_loss")),
            Text(printable(summary.base) + (" (random)" if summary.weights.startswith("random:") else "")),
        )
        table.add_row(Text(printable(summary.name)), *cells[: len(columns)])
    return table


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
    _warn(console, result.notes if result.images else ())
    _warn(console, [] if failed else [f"{path} could not be read: {reason}" for path, reason in result.skipped])


def show_description(result: "Description", console: Console) -> None:
    """Tell what a cache is."""
    state = f"{result.images} images of {len(result.classes)} classes" if result.finished else "not finished yet"
    said = [
        f"{result.path}: {state}, {counted(result.features, 'feature')} in {counted(result.shards, 'shard')}, "
        f"{human_size(result.size)}",
    ]
    if result.finished:
        said.append(f"images from {result.source}")
        said.append("classes: " + ", ".join(f"{name} {count}" for name, count in result.classes.items()))
    if result.parts:
        said.append("its own split: " + ", ".join(f"{part} {count}" for part, count in result.parts.items()))
    if result.unused:
        said.append(f"{result.unused} features belong to images that are no longer in the set")
    _print(console, [*said, "recipe:"])
    _print(console, [f"  {name}: {value}" for name, value in result.recipe.items()])
    _warn(console, [RANDOM_WEIGHTS] if result.random_weights else [])
    _warn(console, [f"{path} could not be read: {reason}" for path, reason in result.skipped])
    if not result.finished:
        _warn(console, ["run the same `manyheads extract` again: it goes on after the last shard"])


def show_diagnosis(result: "Diagnosis", console: Console) -> None:
    """Tell what this installation runs on."""
    said = [f"{name}: {version}" for name, version in result.versions.items()]
    said += [f"{name}: {value}" for name, value in result.machine.items()]
    if result.memory_free is not None:
        said.append(f"memory free: {human_size(result.memory_free)}")
    said += [f"disk free in {folder}: {human_size(free)}" for folder, free in result.disk_free.items()]
    said += [
        f"device {name}: {what}, natively {', '.join(result.precisions[name])}" for name, what in result.devices.items()
    ]
    said.append(f"weights in {result.weights_folder}: {len(result.weights) or 'none'}")
    said += [f"  {file}: {entry}" for file, entry in result.weights.items()]
    _print(console, said)


def show_demo(result: "Demo", console: Console) -> None:
    """Show the demo's ranking, and say what to type next."""
    show_evaluation(result.evaluation, console)
    if result.extraction.random_weights:
        _warn(
            console,
            [
                "so this is the floor that transfer learning is measured against; with a file of ImageNet weights: "
                f"`{program()} demo --weights FILE`"
            ],
        )
    best = result.evaluation.names[0]
    image = next(path for path in sorted(result.images.rglob("*.jpg")))
    _next(console, "predict", best.folder / "seed-0000", image)


def _mean(values: "Spread") -> str:
    return f"{values.mean:.4f}" + ("" if values.deviation is None else f" ± {values.deviation:.4f}")


def _distance(summary: "Summary", best: "Summary") -> str:
    if summary.behind is None:
        return f"{summary.name} saw other images than {best.name}: not compared"
    # Adding 0.0 turns -0.0, which a rounded tie can be, into 0.0.
    points, low, high = (round(-100 * value, 1) + 0.0 for value in summary.behind)
    stands = f"{points:.1f} points behind" if points else "level with"
    verdict = "within noise" if summary.behind[1] <= 0 <= summary.behind[2] else "more than noise"
    return f"{summary.name} is {stands} {best.name} (95 %: {high:.1f} to {low:.1f}; {summary.images} images): {verdict}"


def _print(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)


def _warn(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(Text(f"note: {printable(line)}", style="yellow"), soft_wrap=True)


def _next(console: Console, *arguments: str | Path) -> None:
    line = " ".join([program(), *(shlex.quote(str(argument)) for argument in arguments)])
    console.print(Text.assemble(("next: ", "bold"), printable(line)), soft_wrap=True)


def program() -> str:
    """Return what to type to run manyheads again, as it was called now: on the PATH, by its path, or as cli.py."""
    called = Path(sys.argv[0])
    if called.name == "cli.py":
        return f"python {shlex.quote(sys.argv[0])}"
    found = shutil.which("manyheads")
    if called.name != "manyheads" or not called.exists() or (found and called.samefile(found)):
        return "manyheads"
    return shlex.quote(sys.argv[0])


def counted(count: int, noun: str) -> str:
    """Write a number of things: 1 run, 2 runs."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
