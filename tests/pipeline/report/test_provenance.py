"""The commands of a report give the same runs again."""

import shlex
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from cli import main
from pipeline.baselines import fit_mlp, fit_scratch
from pipeline.fitting import fit_head
from pipeline.outcomes import read_outcomes
from pipeline.progress import SILENT
from pipeline.report.provenance import commands, machines, made, versions
from pipeline.run import Run


def test_the_commands_repeat_the_runs(runs: Path, extracted: Path, tmp_path: Path) -> None:
    fit_head(extracted, runs, head="knn", name="splits", split="60/20/20", split_seed=3, resplits=2, jobs=1)
    options: dict[str, Any] = {"split": "60/20/20", "calibrate": True, "jobs": 1}
    for each in (4, 3):
        fit_head(extracted, runs, head="svm", name=f"few_per-class={each}", per_class=each, **options)
    outcomes = read_outcomes([runs], "test", None, None, SILENT)
    extract, *fits, report = commands(outcomes, "val")
    assert shlex.split(extract)[:4] == ["manyheads", "extract", *_places(outcomes[0].runs[0])]
    assert "--weights random:0" in extract
    assert report == "manyheads report RUNS --on val -o report.html"
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
