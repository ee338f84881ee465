"""The comparison in words: what is shown, what is noise, and what a terminal has room for."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.comparison import Comparison, compare
from pipeline.statistics import Components
from pipeline.tables import show_comparison
from tests.pipeline.pairs import made_pair


@pytest.fixture(scope="module")
def result(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(shutil.copytree(fitted, tmp_path_factory.mktemp("compared") / "runs"))


def said(result: Comparison, width: int = 200) -> str:
    file = io.StringIO()
    show_comparison(result, Console(file=file, width=width))
    return file.getvalue()


def test_a_difference_reads_as_a_sentence(result: Comparison) -> None:
    shown = said(replace(result, pairs=(made_pair((0.021, 0.006, 0.037), 0.0041),)))
    assert "mlp beats knn by 2.1 points (95 %: 0.6 to 3.7; p = 0.004; 2 and 1 seed, 6 images)" in shown
    assert "more than noise" in shown
    assert "within noise" not in shown


def test_noise_is_called_noise_and_what_would_be_seen_is_told(result: Comparison) -> None:
    shown = said(replace(result, pairs=(made_pair((0.004, -0.01, 0.018)),)))
    assert (
        "mlp and knn are 0.4 points apart (95 %: -1.0 to 1.8; p = 0.60; 2 and 1 seed, 6 images): within noise" in shown
    )
    assert "seen here would be about 2.8 points" in shown
    shown = said(replace(result, pairs=(made_pair((0.004, -0.9, 0.9), detectable=None),)))
    assert "here no difference would be seen" in shown
    assert "none" in shown


def test_what_only_the_correction_takes_is_said(result: Comparison) -> None:
    pairs = made_pair((0.02, 0.001, 0.039), 0.04, adjusted=0.08, tests=2), made_pair((0.0, -0.01, 0.01), tests=2)
    shown = said(replace(result, pairs=pairs))
    assert "p = 0.08 among 2 pairs; 2 and 1 seed, 6 images): within noise, once corrected for so many;" in shown


def test_splits_and_small_p_values(result: Comparison) -> None:
    names = tuple(replace(one, fits=(3,) * 10, deviation=Components(0.02, 0.01)) for one in result.names)
    pair = made_pair((0.021, 0.006, 0.037), 1e-9)
    shown = said(replace(result, names=names, pairs=(pair,)))
    assert "p < 0.001; 10 splits with 3 seeds each, 6 images" in shown
    assert "± 0.0200" in shown
    assert "± 0.0100" in shown
    uneven = tuple(replace(one, fits=(3, 1)) for one in result.names)
    shown = said(replace(result, names=uneven, pairs=(pair,)))
    assert "2 splits with 1 to 3 seeds each" in shown


def test_log_loss_is_not_in_points_and_its_difference_is_how_much_better_one_is(result: Comparison) -> None:
    shown = said(replace(result, metric="log_loss", pairs=(made_pair((0.034, 0.018, 0.05)),)))
    assert "mlp beats knn by 0.034 (95 %: 0.018 to 0.050;" in shown


def test_of_very_many_pairs_those_of_the_best_are_shown(result: Comparison) -> None:
    other = made_pair((0.0, -0.01, 0.01))
    best, last = (one.name for one in result.names)
    pairs = (replace(other, first=best, second=last), *(replace(other, first=last, second=last) for _ in range(15)))
    shown = said(replace(result, pairs=pairs))
    assert "of 16 pairs only those of the best are shown" in shown
    assert f"{last} and {last} are" not in shown


def test_a_long_name_leaves_room_for_figures(result: Comparison) -> None:
    names = tuple(replace(one, name="long" * 20) for one in result.names)
    pair = replace(made_pair((0.021, 0.006, 0.037)), first=names[0].name, second=names[1].name)
    shown = said(replace(result, names=names, pairs=(pair,)), 140)
    assert "more than noise" in shown
    assert "detectable" in shown


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
