"""`predict`: name what is on new images, with the base and transform of a run's recipe."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.decode import EXTENSIONS
from pipeline.decoder import Pixels
from pipeline.decoding import Wanted, decoding, enough_workers, prepare
from pipeline.errors import ImageSetError, RunError, UnreadableImages
from pipeline.printable import printable
from pipeline.progress import SILENT, Progress
from pipeline.recipe_base import base_of
from pipeline.run import Run

if TYPE_CHECKING:
    from pipeline.base import Base
    from pipeline.heads.storage import Model

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
    from pipeline.heads.storage import load_model

    if top_k < 1:
        raise RunError(f"The top {top_k} classes are none: ask for 1 or more.")
    if on_error not in ("fail", "skip"):
        raise ImageSetError(f"on_error {on_error!r} is neither 'fail' nor 'skip'.")
    fitted = Run.read(Path(run))
    paths, closed = _image_files(images)
    workers = enough_workers(len(paths))
    prepare(workers)
    model = load_model(fitted)
    base = base_of(fitted.recipe, weights, device, progress, whose=fitted.label)
    found: list[Prediction] = []
    skipped = closed.copy()
    with (
        decoding(map(Wanted, paths), base.transform, workers, 2 * BATCH) as decoded,
        progress.steps("predicting", len(paths), "images") as advance,
    ):
        while batch := list(islice(decoded, BATCH)):
            good = [(wanted.path, pixels) for wanted, pixels, _ in batch if pixels is not None]
            skipped += [(str(wanted.path), reason) for wanted, pixels, reason in batch if pixels is None]
            found += _name(model, base, good, top_k) if good else []
            advance(len(batch))
    result = PredictionList(fitted.label, tuple(found), tuple(skipped), fitted.notes)
    if skipped and (on_error == "fail" or not found):
        raise _unreadable(result, len(paths), len(closed))
    return result


def _name(model: "Model", base: "Base", decoded: Sequence[tuple[Path, Pixels]], top_k: int) -> list[Prediction]:
    paths, pixels = zip(*decoded, strict=True)
    images = base.transform.normalise(np.concatenate(pixels), base.device)
    features = base.features(images).astype(model.run.recipe.storage).astype(np.float32)
    probabilities = model.predict_proba(features)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(str(path), tuple((model.run.classes[place], float(row[place])) for place in best))
        for path, row, best in zip(paths, probabilities, order, strict=True)
    ]


def _unreadable(result: PredictionList, files: int, folders: int) -> UnreadableImages:
    what = "images and folders" if folders else "images"
    way_out = "Leave them out, or add `--on-error skip`" if result.images else "Name others"
    listed = "\n".join(f"  {printable(path)}: {reason}" for path, reason in result.skipped)
    return UnreadableImages(
        f"{len(result.skipped)} of {files + folders} {what} cannot be read. {way_out}:\n{listed}",
        result,
    )


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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
