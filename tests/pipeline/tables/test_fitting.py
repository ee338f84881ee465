"""Fittings and grids in a terminal: what was done, what came of it, and what to type next."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.fitting import fit_head
from pipeline.grid import GridSearch, fit_grid
from pipeline.tables import show_fitting, show_grid

FIXED: dict[str, Any] = {"split": "60/20/20", "jobs": 1}


@pytest.fixture(scope="module")
def search(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> GridSearch:
    grid = {"lr": (1e-3, 1e-2), "hidden": ((84, 63, 42), (8,)), "dropout": (0.5,)}
    return fit_grid(extracted, tmp_path_factory.mktemp("grid"), grid, seeds=(0, 1), epochs=2, **FIXED)


def said(result: GridSearch, width: int) -> str:
    file = io.StringIO()
    show_grid(result, Console(file=file, width=width))
    return file.getvalue()


def test_what_was_fitted_and_what_was_kept(extracted: Path, tmp_path: Path) -> None:
    file = io.StringIO()
    for seeds in ((0, 1), (0, 1, 2)):
        show_fitting(fit_head(extracted, tmp_path, seeds=seeds, epochs=1, **FIXED), Console(file=file, width=200))
    text = file.getvalue()
    assert f"2 runs fitted, 0 kept, in {tmp_path / 'mlp'}" in text
    assert f"1 run fitted, 2 kept, in {tmp_path / 'mlp'}" in text
    assert "split: 60/20/20, seed 0 = 18/6/6 images." in text
    assert f"learning curves: {tmp_path / 'mlp' / 'learning-curves.png'}" in text
    assert f"next: manyheads evaluate {tmp_path}" in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_grid_fits_the_terminal_with_whole_figures_and_all_values(search: GridSearch, width: int) -> None:
    text = said(search, width)
    table = [line for line in text.splitlines() if line.startswith("│")]
    assert len(table) == len(search.candidates) == 4
    assert max(map(len, table)) <= width
    assert "…" not in text
    for line, candidate in zip(table, search.candidates, strict=True):
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        hidden = "-".join(map(str, candidate.values["hidden"]))
        assert cells[:3] == [str(candidate.values["lr"]), hidden, "0.5"]
        assert cells[3].startswith(f"{candidate.accuracy.mean:.4f}")
    assert ("log loss" in text.split("━")[0] + text.split("┡")[0]) == (width == 140)


def test_a_grid_says_what_it_did_not_look_at(search: GridSearch) -> None:
    text = said(search, 140)
    assert "validation, 6 images; test images were not looked at" in text
    assert "4 combinations, 2 seeds each: 8 runs fitted" in text
    assert "note: the features come from squeezenet1_1 with random weights" in text


def test_names_of_a_grid_are_escaped(search: GridSearch) -> None:
    hostile = "[b]\x1b[31m"
    candidates = tuple(replace(one, values={hostile: hostile}) for one in search.candidates)
    text = said(replace(search, candidates=candidates), 140)
    assert "\x1b" not in text
    assert r"[b]\x1b[31m" in text
