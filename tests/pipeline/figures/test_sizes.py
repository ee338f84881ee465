"""Accuracy by size: an interval at each of them, even if there is but one."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from pipeline.figures import sizes_figure

POINTS = [(5, 0.8, 0.75, 0.85, (0.79, 0.81)), (10, 0.9, 0.87, 0.93, (0.9,))]


@pytest.mark.parametrize("count", [1, 2])
def test_every_size_has_its_interval(count: int) -> None:
    (axes,) = sizes_figure(POINTS[:count], "title $x").axes
    (lines,) = (one for one in axes.collections if isinstance(one, LineCollection))
    drawn = [np.asarray(line).tolist() for line in lines.get_segments()]
    assert drawn == [[[size, low], [size, high]] for size, _, low, high, _ in POINTS[:count]]
    low, high = axes.get_ylim()
    assert low < 0.75
    assert high > 0.85
