"""Runs: the same bits whatever runs beside them, whole or not there, and never two configurations under one name."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from joblib.externals.loky import reusable_executor
from safetensors.numpy import load_file

from cache import CacheError, FeatureCache
from cache.process import host
from pipeline.errors import BaseError, HeadError, RunError, SplitError
from pipeline.extraction import extract
from pipeline.fitting import Fitting, fit_head
from pipeline.heads.mlp import MLPHead
from pipeline.progress import Silent
from pipeline.run import Run
from pipeline.threads import one_thread
from tests.conftest import BASE, CLASSES, WEIGHTS

SPLIT = "60/20/20"


def fit(cache: Path, runs: Path, **options: Any) -> Fitting:
    return fit_head(cache, runs, **{"seeds": (0,), "epochs": 2, "split": SPLIT, "jobs": 1, **options})


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def without_times(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in run.history]


def test_same_seed_same_weights_whatever_jobs_is(extracted: Path, tmp_path: Path) -> None:
    one = fit(extracted, tmp_path / "one", seeds=(0, 1, 2), jobs=1)
    two = fit(extracted, tmp_path / "two", seeds=(2, 1, 0), jobs=2)
    other = {run.seed: run for run in two.runs}
    for run in one.runs:
        assert weights(run.path) == weights(other[run.seed].path)
        assert without_times(run) == without_times(other[run.seed])
        assert run.notes == other[run.seed].notes
    assert len({str(sorted(weights(run.path).items())) for run in one.runs}) == 3


def test_runs_that_exist_are_kept(runs: Path, extracted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("seed-*/*") if path.is_file()}
    result = fit(extracted, runs, head="mlp", seeds=(0, 1, 2), epochs=3)
    assert (result.fitted, [run.seed for run in result.runs]) == (1, [0, 1, 2])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert fit(extracted, runs, head="mlp", seeds=(0, 1, 2), epochs=3).fitted == 0


def test_a_folder_in_the_way_is_refused_before_anything_is_fitted(extracted: Path, tmp_path: Path) -> None:
    (tmp_path / "mlp" / "seed-0001").mkdir(parents=True)
    with pytest.raises(RunError, match=r"seed-0001 is not a run: it has no run\.json"):
        fit(extracted, tmp_path, seeds=(0, 1))
    assert not (tmp_path / "mlp" / "seed-0000").exists()


# Imports once and forks, so that a process is killed while it fits and not while it imports.
KILLING = """
import os, random, signal, sys, time
import torch, pipeline.heads.mlp, pipeline.heads.storage, joblib
from pipeline.fitting import fit_head

def start(runs, seeds):
    process = os.fork()
    if process == 0:
        fit_head(sys.argv[1], runs, seeds=seeds, epochs=2, split=sys.argv[3], jobs=1)
        os._exit(0)
    return process

