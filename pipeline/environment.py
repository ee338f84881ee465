"""What a result was made with: library versions and the machine."""

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "manyheads",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "h5py",
    "joblib",
    "threadpoolctl",
    "pillow",
    "safetensors",
    "skops",
    "matplotlib",
    "click",
    "rich",
)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and of every library that manyheads depends on; nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a plain checkout that was never installed
            found[package] = "not installed"
    return found


def machine(device: str = "cpu") -> dict[str, str | int]:
    """Return what a result's speed depends on: processor, cores, system, and the GPU where one was used.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
    """
    found: dict[str, str | int] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
    }
    if device == "cpu":
        return found
    import torch

    return {**found, "gpu": torch.cuda.get_device_name(device)}


def decoders() -> int:
    """Return how many threads or processes decode: as many as processors, at most 16."""
    return min(os.cpu_count() or 1, 16)


def native_precisions(device: str) -> list[str]:
    """Return the arithmetic that a device has of its own: `fp32`, and `bf16` and `fp16` where it is fast.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
    """
    if device != "cpu":
        import torch

        # Before Volta half precision is slower than single, before Ampere there is no bf16.
        capability = torch.cuda.get_device_capability(device)
        return ["fp32", *(["fp16"] if capability >= (7, 0) else []), *(["bf16"] if capability >= (8, 0) else [])]
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        flags = set()
    native = ["fp32"]
    if flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        native.append("bf16")
    if flags & {"avx512_fp16", "amx_fp16", "asimdhp"}:
        native.append("fp16")
    return native


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
