"""Fitting several runs side by side, in processes that share one copy of the features."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cache import Entry, Index, NoRoom
from cache.atomic import require_room, scratch_folder, writing_folder
from pipeline.errors import HeadError
from pipeline.heads import head_parameters, make_head
from pipeline.planning import Plan
from pipeline.progress import Progress
from pipeline.reading import file_digest
from pipeline.run import Run
from pipeline.split import Split


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
    with _shared_rows(index, split, fill, first, place, progress) as rows:
        if jobs == 1:
            epochs = [int(run.parameters.get("epochs") or 1) for run, _ in work]
            with progress.steps(label, sum(epochs), "epochs") as advance:
                for (run, folder), planned in zip(work, epochs, strict=True):
                    advance(planned - _fit_one(run, rows, folder, lambda _: advance(1)))
            return
        # Results come as they are finished, so that an interrupt loses only the runs under way.
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        with progress.steps(label, len(work), "runs") as advance, _workers():
            with _deaf_children():
                results = parallel(delayed(_fit_in_worker)(os.getpid(), run, rows, folder) for run, folder in work)
            for _ in results:
                advance(1)


@contextmanager
def _workers() -> Iterator[None]:
    """End the worker processes at once when interrupted; say what it means that one of them is gone."""
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        yield
    except KeyboardInterrupt:
        # kill_workers here too: asked for with other arguments, loky first ends the executor at work, and would wait.
        get_reusable_executor(kill_workers=True).shutdown(wait=True, kill_workers=True)
        raise
    except TerminatedWorkerError as error:
        raise HeadError(
            "A process that was fitting a run was killed from outside, most likely because memory ran out. Complete "
            "runs are kept: run the same command again with fewer runs side by side (`--jobs 1`)."
        ) from error


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Start processes whom Ctrl-C in a terminal, which reaches all of them, does not break off in their imports."""
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as lokys

    for tracker in (resource_tracker, lokys):
        tracker.ensure_running()  # now, for whoever starts one lets the signal through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # they inherit it; here it only waits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


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


def _fit_in_worker(parent: int, run: Run, rows: Rows, folder: Path) -> None:
    """Fit one run in a process that does not outlive the one that started it."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _fit_one(run, rows, folder)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _fit_one(run: Run, rows: Rows, folder: Path, on_epoch: Callable[[Mapping[str, Any]], None] | None = None) -> int:
    """Fit one run and write its folder, in a worker process or here; return how many epochs `on_epoch` heard of."""
    from pipeline.heads.storage import save_head

    validation = (rows.val, rows.val_labels) if len(rows.val) else (None, None)
    options = {**run.parameters, **({"device": run.device} if "device" in head_parameters(run.head) else {})}
    head = make_head(run.head, seed=run.seed, **options)
    # Only heads that are trained in epochs can tell of them, or draw another view in each.
    watched: dict[str, Any] = {"on_epoch": on_epoch} if on_epoch and "epochs" in run.parameters else {}
    if run.views > 1:
        watched["views"] = rows.train
    started = time.perf_counter()
    with one_thread(), _named(run):
        head.fit(rows.train[0], rows.train_labels, *validation, **watched)
    history = tuple(getattr(head, "history_", ()))
    fitted = replace(run, timings={"fit": time.perf_counter() - started}, history=history)
    try:
        with writing_folder(folder) as temporary:
            model = save_head(head, temporary)
            replace(fitted, model={model: file_digest(temporary / model)}).write(temporary)
    except (OSError, NoRoom):
        # Another process has fitted the same run meanwhile: it is the same, and whole.
        if not folder.exists():
            raise
    return len(history)


@contextmanager
def _named(run: Run) -> Iterator[None]:
    """Say which of many runs it is that cannot be fitted."""
    try:
        yield
    except HeadError as error:
        raise HeadError(
            f"{run.label} cannot be fitted: {error} Runs that are complete are kept; leave this value out, and run the "
            "command again."
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: sums are then always taken in the same order, whatever runs beside."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