def end(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

for _ in range(6):
    process = start(sys.argv[2] + "/killed", range(12))
    time.sleep(random.uniform(0.0, 0.4))
    os.kill(process, signal.SIGKILL)
    end(process)
for _ in range(3):
    both = [start(sys.argv[2] + "/both", range(3)) for _ in range(2)]
    assert [end(process) for process in both] == [0, 0]
"""


def test_killed_at_any_moment_or_fitted_twice_at_once_every_run_is_whole(extracted: Path, tmp_path: Path) -> None:
    killed, both = tmp_path / "killed", tmp_path / "both"
    subprocess.run([sys.executable, "-c", KILLING, extracted, tmp_path, SPLIT], check=True, timeout=120)
    for folder in killed.glob("mlp/seed-*"):
        Run.read(folder)
        weights(folder)
    seeds = tuple(range(12))
    finished = fit(extracted, killed, seeds=seeds)
    undisturbed = fit(extracted, tmp_path / "undisturbed", seeds=seeds)
    for run, other in zip(finished.runs, undisturbed.runs, strict=True):
        assert weights(run.path) == weights(other.path)
        assert without_times(run) == without_times(other)
    assert {path.name for path in (killed / "mlp").glob("seed-*")} == {run.path.name for run in finished.runs}
    assert {path.name for path in (killed / "mlp").iterdir() if path.is_file()} == {"learning-curves.png"}
    assert {path.name for path in (both / "mlp").glob("seed-*")} == {"seed-0000", "seed-0001", "seed-0002"}
    for folder in both.glob("mlp/seed-*"):
        assert weights(folder) == weights(undisturbed.runs[Run.read(folder).seed].path)


def test_a_half_written_folder_is_not_a_run(extracted: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from cache.atomic import writing_folder\n"
        "with writing_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'run.json').write_text('{')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "mlp" / "seed-0001"], check=False)
    assert len(list((tmp_path / "mlp").iterdir())) == 1
    assert fit(extracted, tmp_path, seeds=(0, 1)).fitted == 2
    assert {path.name for path in (tmp_path / "mlp").iterdir()} == {"seed-0000", "seed-0001", "learning-curves.png"}


@pytest.mark.slow
def test_a_killed_worker_is_explained(extracted: Path, tmp_path: Path) -> None:
    def kill_first_worker() -> None:
        for _ in range(1200):
            time.sleep(0.05)
            # A worker has written a run: it is at work, and much is left.
            if list(tmp_path.glob("mlp/seed-*")):
                os.kill(next(iter(reusable_executor._executor._processes)), signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_first_worker)
    killer.start()
    with pytest.raises(HeadError, match=r"memory ran out.*--jobs 1"):
        fit(extracted, tmp_path, seeds=tuple(range(300)), epochs=20, jobs=2)
    killer.join()
    assert all(Run.read(folder) for folder in tmp_path.glob("mlp/seed-*"))


def test_run_json_says_everything(extracted: Path, tmp_path: Path) -> None:
    fitted = fit(extracted, tmp_path, epochs=3, lr=np.float32(0.001), hidden=(np.int64(8), 5), name="Näme 1")
    run = fitted.runs[0]
    assert run == Run.read(tmp_path / "Näme 1" / "seed-0000")
    cache = FeatureCache.open(extracted)
    assert (run.name, run.head, run.seed, run.seeded, run.device) == ("Näme 1", "mlp", 0, True, "cpu")
    assert run.parameters.keys() == {"hidden", "lr", "epochs", "batch_size", "dropout", "weight_decay", "patience"}
    assert (run.parameters["hidden"], run.parameters["lr"]) == ([8, 5], pytest.approx(0.001))
    assert run.classes == CLASSES
    assert (run.recipe, run.recipe.weights) == (cache.recipe, WEIGHTS)
    assert Path(run.cache) == extracted
    assert run.split == "60/20/20, seed 0"
    listed = sorted(path for part in ("train", "val", "test") for path in run.images[part])
    assert listed == [entry.path for entry in cache.index().entries]
    assert [len(run.images[part]) for part in ("train", "val", "test")] == [18, 6, 6]
    assert all(len(digest) == 64 for digest in run.digests.values())
    assert {"torch", "numpy", "scikit-learn", "manyheads"} <= run.versions.keys()
    assert run.machine.keys() == {"processor", "cores", "system"}
    assert run.timings["fit"] > 0
    assert any("random weights" in note for note in run.notes)
    assert [epoch["epoch"] for epoch in run.history] == [1, 2, 3]
    for epoch in run.history:
        assert epoch.keys() >= {"train_loss", "train_accuracy", "val_loss", "val_accuracy"}
        assert all(isinstance(value, int | float) for value in epoch.values())


def test_history_without_validation_part(extracted: Path, tmp_path: Path) -> None:
    run = fit(extracted, tmp_path, split="70/0/30").runs[0]
    assert [epoch["val_loss"] for epoch in run.history] == [None, None]
    assert "the split has no val part" in run.notes


def test_early_stopping_keeps_the_best_epoch(extracted: Path, tmp_path: Path) -> None:
    run = fit(extracted, tmp_path, epochs=200, lr=0.02, patience=2).runs[0]
    losses = [epoch["val_loss"] or 0.0 for epoch in run.history]
    best = int(np.argmin(losses)) + 1
    assert best + 2 == len(losses) < 200
    kept = fit(extracted, tmp_path, name="kept", epochs=best, lr=0.02).runs[0]
    assert weights(run.path) == weights(kept.path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.5}, r"parameter lr is 0\.0001, asked 0\.5"),
        ({"head": "knn", "epochs": None}, "head is mlp, asked knn"),
        ({"split": "50/25/25"}, "split is 60/20/20, seed 0, asked 50/25/25, seed 0"),
        ({"split_seed": 7}, "split is 60/20/20, seed 0, asked 60/20/20, seed 7"),
        ({"seeds": (9,), "dropout": 0.1}, r"parameter dropout is 0\.5, asked 0\.1"),
    ],
)
def test_another_configuration_under_the_same_name_is_refused(
    runs: Path, extracted: Path, changed: dict[str, Any], message: str
) -> None:
    options = {"head": "mlp", "name": "mlp", "epochs": 3, **changed}
    given = {name: value for name, value in options.items() if value is not None}
    with pytest.raises(RunError, match=f"{message}.*name"):
        fit_head(extracted, runs, **{"seeds": (0,), "split": SPLIT, "jobs": 1, **given})
    assert len(list((runs / "mlp").glob("seed-*"))) == 2


def test_another_recipe_under_the_same_name_is_refused(runs: Path, images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    extract(images, other, base=BASE, weights=WEIGHTS, device="cpu", store="float16")
    with pytest.raises(RunError, match="recipe storage is float32, asked float16"):
        fit(other, runs, head="mlp", epochs=3)


def changed_image(images: Path) -> None:
    (images / "beach" / "beach02.png").write_bytes((images / "beach" / "beach03.png").read_bytes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_image, r"test images are others \(some have other contents\)"),
        (lambda images: (images / "beach" / "beach02.png").unlink(), r"images are others \(\d new, \d gone\)"),
        (lambda images: (images / "beach" / "beach02.png").rename(images / "forest" / "x.png"), "images are others"),
        (lambda images: (images / "forest" / "forest02.png").rename(images / "forest" / "x.png"), "images are others"),
        (lambda images: (images / "beach").rename(images / "shore"), r"classes is .*beach.*, asked .*shore"),
        (lambda images: shutil.copy(images / "beach" / "beach02.png", images / "beach" / "x.png"), "images are others"),
    ],
    ids=["other bytes", "removed", "moved to another class", "renamed", "class renamed", "added twice"],
)
def test_a_cache_of_changed_images_under_the_same_name_is_refused(
    runs: Path, images: Path, cache: Path, change: Callable[[Path], object], message: str
) -> None:
    change(images)
    assert fit(cache, runs, head="mlp", epochs=3, seeds=(0, 1)).fitted == 0, (
        "the cache speaks of the images as they were"
    )
    extract(images, cache, base=BASE, weights=WEIGHTS, device="cpu")
    with pytest.raises(RunError, match=f"was fitted otherwise: .*{message}.*--name"):
        fit(cache, runs, head="mlp", epochs=3, seeds=(0, 1, 2))
    assert fit(cache, runs, head="mlp", name="anew", epochs=3).fitted == 1


def test_a_cache_under_another_path_is_the_same(runs: Path, cache: Path, tmp_path: Path) -> None:
    moved = cache.rename(tmp_path / "elsewhere")
    assert fit(moved, runs, head="mlp", epochs=3, seeds=(0, 1)).fitted == 0


def test_the_same_split_told_otherwise_is_the_same_configuration(runs: Path, extracted: Path, tmp_path: Path) -> None:
    run = Run.read(runs / "mlp" / "seed-0000")
    path = tmp_path / "split.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows((name, name.split("/")[0], part) for part, names in run.images.items() for name in names)
    assert fit(extracted, runs, head="mlp", epochs=3, split=path).fitted == 0


def test_a_head_that_does_not_depend_on_the_seed_is_fitted_once(extracted: Path, tmp_path: Path) -> None:
    first = fit_head(extracted, tmp_path, head="knn", seeds=(3, 4), split=SPLIT, jobs=1)
    assert [run.seed for run in first.runs] == [0]
    assert not first.runs[0].seeded
    assert "knn does not depend on the seed: fitted once, as seed 0" in first.notes
    assert first.runs[0].notes == first.notes[:1]  # it speaks of this call, not of the run
    again = fit_head(extracted, tmp_path, head="knn", split=SPLIT, jobs=1)
    assert (again.fitted, len(list((tmp_path / "knn").iterdir()))) == (0, 1)


def test_skipped_images_are_noted(images: Path, tmp_path: Path) -> None:
    (images / "beach" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    extract(images, tmp_path / "cache", base=BASE, weights=WEIGHTS, device="cpu", on_error="skip")
    assert any(note.startswith("1 images have no features") for note in fit(tmp_path / "cache", tmp_path).notes)


def test_notes_are_told_and_steps_counted(extracted: Path, tmp_path: Path) -> None:
    class Listening(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    listening = Listening()
    assert fit(extracted, tmp_path, progress=listening).notes == tuple(listening.notes) != ()


def test_the_callers_threads_and_random_numbers_are_left_alone(extracted: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
        fit(extracted, tmp_path)
        assert torch.get_num_threads() == 2
        assert (random.getstate(), str(np.random.get_state())) == states[:2]
        assert torch.equal(torch.get_rng_state(), states[2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "no.csv"}, SplitError, "nor a file that exists"),
        ({"split": "1/98/1"}, SplitError, "cannot be drawn"),
        ({"head": "mpl"}, HeadError, "no head 'mpl' .did you mean 'mlp'"),
        ({"epoch": 3}, HeadError, "did you mean 'epochs'"),
        ({"lr": -1.0}, HeadError, "lr must be"),
        ({"seeds": ()}, HeadError, "not a list of different whole numbers"),
        ({"seeds": (1, 1)}, HeadError, "not a list of different whole numbers"),
        ({"seeds": (-1,)}, HeadError, "not a list of different whole numbers"),
        ({"seeds": (2**32,)}, HeadError, "not a list of different whole numbers"),
        ({"jobs": 0}, HeadError, "0 jobs"),
        ({"device": "tpu"}, BaseError, "choose auto, cpu, cuda"),
        *(
            ({"name": name}, RunError, "cannot name runs")
            for name in ("", ".x", "..", "a/b", "a\\b", "a\nb", "x" * 200)
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    extracted: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(extracted, tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failure_while_fitting_is_explained(extracted: Path, tmp_path: Path, jobs: int) -> None:
    with pytest.raises(HeadError, match="diverged"):
        fit(extracted, tmp_path, seeds=(0, 1), lr=1e30, epochs=30, jobs=jobs)
    assert not list(tmp_path.glob("mlp/seed-*"))


def test_no_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="not a feature cache"):
        fit(tmp_path, tmp_path / "runs")


def test_auto_device_is_stored_as_the_one_that_was_used(extracted: Path, tmp_path: Path) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert fit(extracted, tmp_path, device="auto").runs[0].device == expected


def test_the_seed_is_not_taken_for_a_hyper_parameter(extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="--seeds"):
        fit_head(extracted, tmp_path, split="60/20/20", seed=3)
    assert list(tmp_path.iterdir()) == []


def test_one_job_tells_of_every_epoch(extracted: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, str, int]] = []

    class Told(Silent):
        @contextmanager
        def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
            done: list[int] = []
            yield done.append
            told.append((label, total, unit, sum(done)))

    fit_head(extracted, tmp_path, seeds=(0, 1), epochs=3, split="60/20/20", jobs=1, progress=Told())
    assert told == [("reading features", 24, "rows", 24), ("fitting mlp", 6, "epochs", 6)]


def test_what_a_killed_fit_laid_out_is_removed_by_the_next(extracted: Path, tmp_path: Path) -> None:
    kept, gone = (tmp_path / "mlp" / f".scratch.{name}.999999999-1.tmp" for name in ("another", host()))
    for folder in (kept, gone):
        folder.mkdir(parents=True)
    fit_head(extracted, tmp_path, seeds=(0,), epochs=1, split="60/20/20", jobs=1)
    assert kept.exists()
    assert not gone.exists()


VIEWS = 3


@pytest.fixture(scope="module")
def viewed(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with views of the images that `SPLIT` trains on; do not write to it."""
    cache = tmp_path_factory.mktemp("viewed") / "cache"
    extract(drawn, cache, base=BASE, weights=WEIGHTS, device="cpu", views=VIEWS, split=SPLIT)
    return cache


def test_views_are_drawn_by_the_head_from_those_of_the_cache(viewed: Path, tmp_path: Path) -> None:
    run = fit(viewed, tmp_path, use_views=VIEWS, seeds=(3,)).runs[0]
    assert run.views == Run.read(run.path).views == VIEWS
    cache = FeatureCache.open(viewed)
    digests = {entry.path: entry.digest for entry in cache.index().entries}
    train, val = ([digests[path] for path in run.images[part]] for part in ("train", "val"))
    views = np.stack([cache.read(train, views=[number] * len(train)) for number in range(VIEWS)])
    labels = {part: [path.split("/")[0] for path in run.images[part]] for part in ("train", "val")}
    head = MLPHead(epochs=2, random_state=3)
    with one_thread():
        head.fit(views[0], labels["train"], cache.read(val), labels["val"], views=views)
    assert weights(run.path) == {name: tensor.numpy().tobytes() for name, tensor in head.to_tensors()[0].items()}
    # Validation is on view 0 alone.
    probabilities = head.predict_proba(cache.read(val))
    codes = [CLASSES.index(label) for label in labels["val"]]
    assert run.history[-1]["val_loss"] == pytest.approx(-np.log(probabilities[np.arange(len(codes)), codes]).mean())


def test_without_views_a_cache_that_has_them_gives_the_same_runs(viewed: Path, extracted: Path, tmp_path: Path) -> None:
    with_views, plain = fit(viewed, tmp_path / "viewed"), fit(extracted, tmp_path / "plain")
    assert weights(with_views.runs[0].path) == weights(plain.runs[0].path)
    assert plain.runs[0].views == 1
    other = fit(viewed, tmp_path / "drawn", use_views=VIEWS)
    assert weights(other.runs[0].path) != weights(plain.runs[0].path)


@pytest.mark.parametrize(("views", "held", "asked"), [(2, 2, 1), (2, 2, 3), (1, 1, 2)])
def test_another_number_of_views_under_the_same_name_is_refused(
    viewed: Path, tmp_path: Path, views: int, held: int, asked: int
) -> None:
    fit(viewed, tmp_path, use_views=views)
    with pytest.raises(RunError, match=f"views is {held}, asked {asked}.*--name"):
        fit(viewed, tmp_path, use_views=asked, seeds=(0, 1))
    assert fit(viewed, tmp_path, use_views=views).fitted == 0


def test_views_that_the_cache_lacks_are_refused(viewed: Path, extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"lacks view 3 of 18 of 18 images.*--views 4"):
        fit(viewed, tmp_path, use_views=4)
    with pytest.raises(CacheError, match=r"lacks views 1 to 4 of 18 of 18 images.*--views 5"):
        fit(extracted, tmp_path, use_views=5)
    # The views are of the images that another split trains on.
    with pytest.raises(CacheError, match=r"lacks views 1 to 2 of \d+ of 18 images.*--split"):
        fit(viewed, tmp_path, use_views=3, split_seed=1)
    assert list(tmp_path.rglob("seed-*")) == []
    assert not any(path.name.startswith(".") for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("head", ["logistic", "svm", "knn"])
def test_views_are_refused_where_there_are_no_epochs(viewed: Path, tmp_path: Path, head: str) -> None:
    with pytest.raises(HeadError, match=f"{head} is not trained in epochs.*--use-views"):
        fit_head(viewed, tmp_path, head=head, use_views=2, split=SPLIT, jobs=1)
    assert list(tmp_path.iterdir()) == []


def test_no_views_are_refused(viewed: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="0 views are none"):
        fit(viewed, tmp_path, use_views=0)


@pytest.mark.parametrize("baseline", ["scratch", "pixel-mlp"])
def test_a_baseline_is_no_head(extracted: Path, tmp_path: Path, baseline: str) -> None:
    with pytest.raises(HeadError, match=f"'{baseline}' is a baseline with a stage of its own.*mlp, logistic"):
        fit_head(extracted, tmp_path, head=baseline)
