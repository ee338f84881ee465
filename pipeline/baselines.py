"""The paper's two baselines as stages: `fit-scratch` and `fit-mlp` train on the pixels of an image set.

Their runs have the format of all others, so that `evaluate`, `predict` and every comparison treat all models alike.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache import Entry, Index
from cache.atomic import writing_folder
from cache.lock import locked
from pipeline.augmentation import AUGMENTATION
from pipeline.environment import decoders, native_precisions
from pipeline.errors import HeadError
from pipeline.fitting import Fitting, fitting_of
from pipeline.heads import make_head
from pipeline.heads.storage import TENSORS, save_head
from pipeline.image_set import require_apart
from pipeline.pixels import (
    SIDE,
    Pictures,
    pixel_recipe,
    pixel_transform,
    read_index,
    read_pixels,
    require_decodable,
)
from pipeline.planning import Plan, Source, checked_seeds, make_plan, require_name
from pipeline.progress import SILENT, Progress
from pipeline.reading import file_digest
from pipeline.resplits import splits_of
from pipeline.run import Run
from pipeline.split import Split
from pipeline.transform import Transform
from pipeline.workers import fit_missing

if TYPE_CHECKING:
    from pipeline.training import Trained

BEST = "best.safetensors"


def fit_mlp(
    images: Path | str,
    runs: Path | str,
    *,
    name: str = "pixel-mlp",
    seeds: Sequence[int] = tuple(range(10)),
    use_views: int = 1,
    image_size: int = SIDE,
    split: str | Path | None = None,
    split_seed: int = 0,
    resplits: int | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    on_error: Literal["fail", "skip"] = "fail",
    progress: Progress = SILENT,
    **parameters: Any,
) -> Fitting:
    """Fit the paper's multilayer perceptron on raw pixels: three hidden layers, the same recipe as the head's.

    Every view is decoded once, into a temporary file that all runs read, whatever the number of seeds and epochs.

    Args:
        images: Folder of the image set.
        runs: Folder that the runs go to, as RUNS/NAME/seed-0000.
        name: Name of the configuration.
        seeds: One run for each.
        use_views: Views of each training image (see `pipeline.augmentation`), of which every epoch draws one; 1 is the
            plain image alone.
        image_size: Side of the images in pixels, so that 3 * image_size * image_size numbers go in.
        split: See `pipeline.split.make_split`.
        split_seed: Seed of a drawn split.
        resplits: Draw so many splits, see `pipeline.fitting.fit_head`.
        jobs: Runs that are fitted side by side; one a processor if not given.
        device: Where to train: `cpu`, `cuda`, `cuda:1` or `auto`.
        on_error: What unreadable images mean: `fail` raises, `skip` leaves them out.
        progress: Told what happens.
        **parameters: Hyper-parameters that differ from the head's defaults, see `pipeline.heads.mlp.MLPHead`.

    Returns:
        The runs and what was done for them.

    Raises:
        ImageSetError: The folder is not an image set, or none of its images can be read.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`.
        SplitError: The split does not fit the images.
        HeadError: A hyper-parameter is unknown or unfit.
        RunError: A run of that name exists and was fitted otherwise.
        NoRoom: The disk cannot hold the decoded pixels, or a run.
    """
    started = time.perf_counter()
    if image_size < 1 or use_views < 1:
        raise HeadError(f"Images of {image_size} pixels and {use_views} views: both must be 1 or more.")
    asked = checked_seeds(seeds)
    _checked("pixel-mlp", name, device, parameters)
    transform = pixel_transform(image_size)
    source, planned = _plan(
        images,
        transform,
        split,
        split_seed,
        on_error,
        progress,
        runs,
        resplits=resplits,
        head="pixel-mlp",
        name=name,
        seeds=asked,
        device=device,
        parameters=parameters,
        views=use_views,
    )
    fill = partial(_fill, Path(source.index.images), transform)
    for count, (parts, plan) in enumerate(planned, 1):
        label = f"fitting {name}" + (f", split {count} of {len(planned)}" if resplits is not None else "")
        fit_missing([plan], source.index, parts, fill, jobs, progress, label)
    return fitting_of([plan for _, plan in planned], _notes(planned), started, progress)


def fit_scratch(
    images: Path | str,
    runs: Path | str,
    *,
    name: str = "scratch",
    seeds: Sequence[int] = (0,),
    precision: str = "auto",
    split: str | Path | None = None,
    split_seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    progress: Progress = SILENT,
    **parameters: Any,
) -> Fitting:
    """Train VGG16 with the paper's head from scratch, every weight, on augmented images.

    Long work: each epoch leaves a checkpoint, and the same call goes on from the last one to the same result as an
    undisturbed training. The run keeps the last epoch's weights, as the paper did, and beside them the best epoch's.

    Args:
        images: Folder of the image set.
        runs: Folder that the runs go to, as RUNS/NAME/seed-0000.
        name: Name of the configuration.
        seeds: One run for each, trained one after the other.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 or else fp16 where the device has it natively.
        split: See `pipeline.split.make_split`.
        split_seed: Seed of a drawn split.
        device: Where to train: `auto`, `cpu`, `cuda` or `cuda:1`.
        workers: Processes that decode beside the training; if not given, none on a CPU, which is busy, and as many as
            processors, at most 16, on a GPU. They change no bit of the result.
        on_error: What unreadable images mean: `fail` raises, `skip` leaves them out.
        progress: Told what happens.
        **parameters: Parameters that differ from the paper's, see `pipeline.heads.vgg.VGGNetwork`.

    Returns:
        The runs and what was done for them.

    Raises:
        ImageSetError: The folder is not an image set, or none of its images can be read.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`.
        SplitError: The split does not fit the images.
        HeadError: A parameter is unknown or unfit, or the training diverged.
        RunError: A run or checkpoint of that name was made otherwise, or an image is gone.
        NoRoom: The disk cannot hold a checkpoint or a run.
    """
    from pipeline.base import choose_device

    started = time.perf_counter()
    if workers is not None and workers < 0:
        raise HeadError(f"{workers} workers cannot decode anything: ask for 0, to decode between the steps, or more.")
    asked = checked_seeds(seeds)
    chosen = choose_device(device)
    parameters = {**parameters, "precision": _precision(precision, str(chosen))}
    transform = pixel_transform(_checked("scratch", name, device, parameters).image_size)
    source, ((parts, plan),) = _plan(
        images,
        transform,
        split,
        split_seed,
        on_error,
        progress,
        runs,
        head="scratch",
        name=name,
        seeds=asked,
        device=str(chosen),
        parameters=parameters,
    )
    if workers is None:
        workers = 0 if chosen.type == "cpu" else decoders()
    for run in plan.runs:
        folder = plan.folder_of(run)
        if run in plan.missing:
            with locked(folder.with_name(f".{folder.name}.lock"), f"{run.label} is being trained", progress.note):
                if not folder.exists():
                    _train(run, partial(pictures_of, run, source.index, parts), folder, workers, progress)
        # Also where it was killed between the last two steps.
        checkpoint_of(folder).unlink(missing_ok=True)
    return fitting_of([plan], plan.runs[0].notes, started, progress)


def checkpoint_of(folder: Path) -> Path:
    """Return where the training of a run folder keeps its checkpoint; the name is hidden, so it is no run."""
    return folder.with_name(f".{folder.name}.checkpoint.safetensors")


def pictures_of(run: Run, index: Index, split: Split, part: str, draw: str) -> Pictures:
    """Return the images of a part of the split as a run is trained on them, or validated.

    Args:
        run: The run, which says whether its training images are augmented.
        index: The images.
        split: Which of them train and validate.
        part: `train` or `val`.
        draw: Names the draw of the augmentation, such as seed and epoch.
    """
    entries = tuple(index.entries[row] for row in split.rows[part])
    numbers = {name: number for number, name in enumerate(run.classes)}
    augmented = part == "train" and run.parameters["augment"] == "paper"
    return Pictures(
        root=Path(index.images),
        entries=entries,
        codes=tuple(numbers[entry.label] for entry in entries),
        transform=Transform.from_dict(run.recipe.transform),
        augmentation=AUGMENTATION if augmented else None,
        draw=draw,
    )


def _train(run: Run, pictures: Callable[[str, str], Pictures], folder: Path, workers: int, progress: Progress) -> None:
    import torch

    from pipeline.training import train

    # Sums over several threads are rounded by how many there are.
    run = replace(run, machine={**run.machine, "threads": torch.get_num_threads()})
    trained = train(run, pictures, checkpoint_of(folder), workers, progress)
    with writing_folder(folder) as temporary:
        _save(trained, temporary)


def _save(trained: "Trained", folder: Path) -> None:
    """Write a run with its last weights and, beside them, its best ones in the same form."""
    model = trained.model
    last = {name: tensor.clone() for name, tensor in model.network_.state_dict().items()}
    model.network_.load_state_dict(trained.best_weights)
    save_head(model, folder)
    (folder / TENSORS).rename(folder / BEST)
    model.network_.load_state_dict(last)
    names = (save_head(model, folder), BEST)
    replace(trained.run, model={name: file_digest(folder / name) for name in names}).write(folder)


def _plan(
    images: Path | str,
    transform: Transform,
    split: str | Path | None,
    split_seed: int,
    on_error: Literal["fail", "skip"],
    progress: Progress,
    runs: Path | str,
    resplits: int | None = None,
    **asked: Any,
) -> tuple[Source, list[tuple[Split, Plan]]]:
    """Plan the runs on each split, and decode the images beforehand only if there is something to train.

    Runs that are there were trained on these very bytes, which could be decoded then. But which images are to be
    skipped, and so how the others are split, is known only once all were decoded.
    """
    require_apart(Path(images), Path(runs), "runs folder")
    decoded = on_error == "skip"
    index = read_index(images, transform, on_error=on_error, decoded=decoded, progress=progress)
    source = Source(index, pixel_recipe(transform.crop_size), "")
    splits = splits_of(index, split, split_seed, resplits)
    planned = [
        (parts, make_plan(source, parts, Path(runs), resplit=number, **asked)) for number, parts in splits.items()
    ]
    if any(plan.missing for _, plan in planned) and not decoded:
        require_decodable(index, transform, progress)
    for note in _notes(planned):
        progress.note(note)
    return source, planned


def _notes(planned: Sequence[tuple[Split, Plan]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for _, plan in planned for note in plan.runs[0].notes))


def _fill(
    root: Path,
    transform: Transform,
    entries: Sequence[Entry],
    views: Sequence[int],
    out: npt.NDArray[np.float32],
    advance: Callable[[int], None],
) -> None:
    read_pixels(root, entries, transform, out, advance, views)


def _checked(baseline: str, name: str, device: str, parameters: Mapping[str, Any]) -> Any:
    """Refuse what can be refused before the images are read, which takes its time; return the unfitted classifier."""
    from pipeline.base import choose_device

    require_name(name)
    return make_head(baseline, **{**parameters, "device": str(choose_device(device))})


def _precision(asked: str, device: str) -> str:
    """Turn `auto` into the fastest arithmetic that a device has natively."""
    if asked != "auto":
        return asked
    native = native_precisions(device)
    # torch's CPU kernels for training in fp16 are slow or missing, whatever the processor has.
    usable = ("bf16", "fp32") if device == "cpu" else ("bf16", "fp16", "fp32")
    return next(precision for precision in usable if precision in native)
