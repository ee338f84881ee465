"""The commands of a report give the same runs again."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cache import FeatureCache
from cache.shard import held_views
from cli import main
from pipeline.baselines import fit_mlp, fit_scratch
from pipeline.extraction import extract
from pipeline.fitting import fit_head
from pipeline.outcomes import read_outcomes
from pipeline.progress import SILENT
from pipeline.report.provenance import commands, machines, made, versions
from pipeline.run import Run


def test_the_commands_repeat_the_runs(runs: Path, extracted: Path, tmp_path: Path) -> None:
    fit_head(extracted, runs, head="knn", name="splits", split="60/20/20", split_seed=3, resplits=2, jobs=1)
    options: dict[str, Any] = {"split": "60/20/20", "calibrate": True, "jobs": 1}
    fit_head(extracted, runs, head="svm", name="few", **options)  # beside the sizes of the same name
    for each in (4, 3):
        fit_head(extracted, runs, head="svm", name=f"few_per-class={each}", per_class=each, **options)
    # Of a split that no seed drew, one drew the training images.
    entries, parts = FeatureCache.open(extracted).index().entries, ("test", "val", "train", "train")
    lines = [f"{entry.path},{entry.label},{parts[row % 4]}" for row, entry in enumerate(entries)]
    (tmp_path / "split.csv").write_text("\n".join(["path,label,split", *lines]))
    lone: dict[str, Any] = {"split": tmp_path / "split.csv", "split_seed": 3, "per_class": 2, "jobs": 1}
    fit_head(extracted, runs, head="knn", name="lone_per-class=2", **lone)
    outcomes = read_outcomes([runs], "test", None, None, SILENT)
    first, *fits, report = commands(outcomes, "val")
    assert shlex.split(first)[:4] == ["manyheads", "extract", *_places(outcomes[0].runs[0])]
    assert "--weights random:0" in first
    assert report == "manyheads report RUNS --on val -o report.html"
    repeat_extraction(first, outcomes[0].runs[0], tmp_path / "cache")
    assert len(fits) == len(outcomes) - 1  # two sizes in one command
    for line in fits:
        words = [str(tmp_path / "again") if word == "RUNS" else word for word in shlex.split(line)]
        done = CliRunner().invoke(main, [*words[1:], "--jobs", "1", "--quiet"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    for outcome in outcomes:
        for run in outcome.runs:
            again = Run.read(tmp_path / "again" / run.path.relative_to(runs))
            run.require_same(again)
            if run.head == "mlp":  # a file of scikit-learn holds the time at which it was written
                assert again.model == run.model


def repeat_extraction(line: str, run: Run, place: Path) -> None:
    """Run a printed `extract` into another place; recipe, images and their views must be those of the run's cache."""
    words = [str(place) if word == run.cache else word for word in shlex.split(line)]
    done = CliRunner().invoke(main, [*words[1:], "--device", "cpu", "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    cache, again = FeatureCache.open(run.cache), FeatureCache.open(place)
    assert again.recipe.digest == cache.recipe.digest == run.recipe.digest
    assert again.index().entries == cache.index().entries
    assert held_views(again.shards()) == held_views(cache.shards())


def test_the_commands_extract_the_same_views(drawn: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"base": "mobilenet_v2", "weights": "random:3", "store": "float16", "device": "cpu"}
    drawing: dict[str, Any] = {"split": "60/20/20", "split_seed": 1}
    extract(drawn, tmp_path / "cache", transform_of="IMAGENET1K_V2", views=2, **drawing, **asked)
    fit_head(tmp_path / "cache", tmp_path / "runs", head="knn", jobs=1, **drawing)
    fit_head(tmp_path / "cache", tmp_path / "runs", seeds=(0,), epochs=1, use_views=2, jobs=1, **drawing)
    outcomes = read_outcomes([tmp_path / "runs"], "test", None, None, SILENT)
    once, *others = commands(outcomes, "test")
    assert not any(line.startswith("manyheads extract") for line in others)
    repeat_extraction(once, outcomes[0].runs[0], tmp_path / "again")
    shutil.rmtree(tmp_path / "cache")
    assert commands(outcomes, "test") == [once.replace(" --transform-of IMAGENET1K_V2", ""), *others]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["paper"], "paper"),
        (["80/10/10, seed 2"], "80/10/10, seed 2"),
        (["80/10/10, seed 0", "80/10/10, seed 1", "80/10/10, seed 2"], "3 splits of 80/10/10, seeds 0 to 2"),
        (["80/10/10, seed 0", "80/10/10, seed 3"], "2 splits of 80/10/10, seeds 0,3"),
        (
            [f"80/10/10, seed {n}, 5 training images of each class" for n in (0, 1)],
            "2 splits of 80/10/10, seeds 0 to 1",
        ),
        (["80/10/10, seed 0", "60/20/20, seed 1"], "80/10/10, seed 0; 60/20/20, seed 1"),
    ],
)
def test_several_splits_are_told_in_short(runs: Path, texts: list[str], said: str) -> None:
    outcome = next(one for one in read_outcomes([runs], "test", None, None, SILENT) if one.name == "knn")
    (trial,) = outcome.trials
    trials = tuple(replace(trial, runs=(replace(trial.runs[0], split=text),)) for text in texts)
    few = ", 5 training images of each class" if "5 training" in texts[0] else ""
    assert made(replace(outcome, trials=trials)).split == said + few


def _places(run: Run) -> list[str]:
    return [run.image_set, run.cache]


def test_baselines_are_repeated_from_their_images(drawn: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"image_size": 32, "split": "60/20/20", "epochs": 1}
    fit_mlp(drawn, tmp_path / "runs", seeds=(3,), hidden=(8,), use_views=2, jobs=1, **options)
    fit_scratch(drawn, tmp_path / "runs", batch_size=8, augment="none", device="cpu", **options)
    outcomes = read_outcomes([tmp_path / "runs"], "test", None, None, SILENT)
    *fits, _ = commands(outcomes, "test")
    assert {line.split()[1] for line in fits} == {"fit-mlp", "fit-scratch"}
    for line in fits:
        words = [str(tmp_path / "again") if word == "RUNS" else word for word in shlex.split(line)]
        done = CliRunner().invoke(main, [*words[1:], "--quiet"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    for outcome in outcomes:
        for run in outcome.runs:
            run.require_same(Run.read(tmp_path / "again" / run.path.relative_to(tmp_path / "runs")))


def test_how_runs_came_about(runs: Path) -> None:
    outcomes = read_outcomes([runs], "test", None, None, SILENT)
    told = {outcome.name: made(outcome) for outcome in outcomes}
    assert told["mlp"].seeds == "0-1"
    assert told["knn"].seeds == "no influence"
    assert told["mlp"].split == "60/20/20, seed 0"
    assert "epochs 3" in told["mlp"].head
    assert told["mlp"].where == outcomes[0].runs[0].cache
    assert len(machines(outcomes)) == len(versions(outcomes)) == 1
    assert "numpy" in versions(outcomes)[0]
