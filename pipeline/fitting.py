"""Stage two, `fit-head`: train heads from a cache, one run a seed."""

import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import FeatureCache, Index, NoRoom
from cache.atomic import remove_leftovers, require_room, scratch_folder, writing_folder
from pipeline.environment import machine, versions
from pipeline.errors import HeadError, RunError
from pipeline.heads import HEADS, head_parameters, make_head
from pipeline.progress import SILENT, Progress
from pipeline.run import Run, folder_name, images_of
from pipeline.split import Split, make_split

SEEDS_BELOW = 2**32  # NumPy's and scikit-learn's limit


@dataclass(frozen=True)
class Fitting:
    """What `fit_head` did.

    Attributes:
        runs: Every run asked for, by seed.
        fitted: How many of them were fitted now; the others were there.
        seconds: Wall time of the whole stage.
        notes: What the user should know about these runs.
    """

    runs: tuple[Run, ...]
    fitted: int
    seconds: float
    notes: tuple[str, ...]


def fit_head(
    cache: Path | str,
    runs: Path | str,
    *,
    head: str = "mlp",
    name: str | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    split: str | Path | None = None,
    split_seed: int = 0,
    jobs: int | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
    **parameters: Any,
) -> Fitting:
    """Fit one head per seed on the training part of a cache.

    A run's weights depend on its configuration, seed, machine and library versions alone: each fit runs in one thread,
    so `jobs` changes nothing but the time. A run that exists is not fitted again.

    Args:
        cache: Folder of the feature cache.
        runs: Folder that the runs go to, as RUNS/NAME/seed-0000.
        head: Name of the head: `mlp`, `logistic`, `svm` or `knn`.
        name: Name of the configuration; the head's if not given.
        seeds: One run for each; a head that does not depend on the seed is fitted once, as seed 0.
        split: See `pipeline.split.make_split`.
        split_seed: Seed of a drawn split.
        jobs: Runs that are fitted side by side; one a processor if not given.
        device: Where heads that use torch are fitted: `cpu`, `cuda`, `cuda:1` or `auto`.
        progress: Told what happens.
        **parameters: Hyper-parameters of the head that differ from its defaults.

    Returns:
        The runs and what was done for them.

    Raises:
        CacheError: The cache cannot be read.
        SplitError: The split does not fit the cache's images.
        HeadError: The head or a hyper-parameter is unknown or unfit.
        RunError: A run of that name exists and was fitted otherwise.
        NoRoom: The disk cannot hold the shared copy of the features, or a run.
    """
    started = time.perf_counter()
    runs, name = Path(runs), head if name is None else name
    _require_name(name)
    if head not in HEADS:
        make_head(head)  # raises, and names what there is
    seeds = tuple(operator.index(seed) for seed in seeds)
    if not seeds or min(seeds) < 0 or max(seeds) >= SEEDS_BELOW or len(set(seeds)) < len(seeds):
        raise HeadError(f"The seeds {list(seeds)} are not a list of different whole numbers from 0 to 2^32 - 1.")
    if jobs is not None and jobs < 1:
        raise HeadError(f"{jobs} jobs cannot fit anything: ask for 1 or more.")
    opened = FeatureCache.open(cache)
    index = opened.index()
    parts = make_split(index, split, split_seed)
    notes = _notes(opened, index, parts)
    asked_seeds = len(seeds)
    seeds = seeds if HEADS[head].seeded else (0,)
    full = _all_parameters(head, device, parameters)
    first = _plan(opened, index, parts, head, name, seeds[0], full, notes)
    planned = [replace(first, seed=seed) for seed in seeds]
    seed_note = f"{head} does not depend on the seed: fitted once, as seed 0"
    said = notes if HEADS[head].seeded or asked_seeds == 1 else (*notes, seed_note)
    for note in said:
        progress.note(note)

    remove_leftovers(runs / name)
    folders = {run.seed: runs / name / folder_name(run.seed) for run in planned}
    missing = [run for run in planned if not folders[run.seed].exists()]
    _require_one_configuration(runs / name, [folders[run.seed] for run in planned if run not in missing], planned[0])
    if missing:
        _fit_all(opened, index, parts, missing, folders, jobs, progress)
    fitted = tuple(Run.read(folders[run.seed]) for run in planned)
    if slow := _hardly_learned(fitted):
        progress.note(slow)
        said = (*said, slow)
    return Fitting(runs=fitted, fitted=len(missing), seconds=time.perf_counter() - started, notes=said)


