"""Stage three, `evaluate`: store every run's predictions, and compute the metrics from what is stored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cache import FeatureCache
from cache.atomic import remove_leftovers
from pipeline.errors import RunError
from pipeline.figures import draw_confusion
from pipeline.image_set import read_image_set
from pipeline.metrics import Metrics, Spread, bootstrap_interval, spread
from pipeline.progress import SILENT, Progress
from pipeline.run import Run, find_runs
from pipeline.split import NAMES
from pipeline.stored_predictions import Inputs, predict_part, record, stored_predictions

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


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
        images: Images in the part.
        metrics: accuracy, balanced_accuracy, macro_f1, log_loss -> spread over the seeds.
        interval: 95 % interval of the mean accuracy, over seeds and images.
        behind: Mean accuracy minus the best name's, so 0 or less, and the 95 % interval of that difference, over the
            seeds of both and the images, which are the same; None for the best, and where the images are others.
        notes: What the user should know about these runs.
        picture: The confusion matrix, a mean over the seeds.
    """

    name: str
    head: str
    base: str
    weights: str
    folder: Path
    seeds: tuple[int, ...]
    images: int
    metrics: Mapping[str, Spread]
    interval: tuple[float, float]
    behind: tuple[float, float, float] | None
    notes: tuple[str, ...]
    picture: Path


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
    if on not in NAMES:
        raise RunError(f"There is no part '{on}': choose {', '.join(NAMES)}.")
    found = find_runs(runs)
    if cache is not None:
        FeatureCache.open(cache)  # also where stored predictions make it unnecessary: a wrong name must not pass
    if images is not None:
        read_image_set(images)  # likewise
    groups: dict[Path, list[Run]] = {}
    for run in found:
        groups.setdefault(run.path.resolve().parent, []).append(run)
    for folder, members in groups.items():
        if len({run.seed for run in members}) < len(members):
            raise RunError(
                f"Several runs in {folder} have the same seed: {', '.join(run.path.name for run in members)}. A copy "
                "would count twice; move it elsewhere."
            )
    inputs = Inputs(on, *(None if place is None else Path(place) for place in (cache, images)))
    measured: dict[Path, Metrics] = {}
    correct: dict[Path, list[npt.NDArray[np.bool_]]] = {}
    changes: dict[Path, list[str]] = {}
    with progress.steps("evaluating", len(found), "runs") as advance:
        for folder, members in groups.items():
            remove_leftovers(folder)
            for run in members:
                members[0].require_same(run)
                remove_leftovers(run.path)
                predictions = stored_predictions(run, on)
                if predictions and (changed := inputs.changed(run)):
                    changes.setdefault(folder, []).append(changed)
                predictions = predictions or predict_part(run, on, inputs)
                measured[run.path] = metrics = record(run, on, predictions)
                _draw(run, on, metrics)
                correct.setdefault(folder, []).append(predictions.correct)
                advance(1)
    stacked = {folder: np.stack(rows) for folder, rows in correct.items()}
    order = sorted(groups, key=lambda folder: (-float(stacked[folder].mean()), str(folder)))
    names = _names(groups)
    best = order[0]
    seen = {folder: members[0].digests[on] for folder, members in groups.items()}
    summaries = tuple(
        _summary(
            names[folder],
            groups[folder],
            [measured[run.path] for run in groups[folder]],
            stacked[folder],
            stacked[best] if folder != best and seen[folder] == seen[best] else None,
            on,
            changes.get(folder, []),
        )
        for folder in order
    )
    return Evaluation(
        part=on,
        names=summaries,
        runs={f"{names[folder]}/{run.path.name}": measured[run.path] for folder in order for run in groups[folder]},
        comparable=len(set(seen.values())) == 1,
    )


def _draw(run: Run, part: str, metrics: Metrics) -> None:
    title = f"{run.label}, {part}: {metrics.correct}/{metrics.images} = {metrics.accuracy:.4f}"
    draw_confusion(np.array(metrics.confusion), metrics.classes, title, run.path / f"confusion-{part}.png")


def _names(folders: Iterable[Path]) -> dict[Path, str]:
    """Name each folder of runs, with as many of the folders above it as it takes to tell them apart."""
    named: dict[Path, str] = {}
    everything = list(folders)
    for folder in everything:
        tails = ((folder.parts[-length:], length) for length in range(1, len(folder.parts) + 1))
        tail = next(tail for tail, n in tails if sum(other.parts[-n:] == tail for other in everything) == 1)
        named[folder] = "/".join(tail)
    return named


def _summary(
    name: str,
    runs: Sequence[Run],
    metrics: Sequence[Metrics],
    correct: npt.NDArray[np.bool_],
    best: npt.NDArray[np.bool_] | None,
    part: str,
    changes: Sequence[str],
) -> Summary:
    behind = None
    if best is not None:
        low, high = bootstrap_interval(correct, best)
        behind = (float(correct.mean() - best.mean()), low, high)
    accuracies = spread([one.accuracy for one in metrics])
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else f"seed {runs[0].seed}"
    title = f"{name}, {part}, {seeds}: {'mean ' if len(runs) > 1 else ''}accuracy {accuracies.mean:.4f}"
    confusion = np.mean([one.confusion for one in metrics], axis=0)
    picture = draw_confusion(confusion, metrics[0].classes, title, runs[0].path.parent / f"confusion-{part}.png")
    return Summary(
        name=name,
        head=runs[0].head,
        base=runs[0].recipe.base,
        weights=runs[0].recipe.weights,
        folder=runs[0].path.parent,
        seeds=tuple(run.seed for run in runs),
        images=metrics[0].images,
        metrics={key: spread([getattr(one, key) for one in metrics]) for key in METRICS},
        interval=bootstrap_interval(correct),
        behind=behind,
        notes=tuple(dict.fromkeys((*(note for run in runs for note in run.notes), *changes))),
        picture=picture,
    )
