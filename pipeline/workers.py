"""Fitting several runs side by side, in processes that share one copy of the features."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cache import Entry, Index
from cache.atomic import remove_leftovers, require_room, scratch_folder
from pipeline.errors import HeadError
from pipeline.finishing import epochs_of, head_of, named, write_run
from pipeline.planning import Plan
from pipeline.processes import end_children, end_with, starting_children, working_children
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.split import Split
from pipeline.threads import one_thread
from pipeline.together import fit_groups, trained_together


class Fill(Protocol):
    """Writes the features of images, one a row, into an array: from a cache, or from pixels."""

    def __call__(
        self,
        entries: Sequence[Entry],
        views: Sequence[int],
        out: npt.NDArray[np.float32],
        advance: Callable[[int], None],
    ) -> None:
        """Fill `out` (n, D) with view `views[i]` of image `entries[i]` in row i."""


@dataclass(frozen=True)
class Rows:
    """The features that runs are fitted on, as a view of one memory-mapped file: no worker holds a copy.

    Attributes:
        train: (V, N, D): every view of each training image, view 0 first.
        train_labels: (N,) classes.
        val: (M, D): view 0 of the validation images.
        val_labels: (M,) classes.
    """

    train: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.str_]
    val: npt.NDArray[np.float32]
    val_labels: npt.NDArray[np.str_]

    @property
    def validation(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]] | tuple[None, None]:
        """The validation part as heads take it: none if it has no images."""
        return (self.val, self.val_labels) if len(self.val) else (None, None)

    def coded_validation(self, classes: Sequence[str]) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]]:
        """Return the validation part with the numbers of its classes among `classes`, which are sorted."""
        return [(self.val, np.searchsorted(classes, self.val_labels))]


def fit_missing(
    plans: Sequence[Plan],
    index: Index,
    split: Split,
    fill: Fill,
    jobs: int | None,
    progress: Progress,
    label: str,
) -> None:
    """Fit the runs that are missing, and write each one's folder when it is fitted.

    Args:
        plans: All on the same features: source, split and number of views.
        index: The images.
        split: Which of them train and validate.
        fill: Gives their features.
        jobs: Runs that are fitted side by side; one a processor if not given.
        progress: Told what happens.
        label: What is being fitted, for the progress.

    Raises:
        HeadError: A run cannot be fitted, or a process that was fitting one was killed.
        NoRoom: The disk cannot hold the shared copy of the features, or a run.
    """
    from joblib import Parallel, cpu_count, delayed

    if jobs is not None and jobs < 1:
        raise HeadError(f"{jobs} jobs cannot fit anything: ask for 1 or more.")
    work = [(run, plan.folder_of(run)) for plan in plans for run in plan.missing]
    if not work:
        return
    first, place = work[0][0], plans[0].folder
    jobs = min(jobs or cpu_count(), len(work))
    threads = max(1, cpu_count() // jobs)
    with _shared_rows(index, split, fill, first, place, progress) as rows:
        if trained_together(first):
            with progress.steps(label, sum(epochs_of(run) for run, _ in work), "epochs") as advance:
                fit_groups(work, rows, advance)
            return
        if jobs == 1:
            with progress.steps(label, sum(epochs_of(run) for run, _ in work), "epochs") as advance:
                for run, folder in work:
                    advance(epochs_of(run) - _fit_one(run, rows, folder, threads, lambda _: advance(1)))
            return
        # Results come as they are finished, so that an interrupt loses only the runs under way.
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        killed = HeadError(
            "A process that was fitting a run was killed from outside, most likely because memory ran out. Complete "
            "runs are kept: run the same command again with fewer runs side by side (`--jobs 1`)."
        )
        with progress.steps(label, len(work), "runs") as advance, _tidied(plans), working_children(killed):
            with starting_children():
                results = parallel(
                    delayed(_fit_in_worker)(os.getpid(), run, rows, folder, threads) for run, folder in work
                )
            for _ in results:
                advance(1)


@contextmanager
def _tidied(plans: Sequence[Plan]) -> Iterator[None]:
    """When one run fails, end the processes that are at work on others, and remove what they had begun to write."""
    try:
        yield
    except BaseException:
        end_children()
        for plan in plans:
            remove_leftovers(plan.folder)
        raise


@contextmanager
def _shared_rows(index: Index, split: Split, fill: Fill, run: Run, place: Path, progress: Progress) -> Iterator[Rows]:
    """Lay out the views of the training images, then the validation images, in one file that all workers read."""
    train, val = ([index.entries[row] for row in split.rows[part]] for part in ("train", "val"))
    entries = [*(entry for _ in range(run.views) for entry in train), *val]
    views = [*(view for view in range(run.views) for _ in train), *(0 for _ in val)]
    shape = (len(entries), run.recipe.dimension)
    with scratch_folder(place) as folder:
        require_room(folder, shape[0] * shape[1] * 4, "the workers' shared copy of the features")
        path = folder / "features.npy"
        features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with path.open("r+b") as file, suppress(AttributeError):  # macOS has no such call
            # A full disk must show here as an error: behind the map it would kill the process.
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        with progress.steps("reading features", len(entries), "rows") as advance:
            fill(entries, views, features, advance)
        features.flush()
        shared = np.load(path, mmap_mode="r")
        held = run.views * len(train)
        yield Rows(
            shared[:held].reshape(run.views, len(train), -1),
            np.array([entry.label for entry in train]),
            shared[held:],
            np.array([entry.label for entry in val]),
        )


def _fit_in_worker(parent: int, run: Run, rows: Rows, folder: Path, threads: int) -> None:
    """Fit one run in a process that does not outlive the one that started it."""
    end_with(parent)
    _fit_one(run, rows, folder, threads)


def _fit_one(
    run: Run,
    rows: Rows,
    folder: Path,
    threads: int,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> int:
    """Fit one run and write its folder, in a worker process or here; return how many epochs `on_epoch` heard of."""
    head = head_of(run)
    # Only heads that are trained in epochs can tell of them, draw another view in each, or share work among threads
    # without adding up in another order.
    watched: dict[str, Any] = {"on_epoch": on_epoch, "threads": threads} if "epochs" in run.parameters else {}
    if run.views > 1:
        watched["views"] = rows.train
    started = time.perf_counter()
    with one_thread(), named(run):
        head.fit(rows.train[0], rows.train_labels, *rows.validation, **watched)
    return write_run(run, head, folder, time.perf_counter() - started, rows.coded_validation(run.classes))
