"""What runs predicted on a part of their split: made once from features or pixels, stored as CSV, read back."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from cache import Entry, FeatureCache, RecipeMismatch
from pipeline.errors import RunError
from pipeline.image_set import fingerprint, read_image_set
from pipeline.pixels import PIXELS, pixel_blocks, pixel_recipe
from pipeline.run import Run, write_beside
from pipeline.split import part_digest
from pipeline.transform import Transform

COLUMNS = ("path", "label", "predicted")


@dataclass(frozen=True)
class Predictions:
    """A run's predictions on one part of its split, as its CSV holds them.

    Attributes:
        paths: (N,) image paths.
        labels: (N,) true classes.
        predicted: (N,) predicted classes.
        probabilities: (N, C), columns in the order of `classes`.
        classes: (C,) the run's classes.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    classes: tuple[str, ...]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each image was named rightly."""
        same: npt.NDArray[np.bool_] = np.equal(np.array(self.labels), np.array(self.predicted))
        return same


def stored_predictions(run: Run, part: str) -> Predictions | None:
    """Read predictions-PART.csv of a run; None if the run has none yet.

    Raises:
        RunError: The file does not hold this run's images and classes.
    """
    path = run.path / f"predictions-{part}.csv"
    if not path.exists():
        return None
    mend = "Remove it and run `manyheads evaluate` again."
    try:
        content = path.read_bytes()
        _require_unchanged(run, part, content)
        header, *lines = csv.reader(io.StringIO(content.decode(), newline=""))
        if tuple(header) != (*COLUMNS, *run.classes):
            raise ValueError("its columns are not path, label, predicted and the run's classes")
        if [line[0] for line in lines] != list(run.images[part]):
            raise ValueError(f"its paths are not the run's {part} images")
        if any(line[1] not in run.classes or line[2] not in run.classes for line in lines):
            raise ValueError("it names a class that the run does not have")
        probabilities = np.array([line[3:] for line in lines], dtype=np.float64)
        # A NaN is not close to 1.
        if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-5):
            raise ValueError("its probabilities do not sum to 1")
        chosen = probabilities[np.arange(len(lines)), [run.classes.index(line[2]) for line in lines]]
        if (chosen < probabilities.max(axis=1) - 1e-6).any():
            raise ValueError("its predicted classes are not the likeliest")
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise RunError(f"{path} does not belong to its run: {error}. {mend}") from error
    return Predictions(
        tuple(line[0] for line in lines),
        tuple(line[1] for line in lines),
        tuple(line[2] for line in lines),
        probabilities,
        run.classes,
    )


