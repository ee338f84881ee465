"""Views are what torchvision's own random transforms draw, but each depends on its image's content and number alone."""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional

from pipeline.augmentation import AUGMENTATION, Augmentation, view_of
from pipeline.decode import decode
from pipeline.image_set import digest_of
from pipeline.transform import Transform

ROOT = Path(__file__).parents[2]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORM = Transform(256, 224, MEAN, STD)
SMALL = Transform(36, 32, MEAN, STD)
DRAWS = 3000


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def image(drawn: Path) -> Image.Image:
    return decode((drawn / "beach" / "beach00.png").read_bytes())


@pytest.fixture(scope="module")
def digest(drawn: Path) -> str:
    return digest_of((drawn / "beach" / "beach00.png").read_bytes())


def test_view_0_is_the_evaluation_transform(image: Image.Image, digest: str) -> None:
    assert torch.equal(view_of(image, digest, 0, TRANSFORM), TRANSFORM(image))


def test_views_differ_by_number_and_by_content(image: Image.Image, digest: str) -> None:
    views = [view_of(image, digest, number, SMALL) for number in range(50)]
    views += [view_of(image, "b" * 64, number, SMALL) for number in range(1, 50)]
    assert len({view.numpy().tobytes() for view in views}) == 99
    assert all(view.shape == (3, 32, 32) and view.dtype == torch.float32 for view in views)


def test_a_view_does_not_depend_on_what_was_drawn_before_and_disturbs_nobody(image: Image.Image, digest: str) -> None:
    expected = [view_of(image, digest, number, SMALL) for number in range(1, 9)]
    for seed, order in enumerate(([7, 0, 3, 1, 6, 2, 5, 4], [0, 0, 7, 7], [5])):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
        for position in order:
            assert torch.equal(view_of(image, digest, position + 1, SMALL), expected[position])
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
        assert str(np.random.get_state()) == states[2]


def test_threads_may_share_an_image(image: Image.Image, digest: str) -> None:
    numbers = [number for number in range(1, 40) for _ in range(3)]
    expected = {number: view_of(image, digest, number, SMALL) for number in range(1, 40)}
    with ThreadPoolExecutor(8) as pool:
        views = pool.map(lambda number: view_of(image, digest, number, SMALL), numbers)
        assert all(torch.equal(view, expected[number]) for number, view in zip(numbers, views, strict=True))


ELSEWHERE = """
import hashlib, sys
from pathlib import Path
from pipeline.augmentation import view_of
from pipeline.decode import decode
from pipeline.transform import Transform
image = decode(Path(sys.argv[1]).read_bytes())
transform = Transform(36, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
for number in (3, 1):
    print(hashlib.sha256(view_of(image, sys.argv[2], number, transform).numpy().tobytes()).hexdigest())
"""


def test_another_process_draws_the_same(drawn: Path, image: Image.Image, digest: str) -> None:
    expected = [
        hashlib.sha256(view_of(image, digest, number, SMALL).numpy().tobytes()).hexdigest() for number in (3, 1)
    ]
    command = [sys.executable, "-c", ELSEWHERE, str(drawn / "beach" / "beach00.png"), digest]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_what_a_name_draws_may_only_change_with_the_version() -> None:
    # A cache made today must be grown tomorrow: whoever has to change these numbers raises AUGMENTATION_VERSION.
    name = f"view 1 of {'a' * 64}"
    draw = random.Random(name).random
    angle, crop, flipped = (2 * draw() - 1) * 30, AUGMENTATION._crop(256, 192, draw), draw() < 0.5
    assert angle == pytest.approx(-10.535783902680766, rel=1e-12)
    assert (crop, flipped) == ((20, 94, 103, 78), True)
    image = noise(256, 192)
    cropped = functional.resized_crop(functional.rotate(image, angle), *crop, [224, 224])
    expected = functional.hflip(cropped) if flipped else cropped
    normalised = functional.normalize(functional.to_tensor(expected), MEAN, STD)
    assert torch.equal(view_of(image, "a" * 64, 1, TRANSFORM), normalised)


sizes = st.integers(1, 90)


