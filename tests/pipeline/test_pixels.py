"""Pixels as features: the transformed images themselves, of the files that were listed and of no others."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cache import Entry, FeatureCache
from pipeline.augmentation import AUGMENTATION, view_of
from pipeline.decode import decode
from pipeline.errors import ImageSetError, RunError, UnreadableImages
from pipeline.pixels import (
    BATCH,
    Pictures,
    picture_batches,
    pixel_base,
    pixel_blocks,
    pixel_recipe,
    pixel_transform,
    read_index,
    read_pixels,
)
from pipeline.progress import Silent
from pipeline.transform import Transform
from pipeline.weights import entry

SMALL = pixel_transform(32)


def listed(images: Path, count: int = 30) -> tuple[Entry, ...]:
    return read_index(images, SMALL).entries[:count]


def pixels(images: Path, entries: tuple[Entry, ...], views: list[int] | None = None) -> npt.NDArray[np.float32]:
    out = np.full((len(entries), 3 * 32 * 32), np.nan, np.float32)
    read_pixels(images, entries, SMALL, out, views=views)
    return out


def pictures(images: Path, count: int = 30, augmented: bool = False, draw: str = "") -> Pictures:
    entries = listed(images, count)
    return Pictures(images, entries, tuple(range(count)), SMALL, AUGMENTATION if augmented else None, draw)


def items(some: Pictures) -> npt.NDArray[Any]:
    """Return all of some pictures, (n, 3, S, S); each must be one that can be read."""
    found = [some[number] for number in range(len(some))]
    assert not any(isinstance(item, str) for item in found)
    return np.stack([item[0] for item in found if not isinstance(item, str)])


def test_the_transform_of_the_papers_size_is_that_of_the_pretrained_base() -> None:
    assert pixel_transform() == Transform.of(entry("vgg16", "IMAGENET1K_V1"))
    half = pixel_transform(112)
    assert (half.resize_size, half.crop_size) == (128, 112)
    assert all(pixel_transform(side).resize_size >= side for side in range(1, 300))


def test_the_recipe_says_all_that_pixels_depend_on() -> None:
    recipe = pixel_recipe(32)
    assert (recipe.base, recipe.dimension, recipe.random_weights) == ("pixels", 3 * 32 * 32, False)
    assert Transform.from_dict(recipe.transform) == SMALL
    assert recipe.digest == pixel_recipe(32).digest != pixel_recipe(33).digest
    assert pixel_recipe().dimension == 150528


def test_the_base_gives_the_pixels_themselves(drawn: Path) -> None:
    base, entries = pixel_base(SMALL), listed(drawn, 3)
    images = torch.stack([base.transform(decode((drawn / one.path).read_bytes())) for one in entries])
    assert base.dimension == pixel_recipe(32).dimension
    assert np.array_equal(base.features(images), pixels(drawn, entries))


def test_the_index_is_that_of_a_cache_of_the_same_images(drawn: Path, extracted: Path) -> None:
    found, expected = read_index(drawn, SMALL), FeatureCache.open(extracted).index()
    assert found == replace(expected, recipe_digest="")


def test_rows_are_the_transformed_images(drawn: Path) -> None:
    entries = listed(drawn)
    found = pixels(drawn, entries)
    for one, row in zip(entries, found, strict=True):
        assert np.array_equal(row.reshape(3, 32, 32), SMALL(decode((drawn / one.path).read_bytes())).numpy())


def test_views_are_those_of_the_content_and_the_number(drawn: Path) -> None:
    entries = tuple(reversed(listed(drawn, 8)))
    numbers = [0, 1, 2, 3, 0, 7, 999, 1]
    for one, number, row in zip(entries, numbers, pixels(drawn, entries, numbers), strict=True):
        expected = view_of(decode((drawn / one.path).read_bytes()), one.digest, number, SMALL)
        assert np.array_equal(row.reshape(3, 32, 32), expected.numpy())


def test_blocks_are_the_rows_one_block_after_the_other(images: Path) -> None:
    entries = listed(images)
    expected = pixels(images, entries)
    blocks = list(pixel_blocks(images, entries, SMALL, size=13))
    assert [len(block) for block in blocks] == [13, 13, 4]
    assert np.array_equal(np.concatenate(blocks), expected)
    # None is read before it is asked for.
    lazily = pixel_blocks(images, entries, SMALL, size=13)
    (images / entries[13].path).unlink()
    assert np.array_equal(next(lazily), expected[:13])
    with pytest.raises(RunError, match="could be read before"):
        next(lazily)


class Counting(Silent):
    """Progress that keeps what was announced and counts what was done."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        self.told.append((label, total, sum(done)))


def spoil(images: Path) -> dict[str, str]:
    """Break three images of thirty, and say why each cannot be used."""
    torn = images / "beach" / "beach03.png"
    torn.write_bytes(torn.read_bytes()[:300])
    (images / "forest" / "a\nb.png").write_bytes(b"")
    Image.new("RGB", (6000, 1)).save(images / "parkinglot" / "long.png")
    return {"beach/beach03.png": "truncated", "forest/a\nb.png": "empty", "parkinglot/long.png": "too elongated"}


