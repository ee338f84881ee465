"""The pipeline on UC Merced with real ImageNet weights: what README and docs/results.md claim."""

from pathlib import Path

import numpy as np
import pytest

from cache import FeatureCache
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.split import make_split

pytestmark = [pytest.mark.real, pytest.mark.slow]

MOBILENET = "mobilenet_v2-imagenet-base.safetensors"


@pytest.fixture(scope="module")
def mobilenet(real_data: Path, real_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("ucmerced") / "cache"
    done = extract(real_data / "ucmerced", cache, base="mobilenet_v2", weights=str(real_weights / MOBILENET))
    assert (done.images, done.classes) == (2100, 21)
    assert done.computed == 2099, "airplane01 and airplane02 are the same picture"
    return cache


def test_logistic_regression_on_the_papers_split(mobilenet: Path, tmp_path: Path) -> None:
    fit_head(mobilenet, tmp_path, head="logistic", split="paper")
    metrics = evaluate(tmp_path).runs["logistic/seed-0000"]
    assert metrics.images == 210
    assert metrics.correct >= 0.94 * 210


def test_the_papers_head_learns(mobilenet: Path, tmp_path: Path) -> None:
    fit_head(mobilenet, tmp_path, head="mlp", split="paper", seeds=(0, 1))
    summary = evaluate(tmp_path).names[0]
    assert summary.metrics["accuracy"].smallest > 0.88


def test_the_papers_split_is_the_published_one(mobilenet: Path, real_data: Path) -> None:
    index = FeatureCache.open(mobilenet).index()
    ours, published = make_split(index, "paper"), make_split(index, real_data / "ucmerced-paper-split.csv")
    assert ours.rows == published.rows
    assert {part: len(rows) for part, rows in ours.rows.items()} == {"train": 1680, "val": 210, "test": 210}


def test_tiff_and_jpeg_files_of_a_picture_have_nearly_the_same_features(
    mobilenet: Path, real_data: Path, real_weights: Path, tmp_path: Path
) -> None:
    done = extract(real_data / "ucmerced-tiff", tmp_path, base="mobilenet_v2", weights=str(real_weights / MOBILENET))
    assert done.images == 63
    tiff, jpeg = FeatureCache.open(tmp_path), FeatureCache.open(mobilenet)
    stems = {entry.path.removesuffix(".jpg"): entry.digest for entry in jpeg.index().entries}
    entries = tiff.index().entries
    originals = tiff.read([entry.digest for entry in entries])
    encoded = jpeg.read([stems[entry.path.removesuffix(".tif")] for entry in entries])
    cosines = (originals * encoded).sum(1) / np.linalg.norm(originals, axis=1) / np.linalg.norm(encoded, axis=1)
    assert cosines.min() > 0.9
    assert np.median(cosines) > 0.97
