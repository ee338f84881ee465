"""Pictures as files: PNG, or SVG beside it, written whole, drawn again only when what they show has changed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cache.atomic import writing_file
from pipeline.figures.lettering import any_letter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_once(path: Path, content: object, draw: Callable[[], "Figure"], *, vector: bool = False) -> Path:
    """Draw a picture, unless the one that is there was drawn from the same content.

    Args:
        path: The file; it holds a digest of the content.
        content: All that the picture depends on, the version of the drawing included, as JSON could hold it.
        draw: Makes the figure; called only if need be.
        vector: Whether the same is written as SVG too, beside the file.

    Returns:
        The file.

    Raises:
        NoRoom: The disk is full or read-only.
    """
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    beside = path.with_suffix(".svg")
    if _key(path) != key or (vector and not beside.exists()):
        figure = draw()
        if vector:
            save_vector(figure, beside)
        save_figure(figure, path, key)
    return path


def save_figure(figure: "Figure", path: Path, key: str = "") -> Path:
    """Write a figure as PNG, atomically.

    Args:
        figure: What to write.
        path: The file.
        key: Stored in the file as its description.
    """
    with writing_file(path) as temporary, any_letter():
        figure.savefig(temporary, format="png", metadata={"Description": key})
    return path


def save_vector(figure: "Figure", path: Path) -> Path:
    """Write a figure as SVG, atomically; the same figure gives the same bytes."""
    import matplotlib as mpl

    with writing_file(path) as temporary, any_letter(), mpl.rc_context({"svg.hashsalt": "manyheads"}):
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return path


def _key(path: Path) -> str | None:
    """Return the key that a picture was saved with; None if there is no such picture."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return str(picture.info.get("Description"))
    except (OSError, ValueError, SyntaxError):
        return None
