"""What was exported, and how it is read."""

from typing import TYPE_CHECKING

from rich.console import Console

from cache.atomic import human_size
from pipeline.tables.printing import print_lines
from pipeline.wording import counted

if TYPE_CHECKING:
    from cache.export import Export


def show_export(result: "Export", console: Console) -> None:
    """Say what a file holds, and what to type in Python to read it."""
    reader = "numpy.load" if result.file.suffix.lower() == ".npz" else "h5py.File"
    of_images = "" if result.rows == result.images else f" of {counted(result.images, 'image')}"
    print_lines(
        console,
        [
            f"{counted(result.rows, 'feature')}{of_images} of {result.classes} classes, {result.dimension} "
            f"{result.storage} numbers each, in {result.file}, {human_size(result.size)}.",
            f'read it: {reader}({str(result.file)!r})["features"][:]',
        ],
    )
