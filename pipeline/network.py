"""The networks that bases are made of: built, cut where the classifier begins, filled with tensors.

torch is imported by the functions that need it, never by importing this module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

LAST_STAGES = ("classifier", "fc", "heads", "head")
AUXILIARY = ("AuxLogits", "aux1", "aux2")
SHOWN = 8


class Sizes(NamedTuple):
    """How large a network is for one image: its features, and its largest layer's input and output together."""

    dimension: int
    largest: int


def sizes_of(name: str, image_size: int) -> Sizes:
    """Find how many numbers a base makes of an image, without weights and without arithmetic.

    Args:
        name: Name of a torchvision classification network.
        image_size: Side of its input, in pixels.

    Returns:
        Its sizes.
    """
    import torch

    with parameters_without_storage():
        network = build(name, image_size, initialised=False)
    cut(network)
    largest = 0

    def look(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(one.numel() for one in (*given, made) if isinstance(one, torch.Tensor)))

    for module in network.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(look)
    features = network.eval().to("meta")(torch.empty(1, 3, image_size, image_size, device="meta"))
    return Sizes(int(features.flatten(1).shape[1]), largest)


def build(name: str, image_size: int, *, initialised: bool) -> nn.Module:
    """Build a network of torchvision's.

    Args:
        name: Its name.
        image_size: Side of its input, in pixels.
        initialised: Whether its weights are drawn as torchvision draws them.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    if name in ("inception_v3", "googlenet"):
        # Pretrained weights expect inputs scaled their way. All others get them too: where tensors come from is no
        # part of a recipe. Without `init_weights` torchvision warns; `True` is what leaving it out means.
        options |= {"init_weights": initialised, "transform_input": True}
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


@contextmanager
def parameters_without_storage() -> Iterator[None]:
    """Let networks be built whose parameters take no memory and no time, until they are filled."""
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        """Puts `torch.empty`, of which parameters are made, on the meta device; computed buffers stay real."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})

    with torch.random.fork_rng(devices=[]), EmptyOnMeta():
        yield


def cut(network: nn.Module) -> tuple[str, ...]:
    """Cut the classifier and auxiliary outputs off, in place, and return the prefixes that their tensors' names have.

    One rule for all networks: of the last stage, everything from the first layer with a projection on goes, except
    pooling without parameters; so does dropout. Normalisation, pooling and flattening before it stay.
    """
    from torch import nn

    pooling = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)
    stage_name, stage = next((n, child) for n, child in network.named_children() if n in LAST_STAGES)
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    projected = not isinstance(stage, nn.Sequential)
    for layer_name, layer in stage.named_children():
        projected = projected or any(isinstance(part, (nn.Linear, nn.Conv2d)) for part in layer.modules())
        if isinstance(layer, pooling) or not (projected or isinstance(layer, nn.Dropout)):
            kept[layer_name] = layer
    setattr(network, stage_name, nn.Sequential(kept))
    auxiliary = [n for n, _ in network.named_children() if n in AUXILIARY]
    for aux_name in auxiliary:
        setattr(network, aux_name, None)
    return tuple(f"{n}." for n in (stage_name, *auxiliary))


def fill(network: nn.Module, state: Mapping[str, Tensor], ignored: tuple[str, ...], what: str) -> None:
    """Put a file's tensors into a cut network, or name every tensor that does not fit."""
    wanted = network.state_dict()
    given = {name: tensor for name, tensor in state.items() if name in wanted or not name.startswith(ignored)}
    missing = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    unknown = [n for n in given if n not in wanted]
    misshapen = [
        f"{n} is {_kind(given[n])}, not {_kind(wanted[n])}"
        for n in wanted
        if n in given and _kind(given[n]) != _kind(wanted[n])
    ]
    faults = [
        f"{fault} {_listed(names)}"
        for fault, names in (("missing:", missing), ("unknown:", unknown), ("misshapen:", misshapen))
        if names
    ]
    if len(missing) > len(wanted) / 2:
        raise WeightsError(
            f"{what}: these look like another network's weights: {len(missing)} of {len(wanted)} tensors are missing "
            f"(such as {missing[0]}), {len(unknown)} are unknown{f' (such as {unknown[0]})' if unknown else ''}. "
            "Check which network the file belongs to, and name that as the base"
        )
    if faults:
        raise WeightsError(
            f"{what}: the tensors do not fit the network. {'; '.join(faults)}. "
            "Check that the file holds the state_dict() of this network, with or without its classifier"
        )
    broken = [n for n, tensor in given.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(f"{what}: not a number or infinite: {_listed(broken)}. Use weights that are finite")
    wanted.update(given)
    network.load_state_dict(wanted, assign=True)


def _kind(tensor: Tensor) -> str:
    return f"{'float' if tensor.is_floating_point() else 'integer'} {tuple(tensor.shape)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
