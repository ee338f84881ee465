"""Fitting side by side: all runs on one copy of the features, which is gone in the end whatever happened."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file

from cache import Entry, FeatureCache
from pipeline.errors import HeadError
from pipeline.heads import make_head
from pipeline.planning import Plan, Source, make_plan
from pipeline.progress import SILENT
from pipeline.run import Run
from pipeline.split import Split, make_split
from pipeline.threads import one_thread
from pipeline.workers import fit_missing

DIMENSION = 512
ROOT = Path(__file__).parents[2]


class Given:
    """Features made up from names and views, as a cache or pixels would give them; keeps what it was asked for."""

    def __init__(self, trip_at: int | None = None) -> None:
        self.trip_at = trip_at
        self.asked: list[tuple[str, int]] = []

    def row(self, path: str, view: int) -> npt.NDArray[np.float32]:
        # One centre a class, so that there is something to learn.
        centre = sum(map(ord, path.split("/")[0])) % 1000
        noise = np.random.default_rng([sum(map(ord, path)), view]).normal(size=DIMENSION)
        return (np.random.default_rng(centre).normal(size=DIMENSION) + noise).astype(np.float32)

    def __call__(
        self,
        entries: Sequence[Entry],
        views: Sequence[int],
        out: npt.NDArray[np.float32],
        advance: Callable[[int], None],
    ) -> None:
        for number, (entry, view) in enumerate(zip(entries, views, strict=True)):
            if number == self.trip_at:
                raise HeadError("tripped")
            out[number] = self.row(entry.path, view)
            advance(1)
        self.asked += list(zip([entry.path for entry in entries], views, strict=True))


@pytest.fixture(scope="module")
def source(extracted: Path) -> Source:
    return Source.of_cache(FeatureCache.open(extracted))


@pytest.fixture(scope="module")
def split(source: Source) -> Split:
    return make_split(source.index, "60/20/20")


def plan(source: Source, split: Split, runs: Path, **options: Any) -> Plan:
    asked = {"head": "mlp", "name": "mlp", "seeds": (0, 1), "device": "cpu", "parameters": {"epochs": 2}, **options}
    return make_plan(source, split, runs, **asked)


def fit(plans: Sequence[Plan], source: Source, split: Split, fill: Given, jobs: int | None = 1) -> None:
    fit_missing(plans, source.index, split, fill, jobs, SILENT, "fitting")


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def labels(paths: Sequence[str]) -> list[str]:
    return [path.split("/")[0] for path in paths]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_is_the_head_fitted_on_its_rows(
    source: Source, split: Split, tmp_path: Path, jobs: int, views: int
) -> None:
    planned, fill = plan(source, split, tmp_path, views=views), Given()
    fit([planned], source, split, fill, jobs)
    paths = planned.runs[0].images
    train, val = (
        np.stack([[fill.row(path, view) for path in paths[part]] for view in range(count)])
        for part, count in (("train", views), ("val", 1))
    )
    wanted = [(path, view) for view in range(views) for path in paths["train"]] + [(path, 0) for path in paths["val"]]
    assert fill.asked == wanted
    for run in planned.fitted():
        head = make_head("mlp", seed=run.seed, epochs=2)
        options = {"views": train} if views > 1 else {}
        with one_thread():
            head.fit(train[0], labels(paths["train"]), val[0], labels(paths["val"]), **options)
        assert weights(run.path) == {name: tensor.numpy().tobytes() for name, tensor in head.to_tensors()[0].items()}
        assert [epoch["val_loss"] for epoch in run.history] == [epoch["val_loss"] for epoch in head.history_]
        assert run.timings["fit"] > 0


def test_several_configurations_share_one_copy_and_keep_what_is_there(
    source: Source, split: Split, tmp_path: Path
) -> None:
    fill, names = Given(), {"slow": 1e-4, "fast": 1e-2}

    def plans(seeds: tuple[int, ...]) -> list[Plan]:
        return [
            plan(source, split, tmp_path, name=name, seeds=seeds, parameters={"epochs": 1, "lr": lr})
            for name, lr in names.items()
        ]

    fit(plans((0,)), source, split, fill)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed-0000/*")}
    assert len(before) == 4
    fit(plans((0, 1)), source, split, fill)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(fill.asked) == 2 * 24  # 18 to train on and 6 to validate, once a call
    assert len({str(weights(path.parent)) for path in tmp_path.glob("*/seed-*/run.json")}) == 4
    fit(plans((0, 1)), source, split, fill)
    assert len(fill.asked) == 2 * 24  # with nothing missing, nothing is read


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.startswith("."))


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_copy_is_gone_whatever_happened(source: Source, split: Split, tmp_path: Path, jobs: int) -> None:
    with pytest.raises(HeadError, match="tripped"):
        fit([plan(source, split, tmp_path)], source, split, Given(trip_at=10), jobs)
    with pytest.raises(HeadError, match="diverged"):
        fit([plan(source, split, tmp_path, parameters={"lr": 1e30, "epochs": 30})], source, split, Given(), jobs)
    assert [path for path in tmp_path.rglob("*") if path.name != "mlp"] == []
    fit([plan(source, split, tmp_path)], source, split, Given(), jobs)
    assert left(tmp_path) == []
    assert {path.name for path in (tmp_path / "mlp").iterdir()} == {"seed-0000", "seed-0001"}


def test_a_split_without_validation_is_fitted_without(source: Source, tmp_path: Path) -> None:
    split = make_split(source.index, "70/0/30")
    planned, fill = plan(source, split, tmp_path, seeds=(0,)), Given()
    fit([planned], source, split, fill)
    assert len(fill.asked) == 21
    assert [epoch["val_loss"] for epoch in Run.read(tmp_path / "mlp" / "seed-0000").history] == [None, None]


def test_no_jobs_are_refused_and_as_many_as_processors_are_the_default(
    source: Source, split: Split, tmp_path: Path
) -> None:
    with pytest.raises(HeadError, match="0 jobs cannot fit anything"):
        fit([plan(source, split, tmp_path)], source, split, Given(), 0)
    fit([plan(source, split, tmp_path, seeds=range((os.cpu_count() or 1) + 1))], source, split, Given(), None)
    assert len(list(tmp_path.glob("mlp/seed-*"))) == (os.cpu_count() or 1) + 1


LONG = """
import sys
from pipeline.fitting import fit_head
fit_head(sys.argv[1], sys.argv[2], seeds=(0, 1), epochs=10**6, split="60/20/20", jobs=2)
"""


def test_no_worker_outlives_a_process_that_is_killed(extracted: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LONG, str(extracted), str(tmp_path)], cwd=ROOT) as process:
        while not (fitting := workers_of(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(1)  # until they fit
        process.kill()
    assert len(fitting) >= 1
    for _ in range(600):
        if not any(Path(f"/proc/{worker}").exists() for worker in fitting):
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {fitting}")


def workers_of(parent: int) -> list[int]:
    """Return the processes of joblib that fit for a process."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            child = place.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(parent)
            if child and b"LokyProcess" in place.joinpath("cmdline").read_bytes():
                found.append(int(place.name))
    return found


def test_one_thread_is_for_the_block_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="out"), one_thread():
            raise ValueError("out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
