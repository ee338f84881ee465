"""The comparison in words: what is shown, what is noise, and what a terminal has room for."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.comparison import Comparison, Pair, compare
from pipeline.statistics import Components, Estimate
from pipeline.tables import show_comparison


@pytest.fixture(scope="module")
def result(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(shutil.copytree(fitted, tmp_path_factory.mktemp("compared") / "runs"))


def said(result: Comparison, width: int = 200) -> str:
    file = io.StringIO()
    show_comparison(result, Console(file=file, width=width))
    return file.getvalue()


def pair_of(result: Comparison, value: float, low: float, high: float, p: float, adjusted: float) -> Pair:
    found = Estimate(value, low, high, 0.01, p=p)
    return replace(result.pairs[0], first="mlp", second="knn", difference=found, adjusted=adjusted, detectable=0.028)


def test_a_difference_reads_as_a_sentence(result: Comparison) -> None:
    shown = said(replace(result, pairs=(pair_of(result, 0.021, 0.006, 0.037, 0.0041, 0.0041),)))
    assert "mlp beats knn by 2.1 points (0.6 to 3.7; p = 0.004; 2 and 1 seed, 6 images)" in shown
    assert "more than noise" in shown
    assert "within noise" not in shown


def test_noise_is_called_noise_and_what_would_be_seen_is_told(result: Comparison) -> None:
    shown = said(replace(result, pairs=(pair_of(result, 0.004, -0.01, 0.018, 0.6, 0.6),)))
    assert "mlp and knn are 0.4 points apart (-1.0 to 1.8; p = 0.60; 2 and 1 seed, 6 images): within noise; " in shown
    assert "seen here would be about 2.8 points" in shown


def test_what_only_the_correction_takes_is_said(result: Comparison) -> None:
    pairs = [pair_of(result, 0.02, 0.001, 0.039, 0.04, 0.08), pair_of(result, 0.0, -0.01, 0.01, 1.0, 1.0)]
    shown = said(replace(result, pairs=tuple(pairs)))
    assert "within noise, once corrected for 2 pairs;" in shown


def test_splits_and_small_p_values(result: Comparison) -> None:
    names = tuple(replace(one, splits=10, seeds=(0, 1, 2), deviation=Components(0.02, 0.01)) for one in result.names)
    pair = pair_of(result, 0.021, 0.006, 0.037, 1e-9, 2e-9)
    shown = said(replace(result, names=names, pairs=(pair,)))
    assert "p < 0.001; 10 splits with 3 seeds each, 6 images" in shown
    assert "± 0.0200" in shown
    assert "± 0.0100" in shown


def test_log_loss_is_not_in_points(result: Comparison) -> None:
    shown = said(replace(result, metric="log_loss", pairs=(pair_of(result, -0.034, -0.05, -0.018, 0.001, 0.001),)))
    assert "mlp beats knn by 0.034 (-0.050 to -0.018;" in shown


def test_of_very_many_pairs_those_of_the_best_are_shown(result: Comparison) -> None:
    other = pair_of(result, 0.0, -0.01, 0.01, 1.0, 1.0)
    best, last = (one.name for one in result.names)
    pairs = (replace(other, first=best, second=last), *(replace(other, first=last, second=last) for _ in range(15)))
    shown = said(replace(result, pairs=pairs))
    assert "of 16 pairs only those of the best are shown" in shown
    assert f"{last} and {last} are" not in shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_gets_whole_figures(result: Comparison, width: int) -> None:
    shown = said(result, width)
    assert "…" not in shown
    for standing in result.names:
        assert f"{standing.figure.value:.4f}" in shown
        assert f"{standing.figure.low:.3f} to {standing.figure.high:.3f}" in shown


def test_names_are_shown_as_they_are(result: Comparison) -> None:
    names = tuple(replace(one, name="[red]x[/red]\x1b[31m") for one in result.names)
    pair = replace(result.pairs[0], first=names[0].name, second=names[0].name)
    shown = said(replace(result, names=names, pairs=(pair,)))
    assert "[red]x[/red]" in shown
    assert "\x1b" not in shown
