"""What Pillow and a table of levels make of a picture is what torchvision's own preset makes of it, bit for bit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from PIL import Image
from torchvision.transforms import functional

from pipeline.base import base_names
from pipeline.errors import BaseError
from pipeline.transform import Transform
from pipeline.weights import entries

ROOT = Path(__file__).parents[2]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def assert_is_the_preset(transform: Transform, image: Image.Image) -> None:
    found, expected = transform(image), transform.build()(image)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


sides, small = st.integers(1, 90), st.integers(1, 60)


@settings(max_examples=300)
@given(sides, sides, small, small, st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic", "lanczos"]))
def test_any_size_is_resized_cropped_and_padded_as_torchvision_does(
    width: int, height: int, resized: int, crop: int, interpolation: str
) -> None:
    # The crop may be larger than what it is cut from, in one direction or both.
    assert_is_the_preset(Transform(resized, crop, MEAN, STD, interpolation), noise(width, height))


@pytest.mark.parametrize("crop", [1, 7, 31, 32, 33, 40, 63, 64, 65])
@pytest.mark.parametrize("size", [(32, 32), (32, 63), (64, 32), (32, 35), (34, 32), (1, 9), (9, 1)])
def test_a_picture_that_has_the_size_already_is_not_resampled(size: tuple[int, int], crop: int) -> None:
    image = noise(*size)
    transform = Transform(min(size), crop, MEAN, STD)
    assert_is_the_preset(transform, image)
    if size[0] == size[1] == crop:
        assert np.array_equal(transform.pixels(image), np.asarray(image))


def test_every_transform_that_torchvision_prescribes() -> None:
    every = {Transform.of(entry) for name in base_names() for entry in entries(name)}
    assert {transform.interpolation for transform in every} == {"bilinear", "bicubic"}
    assert any(transform.resize_size == transform.crop_size for transform in every)
    for transform in every:
        assert_is_the_preset(transform, noise(301, 256))


three_floats = [st.tuples(*[st.floats(low, high)] * 3) for low, high in ((0, 1), (0.01, 3))]


@given(*three_floats, st.integers(0, 2**32))
def test_every_level_is_normalised_as_torchvision_does_in_batches_of_any_size(
    mean: tuple[float, float, float], std: tuple[float, float, float], seed: int
) -> None:
    transform = Transform(16, 16, mean, std)
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    some = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    pixels: npt.NDArray[np.uint8] = np.concatenate([every, some])
    found = transform.normalise(pixels)
    scaled = functional.convert_image_dtype(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert torch.equal(found, functional.normalize(scaled, list(mean), list(std)))
    assert found.is_contiguous(memory_format=torch.channels_last)  # as bases take it
    for one, alone in zip(pixels, found, strict=True):
        assert torch.equal(transform.normalise(one[None])[0], alone)


def test_a_batch_without_room_is_refused() -> None:
    pixels = as_strided(np.zeros(1, np.uint8), (10**6, 2000, 2000, 3), (0, 0, 0, 0))  # one byte, told to be all of them
    with pytest.raises(BaseError, match="no memory on cpu for a batch of 1000000 images: lower --batch-size"):
        Transform(2000, 2000, MEAN, STD).normalise(pixels)


WITHOUT_TORCH = """
import sys
from PIL import Image
from pipeline.augmentation import view_pixels
from pipeline.transform import Transform
transform = Transform(36, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
for number in (0, 1):
    assert view_pixels(Image.new("RGB", (50, 70)), "a" * 64, number, transform).shape == (32, 32, 3)
print(*sys.modules.keys() & {"torch", "torchvision", "h5py", "joblib", "ssl"})
"""


def test_pixels_need_no_torch() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
