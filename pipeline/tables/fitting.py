"""Which runs were fitted, and how the combinations of a grid compare."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.options import typed, value_text
from pipeline.printable import printable
from pipeline.tables.printing import print_fitting, print_lines, print_next, print_notes
from pipeline.wording import (
    amount_text,
    counted,
    duration,
    ends_text,
    interval_text,
    noise_text,
    points_text,
    spread_text,
)

if TYPE_CHECKING:
    from pipeline.fitting import Fitting
    from pipeline.grid import GridSearch
    from pipeline.sizes import LearningCurve

GROWING = ("accuracy", "95 %", "gain", "95 % of it")
COMPARED = ("accuracy", "behind", "95 %", "", "log loss")


def show_fitting(result: "Fitting", console: Console) -> None:
    """Say which runs were fitted."""
    first = result.runs[0]
    kept = len(result.runs) - result.fitted
    folder = first.name_folder
    splits = len({run.resplit for run in result.runs})
    print_lines(
        console,
        [
            f"{counted(result.fitted, 'run')} fitted, {kept} kept, in {folder} ({duration(result.seconds)}); "
            + (f"split: {first.split}" if splits == 1 else f"{splits} splits, the first one {first.split}")
            + f" = {'/'.join(str(len(paths)) for paths in first.images.values())} images."
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
        print_lines(console, [f"accuracy in the last epoch, mean over runs: {said}"])
        if result.deviation:
            found = result.deviation
            seeds = "" if found.seeds is None else f", ± {found.seeds:.4f} between seeds on one split"
            print_lines(console, [f"validation accuracy varies: ± {found.splits:.4f} between splits{seeds}"])
    if first.calibrated:
        heats = dict.fromkeys(f"{pick(run.temperature for run in result.runs):.2f}" for pick in (min, max))
        print_lines(console, [f"temperatures, fitted on validation: {' to '.join(heats)}; above 1: it was too sure"])
    if result.curves:
        print_lines(console, [f"learning curves: {result.curves}"])
    print_next(console, "evaluate", folder.parent)


def show_grid(result: "GridSearch", console: Console) -> None:
    """Draw the ranking of a grid on the validation part, and say how to fit the winner."""
    print_fitting(console, COMPARED, partial(_candidates, result), least=2)
    best = result.candidates[0]
    print_lines(
        console,
        [
            f"{counted(len(result.candidates), 'combination')}, {counted(best.seeds, 'seed')} each: "
            f"{counted(result.fitted, 'run')} fitted, {len(result.candidates) * best.seeds - result.fitted} kept "
            f"({duration(result.seconds)})",
            "accuracy, log loss: mean ± standard deviation over seeds; behind: points of accuracy, with the 95 % "
            "interval of that difference over seeds and images; more than noise: also once corrected for all pairs",
            *([f"learning curves of the best: {best.curves}"] if best.curves else []),
        ],
    )
    print_notes(console, result.notes)
    print_next(console, "fit-head", result.cache, result.runs, *typed(result.winner), label="fits the best")
    print_next(console, "evaluate", result.runs / best.name, label="its test figures")


def show_sizes(result: "LearningCurve", console: Console) -> None:
    """Draw accuracy by the size of the training part, and say what the last step brought."""
    print_fitting(console, GROWING, partial(_steps, result), least=2)
    last = result.steps[-1]
    print_lines(
        console,
        [
            f"{counted(result.fitted, 'run')} fitted ({duration(result.seconds)})",
            "accuracy: mean ± standard deviation over runs; gain: over the line above, with its 95 % interval",
        ],
    )
    if last.gain is not None:
        first = result.steps[-2]
        gain = points_text(last.gain.triple)
        print_lines(
            console,
            [
                f"from {first.per_class} to {last.per_class} images of each class accuracy changes by {gain}: "
                f"{noise_text(last.gain.clear)}"
            ],
        )
    print_notes(console, result.notes)
    print_lines(console, [f"picture: {result.picture}, and as SVG beside it"])
    print_next(console, "evaluate", *(result.runs / step.name for step in result.steps), label="test figures")


def _steps(result: "LearningCurve", columns: Sequence[str]) -> Table:
    table = Table(title=f"validation, {counted(result.images, 'image')}", title_justify="left")
    for heading in ("images of each class", *columns):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in result.steps:
        gain = (
            ("", "")
            if step.gain is None
            else (amount_text("accuracy", step.gain.value), ends_text("accuracy", step.gain.low, step.gain.high))
        )
        cells = (spread_text(step.accuracy), interval_text((step.figure.low, step.figure.high)), *gain)
        table.add_row(str(step.per_class), *cells[: len(columns)])
    return table


def _candidates(result: "GridSearch", columns: Sequence[str]) -> Table:
    title = f"validation, {counted(result.images, 'image')}; test images were not looked at"
    table = Table(title=title, title_justify="left")
    for name in result.candidates[0].values:
        table.add_column(Text(printable(name)), overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for candidate in result.candidates:
        values = (Text(printable(value_text(name, value))) for name, value in candidate.values.items())
        found = candidate.behind
        distance = (
            ("", "", "best")
            if found is None
            else (
                amount_text("accuracy", found.value).removesuffix(" points"),
                ends_text("accuracy", found.low, found.high),
                noise_text(candidate.shown),
            )
        )
        cells = (spread_text(candidate.accuracy), *distance, spread_text(candidate.log_loss))
        table.add_row(*values, *cells[: len(columns)])
    return table
