"""Labels are names first: any name keeps its place, by code point, through every stage, whatever its integer is."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

from cache import FeatureCache
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.prediction import predict
from pipeline.run import Run
from pipeline.stored_predictions import stored_predictions
from tests.conftest import BASE, WEIGHTS
from tests.pipeline.image_files import array_image
from tests.pipeline.whole_images import scene

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take some of these names for equal")

NUMBERS = ("1", "10", "2", "01", "1.0", "-1")
LETTERS = ("é", "e\u0301", "ß", "ss", "SS", "Ss", "中文", "日本", "🌲", "Ω", "ω", "İ", "i")
TROUBLE = (
    "a,b",
    '"',
    '"quoted"',
    "=1+1",
    "-x",
    "--help",
    "nan",
    "None",
    "True",
    " blank ",
    "a\nb",
    "a\r",
    "path",
    "label",
)
SETS = {"numbers": NUMBERS, "letters": LETTERS, "trouble": TROUBLE}
EACH = 5


def draw(root: Path, names: Sequence[str]) -> Path:
    """Images of which no two classes share a colour."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for copy in range(EACH):
            picture = scene(number) // 32 * 31 + scene(100 * number + copy) // 32
            array_image(picture).save(root / name / f"{copy}.png")
    return root


def extracted(images: Path, cache: Path) -> FeatureCache:
    extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu")
    return FeatureCache.open(cache)


def fitted(cache: Path, runs: Path, head: str = "logistic") -> Path:
    fit_head(cache, runs, head=head, seeds=(0,), split="60/20/20", jobs=1)
    return runs / head / "seed-0000"


class Predictions(NamedTuple):
    """What a run says of its test images."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    probabilities: list[list[float]]


def predictions(run: Path) -> Predictions:
    evaluate(run)
    found = stored_predictions(Run.read(run), "test")
    assert found is not None
    return Predictions(found.classes, found.paths, found.labels, found.predicted, found.probabilities.tolist())


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_names_keep_their_order_through_every_stage(names: Sequence[str], tmp_path: Path) -> None:
    ordered = tuple(sorted(names))
    images = draw(tmp_path / "images", names)
    index = extracted(images, tmp_path / "cache").index()
    assert index.classes == ordered
    paths = [entry.path for entry in index.entries]
    assert paths == sorted(f"{name}/{copy}.png" for name in names for copy in range(EACH))
    with h5py.File(tmp_path / "cache" / "index.h5") as file:
        stored = [str(name) for name in file["labels"].attrs["classes"]]
        assert [stored[label] for label in file["labels"][:]] == [path.split("/")[0] for path in paths]

    run = fitted(tmp_path / "cache", tmp_path / "runs")
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["classes"] == list(ordered)
    metrics = evaluate(run).runs["logistic/seed-0000"]
    assert tuple(metrics.classes) == ordered
    assert metrics.accuracy == 1  # so that a name that stands for another would show
    assert np.array_equal(metrics.confusion, np.diag(np.full(len(names), EACH // 5)))
    with (run / "predictions-test.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["path", "label", "predicted", *ordered]
    assert sorted(line[1] for line in lines) == sorted(ordered)
    for path, label, predicted, *probabilities in lines:
        assert path.split("/")[0] == label == predicted == ordered[int(np.argmax(np.array(probabilities, float)))]

    result = predict(run, images, top_k=len(names), device="cpu")
    assert [Path(image.path).parent.name for image in result.images] == [image.top[0][0] for image in result.images]
    assert all({name for name, _ in image.top} == set(names) for image in result.images)


@pytest.fixture
def numbered(tmp_path: Path) -> tuple[Path, Path, Predictions]:
    """An image set, a run on its cache, and what the run predicted there."""
    images = draw(tmp_path / "images", NUMBERS)
    extracted(images, tmp_path / "cache")
    run = fitted(tmp_path / "cache", tmp_path / "runs")
    return images, run, predictions(run)


def forget(run: Path) -> None:
    for name in ("predictions-test.csv", "evaluation-test.json"):
        (run / name).unlink()


def test_a_class_that_sorts_first_changes_no_prediction(
    numbered: tuple[Path, Path, Predictions], tmp_path: Path
) -> None:
    images, run, before = numbered
    forget(run)
    draw(images, ("!first",))
    later = extracted(images, tmp_path / "cache").index()
    assert later.classes == ("!first", *before.classes)  # all others have other integers now
    assert predictions(run) == before
    named = predict(run, *(images / path for path in before.paths), device="cpu").images
    assert tuple(image.top[0][0] for image in named) == before.labels


def test_a_cache_with_its_classes_in_another_order(numbered: tuple[Path, Path, Predictions], tmp_path: Path) -> None:
    _, run, before = numbered
    forget(run)
    cache = FeatureCache.open(tmp_path / "cache")
    turned = replace(cache.index(), classes=cache.index().classes[::-1])
    cache.write_index(turned)
    assert cache.index() == turned
    with h5py.File(tmp_path / "cache" / "index.h5") as file:
        assert list(file["labels"].attrs["classes"]) == sorted(NUMBERS, reverse=True)
    assert predictions(run) == before  # of the run that was fitted before
    again = fitted(tmp_path / "cache", tmp_path / "again")
    assert Run.read(again).classes == before.classes
    assert predictions(again) == before  # and of one that is fitted now
