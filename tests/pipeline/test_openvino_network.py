"""OpenVINO computes what torch does; where it is absent or cannot help, that is said."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from cache import FeatureCache
from pipeline.base import load_base
from pipeline.errors import BaseError
from pipeline.extraction import extract
from tests.conftest import BASE, WEIGHTS

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_are_those_of_torch(precision: str) -> None:
    batch = torch.randn(5, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    base = load_base(BASE, WEIGHTS, precision=precision, backend="openvino")
    expected, found = load_base(BASE, WEIGHTS).features(batch), base.features(batch)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    limit = {"fp32": 1e-5, "bf16": 5e-2}[precision]
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max()
    assert np.array_equal(base.features(batch[3:]), found[3:])  # each image comes back in its own place


@needs_openvino
def test_a_cache_may_be_computed_by_either(drawn: Path, extracted: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = extract(drawn, cache, base=BASE, weights=WEIGHTS, device="cpu", backend="openvino")
    assert done.computed == done.images
    assert extract(drawn, cache, base=BASE, weights=WEIGHTS, device="cpu").computed == 0
    ours, torchs = FeatureCache.open(cache), FeatureCache.open(extracted)
    digests = [entry.digest for entry in ours.index().entries]
    expected = torchs.read(digests)
    assert np.abs(ours.read(digests) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BaseError, match=r"needs the package openvino, .* `pip install 'manyheads\[openvino\]'"):
        load_base(BASE, WEIGHTS, backend="openvino")


def test_other_backends_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseError, match="backend 'onnx' is none that manyheads knows: choose torch or openvino"):
        load_base(BASE, WEIGHTS, backend="onnx")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(BaseError, match="openvino is for CPUs, and the base is to run on cuda"):
        load_base(BASE, WEIGHTS, backend="openvino", device="cuda")
