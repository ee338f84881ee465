"""What the runs of a name did with the images of one part: the ground on which they are ranked and compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import FeatureCache
from cache.atomic import remove_leftovers
from pipeline.calibration import LEAST, Reliability, reliability
from pipeline.errors import RunError
from pipeline.image_set import read_image_set
from pipeline.metrics import Metrics, Spread, spread
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.run_places import find_runs
from pipeline.split import NAMES
from pipeline.stored_predictions import Inputs, Predictions, predict_part, record, stored_predictions

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")  # which can be compared
LOSSES = ("log_loss",)  # those of which less is better, and which are no shares


@dataclass(frozen=True)
class Trial:
    """Runs that differ in their seed alone: one name on one split.

    Attributes:
        runs: S runs.
        metrics: Of each.
        paths: (N,) of the images.
        labels: (N,) numbers of their true classes, in the order of the runs' classes.
        predicted: (S, N) numbers of the classes they were named.
        losses: (S, N) negative natural logarithm of the true class's probability.
        confidence: (S, N) probability of the class that was named.
        part: The part of the split.
    """

    runs: tuple[Run, ...]
    metrics: tuple[Metrics, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    predicted: npt.NDArray[np.int32]
    losses: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    part: str

    @property
    def digest(self) -> str:
        """Of the images: two equal ones are the same."""
        return self.runs[0].digests[self.part]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(S, N) whether a run named an image rightly."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right


@dataclass(frozen=True)
class Outcome:
    """All runs of one name.

    Attributes:
        name: The name; with its folder before it where two folders have runs of that name.
        folder: RUNS/NAME.
        trials: One for each split.
        changes: What has changed since the fit, where predictions were stored.
    """

    name: str
    folder: Path
    trials: tuple[Trial, ...]
    changes: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run."""
        return tuple(run for trial in self.trials for run in trial.runs)

    @property
    def metrics(self) -> tuple[Metrics, ...]:
        """Of every run."""
        return tuple(one for trial in self.trials for one in trial.metrics)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that were fitted, each once."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def fits(self) -> tuple[int, ...]:
        """How many runs there are on each split."""
        return tuple(len(trial.runs) for trial in self.trials)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about these runs, each once."""
        return tuple(dict.fromkeys((*(note for run in self.runs for note in run.notes), *self.changes)))

    @property
    def images(self) -> int:
        """Images of the part, in each split."""
        return len(self.trials[0].labels)

    @cached_property
    def digests(self) -> frozenset[str]:
        """Of the images of each split."""
        return frozenset(trial.digest for trial in self.trials)

    def reliability(self) -> Reliability:
        """Sort what all runs said about all images by how sure they were."""
        sure = np.concatenate([trial.confidence.ravel() for trial in self.trials]).astype(np.float64)
        return reliability(sure, np.concatenate([trial.correct.ravel() for trial in self.trials]))

    def figures(self, metric: str) -> list[list[float]]:
        """Return a metric: for each split, of each of its runs."""
        return [[float(getattr(one, metric)) for one in trial.metrics] for trial in self.trials]

    def mean(self, metric: str) -> float:
        """Return the mean over splits of the mean over seeds; equal counts give equal means."""
        return round(float(np.mean([np.mean(some) for some in self.figures(metric)])), 12)

    def spread(self, metric: str) -> Spread:
        """Summarise a metric over all runs."""
        return spread([one for some in self.figures(metric) for one in some])


def read_outcomes(
    places: Iterable[Path | str], on: str, cache: Path | str | None, images: Path | str | None, progress: Progress
) -> tuple[Outcome, ...]:
    """Let runs predict a part of their split where they have not yet, and measure what they predicted.

    Each run's predictions are written beside it once, as predictions-PART.csv, and its metrics as evaluation-PART.json.

    Args:
        places: Any mix of RUNS, RUNS/NAME and single run folders.
        on: The part: `test`, `val` or `train`.
        cache: The feature cache, if it is no longer where the runs were fitted from.
        images: The image set, if it is no longer where baselines were fitted from.
        progress: Told what happens.

    Returns:
        One for each name, ordered by it.

    Raises:
        RunError: There is no run, or one is damaged, or its part is empty.
        CacheError: The cache is gone or damaged.
        RecipeMismatch: The cache holds features of another recipe than the runs need.
    """
    if on not in NAMES:
        raise RunError(f"There is no part '{on}': choose {', '.join(NAMES)}.")
    found = find_runs(places)
    if cache is not None:
        FeatureCache.open(cache)  # also where stored predictions make it unnecessary: a wrong name must not pass
    if images is not None:
        read_image_set(images)  # likewise
    groups: dict[Path, list[Run]] = {}
    for run in found:
        groups.setdefault(replace(run, path=run.path.resolve()).name_folder, []).append(run)
    for folder, members in groups.items():
        if len({(run.resplit, run.seed) for run in members}) < len(members):
            raise RunError(
                f"Several runs in {folder} have the same seed: {', '.join(run.path.name for run in members)}. A copy "
                "would count twice; move it elsewhere."
            )
    inputs = Inputs(on, *(None if place is None else Path(place) for place in (cache, images)))
    names = _names(groups)
    outcomes = []
    with progress.steps("evaluating", len(found), "runs") as advance:
        for folder, members in groups.items():
            trials: dict[int | None, list[_Kept]] = {}
            changes = []
            for run in members:
                members[0].require_same(run, any_split=run.resplit != members[0].resplit)
                if run.resplit not in trials:
                    remove_leftovers(run.path.parent)
                remove_leftovers(run.path)
                predictions = stored_predictions(run, on)
                if predictions and (changed := inputs.changed(run)):
                    changes.append(changed)
                predictions = predictions or predict_part(run, on, inputs)
                kept = _Kept.of(run, record(run, on, predictions), predictions)
                trials.setdefault(run.resplit, []).append(kept)
                advance(1)
            found_trials = tuple(_trial(some, on) for some in trials.values())
            outcomes.append(Outcome(names[folder], members[0].name_folder, found_trials, tuple(changes)))
    return tuple(outcomes)


@dataclass(frozen=True)
class _Kept:
    """What is kept of one run's predictions, which with all their probabilities would fill the memory."""

    run: Run
    metrics: Metrics
    labels: npt.NDArray[np.int32]
    predicted: npt.NDArray[np.int32]
    losses: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]

    @classmethod
    def of(cls, run: Run, metrics: Metrics, predictions: Predictions) -> "_Kept":
        numbers = {name: number for number, name in enumerate(run.classes)}
        labels = np.array([numbers[label] for label in predictions.labels], np.int32)
        predicted = np.array([numbers[label] for label in predictions.predicted], np.int32)
        true, named = (predictions.probabilities[np.arange(len(labels)), codes] for codes in (labels, predicted))
        losses = -np.log(np.maximum(true, LEAST)).astype(np.float32)
        return cls(run, metrics, labels, predicted, losses, named.astype(np.float32))


def _trial(kept: Sequence[_Kept], part: str) -> Trial:
    return Trial(
        runs=tuple(one.run for one in kept),
        metrics=tuple(one.metrics for one in kept),
        paths=tuple(kept[0].run.images[part]),
        labels=kept[0].labels,
        predicted=np.stack([one.predicted for one in kept]),
        losses=np.stack([one.losses for one in kept]),
        confidence=np.stack([one.confidence for one in kept]),
        part=part,
    )


def _names(folders: Iterable[Path]) -> dict[Path, str]:
    """Name each folder of runs, with as many of the folders above it as it takes to tell them apart."""
    named: dict[Path, str] = {}
    everything = list(folders)
    for folder in everything:
        tails = ((folder.parts[-length:], length) for length in range(1, len(folder.parts) + 1))
        tail = next(tail for tail, n in tails if sum(other.parts[-n:] == tail for other in everything) == 1)
        named[folder] = "/".join(tail)
    return named
