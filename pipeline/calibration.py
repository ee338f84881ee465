"""Whether probabilities mean what they say, and temperature scaling, which mends them without changing a class.

Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15  # of confidence, equally wide, as in the paper
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are looked at
LEAST = float(np.finfo(np.float64).eps)  # below it a probability counts as this, as in scikit-learn's log loss


@dataclass(frozen=True)
class Reliability:
    """How often images are named rightly, by how sure of it the head was.

    Attributes:
        images: (B,) images in each bin of confidence, from 0 to 1.
        confidence: (B,) their mean probability of the class that was named; NaN in an empty bin.
        accuracy: (B,) share that was named rightly; NaN in an empty bin.
    """

    images: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of confidence and accuracy over all images."""
        held = self.images > 0
        apart = np.abs(self.confidence[held] - self.accuracy[held])
        return float((apart * self.images[held]).sum() / self.images.sum())


def reliability(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> Reliability:
    """Sort images into bins of confidence.

    Args:
        confidence: (N,) probability of the class that was named.
        correct: (N,) whether it was the right one.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    images, sure, right = (
        np.bincount(bins, weights=some, minlength=BINS) for some in (None, confidence, correct.astype(np.float64))
    )
    with np.errstate(invalid="ignore"):
        return Reliability(images.astype(np.int64), sure / images, right / images)


def fitted_temperature(probabilities: npt.NDArray[np.float64], codes: npt.NDArray[np.integer]) -> float:
    """Return the temperature at which the log loss is lowest; above 1 where a head is too sure.

    Args:
        probabilities: (N, C) of the validation part.
        codes: (N,) columns of the true classes.
    """
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(probabilities, LEAST))

    def loss(heat: float) -> float:
        scores = logs / np.exp(heat)
        return float((np.logaddexp.reduce(scores, 1) - scores[np.arange(len(codes)), codes]).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def at_temperature(probabilities: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Make probabilities (N, C) less sure, with a temperature above 1, or more so; their order stays."""
    if temperature == 1:
        return probabilities
    # Over the largest, which is then 1: no power of small numbers leaves nothing.
    scaled = (probabilities / probabilities.max(axis=1, keepdims=True)) ** (1 / temperature)
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))
