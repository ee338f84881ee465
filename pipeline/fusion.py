"""A base as a CPU computes it fastest: each convolution in one call with its batch norm, addition and activation.

Three things, none of which changes more than the last bits. Batch norms are folded into the convolutions before them. A
convolution's sum with a shortcut and its activation are taken by oneDNN while the result is still in registers, with
weights laid out as the processor likes them: what torch's own compiler does, without the seconds and the C++ compiler
that it needs. And images pass in slices that are so small that what one layer writes is still in the processor's cache
when the next one reads it. What cannot be traced or fused is computed as torch does.
"""

import operator
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.environment import last_cache

# oneDNN's names of activations, with their numbers; the modules that are one, and the functions.
RELU: tuple[str, list[float]] = ("relu", [])
ACTIVATIONS: dict[Any, tuple[str, list[float]]] = {
    nn.ReLU: RELU,
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
    nn.Sigmoid: ("sigmoid", []),
    nn.Hardsigmoid: ("hardsigmoid", []),
    nn.functional.relu: RELU,
    torch.relu: RELU,
}
ADDITIONS = (operator.add, operator.iadd, torch.add)
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


class FusedConvolution(nn.Module):
    """A convolution that adds a shortcut, if it is given one, and applies an activation, all in one call.

    Args:
        convolution: The convolution, with zeros around the image.
        dtype: What to compute in.
    """

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = convolution.weight.detach().to(dtype, memory_format=torch.channels_last)
        self.bias = None if convolution.bias is None else convolution.bias.detach().to(dtype)
        self.padding = [size for size in convolution.padding if not isinstance(size, str)]
        self.how = (self.padding, list(convolution.stride), list(convolution.dilation), convolution.groups)
        self.activation: tuple[str, list[float]] = ("none", [])
        self._packed, self._rows = self.weight, 0

    def forward(self, images: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Convolve (B, C, H, W)."""
        if len(images) > self._rows:  # the layout that is best depends on how many images there are at most
            self._rows = len(images)
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.how, list(images.shape))
        operands = (self._packed, self.bias, *self.how)
        name, numbers = self.activation
        result: Tensor
        if shortcut is None:
            result = torch.ops.mkldnn._convolution_pointwise(images, *operands, name, numbers, "")
        else:
            after = None if name == "none" else name
            result = torch.ops.mkldnn._convolution_pointwise(
                images, shortcut, *operands, "add", 1.0, after, numbers, None
            )
        return result


def fused(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Join the convolutions of a network with what follows them.

    Args:
        network: A network in evaluation mode, in float32 and on the CPU; it stays as it is.
        dtype: What the convolutions are to compute in; all else is left as the network has it, and shared with it.

    Returns:
        A network that computes the same, or the network itself if it cannot be traced.
    """
    try:
        traced = fx.symbolic_trace(network)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # its code needs more than a trace can give
        return network
    graph = _Graph(traced)
    graph.fold_norms()
    if fuses(dtype):
        graph.fuse_convolutions(dtype)
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return traced


@lru_cache
def fuses(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor have fused convolutions in a format, and they compute what they should.

    They are what torch's compiler calls, under names that another version may change: so they are tried out.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.default_generator.manual_seed(0)
        images = torch.randn(2, 8, 6, 6).to(dtype, memory_format=torch.channels_last)
        try:
            for kind in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid):
                plain = nn.Conv2d(8, 8, 3, padding=1)
                quick, exact = FusedConvolution(plain, dtype), plain(images.float())
                quick.activation = ACTIVATIONS[kind]
                pairs = [(quick(images), kind()(exact))]
                if quick.activation is RELU:
                    pairs.append((quick(images, images), nn.functional.relu(exact + images.float())))
                limit = AGREEMENT[dtype]
                if not all(torch.allclose(found.float(), other, limit, limit) for found, other in pairs):
                    return False
        except (RuntimeError, AttributeError, TypeError, NotImplementedError):
            return False
    return True


def images_at_once(numbers: int, itemsize: int) -> int:
    """Return how many images to put through a network together so that its layers hand them on in the cache.

    Args:
        numbers: Of the largest layer's input and output together, for one image.
        itemsize: Bytes a number.
    """
    return max(1, last_cache() // (numbers * itemsize))


class _Graph:
    """A traced network in which neighbours are joined."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.nodes = traced, traced.graph.nodes
        self.modules = dict(traced.named_modules())
        uses = Counter(node.target for node in self.nodes if node.op == "call_module")
        self.once = {target for target, count in uses.items() if count == 1}

    def fold_norms(self) -> None:
        """Fold batch norms into the convolutions before them."""
        for node, convolution in self._convolutions():
            after = self._only_user(node)
            norm = self._module(after)
            if after is not None and type(norm) is nn.BatchNorm2d and after.target in self.once:
                self._replace(node, fuse_conv_bn_eval(convolution, norm))
                self._skip(after, node)

    def fuse_convolutions(self, dtype: torch.dtype) -> None:
        """Let the convolutions take additions and activations upon themselves."""
        found: list[tuple[fx.Node, FusedConvolution]] = []
        for node, convolution in self._convolutions():
            if convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str):
                found.append((node, FusedConvolution(convolution, dtype)))
                self._replace(node, found[-1][1])
        place = {node: number for number, node in enumerate(self.nodes)}
        for node, _ in found:
            after = self._only_user(node)
            if after is not None and after.op == "call_function" and after.target in ADDITIONS:
                self._take_addition(node, after, place)
        for node, joined in found:
            after = self._only_user(node)
            adds = len(node.args) > 1
            if after is not None and (activation := self._activation(after)) and (not adds or activation is RELU):
                joined.activation = activation
                self._skip(after, node)

    def _take_addition(self, node: fx.Node, addition: fx.Node, place: dict[fx.Node, int]) -> None:
        terms = addition.args
        others = [term for term in terms if term is not node]
        plain = len(terms) == 2 and len(others) == 1 and not addition.kwargs and len(node.args) == 1
        # What is added must be there before the convolution is computed.
        if plain and isinstance(others[0], fx.Node) and place[others[0]] < place[node]:
            node.args = (*node.args, others[0])
            self._skip(addition, node)

    def _convolutions(self) -> Sequence[tuple[fx.Node, nn.Conv2d]]:
        pairs = [(node, self._module(node)) for node in self.nodes if node.target in self.once]
        return [(node, module) for node, module in pairs if type(module) is nn.Conv2d]

    def _activation(self, node: fx.Node) -> tuple[str, list[float]] | None:
        if node.op == "call_module":
            return ACTIVATIONS.get(type(self._module(node)))
        return ACTIVATIONS.get(node.target) if node.op == "call_function" else None

    def _module(self, node: fx.Node | None) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node is not None and node.op == "call_module" else None

    def _only_user(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def _replace(self, node: fx.Node, module: nn.Module) -> None:
        parent, _, name = str(node.target).rpartition(".")
        setattr(self.traced.get_submodule(parent), name, module)
        self.modules[str(node.target)] = module

    def _skip(self, node: fx.Node, before: fx.Node) -> None:
        node.replace_all_uses_with(before)
        self.traced.graph.erase_node(node)
