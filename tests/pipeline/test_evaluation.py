"""Stored predictions, the metrics computed from them, and refusals wherever they would not be a run's own."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from cache import CacheError, RecipeMismatch
from pipeline.errors import RunError
from pipeline.evaluation import Evaluation, evaluate
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.run import Run
from pipeline.run_places import find_runs
from pipeline.stored_predictions import stored_predictions
from tests.conftest import BASE, CLASSES, WEIGHTS

WRITTEN = ("predictions-test.csv", "evaluation-test.json", "confusion-test.png")


@pytest.fixture(scope="module")
def evaluated(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `fitted`, evaluated; do not write to them."""
    runs = Path(shutil.copytree(fitted, tmp_path_factory.mktemp("evaluated") / "runs"))
    evaluate(runs)
    return runs


@pytest.fixture
def done(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of `evaluated` to change."""
    return Path(shutil.copytree(evaluated, tmp_path / "runs"))


def lines_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def moments(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_metrics_are_scikit_learns_from_the_stored_file(evaluated: Path) -> None:
    result = evaluate(evaluated)
    assert result.runs.keys() == {"knn/seed-0000", "mlp/seed-0000", "mlp/seed-0001"}
    for key, found in result.runs.items():
        header, *lines = lines_of(evaluated / key / "predictions-test.csv")
        labels, predicted = [line[1] for line in lines], [line[2] for line in lines]
        probabilities = np.array([line[3:] for line in lines], dtype=float)
        correct = sum(one == other for one, other in zip(labels, predicted, strict=True))
        assert (found.correct, found.images, found.accuracy) == (correct, len(lines), correct / len(lines))
        assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
        f1 = reference.f1_score(labels, predicted, average="macro", zero_division=0)
        assert found.macro_f1 == pytest.approx(f1)
        assert found.log_loss == pytest.approx(reference.log_loss(labels, probabilities, labels=header[3:]))
        assert found.confusion == reference.confusion_matrix(labels, predicted, labels=header[3:]).tolist()
        each = reference.precision_recall_fscore_support(labels, predicted, labels=header[3:], zero_division=0)
        for number, name in enumerate(header[3:]):
            assert list(found.per_class[name].values()) == pytest.approx([column[number] for column in each])
        stored = json.loads((evaluated / key / "evaluation-test.json").read_text(encoding="utf-8"))
        assert stored["part"] == "test"
        assert stored["confusion"] == found.confusion
        assert (stored["correct"], stored["accuracy"]) == (found.correct, found.accuracy)
        assert stored["per_class"] == found.per_class


@pytest.mark.parametrize("part", ["train", "val"])
def test_other_parts_have_files_of_their_own(runs: Path, part: str) -> None:
    result = evaluate(runs / "knn", on=part)  # type: ignore[arg-type]
    run = Run.read(runs / "knn" / "seed-0000")
    assert (result.part, result.names[0].images) == (part, len(run.images[part]))
    assert (run.path / f"predictions-{part}.csv").exists()
    assert not (run.path / "predictions-test.csv").exists()


def test_evaluated_again_nothing_is_computed_or_written(done: Path) -> None:
    for path in done.glob("*/seed-*/model.*"):
        path.unlink()
    before = moments(done)
    first, second = evaluate(done), evaluate(done)
    assert first == second
    assert moments(done) == before


def test_stored_predictions_outlive_the_cache(runs: Path, cache: Path, tmp_path: Path) -> None:
    for path in runs.glob("*/seed-*/run.json"):
        path.write_text(path.read_text().replace(json.loads(path.read_text())["cache"], str(cache)))
    first = evaluate(runs)
    elsewhere = cache.rename(tmp_path / "elsewhere")
    assert evaluate(runs) == first
    with pytest.raises(RunError, match=r"which is no folder.*`--cache DIR`"):
        evaluate(runs, on="val")
    assert evaluate(runs, on="val", cache=elsewhere).part == "val"
    shutil.rmtree(elsewhere)
    assert evaluate(runs, on="val").part == "val"


def test_changed_images_are_refused(runs: Path, images: Path, cache: Path) -> None:
    run = Run.read(runs / "knn" / "seed-0000")
    victim, other = (images / run.images[part][0] for part in ("test", "train"))
    Image.new("RGB", (40, 40), "red").save(victim)
    extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu")
    with pytest.raises(RunError, match=r"test images of knn/seed-0000 have changed.*6 of its 6 paths.*`--cache DIR`"):
        evaluate(runs / "knn", cache=cache)
    assert evaluate(runs / "knn", cache=cache, on="val").part == "val"  # these did not change
    victim.unlink()
    other.unlink()
    extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu")
    with pytest.raises(RunError, match="5 of its 6 paths"):
        evaluate(runs / "knn", cache=cache)


def at(cache: Path, runs: Path) -> Path:
    """Let runs say that they were fitted from this cache, as they would after `fit-head` there."""
    for run in find_runs([runs]):
        replace(run, cache=str(cache)).write(run.path)
    return runs


EARLIER = "these are figures of stored predictions, made before this came about: "


def told(result: Evaluation) -> set[str]:
    """What evaluate says of each name beyond the notes of the runs themselves."""
    return {note for summary in result.names for note in summary.notes if note.startswith(EARLIER)}


def renamed_class(images: Path) -> None:
    (images / "beach").rename(images / "shore")


def removed_image(images: Path) -> None:
    (images / TESTED).unlink()


def changed_image(images: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(images / TESTED)


TESTED = "beach/beach02.png"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (removed_image, "5 of its 6"),
        (changed_image, "6 of its 6 paths, but other contents"),
        (renamed_class, "4 of its 6"),
    ],
)
def test_stored_predictions_of_what_has_changed_since_are_kept_and_this_is_said(
    done: Path, images: Path, cache: Path, change: Callable[[Path], None], found: str
) -> None:
    assert TESTED in Run.read(done / "mlp" / "seed-0000").images["test"]
    before = evaluate(at(cache, done))
    assert told(before) == set()
    change(images)
    assert evaluate(done) == before, "the cache has not changed: it speaks of the images as they were"
    extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu")
    result = evaluate(done)
    assert result.runs == before.runs
    assert {note[len(EARLIER) :].partition(f"{cache} now has ")[2].partition(".")[0] for note in told(result)} == {
        f"{found} paths" if "paths" not in found else f"{found} or classes under them"
    }
    assert len(told(result)) == 1, "the same for all runs"
    with pytest.raises(
        RunError, match=f"test images of knn/seed-0000 have changed since the fit: {cache} now has {found}"
    ):
        evaluate(done, cache=cache)  # it was named, so it must fit


def test_a_cache_that_was_replaced_by_one_of_another_recipe_is_told(done: Path, images: Path, cache: Path) -> None:
    before = evaluate(at(cache, done))
    shutil.rmtree(cache)
    extract(images, cache, base=BASE, weights="random:1", device="cpu")
    result = evaluate(done)
    assert result.runs == before.runs
    (note,) = told(result)
    assert f"{cache} holds features of another recipe than those of these runs: weights_digest" in note
    with pytest.raises(RecipeMismatch, match="weights_digest"):
        evaluate(done, on="val")


def test_a_cache_that_is_damaged_or_gone_keeps_no_stored_figure_back(done: Path, cache: Path) -> None:
    before = evaluate(at(cache, done))
    (cache / "recipe.json").write_text("{}")
    result = evaluate(done)
    assert result.runs == before.runs
    assert len(told(result)) == 1
    shutil.rmtree(cache)
    assert evaluate(done) == before


def test_another_cache_that_is_named_must_fit_also_where_predictions_are_stored(
    done: Path, images: Path, cache: Path, tmp_path: Path
) -> None:
    evaluate(done, cache=cache)  # a copy of the runs' own
    extract(images, tmp_path / "recipe", base=BASE, weights="random:1", device="cpu")
    with pytest.raises(
        RecipeMismatch, match=r"recipe holds features of another recipe than those of knn/seed-0000: weights_digest"
    ):
        evaluate(done, cache=tmp_path / "recipe")
    for path in images.rglob("*.png"):
        path.rename(path.with_stem(f"x{path.stem}"))
    extract(images, tmp_path / "set", base=BASE, weights=WEIGHTS, device="cpu")
    with pytest.raises(RunError, match=r"test images of knn/seed-0000 have changed .* now has 0 of its 6 paths"):
        evaluate(done, cache=tmp_path / "set")


def test_a_run_that_was_copied_over_another_is_refused(
    done: Path, fitted: Path, extracted: Path, tmp_path: Path
) -> None:
    runs = Path(shutil.copytree(fitted, tmp_path / "fresh"))
    fit_head(extracted, tmp_path / "more", seeds=(0,), epochs=1, split="60/20/20", jobs=1)
    other, folder = tmp_path / "more" / "mlp" / "seed-0000", done / "mlp" / "seed-0000"
    shutil.copy(other / "run.json", folder)
    with pytest.raises(RunError, match=r"evaluation-test\.json beside it says that another model made it"):
        evaluate(done)
    shutil.copy(done / "mlp" / "seed-0001" / "run.json", folder)
    with pytest.raises(RunError, match="seed-0000 holds the run of seed 1"):
        evaluate(done)
    shutil.copy(other / "model.safetensors", runs / "mlp" / "seed-0000")
    with pytest.raises(RunError, match="is not the model that was written with"):
        evaluate(runs)


def test_images_in_another_class_are_refused(runs: Path, images: Path, cache: Path) -> None:
    path = Path(Run.read(runs / "knn" / "seed-0000").images["test"][0])
    (images / path).rename(images / "forest" / path.name)
    extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu")
    with pytest.raises(RunError, match="have changed"):
        evaluate(runs / "knn", cache=cache)


def test_another_recipe_is_refused(runs: Path, images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "other", base=BASE, weights="random:1", device="cpu")
    with pytest.raises(RecipeMismatch, match="weights_digest"):
        evaluate(runs, cache=tmp_path / "other")
    with pytest.raises(CacheError, match="not a feature cache"):
        evaluate(runs, cache=images)


def test_a_model_of_other_classes_is_refused(runs: Path, extracted: Path) -> None:
    path = runs / "knn" / "seed-0000" / "run.json"
    document = json.loads(path.read_text())
    document["classes"] = ["beach", "forest", "park"]
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match="other classes"):
        evaluate(runs / "knn")


def test_a_copied_seed_would_count_twice_and_is_refused(done: Path) -> None:
    copy = Path(shutil.copytree(done / "mlp" / "seed-0000", done / "mlp" / "copy"))
    with pytest.raises(RunError, match="have the same seed"):
        evaluate(done)
    copy.rename(done / "mlp" / "seed-0007")
    with pytest.raises(RunError, match="seed-0007 holds the run of seed 0"):
        evaluate(done)


def test_runs_of_several_configurations_in_one_folder_are_refused(done: Path, extracted: Path, tmp_path: Path) -> None:
    fit_head(extracted, tmp_path / "more", seeds=(5,), epochs=1, split="60/20/20", jobs=1)
    shutil.copytree(tmp_path / "more" / "mlp" / "seed-0005", done / "mlp" / "seed-0005")
    with pytest.raises(RunError, match="parameter epochs is 3, asked 1"):
        evaluate(done)


def test_no_such_part(evaluated: Path, extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no part 'tset'"):
        evaluate(evaluated, on="tset")  # type: ignore[arg-type]
    fit_head(extracted, tmp_path, head="knn", split="70/0/30", jobs=1)
    with pytest.raises(RunError, match="has no val images"):
        evaluate(tmp_path, on="val")


def test_ranking_summaries_and_distances(evaluated: Path) -> None:
    result = evaluate(evaluated)
    means = [summary.metrics["accuracy"].mean for summary in result.names]
    assert means == sorted(means, reverse=True)
    assert result.comparable
    assert result.names[0].behind is None
    for summary in result.names:
        accuracies = [result.runs[f"{summary.name}/seed-{seed:04d}"].accuracy for seed in summary.seeds]
        spread = summary.metrics["accuracy"]
        assert (spread.mean, spread.smallest) == pytest.approx((np.mean(accuracies), min(accuracies)))
        assert summary.interval[0] <= spread.mean <= summary.interval[1]
        assert (summary.base, summary.weights, summary.images) == (BASE, WEIGHTS, 6)
        assert summary.picture == summary.folder / "confusion-test.png"
        assert summary.picture.exists()
    (last,) = result.names[1:]
    assert last.behind is not None
    assert (last.behind.first, last.behind.second) == tuple(summary.name for summary in result.names)
    found = last.behind.difference
    assert found.value == pytest.approx(means[0] - means[1])
    assert found.low <= found.value <= found.high


def test_one_run_alone(evaluated: Path) -> None:
    (summary,) = evaluate(evaluated / "mlp" / "seed-0001").names
    assert (summary.name, summary.seeds, summary.metrics["accuracy"].deviation) == ("mlp", (1,), None)


def test_names_of_several_folders_are_told_apart(done: Path, tmp_path: Path) -> None:
    for place in ("a/runs", "b/runs", "c"):
        shutil.copytree(done / "knn", tmp_path / place / "knn")
    result = evaluate(tmp_path / "a/runs", tmp_path / "b/runs", tmp_path / "c", done / "mlp")
    assert {summary.name for summary in result.names} == {"a/runs/knn", "b/runs/knn", "c/knn", "mlp"}
    assert len(result.runs) == 5


def test_other_test_images_are_not_compared(extracted: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        fit_head(extracted, tmp_path, head="knn", name=f"split {seed}", split="60/20/20", split_seed=seed, jobs=1)
    result = evaluate(tmp_path)
    assert not result.comparable
    assert [summary.behind for summary in result.names] == [None, None]


def test_another_base_on_the_same_images_is_compared(done: Path, images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "other", base=BASE, weights="random:1", device="cpu")
    fit_head(tmp_path / "other", done, head="knn", name="other", split="60/20/20", jobs=1)
    assert evaluate(done).comparable


STRANGE = ('say "a", b', "$x$", "Äcker 森", "label", "two\nlines", "carriage\rreturn")


def test_strange_class_names_survive(drawn: Path, tmp_path: Path) -> None:
    for name, source in zip(STRANGE, CLASSES * 2, strict=True):
        shutil.copytree(drawn / source, tmp_path / "images" / name)
    extract(tmp_path / "images", tmp_path / "cache", base=BASE, weights=WEIGHTS, device="cpu")
    fit_head(tmp_path / "cache", tmp_path / "runs", head="knn", split="60/20/20", jobs=1)
    (result,) = evaluate(tmp_path / "runs").runs.values()
    assert result.classes == sorted(STRANGE)
    folder = tmp_path / "runs" / "knn" / "seed-0000"
    header, *lines = lines_of(folder / "predictions-test.csv")
    assert header[3:] == sorted(STRANGE)
    assert {line[1] for line in lines} == set(STRANGE)
    assert evaluate(tmp_path / "runs").runs["knn/seed-0000"] == result
    with Image.open(folder / "confusion-test.png") as picture:
        picture.load()


def test_every_run_has_its_files_and_no_others(evaluated: Path) -> None:
    for run in find_runs([evaluated]):
        names = {path.name for path in run.path.iterdir()}
        assert names == {"run.json", *WRITTEN, "model.skops" if run.head == "knn" else "model.safetensors"}
        assert stored_predictions(run, "test") is not None
        assert stored_predictions(run, "val") is None


def test_evaluate_does_not_write_to_the_cache(runs: Path, cache: Path) -> None:
    before = moments(cache)
    result: Evaluation = evaluate(runs, cache=cache)
    assert moments(cache) == before
    assert isinstance(result, Evaluation)
    with h5py.File(cache / "index.h5") as file:
        assert len(file["paths"]) == 30
