"""Stage four, `compare`: which of several names is really better, by how much, and what of it is noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.difference import OF_CLASSES, difference, figure_of
from pipeline.errors import RunError
from pipeline.figures import Rank, draw_ranking
from pipeline.outcomes import LOSSES, METRICS, Outcome, read_outcomes
from pipeline.progress import SILENT, Progress
from pipeline.statistics import LEVEL, Components, Difference, Estimate, components, holm
from pipeline.wording import METRICS as METRIC_TEXTS
from pipeline.wording import counted

FEW = 5  # splits, and images of a class, below which a note says so
MOST_TOLD = 15  # pairs


@dataclass(frozen=True)
class Standing:
    """Where a name stands.

    Attributes:
        name: The configuration's name; with its folder before it where two folders have runs of that name.
        folder: RUNS/NAME.
        figure: The mean of the metric with its 95 % interval.
        deviation: Standard deviations of the metric between splits and between seeds.
        seeds: The seeds of its runs.
        fits: Its runs on each split.
        notes: What the user should know about these runs.
    """

    name: str
    folder: Path
    figure: Estimate
    deviation: Components
    seeds: tuple[int, ...]
    fits: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two names, the one that ranks higher first.

    Attributes:
        first: The better name.
        second: The other.
        difference: How much better the first one's figure is, with its 95 % interval and the test's p-value: the first
            minus the second, or of a loss the second minus the first.
        adjusted: The p-value after Holm's correction for all pairs.
        tests: How many these are.
        detectable: The smallest true difference that would be seen four times in five, among so many pairs; None if
            none would be.
        method: The test.
    """

    first: str
    second: str
    difference: Difference
    adjusted: float
    tests: int
    detectable: float | None
    method: str

    @property
    def shown(self) -> bool:
        """Whether the difference is more than noise: the adjusted p-value is below 5 %."""
        return self.adjusted < LEVEL


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        part: The part of the split.
        metric: What names are ranked by.
        images: Images that every run was measured on, in each split.
        names: From the best on.
        pairs: Every two of them, in the order of the ranking.
        notes: What limits the comparison.
        picture: The ranking, drawn, with an SVG of the same name beside it; None where none was asked for.
    """

    part: str
    metric: str
    images: int
    names: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    picture: Path | None = None

    @property
    def told(self) -> tuple[Pair, ...]:
        """The pairs that are told in sentences: all, or of very many those of the best, which say what to choose."""
        few = len(self.pairs) <= MOST_TOLD
        return tuple(pair for pair in self.pairs if few or pair.first == self.names[0].name)


def compare(
    *runs: Path | str,
    on: Literal["test", "val", "train"] = "test",
    metric: str = "accuracy",
    cache: Path | str | None = None,
    images: Path | str | None = None,
    out: Path | str | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Compare names, each with all its runs, on one part of their split.

    Args:
        *runs: Any mix of RUNS, RUNS/NAME and single run folders.
        on: The part: `test`, `val` or `train`.
        metric: `accuracy`, `balanced_accuracy`, `macro_f1` or `log_loss`.
        cache: The feature cache, if it is no longer where the runs were fitted from.
        images: The image set, if it is no longer where baselines were fitted from.
        out: Folder of the picture; the RUNS of the best name if not given.
        progress: Told what happens.

    Returns:
        The ranking, and the difference of every pair.

    Raises:
        RunError: There are no two names, or they saw other images, classes or splits; as for `evaluate`.
        CacheError: The cache is gone or damaged.
        RecipeMismatch: The cache holds features of another recipe than the runs need.
    """
    if metric not in METRICS:
        raise RunError(f"There is no metric '{metric}': choose {', '.join(METRICS)}.")
    outcomes = read_outcomes(runs, on, cache, images, progress)
    if len(outcomes) < 2:
        raise RunError(
            f"All runs are of one name, {outcomes[0].name}: there is nothing to compare them with. Name the runs of "
            f"another one too, or see what these achieved with `manyheads evaluate {outcomes[0].folder}`."
        )
    found, ranked = compare_outcomes(outcomes, metric, progress)
    folder = Path(ranked[0].folder.parent if out is None else out)
    return replace(found, picture=_draw(ranked, found.names, found.pairs, metric, folder))


def compare_outcomes(
    outcomes: Sequence[Outcome], metric: str, progress: Progress = SILENT
) -> tuple[Comparison, list[Outcome]]:
    """Compare what names did with the same images, without a picture; one name alone has a rank and no pairs.

    Args:
        outcomes: What they did.
        metric: See `compare`.
        progress: Told what happens.

    Returns:
        The comparison, and the outcomes in the order of its ranking.

    Raises:
        RunError: They saw other images, classes or splits.
    """
    require_comparable(outcomes)
    sign = -1 if metric in LOSSES else 1
    ranked = sorted(outcomes, key=lambda one: (-sign * one.mean(metric), str(one.folder)))
    part, images = ranked[0].trials[0].part, ranked[0].images
    if images < 2 and metric != "accuracy":
        raise RunError(
            f"The {part} part has one image, of which {METRIC_TEXTS[metric]} cannot be told from noise. Compare on "
            "another part (`--on`), or fit on a split with more images."
        )
    names = tuple(_standing(outcome, metric) for outcome in ranked)
    pairs = compare_pairs(ranked, metric, progress)
    return Comparison(part, metric, images, names, pairs, _limits(ranked, metric)), ranked


