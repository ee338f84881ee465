"""Fused networks compute what the plain ones do, whatever is joined, and leave those as they were."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from pipeline import fusion
from pipeline.fusion import FusedConvolution, fused, fuses, images_at_once

needs_onednn = pytest.mark.skipif(not fuses(torch.float32), reason="this torch has no fused convolutions")


class Shortcut(nn.Module):
    """What can go wrong: a sum before or after its terms, terms that are used again, a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.second_norm = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.aside = nn.Conv2d(8, 8, 1)
        self.twice = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.relu, self.capped, self.silu = nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU()

    def forward(self, images: Tensor) -> Tensor:
        shared = self.norm(self.first(images))  # used before and after an activation
        found = self.relu(self.second_norm(self.second(shared)) + shared)
        found = self.capped(self.aside(found) + found)  # no such pair of addition and activation is fused
        found += self.twice(self.silu(self.twice(found)))
        result: Tensor = self.same(self.mirrored(found)).relu() + shared
        return result


def lively(network: nn.Module) -> nn.Module:
    """Batch norms that are no identities."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, least in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + least)
    return network.eval().requires_grad_(False)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lively(make())


@cache
def pictures(side: int = 64, count: int = 5) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def difference(network: nn.Module, other: nn.Module, images: Tensor) -> float:
    with torch.inference_mode():
        expected, found = network(images).float(), other(images.contiguous(memory_format=torch.channels_last)).float()
    return float((expected - found).abs().max() / expected.abs().max())


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    assert isinstance(network, torch.fx.GraphModule)
    called = {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
    return [type(module) for name, module in network.named_modules() if name in called]


@needs_onednn
@pytest.mark.parametrize("make", [Shortcut, models.resnet18, models.mobilenet_v2, models.mobilenet_v3_small])
def test_a_fused_network_computes_the_same(make: Callable[[], nn.Module]) -> None:
    network = built(make)
    quick = fused(network, torch.float32)
    assert FusedConvolution in kinds(quick)
    assert difference(network, quick, pictures()) < 1e-5


@needs_onednn
def test_nothing_is_left_to_do_after_the_convolutions_of_a_resnet() -> None:
    quick = fused(built(models.resnet18), torch.float32)
    assert isinstance(quick, torch.fx.GraphModule)
    assert set(kinds(quick)) == {FusedConvolution, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Linear}
    assert [node.target for node in quick.graph.nodes if node.op == "call_function"] == [torch.flatten]


@needs_onednn
def test_only_what_belongs_together_is_joined() -> None:
    left = kinds(fused(built(Shortcut), torch.float32))
    assert left.count(FusedConvolution) == 3
    assert left.count(nn.Conv2d) == 3  # called twice, mirrored, or padded by a word
    assert nn.BatchNorm2d not in left
    assert nn.ReLU not in left
    assert nn.ReLU6 in left


def test_the_network_itself_stays_as_it_was() -> None:
    network = built(models.resnet18)
    before, expected = copy.deepcopy(network.state_dict()), network(pictures())
    fused(network, torch.bfloat16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network(pictures()), expected)


@needs_onednn
def test_the_number_of_images_at_once_changes_no_bit() -> None:
    network = built(models.mobilenet_v2)
    network.classifier = nn.Identity()  # whose sums do depend on it
    quick, images = fused(network, torch.float32), pictures().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        together = quick(images)
        for count in (1, 2, 3):  # also more than weights were packed for, and fewer
            assert torch.equal(torch.cat([quick(part) for part in images.split(count)]), together)  # type: ignore[no-untyped-call]


@pytest.mark.skipif(not fuses(torch.bfloat16), reason="this processor or torch has no fused convolutions in bf16")
def test_bf16_is_as_close_as_the_plain_network_in_bf16() -> None:
    exact = built(models.resnet18)
    quick = fused(built(models.resnet18), torch.bfloat16).to(torch.bfloat16)
    plain = built(models.resnet18).to(torch.bfloat16)
    with torch.inference_mode():
        expected, images = exact(pictures()), pictures().to(torch.bfloat16)
        ours, torchs = (
            (network(images.contiguous(memory_format=torch.channels_last)).float() - expected).abs().max()
            for network in (quick, plain)
        )
    assert 0 < ours < 2 * torchs


def test_without_fused_convolutions_norms_are_folded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "fuses", lambda dtype: False)
    network = built(models.resnet18)
    plain = fused(network, torch.float32)
    assert FusedConvolution not in kinds(plain)
    assert nn.BatchNorm2d not in kinds(plain)
    assert difference(network, plain, pictures()) < 1e-5


@pytest.mark.parametrize("wrong", ["missing", "another result"])
def test_an_operator_that_is_not_what_it_was_is_not_used(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def other(images: Tensor, *_: object) -> Tensor:
        return images * 1.001

    class Operators:
        _reorder_convolution_weight = staticmethod(lambda weight, *_: weight)
        if wrong != "missing":
            _convolution_pointwise = staticmethod(other)

    fuses.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(torch.ops, "mkldnn", Operators)
        assert not fuses(torch.float32)
    fuses.cache_clear()


def test_what_cannot_be_traced_stays_itself() -> None:
    class Undecided(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    network = Undecided().eval()
    assert fused(network, torch.float32) is network


def test_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "last_cache", lambda: 1000)
    assert [images_at_once(*sizes) for sizes in ((100, 4), (100, 2), (1000, 4))] == [2, 5, 1]
