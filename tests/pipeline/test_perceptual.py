"""The measure behind near-duplicates keeps its laws: of pictures by their details, and of rows by their cosines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.perceptual import centred, details, neighbours, resemblance, thumbnail
from pipeline.scenes import draw_scene
from tests.conftest import CLASSES

TURNS = [None, *Image.Transpose]


@given(name=st.sampled_from(CLASSES), seed=st.integers(0, 50), turn=st.sampled_from(TURNS))
@settings(max_examples=20)
def test_an_image_and_its_own_turn_are_the_same(name: str, seed: int, turn: Image.Transpose | None) -> None:
    image = draw_scene(name, seed, 64)
    turned = image if turn is None else image.transpose(turn)
    first, second = details(np.stack([thumbnail(image), thumbnail(turned)]))
    assert resemblance(first, second[None])[0] == pytest.approx(1, abs=1e-4)


@given(seeds=st.lists(st.integers(0, 50), min_size=2, max_size=2), names=st.tuples(*[st.sampled_from(CLASSES)] * 2))
@settings(max_examples=20)
def test_the_order_of_two_images_makes_no_difference(seeds: list[int], names: tuple[str, str]) -> None:
    looks = details(np.stack([thumbnail(draw_scene(*one, 64)) for one in zip(names, seeds, strict=True)]))
    there, back = resemblance(looks[0], looks[1:]), resemblance(looks[1], looks[:1])
    assert there == pytest.approx(back, abs=1e-4)
    assert 0 <= there[0] <= 1


def test_a_shifted_cut_of_the_same_ground_is_alike_and_other_ground_is_not() -> None:
    ground, other = draw_scene("parkinglot", 0, 256), draw_scene("parkinglot", 1, 256)
    cuts = [ground.crop((0, 0, 192, 192)), ground.crop((64, 30, 256, 222)), other.crop((0, 0, 192, 192))]
    looks = details(np.stack([thumbnail(cut) for cut in cuts]))
    same, different = resemblance(looks[0], looks[1:])
    assert same > 0.8 > different


def test_what_shows_nothing_is_like_nothing() -> None:
    grey = np.full((1, 64, 64), 128, np.uint8)
    noise = np.random.default_rng(0).integers(127, 129, (1, 64, 64)).astype(np.uint8)
    for blank in (details(grey), details(noise)):
        assert not blank.any()
        assert resemblance(blank[0], blank) == [0]
    assert resemblance(details(grey)[0], details(grey[:0])).shape == (0,)


def test_a_picture_is_as_like_one_of_many_as_it_is_alone() -> None:
    looks = details(np.stack([thumbnail(draw_scene("parkinglot", seed, 64)) for seed in range(40)]))
    alone = [resemblance(looks[0], one[None])[0] for one in looks]
    assert resemblance(looks[0], looks).tolist() == pytest.approx(alone, abs=1e-5)


@given(
    shape=st.tuples(st.integers(2, 40), st.integers(1, 8)),
    block=st.integers(1, 500),
    count=st.integers(1, 6),
)
def test_the_size_of_blocks_changes_no_neighbour(shape: tuple[int, int], block: int, count: int) -> None:
    rows = centred(np.random.default_rng(shape[0]).normal(size=shape).astype(np.float32))

    def of_all(size: int) -> list[list[float]]:
        found = np.concatenate([found for _, found in neighbours(rows, count, size)])
        return [sorted((rows[row] @ rows[others].T).tolist()) for row, others in enumerate(found)]

    np.testing.assert_allclose(of_all(block), of_all(10**6), atol=1e-5)


def test_no_image_is_its_own_neighbour() -> None:
    rows = centred(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    for start, others in neighbours(rows, 8, 30):
        for row, found in enumerate(others, start):
            assert sorted(found) == [other for other in range(9) if other != row]
