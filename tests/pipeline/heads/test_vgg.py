"""VGG16 from scratch as a classifier over pixels: the authors' names and shapes, torchvision's initial weights."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models

from pipeline.errors import HeadError
from pipeline.heads import HeadValueError, make_head
from pipeline.heads.mlp import head_network
from pipeline.heads.storage import load_head, save_head
from pipeline.heads.vgg import VGGNetwork

CLASSES = ("beach", "forest", "parkinglot")


@pytest.fixture(scope="module")
def network() -> VGGNetwork:
    """An untrained network for images of 32 pixels; do not train it."""
    return VGGNetwork(image_size=32, random_state=3).build(CLASSES)


def pixels(count: int, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(count, 3 * side**2)).astype(np.float32)


def test_names_and_shapes_are_those_of_the_paper_for_its_21_classes() -> None:
    with torch.device("meta"):
        found = VGGNetwork().build([f"class {number:02d}" for number in range(21)]).network_.state_dict()
        vgg = models.vgg16(weights=None).state_dict()
        head = head_network(25088, 21).state_dict()
    expected = {name: tensor for name, tensor in vgg.items() if name.startswith("features.")}
    expected |= {f"classifier.{name}": tensor for name, tensor in head.items()}
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in expected.items()}
    assert next(iter(found)) == "features.0.weight"
    assert list(found)[-8] == "classifier.inputs.weight"
    # The convolutions have 14,714,688 weights (Simonyan and Zisserman's configuration D); the head has layers of
    # 84, 63, 42 and 21 outputs.
    head_weights = 25088 * 84 + 84 + 84 * 63 + 63 + 63 * 42 + 42 + 42 * 21 + 21
    assert sum(tensor.numel() for tensor in found.values()) == 14_714_688 + head_weights


def test_initial_weights_are_torchvisions_for_the_seed(network: VGGNetwork) -> None:
    found = network.network_.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = models.vgg16(weights=None).state_dict()
    for name, tensor in expected.items():
        if name.startswith("features."):
            assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("side", [32, 33, 70])
def test_images_of_any_size_give_probabilities(network: VGGNetwork, side: int) -> None:
    sized = VGGNetwork.from_tensors(*resized(network, side))
    found = sized.predict_proba(pixels(5, side))
    assert found.shape == (5, 3)
    assert found.dtype == np.float64
    assert (found > 0).all()
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-12
    assert list(sized.predict(pixels(5, side))) == [CLASSES[place] for place in found.argmax(axis=1)]


def resized(network: VGGNetwork, side: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, learned = network.to_tensors()
    return tensors, {**learned, "parameters": {**learned["parameters"], "image_size": side}}


def test_probabilities_are_those_of_the_layers(network: VGGNetwork) -> None:
    rows = pixels(3, 32)
    with torch.inference_mode():
        scores = network.network_(torch.from_numpy(rows).view(3, 3, 32, 32))
    assert network.predict_proba(rows) == pytest.approx(scores.exp().numpy(), abs=1e-6)


def test_a_block_is_predicted_as_its_rows_are(network: VGGNetwork) -> None:
    rows = pixels(19, 32)  # more than a step of predicting holds
    block = network.predict_proba(rows)
    single = np.concatenate([network.predict_proba(row[None]) for row in rows])
    assert np.abs(block - single).max() < 1e-5
    assert np.abs(block - block[0]).max() > 1e-5  # they do differ


def test_saved_and_loaded_it_is_the_same_bit_for_bit(network: VGGNetwork, tmp_path: Path) -> None:
    assert save_head(network, tmp_path) == "model.safetensors"
    loaded = load_head("scratch", tmp_path)
    assert isinstance(loaded, VGGNetwork)
    assert loaded.get_params() == network.get_params()
    assert list(loaded.classes_) == list(CLASSES)
    assert loaded.n_features_in_ == network.n_features_in_ == 3 * 32 * 32
    state = network.network_.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.network_.state_dict().items())
    assert np.array_equal(loaded.predict_proba(pixels(3, 32)), network.predict_proba(pixels(3, 32)))
    (tmp_path / "again").mkdir()
    save_head(loaded, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_other_sizes_of_the_head_are_kept_and_no_global_random_state_is_touched(
    network: VGGNetwork, tmp_path: Path
) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    narrow = VGGNetwork([5], image_size=32, dropout=0.2, random_state=3).build(CLASSES)
    assert torch.equal(torch.get_rng_state(), before)
    found, other = narrow.network_.state_dict(), network.network_.state_dict()
    assert found["classifier.hidden_layer1.weight"].shape == (3, 5)
    assert all(torch.equal(found[name], other[name]) for name in found if name.startswith("features."))
    assert [layer.p for layer in narrow.network_.modules() if isinstance(layer, torch.nn.Dropout)] == [0.2]
    save_head(narrow, tmp_path)
    loaded = load_head("scratch", tmp_path)
    assert np.array_equal(loaded.predict_proba(pixels(2, 32)), narrow.predict_proba(pixels(2, 32)))


def test_read_only_and_half_precision_rows_are_read_without_a_word(network: VGGNetwork) -> None:
    rows = pixels(2, 32).astype(np.float16)
    expected = network.predict_proba(rows.astype(np.float32))
    rows.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(network.predict_proba(rows), expected)
        assert np.array_equal(network.predict_proba(rows.astype(np.float32).tolist()), expected)


@pytest.mark.parametrize("shape", [(4, 3 * 16 * 16), (3 * 32 * 32,), (1, 3, 32, 32), (0, 3 * 32 * 32)])
def test_rows_of_another_shape_are_refused(network: VGGNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(HeadValueError, match=r"images of 32 x 32 pixels are \(N, 3072\)"):
        network.predict_proba(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("parameter", "value", "rule"),
    [
        ("image_size", 31, "a whole number from 32 on"),
        ("image_size", 64.0, "a whole number from 32 on"),
        ("augment", "papers", "'paper' or 'none'"),
        ("precision", "fp64", "fp32, bf16 or fp16"),
        ("lr", 0, "a number above 0"),
        ("epochs", 0, "a whole number from 1 on"),
        ("batch_size", True, "a whole number from 1 on"),
        ("dropout", 1.0, "a number from 0 on and below 1"),
        ("hidden", (5, 0), "a sequence of whole numbers from 1 on"),
        ("device", "tpu", "cpu, cuda or cuda:N"),
    ],
)
def test_what_it_cannot_be_is_refused_with_the_rule(parameter: str, value: Any, rule: str) -> None:
    with pytest.raises(
        HeadValueError, match=f"VGGNetwork: {parameter} must be {rule}.*; it is {re.escape(repr(value))}"
    ):
        make_head("scratch", **{parameter: value})


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(HeadError, match="no parameter 'patience'"):
        make_head("scratch", patience=3)
