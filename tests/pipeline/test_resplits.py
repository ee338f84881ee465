"""Several splits of one cache: drawn as single ones are, kept apart from them, and told together."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cache import FeatureCache
from pipeline.baselines import fit_mlp
from pipeline.comparison import compare
from pipeline.difference import RESPLITS
from pipeline.errors import RunError, SplitError
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.resplits import splits_of
from pipeline.run import Run
from pipeline.run_places import find_runs
from pipeline.split import make_split
from pipeline.statistics import components, resampled_difference, resampled_mean
from pipeline.tables import show_evaluation, show_fitting
from tests.conftest import BASE, CLASSES, WEIGHTS


@pytest.fixture(scope="module")
def several(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of `mlp` (two seeds) and `knn` on three splits, evaluated; do not write to them."""
    runs = tmp_path_factory.mktemp("several") / "runs"
    fit_head(extracted, runs, seeds=(0, 1), epochs=3, split="60/20/20", split_seed=4, resplits=3, jobs=1)
    fit_head(extracted, runs, head="knn", split="60/20/20", split_seed=4, resplits=3, jobs=1)
    evaluate(runs)
    return runs


@pytest.fixture
def changed(several: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(several, tmp_path / "changed"))


def test_each_split_is_the_draw_of_its_seed(extracted: Path, several: Path) -> None:
    index = FeatureCache.open(extracted).index()
    for number in (4, 5, 6):
        alone = make_split(index, "60/20/20", number)
        for seed in (0, 1):
            run = Run.read(several / "mlp" / f"split-{number:04d}" / f"seed-{seed:04d}")
            assert (run.resplit, run.split, run.seed) == (number, f"60/20/20, seed {number}", seed)
            assert run.digests == alone.digests
            assert run.label == f"mlp/split-{number:04d}/seed-{seed:04d}"
            assert run.name_folder == several / "mlp"
    assert len({tuple(run.images["test"]) for run in find_runs([several / "knn"])}) == 3


def test_a_run_on_one_of_several_is_the_run_on_that_split(extracted: Path, several: Path, tmp_path: Path) -> None:
    fit_head(extracted, tmp_path, seeds=(1,), epochs=3, split="60/20/20", split_seed=5, jobs=1)
    one, other = (folder / "model.safetensors" for folder in (tmp_path / "mlp", several / "mlp" / "split-0005"))
    names = [path.parent / "seed-0001" / path.name for path in (one, other)]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_more_splits_and_seeds_go_on_from_what_is_there(extracted: Path, changed: Path) -> None:
    more = fit_head(extracted, changed, seeds=range(3), epochs=3, split="60/20/20", split_seed=4, resplits=4, jobs=1)
    assert (len(more.runs), more.fitted) == (12, 6)
    assert more.curves == changed / "mlp" / "learning-curves.png"
    file = io.StringIO()
    show_fitting(more, Console(file=file, width=200))
    assert "6 runs fitted, 6 kept" in file.getvalue()
    assert "4 splits, the first one 60/20/20, seed 4 = 18/6/6 images" in file.getvalue()
    last = [[run.history[-1]["val_accuracy"] or 0 for run in more.runs[at : at + 3]] for at in range(0, 12, 3)]
    found = components(last)
    assert f"± {found.splits:.4f} between splits, ± {found.seeds:.4f} between seeds" in file.getvalue()


def test_the_baseline_on_pixels_knows_them_too(drawn: Path, tmp_path: Path) -> None:
    asked = {"seeds": (0, 1), "epochs": 1, "image_size": 8, "split": "60/20/20", "resplits": 2, "jobs": 1}
    assert fit_mlp(drawn, tmp_path, **asked).fitted == 4  # type: ignore[arg-type]
    assert fit_mlp(drawn, tmp_path, **asked).fitted == 0  # type: ignore[arg-type]
    (summary,) = evaluate(tmp_path).names
    assert (summary.seeds, summary.fits) == ((0, 1), (2, 2))


def test_any_place_finds_them(several: Path) -> None:
    assert len(find_runs([several])) == 9
    assert len(find_runs([several / "mlp"])) == 6
    assert len(find_runs([several / "mlp" / "split-0004"])) == 2
    assert len(find_runs([several / "mlp" / "split-0004" / "seed-0000", several])) == 9


def test_evaluate_tells_a_name_once(several: Path) -> None:
    result = evaluate(several)
    assert {summary.name: (summary.seeds, summary.fits) for summary in result.names} == {
        "mlp": ((0, 1), (2, 2, 2)),
        "knn": ((0,), (1, 1, 1)),
    }
    assert "mlp/split-0005/seed-0001" in result.runs
    by_name = {summary.name: summary for summary in result.names}
    accuracies = [found.accuracy for key, found in result.runs.items() if key.startswith("mlp/")]
    assert by_name["mlp"].metrics["accuracy"].mean == pytest.approx(np.mean(accuracies))
    means = np.array(accuracies).reshape(3, 2).mean(1)
    expected = resampled_mean(means.tolist(), 18, 6)
    assert by_name["mlp"].interval == pytest.approx((expected.low, expected.high))
    file = io.StringIO()
    show_evaluation(result, Console(file=file, width=200))
    assert "splits" in file.getvalue()


