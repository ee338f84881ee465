"""The two baselines: runs like all others, trained on each image's pixels as it was listed, killed or not."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pipeline.augmentation import view_of
from pipeline.baselines import BEST, checkpoint_of, fit_mlp, fit_scratch
from pipeline.decode import decode
from pipeline.environment import native_precisions
from pipeline.errors import BaseError, HeadError, ImageSetError, RunError, SplitError, UnreadableImages
from pipeline.evaluation import evaluate
from pipeline.fitting import Fitting
from pipeline.heads.mlp import MLPHead
from pipeline.heads.storage import load_head
from pipeline.image_set import digest_of
from pipeline.pixels import pixel_transform
from pipeline.prediction import predict
from pipeline.progress import Silent
from pipeline.run import Run
from pipeline.threads import one_thread
from tests.conftest import CLASSES

ROOT = Path(__file__).parents[2]
SPLIT = "60/20/20"
SMALL: dict[str, Any] = {"image_size": 32, "epochs": 2, "batch_size": 8, "lr": 1e-3, "split": SPLIT}
CPU = {"precision": "fp32", "device": "cpu"}


def scratch(images: Path, runs: Path, **options: Any) -> Fitting:
    return fit_scratch(images, runs, **{**SMALL, **CPU, **options})


def mlp(images: Path, runs: Path, **options: Any) -> Fitting:
    return fit_mlp(images, runs, **{"seeds": (0,), "image_size": 8, "epochs": 2, "split": SPLIT, "jobs": 1, **options})


def weights(path: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(path).items()}


def without_seconds(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in run.history]


class Heard(Silent):
    """Progress that keeps what it is told and what is announced, and whether all of it was done."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        self.said.append(f"{label}: {sum(done)} of {total} {unit}")


@pytest.fixture(scope="module")
def heard() -> Heard:
    """What `trained` told."""
    return Heard()


