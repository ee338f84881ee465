"""Features on a plane."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.outcomes import read_outcomes
from pipeline.progress import SILENT
from pipeline.report import maps
from pipeline.report.answers import Answered, gather
from pipeline.report.maps import SCALE, feature_maps, lay_out


@pytest.fixture
def answered(runs: Path) -> Answered:
    return gather(read_outcomes([runs], "train", None, None, SILENT))


def test_one_map_for_all_runs_of_one_cache(answered: Answered) -> None:
    (one,), digests = feature_maps(answered, None, SILENT)
    assert one.names == (0, 1)
    assert one.note == ""
    assert set(answered.paths) <= digests.keys()
    assert one.layouts is not None
    assert set(one.layouts) == {"principal components", "t-SNE"}
    for places in one.layouts.values():
        assert len(places) == len(one.images) == 18
        assert np.ptp(np.array(places), axis=0).max() == SCALE
        assert np.array(places).min() >= 0


def test_components_are_those_of_the_features() -> None:
    features = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    plane = lay_out(features)["principal components"]
    centred = features - features.mean(0)
    _, sizes, _ = np.linalg.svd(centred)
    np.testing.assert_allclose(np.linalg.norm(plane, axis=0), sizes[:2], rtol=1e-4)


def test_the_same_features_give_the_same_map() -> None:
    features = np.random.default_rng(1).normal(size=(40, 12)).astype(np.float32)
    one, other = lay_out(features), lay_out(features)
    for way in one:
        np.testing.assert_array_equal(one[way], other[way])


@pytest.mark.parametrize("features", [np.ones((9, 5)), np.eye(4, 1)], ids=["all the same", "one number each"])
def test_odd_features_have_a_map_too(features: np.ndarray) -> None:
    for plane in lay_out(features).values():
        assert plane.shape == (len(features), 2)
        assert np.isfinite(plane).all()


def test_a_cache_that_is_gone_is_said(answered: Answered, tmp_path: Path) -> None:
    gone = tuple(replace(one, run=replace(one.run, cache=str(tmp_path / "gone"))) for one in answered.answers)
    (one,), digests = feature_maps(replace(answered, answers=gone), None, SILENT)
    assert one.layouts is None
    assert "gone" in one.note
    assert digests == {}


def test_a_cache_of_other_features_is_said(answered: Answered, extracted: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(extracted, tmp_path / "moved"))
    (one,), _ = feature_maps(answered, cache, SILENT)
    assert one.layouts is not None
    recipe = replace(answered.answers[0].run.recipe, precision="bf16")
    other = tuple(replace(one, run=replace(one.run, recipe=recipe)) for one in answered.answers)
    (one,), _ = feature_maps(replace(answered, answers=other), cache, SILENT)
    assert one.layouts is None
    assert "precision" in one.note


def test_baselines_have_no_map(answered: Answered) -> None:
    recipe = replace(answered.answers[0].run.recipe, base="pixels")
    pixels = tuple(replace(one, run=replace(one.run, recipe=recipe)) for one in answered.answers)
    assert feature_maps(replace(answered, answers=pixels), None, SILENT) == ((), {})


def test_of_many_images_some_are_on_the_map(answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST", 9)
    (one,), _ = feature_maps(answered, None, SILENT)
    assert len(one.images) == 9
    assert "9 of 18" in one.note
