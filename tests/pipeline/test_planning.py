"""Planning: every run that is asked for, whole before it is fitted; and never two configurations under one name."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import CacheError, FeatureCache
from pipeline.errors import HeadError, RunError
from pipeline.pixels import pixel_recipe, pixel_transform, read_index
from pipeline.planning import Plan, Source, checked_seeds, make_plan, notes_on, require_name
from pipeline.run import Run
from pipeline.split import make_split
from tests.conftest import CLASSES


def source_of(cache: Path) -> Source:
    return Source.of_cache(FeatureCache.open(cache))


def plan(source: Source, runs: Path, **options: Any) -> Plan:
    head = options.pop("head", "mlp")
    split = make_split(source.index, options.pop("split", "60/20/20"))
    asked = {"name": head, "seeds": (0,), "device": "cpu", "parameters": {}, **options}
    return make_plan(source, split, runs, head=head, **asked)


def test_a_plan_is_what_fitting_it_will_write(fitted: Path, extracted: Path, tmp_path: Path) -> None:
    planned = plan(source_of(extracted), tmp_path, seeds=(1,), parameters={"epochs": 3})
    (run,) = planned.runs
    done = Run.read(fitted / "mlp" / "seed-0001")
    assert run == replace(done, history=(), timings={}, model={})
    assert (planned.folder, planned.folder_of(run)) == (tmp_path / "mlp", tmp_path / "mlp" / "seed-0001")
    assert planned.missing == planned.runs
    assert list(tmp_path.iterdir()) == []


def test_only_the_runs_that_are_not_there_are_missing(runs: Path, extracted: Path) -> None:
    planned = plan(source_of(extracted), runs, seeds=(0, 1, 5), parameters={"epochs": 3})
    assert [run.seed for run in planned.runs] == [0, 1, 5]
    assert [run.seed for run in planned.missing] == [5]
    assert [run.path.name for run in replace(planned, runs=planned.runs[:2]).fitted()] == ["seed-0000", "seed-0001"]


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b.png", ".hidden/x.png", "\ud800.png"])
def test_an_index_that_lists_images_outside_its_image_set_is_refused(cache: Path, path: str) -> None:
    opened = FeatureCache.open(cache)
    index = opened.index()
    opened.write_index(replace(index, entries=(replace(index.entries[0], path=path), *index.entries[1:])))
    with pytest.raises(CacheError, match="lists images that lie in no image set"):
        source_of(cache)


def test_the_run_of_another_seed_does_not_pass_for_one(runs: Path, extracted: Path) -> None:
    shutil.copytree(runs / "mlp" / "seed-0001", runs / "mlp" / "seed-0005")
    with pytest.raises(RunError, match="seed-0005 holds the run of seed 1"):
        plan(source_of(extracted), runs, seeds=(0, 5), parameters={"epochs": 3})


def test_pixels_are_planned_like_features(drawn: Path, extracted: Path, tmp_path: Path) -> None:
    source = Source(read_index(drawn, pixel_transform(8)), pixel_recipe(8), "")
    pixels, features = (plan(one, tmp_path, name="same").runs[0] for one in (source, source_of(extracted)))
    assert (pixels.recipe.base, pixels.cache, pixels.image_set) == ("pixels", "", str(drawn))
    assert (pixels.images, pixels.digests, pixels.classes) == (features.images, features.digests, CLASSES)
    assert not any("random weights" in note for note in pixels.notes)


@pytest.mark.parametrize("baseline", ["scratch", "pixel-mlp"])
def test_baselines_have_all_their_parameters(drawn: Path, tmp_path: Path, baseline: str) -> None:
    source = Source(read_index(drawn, pixel_transform(32)), pixel_recipe(32), "")
    asked = {"epochs": np.int64(4), "lr": np.float64(0.01), "hidden": (np.int64(8), 5)}
    (run,) = plan(source, tmp_path, head=baseline, parameters=asked).runs
    assert {name: run.parameters[name] for name in asked} == {"epochs": 4, "lr": 0.01, "hidden": [8, 5]}
    assert run.parameters["batch_size"] == 16
    assert "device" not in run.parameters
    assert "random_state" not in run.parameters
    assert all(type(value) in (int, float, str, list, type(None)) for value in run.parameters.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parameters": {"epochs": 4}}, "parameter epochs is 3, asked 4"),
        ({"views": 2}, "views is 1, asked 2"),
        ({"split": "50/25/25"}, "split is 60/20/20, seed 0, asked 50/25/25, seed 0"),
        ({"head": "knn", "parameters": {}}, "head is mlp, asked knn"),
        ({"seeds": (7,), "parameters": {"epochs": 3, "dropout": 0.25}}, r"parameter dropout is 0\.5, asked 0\.25"),
    ],
)
def test_runs_of_another_configuration_may_not_stand_beside(
    runs: Path, extracted: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=f"{message}.*--name"):
        plan(source_of(extracted), runs, **{"name": "mlp", "parameters": {"epochs": 3}, **changed})


def test_views_are_for_what_is_trained_in_epochs(extracted: Path, tmp_path: Path) -> None:
    assert plan(source_of(extracted), tmp_path, views=9).runs[0].views == 9
    for head in ("logistic", "svm", "knn"):
        with pytest.raises(HeadError, match=f"{head} is not trained in epochs.*--use-views"):
            plan(source_of(extracted), tmp_path, head=head, views=2)
        assert plan(source_of(extracted), tmp_path, head=head, views=1).runs[0].views == 1


def test_a_head_without_a_seed_is_planned_once(extracted: Path, tmp_path: Path) -> None:
    planned = plan(source_of(extracted), tmp_path, head="logistic", seeds=(4, 5))
    assert [(run.seed, run.seeded) for run in planned.runs] == [(0, False)]


def test_seeds_are_different_whole_numbers() -> None:
    assert checked_seeds([np.int64(3), 0, 2**32 - 1]) == (3, 0, 2**32 - 1)
    for seeds in ((), (1, 1), (-1,), (2**32,)):
        with pytest.raises(HeadError, match="not a list of different whole numbers"):
            checked_seeds(seeds)
    with pytest.raises(TypeError):
        checked_seeds((0.5,))  # type: ignore[arg-type]


def test_a_name_is_a_folders() -> None:
    for name in ("mlp", "Näme 1", "a.b", "$HOME", "森" * 66):
        require_name(name)
    for name in ("", ".x", "..", "a/b", "a\\b", "a\nb", "x" * 200, "森" * 67):
        with pytest.raises(RunError, match="cannot name runs"):
            require_name(name)


def test_what_could_not_be_read_is_noted_in_the_words_of_the_source(images: Path, extracted: Path) -> None:
    (images / "beach" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    index = read_index(images, pixel_transform(8), on_error="skip")
    split = make_split(index, "60/20/20")
    assert notes_on(Source(index, pixel_recipe(8), ""), split) == ("1 images take no part: they could not be read",)
    features = replace(source_of(extracted), index=index)
    assert any("1 images have no features" in note for note in notes_on(features, split))
