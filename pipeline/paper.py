"""The paper's published figures, and what follows from how they were computed.

C. Iorga and V.-E. Neagoe, "A Deep CNN Approach with Transfer Learning for Image Recognition", ECAI 2019,
doi 10.1109/ECAI46879.2019.9042173.

Its accuracies are means over batch means, as the authors' public code shows: 13 batches of 16 images and one of 2, in
which an image weighs eight times as much. So they are multiples of 1/224, not of 1/210.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from statistics import fmean
from typing import Any

import numpy.typing as npt

DOI = "10.1109/ECAI46879.2019.9042173"
IMAGES = 210  # of validation, and as many of test: 10 of each of 21 classes
BATCH = 16
HALF = 0.00005  # a unit of the fourth decimal, the last that the paper prints


@dataclass(frozen=True)
class Published:
    """One row of the paper's Table III.

    Attributes:
        model: What was trained, in words.
        validation: Published accuracy on the validation images, a mean of batch means.
        test: The same on the test images.
        correct: Test images on the diagonal of the paper's own confusion matrix; None where it prints none.
    """

    model: str
    validation: float
    test: float
    correct: int | None

    @property
    def corrected(self) -> float | tuple[float, ...]:
        """Test accuracy as correct / total; without a confusion matrix, every one that the published figure allows.

        Raises:
            ValueError: The confusion matrix contradicts the published figure.
        """
        possible = possible_counts(self.test)
        if self.correct is None:
            return tuple(count / IMAGES for count in possible)
        if self.correct not in possible:
            raise ValueError(
                f"{self.model}: {self.correct} of {IMAGES} correct images never give {self.test:.4f} as a mean of "
                f"batch means; {', '.join(map(str, possible)) or 'no number'} would."
            )
        return self.correct / IMAGES


PRETRAINED = Published("VGG16 pretrained on ImageNet, frozen, with an MLP head", 0.9464, 0.8661, correct=187)
SCRATCH = Published("VGG16 of the same shape, trained from scratch", 0.4509, 0.4598, correct=89)
PIXEL_MLP = Published("MLP of three hidden layers on raw pixels", 0.3125, 0.3170, correct=None)
# Under the names that their runs have here.
TABLE_III: Mapping[str, Published] = {"pretrained": PRETRAINED, "scratch": SCRATCH, "pixel-mlp": PIXEL_MLP}


def mean_of_batch_means(correct: Sequence[bool] | npt.NDArray[Any], batch: int = BATCH) -> float:
    """Compute the metric that the paper published: the mean over batches of the accuracy within each.

    Args:
        correct: (N,) whether each image was named rightly, in the order in which the batches were filled; N > 0.
        batch: Images in a batch; the last one holds what is left over and counts as much as the others.
    """
    return fmean(fmean(correct[start : start + batch]) for start in range(0, len(correct), batch))


def possible_counts(published: float, images: int = IMAGES, batch: int = BATCH) -> tuple[int, ...]:
    """Return every number of correct images that gives a published figure as a mean of batch means.

    There are several where the last batch is smaller: it matters how many of the correct images lay in it.

    Args:
        published: The figure, taken to four decimals.
        images: Images in all, at least one.
        batch: Images in a batch.

    Returns:
        The numbers, smallest first; empty if no number gives that figure.
    """
    batches = ceil(images / batch)
    before = (batches - 1) * batch  # images in all batches but the last
    last = images - before
    shown = round(published, 4)
    found: set[int] = set()
    for right in range(last + 1):
        # A little more than half a digit on both sides: a figure on the edge may have been rounded either way.
        low, high = (batch * (batches * (shown + off) - right / last) for off in (-HALF, HALF))
        whole = range(max(0, ceil(low - 1e-6)), min(before, floor(high + 1e-6)) + 1)
        found.update(count + right for count in whole)
    return tuple(sorted(found))
