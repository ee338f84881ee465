"""The ranking: what ties are called, and how it fits a terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.evaluation import evaluate
from pipeline.tables import show_evaluation
from tests.pipeline.pairs import made_pair


def console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=200), file


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ((0.0, -0.01, 0.01), "is level with best (95 %: -1.0 to 1.0;"),
        ((-0.0, 0.0, 0.0), "is level with best (95 %: 0.0 to 0.0;"),
        ((0.0004, -0.0004, 0.01), "is level with best (95 %: 0.0 to 1.0;"),
        ((0.021, 0.01, 0.03), "is 2.1 points behind best (95 %: 1.0 to 3.0;"),
    ],
)
def test_a_tie_is_called_level(runs: Path, behind: tuple[float, float, float], said: str) -> None:
    evaluation = evaluate(runs / "knn")
    best = replace(evaluation.names[0], name="best")
    where, file = console()
    show_evaluation(replace(evaluation, names=(best, replace(best, name="other", behind=made_pair(behind)))), where)
    assert said in file.getvalue()
    assert "-0.0" not in file.getvalue()
    assert file.getvalue().count("within noise") == (behind[1] <= 0 <= behind[2])


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_terminal_gets_fewer_columns_but_whole_figures(runs: Path, width: int) -> None:
    file = io.StringIO()
    result = evaluate(runs)
    show_evaluation(result, Console(file=file, width=width))
    said = file.getvalue()
    assert "…" not in said
    for summary in result.names:
        assert f"{summary.metrics['accuracy'].mean:.4f}" in said
        assert f"{summary.interval[0]:.3f} to {summary.interval[1]:.3f}" in said
    assert ("macro F1" in said, "log loss" in said) == (width > 80, width > 100)
