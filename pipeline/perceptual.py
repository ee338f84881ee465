"""How alike two pictures are: to a base, by the angle between their features, and to the eye, by their details.

The latter is a correlation, turned, mirrored and shifted as fits best. Details are a small grey thumbnail whose spatial
frequencies have been brought to one strength (whitened), as in phase correlation (Kuglin and Hines, The phase
correlation image alignment method, 1975). Brightness, contrast, colour and compression hardly change them. Without it,
any two stretches of straight road, or of rows of plants, would be alike.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 64  # pixels of a thumbnail
FINE, COARSE = 1.0, 5.0  # standard deviations, in its pixels, of the two blurs between which details lie
SMOOTH = 1.0  # standard deviation of the blur of the spectrum by which it is divided, in its steps
LEAST = 1e-3  # of the strongest frequency: a weaker one is not brought up all the way
# Tiles that were cut from one large picture overlap as they lie; copies that were turned or mirrored are whole.
OVERLAP, OVERLAP_TURNED = 0.3, 0.8  # share of both pictures that a shift must leave in common
POOR = 0.8  # share of a picture's mean energy that any overlap counts with at least
FAINT = 1.0  # grey levels: a picture that varies less has no details but noise
TOGETHER = 32  # pictures that one is compared with at once
BLOCK = 2**24  # cosines in memory at once: 64 MB

Thumbnails = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float32]


def centred(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return features (N, D) less their mean, at length 1, so that a product of two rows is the cosine between them.

    What all images of a set have in common would else make the features of an untrained base all alike.
    """
    rows = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(rows)


def neighbours(
    rows: npt.NDArray[np.float32], count: int, block: int = BLOCK
) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Find the nearest neighbours of every row by the cosine, some rows at a time.

    Args:
        rows: (N, D) of length 1, as `centred` makes them.
        count: How many of each, at most N - 1.
        block: Similarities that may be in memory at once.

    Yields:
        The number of the first row of a piece, and the neighbours (n, count) of its rows, in any order.
    """
    count = min(count, len(rows) - 1)
    for start in range(0, len(rows), step := max(1, block // len(rows))):
        cosines = rows[start : start + step] @ rows.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        yield start, np.argpartition(-cosines, count - 1, axis=1)[:, :count]


def thumbnail(image: Image.Image) -> Thumbnails:
    """Return a picture in grey, (SIDE, SIDE), whatever its size and shape."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def details(thumbnails: Thumbnails) -> Numbers:
    """Return the details of thumbnails (n, SIDE, SIDE): as many, each with a mean square of 1, or 0 if it has none."""
    from scipy.fft import fft2, fftfreq, ifft2
    from scipy.ndimage import gaussian_filter

    squares = (2 * np.pi * fftfreq(SIDE)) ** 2
    squares = squares[:, None] + squares
    band = np.exp(-squares * FINE**2 / 2) - np.exp(-squares * COARSE**2 / 2)
    spectra = band * fft2(thumbnails.astype(np.float64))
    strength = np.sqrt(gaussian_filter(np.abs(spectra) ** 2, (0, SMOOTH, SMOOTH), mode="wrap"))
    strongest = strength.max(axis=(1, 2), keepdims=True)
    evened = ifft2(band * spectra / np.maximum(strength + LEAST * strongest, np.finfo(float).tiny)).real
    evened /= np.sqrt(np.maximum((evened**2).mean(axis=(1, 2), keepdims=True), np.finfo(float).tiny))
    varied = np.sqrt((np.abs(spectra) ** 2).sum(axis=(1, 2))) / SIDE**2  # grey levels, by Parseval's theorem
    evened[varied < FAINT] = 0
    return np.asarray(evened, dtype=np.float32)


def resemblance(picture: Numbers, others: Numbers) -> Numbers:
    """Compare a picture with others by their details.

    The measure is the highest correlation over the eight turns and mirrorings of one picture, and over all shifts that
    leave `OVERLAP` of both in common (`OVERLAP_TURNED` once it is turned or mirrored), each taken where the two then
    overlap. An overlap that is poor in detail counts as if it had `POOR` of its picture's, so that two empty corners
    which agree by chance are no likeness.

    Args:
        picture: Details of one picture, (SIDE, SIDE).
        others: Details of those that it is compared with, (n, SIDE, SIDE).

    Returns:
        (n,) numbers from 0 to 1: 1 for a picture and itself, turned or mirrored; 0 where there is no detail. Which of
        two is the picture, and which one of the others, makes no difference.
    """
    best = np.zeros(len(others), np.float32)
    turns = _turns(picture)
    for start in range(0, len(others), TOGETHER):
        block = slice(start, start + TOGETHER)
        energy = _sums(others[block])
        for overlap, turned in ((OVERLAP, turns[:1]), (OVERLAP_TURNED, turns[1:])):
            best[block] = np.maximum(best[block], _best(turned, others[block], energy, overlap))
    return np.asarray(np.minimum(best, np.float32(1)))


def _best(turned: Numbers, others: Numbers, energy: npt.NDArray[np.float64], overlap: float) -> Numbers:
    """Return the highest correlation (n,) of any of the turned pictures with each of the others."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    down, across = _shifts(overlap)
    # Room for what a shift pushes out at one side, so that it does not come in at the other.
    size = (next_fast_len(SIDE + int(down.max()), real=True),) * 2
    spectra = np.conj(rfft2(others, size))
    lengths, own = np.sqrt(_energy(energy, -down, -across)), np.sqrt(_energy(_sums(turned), down, across))
    best = np.zeros(len(others), np.float32)
    for spectrum, length in zip(rfft2(turned, size), own, strict=True):
        product, norm = irfft2(spectrum * spectra, size)[:, down, across], length * lengths
        best = np.maximum(best, np.divide(product, norm, out=np.zeros_like(product), where=norm > 0).max(axis=1))
    return best


def _turns(picture: Numbers) -> Numbers:
    """Return a picture as it is, then turned and mirrored, (8, SIDE, SIDE)."""
    return np.stack([np.rot90(one, quarter) for one in (picture, picture[:, ::-1]) for quarter in range(4)])


@cache
def _shifts(overlap: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the shifts that leave so much in common: pixels down, and pixels to the right."""
    reach = np.arange(1 - SIDE, SIDE)
    left = SIDE - np.abs(reach)
    rows, columns = np.nonzero(np.outer(left, left) >= overlap * SIDE**2)
    return reach[rows], reach[columns]


def _sums(pictures: Numbers) -> npt.NDArray[np.float64]:
    """Sum the squares of each picture above and left of every corner of a pixel, (n, SIDE + 1, SIDE + 1)."""
    sums = np.zeros((len(pictures), SIDE + 1, SIDE + 1), np.float64)
    np.cumsum(np.cumsum(pictures.astype(np.float64) ** 2, axis=1), axis=2, out=sums[:, 1:, 1:])
    return sums


def _energy(sums: npt.NDArray[np.float64], down: npt.NDArray[np.intp], across: npt.NDArray[np.intp]) -> Numbers:
    """Sum the squares of each picture, of which `_sums` are given, where another that is shifted so overlaps it."""
    top, bottom = np.maximum(down, 0), SIDE + np.minimum(down, 0)
    left, right = np.maximum(across, 0), SIDE + np.minimum(across, 0)
    inside = sums[:, bottom, right] - sums[:, top, right] - sums[:, bottom, left] + sums[:, top, left]
    least = POOR * (bottom - top) * (right - left) / SIDE**2 * sums[:, -1, -1:]
    return np.asarray(np.maximum(inside, least), dtype=np.float32)
