"""More and more training images: nested, the same of each class, measured on the same validation part."""

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cache import FeatureCache
from cli import main
from pipeline.comparison import compare
from pipeline.difference import accuracy_difference
from pipeline.errors import HeadError, SplitError
from pipeline.figures import sizes_figure
from pipeline.resplits import FEWER, fewer
from pipeline.run import Run
from pipeline.sizes import fit_sizes
from pipeline.split import make_split
from pipeline.stored_predictions import stored_predictions
from pipeline.tables import show_sizes
from tests.conftest import CLASSES


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), small=st.integers(1, 5), more=st.integers(0, 1))
def test_smaller_parts_lie_in_larger_ones(extracted: Path, seed: int, small: int, more: int) -> None:
    index = FeatureCache.open(extracted).index()
    whole = make_split(index, "60/20/20", seed)
    few, many = (fewer(index, whole, size, seed) for size in (small, small + more))
    assert set(few.rows["train"]) <= set(many.rows["train"]) <= set(whole.rows["train"])
    labels = [index.entries[row].label for row in few.rows["train"]]
    assert {name: labels.count(name) for name in CLASSES} == dict.fromkeys(CLASSES, small)
    for part in ("val", "test"):
        assert (few.rows[part], few.digests[part]) == (whole.rows[part], whole.digests[part])
    assert few == fewer(index, whole, small, seed)
    assert few.digests["train"] != whole.digests["train"]


def test_all_of_them_are_the_whole_part(extracted: Path) -> None:
    index = FeatureCache.open(extracted).index()
    whole = make_split(index, "60/20/20", 0)
    assert fewer(index, whole, 6, 0).digests == whole.digests
    with pytest.raises(SplitError, match=r"has 6 training images of \w+, fewer than the 7 of each class"):
        fewer(index, whole, 7, 0)


def test_every_size_is_fitted_and_measured_on_validation(extracted: Path, tmp_path: Path) -> None:
    asked = {"seeds": (0, 1), "epochs": 3, "lr": 1e-3, "split": "60/20/20", "jobs": 1}
    result = fit_sizes(extracted, tmp_path, (6, 1, 3), **asked)  # type: ignore[arg-type]
    assert [step.per_class for step in result.steps] == [1, 3, 6]
    assert (result.images, result.fitted) == (6, 6)
    correct = []
    for step in result.steps:
        folder = tmp_path / f"mlp_per-class={step.per_class}"
        runs = [Run.read(folder / f"seed-000{seed}") for seed in (0, 1)]
        assert len(runs[0].images["train"]) == 3 * step.per_class
        assert runs[0].split == f"60/20/20, seed 0, {step.per_class} training images of each class"
        found = [stored_predictions(run, "val") for run in runs]
        correct.append(np.stack([one.correct for one in found if one is not None]))
        assert step.figure.value == pytest.approx(correct[-1].mean())
        assert not (runs[0].path / "predictions-test.csv").exists()
    assert result.steps[0].gain is None
    assert result.steps[2].gain == accuracy_difference(correct[2], correct[1])
    assert fit_sizes(extracted, tmp_path, (1, 3, 6), **asked).fitted == 0  # type: ignore[arg-type]
    assert result.picture == tmp_path / "mlp_per-class.png"
    assert result.picture.with_suffix(".svg").exists()
    file = io.StringIO()
    show_sizes(result, Console(file=file, width=200))
    for said in ("validation, 6 images", "from 3 to 6 images of each class accuracy changes by", "6 runs fitted"):
        assert said in file.getvalue()
    assert len(compare(tmp_path, on="val", out=tmp_path).names) == 3


def test_one_size_alone_has_no_gain(extracted: Path, tmp_path: Path) -> None:
    result = fit_sizes(extracted, tmp_path, (2,), head="knn", split="60/20/20", jobs=1)
    (step,) = result.steps
    assert (step.per_class, step.gain) == (2, None)
    file = io.StringIO()
    show_sizes(result, Console(file=file, width=200))
    assert "1 run fitted" in file.getvalue()
    assert "changes by" not in file.getvalue()


def test_images_that_a_seed_drew_from_a_split_that_none_did_keep_it(extracted: Path, tmp_path: Path) -> None:
    index = FeatureCache.open(extracted).index()
    parts = "test", "val", "train", "train"
    lines = [f"{entry.path},{entry.label},{parts[row % 4]}" for row, entry in enumerate(index.entries)]
    (tmp_path / "split.csv").write_text("\n".join(["path,label,split", *lines]))
    one, other = (fewer(index, make_split(index, tmp_path / "split.csv"), 2, seed) for seed in (3, 4))
    assert one.digests["train"] != other.digests["train"]
    found = FEWER.fullmatch(one.source)
    assert found is not None
    assert (found["split"], found["each"], found["seed"]) == (str(tmp_path / "split.csv"), "2", "3")
    drawn = FEWER.fullmatch(fewer(index, make_split(index, "60/20/20", 7), 2, 7).source)
    assert drawn is not None
    assert (drawn["split"], drawn["seed"]) == ("60/20/20, seed 7", None)


def test_the_picture_has_every_size() -> None:
    points = [(5, 0.8, 0.75, 0.85, (0.79, 0.81)), (10, 0.9, 0.87, 0.93, (0.9,))]
    (axes,) = sizes_figure(points, "title $x").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "10"]
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [0.8, 0.9]


def test_what_cannot_be_asked_is_refused(extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"The sizes \[0, 5\] are not numbers of images"):
        fit_sizes(extracted, tmp_path, (0, 5))
    with pytest.raises(HeadError, match="no validation part, on which sizes are compared"):
        fit_sizes(extracted, tmp_path, (1, 2), head="knn", split="80/0/20", jobs=1)
    with pytest.raises(SplitError, match="fewer than the 1000 of each class"):
        fit_sizes(extracted, tmp_path, (1, 1000), head="knn", jobs=1, split="60/20/20")
    assert not list(tmp_path.iterdir())  # nothing was fitted before that was known
    for sizes in ("", "5,x", "0,5"):
        result = CliRunner().invoke(main, ["fit-head", "cache", "runs", "--train-sizes", sizes])
        assert result.exit_code == 2
        assert "is no list of numbers above 0, such as 5,10,20" in result.output
    both = CliRunner().invoke(main, ["fit-head", "cache", "runs", "--train-sizes", "5,10", "--grid", "lr=1,2"])
    assert both.exit_code == 2
    assert "two questions" in both.output