@pytest.fixture(scope="module")
def trained(drawn: Path, heard: Heard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of `scratch` on `drawn`, seeds 0 and 1, undisturbed; do not write to them."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    fitting = scratch(drawn, runs, seeds=(0, 1), progress=heard)
    assert (fitting.fitted, fitting.curves) == (2, runs / "scratch" / "learning-curves.png")
    return runs


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` to change."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_a_run_has_its_files_and_says_what_it_is(trained: Path, drawn: Path) -> None:
    run = Run.read(trained / "scratch" / "seed-0001")
    assert {path.name for path in run.path.iterdir()} == {"run.json", "model.safetensors", BEST}
    assert {path.name for path in run.path.parent.iterdir()} == {"seed-0000", "seed-0001", "learning-curves.png"}
    assert (run.name, run.head, run.seed, run.seeded, run.device) == ("scratch", "scratch", 1, True, "cpu")
    assert (run.recipe.base, run.recipe.dimension, run.cache, run.image_set) == ("pixels", 3 * 32**2, "", str(drawn))
    assert run.parameters == {
        "hidden": None,
        "lr": 1e-3,
        "epochs": 2,
        "batch_size": 8,
        "dropout": 0.5,
        "augment": "paper",
        "image_size": 32,
        "precision": "fp32",
    }
    assert run.machine.keys() == {"processor", "cores", "system", "threads"}
    assert [len(run.images[part]) for part in ("train", "val", "test")] == [18, 6, 6]
    assert [epoch["epoch"] for epoch in run.history] == [1, 2]
    assert run.classes == CLASSES


def test_what_is_told(heard: Heard) -> None:
    first = heard.said.index("training scratch/seed-0000: 6 of 6 steps")
    assert {"reading: 30 of 30 images", "checking: 30 of 30 images"} <= set(heard.said[:first])
    for seed in (0, 1):
        place = heard.said.index(f"training scratch/seed-000{seed}: 6 of 6 steps")
        assert heard.said[place - 1].startswith("6 steps of 8 images of 32 x 32 pixels in fp32 on cpu, about ")


def test_every_seed_has_its_own_last_and_best_weights(trained: Path) -> None:
    found = []
    for seed in (0, 1):
        folder = trained / "scratch" / f"seed-000{seed}"
        losses = [epoch["val_loss"] or 0.0 for epoch in Run.read(folder).history]
        last, best = weights(folder / "model.safetensors"), weights(folder / BEST)
        assert last.keys() == best.keys()
        # Two epochs: the best one is the last or the first.
        assert (last == best) == (losses[1] < losses[0])
        found.append(last)
    assert found[0] != found[1]


def test_the_best_weights_take_the_place_of_the_last_ones(copied: Path) -> None:
    folder = copied / "scratch" / "seed-0000"
    shutil.copy(folder / BEST, folder / "model.safetensors")
    run = Run.read(folder)
    result = evaluate(folder, on="val").runs["scratch/seed-0000"]
    assert result.log_loss == pytest.approx(min(epoch["val_loss"] or 0.0 for epoch in run.history), rel=1e-4)


def test_evaluate_predict_and_the_model_agree(copied: Path, drawn: Path) -> None:
    result = evaluate(copied)
    assert (result.names[0].name, result.names[0].base, result.names[0].seeds) == ("scratch", "pixels", (0, 1))
    folder = copied / "scratch" / "seed-0000"
    with (folder / "predictions-test.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    named = predict(folder, *(drawn / line["path"] for line in lines), device="cpu")
    rows = np.stack([plain(drawn / line["path"], 32) for line in lines])
    own = load_head("scratch", folder).predict_proba(rows)
    for line, image, row in zip(lines, named.images, own, strict=True):
        stored = [float(line[name]) for name in CLASSES]
        assert stored == pytest.approx(row, abs=1e-5)
        assert [dict(image.top)[name] for name in CLASSES] == pytest.approx(row, abs=1e-5)


def plain(path: Path, side: int) -> npt.NDArray[np.float32]:
    row: npt.NDArray[np.float32] = pixel_transform(side)(decode(path.read_bytes())).numpy().reshape(-1)
    return row


def test_a_finished_run_is_kept_and_not_trained_again(copied: Path, drawn: Path) -> None:
    leftover = checkpoint_of(copied / "scratch" / "seed-0001")
    leftover.write_bytes(b"of a training that was killed when its run was there and this was not yet removed")
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("seed-*/*")}
    again = Heard()
    result = scratch(drawn, copied, seeds=(0, 1), progress=again)
    assert (result.fitted, [run.seed for run in result.runs]) == (0, [0, 1])
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("seed-*/*")} == before
    assert "reading: 30 of 30 images" in again.said
    assert not any(line.startswith("training") or line == "checking: 30 of 30 images" for line in again.said)
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 3}, "parameter epochs is 2, asked 3"),
        ({"augment": "none"}, "parameter augment is paper, asked none"),
        ({"precision": "bf16"}, "parameter precision is fp32, asked bf16"),
        ({"image_size": 33}, "parameter image_size is 32, asked 33"),
        ({"split_seed": 1}, "asked 60/20/20, seed 1"),
        ({"seeds": (7,), "hidden": (9,)}, r"parameter hidden is None, asked \[9\]"),
    ],
)
def test_another_configuration_under_the_same_name_is_refused(
    trained: Path, drawn: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=f"{message}.*--name"):
        scratch(drawn, trained, **changed)
    assert {path.name for path in (trained / "scratch").glob("seed-*")} == {"seed-0000", "seed-0001"}


# Imports once and forks, so that a process is killed while it trains and not while it imports.
KILLING = """
import multiprocessing, os, signal, sys, time
from contextlib import contextmanager
from pathlib import Path
import torch, pipeline.training, pipeline.heads.storage
from pipeline.baselines import fit_scratch
from pipeline.errors import HeadError
from pipeline.progress import Silent

images, place, small = sys.argv[1], Path(sys.argv[2]), eval(sys.argv[3])

class Acting(Silent):
    def __init__(self, act, after):
        self.act, self.after, self.done = act, after, 0
    @contextmanager
    def steps(self, label, total, unit):
        yield self.advance if unit == "steps" else lambda count: None
    def advance(self, count):
        self.done += count
        if self.done == self.after:
            self.act()

def start(runs, workers, act, after):
    process = os.fork()
    if process == 0:
        try:
            fit_scratch(images, runs, workers=workers, progress=Acting(act, after), **small)
        except HeadError as error:
            print(error, flush=True)
            os._exit(7)
        os._exit(0)
    return process

def end(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def kill_a_worker():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(20)  # the signal that it is dead ends this at once

# In the midst of the second epoch.
assert end(start(place / "within", 0, die, 4)) == -signal.SIGKILL
# While the first checkpoint is written.
process = start(place / "writing", 0, lambda: None, 0)
while not list((place / "writing").glob("scratch/.*.checkpoint.safetensors.*.tmp")):
    time.sleep(0.0005)
os.kill(process, signal.SIGKILL)
assert end(process) == -signal.SIGKILL
# A process that decodes.
assert end(start(place / "worker", 2, kill_a_worker, 4)) == 7
# Two at once, of which one waits.
both = [start(place / "both", 0, lambda: None, 0) for _ in range(2)]
assert [end(process) for process in both] == [0, 0]
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_bits(
    trained: Path, drawn: Path, tmp_path: Path
) -> None:
    killing = subprocess.run(
        [sys.executable, "-c", KILLING, drawn, tmp_path, repr(SMALL | CPU)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert killing.returncode == 0, killing.stderr
    assert killing.stdout.startswith("A process that was decoding images was killed from outside")
    undisturbed = trained / "scratch" / "seed-0000"
    for name, held in {"within": True, "writing": False, "worker": True, "both": False}.items():
        folder = tmp_path / name / "scratch" / "seed-0000"
        assert folder.exists() == (name == "both")
        assert checkpoint_of(folder).exists() == held
        heard = Heard()
        scratch(drawn, tmp_path / name, progress=heard)
        assert any(line.startswith("going on after epoch 1 of 2") for line in heard.said) == held
        for file in ("model.safetensors", BEST):
            assert (folder / file).read_bytes() == (undisturbed / file).read_bytes()
        assert without_seconds(Run.read(folder)) == without_seconds(Run.read(undisturbed))
        assert {path.name for path in folder.parent.iterdir()} == {"seed-0000", "learning-curves.png"}


def test_a_checkpoint_that_does_not_fit_is_refused(drawn: Path, tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path / "scratch" / "seed-0000")
    path.parent.mkdir()
    path.write_bytes(b"torn")
    with pytest.raises(RunError, match=f"{path} cannot be read .*Remove it to train from the start"):
        scratch(drawn, tmp_path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_auto_is_resolved_to_what_the_device_has_natively_and_stored(trained: Path, drawn: Path) -> None:
    native = native_precisions("cpu")
    expected = "bf16" if "bf16" in native else "fp32"
    # The runs that are there were trained in fp32: any other is refused by the name that it was resolved to.
    if expected == "fp32":
        assert scratch(drawn, trained, precision="auto").runs[0].parameters["precision"] == "fp32"
    else:
        with pytest.raises(RunError, match=f"parameter precision is fp32, asked {expected}"):
            scratch(drawn, trained, precision="auto")


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"epochs": 0}, HeadError, "epochs must be a whole number from 1 on"),
    ({"epoch": 3}, HeadError, "did you mean 'epochs'"),
    ({"hidden": (0,)}, HeadError, "hidden must be"),
    ({"seeds": ()}, HeadError, "not a list of different whole numbers"),
    ({"name": "a/b"}, RunError, "cannot name runs"),
    ({"device": "tpu"}, BaseError, "choose auto, cpu, cuda"),
]


def refuse(
    fit: Callable[..., Fitting], drawn: Path, runs: Path, case: tuple[dict[str, Any], type[Exception], str]
) -> None:
    """Refused before an image is read, and nothing is written."""
    options, error, message = case
    heard = Heard()
    with pytest.raises(error, match=message):
        fit(drawn, runs, progress=heard, **options)
    assert heard.said == []
    assert not runs.exists()


@pytest.mark.parametrize(
    "case",
    [
        *REFUSED,
        ({"image_size": 31}, HeadError, "image_size must be a whole number from 32 on; it is 31"),
        ({"precision": "fp64"}, HeadError, "precision must be fp32, bf16 or fp16"),
        ({"augment": "some"}, HeadError, "augment must be 'paper' or 'none'"),
        ({"workers": -1}, HeadError, "-1 workers"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(drawn: Path, tmp_path: Path, case: Any) -> None:
    refuse(scratch, drawn, tmp_path / "runs", case)


@pytest.mark.parametrize(
    "case",
    [*REFUSED, ({"image_size": 0}, HeadError, "Images of 0 pixels"), ({"use_views": 0}, HeadError, "and 0 views")],
)
def test_what_cannot_be_fitted_is_refused_at_once(drawn: Path, tmp_path: Path, case: Any) -> None:
    refuse(mlp, drawn, tmp_path / "runs", case)


@pytest.mark.parametrize("fit", [scratch, mlp])
def test_images_and_splits_that_do_not_fit_are_refused(
    images: Path, tmp_path: Path, fit: Callable[..., Fitting]
) -> None:
    with (tmp_path / "split.csv").open("w", newline="", encoding="utf-8") as file:
        parts = {"beach": "train", "forest": "train", "parkinglot": "test"}
        lines = [(f"{path.parent.name}/{path.name}", path.parent.name) for path in images.glob("*/*")]
        csv.writer(file).writerows([("path", "label", "split"), *((*line, parts[line[1]]) for line in lines)])
    with pytest.raises(SplitError, match="images in test of classes that have none in train: parkinglot"):
        fit(images, tmp_path / "runs", split=tmp_path / "split.csv")
    with pytest.raises(ImageSetError, match="does not exist"):
        fit(images / "none", tmp_path / "runs")
    (images / "beach" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (images / "forest" / "empty.png").write_bytes(b"")
    with pytest.raises(UnreadableImages, match=r"2 of 32 images(.|\n)*beach/torn\.png(.|\n)*forest/empty\.png"):
        fit(images, tmp_path / "runs")
    assert not list(tmp_path.glob("runs/*/seed-*"))


def test_skipped_images_take_no_part_and_the_run_says_so(images: Path, drawn: Path, tmp_path: Path) -> None:
    (images / "beach" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = mlp(images, tmp_path / "skipped", on_error="skip")
    assert result.runs[0].notes == ("1 images take no part: they could not be read",)
    assert result.notes[:1] == result.runs[0].notes
    # All others are split and fitted as if it had never been there.
    plain = mlp(drawn, tmp_path / "plain")
    model = "pixel-mlp/seed-0000/model.safetensors"
    assert weights(tmp_path / "skipped" / model) == weights(tmp_path / "plain" / model)
    assert result.runs[0].digests == plain.runs[0].digests


@pytest.mark.parametrize("views", [1, 3])
def test_an_mlp_is_the_head_fitted_on_the_transformed_pixels(drawn: Path, tmp_path: Path, views: int) -> None:
    result = mlp(drawn, tmp_path, seeds=(4,), use_views=views, hidden=(6, 5, 4), patience=1)
    run, transform = result.runs[0], pixel_transform(8)
    assert (run.path, run.head, run.views) == (tmp_path / "pixel-mlp" / "seed-0004", "pixel-mlp", views)
    assert {path.name for path in run.path.iterdir()} == {"run.json", "model.safetensors"}

    def rows(part: str, view: int) -> npt.NDArray[np.float32]:
        files = [(drawn / path).read_bytes() for path in run.images[part]]
        digests = [digest_of(file) for file in files]
        pictures = [view_of(decode(file), digest, view, transform) for file, digest in zip(files, digests, strict=True)]
        return np.stack([picture.numpy().reshape(-1) for picture in pictures])

    labels = {part: [path.split("/")[0] for path in run.images[part]] for part in ("train", "val")}
    train = np.stack([rows("train", view) for view in range(views)])
    head = MLPHead((6, 5, 4), epochs=2, patience=1, random_state=4)
    with one_thread():
        head.fit(train[0], labels["train"], rows("val", 0), labels["val"], views=train if views > 1 else None)
    expected = {name: tensor.numpy().tobytes() for name, tensor in head.to_tensors()[0].items()}
    assert weights(run.path / "model.safetensors") == expected
    assert [epoch["val_loss"] for epoch in run.history] == [epoch["val_loss"] for epoch in head.history_]


def test_an_mlp_has_the_papers_layers_over_the_papers_pixels(drawn: Path, tmp_path: Path) -> None:
    result = mlp(drawn, tmp_path, image_size=224, epochs=1)
    shapes = {name: tensor.shape for name, tensor in load_file(result.runs[0].path / "model.safetensors").items()}
    assert shapes["inputs.weight"] == (12, 150528)
    assert [shapes[f"hidden_layer{depth}.weight"] for depth in (1, 2, 3)] == [(9, 12), (6, 9), (3, 6)]


class Emptying(Heard):
    """Progress that removes all images once training has begun."""

    def __init__(self, images: Path) -> None:
        super().__init__()
        self.images = images

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        if label.startswith("fitting"):
            shutil.rmtree(self.images)
        with super().steps(label, total, unit) as advance:
            yield advance


def test_every_image_is_decoded_once_for_all_epochs_and_seeds(images: Path, tmp_path: Path) -> None:
    emptying = Emptying(images)
    result = mlp(images, tmp_path / "runs", seeds=(0, 1, 2), epochs=5, use_views=2, progress=emptying)
    assert not images.exists()
    assert (result.fitted, [len(run.history) for run in result.runs]) == (3, [5, 5, 5])
    # Two views of 18 images to train on, and 6 images to validate.
    assert {"reading features: 42 of 42 rows", "fitting pixel-mlp: 15 of 15 epochs"} <= set(emptying.said)
    assert not any(path.name.startswith(".") for path in (tmp_path / "runs").rglob("*"))


class Changing(Heard):
    """Progress that changes an image after it was looked through."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        with super().steps(label, total, unit) as advance:
            yield advance
        if label == "checking" and total:
            Image.new("RGB", (64, 64), "red").save(self.path)


def test_an_image_that_changed_since_it_was_listed_is_refused(images: Path, tmp_path: Path) -> None:
    victim = images / Run.read(mlp(images, tmp_path / "before").runs[0].path).images["train"][0]
    with pytest.raises(RunError, match=f"{victim} could be read before and now cannot: it was changed.*--name"):
        mlp(images, tmp_path / "runs", progress=Changing(victim))
    assert not any(path.is_file() for path in (tmp_path / "runs").rglob("*"))


def test_runs_of_an_mlp_are_kept_and_others_refused(drawn: Path, tmp_path: Path) -> None:
    first = mlp(drawn, tmp_path, seeds=(0,))
    again = mlp(drawn, tmp_path, seeds=(0, 1))
    assert (first.fitted, again.fitted) == (1, 1)
    for changed, message in (
        ({"epochs": 3}, "parameter epochs is 2, asked 3"),
        ({"use_views": 2}, "views is 1, asked 2"),
        ({"image_size": 9}, "recipe dimension is 192, asked 243"),
        ({"split": "50/25/25"}, "split is 60/20/20, seed 0, asked 50/25/25, seed 0"),
    ):
        with pytest.raises(RunError, match=f"{message}.*--name"):
            mlp(drawn, tmp_path, **changed)


def test_both_are_ranked_with_heads(fitted: Path, trained: Path, drawn: Path, tmp_path: Path) -> None:
    mlp(drawn, tmp_path)
    shutil.copytree(trained / "scratch", tmp_path / "scratch")
    shutil.copytree(fitted / "mlp", tmp_path / "mlp")
    result = evaluate(tmp_path)
    assert result.comparable
    assert {name.name for name in result.names} == {"mlp", "pixel-mlp", "scratch"}
    stored = json.loads((tmp_path / "scratch" / "seed-0001" / "evaluation-test.json").read_text(encoding="utf-8"))
    assert stored["images"] == 6


def test_runs_inside_the_images_are_refused(images: Path) -> None:
    before = sorted(images.rglob("*"))
    with pytest.raises(ImageSetError, match=r"runs folder .* would lie inside the image set"):
        fit_mlp(images, images / "runs", seeds=(0,), image_size=8, epochs=1, split="60/20/20", jobs=1)
    assert sorted(images.rglob("*")) == before
