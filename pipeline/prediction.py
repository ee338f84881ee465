"""`predict`: name what is on new images, with the base and transform of a run's recipe."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.decode import DECODE_VERSION, EXTENSIONS, decode
from pipeline.errors import ImageSetError, RunError, UnreadableImage, UnreadableImages, WeightsError
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
    """Predictions for several images, and (path, reason) of those that could not be read."""

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
        on_error: What unreadable images mean in the end: `fail` raises, `skip` lists them.
        progress: Told what happens.

    Raises:
        RunError: The run cannot be read.
        WeightsError: The weights cannot be had, or are not those that the run was fitted on.
        ImageSetError: A path does not exist, or there is no image.
        UnreadableImages: Some images cannot be read and `on_error` is `fail`.
    """
    from pipeline.heads.storage import load_head

    if top_k < 1:
        raise RunError(f"The top {top_k} classes are none: ask for 1 or more.")
    if on_error not in ("fail", "skip"):
        raise ImageSetError(f"on_error {on_error!r} is neither 'fail' nor 'skip'.")
    fitted = Run.read(Path(run))
    paths = _image_files(images)
    head = load_head(fitted.head, fitted.path)
    if tuple(str(name) for name in head.classes_) != fitted.classes:
        raise RunError(
            f"The model in {fitted.path} was trained on other classes than its run.json names. Fit it again."
        )
    base = _base(fitted, weights, device, progress)
    found: list[Prediction] = []
    skipped: list[tuple[str, str]] = []
    with (
        ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
        progress.steps("predicting", len(paths), "images") as advance,
    ):
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            tensors: list[Tensor] = []
            good: list[Path] = []
            for path, (tensor, reason) in zip(batch, pool.map(lambda path: _read(path, base), batch), strict=True):
                if tensor is None:
                    skipped.append((str(path), reason))
                else:
                    good.append(path)
                    tensors.append(tensor)
            if tensors:
                found += _name(head, fitted, base, good, tensors, top_k)
            advance(len(batch))
    if skipped and (on_error == "fail" or not found):
        listed = "\n".join(f"  {path}: {reason}" for path, reason in skipped)
        raise UnreadableImages(
            f"{len(skipped)} of {len(paths)} images cannot be read. Leave them out, or add `--on-error skip`:\n{listed}"
        )
    return PredictionList(fitted.label, tuple(found), tuple(skipped), fitted.notes)


def _name(
    head: object, run: Run, base: "Base", paths: Sequence[Path], tensors: "Sequence[Tensor]", top_k: int
) -> list[Prediction]:
    import torch

    features = base.features(torch.stack(tuple(tensors))).astype(run.recipe.storage).astype(np.float32)
    probabilities = head.predict_proba(features)  # type: ignore[attr-defined]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(str(path), tuple((run.classes[place], float(row[place])) for place in best))
        for path, row, best in zip(paths, probabilities, order, strict=True)
    ]


def _base(run: Run, weights: str | None, device: str, progress: Progress) -> "Base":
    """Load the base of a run's recipe, and refuse one that would give other features."""
    from pipeline.base import load_base

    recipe = run.recipe
    if recipe.decoding != DECODE_VERSION:
        raise RunError(
            f"{run.label} was fitted on images decoded by version {recipe.decoding} of the rules; this manyheads has "
            f"version {DECODE_VERSION}. Extract and fit again, or use the manyheads that fitted it."
        )
    source = WeightsSource.parse(weights or recipe.weights)
    if source.kind == "file" and not Path(source.detail).is_file():
        raise WeightsError(
            f"{run.label} needs {recipe.base} with the weights {recipe.weights}, and there is no file {source.detail}. "
            "Name where it is now: `--weights FILE`."
        )
    progress.note(f"loading {recipe.base} with weights {source}")
    transform = Transform.from_dict(recipe.transform)
    base = load_base(recipe.base, source, transform=transform, precision=recipe.precision, device=device)
    if base.weights_digest != recipe.weights_digest:
        raise WeightsError(
            f"{run.label} was fitted on features of {recipe.base} with weights {recipe.weights} (digest "
            f"{recipe.weights_digest[:12]}…), but {source} holds other tensors (digest {base.weights_digest[:12]}…). "
            "Name the file that the features were extracted with: `--weights FILE`."
        )
    return base


def _image_files(places: Sequence[Path | str]) -> list[Path]:
    """Return the named files, and the images below the named folders in the order of their names."""
    files: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            below = sorted(
                path
                for path in place.rglob("*")
                if path.suffix.lower() in EXTENSIONS
                and path.is_file()
                and not any(part.startswith(".") for part in path.relative_to(place).parts)
            )
            if not below:
                raise ImageSetError(f"The folder {place} holds no image. Name image files or a folder of images.")
            files += below
        elif place.exists():
            files.append(place)
        else:
            raise ImageSetError(f"{place} does not exist. Name image files or a folder of images.")
    if not files:
        raise ImageSetError("No image was named. Name image files or a folder of images.")
    return files


def _read(path: Path, base: "Base") -> "tuple[Tensor | None, str]":
    try:
        return base.transform(decode(path.read_bytes())), ""
    except OSError as error:
        return None, error.strerror or str(error)
    except UnreadableImage as error:
        return None, str(error)
