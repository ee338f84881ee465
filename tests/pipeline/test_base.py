"""Networks cut where the rule says, filled with the right tensors, fed through the right transform."""

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from pipeline.base import Base, base_names, choose_device, load_base
from pipeline.errors import BaseError, UnreadableImage, WeightsError
from pipeline.network import AUXILIARY, LAST_STAGES, build, parameters_without_storage, sizes_of
from pipeline.transform import Transform, transform_of_weights
from pipeline.weights import WeightsSource, entry, tensor_digest

# Dimension and side of the input: the two columns of the table in docs/bases.md.
NAMED = {
    "vgg16": (25088, 224),
    "vgg16_bn": (25088, 224),
    "densenet121": (1024, 224),
    "inception_v3": (2048, 299),
    "mobilenet_v2": (1280, 224),
    "squeezenet1_1": (512, 224),
    "resnet50": (2048, 224),
    "vit_b_16": (768, 224),
}
OTHERS = {
    "alexnet": (9216, 224),
    "convnext_tiny": (768, 224),
    "efficientnet_b0": (1280, 224),
    "googlenet": (1024, 224),
    "maxvit_t": (512, 224),
    "mnasnet1_0": (1280, 224),
    "mobilenet_v3_large": (960, 224),
    "regnet_y_400mf": (440, 224),
    "shufflenet_v2_x1_0": (1024, 224),
    "swin_t": (768, 224),
    "swin_v2_t": (768, 256),
}
# What their pretrained weights expect; without weights, torchvision leaves it out and `load_base` does not.
RESCALING = ("googlenet", "inception_v3")
REAL = os.environ.get("MANYHEADS_WEIGHTS")
needs_weights = pytest.mark.skipif(REAL is None, reason="MANYHEADS_WEIGHTS names no folder of real weights")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def random_base(name: str) -> Base:
    return load_base(name, "random:0")


def untouched(name: str) -> nn.Module:
    """Torchvision's own network, as a user would build it, and with the flag of `RESCALING` set."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        network: nn.Module = models.get_model(name, weights=None)
    if name in RESCALING:
        network.transform_input = True  # type: ignore[assignment]
    return network.eval()


def first_projection(network: nn.Module) -> nn.Module:
    stage = next(child for name, child in network.named_children() if name in LAST_STAGES)
    return next(part for part in stage.modules() if isinstance(part, (nn.Linear, nn.Conv2d)))


def what_the_classifier_gets(network: nn.Module, batch: Tensor) -> np.ndarray:
    seen: list[Tensor] = []
    handle = first_projection(network).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        network(batch)
    handle.remove()
    return seen[0].flatten(1).numpy()


@torch.inference_mode()
def vgg16_written_out(network: Any, batch: Tensor) -> np.ndarray:
    return np.asarray(torch.flatten(network.avgpool(network.features(batch)), 1))


@torch.inference_mode()
def squeezenet_written_out(network: Any, batch: Tensor) -> np.ndarray:
    return np.asarray(network.features(batch).mean((2, 3)))


Reference = Callable[[Any, Tensor], np.ndarray]
REFERENCES: dict[str, Reference] = {
    "vgg16": vgg16_written_out,
    "squeezenet1_1": squeezenet_written_out,
}


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module", params=[*NAMED, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def named(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Base]:
    """Each network once: torchvision's own, and the base made of it."""
    return request.param, untouched(request.param), load_base(request.param, "random:0")


def test_named_bases_are_what_they_should_be(named: tuple[str, nn.Module, Base]) -> None:
    name, _, base = named
    dimension, side = {**NAMED, **OTHERS}[name]
    assert base.dimension == dimension
    assert base.transform == Transform.of(entry(name, "IMAGENET1K_V1"))
    assert base.transform.crop_size == side
    assert not any(module.training for module in base.module.modules())
    assert not any(parameter.requires_grad for parameter in base.module.parameters())
    assert {tensor.device.type for tensor in base.module.state_dict().values()} == {"cpu"}


