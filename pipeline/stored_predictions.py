"""What runs predicted on a part of their split: made once from features or pixels, stored as CSV, read back."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import Entry, FeatureCache, ManyheadsError, RecipeMismatch
from cache.atomic import remove_file
from pipeline.errors import RunError
from pipeline.image_set import fingerprint, read_image_set
from pipeline.metrics import Metrics, measure
from pipeline.pixels import PIXELS, pixel_blocks, pixel_recipe
from pipeline.reading import brief, file_digest, parse_json, read_bytes
from pipeline.run import Run, write_beside
from pipeline.split import part_digest
from pipeline.transform import Transform

COLUMNS = ("path", "label", "predicted")
LIMIT = 4 << 30  # bytes of predictions-PART.csv
RECORD_LIMIT = 256 << 20  # bytes of evaluation-PART.json, whose confusion matrix grows with the square of the classes


@dataclass(frozen=True)
class Predictions:
    """A run's predictions on one part of its split, as its CSV holds them.

    Attributes:
        paths: (N,) image paths.
        labels: (N,) true classes.
        predicted: (N,) predicted classes.
        probabilities: (N, C), columns in the order of `classes`.
        classes: (C,) the run's classes.
        digest: SHA-256 of the CSV.
        model: SHA-256 of the model that made them.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    digest: str
    model: str

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each image was named rightly."""
        same: npt.NDArray[np.bool_] = np.equal(np.array(self.labels), np.array(self.predicted))
        return same


def stored_predictions(run: Run, part: str) -> Predictions | None:
    """Read predictions-PART.csv of a run; None if the run has none yet.

    Without the evaluation-PART.json that says whose they are, they count as none.

    Raises:
        RunError: They are not this run's, or not what its model predicted.
    """
    path, beside = run.path / f"predictions-{part}.csv", run.path / f"evaluation-{part}.json"
    try:
        content = read_bytes(path, LIMIT)
        said = parse_json(read_bytes(beside, RECORD_LIMIT))
        predictions = _parsed(run, part, content, said["model_sha256"])
        if predictions.digest != said["predictions_sha256"]:
            raise ValueError(f"it is not the file that {beside.name} beside it was computed from")
        if predictions.model not in _own_models(run):
            raise ValueError(f"{beside.name} beside it says that another model made it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise RunError(
            f"{path} does not belong to its run: {error}. Remove it and run `manyheads evaluate` again."
        ) from error
    return predictions


def record(run: Run, part: str, predictions: Predictions) -> Metrics:
    """Measure predictions, and let evaluation-PART.json say so, which file they are, and which model's.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    metrics = measure(predictions.labels, predictions.predicted, predictions.probabilities, predictions.classes)
    own = {"predictions_sha256": predictions.digest, "model_sha256": predictions.model}
    text = json.dumps({"part": part, **asdict(metrics), **own}, indent=1, ensure_ascii=False) + "\n"
    path, standing = run.path / f"evaluation-{part}.json", b""
    with suppress(OSError, ValueError):
        standing = read_bytes(path, RECORD_LIMIT)
    if standing != text.encode():
        write_beside(run, path.name, text)
    return metrics


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
        self._changes: dict[tuple[str, str, str], str] = {}

    def of(self, run: Run) -> tuple[tuple[str, ...], Iterator[npt.NDArray[np.floating]]]:
        """Return the true classes (N,) of a run's images, and their rows in blocks (n, D) that together are N.

        Features of a cache are one block, kept for the next run if it needs the same; pixels come block by block.

        Raises:
            RunError: The images are not those that the run was split from.
            RecipeMismatch: The cache holds other features than the run needs.
        """
        folder, entries = self._folder(run), self._entries(run, run.label)
        labels = tuple(entry.label for entry in entries)
        if run.recipe.base == PIXELS:
            return labels, pixel_blocks(folder, entries, Transform.from_dict(run.recipe.transform))
        if self._key_of(run) != self._key:
            self._features = FeatureCache.open(folder).read([entry.digest for entry in entries])
            self._key = self._key_of(run)
        return labels, iter([self._features])

    def changed(self, run: Run) -> str:
        """Say what has changed since a run was fitted whose predictions are stored; nothing if nothing has.

        The run's own folder may have changed or gone: what is stored stays true of what was there. Another folder that
        is named to be looked at must fit.

        Raises:
            ManyheadsError: A folder that was named is not what the run was fitted from.
        """
        named = self.images if run.recipe.base == PIXELS else self.cache
        if named is None and not os.path.isdir(self._folder(run)):  # noqa: PTH112  # see `_entries`
            return ""
        key = self._key_of(run)
        if key not in self._changes:
            try:
                self._entries(run, run.label if named else "these runs")
                self._changes[key] = ""
            except ManyheadsError as error:
                if named is not None:
                    raise
                self._changes[key] = f"these are figures of stored predictions, made before this came about: {error}"
        return self._changes[key]

    def _folder(self, run: Run) -> Path:
        if run.recipe.base == PIXELS:
            return self.images or Path(run.image_set)
        return self.cache or Path(run.cache)

    def _key_of(self, run: Run) -> tuple[str, str, str]:
        return str(self._folder(run)), run.recipe.digest, run.digests[self.part]

    def _entries(self, run: Run, who: str) -> tuple[Entry, ...]:
        """Return the images of the part as the folder has them, if they are those that the run was split from.

        Raises:
            ManyheadsError: They are not, which is said of `who`.
        """
        pixels, folder = run.recipe.base == PIXELS, self._folder(run)
        what, option = ("image set", "--images") if pixels else ("cache", "--cache")
        if not os.path.isdir(folder):  # noqa: PTH112  # Path's raises where a folder may not be looked at
            raise RunError(
                f"{who} needs the {what} {folder}, which is no folder. Name where it is now: `{option} DIR`."
            )
        held = {entry.path: entry for entry in (self._listed if pixels else self._cached)(run, who)}
        wanted = run.images[self.part]
        entries = tuple(held[path] for path in wanted if path in held)
        if len(entries) < len(wanted) or part_digest(entries) != run.digests[self.part]:
            raise RunError(
                f"The {self.part} images of {who} have changed since the fit: {folder} now has "
                f"{len(entries)} of its {len(wanted)} paths"
                f"{', but other contents or classes under them' if len(entries) == len(wanted) else ''}. "
                f"Fit again under another name, or name the {what} as it was (`{option} DIR`)."
            )
        return entries

    def _cached(self, run: Run, who: str) -> tuple[Entry, ...]:
        cache = FeatureCache.open(self._folder(run))
        if differing := _told(cache.recipe.differences(run.recipe)):
            raise RecipeMismatch(
                f"{cache.path} holds features of another recipe than those of {who}: {differing}. "
                "Name the cache that it was fitted from: `--cache DIR`."
            )
        return cache.index().entries

    def _listed(self, run: Run, who: str) -> tuple[Entry, ...]:
        side = math.isqrt(max(0, run.recipe.dimension // 3))
        if differing := _told(pixel_recipe(side).differences(run.recipe)):
            raise RecipeMismatch(
                f"The pixels of {who} were made by other rules than this manyheads has: {differing}. Fit again under "
                "another name, or use the manyheads of the fit."
            )
        image_set, wanted = read_image_set(self._folder(run)), set(run.images[self.part])
        needed = tuple(image for image in image_set.images if image.path in wanted)
        return fingerprint(replace(image_set, images=needed)).entries


def predict_part(run: Run, part: str, inputs: Inputs) -> Predictions:
    """Let a run predict one part of its split, store that, and read it back.

    Raises:
        RunError: The part is empty, its images have changed, or the run's model is damaged.
        CacheError: The cache is gone or damaged.
        RecipeMismatch: The cache holds features of another recipe than the run needs.
        NoRoom: The disk is full or read-only.
    """
    from pipeline.heads.storage import load_model

    if not run.images[part]:
        raise RunError(f"{run.label} has no {part} images (its split: {run.split}). Evaluate another part with `--on`.")
    labels, blocks = inputs.of(run)
    model = load_model(run)
    probabilities = np.concatenate([model.predict_proba(block) for block in blocks])
    predicted = [run.classes[place] for place in probabilities.argmax(axis=1)]
    text = io.StringIO(newline="")
    # Before Python 3.13 a lone carriage return is not seen as a reason to quote.
    strange = any("\r" in name for name in (*run.classes, *run.images[part]))
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if strange else csv.QUOTE_MINIMAL)
    writer.writerow([*COLUMNS, *run.classes])
    for path, label, name, row in zip(run.images[part], labels, predicted, probabilities, strict=True):
        writer.writerow([path, label, name, *(f"{value:.9g}" for value in row)])
    predictions = _parsed(run, part, text.getvalue().encode(), model.digest)
    # Cut off between these steps, the run has no predictions rather than such as belong to another evaluation.
    remove_file(run.path / f"predictions-{part}.csv")
    record(run, part, predictions)
    write_beside(run, f"predictions-{part}.csv", text.getvalue())
    return predictions


def _parsed(run: Run, part: str, content: bytes, model: str) -> Predictions:
    """Read the CSV of a run's predictions.

    Raises:
        ValueError: It is not of this run's images and classes.
        IndexError: A line lacks its classes.
        csv.Error: It is no CSV.
    """
    lines = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    if tuple(next(lines, ())) != (*COLUMNS, *run.classes):
        raise ValueError("its columns are not path, label, predicted and the run's classes")
    paths, numbers = run.images[part], {name: number for number, name in enumerate(run.classes)}
    if len(paths) * len(run.classes) > len(content):  # before there is an array of this size
        raise ValueError(f"it is too short for the run's {part} images")
    names: list[tuple[str, str]] = []
    probabilities = np.empty((len(paths), len(run.classes)))
    for path, line in zip_longest(paths, lines, fillvalue=()):
        if not line or line[0] != path:
            raise ValueError(f"its paths are not the run's {part} images")
        row = np.array([float(value) for value in line[3:]])
        # A NaN is not close to 1.
        if row.shape != probabilities.shape[1:] or (row < 0).any() or not np.isclose(row.sum(), 1, atol=1e-5):
            raise ValueError("its probabilities do not sum to 1")
        if line[1] not in numbers or line[2] not in numbers:
            raise ValueError("it names a class that the run does not have")
        if row[numbers[line[2]]] < row.max() - 1e-6:
            raise ValueError("its predicted classes are not the likeliest")
        probabilities[len(names)] = row
        names.append((line[1], line[2]))
    labels, predicted = zip(*names, strict=True)
    digest = hashlib.sha256(content).hexdigest()
    return Predictions(tuple(paths), labels, predicted, probabilities, run.classes, digest, model)


def _own_models(run: Run) -> set[str]:
    """Return the SHA-256 of each model that may have made a run's predictions."""
    from pipeline.heads.storage import TENSORS

    own, path = set(run.model.values()), run.path / TENSORS
    # Only with several of them can another one than before have taken the model's place.
    return {file_digest(path)} if len(own) > 1 and path.is_file() else own


def _told(differences: Mapping[str, tuple[Any, Any]]) -> str:
    return brief(", ".join(f"{name} {held} instead of {needed}" for name, (held, needed) in differences.items()))
