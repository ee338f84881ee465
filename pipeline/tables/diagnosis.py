"""What an installation runs on."""

from typing import TYPE_CHECKING

from rich.console import Console

from cache.atomic import human_size
from pipeline.tables.printing import print_lines

if TYPE_CHECKING:
    from pipeline.doctor import Diagnosis


def show_diagnosis(result: "Diagnosis", console: Console) -> None:
    """Tell what this installation runs on."""
    said = [f"{name}: {version}" for name, version in result.versions.items()]
    said += [f"{name}: {value}" for name, value in result.machine.items()]
    if result.memory_free is not None:
        said.append(f"memory free: {human_size(result.memory_free)}")
    said += [f"disk free in {folder}: {human_size(free)}" for folder, free in result.disk_free.items()]
    said += [
        f"device {name}: {what}, natively {', '.join(result.precisions[name])}" for name, what in result.devices.items()
    ]
    said.append(f"weights in {result.weights_folder}: {len(result.weights) or 'none'}")
    said += [f"  {file}: {entry}" for file, entry in result.weights.items()]
    print_lines(console, said)