def _fit_all(
    cache: FeatureCache,
    index: Index,
    split: Split,
    planned: Sequence[Run],
    folders: Mapping[int, Path],
    jobs: int | None,
    progress: Progress,
) -> None:
    from joblib import Parallel, cpu_count, delayed

    jobs = min(jobs or cpu_count(), len(planned))
    label, sizes = f"fitting {planned[0].name}", (len(split.rows["train"]), len(split.rows["val"]))
    with _shared_features(cache, index, split, folders[planned[0].seed].parent, progress) as (features, labels):
        if jobs == 1:
            epochs = planned[0].parameters.get("epochs", 1)
            with progress.steps(label, len(planned) * epochs, "epochs") as advance:
                for run in planned:
                    done = _fit_one(run, features, labels, sizes, folders[run.seed], lambda _: advance(1))
                    advance(epochs - done)
            return
        work = (delayed(_fit_one)(run, features, labels, sizes, folders[run.seed]) for run in planned)
        # Results come as they are finished, so that an interrupt loses only the runs under way.
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        with progress.steps(label, len(planned), "runs") as advance, _workers():
            for _ in parallel(work):
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
def _shared_features(
    cache: FeatureCache, index: Index, split: Split, place: Path, progress: Progress
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]]:
    """Lay out training, then validation features in one memory-mapped file that all workers read.

    Neighbouring rows of each part make its features a view of the map: no worker holds a copy.
    """
    rows = [*split.rows["train"], *split.rows["val"]]
    entries = [index.entries[row] for row in rows]
    shape = (len(rows), cache.recipe.dimension)
    with scratch_folder(place) as folder:
        require_room(folder, shape[0] * shape[1] * 4, "the workers' shared copy of the features")
        path = folder / "features.npy"
        features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with path.open("r+b") as file, suppress(AttributeError):  # macOS has no such call
            # A full disk must show here as an error: behind the map it would kill the process.
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        with progress.steps("reading features", len(rows), "rows") as advance:
            cache.read([entry.digest for entry in entries], features, advance)
        features.flush()
        yield np.load(path, mmap_mode="r"), np.array([entry.label for entry in entries])


def _fit_one(
    run: Run,
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.str_],
    sizes: tuple[int, int],
    folder: Path,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> int:
    """Fit one run and write its folder, in a worker process or here; return how many epochs `on_epoch` heard of."""
    from pipeline.heads.storage import save_head

    train, held = sizes[0], sizes[0] + sizes[1]
    validation = (features[train:held], labels[train:held]) if sizes[1] else (None, None)
    options = {**run.parameters, **({"device": run.device} if "device" in head_parameters(run.head) else {})}
    head = make_head(run.head, seed=run.seed, **options)
    started = time.perf_counter()
    with one_thread():
        # Only heads that are trained in epochs can tell of them.
        watched = {"on_epoch": on_epoch} if on_epoch and "epochs" in run.parameters else {}
        head.fit(features[:train], labels[:train], *validation, **watched)
    history = tuple(getattr(head, "history_", ()))
    fitted = replace(run, timings={"fit": time.perf_counter() - started}, history=history)
    try:
        with writing_folder(folder) as temporary:
            save_head(head, temporary)
            fitted.write(temporary)
    except (OSError, NoRoom):
        # Another process has fitted the same run meanwhile: it is the same, and whole.
        if not folder.exists():
            raise
    return len(history)


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


def _plan(
    cache: FeatureCache,
    index: Index,
    split: Split,
    head: str,
    name: str,
    seed: int,
    parameters: Mapping[str, Any],
    notes: tuple[str, ...],
) -> Run:
    """Describe a run before it is fitted."""
    settings = dict(parameters)
    return Run(
        name=name,
        head=head,
        seed=seed,
        seeded=HEADS[head].seeded,
        device=settings.pop("device", "cpu"),
        parameters=settings,
        classes=tuple(sorted({index.entries[row].label for row in split.rows["train"]})),
        recipe=cache.recipe,
        cache=str(cache.path.absolute()),
        split=split.source,
        images=images_of(split, [entry.path for entry in index.entries]),
        digests=split.digests,
        notes=notes,
        versions=versions(),
        machine=machine(),
        timings={},
    )


def _all_parameters(head: str, device: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return every hyper-parameter of a head, checked, with the device where it has one."""
    known = head_parameters(head)
    if "seed" in asked:
        raise HeadError("The seed of a run is no hyper-parameter: ask for `seeds`, such as `--seeds 3`.")
    if "device" in known:
        from pipeline.base import choose_device

        asked = {**asked, "device": str(choose_device(device))}
    values = make_head(head, **asked).get_params()
    return {name: _plain(values[name]) for name in known}


def _notes(cache: FeatureCache, index: Index, split: Split) -> tuple[str, ...]:
    notes = list(split.notes)
    if cache.recipe.random_weights:
        notes.append(
            f"the features come from {cache.recipe.base} with random weights ({cache.recipe.weights}): "
            "it was never trained, so these figures show what the head alone can do, not transfer learning"
        )
    if index.skipped:
        notes.append(f"{len(index.skipped)} images have no features: they could not be read when they were extracted")
    return tuple(notes)


def _hardly_learned(runs: Sequence[Run]) -> str:
    """Say so if the training loss of the runs, on average, has kept more than four fifths of what it began with."""
    ends = [(run.history[0]["train_loss"] or 0, run.history[-1]["train_loss"] or 0) for run in runs if run.history]
    first, last = (sum(losses) / len(ends) for losses in zip(*ends, strict=True)) if ends else (0, 0)
    if last <= 0.8 * first:
        return ""
    return (
        f"the training loss hardly fell, from {first:.2f} to {last:.2f}: with few images, more epochs or a higher "
        "learning rate (--epochs 60, --lr 1e-3) may be needed"
    )


def _require_name(name: str) -> None:
    if (
        not name.isprintable()
        or name.startswith(".")
        or "/" in name
        or "\\" in name
        or not 0 < len(name.encode()) < 200
    ):
        raise RunError(
            f"{name!r} cannot name runs: a name is a folder's, of 1 to 199 bytes, without slashes, control characters "
            "or a leading dot. Choose another with `--name`."
        )


def _require_one_configuration(folder: Path, asked: Sequence[Path], planned: Run) -> None:
    """Refuse to put runs of another configuration beside those that a name has, or to keep what is no run."""
    for path in sorted({*asked, *(document.parent for document in folder.glob("seed-*/run.json"))}):
        Run.read(path).require_same(planned)


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and tuples into what JSON can hold."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
