"""What a result was made with: library versions and the machine."""

import os
import platform
from contextlib import suppress
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
    "jinja2",
    "click",
    "rich",
)
OPTIONAL = ("openvino",)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and of every library that manyheads depends on; nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a plain checkout that was never installed
            found[package] = "not installed"
    for package in OPTIONAL:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
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
    """Return the arithmetic that a device has of its own: `fp32`, and `bf16`, `fp16` and `tf32` where it is fast.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
    """
    if device != "cpu":
        import torch

        # Before Volta half precision is slower than single, before Ampere there is no bf16.
        capability = torch.cuda.get_device_capability(device)
        return [
            "fp32",
            *(["fp16"] if capability >= (7, 0) else []),
            *(["bf16", "tf32"] if capability >= (8, 0) else []),
        ]
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


def quicker_precision(precision: str, device: str) -> str | None:
    """Return a precision in which a device computes much faster than in this one, if it has one: bf16 before fp16.

    Args:
        precision: The one that was asked for; only `fp32` is slow.
        device: `cpu`, `cuda` or `cuda:1`.
    """
    native = native_precisions(device) if precision == "fp32" else []
    return next((quicker for quicker in ("bf16", "fp16") if quicker in native), None)


@lru_cache
def last_cache(system: Path = Path("/sys/devices/system/cpu")) -> int:
    """Return the bytes of the processor's last cache, all of its pieces together; 16 MiB where nothing tells.

    Args:
        system: Where Linux describes the processors.
    """
    sizes: dict[str, int] = {}
    for folder in sorted(system.glob("cpu[0-9]*/cache/index[0-9]*")):
        with suppress(OSError, ValueError):  # a container may hide them
            told = {name: (folder / name).read_text(encoding="ascii").strip() for name in ("level", "size", "type")}
            if told["type"] != "Instruction":
                shared = (folder / "shared_cpu_list").read_text(encoding="ascii").strip()
                sizes[f"{told['level']} {shared}"] = int(told["size"].removesuffix("K")) * 1024
    last = max((name.split()[0] for name in sizes), default="")
    return sum(size for name, size in sizes.items() if name.split()[0] == last) or 16 * 2**20


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
