"""Runs trained together: groups of one shape that fit the device, each run written as if it had been alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import together
from pipeline.errors import HeadError
from pipeline.heads import HeadValueError
from pipeline.planning import Plan, Source
from pipeline.run import Run
from pipeline.split import Split
from tests.pipeline.test_workers import Given, fit, plan, source, split, weights

__all__ = ["source", "split"]  # fixtures


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Train on the CPU as on a GPU that holds two heads; return the groups that were trained."""
    groups: list[list[str]] = []
    plain = together._groups

    def noted(work: Any, rows: Any) -> Any:
        for group in plain(work, rows):
            groups.append([run.label for run, _ in group])
            yield group

    monkeypatch.setattr("pipeline.workers.trained_together", lambda run: True)
    monkeypatch.setattr(together, "_groups", noted)
    monkeypatch.setattr(together, "_most", lambda run, rows: 2)
    return groups


def plans(source: Source, split: Split, runs: Path) -> Sequence[Plan]:
    asked: dict[str, dict[str, Any]] = {"a": {"lr": 1e-2}, "b": {"hidden": (8,)}, "c": {"lr": 1e-2}}
    return [
        plan(source, split, runs, name=name, seeds=(0, 1), views=2, parameters={"epochs": 2, **parameters})
        for name, parameters in asked.items()
    ]


def test_every_run_is_what_it_would_be_alone(
    source: Source, split: Split, tmp_path: Path, grouped: list[list[str]]
) -> None:
    fit(plans(source, split, tmp_path / "together"), source, split, Given())
    assert sorted(map(len, grouped)) == [2, 2, 2]
    assert all(len({label[0] == "b" for label in group}) == 1 for group in grouped)
    grouped.clear()
    for label in ("a", "b", "c"):
        for seed in (0, 1):
            (alone,) = (one for one in plans(source, split, tmp_path / "alone") if one.folder.name == label)
            only = Plan(alone.runs, alone.folder, tuple(run for run in alone.missing if run.seed == seed))
            fit([only], source, split, Given())
            folder = Path(label) / f"seed-000{seed}"
            assert weights(tmp_path / "together" / folder) == weights(tmp_path / "alone" / folder)
            mine, other = (Run.read(tmp_path / where / folder) for where in ("together", "alone"))
            assert [epoch["val_loss"] for epoch in mine.history] == [epoch["val_loss"] for epoch in other.history]
            assert mine.timings["fit"] > 0


def test_a_run_that_diverges_takes_no_other_along(
    source: Source, split: Split, tmp_path: Path, grouped: list[list[str]]
) -> None:
    asked = {"good": 1e-2, "wild": 1e30}
    some = [
        plan(source, split, tmp_path, name=name, seeds=(0,), views=2, parameters={"epochs": 3, "lr": lr})
        for name, lr in asked.items()
    ]
    with pytest.raises(HeadError, match=r"wild.*cannot be fitted: The training loss is .*lr=1e\+30.*diverged"):
        fit(some, source, split, Given())
    assert len(grouped) == 1
    assert len(Run.read(tmp_path / "good" / "seed-0000").history) == 3
    assert not (tmp_path / "wild" / "seed-0000").exists()


def test_only_what_is_trained_in_epochs_on_a_gpu_is_trained_together(
    source: Source, split: Split, tmp_path: Path
) -> None:
    run = plan(source, split, tmp_path).runs[0]
    assert not together.trained_together(run)
    assert together.trained_together(replace(run, device="cuda:1"))
    knn = plan(source, split, tmp_path, head="knn", name="knn", parameters={}).runs[0]
    assert not together.trained_together(replace(knn, device="cuda"))


def test_a_group_fits_the_memory_that_the_device_has(
    source: Source, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan(source, split, tmp_path, parameters={"hidden": (84, 63, 42)}).runs[0]
    rows: Any = type("Rows", (), {"train": np.zeros((1, 4, 25088)), "val": np.zeros((0, 25088))})
    # Each takes 42 MB of weights and what belongs to them, and 15 MB for a batch.
    for free, most in ((0, 1), (2**30, 16), (2**33, 134)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device, free=free: (free, free))
        assert together._most(run, rows) == most


def test_what_torch_keeps_of_the_group_before_is_free(
    source: Source, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [(run, plan.folder_of(run)) for plan in plans(source, split, tmp_path) for run in plan.missing]
    rows: Any = type("Rows", (), {"train": np.zeros((2, 4, 512)), "val": np.zeros((0, 512))})
    kept = [0]
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2**30 - kept[0], 2**30))
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: kept.__setitem__(0, 0))
    sizes = []
    for group in together._groups(work, rows):
        sizes.append(len(group))
        kept[0] = 2**30
    assert sorted(sizes) == [2, 4]


@pytest.mark.parametrize("most", [1, 0])
def test_a_group_that_does_not_fit_after_all_is_halved(
    source: Source, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouped: list[list[str]], most: int
) -> None:
    from pipeline.heads import together as heads_together

    plain, sizes = heads_together.fit_together, []

    def short(heads: Any, *rows: Any, **options: Any) -> None:
        sizes.append(len(heads))
        if len(heads) > most:
            raise HeadValueError("There is not enough memory.") from torch.cuda.OutOfMemoryError("out of memory")
        plain(heads, *rows, **options)

    monkeypatch.setattr(heads_together, "fit_together", short)
    if most:
        fit(plans(source, split, tmp_path), source, split, Given())
        assert sizes == [2, 1, 1] * 3
        assert len(list(tmp_path.glob("*/seed-*"))) == 6
    else:
        with pytest.raises(HeadError, match="seed-0000 cannot be fitted: There is not enough memory"):
            fit(plans(source, split, tmp_path), source, split, Given())
        assert sizes == [2, 1]
