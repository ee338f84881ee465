"""Stage three, `evaluate`: store every run's predictions, and compute the metrics from what is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.comparison import Pair, compare_pairs
from pipeline.difference import figure_of
from pipeline.figures import draw_confusion, draw_reliability
from pipeline.metrics import Metrics, Spread
from pipeline.outcomes import METRICS, Outcome, read_outcomes
from pipeline.progress import SILENT, Progress
from pipeline.run import Run


@dataclass(frozen=True)
class Summary:
    """All runs of one name.

    Attributes:
        name: The configuration's name; with its folder before it where two folders have runs of that name.
        head: The head.
        base: The base of its features.
        weights: The base's weights, as a person reads them.
        folder: RUNS/NAME.
        seeds: The seeds of its runs.
        fits: Its runs on each split.
        images: Images in the part, of each split.
        metrics: accuracy, balanced_accuracy, macro_f1, log_loss, calibration_error -> spread over the runs.
        interval: 95 % interval of the mean accuracy, over seeds and images, or over splits.
        behind: The best name and this one, as `compare` sees all pairs of names on these images; None for the best, and
            where the images are others.
        notes: What the user should know about these runs.
        picture: The confusion matrix, a mean over the runs; an SVG of the same name is beside it, as for the next.
        reliability: The reliability diagram, over all runs.
    """

    name: str
    head: str
    base: str
    weights: str
    folder: Path
    seeds: tuple[int, ...]
    fits: tuple[int, ...]
    images: int
    metrics: Mapping[str, Spread]
    interval: tuple[float, float]
    behind: Pair | None
    notes: tuple[str, ...]
    picture: Path
    reliability: Path


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: names ranked by mean accuracy, and every run's metrics under `name/seed-0000`."""

    part: str
    names: tuple[Summary, ...]
    runs: Mapping[str, Metrics]
    comparable: bool


def evaluate(
    *runs: Path | str,
    on: Literal["test", "val", "train"] = "test",
    cache: Path | str | None = None,
    images: Path | str | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Evaluate runs on one part of their split.

    Each run's predictions are written beside it once, as predictions-PART.csv; metrics are computed from that file.

    Args:
        *runs: Any mix of RUNS, RUNS/NAME and single run folders.
        on: The part: `test`, `val` or `train`.
        cache: The feature cache, if it is no longer where the runs were fitted from.
        images: The image set, if it is no longer where baselines were fitted from.
        progress: Told what happens.

    Returns:
        The ranking and every run's metrics.

    Raises:
        RunError: There is no run, or one is damaged, or its part is empty.
        CacheError: The cache is gone or damaged.
        RecipeMismatch: The cache holds features of another recipe than the runs need.
    """
    outcomes = sorted(
        read_outcomes(runs, on, cache, images, progress), key=lambda one: (-one.mean("accuracy"), str(one.folder))
    )
    alike = [outcome for outcome in outcomes if outcome.digests == outcomes[0].digests]
    pairs = compare_pairs(alike, "accuracy", progress, of_best=True)
    behind = dict(zip([one.folder for one in alike[1:]], pairs, strict=True))
    with progress.steps("drawing", sum(len(one.runs) for one in outcomes), "pictures") as advance:
        for outcome in outcomes:
            for run, metrics in zip(outcome.runs, outcome.metrics, strict=True):
                _draw(run, on, metrics)
                advance(1)
    return Evaluation(
        part=on,
        names=tuple(_summary(outcome, behind.get(outcome.folder), on) for outcome in outcomes),
        runs={
            f"{outcome.name}/{run.place}": metrics
            for outcome in outcomes
            for run, metrics in zip(outcome.runs, outcome.metrics, strict=True)
        },
        comparable=len(alike) == len(outcomes),
    )


def _draw(run: Run, part: str, metrics: Metrics) -> None:
    title = f"{run.label}, {part}: {metrics.correct}/{metrics.images} = {metrics.accuracy:.4f}"
    draw_confusion(np.array(metrics.confusion), metrics.classes, title, run.path / f"confusion-{part}.png")


def _summary(outcome: Outcome, behind: Pair | None, part: str) -> Summary:
    interval, runs = figure_of(outcome, "accuracy"), outcome.runs
    several = "seeds" if len(outcome.trials) == 1 else f"runs on {len(outcome.trials)} splits"
    seeds = f"{len(runs)} {several}" if len(runs) > 1 else f"seed {runs[0].seed}"
    title = (
        f"{outcome.name}, {part}, {seeds}: {'mean ' if len(runs) > 1 else ''}accuracy {outcome.mean('accuracy'):.4f}"
    )
    confusion = np.mean([one.confusion for one in outcome.metrics], axis=0)
    picture = draw_confusion(confusion, runs[0].classes, title, outcome.folder / f"confusion-{part}.png", vector=True)
    return Summary(
        name=outcome.name,
        head=runs[0].head,
        base=runs[0].recipe.base,
        weights=runs[0].recipe.weights,
        folder=outcome.folder,
        seeds=outcome.seeds,
        fits=outcome.fits,
        images=outcome.images,
        metrics={metric: outcome.spread(metric) for metric in (*METRICS, "calibration_error")},
        interval=(interval.low, interval.high),
        behind=behind,
        notes=outcome.notes,
        picture=picture,
        reliability=draw_reliability(
            outcome.reliability(),
            f"{outcome.name}, {part}, {seeds}",
            outcome.folder / f"reliability-{part}.png",
            runs=len(runs),
        ),
    )
