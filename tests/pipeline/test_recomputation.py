"""Rows of a cache that are computed again and compared."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import CacheError, FeatureCache
from pipeline.errors import WeightsError
from pipeline.extraction import extract
from pipeline.recomputation import TOLERANCE, recompute
from tests.conftest import BASE, CLASSES, PER_CLASS, WEIGHTS

ALL = len(CLASSES) * PER_CLASS


@pytest.fixture
def few(drawn: Path, tmp_path: Path) -> Path:
    """The first image of each class."""
    for label in CLASSES:
        (tmp_path / "few" / label).mkdir(parents=True)
        shutil.copy(drawn / label / f"{label}00.png", tmp_path / "few" / label)
    return tmp_path / "few"


def take(images: Path, cache: Path, **options: Any) -> None:
    extract(images, cache, **{"base": BASE, "weights": WEIGHTS, "device": "cpu", **options})


def test_all_rows_are_what_they_were(extracted: Path) -> None:
    found = recompute(extracted, 1000, device="cpu")
    assert found.rows == ALL
    assert found.skipped == ()
    assert found.agrees
    assert found.relative <= 1e-5


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"store": "float16"}, {"views": 3}], ids=str)
def test_every_precision_storage_and_view_agrees(few: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    take(few, tmp_path / "cache", **options)
    found = recompute(tmp_path / "cache", 9, device="cpu")
    assert found.rows == 3 * options.get("views", 1)
    assert found.agrees
    assert found.relative <= TOLERANCE[options.get("precision", "fp32")] / 10


@pytest.mark.parametrize("view", [0, 1])
def test_a_row_of_other_numbers_is_found(few: Path, tmp_path: Path, view: int) -> None:
    take(few, tmp_path / "whole", views=2)
    whole = FeatureCache.open(tmp_path / "whole")
    entries = whole.index().entries
    digests, views = [entry.digest for entry in entries] * 2, [0] * 3 + [1] * 3
    features = whole.read(digests, views=views)
    wrong = FeatureCache.create(tmp_path / "wrong", whole.recipe, whole.made_from)
    features[3 * view + 1, 7] += 0.1 * np.abs(features[3 * view + 1]).max()
    wrong.add_shard(digests, views, features, {})
    wrong.write_index(whole.index())
    found = recompute(tmp_path / "wrong", 6, device="cpu")
    assert not found.agrees
    assert found.worst == entries[1].path + (", view 1" if view else "")
    assert 0.05 < found.relative < 0.2
    assert found.rows == 6


def test_as_many_rows_as_asked_and_not_always_the_same(extracted: Path) -> None:
    assert len({recompute(extracted, 1, device="cpu").worst for _ in range(6)}) > 1
    assert recompute(extracted, 4, device="cpu").rows == 4


def test_an_image_that_changed_is_no_difference(few: Path, tmp_path: Path) -> None:
    take(few, tmp_path / "cache")
    (few / "beach" / "beach00.png").write_bytes(b"other")
    (few / "forest" / "forest00.png").unlink()
    found = recompute(tmp_path / "cache", 3, device="cpu")
    assert found.rows == 1
    assert [path for path, _ in found.skipped] == ["beach/beach00.png", "forest/forest00.png"]
    assert "changed" in found.skipped[0][1]
    assert found.agrees


def test_the_images_may_lie_elsewhere(few: Path, tmp_path: Path) -> None:
    take(few, tmp_path / "cache")
    few.rename(tmp_path / "moved")
    with pytest.raises(CacheError, match=r"None of the images .* could be read in .*few .*: `--images DIR`"):
        recompute(tmp_path / "cache", 3, device="cpu")
    assert recompute(tmp_path / "cache", 3, images=tmp_path / "moved", device="cpu").rows == 3


def test_other_weights_are_refused(extracted: Path) -> None:
    with pytest.raises(WeightsError, match="other tensors"):
        recompute(extracted, 1, weights="random:1", device="cpu")
