"""Stored predictions: a run's own, from the features or pixels it was fitted on, and refused wherever they are not."""

import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cache import FeatureCache
from pipeline.baselines import fit_mlp
from pipeline.errors import ImageSetError, RunError
from pipeline.evaluation import evaluate
from pipeline.heads.storage import load_head
from pipeline.prediction import predict
from pipeline.reading import file_digest
from pipeline.run import Run
from pipeline.stored_predictions import Inputs, predict_part, stored_predictions
from tests.conftest import BASE, CLASSES


@pytest.fixture(scope="module")
def evaluated(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `fitted`, evaluated; do not write to them."""
    runs = Path(shutil.copytree(fitted, tmp_path_factory.mktemp("evaluated") / "runs"))
    evaluate(runs)
    return runs


@pytest.fixture
def done(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of `evaluated` to change."""
    return Path(shutil.copytree(evaluated, tmp_path / "evaluated"))


@pytest.fixture(scope="module")
def baselines(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on the pixels of `drawn`, seeds 0 and 1; do not write to them."""
    runs = tmp_path_factory.mktemp("baselines") / "runs"
    fit_mlp(drawn, runs, seeds=(0, 1), image_size=8, epochs=2, split="60/20/20", jobs=1)
    return runs


@pytest.fixture
def pixels(baselines: Path, tmp_path: Path) -> Path:
    """A copy of `baselines` to change."""
    return Path(shutil.copytree(baselines, tmp_path / "pixels"))


def lines_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def run_of(folder: Path, seed: int = 0) -> Run:
    return Run.read(folder / f"seed-{seed:04d}")


def test_there_are_none_before_they_are_made_and_then_they_are_read_back(runs: Path) -> None:
    run = run_of(runs / "mlp")
    for part in ("test", "val", "train"):
        assert stored_predictions(run, part) is None
        made = predict_part(run, part, Inputs(part))
        held = stored_predictions(run, part)
        assert held is not None
        assert (held.paths, held.labels, held.predicted) == (made.paths, made.labels, made.predicted)
        assert held.paths == tuple(run.images[part])
        assert np.array_equal(held.probabilities, made.probabilities)
        assert held.correct.tolist() == [one == two for one, two in zip(held.labels, held.predicted, strict=True)]


def test_features_are_read_once_for_runs_of_the_same_images(fitted: Path) -> None:
    inputs = Inputs("test")
    (first,), (second,) = (list(inputs.of(run_of(fitted / "mlp", seed))[1]) for seed in (0, 1))
    assert first is second
    assert first.shape == (6, 512)


def test_pixels_of_a_part_are_predicted_from_as_the_model_does(pixels: Path, drawn: Path) -> None:
    run = run_of(pixels / "pixel-mlp")
    made = predict_part(run, "test", Inputs("test"))
    result = predict(run.path, *(drawn / path for path in run.images["test"]), device="cpu")
    for row, image in zip(made.probabilities, result.images, strict=True):
        assert dict(zip(CLASSES, row, strict=True)) == pytest.approx(dict(image.top), abs=1e-6)
    assert made.labels == tuple(path.split("/")[0] for path in run.images["test"])


def test_pixels_come_in_blocks(baselines: Path, drawn: Path, tmp_path: Path) -> None:
    for label in CLASSES:
        for copy in range(4):
            shutil.copytree(drawn / label, tmp_path / "images" / label / str(copy))
    fit_mlp(tmp_path / "images", tmp_path / "runs", seeds=(0,), image_size=4, epochs=1, split="80/10/10", jobs=1)
    run = run_of(tmp_path / "runs" / "pixel-mlp")
    labels, blocks = Inputs("train").of(run)
    assert len(labels) == 96
    assert [len(block) for block in blocks] == [64, 32]


def test_heads_and_baselines_are_ranked_together(fitted: Path, baselines: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "runs")
    shutil.copytree(baselines / "pixel-mlp", tmp_path / "runs" / "pixel-mlp")
    result = evaluate(tmp_path / "runs")
    assert result.comparable
    assert {(name.name, name.base, name.weights) for name in result.names} == {
        ("mlp", BASE, "random:0"),
        ("knn", BASE, "random:0"),
        ("pixel-mlp", "pixels", "none"),
    }
    assert sum(name.behind is None for name in result.names) == 1
    digests = {Run.read(path.parent).digests["test"] for path in tmp_path.glob("runs/*/*/run.json")}
    assert len(digests) == 1


def test_images_that_were_moved_are_asked_for_and_found(pixels: Path, images: Path, tmp_path: Path) -> None:
    fit_mlp(images, tmp_path / "runs", seeds=(0,), image_size=8, epochs=2, split="60/20/20", jobs=1)
    moved = images.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"needs the image set {images}, which is no folder.*`--images DIR`"):
        evaluate(tmp_path / "runs")
    with pytest.raises(ImageSetError, match=f"{tmp_path / 'typo'} does not exist"):
        evaluate(tmp_path / "runs", images=tmp_path / "typo")
    with pytest.raises(ImageSetError, match="sub-folder"):
        evaluate(tmp_path / "runs", images=moved / "beach")
    found = evaluate(tmp_path / "runs", images=moved)
    shutil.rmtree(moved)
    assert evaluate(tmp_path / "runs") == found  # what is stored needs no images
    with pytest.raises(ImageSetError, match="does not exist"):
        evaluate(tmp_path / "runs", images=moved)  # but a wrong name does not pass
    # These are the same images and seed as those of the other runs.
    other = evaluate(pixels / "pixel-mlp" / "seed-0000")
    assert found.runs["pixel-mlp/seed-0000"] == other.runs["pixel-mlp/seed-0000"]


def test_images_that_changed_since_the_fit_are_refused(pixels: Path, images: Path) -> None:
    run = run_of(pixels / "pixel-mlp")
    victim = images / run.images["test"][0]
    kept = victim.read_bytes()
    Image.new("RGB", (40, 40), "red").save(images / "beach" / "another.png")  # takes no part
    Image.new("RGB", (40, 40), "red").save(victim)
    changed = "The test images of pixel-mlp/seed-0000 have changed since the fit"
    with pytest.raises(RunError, match=rf"{changed}: {images} now has 6 of its 6 paths, but other.*`--images DIR`"):
        evaluate(pixels, images=images)
    assert evaluate(pixels, on="val", images=images).part == "val"
    victim.unlink()
    with pytest.raises(RunError, match=f"{changed}.*5 of its 6 paths"):
        evaluate(pixels, images=images)
    other = next(label for label in CLASSES if label != victim.parent.name)
    (images / other / victim.name).write_bytes(kept)
    with pytest.raises(RunError, match=f"{changed}.*5 of its 6 paths"):
        evaluate(pixels, images=images)
    assert stored_predictions(run, "test") is None
    victim.write_bytes(kept)
    assert evaluate(pixels, images=images).part == "test"


def test_baselines_say_what_has_changed_since_their_predictions_were_stored(images: Path, tmp_path: Path) -> None:
    fit_mlp(images, tmp_path / "runs", seeds=(0, 1), image_size=8, epochs=1, split="60/20/20", jobs=1)
    run = run_of(tmp_path / "runs" / "pixel-mlp")
    before = evaluate(tmp_path / "runs")
    copy = Path(shutil.copytree(images, tmp_path / "copy"))
    Image.new("RGB", (40, 40), "red").save(images / run.images["test"][0])
    Image.new("RGB", (40, 40), "red").save(images / run.images["train"][0])  # of no matter here
    result = evaluate(tmp_path / "runs")
    assert result.runs == before.runs
    (note,) = set(result.names[0].notes) - set(before.names[0].notes)
    assert f"{images} now has 6 of its 6 paths, but other contents" in note
    with pytest.raises(RunError, match="test images of pixel-mlp/seed-0000 have changed since the fit"):
        evaluate(tmp_path / "runs", images=images)  # it was named, so it must fit
    assert evaluate(tmp_path / "runs", images=copy) == before
    shutil.rmtree(images)
    assert evaluate(tmp_path / "runs") == before


def test_an_image_that_can_no_longer_be_read_is_refused(pixels: Path, images: Path) -> None:
    victim = images / run_of(pixels / "pixel-mlp").images["test"][3]
    victim.unlink()
    victim.symlink_to("nowhere")
    with pytest.raises(RunError, match="5 of its 6 paths"):
        evaluate(pixels, images=images)


def test_an_empty_part_is_refused(drawn: Path, tmp_path: Path) -> None:
    fit_mlp(drawn, tmp_path, seeds=(0,), image_size=4, epochs=1, split="70/0/30", jobs=1)
    with pytest.raises(RunError, match=r"pixel-mlp/seed-0000 has no val images .*--on"):
        evaluate(tmp_path, on="val")


def test_columns_order_and_probabilities_of_the_predictions(evaluated: Path, extracted: Path) -> None:
    run = Run.read(evaluated / "mlp" / "seed-0001")
    header, *lines = lines_of(run.path / "predictions-test.csv")
    assert header == ["path", "label", "predicted", *CLASSES]
    assert [line[0] for line in lines] == run.images["test"]
    assert [line[1] for line in lines] == [path.split("/")[0] for path in run.images["test"]]
    cache = FeatureCache.open(extracted)
    digest = {entry.path: entry.digest for entry in cache.index().entries}
    features = cache.read([digest[line[0]] for line in lines])
    head = load_head("mlp", run.path)
    stored = np.array([line[3:] for line in lines], dtype=float)
    assert stored == pytest.approx(head.predict_proba(features), rel=1e-7)
    assert [line[2] for line in lines] == list(head.predict(features))


def swap(path: Path, column: int) -> None:
    header, *lines = lines_of(path)
    lines[0][column] = next(name for name in CLASSES if name != lines[0][column])
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


def replace(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    "edit",
    [
        lambda path: swap(path, 2),
        replace("path,label", "file,label"),
        replace("beach/", "bench/"),
        replace(",beach,", ",bench,"),
        replace(",beach,", ","),
        replace(",beach,", "\n"),
        replace(",0.", ",1."),
        replace(",0.", ",nan"),
        replace(",0.", ",-0."),
        replace("beach/", '"'),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("path,label,predicted,beach,forest,parkinglot\n"),
        lambda path: path.write_text("\n".join(path.read_text().split("\n")[:-2])),
    ],
)
@pytest.mark.parametrize("forged", [False, True])
def test_edited_predictions_are_refused(done: Path, edit: Callable[[Path], object], forged: bool) -> None:
    folder = done / "mlp" / "seed-0000"
    path = folder / "predictions-test.csv"
    before = path.read_bytes()
    edit(path)
    assert path.read_bytes() != before
    if forged:
        forge(folder, predictions_sha256=file_digest(path))
    with pytest.raises(RunError, match=r"predictions-test\.csv does not belong to its run.*Remove it"):
        evaluate(done)
    path.unlink()
    evaluate(done)
    assert path.read_bytes() == before


def forge(folder: Path, **values: str) -> None:
    """Let evaluation-test.json say something else."""
    path = folder / "evaluation-test.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_predictions_without_the_evaluation_that_says_whose_they_are_are_made_anew(done: Path) -> None:
    folder = done / "mlp" / "seed-0000"
    before = {name: (folder / name).read_bytes() for name in ("predictions-test.csv", "evaluation-test.json")}
    (folder / "evaluation-test.json").unlink()
    swap(folder / "predictions-test.csv", 2)
    evaluate(done)
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("names", [["predictions-test.csv"], ["predictions-test.csv", "evaluation-test.json"]])
def test_predictions_of_another_run_are_refused(done: Path, names: list[str]) -> None:
    for name in names:
        shutil.copy(done / "mlp" / "seed-0001" / name, done / "mlp" / "seed-0000" / name)
    with pytest.raises(RunError, match=r"seed-0000/predictions-test\.csv does not belong to its run.*Remove it"):
        evaluate(done)
    (done / "mlp" / "seed-0000" / "predictions-test.csv").unlink()
    evaluate(done)


def test_predictions_of_the_model_that_another_one_has_replaced_are_refused(runs: Path) -> None:
    run = run_of(runs / "mlp")
    shutil.copy(runs / "mlp" / "seed-0001" / "model.safetensors", run.path / "best.safetensors")
    best = {"best.safetensors": file_digest(run.path / "best.safetensors")}
    dataclasses.replace(run, model={**run.model, **best}).write(run.path)
    before = evaluate(run.path)
    shutil.copy(run.path / "best.safetensors", run.path / "model.safetensors")
    with pytest.raises(RunError, match=r"evaluation-test\.json beside it says that another model made it"):
        evaluate(run.path)
    (run.path / "predictions-test.csv").unlink()
    after = evaluate(run.path)
    assert after.runs["mlp/seed-0000"].log_loss != before.runs["mlp/seed-0000"].log_loss


def test_predictions_of_another_model_are_refused(done: Path) -> None:
    forge(done / "mlp" / "seed-0000", model_sha256="0" * 64)
    with pytest.raises(RunError, match=r"evaluation-test\.json beside it says that another model made it"):
        evaluate(done)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b"\xff", b'{"predictions_sha256": []}', b"[" * 100_000, b'{"accuracy": 1e999}'],
)
def test_a_damaged_evaluation_is_refused_and_mended_as_told(done: Path, content: bytes) -> None:
    folder = done / "mlp" / "seed-0000"
    before = (folder / "evaluation-test.json").read_bytes()
    (folder / "evaluation-test.json").write_bytes(content)
    with pytest.raises(RunError, match=r"predictions-test\.csv does not belong to its run.*Remove it and run"):
        evaluate(done)
    (folder / "predictions-test.csv").unlink()
    evaluate(done)
    assert (folder / "evaluation-test.json").read_bytes() == before


def test_figures_that_were_edited_are_computed_again(done: Path) -> None:
    path = done / "mlp" / "seed-0000" / "evaluation-test.json"
    before = path.read_bytes()
    document = json.loads(before)
    path.write_text(json.dumps({**document, "accuracy": 1.0, "correct": 6}), encoding="utf-8")
    result = evaluate(done)
    assert path.read_bytes() == before
    assert result.runs["mlp/seed-0000"].accuracy == document["accuracy"]


@pytest.mark.parametrize("name", ["predictions-test.csv", "evaluation-test.json"])
def test_what_is_no_file_is_refused_and_not_waited_for(done: Path, name: str) -> None:
    path = done / "mlp" / "seed-0000" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match="does not belong to its run: it is no regular file"):
        evaluate(done)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_content_of_forged_predictions_is_refused(done: Path, content: bytes) -> None:
    run = run_of(done / "mlp")
    (run.path / "predictions-test.csv").write_bytes(content)
    forge(run.path, predictions_sha256=file_digest(run.path / "predictions-test.csv"))
    with pytest.raises(RunError, match="does not belong to its run"):
        stored_predictions(run, "test")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_beside_predictions_is_refused_or_of_no_matter(done: Path, data: st.DataObject) -> None:
    run = run_of(done / "mlp")
    whole = json.loads((run.path.parent / "seed-0001" / "evaluation-test.json").read_text(encoding="utf-8"))
    before = {**whole, "predictions_sha256": file_digest(run.path / "predictions-test.csv"), **own_model(run)}
    key = data.draw(st.sampled_from(sorted(before)))
    document = data.draw(st.just({**before, key: data.draw(JSON)}) | JSON)
    (run.path / "evaluation-test.json").write_text(json.dumps(document), encoding="utf-8")
    try:
        held = stored_predictions(run, "test")
    except RunError:
        return
    assert held is not None
    assert key not in ("predictions_sha256", "model_sha256")
    assert held.paths == tuple(run.images["test"])


def own_model(run: Run) -> dict[str, str]:
    (digest,) = run.model.values()
    return {"model_sha256": digest}


def test_many_classes_in_a_short_file_take_no_memory(done: Path) -> None:
    run = run_of(done / "mlp")
    many = dataclasses.replace(
        run, classes=tuple(map(str, range(10**6))), images={"test": list(map(str, range(10**6)))}
    )
    path = run.path / "predictions-test.csv"
    path.write_text(",".join(("path", "label", "predicted", *many.classes)) + "\n")
    forge(run.path, predictions_sha256=file_digest(path))
    with pytest.raises(RunError, match="it is too short for the run's test images"):
        stored_predictions(many, "test")


def test_edited_true_classes_are_refused(done: Path) -> None:
    swap(done / "knn" / "seed-0000" / "predictions-test.csv", 1)
    with pytest.raises(RunError, match=r"not the file that evaluation-test\.json beside it was computed from"):
        evaluate(done)
