"""The pictures that `reproduce` draws: the paper's Tables IV and V and its Fig. 5, measured, and learning curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.decode import decode
from pipeline.evaluation import Evaluation
from pipeline.figures import Example, draw_confusion, draw_curves, draw_detections
from pipeline.run import Run
from pipeline.stored_predictions import Predictions, stored_predictions

EXAMPLES = 6  # rows of Fig. 5
TOP = 5  # classes of each model in it


def draw_pictures(fitted: Mapping[str, Sequence[Run]], test: Evaluation, images: Path, out: Path) -> dict[str, Path]:
    """Draw Tables IV and V, Fig. 5 and the learning curves, each unless it is there already.

    Args:
        fitted: The runs of each of the three models, by name.
        test: Their evaluation on the test part.
        images: Folder of the image set.
        out: Folder that the pictures go to.

    Returns:
        What each picture shows -> its file. Where the pretrained model names no test image rightly, there is no Fig. 5.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    pictures: dict[str, Path] = {}
    for number, name in (("IV", "pretrained"), ("V", "scratch")):
        metrics = [test.runs[f"{name}/{run.path.name}"] for run in fitted[name]]
        confusion = np.mean([one.confusion for one in metrics], axis=0)
        accuracy = np.mean([one.accuracy for one in metrics])
        over = f", mean of {len(metrics)} seeds" if len(metrics) > 1 else ""
        title = f"Table {number}, measured: {_told(fitted[name][0])}, test{over}: accuracy {accuracy:.4f}"
        pictures[f"Table {number}"] = draw_confusion(
            confusion, metrics[0].classes, title, out / f"table-{number.lower()}.png"
        )
    detections = out / "figure-5.png"
    if examples := choose_examples(fitted["pretrained"][0], fitted["scratch"][0], images):
        left, right = (_told(fitted[name][0]) for name in ("pretrained", "scratch"))
        title = "Fig. 5, measured: test images that the pretrained model names rightly, and the five likeliest classes"
        pictures["Fig. 5"] = draw_detections(examples, left, right, title, detections)
    else:
        detections.unlink(missing_ok=True)  # that of other runs
    histories = {name: [run.history for run in runs] for name, runs in fitted.items()}
    title = "Learning curves of the three models"
    pictures["Learning curves"] = draw_curves(histories, title, out / "learning-curves.png")
    return pictures


def _told(run: Run) -> str:
    """Say in a few words which model a run is."""
    if run.head == "scratch":
        return f"VGG16 from scratch, {run.parameters['image_size']} px"
    return f"{run.recipe.base}, {'random weights' if run.recipe.random_weights else 'pretrained'}"


def choose_examples(pretrained: Run, scratch: Run, images: Path) -> list[Example]:
    """Choose test images that the pretrained model gets right: one a class, of classes spread evenly over all.

    Args:
        pretrained: The run that must be right.
        scratch: The run that it is compared with, on the same test images.
        images: Folder of the image set.
    """
    left, right = predictions_on_test(pretrained), predictions_on_test(scratch)
    first: dict[str, int] = {}
    for row in np.flatnonzero(left.correct).tolist():
        first.setdefault(left.labels[row], row)
    rows = [first[label] for label in sorted(first)]
    places = np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int) if rows else []
    other = {path: row for row, path in enumerate(right.paths)}
    return [
        Example(
            image=np.asarray(decode((images / left.paths[row]).read_bytes())),
            path=left.paths[row],
            label=left.labels[row],
            left=_top(left, row),
            right=_top(right, other[left.paths[row]]),
        )
        for row in (rows[place] for place in places)
    ]


def _top(predictions: Predictions, row: int) -> list[tuple[str, float]]:
    probabilities = predictions.probabilities[row]
    likeliest = np.argsort(-probabilities, kind="stable")[:TOP]
    return [(predictions.classes[place], float(probabilities[place])) for place in likeliest]


def predictions_on_test(run: Run) -> Predictions:
    """Read what an evaluated run predicted on the test part."""
    found = stored_predictions(run, "test")
    assert found is not None, "evaluate has just stored it"
    return found
