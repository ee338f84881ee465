"""Stage two, `fit-head`: train heads from a cache, one run a seed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import Entry, FeatureCache
from pipeline.errors import HeadError
from pipeline.heads import HEADS, head_spec
from pipeline.planning import Plan, Source, checked_seeds, make_plan, require_name
from pipeline.progress import SILENT, Progress
from pipeline.resplits import fewer, splits_of
from pipeline.run import ALL_ROWS, Run, split_folder
from pipeline.statistics import Components, components
from pipeline.streaming import buffer_for, fit_streamed
from pipeline.workers import fit_missing


@dataclass(frozen=True)
class Fitting:
    """What a fitting stage did.

    Attributes:
        runs: Every run asked for, by split and seed.
        fitted: How many of them were fitted now; the others were there.
        seconds: Wall time of the whole stage.
        notes: What the user should know about these runs.
        curves: The picture of the learning curves; None for heads that are not trained in epochs.
        deviation: Standard deviations of the validation accuracy after the last epoch, between splits and between
            seeds; None on one split, and for heads that are not trained in epochs.
    """

    runs: tuple[Run, ...]
    fitted: int
    seconds: float
    notes: tuple[str, ...]
    curves: Path | None = None
    deviation: Components | None = None


def fit_head(
    cache: Path | str,
    runs: Path | str,
    *,
    head: str = "mlp",
    name: str | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    use_views: int = 1,
    split: str | Path | None = None,
    split_seed: int = 0,
    resplits: int | None = None,
    per_class: int | None = None,
    calibrate: bool = False,
    jobs: int | None = None,
    device: str = "cpu",
    memory: int | None = None,
    progress: Progress = SILENT,
    **parameters: Any,
) -> Fitting:
    """Fit one head per seed on the training part of a cache.

    A run's weights depend on its configuration, seed, machine and library versions alone: sums are always taken in the
    same order, so `jobs` changes nothing but the time. A run that exists is not fitted again.

    Args:
        cache: Folder of the feature cache.
        runs: Folder that the runs go to, as RUNS/NAME/seed-0000.
        head: Name of the head: `mlp`, `logistic`, `svm` or `knn`.
        name: Name of the configuration; the head's if not given.
        seeds: One run for each; a head that does not depend on the seed is fitted once, as seed 0.
        use_views: Views of each training image, of which every epoch draws one; 1 is view 0 alone. Validation and test
            are always on view 0.
        split: See `pipeline.split.make_split`.
        split_seed: Seed of a drawn split.
        resplits: Draw so many splits, with the seeds from `split_seed` on, and fit every seed on each of them, as
            RUNS/NAME/split-0000/seed-0000.
        per_class: Train on so many images of each class, drawn by `split_seed`; on all if not given.
        calibrate: Scale probabilities by a temperature that is fitted on the validation part, see
            `pipeline.calibration`; the classes that are named stay the same.
        jobs: Runs that are fitted side by side; one a processor if not given.
        device: Where heads that use torch are fitted: `cpu`, `cuda`, `cuda:1` or `auto`.
        memory: Bytes that fitting may take. Features that do not fit them, or the memory that is free, are streamed
            where the head is `mlp`: see `pipeline.streaming`.
        progress: Told what happens.
        **parameters: Hyper-parameters of the head that differ from its defaults.

    Returns:
        The runs and what was done for them.

    Raises:
        CacheError: The cache cannot be read, or lacks views that are asked for.
        SplitError: The split does not fit the cache's images.
        HeadError: The head or a hyper-parameter is unknown or unfit.
        RunError: A run of that name exists and was fitted otherwise.
        NoRoom: The disk cannot hold the shared copy of the features, or a run.
    """
    started = time.perf_counter()
    require_head(head)
    if use_views < 1:
        raise HeadError(f"{use_views} views are none: ask for 1, which is the plain image, or more.")
    asked = checked_seeds(seeds)
    opened = FeatureCache.open(cache)
    source = Source.of_cache(opened)
    name = head if name is None else name
    require_name(name)
    splits = splits_of(source.index, split, split_seed, resplits)
    if per_class is not None:
        drawn = {number: split_seed if number is None else number for number in splits}
        splits = {number: fewer(source.index, one, per_class, drawn[number]) for number, one in splits.items()}
    plans, buffers = [], []
    for number, parts in splits.items():
        folder = Path(runs) / name / split_folder(number)
        buffer = buffer_for(source, parts, head=head, views=use_views, device=device, memory=memory, folders=[folder])
        buffers.append(buffer)
        plans.append(
            make_plan(
                source,
                parts,
                Path(runs),
                head=head,
                name=name,
                seeds=asked,
                device=device,
                parameters=parameters,
                views=use_views,
                shuffle=buffer.text if buffer else ALL_ROWS,
                resplit=number,
                calibrated=calibrate,
            )
        )
    notes = tuple(dict.fromkeys(note for plan in plans for note in plan.runs[0].notes))
    if not plans[0].runs[0].seeded and len(asked) > 1:
        notes = (*notes, f"{head} does not depend on the seed: fitted once, as seed 0")
    for note in notes:
        progress.note(note)
    for count, (plan, parts, buffer) in enumerate(zip(plans, splits.values(), buffers, strict=True), 1):
        label = f"fitting {name}" + (f", split {count} of {len(plans)}" if resplits is not None else "")
        if buffer:
            fit_streamed([plan], source, parts, opened, buffer, jobs, progress, label)
        else:
            fit_missing([plan], source.index, parts, partial(fill_from, opened), jobs, progress, label)
    return fitting_of(plans, notes, started, progress)


def require_head(head: str) -> None:
    """Refuse a name that is no head's, a baseline's too.

    Raises:
        HeadError: Names the heads that there are.
    """
    if head not in HEADS:
        head_spec(head)
        raise HeadError(f"{head!r} is a baseline with a stage of its own, no head: the heads are {', '.join(HEADS)}.")


def fill_from(
    cache: FeatureCache,
    entries: Sequence[Entry],
    views: Sequence[int],
    out: npt.NDArray[np.float32],
    advance: Callable[[int], None],
) -> None:
    """Fill an array with the features that a cache holds: `pipeline.workers.Fill`, but for its first argument.

    Raises:
        CacheError: The cache lacks one of them, or is damaged.
    """
    cache.read([entry.digest for entry in entries], out, advance, views=views)


def fitting_of(plans: Sequence[Plan], notes: tuple[str, ...], started: float, progress: Progress) -> Fitting:
    """Tell what was done for plans of one name whose runs are all there now; draws their learning curves."""
    fitted = tuple(run for plan in plans for run in plan.fitted())
    if slow := _hardly_learned(fitted):
        progress.note(slow)
        notes = (*notes, slow)
    return Fitting(
        runs=fitted,
        fitted=sum(len(plan.missing) for plan in plans),
        seconds=time.perf_counter() - started,
        notes=notes,
        curves=draw_learning(fitted, fitted[0].name_folder),
        deviation=_deviation(fitted),
    )


def _deviation(runs: Sequence[Run]) -> Components | None:
    """Tell noise of the data from noise of training, where there are several splits."""
    figures: dict[int | None, list[float]] = {}
    for run in runs:
        last = run.history[-1]["val_accuracy"] if run.history else None
        if last is None:
            return None
        figures.setdefault(run.resplit, []).append(last)
    return components(list(figures.values())) if len(figures) > 1 else None


def draw_learning(runs: Sequence[Run], folder: Path) -> Path | None:
    """Draw the learning curves of runs of one name into their folder; None where there are no epochs.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    histories = [run.history for run in runs if run.history]
    if not histories:
        return None
    from pipeline.figures import draw_curves

    many = "seeds" if runs[0].resplit is None else "runs on several splits"
    seeds = f"{len(histories)} {many}" if len(histories) > 1 else f"seed {runs[0].seed}"
    title = f"{runs[0].name}, learning curves, {seeds}"
    return draw_curves({runs[0].name: histories}, title, folder / "learning-curves.png")


def _hardly_learned(runs: Sequence[Run]) -> str:
    """Say so if the training loss of the runs, on average, has kept more than four fifths of what it began with."""
    ends = [(run.history[0]["train_loss"] or 0, run.history[-1]["train_loss"] or 0) for run in runs if run.history]
    first, last = (sum(losses) / len(ends) for losses in zip(*ends, strict=True)) if ends else (0, 0)
    if last <= 0.8 * first:
        return ""
    return (
        f"the training loss of {runs[0].name} hardly fell, from {first:.2f} to {last:.2f}: with few images, more "
        "epochs or a higher learning rate may be needed"
    )
