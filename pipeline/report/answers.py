"""What every run answered to every image of a part, cut to what a page can hold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.calibration import Reliability, reliability
from pipeline.outcomes import Outcome
from pipeline.run import Run

KEPT = 5000  # images that a page holds one by one; those that are missed most often come first


@dataclass(frozen=True)
class Answers:
    """What one run answered.

    Attributes:
        run: The run.
        name: Number of its name in the order of the ranking.
        split: Number of its split, from 0 on.
        images: (n,) numbers of the images that it was asked about, ascending.
        named: (n,) numbers of the classes that it named.
        sure: (n,) probability of the class that it named.
        truth: (n,) probability of the true class.
        confusion: (C, C) counts over all images of the part, also those that are not kept.
        reliability: Over all images too.
    """

    run: Run
    name: int
    split: int
    images: npt.NDArray[np.int64]
    named: npt.NDArray[np.int32]
    sure: npt.NDArray[np.float64]
    truth: npt.NDArray[np.float64]
    confusion: npt.NDArray[np.int64]
    reliability: Reliability


@dataclass(frozen=True)
class Answered:
    """What all runs answered.

    Attributes:
        classes: (C,) names.
        paths: (N,) of the images that are kept.
        labels: (N,) numbers of their true classes.
        missed: (N,) share of the runs asked that named each one wrongly.
        answers: One for each run.
        total: Images of the part before some were left out.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    missed: npt.NDArray[np.float64]
    answers: tuple[Answers, ...]
    total: int


def gather(outcomes: Sequence[Outcome]) -> Answered:
    """Bring together what all runs answered to each image, and keep of it what a page shows.

    Args:
        outcomes: In the order of the ranking, all of the same classes.
    """
    classes = outcomes[0].runs[0].classes
    numbers: dict[tuple[str, int], int] = {}  # path and class, for a path may be of another class in another image set
    answers = []
    for name, outcome in enumerate(outcomes):
        for split, trial in enumerate(outcome.trials):
            keys = zip(trial.paths, trial.labels.tolist(), strict=True)
            images = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
            order = np.argsort(images)
            for member, run in enumerate(trial.runs):
                named, sure = trial.predicted[member], trial.confidence[member].astype(np.float64)
                confusion = np.zeros((len(classes), len(classes)), np.int64)
                np.add.at(confusion, (trial.labels, named), 1)
                answers.append(
                    Answers(
                        run=run,
                        name=name,
                        split=split,
                        images=images[order],
                        named=named[order],
                        sure=sure[order],
                        truth=np.exp(-trial.losses[member].astype(np.float64))[order],
                        confusion=confusion,
                        reliability=reliability(sure, trial.correct[member]),
                    )
                )
    labels = np.array([label for _, label in numbers], np.int64)
    asked, wrong = np.zeros(len(labels)), np.zeros(len(labels))
    for one in answers:
        asked[one.images] += 1
        wrong[one.images] += one.named != labels[one.images]
    paths = tuple(path for path, _ in numbers)
    return _cut(Answered(classes, paths, labels, wrong / asked, tuple(answers), len(paths)))


def _cut(whole: Answered) -> Answered:
    """Keep the images that are missed most often, in the order in which they stand."""
    if whole.total <= KEPT:
        return whole
    kept = np.sort(np.argsort(-whole.missed, kind="stable")[:KEPT])
    numbers = np.full(whole.total, -1)
    numbers[kept] = np.arange(len(kept))

    def cut(one: Answers) -> Answers:
        held = numbers[one.images] >= 0
        images = numbers[one.images[held]]
        return replace(one, images=images, named=one.named[held], sure=one.sure[held], truth=one.truth[held])

    return replace(
        whole,
        paths=tuple(whole.paths[number] for number in kept),
        labels=whole.labels[kept],
        missed=whole.missed[kept],
        answers=tuple(map(cut, whole.answers)),
    )
