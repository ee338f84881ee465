"""The feature cache: HDF5 and NumPy, and nothing of torch, so that anyone can read a cache.

`FeatureCache.open(folder)` reads one; `index.h5` inside it opens with plain h5py just as well. A name is imported when
it is first used: the command line reports errors of this package without loading HDF5.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.errors import CacheError as CacheError
    from cache.errors import ManyheadsError as ManyheadsError
    from cache.errors import NoRoom as NoRoom
    from cache.errors import RecipeMismatch as RecipeMismatch
    from cache.feature_cache import FeatureCache as FeatureCache
    from cache.index import Entry as Entry
    from cache.index import Index as Index
    from cache.recipe import Recipe as Recipe

_HOMES = {
    "CacheError": "cache.errors",
    "Entry": "cache.index",
    "FeatureCache": "cache.feature_cache",
    "Index": "cache.index",
    "ManyheadsError": "cache.errors",
    "NoRoom": "cache.errors",
    "Recipe": "cache.recipe",
    "RecipeMismatch": "cache.errors",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cache' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
