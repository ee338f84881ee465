"""New images are named as the run's own test images were: same base, same weights, same transform, or a refusal."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from pipeline.errors import ImageSetError, RunError, UnreadableImages, WeightsError
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.prediction import predict
from pipeline.run import Run
from tests.conftest import BASE, CLASSES, WEIGHTS


def stored(folder: Path) -> dict[str, dict[str, float]]:
    evaluate(folder)
    with (folder / "predictions-test.csv").open(encoding="utf-8", newline="") as file:
        return {line["path"]: {name: float(line[name]) for name in CLASSES} for line in csv.DictReader(file)}


@pytest.mark.parametrize("name", ["mlp/seed-0000", "knn/seed-0000"])
def test_predictions_are_the_runs_own(runs: Path, drawn: Path, name: str) -> None:
    expected = stored(runs / name)
    result = predict(runs / name, *(drawn / path for path in expected), device="cpu")
    assert (result.run, result.skipped) == (name, ())
    assert [image.path for image in result.images] == [str(drawn / path) for path in expected]
    for image, probabilities in zip(result.images, expected.values(), strict=True):
        assert dict(image.top) == pytest.approx(probabilities, abs=1e-4)
        values = [value for _, value in image.top]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1)


def test_half_precision_storage_is_repeated(drawn: Path, tmp_path: Path) -> None:
    extract(drawn, tmp_path / "cache", base=BASE, weights=WEIGHTS, device="cpu", store="float16")
    fit_head(tmp_path / "cache", tmp_path / "runs", seeds=(0,), epochs=2, split="60/20/20", jobs=1)
    expected = stored(tmp_path / "runs" / "mlp" / "seed-0000")
    result = predict(tmp_path / "runs" / "mlp" / "seed-0000", *(drawn / path for path in expected), device="cpu")
    for image, probabilities in zip(result.images, expected.values(), strict=True):
        assert dict(image.top) == pytest.approx(probabilities, abs=1e-4)


def test_top_k(fitted: Path, drawn: Path) -> None:
    run, image = fitted / "mlp" / "seed-0000", drawn / "beach" / "beach00.png"
    every = predict(run, image, device="cpu").images[0].top
    assert {name for name, _ in every} == set(CLASSES)
    assert predict(run, image, top_k=1, device="cpu").images[0].top == every[:1]
    assert predict(run, image, top_k=100, device="cpu").images[0].top == every
    with pytest.raises(RunError, match="ask for 1 or more"):
        predict(run, image, top_k=0)


def test_folders_files_and_their_order(fitted: Path, images: Path) -> None:
    (images / "notes.txt").write_text("no image")
    (images / ".hidden").mkdir()
    shutil.copy(images / "beach" / "beach00.png", images / ".hidden" / "a.png")
    shutil.copy(images / "beach" / "beach00.png", images / "no suffix")
    one = images / "forest" / "forest03.png"
    result = predict(fitted / "mlp" / "seed-0000", one, images, str(images / "no suffix"), device="cpu")
    paths = [image.path for image in result.images]
    assert paths == [
        str(one),
        *sorted(str(path) for path in images.glob("*/*.png") if "." not in path.parent.name),
        paths[-1],
    ]
    assert paths[-1] == str(images / "no suffix")
    tops = {image.path: image.top for image in result.images}
    assert dict(tops[paths[-1]]) == pytest.approx(dict(tops[str(images / "beach" / "beach00.png")]), abs=1e-5)


def test_nothing_to_predict(fitted: Path, tmp_path: Path) -> None:
    run = fitted / "knn" / "seed-0000"
    with pytest.raises(ImageSetError, match="No image was named"):
        predict(run)
    with pytest.raises(ImageSetError, match="holds no image"):
        predict(run, tmp_path)
    with pytest.raises(ImageSetError, match=r"gone\.png does not exist"):
        predict(run, tmp_path / "gone.png")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ImageSetError, match=r"loop cannot be looked at: Too many levels"):
        predict(run, tmp_path / "loop")
    with pytest.raises(ImageSetError, match=r"cannot be looked at: File name too long"):
        predict(run, tmp_path / ("x" * 300))
    with pytest.raises(ImageSetError, match=r"cannot be looked at: embedded null"):
        predict(run, "a\0b")


def test_unreadable_images(fitted: Path, images: Path, tmp_path: Path) -> None:
    run, good = fitted / "mlp" / "seed-0000", images / "beach" / "beach00.png"
    torn, empty = images / "torn.png", images / "empty.jpg"
    torn.write_bytes(good.read_bytes()[:200])
    empty.touch()
    with pytest.raises(UnreadableImages, match=r"2 of 3 images cannot be read.*--on-error skip") as raised:
        predict(run, good, torn, empty, device="cpu")
    assert str(torn) in str(raised.value)
    assert f"{empty}: the file is empty" in str(raised.value)
    result = predict(run, torn, good, empty, device="cpu", on_error="skip")
    assert raised.value.result == replace(result, skipped=((str(torn), result.skipped[0][1]), result.skipped[1]))
    assert [image.path for image in result.images] == [str(good)]
    assert [path for path, _ in result.skipped] == [str(torn), str(empty)]
    with pytest.raises(UnreadableImages, match=r"2 of 2 images.*Name others") as raised:
        predict(run, torn, empty, device="cpu", on_error="skip")
    assert raised.value.result is not None
    assert raised.value.result.images == ()
    with pytest.raises(ImageSetError, match="neither 'fail' nor 'skip'"):
        predict(run, good, on_error="ignore")  # type: ignore[arg-type]


def test_more_images_than_are_decoded_ahead(fitted: Path, drawn: Path) -> None:
    run, names = fitted / "mlp" / "seed-0000", sorted(drawn.glob("*/*.png"))
    once = {image.path: image.top for image in predict(run, drawn, top_k=1, device="cpu").images}
    result = predict(run, drawn, *names, *names, names[0], top_k=1, device="cpu")
    assert [image.path for image in result.images] == [str(name) for name in [*names * 3, names[0]]]
    for image in result.images:
        assert image.top[0][1] == pytest.approx(once[image.path][0][1], abs=1e-5)


def test_odd_names(fitted: Path, images: Path) -> None:
    run, good = fitted / "mlp" / "seed-0000", images / "beach" / "beach00.png"
    named = Path(os.fsdecode(os.fsencode(images / "beach") + b"/caf\xe9.png"))
    shutil.copy(good, named)
    assert predict(run, named, device="cpu").images[0].path == str(named)
    torn = images / "a\nError: \x1b[31m.png"
    torn.touch()
    named.write_bytes(b"")
    with pytest.raises(UnreadableImages) as raised:
        predict(run, good, torn, named, device="cpu")
    assert str(raised.value).splitlines()[1:] == [
        rf"  {images}/a\nError: \x1b[31m.png: the file is empty",
        rf"  {images}/beach/caf\udce9.png: the file is empty",
    ]


@pytest.fixture
def endless(images: Path) -> Iterator[Path]:
    """A sub-folder of `images` whose path is too long to be listed, even by root."""
    here = Path.cwd()
    os.chdir(images)
    for _ in range(20):
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    os.chdir(here)
    yield images / ("d" * 250)
    shutil.rmtree(images / ("d" * 250))


def test_folders_that_cannot_be_listed_are_reported(fitted: Path, images: Path, endless: Path) -> None:
    run = fitted / "mlp" / "seed-0000"
    with pytest.raises(UnreadableImages, match=r"1 of 31 images and folders cannot be read") as raised:
        predict(run, images, device="cpu")
    result = predict(run, images, device="cpu", on_error="skip")
    assert raised.value.result == result
    assert len(result.images) == 30
    ((path, reason),) = result.skipped
    assert path.startswith(str(endless))
    assert reason == "File name too long"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_named_folder_that_is_closed_is_refused(fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(0)
    with pytest.raises(ImageSetError, match="closed cannot be listed: Permission denied"):
        predict(fitted / "mlp" / "seed-0000", tmp_path / "closed")


def test_a_link_that_leads_nowhere_is_reported(fitted: Path, images: Path) -> None:
    (images / "gone.png").symlink_to("nowhere")
    os.mkfifo(images / "pipe.png")
    result = predict(fitted / "mlp" / "seed-0000", images, device="cpu", on_error="skip")
    assert result.skipped == ((str(images / "gone.png"), "No such file or directory"),)


def test_other_weights_are_refused(fitted: Path, drawn: Path) -> None:
    with pytest.raises(WeightsError, match=r"with weights random:0 .*but random:1 holds other tensors.*--weights FILE"):
        predict(fitted / "mlp" / "seed-0000", drawn, weights="random:1", device="cpu")


def test_weights_that_moved_are_named(drawn: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = getattr(models, BASE)(weights=None)
    save_file(network.state_dict(), tmp_path / "first.safetensors")
    extract(drawn, tmp_path / "cache", base=BASE, weights=str(tmp_path / "first.safetensors"), device="cpu")
    fit_head(tmp_path / "cache", tmp_path / "runs", seeds=(0,), epochs=1, split="60/20/20", jobs=1)
    run, image = tmp_path / "runs" / "mlp" / "seed-0000", drawn / "beach" / "beach00.png"
    expected = predict(run, image, device="cpu")
    moved = (tmp_path / "first.safetensors").rename(tmp_path / "second.safetensors")
    with pytest.raises(WeightsError, match=r"there is no file .*first\.safetensors.*--weights FILE"):
        predict(run, image, device="cpu")
    assert predict(run, image, device="cpu", weights=str(moved)) == expected
    torch.save(network.state_dict(), tmp_path / "third.pth")
    assert predict(run, image, device="cpu", weights=str(tmp_path / "third.pth")) == expected


def test_notes_are_the_runs(fitted: Path, drawn: Path) -> None:
    result = predict(fitted / "knn" / "seed-0000", drawn / "beach" / "beach00.png", device="cpu")
    assert result.notes == Run.read(fitted / "knn" / "seed-0000").notes
    assert any("random weights" in note for note in result.notes)


def test_what_is_not_a_run_or_not_its_model_is_refused(runs: Path, drawn: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no run\.json.*RUNS/NAME/seed-0000"):
        predict(runs / "mlp", drawn)
    path = runs / "mlp" / "seed-0000" / "run.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "classes": ["a", "b", "c"]}))
    with pytest.raises(RunError, match="other classes"):
        predict(runs / "mlp" / "seed-0000", drawn)
    (runs / "knn" / "seed-0000" / "model.skops").unlink()
    with pytest.raises(RunError, match="missing"):
        predict(runs / "knn" / "seed-0000", drawn)


def test_another_version_of_decoding_is_refused(runs: Path, drawn: Path) -> None:
    run = Run.read(runs / "mlp" / "seed-0000")
    replace(run, recipe=replace(run.recipe, decoding=99)).write(run.path)
    with pytest.raises(RunError, match="decoded by version 99 of the rules"):
        predict(run.path, drawn, device="cpu")
