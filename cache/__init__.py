"""The feature cache: HDF5 and NumPy, and nothing of torch, so that anyone can read a cache.

`FeatureCache.open(folder)` reads one; `index.h5` inside it opens with plain h5py just as well.
"""

from cache.errors import CacheError, ManyheadsError, NoRoom, RecipeMismatch
from cache.feature_cache import FeatureCache
from cache.index import Entry, Index
from cache.recipe import Recipe

__all__ = [
    "CacheError",
    "Entry",
    "FeatureCache",
    "Index",
    "ManyheadsError",
    "NoRoom",
    "Recipe",
    "RecipeMismatch",
]
