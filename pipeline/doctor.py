"""`doctor`: what to paste into a bug report."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.environment import machine, native_precisions, versions


@dataclass(frozen=True)
class Diagnosis:
    """What this installation runs on.

    Attributes:
        versions: Of Python and the libraries.
        machine: Processor, cores, system.
        memory_free: Bytes of memory that programs can have, or None where the system does not say.
        disk_free: Folder -> free bytes, for the current folder and the one for temporary files.
        devices: Device -> its name.
        precisions: Device -> arithmetic that it has natively.
        weights_folder: Where torchvision keeps downloaded weights.
        weights: Files in it that are weights of a base, with the base.
    """

    versions: dict[str, str]
    machine: dict[str, str | int]
    memory_free: int | None
    disk_free: dict[str, int]
    devices: dict[str, str]
    precisions: dict[str, list[str]]
    weights_folder: str
    weights: dict[str, str]


def diagnose() -> Diagnosis:
    """Look at versions, devices, native precisions and weights; nothing is downloaded or changed."""
    import torch

    processor = str(machine()["processor"])
    devices = {"cpu": processor}
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        devices[f"cuda:{number}"] = torch.cuda.get_device_name(number)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return Diagnosis(
        versions=versions(),
        machine=machine(),
        memory_free=_memory_free(),
        disk_free={name: shutil.disk_usage(name).free for name in (str(Path.cwd()), tempfile.gettempdir())},
        devices=devices,
        precisions={name: native_precisions(name) for name in devices},
        weights_folder=str(folder),
        weights=_weights(folder),
    )


def _memory_free() -> int | None:
    try:  # Linux counts what its file cache would give back; the free pages alone are few on any busy machine
        for line in Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _weights(folder: Path) -> dict[str, str]:
    """Return the downloaded weights: file name -> base and entry."""
    from pipeline.base import base_names
    from pipeline.weights import entries

    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    found: dict[str, Any] = {}
    for base in base_names() if present else ():
        for entry in entries(base):
            file = entry.url.rsplit("/", 1)[-1]
            if file in present:
                found[file] = f"{base}, {entry.name}"
    return found