class Inputs:
    """What runs predict a part of their split from: features of a cache, or the pixels of images.

    Args:
        part: `test`, `val` or `train`.
        cache: The feature cache, if it is no longer where the runs were fitted from.
        images: The image set, if it is no longer where the baselines were fitted from.
    """

    def __init__(self, part: str, cache: Path | None = None, images: Path | None = None) -> None:
        self.part = part
        self.cache = cache
        self.images = images
        self._key: tuple[str, str, str] | None = None
        self._features: npt.NDArray[np.floating] = np.empty((0, 0))
        self._entries: tuple[Entry, ...] = ()

    def of(self, run: Run) -> tuple[tuple[str, ...], Iterator[npt.NDArray[np.floating]]]:
        """Return the true classes (N,) of a run's images, and their rows in blocks (n, D) that together are N.

        Features of a cache are one block, kept for the next run if it needs the same; pixels come block by block.

        Raises:
            RunError: The images are not those that the run was split from.
            RecipeMismatch: The cache holds other features than the run needs.
        """
        pixels = run.recipe.base == PIXELS
        folder = (self.images or Path(run.image_set)) if pixels else (self.cache or Path(run.cache))
        if not os.path.isdir(folder):  # noqa: PTH112  # Path's raises where a folder may not be looked at
            what, option = ("images", "--images") if pixels else ("cache", "--cache")
            raise RunError(
                f"{run.label} needs the {what} {folder}, which is no folder. Name where it is now: `{option} DIR`."
            )
        if pixels:
            transform = Transform.from_dict(run.recipe.transform)
            if differing := pixel_recipe(transform.crop_size).differences(run.recipe):
                told = ", ".join(f"{name} {now} instead of {needed}" for name, (now, needed) in differing.items())
                raise RecipeMismatch(
                    f"{run.label} needs pixels made by other rules than this manyheads has: {told}. Fit it again under "
                    "another name, or use the manyheads that fitted it."
                )
            entries = self._listed(run, folder)
            blocks = pixel_blocks(folder, entries, transform)
            return tuple(entry.label for entry in entries), blocks
        key = (str(folder), run.recipe.digest, run.digests[self.part])
        if key != self._key:
            self._features, self._entries = self._cached(run, folder)
            self._key = key
        return tuple(entry.label for entry in self._entries), iter([self._features])

    def _cached(self, run: Run, folder: Path) -> tuple[npt.NDArray[np.floating], tuple[Entry, ...]]:
        cache = FeatureCache.open(folder)
        differing = ", ".join(
            f"{name} {held} instead of {needed}"
            for name, (held, needed) in cache.recipe.differences(run.recipe).items()
        )
        if differing:
            raise RecipeMismatch(
                f"{run.label} needs features of another recipe than {folder} holds: {differing}. "
                "Name the cache that it was fitted from: `--cache DIR`."
            )
        held = {entry.path: entry for entry in cache.index().entries}
        entries = self._wanted(run, folder, held, "a cache", "--cache")
        return cache.read([entry.digest for entry in entries]), entries

    def _listed(self, run: Run, folder: Path) -> tuple[Entry, ...]:
        wanted = set(run.images[self.part])
        image_set = read_image_set(folder)
        needed = tuple(image for image in image_set.images if image.path in wanted)
        found = fingerprint(replace(image_set, images=needed))
        return self._wanted(run, folder, {entry.path: entry for entry in found.entries}, "a copy", "--images")

    def _wanted(self, run: Run, folder: Path, held: Mapping[str, Entry], what: str, option: str) -> tuple[Entry, ...]:
        wanted = run.images[self.part]
        entries = tuple(held[path] for path in wanted if path in held)
        if len(entries) < len(wanted) or part_digest(entries) != run.digests[self.part]:
            raise RunError(
                f"The {self.part} images of {run.label} have changed since it was fitted: {folder} now has "
                f"{len(entries)} of its {len(wanted)} paths"
                f"{', but other contents or classes under them' if len(entries) == len(wanted) else ''}. "
                f"Fit again under another name, or name {what} of the old images (`{option} DIR`)."
            )
        return entries


def predict_part(run: Run, part: str, inputs: Inputs) -> Predictions:
    """Let a run predict one part of its split, store that, and read it back.

    Raises:
        RunError: The part is empty, its images have changed, or the run's model is damaged.
        CacheError: The cache is gone or damaged.
        RecipeMismatch: The cache holds features of another recipe than the run needs.
    """
    from pipeline.heads.storage import load_head

    if not run.images[part]:
        raise RunError(f"{run.label} has no {part} images (its split: {run.split}). Evaluate another part with `--on`.")
    labels, blocks = inputs.of(run)
    head = load_head(run.head, run.path)
    if tuple(str(name) for name in head.classes_) != run.classes:
        raise RunError(f"The model in {run.path} was trained on other classes than its run.json names. Fit it again.")
    probabilities = np.concatenate([head.predict_proba(block) for block in blocks])
    predicted = [run.classes[place] for place in probabilities.argmax(axis=1)]
    text = io.StringIO(newline="")
    # Before Python 3.13 a lone carriage return is not seen as a reason to quote.
    strange = any("\r" in name for name in (*run.classes, *run.images[part]))
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if strange else csv.QUOTE_MINIMAL)
    writer.writerow([*COLUMNS, *run.classes])
    for path, label, name, row in zip(run.images[part], labels, predicted, probabilities, strict=True):
        writer.writerow([path, label, name, *(f"{value:.9g}" for value in row)])
    (run.path / f"evaluation-{part}.json").unlink(missing_ok=True)  # it would speak of other predictions
    write_beside(run, f"predictions-{part}.csv", text.getvalue())
    return cast(Predictions, stored_predictions(run, part))


def _require_unchanged(run: Run, part: str, content: bytes) -> None:
    """Refuse predictions other than those that evaluation-PART.json was computed from."""
    path = run.path / f"evaluation-{part}.json"
    if path.exists():
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("predictions_sha256") != hashlib.sha256(content).hexdigest():
            raise ValueError(f"it is not the file that {path.name} beside it was computed from")
