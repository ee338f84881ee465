"""Pictures as files: matplotlib only when one is drawn, and one only when it is needed."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.figures.canvas import new_figure, write
from pipeline.figures.saving import draw_once, save_figure


def test_matplotlib_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, pipeline.figures; print('matplotlib' in sys.modules, 'PIL' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_a_picture_is_drawn_once_for_one_content(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    drawn: list[str] = []

    def draw(text: str) -> Figure:
        drawn.append(text)
        figure = new_figure()
        write(figure, 1, 1, text, 9)
        return figure

    for text in ("a", "a", "b", "b", "a"):
        assert draw_once(path, ["test", text], partial(draw, text)) == path
    assert drawn == ["a", "b", "a"]
    save_figure(new_figure(), path)  # by someone else, without a key
    draw_once(path, ["test", "a"], partial(draw, "a"))
    path.write_bytes(path.read_bytes()[:20])
    draw_once(path, ["test", "a"], partial(draw, "a"))
    assert drawn == ["a", "b", "a", "a", "a"]
    assert [child.name for child in path.parent.iterdir()] == ["a.png"]
