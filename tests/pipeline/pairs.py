"""Pairs of names whose difference is known."""

from pipeline.comparison import Pair
from pipeline.statistics import Difference


def made_pair(
    triple: tuple[float, float, float],
    p: float | None = None,
    *,
    adjusted: float | None = None,
    tests: int = 1,
    detectable: float | None = 0.028,
) -> Pair:
    """Make the pair mlp and knn; p follows from whether 0 is in the interval unless it is given."""
    value, low, high = triple
    p = (0.6 if low <= 0 <= high else 0.001) if p is None else p
    found = Difference(value, low, high, 0.01, p=p)
    return Pair("mlp", "knn", found, p if adjusted is None else adjusted, tests, detectable, "a test")