def test_images_that_cannot_be_read_are_all_listed(images: Path) -> None:
    # The long one can be decoded, and only the transform cannot take it.
    broken, large = spoil(images), pixel_transform(224)
    with pytest.raises(UnreadableImages, match=r"3 of 32 images in .*--on-error skip") as raised:
        read_index(images, large)
    lines = str(raised.value).splitlines()[1:]
    assert [line.split(": ")[0] for line in lines] == [f"  {path}".replace("\n", r"\n") for path in sorted(broken)]
    assert all(reason in line for line, (_, reason) in zip(lines, sorted(broken.items()), strict=True))


def test_skipped_they_take_no_part(images: Path) -> None:
    broken, counting = spoil(images), Counting()
    index = read_index(images, pixel_transform(224), on_error="skip", progress=counting)
    assert [path for path, _ in index.skipped] == sorted(broken)
    assert len(index.entries) == 29
    assert not broken.keys() & {one.path for one in index.entries}
    assert counting.told == [("reading", 32, 32), ("checking", 32, 32)]


def test_a_class_of_which_no_image_can_be_read_is_none(images: Path) -> None:
    for path in (images / "forest").iterdir():
        path.write_bytes(b"")
    assert read_index(images, SMALL, on_error="skip").classes == ("beach", "parkinglot")


def test_without_a_readable_image_there_is_nothing_to_skip(images: Path) -> None:
    for path in images.glob("*/*"):
        path.write_bytes(b"none")
    with pytest.raises(ImageSetError, match="30 of 30 images"):
        read_index(images, SMALL)
    with pytest.raises(ImageSetError, match="30 of 30 images"):
        read_index(images, SMALL, on_error="skip")


def test_neither_fail_nor_skip_is_refused(drawn: Path) -> None:
    with pytest.raises(ImageSetError, match="on_error 'ignore' is neither 'fail' nor 'skip'"):
        read_index(drawn, SMALL, on_error="ignore")  # type: ignore[arg-type]


def remove(path: Path) -> str:
    path.unlink()
    return "No such file or directory"


def change(path: Path) -> str:
    Image.new("RGB", (64, 64), "red").save(path)
    return "it was changed since it was listed"


@pytest.mark.parametrize("harm", [remove, change])
def test_an_image_that_is_not_what_was_listed_is_refused(images: Path, harm: Callable[[Path], str]) -> None:
    entries, some = listed(images), pictures(images)
    victim = images / entries[17].path
    message = f"{victim} could be read before and now cannot: {harm(victim)}.*--name"
    counting: list[int] = []
    with pytest.raises(RunError, match=message):
        read_pixels(images, entries, SMALL, np.empty((30, 3 * 32 * 32), np.float32), counting.append)
    assert counting == [BATCH]  # those before the one that holds it
    for workers in (0, 2):
        with pytest.raises(RunError, match=message):
            list(picture_batches(some, range(30), 4, workers))


def test_names_from_files_are_harmless_in_messages(images: Path) -> None:
    named = (images / "beach" / "beach00.png").rename(images / "beach" / "a\x1b[31m\nError.png")
    entries = listed(images)
    named.unlink()
    with pytest.raises(RunError, match=r"beach/a\\x1b\[31m\\nError\.png could be read"):
        pixels(images, entries)


def test_a_picture_is_its_pixels_and_its_class(drawn: Path) -> None:
    some = pictures(drawn)
    assert np.array_equal(items(some).reshape(30, -1), pixels(drawn, some.entries))
    assert [item[1] for item in (some[number] for number in range(30))] == list(range(30))


def test_the_same_draw_gives_the_same_pictures_and_another_gives_others(drawn: Path) -> None:
    one, again, other = (items(pictures(drawn, augmented=True, draw=f"seed 0, epoch {epoch}")) for epoch in (1, 1, 2))
    assert np.array_equal(one, again)
    plain = items(pictures(drawn))
    for first, second in ((one, other), (one, plain), (other, plain)):
        assert all(not np.array_equal(picture, its_twin) for picture, its_twin in zip(first, second, strict=True))


def test_copies_of_an_image_are_drawn_apart(images: Path) -> None:
    (images / "beach" / "copy.png").write_bytes((images / "beach" / "beach00.png").read_bytes())
    found = items(pictures(images, 11, augmented=True, draw="seed 0, epoch 1"))
    assert not np.array_equal(found[0], found[10])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_pictures_in_the_order_asked_for(drawn: Path, workers: int) -> None:
    some = pictures(drawn, augmented=True, draw="x")
    order = random.Random(0).sample(range(30), 30)
    batches = list(picture_batches(some, order, 8, workers))
    assert [len(codes) for _, codes in batches] == [8, 8, 8, 6]
    assert torch.cat([codes for _, codes in batches]).tolist() == order
    assert np.array_equal(torch.cat([images for images, _ in batches]).numpy(), items(some)[order])