def test_a_seed_gives_torchvisions_own_tensors(named: tuple[str, nn.Module, Base]) -> None:
    _, network, base = named
    found, expected = base.module.state_dict(), network.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
    assert {key.partition(".")[0] for key in expected.keys() - found.keys()} <= {*LAST_STAGES, *AUXILIARY}


def test_features_are_what_torchvisions_classifier_gets(named: tuple[str, nn.Module, Base]) -> None:
    name, network, base = named
    batch = pictures(base.transform.crop_size, 1)
    reference: Reference = REFERENCES.get(name, what_the_classifier_gets)
    assert_close(base.features(batch), reference(network, batch))


def test_another_seed_gives_another_digest() -> None:
    assert load_base("squeezenet1_1", "random:1").weights_digest != random_base("squeezenet1_1").weights_digest


@pytest.mark.slow
@pytest.mark.parametrize("name", base_names())
def test_every_base_gives_what_its_first_projection_takes(name: str) -> None:
    side = transform_of_weights(name, WeightsSource.parse("random:0")).crop_size
    with parameters_without_storage():
        projection = first_projection(build(name, side, initialised=False))
    width = projection.in_channels if isinstance(projection, nn.Conv2d) else projection.in_features
    assert sizes_of(name, side).dimension == width


@cache
def small_state() -> dict[str, Tensor]:
    """A whole MobileNetV3 with random weights: batch normalisation, buffers and a classifier of several layers."""
    return untouched("mobilenet_v3_small").state_dict()


def write(path: Path, state: dict[str, Tensor]) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("classifier", ["whole", "none", "fine-tuned", "broken"])
def test_a_file_may_hold_any_classifier_or_none(tmp_path: Path, name: str, classifier: str) -> None:
    state = {n: t for n, t in small_state().items() if classifier == "whole" or not n.startswith("classifier.")}
    if classifier == "fine-tuned":
        state |= {"classifier.1.weight": torch.zeros(21, 576), "classifier.9.extra": torch.zeros(1)}
    if classifier == "broken":
        state["classifier.0.weight"] = torch.full((1024, 576), torch.nan)
    base = load_base("mobilenet_v3_small", write(tmp_path / name, state))
    assert base.weights_digest == random_base("mobilenet_v3_small").weights_digest
    batch = pictures(224, 1)
    np.testing.assert_array_equal(base.features(batch), random_base("mobilenet_v3_small").features(batch))


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = {n: t for n, t in small_state().items() if not n.endswith("num_batches_tracked")}
    base = load_base("mobilenet_v3_small", write(tmp_path / "a.safetensors", state))
    assert base.weights_digest == random_base("mobilenet_v3_small").weights_digest
    assert not any(tensor.is_meta for tensor in base.module.state_dict().values())


def test_tensors_that_do_not_fit_are_each_named(tmp_path: Path) -> None:
    state = dict(small_state())
    del state["features.0.0.weight"]
    state["features.0.1.bias"] = torch.zeros(7)
    state["features.0.1.weight"] = torch.ones(16, dtype=torch.int64)
    state |= {f"backbone.{i}": torch.zeros(1) for i in range(11)}
    with pytest.raises(WeightsError) as caught:
        load_base("mobilenet_v3_small", write(tmp_path / "a.safetensors", state))
    message = str(caught.value)
    assert "missing: features.0.0.weight;" in message
    assert "features.0.1.bias is float (7,), not float (16,)" in message
    assert "features.0.1.weight is integer (16,), not float (16,)" in message
    assert "backbone.0, backbone.1" in message
    assert "and 3 more" in message
    assert str(tmp_path / "a.safetensors") in message


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in small_state().items()}
    state["features.0.1.running_var"][3] = value
    with pytest.raises(WeightsError, match=r"infinite: features\.0\.1\.running_var\."):
        load_base("mobilenet_v3_small", write(tmp_path / "a.pth", state))


