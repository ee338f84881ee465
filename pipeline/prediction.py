"""`predict`: name what is on new images, with the base and transform of a run's recipe."""

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from pipeline.computing import ahead
from pipeline.decode import DECODE_VERSION, EXTENSIONS, decode
from pipeline.environment import decoders
from pipeline.errors import ImageSetError, RunError, UnreadableImage, UnreadableImages, WeightsError
from pipeline.pixels import PIXELS, pixel_base
from pipeline.printable import printable
from pipeline.progress import SILENT, Progress
from pipeline.run import Run
from pipeline.transform import Transform
from pipeline.weights import WeightsSource

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.base import Base

BATCH = 16


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image: (class, probability) pairs, likeliest first."""

    path: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PredictionList:
    """Predictions for several images, and (path, reason) of the images and folders that could not be read."""

    run: str
    images: tuple[Prediction, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


class _Decoded(NamedTuple):
    path: Path
    tensor: "Tensor | None"
    reason: str


def predict(
    run: Path | str,
    *images: Path | str,
    top_k: int = 5,
    weights: str | None = None,
    device: str = "auto",
    on_error: Literal["fail", "skip"] = "fail",
    progress: Progress = SILENT,
) -> PredictionList:
    """Predict the classes of image files, and of all images in folders.

    Args:
        run: A run folder.
        *images: Image files and folders; folders are searched at any depth.
        top_k: Classes to return for each image, at most as many as there are.
        weights: Where the base's weights are now, if not where the run's cache was extracted with; they must be
            the same tensors.
        device: Where the base runs: `auto`, `cpu`, `cuda` or `cuda:1`.
        on_error: What unreadable images and folders mean in the end: `fail` raises, `skip` lists them.
        progress: Told what happens.

    Raises:
        RunError: The run cannot be read.
        WeightsError: The weights cannot be had, or are not those that the run was fitted on.
        ImageSetError: A path does not exist or cannot be looked at, or there is no image.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`, or none can; the predictions for all
            others are the error's `result`.
    """
    from pipeline.heads.storage import load_head

    if top_k < 1:
        raise RunError(f"The top {top_k} classes are none: ask for 1 or more.")
    if on_error not in ("fail", "skip"):
        raise ImageSetError(f"on_error {on_error!r} is neither 'fail' nor 'skip'.")
    fitted = Run.read(Path(run))
    paths, closed = _image_files(images)
    head = load_head(fitted.head, fitted.path)
    if tuple(str(name) for name in head.classes_) != fitted.classes:
        raise RunError(
            f"The model in {fitted.path} was trained on other classes than its run.json names. Fit it again."
        )
    base = _base(fitted, weights, device, progress)
    found: list[Prediction] = []
    skipped = closed.copy()
    workers = decoders()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        decoded = ahead(pool, partial(_read, base), paths, 2 * BATCH + workers)
        with progress.steps("predicting", len(paths), "images") as advance:
            while batch := list(islice(decoded, BATCH)):
                good = [image for image in batch if image.tensor is not None]
                skipped += [(str(image.path), image.reason) for image in batch if image.tensor is None]
                found += _name(head, fitted, base, good, top_k) if good else []
                advance(len(batch))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    result = PredictionList(fitted.label, tuple(found), tuple(skipped), fitted.notes)
    if skipped and (on_error == "fail" or not found):
        raise _unreadable(result, len(paths), len(closed))
    return result


def _name(head: object, run: Run, base: "Base", images: "Sequence[_Decoded]", top_k: int) -> list[Prediction]:
    import torch

    tensors = torch.stack([image.tensor for image in images if image.tensor is not None])
    features = base.features(tensors).astype(run.recipe.storage).astype(np.float32)
    probabilities = head.predict_proba(features)  # type: ignore[attr-defined]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(str(image.path), tuple((run.classes[place], float(row[place])) for place in best))
        for image, row, best in zip(images, probabilities, order, strict=True)
    ]


def _unreadable(result: PredictionList, files: int, folders: int) -> UnreadableImages:
    what = "images and folders" if folders else "images"
    way_out = "Leave them out, or add `--on-error skip`" if result.images else "Name others"
    listed = "\n".join(f"  {printable(path)}: {reason}" for path, reason in result.skipped)
    return UnreadableImages(
        f"{len(result.skipped)} of {files + folders} {what} cannot be read. {way_out}:\n{listed}",
        result,
    )


def _base(run: Run, weights: str | None, device: str, progress: Progress) -> "Base":
    """Load the base of a run's recipe, and refuse one that would give other features."""
    from pipeline.base import load_base

    recipe, transform = run.recipe, Transform.from_dict(run.recipe.transform)
    if recipe.decoding != DECODE_VERSION:
        raise RunError(
            f"{run.label} was fitted on images decoded by version {recipe.decoding} of the rules; this manyheads has "
            f"version {DECODE_VERSION}. Extract and fit again, or use the manyheads that fitted it."
        )
    if recipe.base == PIXELS:
        if weights is not None:
            raise WeightsError(f"{run.label} sees pixels, not features: it has no base that needs weights.")
        return pixel_base(transform)
    source = WeightsSource.parse(weights or recipe.weights)
    if source.kind == "file" and not Path(source.detail).is_file():
        raise WeightsError(
            f"{run.label} needs {recipe.base} with the weights {recipe.weights}, and there is no file {source.detail}. "
            "Name where it is now: `--weights FILE`."
        )
    progress.note(f"loading {recipe.base} with weights {source}")
    base = load_base(recipe.base, source, transform=transform, precision=recipe.precision, device=device)
    if base.weights_digest != recipe.weights_digest:
        raise WeightsError(
            f"{run.label} was fitted on features of {recipe.base} with weights {recipe.weights} (digest "
            f"{recipe.weights_digest[:12]}…), but {source} holds other tensors (digest {base.weights_digest[:12]}…). "
            "Name the file that the features were extracted with: `--weights FILE`."
        )
    return base


def _image_files(places: Sequence[Path | str]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the named files, the images below the named folders in the order of their names, and what is closed.

    Returns:
        The files, and (folder, reason) of the sub-folders that cannot be listed.
    """
    files: list[Path] = []
    closed: list[tuple[str, str]] = []
    for place in map(Path, places):
        if not _is_folder(place):
            files.append(place)
            continue
        below, unlisted = _below(place)
        if unlisted and unlisted[0][0] == str(place):
            raise ImageSetError(f"The folder {place} cannot be listed: {unlisted[0][1]}. Mend that, or name files.")
        if not below and not unlisted:
            raise ImageSetError(f"The folder {place} holds no image. Name image files or a folder of images.")
        files += below
        closed += unlisted
    if not files and not closed:
        raise ImageSetError("No image was named. Name image files or a folder of images.")
    return files, closed


def _is_folder(place: Path) -> bool:
    try:
        return stat.S_ISDIR(place.stat().st_mode)
    except FileNotFoundError:
        raise ImageSetError(f"{place} does not exist. Name image files or a folder of images.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise ImageSetError(
            f"{place} cannot be looked at: {_reason(error)}. Name image files or a folder of images."
        ) from error


def _below(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    files: list[Path] = []
    closed: list[tuple[str, str]] = []
    for where, folders, names in os.walk(folder, onerror=lambda error: closed.append((error.filename, _reason(error)))):
        folders[:] = (name for name in folders if not name.startswith("."))
        paths = (Path(where, name) for name in names if not name.startswith("."))
        # A link that leads nowhere is no file, but the user meant an image: it is reported when read. A pipe is none.
        files += (
            path
            for path in paths
            if path.suffix.lower() in EXTENSIONS and (os.path.isfile(path) or not os.path.exists(path))  # noqa: PTH110, PTH113
        )
    return sorted(files), sorted(closed)


def _read(base: "Base", path: Path) -> _Decoded:
    """Decode and transform one image; runs in a decoding thread."""
    try:
        return _Decoded(path, base.transform(decode(path.read_bytes())), "")
    except OSError as error:
        return _Decoded(path, None, _reason(error))
    except UnreadableImage as error:
        return _Decoded(path, None, str(error))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
