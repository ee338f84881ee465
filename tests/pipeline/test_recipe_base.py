"""The base of a recipe, where it is needed again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache import FeatureCache
from pipeline.recipe_base import base_of


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_computes_in_the_recipes_precision(extracted: Path, precision: str) -> None:
    recipe = replace(FeatureCache.open(extracted).recipe, precision=precision)
    base = base_of(recipe, None, "cpu", whose="it")
    assert (base.precision, base.weights_digest) == (precision, recipe.weights_digest)


def test_what_a_gpu_computed_in_tf32_a_cpu_computes_in_fp32(extracted: Path) -> None:
    recipe = replace(FeatureCache.open(extracted).recipe, precision="tf32")
    assert base_of(recipe, None, "cpu", whose="it").precision == "fp32"
    if torch.cuda.is_available():
        assert base_of(recipe, None, "cuda", whose="it").precision == "tf32"
