"""Labels that may be wrong, by what models say of images that they were not trained on.

Source: C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal
of Artificial Intelligence Research 70, 2021.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.progress import Progress

DIMENSION = 256  # components of features that the labels are judged by
STRENGTH = 100.0  # C of the logistic regression, on features whose mean squared length is 1
FOLDS = 5
NAMED = 3  # classes that a note names


@dataclass(frozen=True)
class Audited:
    """One image as the audit speaks of it; `part` is `train`, `val`, `test` or `unused`."""

    path: str
    label: str
    part: str


@dataclass(frozen=True)
class DoubtfulLabel:
    """An image whose label may be wrong.

    Attributes:
        image: Which.
        suggested: The class that it more likely shows.
        probability: Of its own label, from a model that was not trained on it.
        suggested_probability: Of the suggested one.
    """

    image: Audited
    suggested: str
    probability: float
    suggested_probability: float


def doubtful_labels(
    audited: Sequence[Audited], features: npt.NDArray[np.float32], progress: Progress
) -> tuple[list[DoubtfulLabel], float | None, list[str]]:
    """Judge every label by a model that was not trained on it.

    Args:
        audited: N images.
        features: (N, D).
        progress: Told what happens.

    Returns:
        Doubtful labels, the most doubtful first; the share of images whose label is the likeliest class, None if none
        was judged; and what the user should know.
    """
    labels = np.array([image.label for image in audited], dtype=object)
    names, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes)
    alone = counts < 2
    notes = []
    if alone.any():
        single = ", ".join(str(name) for name in names[alone][:NAMED])
        more = f" and {alone.sum() - NAMED} more" if alone.sum() > NAMED else ""
        notes.append(f"labels of classes with a single image cannot be judged: {single}{more}")
    if (~alone).sum() < 2:
        return [], None, [*notes, "there are not two classes with two images or more: no label was judged"]
    judged = np.nonzero(~alone[codes])[0]
    kept, codes = np.unique(codes[judged], return_inverse=True)
    with progress.steps("judging labels", len(judged), "images") as advance:
        probabilities = out_of_sample(features[judged] if alone.any() else features, codes, advance)
    suggested = suggestions(probabilities, codes)
    found = [
        DoubtfulLabel(audited[row], str(names[kept[other]]), float(chances[own]), float(chances[other]))
        for row, own, other, chances in zip(
            judged.tolist(), codes.tolist(), suggested.tolist(), probabilities, strict=True
        )
        if own != other
    ]
    found.sort(key=lambda one: (one.probability - one.suggested_probability, one.image.path))
    return found, float((probabilities.argmax(axis=1) == codes).mean()), notes


def out_of_sample(
    features: npt.NDArray[np.float32], codes: npt.NDArray[np.intp], advance: Callable[[int], None]
) -> npt.NDArray[np.float64]:
    """Return the probability of every class (N, C) for each image, from models that were not trained on it.

    Standardised features, of which at most `DIMENSION` principal components are kept, go into a logistic regression
    with cross-validation; neither of the first two looks at labels.

    Args:
        features: (N, D).
        codes: Class of each row, 0 to C - 1, each at least twice.
        advance: Told of how many more images the probabilities are known.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(codes).max())), shuffle=True, random_state=0)
    model = LogisticRegression(C=STRENGTH, max_iter=1000)
    probabilities = np.empty((len(codes), codes.max() + 1))
    with threadpool_limits(1), warnings.catch_warnings():  # the same features then give the same doubts, bit for bit
        # A class with fewer images than folds has at most one in each, so that every model is trained on it.
        warnings.filterwarnings("ignore", "The least populated class")
        rows = StandardScaler().fit_transform(features)
        if min(rows.shape) > DIMENSION:
            rows = PCA(DIMENSION, svd_solver="randomized", random_state=0).fit_transform(rows)
        length = np.sqrt((rows**2).sum(axis=1).mean())
        rows /= length if length > 0 else 1
        for trained, judged in folds.split(rows, codes):
            probabilities[judged] = model.fit(rows[trained], codes[trained]).predict_proba(rows[judged])
            advance(len(judged))
    return probabilities


def suggestions(probabilities: npt.NDArray[np.float64], codes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the class (N,) that confident learning takes each image for; its own label where there is no doubt.

    A class is considered for an image if its probability (N, C) reaches the mean that it has over the images labelled
    so. Of those considered the likeliest is taken, if it is likelier than the own label.
    """
    means = np.array([probabilities[codes == code, code].mean() for code in range(probabilities.shape[1])])
    considered = np.where(probabilities >= means, probabilities, -1.0)
    rows = np.arange(len(codes))
    best = considered.argmax(axis=1)
    return np.where(considered[rows, best] > probabilities[rows, codes], best, codes)