def compare_pairs(
    ranked: Sequence[Outcome], metric: str, progress: Progress, *, of_best: bool = False
) -> tuple[Pair, ...]:
    """Test the difference of every two names, and correct for how many pairs there are.

    Args:
        ranked: From the best on, all comparable.
        metric: See `compare`.
        progress: Told what happens.
        of_best: Return only the pairs of the best, which are corrected for all pairs nevertheless.
    """
    both = list(combinations(ranked, 2))  # those of the best come first
    wanted = len(ranked) - 1 if of_best else len(both)
    found: list[Pair] = []
    values: list[float] = []
    with progress.steps("comparing", len(both), "pairs") as advance:
        for first, second in both:
            one, method = difference(first, second, metric)
            values.append(one.p)
            if len(found) < wanted:
                found.append(Pair(first.name, second.name, one, one.p, len(both), one.detectable(len(both)), method))
            advance(1)
    return tuple(replace(pair, adjusted=p) for pair, p in zip(found, holm(values), strict=False))


def require_comparable(outcomes: Sequence[Outcome]) -> None:
    """Refuse names whose figures cannot be set against each other.

    Raises:
        RunError: Says which names differ in classes or images, and what to do.
    """
    first = outcomes[0]
    for other in outcomes[1:]:
        classes, others = set(first.runs[0].classes), set(other.runs[0].classes)
        if classes != others:
            raise RunError(
                f"{first.name} and {other.name} know other classes ({len(classes)} and {len(others)}, "
                f"{len(classes & others)} in common): their figures cannot be compared. Name runs of the same classes."
            )
        if first.digests != other.digests:
            raise RunError(_other_images(first, other))


def _other_images(first: Outcome, other: Outcome) -> str:
    both = f"{first.name} and {other.name}"
    if len(first.trials) > 1 or len(other.trials) > 1:
        shared = len(first.digests & other.digests)
        return (
            f"{both} were fitted on other splits ({len(first.trials)} and {len(other.trials)}, {shared} in common), so "
            "they cannot be compared pair by pair. Fit both with the same `--resplits`, `--split` and `--split-seed`; "
            "what is fitted already is kept."
        )
    part = first.trials[0].part
    one, two = (set(outcome.runs[0].images[part]) for outcome in (first, other))
    return (
        f"{both} saw other {part} images ({len(one)} and {len(two)}, {len(one & two)} of the same name): a difference "
        "between them could be that of the images. Fit both on the same images with the same `--split` and "
        "`--split-seed`."
    )


def _standing(outcome: Outcome, metric: str) -> Standing:
    return Standing(
        name=outcome.name,
        folder=outcome.folder,
        figure=figure_of(outcome, metric),
        deviation=components(outcome.figures(metric)),
        seeds=outcome.seeds,
        fits=outcome.fits,
        notes=outcome.notes,
    )


def _draw(
    outcomes: Sequence[Outcome], names: Sequence[Standing], pairs: Sequence[Pair], metric: str, folder: Path
) -> Path:
    best = {pair.second: pair for pair in pairs if pair.first == names[0].name}
    ranks = [
        Rank(
            *(standing.name, *standing.figure.triple),
            runs=tuple(figure for some in outcome.figures(metric) for figure in some),
            behind=best[standing.name].difference.triple if standing.name in best else None,
            shown=standing.name in best and best[standing.name].shown,
        )
        for standing, outcome in zip(names, outcomes, strict=True)
    ]
    part, images = outcomes[0].trials[0].part, counted(outcomes[0].images, "image")
    title = f"{METRIC_TEXTS[metric]} on {part}, {images}"
    file = f"comparison-{part}.png" if metric == "accuracy" else f"comparison-{part}-{metric}.png"
    folder.mkdir(parents=True, exist_ok=True)
    return draw_ranking(ranks, METRIC_TEXTS[metric], title, folder / file, points=metric not in LOSSES)


def _limits(outcomes: Sequence[Outcome], metric: str) -> tuple[str, ...]:
    """Say what the tests cannot know."""
    notes = []
    counts = np.unique(outcomes[0].trials[0].labels, return_counts=True)[1]
    if metric in OF_CLASSES and counts.min() < FEW:
        notes.append(
            f"classes with fewer than {FEW} images here: {(counts < FEW).sum()} of {len(counts)}. How much "
            f"{METRIC_TEXTS[metric]} varies cannot be known from so few, and too much is called a difference; accuracy "
            "does not have this fault"
        )
    alone = [one.name for one in outcomes if len(one.seeds) == 1 and one.runs[0].seeded]
    splits, part = len(outcomes[0].trials), outcomes[0].trials[0].part
    if alone and splits == 1:
        notes.append(
            f"{', '.join(alone)}: one seed says nothing of training noise; with another seed the difference may be "
            "another"
        )
    if 1 < splits < FEW:
        notes.append(f"{splits} splits say little of how much splits vary, so only large differences are seen; fit ten")
    if part == "train":
        notes.append("these images were trained on: figures on them say what was learnt by heart, not what is better")
    if splits == 1:
        notes.append(
            "one split: what another choice of training images would do is not in these intervals (`--resplits`)"
        )
    return tuple(notes)
