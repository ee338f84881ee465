"""Batches pass in order, with their tags, and as `Base.features` would give them; the code for a GPU too."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.base import Base, load_base
from pipeline.passes import passes
from tests.conftest import BASE, WEIGHTS

Pixels = npt.NDArray[np.uint8]


def batches(base: Base, *sizes: int) -> list[tuple[str, Pixels]]:
    side, random = base.transform.crop_size, np.random.default_rng(0)
    return [(f"batch of {n}", random.integers(0, 256, (n, side, side, 3), dtype=np.uint8)) for n in sizes]


def check(base: Base) -> None:
    given = batches(base, 3, 0, 1, 2, 5, 0)
    found = list(passes(base, given))
    assert [tag for tag, _ in found] == [tag for tag, _ in given]
    for (_, pixels), (_, features) in zip(given, found, strict=True):
        assert features.shape == (len(pixels), base.dimension)
        assert features.dtype == np.float32
        if len(pixels):
            np.testing.assert_array_equal(features, base.features(base.transform.normalise(pixels, base.device)))


def test_on_a_cpu() -> None:
    check(load_base(BASE, WEIGHTS))


def test_a_cpu_takes_a_batch_when_it_is_asked_for_it() -> None:
    base, taken = load_base(BASE, WEIGHTS), []

    def told() -> Iterator[tuple[str, Pixels]]:
        for tag, pixels in batches(base, 1, 1, 1):
            taken.append(tag)
            yield tag, pixels

    found = passes(base, told())
    next(found)
    assert len(taken) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_on_a_gpu(precision: str) -> None:
    check(load_base(BASE, WEIGHTS, precision=precision, device="cuda"))
