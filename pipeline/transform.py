"""The evaluation transform: how an RGB picture becomes a base's input.

torch is imported by the functions that need it, never by importing this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from pipeline.errors import UnreadableImage
from pipeline.weights import WeightsSource, entries, entry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """How an image becomes a network's input: resize the short side, crop the centre, scale, normalise.

    Args:
        resize_size: Short side after resizing, in pixels.
        crop_size: Side of the centre crop, in pixels.
        mean: Mean of each channel, on the scale 0 to 1.
        std: Standard deviation of each channel, on the same scale.
        interpolation: torchvision's name of the interpolation, e.g. `bilinear`.
        antialias: Whether resizing is antialiased.
    """

    resize_size: int
    crop_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    antialias: bool = True

    @classmethod
    def of(cls, chosen: Any) -> Transform:
        """Take the transform that a torchvision weights entry prescribes.

        Args:
            chosen: A `WeightsEnum` member, see `pipeline.weights.entry`.

        Returns:
            The entry's transform as plain numbers.
        """
        preset = chosen.transforms()
        return cls(
            resize_size=preset.resize_size[0],
            crop_size=preset.crop_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation=preset.interpolation.value,
            antialias=bool(preset.antialias),
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Transform:
        """Read what `as_dict` wrote, also after a journey through JSON."""
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def build(self) -> Any:
        """Return torchvision's own preset `ImageClassification` with these settings."""
        from torchvision.models import VGG16_Weights
        from torchvision.transforms import InterpolationMode

        # Every entry is a partial of the preset's class, which torchvision exports nowhere else.
        return VGG16_Weights.IMAGENET1K_V1.transforms(
            resize_size=self.resize_size,
            crop_size=self.crop_size,
            mean=self.mean,
            std=self.std,
            interpolation=InterpolationMode(self.interpolation),
            antialias=self.antialias,
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image.

        Args:
            image: An RGB image of any size.

        Returns:
            Float32 tensor (3, crop_size, crop_size), exactly as torchvision's preset gives it.

        Raises:
            UnreadableImage: The image is not RGB, or so elongated that resizing it would fill the memory.
        """
        if image.mode != "RGB":
            raise UnreadableImage(f"its mode is {image.mode}, and a base takes RGB: convert it first")
        short, long = sorted(image.size)
        limit = Image.MAX_IMAGE_PIXELS
        if short == 0 or (limit is not None and self.resize_size * (self.resize_size * long // short) > limit):
            width, height = image.size
            raise UnreadableImage(
                f"it is {width} x {height} pixels, too elongated to be resized to a short side of {self.resize_size}: "
                f"that would be more than {limit} pixels"
            )
        tensor: Tensor = self.build()(image)
        return tensor


def transform_of_weights(name: str, source: WeightsSource, transform_of: str | None = None) -> Transform:
    """Find the transform that belongs to weights.

    A torchvision entry brings its own. A file named like an entry's download (its suffix aside) gets that entry's.
    Everything else gets that of IMAGENET1K_V1, or, where a network has none, of the entry with the smallest images.

    Args:
        name: Name of the torchvision network.
        source: Where the weights come from.
        transform_of: Name of the entry whose transform to take instead.

    Returns:
        The transform.

    Raises:
        BaseError: There is no such network.
        WeightsError: The network has no such entry.
    """
    if transform_of is not None or source.kind == "imagenet":
        return Transform.of(entry(name, transform_of or source.detail or "DEFAULT"))
    table = list(entries(name))
    stem = PurePath(source.detail).stem
    named = [each for each in table if source.kind == "file" and PurePath(urlsplit(each.url).path).stem == stem]
    first = [each for each in table if each.name == "IMAGENET1K_V1"]
    smallest = min(table, key=lambda each: Transform.of(each).crop_size)
    return Transform.of([*named, *first, smallest][0])
