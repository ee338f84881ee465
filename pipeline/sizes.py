"""How many labelled images does one need? The same head, trained on more and more of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cache import FeatureCache
from pipeline.difference import difference, figure_of
from pipeline.errors import HeadError
from pipeline.figures import draw_sizes
from pipeline.fitting import Fitting, fit_head
from pipeline.metrics import Spread
from pipeline.outcomes import Outcome, read_outcomes
from pipeline.progress import SILENT, Progress
from pipeline.resplits import fewer, splits_of
from pipeline.statistics import Difference, Estimate

SPLITTING = ("split", "split_seed", "resplits")  # options that say which images train


@dataclass(frozen=True)
class Step:
    """One size of the training part.

    Attributes:
        per_class: Training images of each class.
        name: Of its runs.
        accuracy: On the validation part, over the runs.
        figure: Its mean, with the 95 % interval.
        gain: What it is ahead of the size before, with its 95 % interval; None for the first.
    """

    per_class: int
    name: str
    accuracy: Spread
    figure: Estimate
    gain: Difference | None


@dataclass(frozen=True)
class LearningCurve:
    """What `fit_sizes` found, on the validation part.

    Attributes:
        steps: From the smallest size on.
        images: Images of the validation part.
        runs: RUNS.
        fitted: How many runs were fitted now; the others were there.
        seconds: Wall time.
        notes: What the user should know about these runs.
        picture: Accuracy by size, drawn; an SVG of the same name is beside it.
    """

    steps: tuple[Step, ...]
    images: int
    runs: Path
    fitted: int
    seconds: float
    notes: tuple[str, ...]
    picture: Path


def fit_sizes(
    cache: Path | str,
    runs: Path | str,
    sizes: Sequence[int],
    *,
    head: str = "mlp",
    name: str | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> LearningCurve:
    """Fit a head on so many training images of each class, one size after another, and measure it on validation.

    Smaller parts lie in larger ones; validation and test are the same for all. Test images are not looked at.

    Args:
        cache: Folder of the feature cache.
        runs: Folder that the runs go to, as RUNS/NAME_per-class=5/seed-0000.
        sizes: Training images of each class.
        head: See `pipeline.fitting.fit_head`.
        name: What the names of the runs begin with; the head's if not given.
        progress: Told what happens.
        **options: All else that `fit_head` takes.

    Returns:
        Accuracy by size.

    Raises:
        HeadError: A size is none, or the split has no validation part; as `fit_head`.
        SplitError: A class has too few images.
    """
    started = time.perf_counter()
    ordered = sorted(set(sizes))
    if not ordered or ordered[0] < 1:
        raise HeadError(f"The sizes {list(sizes)} are not numbers of images, such as 5, 10 and 20.")
    _require_enough(cache, ordered[-1], **{key: options[key] for key in SPLITTING if key in options})
    name = head if name is None else name
    fittings: list[Fitting] = []
    for size in ordered:
        each = f"{name}_per-class={size}"
        fittings.append(fit_head(cache, runs, head=head, name=each, per_class=size, progress=progress, **options))
    folders = [fitting.runs[0].name_folder for fitting in fittings]
    found = {outcome.folder: outcome for outcome in read_outcomes(folders, "val", cache, None, progress)}
    outcomes = [found[folder] for folder in folders]
    gains = [None, *(difference(more, fewer, "accuracy")[0] for fewer, more in pairwise(outcomes))]
    steps = tuple(
        Step(size, outcome.name, outcome.spread("accuracy"), figure_of(outcome, "accuracy"), gain)
        for size, outcome, gain in zip(ordered, outcomes, gains, strict=True)
    )
    return LearningCurve(
        steps=steps,
        images=outcomes[0].images,
        runs=Path(runs),
        fitted=sum(fitting.fitted for fitting in fittings),
        seconds=time.perf_counter() - started,
        notes=tuple(dict.fromkeys(note for fitting in fittings for note in fitting.notes)),
        picture=_draw(name, steps, outcomes, Path(runs)),
    )


def _require_enough(
    cache: Path | str,
    largest: int,
    split: str | Path | None = None,
    split_seed: int = 0,
    resplits: int | None = None,
) -> None:
    """Refuse sizes that a split cannot give, before anything is fitted.

    Raises:
        HeadError: The split has no validation part.
        SplitError: A class has too few images.
    """
    index = FeatureCache.open(cache).index()
    for one in splits_of(index, split, split_seed, resplits).values():
        if not one.rows["val"]:
            raise HeadError(
                f"The split ({one.source}) has no validation part, on which sizes are compared: test images are kept "
                "for the end. Ask for a split with one, such as `--split 80/10/10`."
            )
        fewer(index, one, largest, 0)


def _draw(name: str, steps: Sequence[Step], outcomes: Sequence[Outcome], runs: Path) -> Path:
    points = [
        (step.per_class, *step.figure.triple, tuple(one for some in outcome.figures("accuracy") for one in some))
        for step, outcome in zip(steps, outcomes, strict=True)
    ]
    title = f"{name}: validation accuracy by training images of each class"
    return draw_sizes(points, title, runs / f"{name}_per-class.png")
