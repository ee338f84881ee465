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

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.transform import Transform

# Part of the recipe: raise it with any change to what `Augmentation` makes of the same numbers.
AUGMENTATION_VERSION = 1
TRIES = 10  # draws of a crop that fits before the centre is taken, as torchvision does


@dataclass(frozen=True)
class Augmentation:
    """The paper's training transform: rotation, random resized crop, horizontal flip; then scale and normalise.

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

    def __call__(self, image: Image.Image, transform: Transform, name: str) -> Tensor:
        """Draw one augmented view of an image.

        Args:
            image: An RGB image of any size.
            transform: Gives the side of the result, the interpolation and the normalisation.
            name: What is drawn, such as `view 3 of` and a digest: the same name and image give the same view, in any
                order, thread, process and version of Python.

        Returns:
            Float32 tensor (3, crop_size, crop_size).
        """
        from torchvision.transforms import InterpolationMode, functional

        # Of `random.Random`, the method random() alone is promised to give the same numbers in every version.
        draw = random.Random(name).random
        turned = functional.rotate(image, (2 * draw() - 1) * self.rotation)
        top, left, height, width = self._crop(turned.width, turned.height, draw)
        side = [transform.crop_size, transform.crop_size]
        interpolation = InterpolationMode(transform.interpolation)
        cropped = functional.resized_crop(
            turned, top, left, height, width, side, interpolation, antialias=transform.antialias
        )
        if draw() < self.flip:
            cropped = functional.hflip(cropped)
        pixels = functional.convert_image_dtype(functional.pil_to_tensor(cropped))
        tensor: Tensor = functional.normalize(pixels, mean=list(transform.mean), std=list(transform.std))
        return tensor

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


def view_of(image: Image.Image, digest: str, number: int, transform: Transform) -> Tensor:
    """Make one view of an image: number 0 is the evaluation transform, the others are drawn.

    Args:
        image: An RGB image.
        digest: SHA-256 of its file's bytes: the content, not the name, decides what is drawn.
        number: The view's, from 0 on.
        transform: The evaluation transform.

    Returns:
        Float32 tensor (3, crop_size, crop_size).

    Raises:
        UnreadableImage: The image is not RGB, or too elongated for the evaluation transform.
    """
    return AUGMENTATION(image, transform, f"view {number} of {digest}") if number else transform(image)
