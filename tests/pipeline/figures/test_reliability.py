"""The reliability diagram: bars where the bins are, whatever is empty."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pipeline.calibration import BINS, reliability
from pipeline.figures import draw_reliability, reliability_figure


def test_bars_are_the_bins_and_reach_from_accuracy_to_confidence(tmp_path: Path) -> None:
    found = reliability(np.array([0.95, 0.97, 0.5, 0.5, 0.51]), np.array([True, False, True, True, False]))
    upper, lower = reliability_figure(found, "title $x").axes
    bars = [patch for patch in upper.patches if isinstance(patch, Rectangle)]
    right, apart = bars[: len(bars) // 2], bars[len(bars) // 2 :]
    assert [bar.get_height() for bar in right] == pytest.approx([2 / 3, 0.5])
    assert [bar.get_y() + bar.get_height() for bar in apart] == pytest.approx([0.5033, 0.96], abs=1e-3)
    counts = [patch.get_height() for patch in lower.patches if isinstance(patch, Rectangle)]
    assert len(counts) == BINS
    assert sum(counts) == 5
    file = draw_reliability(found, "title $x", tmp_path / "reliability.png")
    before = file.stat().st_mtime_ns
    assert draw_reliability(found, "title $x", file).stat().st_mtime_ns == before
    assert file.with_suffix(".svg").exists()


def test_an_error_of_several_runs_says_so(tmp_path: Path) -> None:
    found = reliability(np.array([0.95, 0.97, 0.5]), np.array([True, False, True]))
    words = [reliability_figure(found, "title", runs).axes[0].texts[0].get_text() for runs in (1, 2)]
    assert words == [f"ECE {found.error:.4f}", f"ECE of all runs together {found.error:.4f}"]
    file = draw_reliability(found, "title", tmp_path / "reliability.png")
    before = file.stat().st_mtime_ns
    assert draw_reliability(found, "title", file, runs=2).stat().st_mtime_ns > before
