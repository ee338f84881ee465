"""The ranking as a picture: every name, whatever it is called, and what is noise in grey."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.figures import Rank, draw_ranking, ranking_figure
from pipeline.figures.canvas import WRONG


def rank(name: str, behind: tuple[float, float, float] | None = None, shown: bool = False) -> Rank:
    return Rank(name, 0.9, 0.87, 0.93, (0.89, 0.91), behind, shown)


def test_intervals_stand_where_their_figures_are() -> None:
    ranks = [rank("best"), rank("near", (0.01, -0.01, 0.03)), rank("far", (0.05, 0.03, 0.07), True)]
    left, right = ranking_figure(ranks, "accuracy", "title").axes
    spans = [np.sort(np.asarray(line.get_xdata(), float)) for line in left.lines]
    assert [span.tolist() for span in spans if len(span) == 2] == [[0.87, 0.93]] * 3
    lines = [line for line in right.lines if len(np.unique(np.asarray(line.get_xdata(), float))) == 2]
    ends = [np.sort(np.asarray(line.get_xdata(), float)).tolist() for line in lines]
    assert ends == [pytest.approx([-3, 1]), pytest.approx([-7, -3])]
    assert [line.get_color() == WRONG for line in lines] == [False, True]
    assert left.get_ylim() == (2.5, -0.5)


def test_very_many_names_are_cut_and_any_name_is_drawn(tmp_path: Path) -> None:
    ranks = [rank("best"), *(rank(f"$x^{number}$ " + "long " * 40, (0.01, 0.0, 0.02)) for number in range(80))]
    file = draw_ranking(ranks, "accuracy", "title $y", tmp_path / "ranking.png")
    texts = [text.get_text() for text in ranking_figure(ranks, "accuracy", "title").texts]
    assert any("21 names further behind are not shown" in text.replace("\n", " ") for text in texts)
    before = file.stat().st_mtime_ns
    draw_ranking(ranks, "accuracy", "title $y", file)
    assert file.stat().st_mtime_ns == before
    draw_ranking(ranks[:2], "accuracy", "title $y", file)
    assert file.stat().st_mtime_ns > before
    assert file.with_suffix(".svg").exists()


def test_dots_are_explained_where_there_are_any() -> None:
    for ranks, dots in (([rank("best")], True), ([replace(rank("best"), runs=(0.9,))], False)):
        note = " ".join(text.get_text().replace("\n", " ") for text in ranking_figure(ranks, "accuracy", "").texts)
        assert ("a dot for each run" in note) == dots
        assert "not corrected: a grey one may leave out 0" in note
