"""What an extraction was asked for: the recipe that follows from it, and the cache of that recipe.

torch is imported only when the base itself is needed: whether a cache fits is mostly known without it.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cache import FeatureCache, NoRoom, Recipe
from cache.feature_cache import is_cache, require_free
from cache.lock import writing
from cache.recipe import mismatch
from pipeline.augmentation import AUGMENTATION, AUGMENTATION_VERSION
from pipeline.decode import DECODE_VERSION
from pipeline.progress import Progress
from pipeline.weights import WeightsSource
from pipeline.weights import fingerprint as weights_fingerprint

if TYPE_CHECKING:
    from pipeline.base import Base


class Order:
    """What was asked for; the base is loaded when it is first needed."""

    def __init__(
        self,
        base: str,
        weights: WeightsSource,
        transform_of: str | None,
        precision: str,
        store: str,
        device: str,
        backend: str = "torch",
    ) -> None:
        self.named = {"base": base, "precision": precision, "storage": store}
        self.weights = weights
        self.transform_of = transform_of
        self.device = device
        self.backend = backend
        self._base: Base | None = None

    def on(self, device: str) -> "Order":
        """Return the same order, for another device."""
        named = self.named
        return Order(
            named["base"], self.weights, self.transform_of, named["precision"], named["storage"], device, self.backend
        )

    def devices(self) -> list[str]:
        """Return every device that was asked for.

        Raises:
            BaseError: The machine has no such device.
        """
        from pipeline.base import choose_devices

        return choose_devices(self.device)

    def made_from(self) -> dict[str, str]:
        """Everything that determines the recipe and can be known without torch."""
        return {
            **self.named,
            "transform_of": self.transform_of or "the weights' own",
            "decoding": str(DECODE_VERSION),
            "views": str(AUGMENTATION_VERSION),
            **weights_fingerprint(self.weights, self.named["base"]),
        }

    def base(self, progress: Progress) -> "Base":
        """Load the base, once; on the first device if several were asked for."""
        if self._base is None:
            progress.note(f"loading {self.named['base']} with weights {self.weights}")
            with progress.steps("importing", 1, "torch") as advance:  # which takes seconds
                from torchvision import models  # noqa: F401 - what `load_base` imports, where it takes long

                advance(1)
            from pipeline.base import load_base

            self._base = load_base(
                self.named["base"],
                self.weights,
                transform_of=self.transform_of,
                precision=self.named["precision"],
                device=self.devices()[0],
                backend=self.backend,
                progress=progress,
            )
        return self._base

    def forget_base(self) -> None:
        """Let go of the base, which is loaded anew if it is needed again."""
        self._base = None

    def recipe(self, progress: Progress) -> Recipe:
        """Make the recipe; this loads the base."""
        base = self.base(progress)
        weights = str(Path(self.weights.detail).absolute()) if self.weights.kind == "file" else str(self.weights)
        return Recipe(
            base=base.name,
            weights_digest=base.weights_digest,
            transform=base.transform.as_dict(),
            decoding=DECODE_VERSION,
            dimension=base.dimension,
            views=AUGMENTATION.as_dict(),
            precision=self.named["precision"],
            storage=self.named["storage"],
            weights=weights,
        )


def open_cache(path: Path, order: Order, progress: Progress) -> FeatureCache:
    """Open or make the cache, and refuse one of another recipe; torch stays out where the answer is known."""
    if is_cache(path):
        held = FeatureCache.open(path)
        plain = {name: (getattr(held.recipe, name), asked) for name, asked in order.named.items()}
        differing = {name: pair for name, pair in plain.items() if pair[0] != pair[1]}
        if differing:
            raise mismatch(differing, path)
        if held.made_from == order.made_from():
            return held
        recipe = order.recipe(progress)
        held.recipe.require_same(recipe, path)
        with suppress(NoRoom):  # renewing what it was made from only spares the next extraction from loading torch
            return FeatureCache.create(path, recipe, order.made_from())
        return held
    require_free(path)
    recipe = order.recipe(progress)
    with writing(path, progress.note):
        return FeatureCache.create(path, recipe, order.made_from())
