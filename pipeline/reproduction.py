"""`reproduce`: the paper, whole. All three models, every table and figure, beside what the paper published."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache import Entry, Index
from cache.atomic import remove_leftovers, write_text
from pipeline.baselines import fit_mlp, fit_scratch
from pipeline.comparison import Pair
from pipeline.difference import accuracy_difference
from pipeline.errors import RunError, SplitError
from pipeline.evaluation import Evaluation, Summary, evaluate
from pipeline.extraction import extract
from pipeline.fitting import Fitting, fit_head
from pipeline.image_set import read_image_set
from pipeline.metrics import Spread, spread
from pipeline.paper import BATCH, TABLE_III, Published, mean_of_batch_means
from pipeline.pixels import SIDE
from pipeline.planning import checked_seeds
from pipeline.progress import SILENT, Progress
from pipeline.reproduction_page import TITLE, page
from pipeline.reproduction_pictures import draw_pictures, predictions_on_test
from pipeline.run import Run
from pipeline.split import make_split
from pipeline.statistics import Difference


@dataclass(frozen=True)
class Row:
    """One row of Table III: a model as the paper published it, and as it was measured here.

    Attributes:
        name: The configuration's name: its runs are in OUT/runs/name.
        published: The paper's figures.
        corrected: Test accuracy as correct / total: one that the paper's confusion matrix gives, or, where it prints
            none, all that the published figure allows.
        seeds: Seeds of its runs.
        validation: Accuracy on the validation part, over the seeds.
        test: Accuracy on the test part, over the seeds.
        interval: 95 % interval of the mean test accuracy, over seeds and images.
        behind: The best model and this one, on the test images; None for the best, and where these are others.
        ahead: What its mean test accuracy is ahead of that of the model that follows in the paper's order; None for the
            last, and where the test images are others.
        batch_means: The paper's own metric on the test part: the mean of batch means, over the seeds.
    """

    name: str
    published: Published
    corrected: tuple[float, ...]
    seeds: tuple[int, ...]
    validation: Spread
    test: Spread
    interval: tuple[float, float]
    behind: Pair | None
    ahead: Difference | None
    batch_means: Spread


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` made.

    Attributes:
        out: The folder.
        page: OUT/README.md, which ties all together.
        pictures: What each picture shows -> its file.
        rows: Table III.
        images: Images of the test part.
        runs: Name -> its runs.
        asked: What was asked for, by option.
        paper_metric: Whether the mean of batch means is shown too.
        notes: What the user should know about the figures.
        seconds: Wall time of the whole stage.
    """

    out: Path
    page: Path
    pictures: Mapping[str, Path]
    rows: tuple[Row, ...]
    images: int
    runs: Mapping[str, tuple[Run, ...]]
    asked: Mapping[str, Any]
    paper_metric: bool
    notes: tuple[str, ...]
    seconds: float


def reproduce(
    images: Path | str,
    out: Path | str,
    *,
    base: str = "vgg16",
    weights: str = "imagenet",
    views: int = 15,
    seeds: Sequence[int] = tuple(range(10)),
    mlp_seeds: Sequence[int] = tuple(range(5)),
    scratch_seeds: Sequence[int] = (0,),
    epochs: int = 15,
    image_size: int = SIDE,
    scratch_image_size: int | None = None,
    precision: str = "auto",
    split: str | Path = "paper",
    split_seed: int = 0,
    paper_metric: bool = False,
    jobs: int | None = None,
    device: str = "auto",
    on_error: Literal["fail", "skip"] = "fail",
    progress: Progress = SILENT,
) -> Reproduction:
    """Train the paper's three models, evaluate them, and write its tables and figures; what is there already is kept.

    Args:
        images: Folder of the image set: the paper's is UC Merced Land Use.
        out: Folder that everything goes to: OUT/cache, OUT/runs, pictures, and a README.md that ties them together.
        base: The pretrained model's base; the paper's is `vgg16`.
        weights: Its weights, as `extract` takes them.
        views: Views of each training image for the pretrained model; the paper drew a new one in every epoch.
        seeds: Seeds of the pretrained model's head.
        mlp_seeds: Seeds of the multilayer perceptron on raw pixels.
        scratch_seeds: Seeds of the network that is trained from scratch.
        epochs: Epochs of all three.
        image_size: Side of the images that the two baselines see, in pixels.
        scratch_image_size: The same for the network trained from scratch alone; `image_size` if not given.
        precision: Arithmetic of the training from scratch: `fp32`, `bf16`, `fp16`, or `auto`.
        split: See `pipeline.split.make_split`.
        split_seed: Seed of a drawn split.
        paper_metric: Show the mean of batch means too, which is what the paper published.
        jobs: Heads that are fitted side by side; one a processor if not given.
        device: Where the base runs and the network is trained from scratch.
        on_error: What unreadable images mean: `fail` raises, `skip` leaves them out.
        progress: Told what happens.

    Returns:
        What was measured, and where it stands.

    Raises:
        RunError: OUT/README.md is somebody else's, or OUT holds runs of other options.
        SplitError: The split does not fit the images, or has no validation or no test part.
        ManyheadsError: A stage failed; all that was complete before is kept, and the same call goes on.
    """
    started = time.perf_counter()
    out = Path(out)
    readme, runs = out / "README.md", out / "runs"
    _require_own(readme)
    remove_leftovers(out)
    for asked in (seeds, mlp_seeds, scratch_seeds):
        checked_seeds(asked)
    if on_error == "fail":  # images that are skipped are known, and so the others split, only once they were read
        _require_split(images, split, split_seed)
    splitting: dict[str, Any] = {"split": split, "split_seed": split_seed}
    scratch_size = image_size if scratch_image_size is None else scratch_image_size
    extraction = extract(
        images,
        out / "cache",
        base=base,
        weights=weights,
        views=views,
        device=device,
        on_error=on_error,
        progress=progress,
        **(splitting if views > 1 else {}),
    )
    shared: dict[str, Any] = {"epochs": epochs, "progress": progress, **splitting}
    fittings: dict[str, Fitting] = {}
    with _way_out():
        fittings["pretrained"] = fit_head(
            extraction.cache, runs, name="pretrained", seeds=seeds, use_views=views, jobs=jobs, **shared
        )
        fittings["pixel-mlp"] = fit_mlp(
            images, runs, seeds=mlp_seeds, image_size=image_size, jobs=jobs, on_error=on_error, **shared
        )
        fittings["scratch"] = fit_scratch(
            images,
            runs,
            seeds=scratch_seeds,
            image_size=scratch_size,
            precision=precision,
            device=device,
            on_error=on_error,
            **shared,
        )
    fitted = {name: fittings[name].runs for name in TABLE_III}
    places = [run.path for members in fitted.values() for run in members]
    inputs: dict[str, Any] = {"cache": extraction.cache, "images": images, "progress": progress}
    validation, test = evaluate(*places, on="val", **inputs), evaluate(*places, on="test", **inputs)
    result = Reproduction(
        out=out,
        page=readme,
        pictures=draw_pictures(fitted, test, Path(images), out),
        rows=_rows(fitted, validation, test),
        images=test.names[0].images,
        runs=fitted,
        asked={
            "base": base,
            "weights": weights,
            "views": views,
            "seeds": tuple(seeds),
            "mlp_seeds": tuple(mlp_seeds),
            "scratch_seeds": tuple(scratch_seeds),
            "epochs": epochs,
            "image_size": image_size,
            "scratch_image_size": scratch_size,
            "precision": precision,
            "split": str(split),
            "split_seed": split_seed,
            "device": device,
            "on_error": on_error,
        },
        paper_metric=paper_metric,
        notes=tuple(dict.fromkeys(note for summary in test.names for note in summary.notes)),
        seconds=time.perf_counter() - started,
    )
    text = page(result)
    if not readme.exists() or readme.read_text(encoding="utf-8") != text:
        write_text(readme, text)
    return result


