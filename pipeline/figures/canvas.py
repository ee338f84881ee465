"""An empty figure without a display, and what is put on it at a place given in inches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
RIGHT, WRONG = (0.13, 0.40, 0.67), (0.80, 0.30, 0.20)  # told apart by colour-blind people too


def new_figure(dpi: int = DPI) -> "Figure":
    """Make an empty figure with the renderer that will draw it, so that texts can be measured first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def add_panel(figure: "Figure", left: float, base: float, wide: float, high: float, **more: Any) -> "Axes":
    """Add axes whose lower left corner and size are given in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, base / height, wide / width, high / height), **more)


def make_plain(axes: "Axes", sides: Sequence[str] = ("left", "bottom"), grid: Literal["x", "both"] = "both") -> None:
    """Draw axes as all pictures have them: a faint grid behind, small letters, and a line at some sides alone."""
    axes.grid(axis=grid, color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=7.5, labelcolor="0.3", pad=4)
    for side, spine in axes.spines.items():
        spine.set(color="0.6", linewidth=0.8, visible=side in sides)


def write(figure: "Figure", left: float, base: float, text: str, size: float, **more: Any) -> None:
    """Write a text, taken as it is, from a point in inches on; the size is in points."""
    width, height = figure.get_size_inches()
    figure.text(left / width, base / height, text, fontsize=size, parse_math=False, **more)
