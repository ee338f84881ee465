"""Hyper-parameters: every combination of a grid, fitted for every seed and ranked on the validation part alone."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import FeatureCache
from pipeline.difference import accuracy_difference
from pipeline.errors import HeadError
from pipeline.fitting import draw_learning, fill_from, fit_head, require_head
from pipeline.metrics import Metrics, Spread, measure, spread
from pipeline.options import value_text
from pipeline.planning import Plan, Source, checked_seeds, make_plan, require_name
from pipeline.progress import SILENT, Progress
from pipeline.run import ALL_ROWS
from pipeline.split import make_split
from pipeline.statistics import LEVEL, Difference, against_best
from pipeline.stored_predictions import Inputs, predict_part, stored_predictions
from pipeline.streaming import buffer_for, fit_streamed
from pipeline.workers import fit_missing


@dataclass(frozen=True)
class Candidate:
    """One combination of a grid, as the validation part sees it.

    Attributes:
        name: The configuration's name: its runs are in RUNS/name.
        values: The hyper-parameters that the grid varies, by name.
        seeds: How many runs it has.
        accuracy: Validation accuracy over the seeds.
        log_loss: Validation log loss over the seeds.
        behind: What the best candidate's mean accuracy is ahead, over seeds and images; None for the best.
        adjusted: The p-value of that, corrected for all pairs of candidates.
        curves: The picture of its learning curves; None where there are no epochs.
    """

    name: str
    values: Mapping[str, Any]
    seeds: int
    accuracy: Spread
    log_loss: Spread
    behind: Difference | None
    adjusted: float | None
    curves: Path | None

    @property
    def shown(self) -> bool:
        """Whether it is behind the best by more than noise."""
        return self.adjusted is not None and self.adjusted < LEVEL


@dataclass(frozen=True)
class GridSearch:
    """What `fit_grid` did.

    Attributes:
        candidates: Best first: by mean validation accuracy, then by mean validation log loss.
        images: Images of the validation part.
        winner: Keyword arguments with which `fit_head` fits the best candidate: its runs are there, so that only new
            seeds cost anything.
        cache: The cache.
        runs: RUNS.
        fitted: How many runs were fitted now; the others were there.
        seconds: Wall time of the whole stage.
        notes: What the user should know about these runs.
    """

    candidates: tuple[Candidate, ...]
    images: int
    winner: Mapping[str, Any]
    cache: Path
    runs: Path
    fitted: int
    seconds: float
    notes: tuple[str, ...]


def fit_grid(
    cache: Path | str,
    runs: Path | str,
    grid: Mapping[str, Sequence[Any]],
    *,
    head: str = "mlp",
    name: str | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    use_views: int = 1,
    split: str | Path | None = None,
    split_seed: int = 0,
    jobs: int | None = None,
    device: str = "cpu",
    memory: int | None = None,
    progress: Progress = SILENT,
    **parameters: Any,
) -> GridSearch:
    """Fit every combination of hyper-parameters for every seed, and rank them on the validation part.

    The test part is never looked at: neither its features nor its classes are read. Each combination is a
    configuration of its own, named after its values, and its runs are like any other.

    Args:
        cache: Folder of the feature cache.
        runs: Folder that the runs go to.
        grid: Hyper-parameter -> values to try.
        head: See `pipeline.fitting.fit_head`, as for all that follows.
        name: What the names of the combinations begin with; the head's name if not given.
        seeds: One run for each, of each combination.
        use_views: Views of each training image, of which every epoch draws one.
        split: How to split; it must have a validation part.
        split_seed: Seed of a drawn split.
        jobs: Runs that are fitted side by side; one a processor if not given.
        device: Where heads that use torch are fitted.
        memory: Bytes that fitting may take; features that do not fit are streamed, all combinations in one pass.
        progress: Told what happens.
        **parameters: Hyper-parameters that all combinations share.

    Returns:
        The combinations, ranked, and how to fit the best one.

    Raises:
        HeadError: A hyper-parameter or one of its values is unknown or unfit, or there is nothing to validate on.
        ManyheadsError: As `fit_head` raises it.
    """
    started = time.perf_counter()
    require_head(head)
    if use_views < 1:
        raise HeadError(f"{use_views} views are none: ask for 1, which is the plain image, or more.")
    name = head if name is None else name
    require_name(name)
    combinations = _combinations(grid, parameters)
    opened = FeatureCache.open(cache)
    source = Source.of_cache(opened)
    parts = make_split(source.index, split, split_seed)
    if not parts.rows["val"]:
        raise HeadError(
            f"The split ({parts.source}) has no validation part, and hyper-parameters are never chosen on test images. "
            "Ask for a split with one, such as `--split 80/10/10`."
        )
    asked = checked_seeds(seeds)
    names = [_name(name, values) for values in combinations]
    for each in names:
        require_name(each)
    folders = [Path(runs) / each for each in names]
    buffer = buffer_for(source, parts, head=head, views=use_views, device=device, memory=memory, folders=folders)
    plans = [
        make_plan(
            source,
            parts,
            Path(runs),
            head=head,
            name=each,
            seeds=asked,
            device=device,
            parameters={**parameters, **values},
            views=use_views,
            shuffle=buffer.text if buffer else ALL_ROWS,
        )
        for each, values in zip(names, combinations, strict=True)
    ]
    notes = plans[0].runs[0].notes
    for note in notes:
        progress.note(note)
    label = f"fitting {len(plans)} combinations"
    if buffer:
        fit_streamed(plans, source, parts, opened, buffer, jobs, progress, label)
    else:
        fit_missing(plans, source.index, parts, partial(fill_from, opened), jobs, progress, label)
    candidates = _rank(plans, combinations, Path(cache), progress)
    best = candidates[0]
    shared: dict[str, Any] = {
        "use_views": use_views,
        "split": split,
        "split_seed": split_seed,
        "device": device,
        "memory": memory,
    }
    if plans[0].runs[0].seeded:
        shared["seeds"] = asked
    usual = signature(fit_head).parameters
    told = {parameter: value for parameter, value in shared.items() if value != usual[parameter].default}
    return GridSearch(
        candidates=candidates,
        images=len(parts.rows["val"]),
        winner={"head": head, "name": best.name, **told, **parameters, **best.values},
        cache=Path(cache),
        runs=Path(runs),
        fitted=sum(len(plan.missing) for plan in plans),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _combinations(grid: Mapping[str, Sequence[Any]], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of the grid's values, the last parameter varying fastest."""
    if not grid:
        raise HeadError("A grid of no hyper-parameter has nothing to compare: name one, such as `--grid lr=1e-4,1e-3`.")
    for parameter, values in grid.items():
        texts = [value_text(parameter, value) for value in values]
        if parameter in parameters or parameter == "device":
            raise HeadError(
                f"{parameter} is given once for all combinations, so it cannot have values of the grid too."
            )
        if not texts:
            raise HeadError(f"The grid names no value of {parameter} to try: give one or more.")
        equal = any(one == other for one, other in itertools.combinations(values, 2))
        if equal or len(set(texts)) < len(texts):
            raise HeadError(f"The grid's values of {parameter} must be different; they are {', '.join(texts)}.")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _name(name: str, values: Mapping[str, Any]) -> str:
    # In one order, so that the same combination has the same name however the axes are given.
    return "_".join(
        [name, *(f"{parameter}={value_text(parameter, values[parameter])}" for parameter in sorted(values))]
    )