@pytest.mark.parametrize("name", ["regnet_y_400mf", "swin_t", "mnasnet0_5"])
def test_a_file_restores_every_kind_of_network_and_leaves_the_callers_random_state(tmp_path: Path, name: str) -> None:
    before = torch.get_rng_state()
    base = load_base(name, write(tmp_path / "a.safetensors", untouched(name).state_dict()))
    random_base(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert base.weights_digest == random_base(name).weights_digest
    batch = pictures(base.transform.crop_size, 1)
    np.testing.assert_array_equal(base.features(batch), random_base(name).features(batch))


@pytest.mark.parametrize("name", RESCALING)
def test_equal_recipes_are_equal_features_where_the_input_is_rescaled(tmp_path: Path, name: str) -> None:
    network = untouched(name)
    of_file, of_seed = load_base(name, write(tmp_path / "a.pth", network.state_dict())), load_base(name, "random:0")
    assert (of_file.weights_digest, of_file.transform) == (of_seed.weights_digest, of_seed.transform)
    batch = pictures(of_file.transform.crop_size, 1)
    features = of_file.features(batch)
    np.testing.assert_array_equal(features, of_seed.features(batch))
    assert_close(features, what_the_classifier_gets(network, batch))
    network.transform_input = False  # type: ignore[assignment]
    assert not np.allclose(features, what_the_classifier_gets(network, batch), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("device", "way_out"),
    [
        ("cpu", "lower --batch-size$"),
        pytest.param(
            "cuda",
            "lower --batch-size, or use --device cpu$",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ),
    ],
)
def test_a_batch_without_room_says_what_to_lower(device: str, way_out: str) -> None:
    base = load_base("squeezenet1_1", "random:0", device=device)
    batch = torch.zeros(1, device=device).expand(10**9, 3, 224, 224)  # one number, shown 10^14 times
    with pytest.raises(BaseError, match=rf"memory on {device}\S*, with a batch of 1000000000 images .*{way_out}"):
        base.features(batch)


def test_the_feature_weights_of_vgg16_bring_their_own_transform(tmp_path: Path) -> None:
    plain, trap = (Transform.of(entry("vgg16", name)) for name in ("IMAGENET1K_V1", "IMAGENET1K_FEATURES"))
    assert plain.std == (0.229, 0.224, 0.225)
    assert trap.std == (1 / 255, 1 / 255, 1 / 255)
    assert trap.mean == (0.48235, 0.45882, 0.40784)
    assert transform_of_weights("vgg16", WeightsSource.parse("imagenet:IMAGENET1K_FEATURES")) == trap
    assert transform_of_weights("vgg16", WeightsSource.parse("imagenet")) == plain
    # torchvision: "missing values in the classifier module"; only the convolutions are valid.
    with parameters_without_storage():
        network = build("vgg16", 224, initialised=False)
    state = {n: torch.ones(t.shape) for n, t in network.state_dict().items() if n.startswith("features.")}
    state["classifier.0.weight"] = torch.full((4096, 8), torch.nan)
    downloaded = load_base("vgg16", write(tmp_path / "vgg16_features-amdegroot-88682ab5.pth", state))
    assert downloaded.transform == trap
    assert all(name.startswith("features.") for name in downloaded.module.state_dict())
    other = str(tmp_path / "mine.pth")
    assert transform_of_weights("vgg16", WeightsSource.parse(other)) == plain
    assert transform_of_weights("vgg16", WeightsSource.parse(other), "IMAGENET1K_FEATURES") == trap
    with pytest.raises(WeightsError, match="it has IMAGENET1K_V1, IMAGENET1K_FEATURES"):
        transform_of_weights("vgg16", WeightsSource.parse(other), "IMAGENET1K_V3")


def test_networks_without_a_first_entry_take_the_one_with_the_smallest_images() -> None:
    source = WeightsSource.parse("random:0")
    assert transform_of_weights("vit_h_14", source) == Transform.of(entry("vit_h_14", "IMAGENET1K_SWAG_LINEAR_V1"))


def test_a_vision_transformer_is_built_for_the_size_of_its_transform() -> None:
    side = Transform.of(entry("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")).crop_size
    assert sizes_of("vit_b_16", side).dimension == 768


@settings(deadline=None, max_examples=20)
@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700)).filter(lambda size: max(size) <= 100 * min(size)),
    st.sampled_from([("vgg16", "IMAGENET1K_FEATURES"), ("efficientnet_b0", "DEFAULT"), ("inception_v3", "DEFAULT")]),
    st.integers(0, 2**32 - 1),
)
def test_the_transform_is_torchvisions_exactly(size: tuple[int, int], named: tuple[str, str], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    transform = Transform.of(entry(*named))
    found = transform(image)
    assert found.dtype == torch.float32
    assert found.shape == (3, transform.crop_size, transform.crop_size)
    assert torch.equal(found, entry(*named).transforms()(image))


@pytest.mark.parametrize("name", base_names())
def test_a_transform_survives_json_and_rebuilds_the_preset(name: str) -> None:
    for each in models.get_model_weights(name):
        transform = Transform.of(each)
        assert Transform.from_dict(json.loads(json.dumps(transform.as_dict()))) == transform
        assert vars(transform.build()) | {"_modules": {}} == vars(each.transforms()) | {"_modules": {}}


def test_images_that_would_fill_the_memory_are_refused() -> None:
    transform = Transform.of(entry("vgg16"))
    with pytest.raises(UnreadableImage, match=r"1 x 30000 pixels, too elongated .* short side of 256"):
        transform(Image.new("RGB", (1, 30000)))
    with pytest.raises(UnreadableImage, match="its mode is L"):
        transform(Image.new("L", (300, 300)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_gives_float32_features_close_to_fp32(precision: str) -> None:
    batch = pictures(224, 1)
    base = load_base("squeezenet1_1", "random:0", precision=precision)
    exact, found = random_base("squeezenet1_1").features(batch), base.features(batch)
    assert found.dtype == np.float32
    assert base.weights_digest == random_base("squeezenet1_1").weights_digest, "it names the weights, not the precision"
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_what_a_machine_or_torchvision_lacks_is_said() -> None:
    with pytest.raises(BaseError, match=r"'resnet500' .* did you mean resnet50"):
        load_base("resnet500", "random:0")
    with pytest.raises(BaseError, match="choose fp32, tf32, bf16, fp16"):
        load_base("squeezenet1_1", "random:0", precision="fp8")
    for wrong in ("gpu", "mps", "meta"):
        with pytest.raises(BaseError, match="choose auto, cpu, cuda"):
            choose_device(wrong)
    with pytest.raises(BaseError, match=r"cuda:99 was asked for, and torch sees \d+ CUDA devices"):
        choose_device("cuda:99")
    assert str(choose_device("cpu:0")) == "cpu"
    with pytest.raises(BaseError, match=r"tf32 is arithmetic that GPUs have, .* choose fp32 or bf16"):
        load_base("squeezenet1_1", "random:0", precision="tf32")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_computes_the_same_in_fp32() -> None:
    batch = pictures(224)
    assert_close(
        load_base("resnet50", "random:0", device="cuda").features(batch), random_base("resnet50").features(batch)
    )


def test_the_table_of_the_docs_is_what_the_code_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bases.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert rows == [
        (name, str(side), str(sizes_of(name, side).dimension))
        for name, (_, side) in sorted({**NAMED, **OTHERS}.items())
    ]


@pytest.mark.real
@needs_weights
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenet_v2", "mobilenet_v2-imagenet-base.safetensors"),
        ("squeezenet1_1", "squeezenet1_1-imagenet.safetensors"),
    ],
)
def test_real_weights_load_and_tell_pictures_apart(name: str, file: str) -> None:
    base = load_base(name, str(Path(REAL or "", file)))
    assert base.transform == Transform.of(entry(name, "IMAGENET1K_V1"))
    assert base.weights_digest == tensor_digest(base.module.state_dict())
    features = base.features(pictures(224))
    assert features.shape == (2, NAMED[name][0])
    assert np.isfinite(features).all()
    assert not np.array_equal(features[0], features[1])
