"""Stage three, `evaluate`: store every run's predictions, and compute the metrics from what is stored."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from cache import FeatureCache, RecipeMismatch
from pipeline.errors import RunError
from pipeline.figures import draw_confusion
from pipeline.metrics import Metrics, Spread, bootstrap_interval, measure, spread
from pipeline.progress import SILENT, Progress
from pipeline.run import Run, find_runs, write_beside
from pipeline.split import NAMES, part_digest

COLUMNS = ("path", "label", "predicted")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


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


@dataclass(frozen=True)
class Summary:
    """All runs of one name.

    Attributes:
        name: The configuration's name; with its folder before it where two folders have runs of that name.
        head: The head.
        base: The base of its features.
        weights: The base's weights, as a person reads them.
        folder: RUNS/NAME.
        seeds: The seeds of its runs.
        images: Images in the part.
        metrics: accuracy, balanced_accuracy, macro_f1, log_loss -> spread over the seeds.
        interval: 95 % interval of the mean accuracy, over seeds and images.
        behind: Mean accuracy minus the best name's, so 0 or less, and the 95 % interval of that difference, over the
            seeds of both and the images, which are the same; None for the best, and where the images are others.
        notes: What the user should know about these runs.
        picture: The confusion matrix, a mean over the seeds.
    """

    name: str
    head: str
    base: str
    weights: str
    folder: Path
    seeds: tuple[int, ...]
    images: int
    metrics: Mapping[str, Spread]
    interval: tuple[float, float]
    behind: tuple[float, float, float] | None
    notes: tuple[str, ...]
    picture: Path


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: names ranked by mean accuracy, and every run's metrics under `name/seed-0000`."""

    part: str
    names: tuple[Summary, ...]
    runs: Mapping[str, Metrics]
    comparable: bool


