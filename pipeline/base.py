"""A base: a torchvision classification network without its classifier, frozen, in evaluation mode.

torch is imported by the functions that need it, never by importing this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import BaseError
from pipeline.memory import enough_memory, keep_freed_memory
from pipeline.network import build, cut, fill, parameters_without_storage, sizes_of
from pipeline.progress import SILENT, Progress
from pipeline.reading import brief
from pipeline.transform import Transform, transform_of_weights
from pipeline.weights import WeightsSource, entries, load_state, tensor_digest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

PRECISIONS = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
BACKENDS = ("torch", "openvino")


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
        precision: `fp32`, `tf32` (on a GPU), `bf16` or `fp16`: what the network computes in.
        device: Where it computes, e.g. `cpu` or `cuda:1`.
        computing: What computes in the module's place, because it is faster: see `pipeline.fusion`, and
            `pipeline.openvino_network` where that is the backend.
        at_once: Images that pass through it together; all of a batch if None.
        backend: `torch`, or `openvino`, which is given all images as they are.
    """

    name: str
    module: nn.Module
    dimension: int
    transform: Transform
    weights_digest: str
    weights: str
    precision: str = "fp32"
    device: str = "cpu"
    computing: Callable[[Tensor], Tensor] | None = None
    at_once: int | None = None
    backend: str = "torch"

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
        features: np.ndarray[Any, np.dtype[np.float32]] = self.compute(batch).cpu().numpy()
        return features

    def compute(self, batch: Tensor) -> Tensor:
        """Compute features as `features` does, and leave them where the base is."""
        import torch

        no_room = BaseError(
            f"{self.name} ran out of memory on {self.device}, with a batch of {len(batch)} images of "
            f"{batch.shape[-1]} x {batch.shape[-2]} in {self.precision}: lower --batch-size"
            f"{', or use --device cpu' if self.on_gpu else ''}"
        )
        network, dtype = self.computing or self.module, getattr(torch, PRECISIONS[self.precision])
        try:
            with enough_memory(no_room), torch.inference_mode(), self._arithmetic():
                if self.backend == "openvino":
                    return network(batch)
                images = batch.to(self.device, dtype, memory_format=torch.channels_last)
                slices = images.tensor_split(max(1, -(-len(images) // (self.at_once or max(1, len(images))))))
                parts = [network(part).flatten(1).float() for part in slices]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
        except RuntimeError as error:
            if "not implemented for" not in str(error):
                raise
            raise BaseError(
                f"{self.name} cannot run in {self.precision} on {self.device} ({error}): choose another precision"
            ) from error

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device != "cpu"

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """On a GPU, let convolutions and matrix products use TF32 if that was asked for, and else forbid it."""
        import torch

        if not self.on_gpu:
            yield
            return
        tf32, before = self.precision == "tf32", torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


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
    return torch.device("cpu") if chosen.type == "cpu" else chosen


def choose_devices(devices: str) -> list[str]:
    """Turn `cuda:all`, or devices with commas between them, into devices of this machine.

    Args:
        devices: What was asked for; one device as `choose_device` takes it is a list of one.

    Returns:
        Their names, such as `cuda:0`.

    Raises:
        BaseError: The machine has no such device.
    """
    import torch

    if devices == "cuda:all":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [f"cuda:{number}" for number in range(count)] or [str(choose_device("cuda"))]  # which says what is wrong
    return [str(choose_device(name.strip())) for name in devices.split(",")]


def load_base(
    name: str = "vgg16",
    weights: str | WeightsSource = "imagenet",
    *,
    transform_of: str | None = None,
    transform: Transform | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    backend: str = "torch",
    progress: Progress = SILENT,
) -> Base:
    """Load a network, cut its classifier off and freeze it.

    Args:
        name: Name of a torchvision classification network.
        weights: `imagenet`, `imagenet:NAME`, `random:SEED` or a file, see `pipeline.weights.WeightsSource`.
        transform_of: Name of the torchvision entry whose transform to take; by default see `transform_of_weights`.
        transform: The transform itself, from a recipe; then `transform_of` does not matter.
        precision: `fp32`, `tf32` (on a GPU), `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        backend: What computes: `torch`, or `openvino`, on a CPU and if it is installed.
        progress: Told of a download.

    Returns:
        The base, ready to compute features.

    Raises:
        BaseError: The network, the precision, the device or the backend is unknown or absent.
        WeightsError: The weights cannot be had, or do not fit the network.
    """
    import torch

    source = weights if isinstance(weights, WeightsSource) else WeightsSource.parse(weights)
    entries(name)  # refuses what is no network's name
    if precision not in PRECISIONS:
        raise BaseError(f"precision {brief(precision)!r} is none that manyheads knows: choose {', '.join(PRECISIONS)}")
    target = choose_device(device)
    if precision == "tf32" and target.type == "cpu":
        raise BaseError("precision tf32 is arithmetic that GPUs have, and the base is on the CPU: choose fp32 or bf16")
    if backend not in BACKENDS:
        raise BaseError(f"backend {brief(backend)!r} is none that manyheads knows: choose {' or '.join(BACKENDS)}")
    if backend == "openvino" and target.type != "cpu":
        raise BaseError(f"backend openvino is for CPUs, and the base is to run on {target}: choose --device cpu")
    transform = transform or transform_of_weights(name, source, transform_of)
    if source.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(source.seed)
            network = build(name, transform.crop_size, initialised=True)
        cut(network)
    else:
        with parameters_without_storage():
            network = build(name, transform.crop_size, initialised=False)
        fill(network, load_state(source, name, progress), cut(network), f"{name} with weights {source}")
    digest = tensor_digest(network.state_dict())
    network.eval().requires_grad_(False)
    dtype, sizes = getattr(torch, PRECISIONS[precision]), sizes_of(name, transform.crop_size)
    computing: Callable[[Tensor], Tensor] | None = None
    at_once = None
    if target.type == "cpu":
        from pipeline.fusion import fused, images_at_once
        from pipeline.openvino_network import OpenVINONetwork

        keep_freed_memory()
        if backend == "openvino":
            computing = OpenVINONetwork(network, sizes.dimension, transform.crop_size, precision)
        else:
            at_once = images_at_once(sizes.largest, dtype.itemsize)
            computing = fused(network, dtype).to(dtype).to(memory_format=torch.channels_last)
    return Base(
        name=name,
        module=network.to(target, dtype).to(memory_format=torch.channels_last),
        dimension=sizes.dimension,
        transform=transform,
        weights_digest=digest,
        weights=str(source),
        precision=precision,
        device=str(target),
        computing=computing,
        at_once=at_once,
        backend=backend,
    )
