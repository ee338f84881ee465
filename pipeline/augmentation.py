"""Views: seeded random augmentations of an image, by the paper's training transform.

torchvision's own random transforms draw from torch's global generator, which threads share and whose state depends on
what was drawn before. Here every view draws from a generator of its own, named by what the view is of.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.transform import Transform

# Part of the recipe: raise it with any change to what `Augmentation` makes of the same numbers.
AUGMENTATION_VERSION = 1
TRIES = 10  # draws of a crop that fits before the centre is taken, as torchvision does


@dataclass(frozen=True)
class Augmentation:
    """The paper's training transform: rotation, random resized crop, horizontal flip.

    Rotation takes the nearest pixel and leaves the corners black, as torchvision's `RandomRotation` does unless told
    otherwise; the crop is resized as the evaluation transform resizes.

    Args:
        rotation: Largest angle either way, in degrees.
        scale: Smallest and largest share of the image's area that a crop takes.
        ratio: Smallest and largest width by height of a crop.
        flip: Probability of a horizontal flip.
    """

    rotation: float = 30.0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the version of their meaning, as plain JSON values."""
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**fields, "version": AUGMENTATION_VERSION}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Augmentation:
        """Read what `as_dict` wrote, also after a journey through JSON."""
        known = {name: value for name, value in fields.items() if name != "version"}
        return cls(**{**known, "scale": tuple(known["scale"]), "ratio": tuple(known["ratio"])})

    def pixels(self, image: Image.Image, transform: Transform, name: str) -> npt.NDArray[np.uint8]:
        """Draw one augmented view of an image, with Pillow alone.

        Args:
            image: An RGB image of any size.
            transform: Gives the side of the result and the interpolation.
            name: What is drawn, such as `view 3 of` and a digest: the same name and image give the same view, in any
                order, thread, process and version of Python.

        Returns:
            Array (crop_size, crop_size, 3).
        """
        # Of `random.Random`, the method random() alone is promised to give the same numbers in every version.
        draw = random.Random(name).random
        turned = image.rotate((2 * draw() - 1) * self.rotation, fillcolor=(0, 0, 0))
        top, left, height, width = self._crop(turned.width, turned.height, draw)
        size = (transform.crop_size, transform.crop_size)
        view = turned.crop((left, top, left + width, top + height)).resize(size, transform.resampling)
        if draw() < self.flip:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(view)

    def __call__(self, image: Image.Image, transform: Transform, name: str) -> Tensor:
        """Draw one augmented view of an image, see `pixels`, and normalise it.

        Returns:
            Float32 tensor (3, crop_size, crop_size).
        """
        return transform.normalise(self.pixels(image, transform, name)[None])[0]

    def _crop(self, width: int, height: int, draw: Any) -> tuple[int, int, int, int]:
        """Draw a crop as torchvision's `RandomResizedCrop.get_params` does: top, left, height, width."""
        for _ in range(TRIES):
            area = width * height * (self.scale[0] + (self.scale[1] - self.scale[0]) * draw())
            low, high = (math.log(end) for end in self.ratio)
            ratio = math.exp(low + (high - low) * draw())
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                return int(draw() * (height - tall + 1)), int(draw() * (width - wide + 1)), tall, wide
        wide = min(width, round(height * self.ratio[1]))
        tall = min(height, round(width / self.ratio[0]))
        return (height - tall) // 2, (width - wide) // 2, tall, wide


AUGMENTATION = Augmentation()


def view_pixels(image: Image.Image, digest: str, number: int, transform: Transform) -> npt.NDArray[np.uint8]:
    """Make the pixels of one view of an image: number 0 is the evaluation transform, the others are drawn.

    Args:
        image: An RGB image.
        digest: SHA-256 of its file's bytes: the content, not the name, decides what is drawn.
        number: The view's, from 0 on.
        transform: The evaluation transform.

    Returns:
        Array (crop_size, crop_size, 3).

    Raises:
        UnreadableImage: The image is not RGB, or too elongated for the evaluation transform.
    """
    if number:
        return AUGMENTATION.pixels(image, transform, f"view {number} of {digest}")
    return transform.pixels(image)


def view_of(image: Image.Image, digest: str, number: int, transform: Transform) -> Tensor:
    """Make one view of an image, see `view_pixels`, and normalise it.

    Returns:
        Float32 tensor (3, crop_size, crop_size).
    """
    return transform.normalise(view_pixels(image, digest, number, transform)[None])[0]
