"""A base: a torchvision classification network without its classifier, frozen, in evaluation mode.

torch is imported by the functions that need it, never by importing this module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import BaseError, WeightsError
from pipeline.memory import enough_memory
from pipeline.progress import SILENT, Progress
from pipeline.reading import brief
from pipeline.transform import Transform, transform_of_weights
from pipeline.weights import WeightsSource, entries, load_state, tensor_digest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LAST_STAGES = ("classifier", "fc", "heads", "head")
AUXILIARY = ("AuxLogits", "aux1", "aux2")
SHOWN = 8


@dataclass(frozen=True)
class Base:
    """A frozen network that turns images into features; get one from `load_base`.

    Args:
        name: Name of the torchvision network.
        module: The network without its classifier, frozen, in evaluation mode, on its device.
        dimension: Number of features of an image.
        transform: What an image goes through before the network.
        weights_digest: Digest of the float32 tensors in use, see `pipeline.weights.tensor_digest`.
        weights: Where the tensors came from, as `--weights` names it.
        precision: `fp32`, `bf16` or `fp16`: what the network computes in.
        device: Where it computes, e.g. `cpu` or `cuda:1`.
    """

    name: str
    module: nn.Module
    dimension: int
    transform: Transform
    weights_digest: str
    weights: str
    precision: str = "fp32"
    device: str = "cpu"

    def features(self, batch: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Compute the features of a batch of transformed images.

        On a GPU, fp32 means fp32: TF32 is switched off and algorithms are deterministic.

        Args:
            batch: Float32 tensor (B, 3, H, W) of transformed images, on any device.

        Returns:
            Float32 array (B, dimension), whatever the precision.

        Raises:
            BaseError: The device cannot compute this network in this precision, or has no room for the batch.
        """
        import torch

        dtype, on_gpu = getattr(torch, PRECISIONS[self.precision]), self.device != "cpu"
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        no_room = BaseError(
            f"{self.name} ran out of memory on {self.device}, with a batch of {len(batch)} images of "
            f"{batch.shape[-1]} x {batch.shape[-2]} in {self.precision}: lower --batch-size"
            f"{', or use --device cpu' if on_gpu else ''}"
        )
        try:
            with enough_memory(no_room), torch.inference_mode(), exact if on_gpu else nullcontext():
                images = batch.to(self.device, dtype, memory_format=torch.channels_last)
                features: np.ndarray[Any, np.dtype[np.float32]] = self.module(images).flatten(1).float().cpu().numpy()
                return features
        except RuntimeError as error:
            if "not implemented for" not in str(error):
                raise
            raise BaseError(
                f"{self.name} cannot run in {self.precision} on {self.device} ({error}): choose another precision"
            ) from error


def base_names() -> list[str]:
    """List every base: the names of torchvision's classification networks."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def choose_device(device: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device of this machine.

    Args:
        device: The device asked for; `auto` is the first GPU where there is one, else the CPU.

    Returns:
        The device.

    Raises:
        BaseError: The machine has no such device.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise BaseError(f"device {device!r} is none that manyheads knows: choose auto, cpu, cuda or cuda:1")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise BaseError(f"device {device} was asked for, and torch sees {count} CUDA devices: choose cpu or auto")
    return chosen


def load_base(
    name: str = "vgg16",
    weights: str | WeightsSource = "imagenet",
    *,
    transform_of: str | None = None,
    transform: Transform | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Base:
    """Load a network, cut its classifier off and freeze it.

    Args:
        name: Name of a torchvision classification network.
        weights: `imagenet`, `imagenet:NAME`, `random:SEED` or a file, see `pipeline.weights.WeightsSource`.
        transform_of: Name of the torchvision entry whose transform to take; by default see `transform_of_weights`.
        transform: The transform itself, from a recipe; then `transform_of` does not matter.
        precision: `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        progress: Told of a download.

    Returns:
        The base, ready to compute features.

    Raises:
        BaseError: The network, the precision or the device is unknown or absent.
        WeightsError: The weights cannot be had, or do not fit the network.
    """
    import torch

    source = weights if isinstance(weights, WeightsSource) else WeightsSource.parse(weights)
    entries(name)  # refuses what is no network's name
    if precision not in PRECISIONS:
        raise BaseError(f"precision {brief(precision)!r} is none that manyheads knows: choose {', '.join(PRECISIONS)}")
    target = choose_device(device)
    transform = transform or transform_of_weights(name, source, transform_of)
    if source.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(source.seed)
            network = _build(name, transform.crop_size, initialised=True)
        _cut(network)
    else:
        with _parameters_without_storage():
            network = _build(name, transform.crop_size, initialised=False)
        _fill(network, load_state(source, name, progress), _cut(network), f"{name} with weights {source}")
    digest = tensor_digest(network.state_dict())
    network.eval().requires_grad_(False).to(target, getattr(torch, PRECISIONS[precision]))
    return Base(
        name=name,
        module=network.to(memory_format=torch.channels_last),
        dimension=dimension_of(name, transform.crop_size),
        transform=transform,
        weights_digest=digest,
        weights=str(source),
        precision=precision,
        device=str(target),
    )


def dimension_of(name: str, image_size: int) -> int:
    """Find how many features a base gives, without weights and without arithmetic.

    Args:
        name: Name of a torchvision classification network.
        image_size: Side of its input, in pixels.

    Returns:
        Number of features of an image.
    """
    import torch

    with _parameters_without_storage():
        network = _build(name, image_size, initialised=False)
    _cut(network)
    features = network.eval().to("meta")(torch.empty(1, 3, image_size, image_size, device="meta"))
    return int(features.flatten(1).shape[1])


def _build(name: str, image_size: int, *, initialised: bool) -> nn.Module:
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
def _parameters_without_storage() -> Iterator[None]:
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        """Puts `torch.empty`, of which parameters are made, on the meta device; computed buffers stay real."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})

    with torch.random.fork_rng(devices=[]), EmptyOnMeta():
        yield


def _cut(network: nn.Module) -> tuple[str, ...]:
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


def _fill(network: nn.Module, state: Mapping[str, Tensor], ignored: tuple[str, ...], what: str) -> None:
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