def test_compare_pairs_names_split_by_split(several: Path, tmp_path: Path) -> None:
    result = compare(several, out=tmp_path)
    (pair,) = result.pairs
    assert pair.method == RESPLITS
    runs = evaluate(several).runs
    mean = {
        name: np.array(
            [
                np.mean([found.accuracy for key, found in runs.items() if key.startswith(f"{name}/split-000{number}/")])
                for number in (4, 5, 6)
            ]
        )
        for name in ("mlp", "knn")
    }
    expected = resampled_difference((mean[pair.first] - mean[pair.second]).tolist(), 18, 6)
    assert pair.difference.triple == pytest.approx(expected.triple)
    assert pair.difference.p == pytest.approx(expected.p)
    standing = next(one for one in result.names if one.name == "mlp")
    assert standing.fits == (2, 2, 2)
    assert standing.deviation.splits is not None
    assert standing.deviation.seeds is not None
    assert result.notes == ("3 splits say little of how much splits vary, so only large differences are seen; fit ten",)


def test_with_fewer_images_of_each_class_splits_overlap_by_what_they_could_train_on(
    extracted: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"head": "knn", "split": "60/20/20", "resplits": 2, "per_class": 2, "jobs": 1}
    fit_head(extracted, tmp_path, **asked)
    (summary,) = evaluate(tmp_path).names
    figures = [found.accuracy for found in evaluate(tmp_path).runs.values()]
    expected = resampled_mean(figures, 18, 6)  # not 6, the two of three classes
    assert summary.interval == pytest.approx((expected.low, expected.high))


def test_names_on_other_splits_are_refused(changed: Path) -> None:
    shutil.rmtree(changed / "knn" / "split-0006")
    with pytest.raises(RunError, match=r"were fitted on other splits \((2 and 3|3 and 2), 2 in common\).*--resplits"):
        compare(changed)


def test_one_split_and_several_do_not_share_a_name(extracted: Path, changed: Path, runs: Path) -> None:
    with pytest.raises(RunError, match=r"has runs on several splits, .*--name"):
        fit_head(extracted, changed, seeds=(0,), epochs=3, split="60/20/20", jobs=1)
    with pytest.raises(RunError, match=r"has runs on one split, .*--name"):
        fit_head(extracted, runs, seeds=(0,), epochs=3, split="60/20/20", resplits=2, jobs=1)


def test_another_configuration_on_another_split_is_refused(extracted: Path, changed: Path) -> None:
    with pytest.raises(RunError, match=r"parameter lr is 0\.0001, asked 0\.001"):
        fit_head(extracted, changed, seeds=(0,), epochs=3, lr=1e-3, split="60/20/20", split_seed=90, resplits=2, jobs=1)


def test_splits_of_other_shares_are_refused(extracted: Path, changed: Path) -> None:
    with pytest.raises(RunError, match="shares is 60/20/20, asked 40/30/30"):
        fit_head(extracted, changed, head="knn", split="40/30/30", split_seed=90, resplits=2, jobs=1)


def test_splits_of_other_image_sets_are_refused(drawn: Path, tmp_path: Path) -> None:
    for name in ("few", "many"):
        for label in CLASSES:
            shutil.copytree(drawn / label, tmp_path / name / label)
    for path in sorted((tmp_path / "few").glob("*/*[89].png")):
        path.unlink()
    for name in ("few", "many"):
        extract(tmp_path / name, tmp_path / f"{name}-cache", base=BASE, weights=WEIGHTS, device="cpu")
    asked: dict[str, Any] = {"head": "knn", "split": "60/20/20", "resplits": 2, "jobs": 1}
    fit_head(tmp_path / "few-cache", tmp_path / "runs", **asked)
    with pytest.raises(RunError, match=r"image set is 14/5/5 images, asked 18/6/6 images"):
        fit_head(tmp_path / "many-cache", tmp_path / "runs", split_seed=2, **asked)


def test_a_run_that_was_moved_to_another_split_is_refused(changed: Path) -> None:
    (changed / "knn" / "split-0006").rename(changed / "knn" / "split-0009")
    with pytest.raises(RunError, match="holds a run of split-0006, but lies in split-0009: it was moved or copied"):
        find_runs([changed])
    shutil.rmtree(changed / "knn" / "split-0009")
    (changed / "knn" / "split-0005" / "seed-0000").rename(changed / "knn" / "seed-0000")
    with pytest.raises(RunError, match="holds a run of split-0005, but lies in knn"):
        find_runs([changed])


def test_runs_from_before_are_on_one_split(runs: Path) -> None:
    path = runs / "knn" / "seed-0000" / "run.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["resplit"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert Run.read(path.parent).resplit is None


@pytest.mark.parametrize(("split", "count"), [("paper", 3), ("own", 3), ("split.csv", 3), ("60/20/20", 1)])
def test_what_cannot_be_drawn_is_refused(extracted: Path, split: str, count: int) -> None:
    with pytest.raises(SplitError, match="cannot be drawn: splits are drawn anew by shares"):
        splits_of(FeatureCache.open(extracted).index(), split, 0, count)