@settings(max_examples=80)
@given(sizes, sizes | st.none(), st.sampled_from(["bilinear", "bicubic"]), st.booleans())
def test_without_chance_it_is_torchvisions_own_pipeline(
    width: int, other: int | None, interpolation: str, flip: bool
) -> None:
    height = other or width
    transform = Transform(36, 32, MEAN, STD, interpolation)
    kind = transforms.InterpolationMode(interpolation)
    # Four times an image's area never fits, so that the largest crop around the centre is taken; a square fits itself.
    scale, ratio = ((1.0, 1.0), (1.0, 1.0)) if width == height else ((4.0, 4.0), (3 / 4, 4 / 3))
    pipeline = transforms.Compose(
        [
            transforms.RandomRotation(0),
            transforms.RandomResizedCrop(32, scale=scale, ratio=ratio, interpolation=kind),
            transforms.RandomHorizontalFlip(float(flip)),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    image = noise(width, height)
    still = Augmentation(rotation=0, scale=scale, ratio=ratio, flip=float(flip))
    assert torch.equal(still(image, transform, "any name"), pipeline(image))


def drawn_by_torchvision(image: Image.Image, transform: Transform, name: str) -> torch.Tensor:
    """Draw a view with torchvision's functions, which caches of this version of views were first made with."""
    draw = random.Random(name).random
    turned = functional.rotate(image, (2 * draw() - 1) * AUGMENTATION.rotation)
    crop = AUGMENTATION._crop(turned.width, turned.height, draw)
    side = [transform.crop_size, transform.crop_size]
    kind = transforms.InterpolationMode(transform.interpolation)
    view = functional.resized_crop(turned, *crop, side, kind, antialias=True)
    view = functional.hflip(view) if draw() < AUGMENTATION.flip else view
    pixels = functional.convert_image_dtype(functional.pil_to_tensor(view))
    tensor: torch.Tensor = functional.normalize(pixels, mean=list(transform.mean), std=list(transform.std))
    return tensor


@settings(max_examples=300)
@given(sizes, sizes, st.integers(1, 60), st.sampled_from(["nearest", "bilinear", "bicubic"]), st.text(max_size=3))
def test_every_view_is_what_torchvisions_functions_make_of_the_same_numbers(
    width: int, height: int, crop: int, interpolation: str, name: str
) -> None:
    transform, image = Transform(36, crop, MEAN, STD, interpolation), noise(width, height)
    expected = drawn_by_torchvision(image, transform, name)
    assert torch.equal(AUGMENTATION(image, transform, name), expected)


@pytest.mark.filterwarnings("ignore:ks_2samp")  # its exact method overflows, and it takes another
@pytest.mark.parametrize("size", [(256, 256), (300, 200), (64, 256), (500, 40), (3, 5)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    ours = [AUGMENTATION._crop(*size, random.Random(f"crop {number}").random) for number in range(DRAWS)]
    for top, left, height, width in ours:
        assert 0 <= top <= top + height <= size[1]
        assert 0 <= left <= left + width <= size[0]
        assert height >= 1
        assert width >= 1
    for one, two in zip(quantities(ours), quantities(theirs), strict=True):
        assert stats.ks_2samp(one, two).pvalue > 0.002


def quantities(crops: list[tuple[int, int, int, int]]) -> npt.NDArray[np.float64]:
    """Return what describes crops, one row each: the four numbers, area, and shape."""
    top, left, height, width = np.array(crops, dtype=np.float64).T
    return np.stack([top, left, height, width, height * width, np.log(width / height)])


@pytest.mark.parametrize("wrong", [Augmentation(scale=(0.16, 1.0)), Augmentation(ratio=(0.7, 1.4))])
def test_the_comparison_of_crops_sees_a_small_difference(wrong: Augmentation) -> None:
    right, other = (
        quantities([one._crop(256, 256, random.Random(f"{name} {number}").random) for number in range(DRAWS)])
        for name, one in (("a", AUGMENTATION), ("b", wrong))
    )
    assert min(stats.ks_2samp(one, two).pvalue for one, two in zip(right, other, strict=True)) < 1e-4


def test_angles_are_uniform() -> None:
    # A white spot above the centre of a black square, and where it lies afterwards.
    transform = Transform(104, 104, MEAN, STD)
    square = Image.new("RGB", (104, 104))
    ImageDraw.Draw(square).circle((51.5, 8.5), 4, "white")
    turning = Augmentation(rotation=30, scale=(1, 1), ratio=(1, 1), flip=0)
    rows, columns = torch.meshgrid(torch.arange(104.0) - 51.5, torch.arange(104.0) - 51.5, indexing="ij")
    angles = []
    for number in range(1000):
        white = torch.from_numpy(turning.pixels(square, transform, f"angle {number}"))[..., 0] > 127
        angles.append(math.degrees(math.atan2(-columns[white].mean(), -rows[white].mean())))
    assert max(map(abs, angles)) < 31
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 0.01


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_flips_come_as_often_as_asked(probability: float) -> None:
    halves = Image.new("RGB", (32, 32))
    ImageDraw.Draw(halves).rectangle((0, 0, 15, 31), "white")
    turning = Augmentation(rotation=0, scale=(1, 1), ratio=(1, 1), flip=probability)
    views = [turning.pixels(halves, SMALL, f"view {number}") for number in range(2000)]
    flipped = sum(bool(view[0, 0, 0] < view[0, -1, 0]) for view in views)
    assert abs(flipped - 2000 * probability) <= 3 * math.sqrt(2000 * probability * (1 - probability))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 1), (4000, 3)])
def test_extreme_shapes_have_views(size: tuple[int, int]) -> None:
    image = noise(*size)
    for number in range(1, 30):
        view = view_of(image, "a" * 64, number, SMALL)
        assert view.shape == (3, 32, 32)
        assert view.isfinite().all()


@given(
    st.floats(0, 180),
    st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
    st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
    st.floats(0, 1),
)
def test_json_round_trip(rotation: float, scale: tuple[float, float], ratio: tuple[float, float], flip: float) -> None:
    augmentation = Augmentation(rotation, scale, ratio, flip)
    assert Augmentation.from_dict(json.loads(json.dumps(augmentation.as_dict()))) == augmentation


def test_the_default_is_the_papers() -> None:
    assert AUGMENTATION.as_dict() == {
        "rotation": 30.0,
        "scale": [0.08, 1.0],
        "ratio": [3 / 4, 4 / 3],
        "flip": 0.5,
        "version": 1,
    }
