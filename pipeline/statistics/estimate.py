"""A figure and a difference of two, with what is known of their noise."""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

LEVEL = 0.05  # of tests; intervals hold the rest
POWER = 0.8  # with which a detectable difference is detected
DUST = 1e-9  # of a difference: an error below it is that of rounding

Floats: TypeAlias = "npt.NDArray[np.float64]"
_AnyDifference = TypeVar("_AnyDifference", bound="Difference")


@dataclass(frozen=True)
class Estimate:
    """A figure, and what is known of its noise.

    Attributes:
        value: The figure.
        low: Lower end of its 95 % interval.
        high: Upper end.
        error: Standard error.
        freedom: Degrees of freedom of Student's distribution that it belongs to; None for the normal one.
    """

    value: float
    low: float
    high: float
    error: float
    freedom: float | None = None

    @property
    def triple(self) -> tuple[float, float, float]:
        """The figure and both ends."""
        return self.value, self.low, self.high


@dataclass(frozen=True)
class Difference(Estimate):
    """How far two figures are apart.

    Its interval leaves out 0 just when its p-value is below 5 %.

    Attributes:
        p: Two-sided p-value of the hypothesis that there is no difference.
        bounded: Whether the figures are shares, so that no difference is larger than 1.
        least: What p cannot be below with so few images.
    """

    p: float = 1.0
    bounded: bool = True
    least: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether it is more than noise, were it the only one that is looked at."""
        return self.p < LEVEL

    def turned(self: _AnyDifference) -> _AnyDifference:
        """Return the difference as the other side sees it."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def detectable(self, tests: int = 1) -> float | None:
        """Return the smallest true difference that would be seen four times in five, with noise as it is here.

        Args:
            tests: How many p-values are corrected together.

        Returns:
            The difference; None if none could be seen.
        """
        if self.least >= LEVEL / tests or self.error <= DUST * abs(self.value):
            return None
        found = (quantile(self.freedom, LEVEL / tests / 2) + quantile(self.freedom, 1 - POWER)) * self.error
        return None if self.bounded and found > 1 else found


def quantile(freedom: float | None, above: float) -> float:
    """Return what Student's distribution exceeds with probability `above`; the normal one's without a freedom."""
    from scipy.stats import t

    return float(t.isf(above, freedom or math.inf))


def t_test(
    value: float,
    error: float,
    freedom: float | None,
    *,
    bounded: bool,
    telling: float = math.inf,
    images: float = math.inf,
) -> Difference:
    """Test a difference against 0 with Student's t, and give it the interval that belongs to the test.

    Args:
        value: The difference.
        error: Its standard error.
        freedom: Degrees of freedom; None for the normal distribution.
        bounded: See `Difference`.
        telling: Images that tell the sides apart.
        images: All images.
    """
    from scipy.stats import t

    least = 2 * 0.5**telling
    known = error > DUST * abs(value)  # where nothing varies, nothing is known of noise
    p = min(max(2 * float(t.sf(abs(value) / error, freedom or math.inf)), least), 1.0) if known else 1.0
    reach = quantile(freedom, LEVEL / 2) * error
    if p >= LEVEL:
        reach = max(reach, abs(value))
    most = 1.0 if bounded else math.inf
    return Difference(
        value, max(value - reach, -most), min(value + reach, most), error, freedom, p, bounded, 2 * 0.5**images
    )
