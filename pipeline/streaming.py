"""Features larger than memory: an epoch is one pass over a file, and all runs that are missing share it.

The file is a copy of the features in an order of chance, in the format in which the cache stores them. It is read in
pieces, in an order that is the same for all runs and other in every epoch. They fill a shuffle buffer; when it is full,
each run draws an order of its own for the rows in it and trains on them, batch by batch. What does not fill a batch
waits for the next buffer. So a run depends on its seed, its configuration and the size of the buffer, and never on what
is trained beside it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache import FeatureCache
from cache.atomic import human_size, scratch_folder
from pipeline.errors import HeadError
from pipeline.finishing import epochs_of, head_of, named, write_run
from pipeline.heads import COPIES, Diverged
from pipeline.memory import enough_memory, free_memory
from pipeline.planning import Plan, Source
from pipeline.progress import Progress
from pipeline.run import ALL_ROWS, Run
from pipeline.split import Split
from pipeline.threads import one_thread

if TYPE_CHECKING:
    from pipeline.stream import Part

LEAST_ROWS = 128  # of a shuffle buffer


@dataclass(frozen=True)
class Buffer:
    """How features that do not fit memory are shuffled.

    Attributes:
        rows: How many the buffer holds.
        room: Bytes that are left for heads.
    """

    rows: int
    room: int

    @property
    def text(self) -> str:
        """What a run says about it; runs of another buffer are other runs."""
        return f"{self.rows} rows at a time"


def buffer_for(
    source: Source,
    split: Split,
    *,
    head: str,
    views: int,
    device: str,
    memory: int | None,
    folders: Sequence[Path] = (),
) -> Buffer | None:
    """Decide whether features are streamed, and through how large a buffer.

    If no memory is given, runs that stand decide: the same command goes on as it began, whatever is free now.

    Args:
        source: What runs are trained from.
        split: Which images train and validate.
        head: Name of the head.
        views: Views of each training image.
        device: Where it is fitted.
        memory: Bytes that fitting may take; half of those that are free if not given.
        folders: Where the runs go, RUNS/NAME each.

    Returns:
        The buffer; None where the features fit, or where the head cannot be trained from a stream and no memory was
        given.

    Raises:
        HeadError: The memory that was given, or is free, does not do.
        BaseError: The machine has no such device.
        RunError: A run that stands is damaged.
    """
    n = views * len(split.rows["train"]) + len(split.rows["val"])
    held = n * source.recipe.dimension * 4
    free, row_bytes = free_memory(), source.recipe.row_bytes
    stands = _shuffle_of(folders) if memory is None else None
    if stands == ALL_ROWS or (stands is None and held <= (free if memory is None else min(memory, free))):
        return None
    if head != "mlp" or views > 1 or not _on_cpu(device):
        if memory is None:
            return None
        why = "is not trained batch by batch" if head != "mlp" else "cannot be streamed from several views or to a GPU"
        raise HeadError(
            f"The features of {n} rows take {human_size(held)} in memory, and the limit is {human_size(memory)} "
            f"({human_size(free)} are free), but {head} {why}. Give more with `--memory`, leave it out, or fit `mlp` "
            "with `--device cpu` and without `--use-views`."
        )
    if found := re.fullmatch(r"([1-9]\d*) rows at a time", stands or ""):
        rows = int(found[1])
        if min(rows, n) * row_bytes > free:
            raise HeadError(
                f"Runs of this name are there already and were shuffled {rows} rows at a time, which take "
                f"{human_size(min(rows, n) * row_bytes)} of memory, and {human_size(free)} are free. Free some, or "
                "give the new runs another name with `--name`."
            )
        return Buffer(rows, free // 2)
    memory = free // 2 if memory is None else min(memory, free)
    rows = memory // 2 // row_bytes
    # A power of two, so that about the same memory gives the same buffer, and so the same runs.
    rows = 2 ** (rows.bit_length() - 1) if rows else 0
    if rows < LEAST_ROWS:
        least = 2 * LEAST_ROWS * row_bytes
        mend = "" if free >= least else f" Only {human_size(free)} are free: free as much first."
        raise HeadError(
            f"{human_size(memory)} of memory are too little to train in: half of it must hold {LEAST_ROWS} rows of "
            f"{human_size(row_bytes)}. Give {human_size(least)} or more with `--memory`.{mend}"
        )
    return Buffer(rows, memory // 2)


def _on_cpu(device: str) -> bool:
    from pipeline.base import choose_device

    return choose_device(device).type == "cpu"


def _shuffle_of(folders: Sequence[Path]) -> str | None:
    """Return how the first run that stands was shuffled; None if there is none."""
    for folder in folders:
        for document in sorted(folder.glob("seed-*/run.json")):
            return Run.read(document.parent).shuffle
    return None


def fit_streamed(
    plans: Sequence[Plan],
    source: Source,
    split: Split,
    cache: FeatureCache,
    buffer: Buffer,
    jobs: int | None,
    progress: Progress,
    label: str,
) -> None:
    """Fit the runs that are missing from one pass over a file an epoch, and write each one's folder when it is fitted.

    A run that diverges ends alone, and is told of when the others are written.

    Args:
        plans: All of the head `mlp` on the CPU, on the same source and split.
        source: What they are trained from.
        split: Which image trains and validates.
        cache: The cache that holds the features.
        buffer: How they are shuffled.
        jobs: Runs that were to be fitted side by side; all share one process, so that it changes nothing.
        progress: Told what happens.
        label: What is being fitted, for the progress.

    Raises:
        HeadError: A run cannot be fitted.
        CacheError: The cache lacks a feature, or is damaged.
        NoRoom: The disk is full or read-only.
    """
    from pipeline.stream import Part

    if jobs is not None and jobs < 1:
        raise HeadError(f"{jobs} jobs cannot fit anything: ask for 1 or more.")
    work = [(run, plan.folder_of(run)) for plan in plans for run in plan.missing]
    if not work:
        return
    if not split.rows["val"] and any(run.parameters["patience"] is not None for run, _ in work):
        raise HeadError("patience needs a validation part: ask for a split with one, such as `--split 80/10/10`.")
    entries = {part: [source.index.entries[row] for row in split.rows[part]] for part in ("train", "val")}
    classes = sorted({entry.label for entry in entries["train"]})
    rows = {part: len(some) for part, some in entries.items()}
    progress.note(
        "the features take more than the memory that may be used, or runs of this name are streamed: a shuffled copy "
        f"of them is read in every epoch, {buffer.rows} rows at a time"
    )
    if jobs is not None and jobs > 1:
        progress.note(f"`--jobs {jobs}` changes nothing here: runs share that pass in one process, with all processors")
    groups = list(_groups(work, source.recipe.dimension, len(classes), buffer))
    # Each group fills the buffer once before it trains.
    total = sum(epochs_of(run) for run, _ in work) * rows["train"] + len(groups) * min(buffer.rows, rows["train"])
    failed: tuple[Run, Diverged] | None = None
    with scratch_folder(plans[0].folder) as scratch:
        with progress.steps("copying features", sum(rows.values()), "rows") as advance:
            parts = {part: Part(scratch / part, cache, some, classes, advance) for part, some in entries.items()}
        with progress.steps(label, total, "rows") as advance:
            for group in groups:
                diverged = _fit_group(group, parts, classes, buffer, advance)
                if diverged is not None:
                    failed = failed or (group[diverged.number][0], diverged)
    if failed is not None:
        run, error = failed
        error.number = 0  # of the one that is named
        with named(run):
            raise error


def _fit_group(
    group: Sequence[tuple[Run, Path]],
    parts: Mapping[str, Part],
    classes: Sequence[str],
    buffer: Buffer,
    advance: Callable[[int], None],
) -> Diverged | None:
    """Fit runs side by side, and write each one's folder when it is fitted; return the failure of one that diverged."""
    from joblib import cpu_count

    from pipeline.heads.course import train
    from pipeline.heads.descent import Pool
    from pipeline.stream import Streamed

    started, rows = time.perf_counter(), parts["train"].rows
    heads = [head_of(run) for run, _ in group]
    for head in heads:
        head.classes_, head.n_features_in_ = np.array(classes), parts["train"].dimension

    def write(number: int) -> None:
        run, folder = group[number]
        validation = ((rows.numpy(), codes.numpy()) for rows, codes in parts["val"].read())
        epochs = write_run(run, heads[number], folder, (time.perf_counter() - started) / len(group), validation)
        advance((epochs_of(run) - epochs) * rows)

    no_room = heads[0].no_room(rows)
    with one_thread(), Pool(cpu_count()) as pool, named(*(run for run, _ in group)), enough_memory(no_room):
        starts = [head.begin() for head in heads]
        trainer = Streamed(starts, parts["train"], parts["val"], buffer.rows, pool, advance)
        try:
            train(heads, trainer, on_end=write)
        except Diverged as error:
            return error
    return None


def _groups(
    work: Sequence[tuple[Run, Path]], dimension: int, classes: int, buffer: Buffer
) -> Iterator[Sequence[tuple[Run, Path]]]:
    """Cut the runs into groups whose heads fit the half of the memory that the buffer leaves, one at least."""
    from pipeline.heads.mlp import layer_sizes

    group: list[tuple[Run, Path]] = []
    taken = 0
    for run, folder in work:
        sizes = layer_sizes(dimension, classes, run.parameters["hidden"])
        head = COPIES * 4 * sum(wide * narrow for wide, narrow in pairwise(sizes))
        if group and taken + head > buffer.room:
            yield group
            group, taken = [], 0
        group.append((run, folder))
        taken += head
    yield group
