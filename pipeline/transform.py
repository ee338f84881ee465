"""The evaluation transform: how an RGB picture becomes a base's input, in two steps.

Pillow resizes and crops, in any process and without torch; torch scales and normalises what came of that, in batches.
torch is imported by the functions that need it, never by importing this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import BaseError, UnreadableImage
from pipeline.memory import enough_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.weights import WeightsSource

CHANNELS, LEVELS = 3, 256


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

    @property
    def resampling(self) -> Image.Resampling:
        """The interpolation as Pillow names it; Pillow always antialiases."""
        return Image.Resampling[self.interpolation.removesuffix("-exact").upper()]

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop one image with Pillow alone, as torchvision's preset does with Pillow.

        Args:
            image: An RGB image of any size.

        Returns:
            Array (crop_size, crop_size, 3).

        Raises:
            UnreadableImage: The image is not RGB, or so elongated that resizing it would fill the memory.
        """
        if image.mode != "RGB":
            raise UnreadableImage(f"its mode is {image.mode}, and a base takes RGB: convert it first")
        width, height = image.size
        short, long = sorted(image.size)
        limit = Image.MAX_IMAGE_PIXELS
        if short == 0 or (limit is not None and self.resize_size * (self.resize_size * long // short) > limit):
            raise UnreadableImage(
                f"it is {width} x {height} pixels, too elongated to be resized to a short side of {self.resize_size}: "
                f"that would be more than {limit} pixels"
            )
        resized_long = int(self.resize_size * long / short)
        size = (self.resize_size, resized_long) if width <= height else (resized_long, self.resize_size)
        resized = image.resize(size, self.resampling)  # a plain copy where it has this size
        left, top = (_start(side, self.crop_size) for side in size)
        # Outside of the picture Pillow crops black, of which torchvision makes the same margins beforehand.
        return np.array(resized.crop((left, top, left + self.crop_size, top + self.crop_size)))

    def normalise(self, pixels: npt.NDArray[np.uint8], device: str = "cpu") -> Tensor:
        """Scale and normalise the pixels of several images, bit for bit as torchvision's preset does.

        Args:
            pixels: Array (n, S, S, 3).
            device: Where the result is to be.

        Returns:
            Float32 tensor (n, 3, S, S), whose channels lie next to each other in memory.

        Raises:
            BaseError: The device has no room for them.
        """
        import torch

        with enough_memory(no_room(device, len(pixels))):
            return self.normalise_there(torch.from_numpy(pixels).to(device))

    def normalise_there(self, pixels: Tensor) -> Tensor:
        """Scale and normalise as `normalise` does, on whatever device the pixels (n, S, S, 3) are."""
        import torch

        with enough_memory(no_room(pixels.device, len(pixels))):
            if pixels.device.type == "cpu":
                normalised = pixels.float().div_(LEVELS - 1)  # torchvision's arithmetic, in its order
                normalised.sub_(torch.tensor(self.mean)).div_(torch.tensor(self.std))
            else:
                # A GPU divides by multiplying: every level is looked up in a table that the CPU filled.
                channels = torch.arange(CHANNELS, device=pixels.device)
                normalised = _normalised_levels(self.mean, self.std, pixels.device)[channels, pixels.long()]
            return normalised.permute(0, 3, 1, 2)

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image.

        Args:
            image: An RGB image of any size.

        Returns:
            Float32 tensor (3, crop_size, crop_size), exactly as torchvision's preset gives it.

        Raises:
            UnreadableImage: The image is not RGB, or so elongated that resizing it would fill the memory.
        """
        return self.normalise(self.pixels(image)[None])[0]


def no_room(device: object, images: int) -> BaseError:
    """Make the failure of a device that has no room for a batch of so many images."""
    return BaseError(f"There is no memory on {device} for a batch of {images} images: lower --batch-size.")


@lru_cache(maxsize=8)
def _normalised_levels(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """Return what each channel's levels become, (3, 256)."""
    import torch
    from torchvision.transforms import functional

    levels = torch.arange(LEVELS, dtype=torch.uint8).expand(CHANNELS, 1, LEVELS)
    table: Tensor = functional.normalize(functional.convert_image_dtype(levels), list(mean), list(std))
    return table[:, 0].to(device)


def _start(side: int, crop: int) -> int:
    """Return where a centre crop begins, rounded as torchvision does; before the picture if that is smaller."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2)


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
    from pipeline.weights import entries, entry

    if transform_of is not None or source.kind == "imagenet":
        return Transform.of(entry(name, transform_of or source.detail or "DEFAULT"))
    table = list(entries(name))
    stem = PurePath(source.detail).stem
    named = [each for each in table if source.kind == "file" and PurePath(urlsplit(each.url).path).stem == stem]
    first = [each for each in table if each.name == "IMAGENET1K_V1"]
    smallest = min(table, key=lambda each: Transform.of(each).crop_size)
    return Transform.of([*named, *first, smallest][0])