def evaluate(
    *runs: Path | str,
    on: Literal["test", "val", "train"] = "test",
    cache: Path | str | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Evaluate runs on one part of their split.

    Each run's predictions are written beside it once, as predictions-PART.csv; metrics are computed from that file.

    Args:
        *runs: Any mix of RUNS, RUNS/NAME and single run folders.
        on: The part: `test`, `val` or `train`.
        cache: The feature cache, if it is no longer where the runs were fitted from.
        progress: Told what happens.

    Returns:
        The ranking and every run's metrics.

    Raises:
        RunError: There is no run, or one is damaged, or its part is empty.
        CacheError: The cache is gone or damaged.
        RecipeMismatch: The cache holds features of another recipe than the runs need.
    """
    if on not in NAMES:
        raise RunError(f"There is no part '{on}': choose {', '.join(NAMES)}.")
    found = find_runs(runs)
    if cache is not None:
        FeatureCache.open(cache)  # also where stored predictions make it unnecessary: a wrong name must not pass
    groups: dict[Path, list[Run]] = {}
    for run in found:
        groups.setdefault(run.path.resolve().parent, []).append(run)
    for folder, members in groups.items():
        if len({run.seed for run in members}) < len(members):
            raise RunError(
                f"Several runs in {folder} have the same seed: {', '.join(run.path.name for run in members)}. A copy "
                "would count twice; move it elsewhere."
            )
    source = _Features(on, Path(cache) if cache is not None else None)
    measured: dict[Path, Metrics] = {}
    correct: dict[Path, list[npt.NDArray[np.bool_]]] = {}
    with progress.steps("evaluating", len(found), "runs") as advance:
        for folder, members in groups.items():
            for run in members:
                members[0].require_same(run)
                predictions = stored_predictions(run, on) or _predict(run, on, source)
                metrics = measure(
                    predictions.labels, predictions.predicted, predictions.probabilities, predictions.classes
                )
                _store(run, on, metrics)
                measured[run.path] = metrics
                correct.setdefault(folder, []).append(predictions.correct)
                advance(1)
    stacked = {folder: np.stack(rows) for folder, rows in correct.items()}
    order = sorted(groups, key=lambda folder: (-float(stacked[folder].mean()), str(folder)))
    names = _names(groups)
    best = order[0]
    images = {folder: members[0].digests[on] for folder, members in groups.items()}
    summaries = tuple(
        _summary(
            names[folder],
            groups[folder],
            [measured[run.path] for run in groups[folder]],
            stacked[folder],
            stacked[best] if folder != best and images[folder] == images[best] else None,
            on,
        )
        for folder in order
    )
    return Evaluation(
        part=on,
        names=summaries,
        runs={f"{names[folder]}/{run.path.name}": measured[run.path] for folder in order for run in groups[folder]},
        comparable=len(set(images.values())) == 1,
    )


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


class _Features:
    """Features of one part of a split, kept for the next run if it needs the same."""

    def __init__(self, part: str, cache: Path | None) -> None:
        self.part = part
        self.cache = cache
        self._key: tuple[str, str, str] | None = None
        self._held: tuple[npt.NDArray[np.floating], tuple[str, ...]] | None = None

    def of(self, run: Run) -> tuple[npt.NDArray[np.floating], tuple[str, ...]]:
        """Return features (N, D) and true classes (N,) of a run's images.

        Raises:
            RunError: The cache's images are not those that the run was split from.
        """
        folder = self.cache or Path(run.cache)
        key = (str(folder), run.recipe.digest, run.digests[self.part])
        if self._held is None or key != self._key:
            self._key, self._held = key, self._read(run, folder)
        return self._held

    def _read(self, run: Run, folder: Path) -> tuple[npt.NDArray[np.floating], tuple[str, ...]]:
        if not os.path.isdir(folder):  # noqa: PTH112  # Path's raises where a folder may not be looked at
            raise RunError(
                f"{run.label} was fitted from the cache {folder}, which is gone. Name where it is now: `--cache DIR`."
            )
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
        wanted = run.images[self.part]
        entries = [held[path] for path in wanted if path in held]
        if len(entries) < len(wanted) or part_digest(entries) != run.digests[self.part]:
            raise RunError(
                f"The {self.part} images of {run.label} have changed since it was fitted: {folder} now has "
                f"{len(entries)} of its {len(wanted)} paths, or other contents or classes under them. "
                "Fit again under another name, or name a cache of the old images (`--cache DIR`)."
            )
        return cache.read([entry.digest for entry in entries]), tuple(entry.label for entry in entries)


def _predict(run: Run, part: str, source: _Features) -> Predictions:
    """Let a run predict one part of its split, store that, and read it back."""
    from pipeline.heads.storage import load_head

    if not run.images[part]:
        raise RunError(f"{run.label} has no {part} images (its split: {run.split}). Evaluate another part with `--on`.")
    features, labels = source.of(run)
    head = load_head(run.head, run.path)
    if tuple(str(name) for name in head.classes_) != run.classes:
        raise RunError(f"The model in {run.path} was trained on other classes than its run.json names. Fit it again.")
    probabilities = head.predict_proba(features)
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


def _store(run: Run, part: str, metrics: Metrics) -> None:
    """Write evaluation-PART.json and the picture, unless they stand there for the same predictions."""
    predictions = hashlib.sha256((run.path / f"predictions-{part}.csv").read_bytes()).hexdigest()
    document: dict[str, Any] = {"part": part, **asdict(metrics), "predictions_sha256": predictions}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    path = run.path / f"evaluation-{part}.json"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_beside(run, path.name, text)
    title = f"{run.label}, {part}: {metrics.correct}/{metrics.images} = {metrics.accuracy:.4f}"
    draw_confusion(np.array(metrics.confusion), metrics.classes, title, run.path / f"confusion-{part}.png")


def _names(folders: Iterable[Path]) -> dict[Path, str]:
    """Name each folder of runs, with as many of the folders above it as it takes to tell them apart."""
    named: dict[Path, str] = {}
    everything = list(folders)
    for folder in everything:
        tails = ((folder.parts[-length:], length) for length in range(1, len(folder.parts) + 1))
        tail = next(tail for tail, n in tails if sum(other.parts[-n:] == tail for other in everything) == 1)
        named[folder] = "/".join(tail)
    return named


def _summary(
    name: str,
    runs: Sequence[Run],
    metrics: Sequence[Metrics],
    correct: npt.NDArray[np.bool_],
    best: npt.NDArray[np.bool_] | None,
    part: str,
) -> Summary:
    behind = None
    if best is not None:
        low, high = bootstrap_interval(correct, best)
        behind = (float(correct.mean() - best.mean()), low, high)
    accuracies = spread([one.accuracy for one in metrics])
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else f"seed {runs[0].seed}"
    title = f"{name}, {part}, {seeds}: {'mean ' if len(runs) > 1 else ''}accuracy {accuracies.mean:.4f}"
    confusion = np.mean([one.confusion for one in metrics], axis=0)
    picture = draw_confusion(confusion, metrics[0].classes, title, runs[0].path.parent / f"confusion-{part}.png")
    return Summary(
        name=name,
        head=runs[0].head,
        base=runs[0].recipe.base,
        weights=runs[0].recipe.weights,
        folder=runs[0].path.parent,
        seeds=tuple(run.seed for run in runs),
        images=metrics[0].images,
        metrics={key: spread([getattr(one, key) for one in metrics]) for key in METRICS},
        interval=bootstrap_interval(correct),
        behind=behind,
        notes=tuple(dict.fromkeys(note for run in runs for note in run.notes)),
        picture=picture,
    )