@contextmanager
def _way_out() -> Iterator[None]:
    """Say what to do about runs of other options in terms of this stage, which has no names to choose."""
    try:
        yield
    except RunError as error:
        reason, other, _ = str(error).partition(" Give the new configuration")
        if not other:
            raise
        raise RunError(
            f"{reason} For a reproduction with other options, name another OUT. On another machine, ask for the device "
            "and arithmetic of these runs (`--device`, `--precision`)."
        ) from error


def _require_own(readme: Path) -> None:
    """Refuse to write over a README.md that is not an earlier one of this stage."""
    try:
        with readme.open("rb") as file:
            first = file.readline().decode(errors="replace").rstrip()
    except FileNotFoundError:
        return
    if first != TITLE:
        raise RunError(
            f"{readme} begins with {first[:40]!r}: it is no page of `manyheads reproduce`, which would write over it. "
            "Name another OUT, such as a new folder."
        )


def _require_split(images: Path | str, split: str | Path, split_seed: int) -> None:
    """Refuse, before hours of work, a split that does not fit or lacks a part that Table III shows."""
    image_set = read_image_set(images)
    entries = tuple(Entry(image.path, image.label, digest="", part=image.part) for image in image_set.images)
    parts = make_split(Index(entries, image_set.classes, (), str(image_set.root), ""), split, split_seed)
    for part in ("val", "test"):
        if not parts.rows[part]:
            raise SplitError(
                f"The split ({parts.source}) has no {part} part, and Table III has accuracies on validation and test. "
                "Ask for a split with both, such as `--split 80/10/10`."
            )


def _rows(fitted: Mapping[str, Sequence[Run]], validation: Evaluation, test: Evaluation) -> tuple[Row, ...]:
    """Make Table III; its rows stand in the paper's order."""
    correct = {name: np.stack([predictions_on_test(run).correct for run in runs]) for name, runs in fitted.items()}
    ahead = {
        name: accuracy_difference(correct[name], correct[other])
        for name, other in pairwise(TABLE_III)
        if fitted[name][0].digests["test"] == fitted[other][0].digests["test"]
    }
    return tuple(_row(name, fitted[name], validation, test, ahead.get(name)) for name in TABLE_III)


def _row(
    name: str,
    runs: Sequence[Run],
    validation: Evaluation,
    test: Evaluation,
    ahead: Difference | None,
) -> Row:
    measured, held = _summary(test, name), _summary(validation, name)
    published = TABLE_III[name]
    corrected = published.corrected
    return Row(
        name=name,
        published=published,
        corrected=corrected if isinstance(corrected, tuple) else (corrected,),
        seeds=measured.seeds,
        validation=held.metrics["accuracy"],
        test=measured.metrics["accuracy"],
        interval=measured.interval,
        behind=measured.behind,
        ahead=ahead,
        batch_means=spread([mean_of_batch_means(predictions_on_test(run).correct, BATCH) for run in runs]),
    )


def _summary(evaluation: Evaluation, name: str) -> Summary:
    return next(summary for summary in evaluation.names if summary.folder.name == name)