def _rank(
    plans: Sequence[Plan], combinations: Sequence[Mapping[str, Any]], cache: Path, progress: Progress
) -> tuple[Candidate, ...]:
    """Measure every run on the validation part, and order the combinations."""
    inputs = Inputs("val", cache)
    runs = [plan.fitted() for plan in plans]
    measured: list[list[Metrics]] = []
    correct: list[npt.NDArray[np.bool_]] = []
    with progress.steps("validating", sum(map(len, runs)), "runs") as advance:
        for members in runs:
            metrics, right = [], []
            for run in members:
                found = stored_predictions(run, "val") or predict_part(run, "val", inputs)
                metrics.append(measure(found.labels, found.predicted, found.probabilities, found.classes))
                right.append(found.correct)
                advance(1)
            measured.append(metrics)
            correct.append(np.stack(right))
    losses = [spread([one.log_loss for one in metrics]) for metrics in measured]
    # Means of counts: a mean of accuracies may differ in its last bit where the counts tie.
    means = [float(right.mean()) for right in correct]
    best, *others = order = sorted(range(len(plans)), key=lambda place: (-means[place], losses[place].mean))
    behind = {place: accuracy_difference(correct[best], correct[place]) for place in others}
    adjusted = dict(zip(behind, against_best([one.p for one in behind.values()]), strict=True))
    return tuple(
        Candidate(
            name=plans[place].runs[0].name,
            values=combinations[place],
            seeds=len(runs[place]),
            accuracy=spread([one.accuracy for one in measured[place]]),
            log_loss=losses[place],
            behind=behind.get(place),
            adjusted=adjusted.get(place),
            curves=draw_learning(runs[place], plans[place].folder),
        )
        for place in order
    )
