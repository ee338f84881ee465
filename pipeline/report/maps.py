"""Features laid out on a plane, so that images which look alike to a base lie side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cache import FeatureCache, ManyheadsError
from pipeline.pixels import PIXELS
from pipeline.printable import printable
from pipeline.progress import Progress
from pipeline.report.answers import Answered, Answers
from pipeline.run import Run

LEAST = 4  # images that make a map
MOST = 5000  # images on one: t-SNE of more takes minutes, and dots would hide one another
MOST_BYTES = 2**28  # of features that are read for one
COMPONENTS = 50  # principal components that t-SNE starts from, as its authors do
PERPLEXITY = 30.0
SCALE = 1000  # the longer side of a map, in units of the drawing

Plane: TypeAlias = "npt.NDArray[np.float64]"


@dataclass(frozen=True)
class FeatureMap:
    """The features of one cache on a plane.

    Attributes:
        title: The base.
        names: Numbers of the names whose runs were fitted on these features.
        images: (n,) numbers of the images.
        layouts: How it was laid out -> (n, 2) places, 0 to `SCALE`, y downwards.
        note: What was left out, or why there is no map at all.
    """

    title: str
    names: tuple[int, ...]
    images: tuple[int, ...] = ()
    layouts: Mapping[str, Sequence[tuple[int, int]]] | None = None
    note: str = ""


def feature_maps(
    answered: Answered, cache: Path | None, progress: Progress
) -> tuple[tuple[FeatureMap, ...], dict[str, str]]:
    """Lay out the features that the runs were fitted on, one map for each cache.

    Args:
        answered: Which images there are, and which runs.
        cache: The feature cache, if it is no longer where the runs were fitted from.
        progress: Told what happens.

    Returns:
        The maps, and the digest of each image that is known to a cache.
    """
    groups: dict[tuple[str, str], list[Answers]] = {}
    for one in answered.answers:
        if one.run.recipe.base != PIXELS:
            groups.setdefault((str(cache or one.run.cache), one.run.recipe.digest), []).append(one)
    maps, digests = [], dict[str, str]()
    with progress.steps("laying out features", len(groups), "maps") as advance:
        for (folder, _), members in groups.items():
            run, names = members[0].run, tuple(sorted({one.name for one in members}))
            try:
                known = _known(Path(folder), run)
                digests |= known
                maps.append(_map(Path(folder), run, names, answered, members, known))
            except ManyheadsError as error:
                reason = printable(str(error))
                maps.append(FeatureMap(run.recipe.base, names, note=f"There is no map of these features: {reason}"))
            advance(1)
    return tuple(maps), digests


def _known(folder: Path, run: Run) -> dict[str, str]:
    """Return the digest of each image that a cache holds: by path, if it is the cache of the run.

    Raises:
        ManyheadsError: It is not, or no cache at all.
    """
    held = FeatureCache.open(folder)
    held.recipe.require_same(run.recipe, folder)
    return {entry.path: entry.digest for entry in held.index().entries}


def _map(
    folder: Path,
    run: Run,
    names: tuple[int, ...],
    answered: Answered,
    members: Sequence[Answers],
    digests: Mapping[str, str],
) -> FeatureMap:
    asked = sorted({number for one in members for number in one.images.tolist()})
    found = [number for number in asked if answered.paths[number] in digests]
    most = max(LEAST, min(MOST, MOST_BYTES // (4 * run.recipe.dimension)))
    chosen = found[:: -(-len(found) // most)] if found else []
    said = "" if len(chosen) == len(asked) else f"{len(chosen)} of {len(asked)} images are on the map."
    if len(chosen) < LEAST:
        return FeatureMap(run.recipe.base, names, note=f"{len(chosen)} images are too few for a map.")
    features = FeatureCache.open(folder).read([digests[answered.paths[number]] for number in chosen])
    layouts = {way: _scaled(plane) for way, plane in lay_out(features).items()}
    return FeatureMap(run.recipe.base, names, tuple(chosen), layouts, said)


def lay_out(features: npt.NDArray[np.floating]) -> dict[str, Plane]:
    """Lay out features on a plane in several ways.

    Args:
        features: (N, D), at least `LEAST` rows.

    Returns:
        Name of the way -> (N, 2) places.

    Source: principal components; L. van der Maaten, G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2579-2605, 2008.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = min(COMPONENTS, *features.shape)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    if not np.ptp(features, axis=0).any():
        return {"principal components": np.zeros((len(features), 2))}
    tsne: Callable[[Plane], Any] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform
    with threadpool_limits(1):  # the same features then give the same map, bit for bit
        solver = "full" if min(features.shape) <= 500 else "randomized"
        components = PCA(count, svd_solver=solver, random_state=0).fit_transform(features.astype(np.float64))
        components = np.pad(components, ((0, 0), (0, max(0, 2 - count))))
        return {"principal components": components[:, :2], "t-SNE": tsne(components)}


def _scaled(plane: Plane) -> list[tuple[int, int]]:
    """Fit places into the square of the drawing, with the same scale on both axes."""
    middle = (plane.max(0) + plane.min(0)) / 2
    reach = float(np.ptp(plane, axis=0).max()) or 1.0
    places = np.rint(((plane - middle) / reach * [1, -1] + 0.5) * SCALE).astype(int)
    return [(x, y) for x, y in places.tolist()]
