"""Intervals and tests: which difference of two figures is more than noise, and how large one must be to be seen.

What is tested, why so, and what was measured about it is told in docs/statistics.md.
"""

from pipeline.statistics.crossed import Measure, crossed_difference, crossed_mean
from pipeline.statistics.estimate import LEVEL, Difference, Estimate, Floats
from pipeline.statistics.families import against_best, holm
from pipeline.statistics.proportions import paired_proportions, proportion
from pipeline.statistics.splits import Components, components, resampled_difference, resampled_mean

__all__ = [
    "LEVEL",
    "Components",
    "Difference",
    "Estimate",
    "Floats",
    "Measure",
    "against_best",
    "components",
    "crossed_difference",
    "crossed_mean",
    "holm",
    "paired_proportions",
    "proportion",
    "resampled_difference",
    "resampled_mean",
]
