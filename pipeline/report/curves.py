"""Learning curves as SVG that lives inside a page: its letters are text, and its colours follow the page's scheme."""

import io
import re
from collections.abc import Sequence

from pipeline.figures import curves_figure
from pipeline.figures.curves import KINDS, History
from pipeline.figures.lettering import any_letter

TITLE = "Loss and accuracy, epoch by epoch"


def curves_svg(histories: Sequence[History], key: str) -> str:
    """Draw the learning curves of one name, which is not in the drawing: nothing in it comes from a file.

    Args:
        histories: `Run.history` of each of its runs.
        key: Begins each id in the drawing, so that no two drawings of a page have the same.

    Returns:
        An `<svg>` element; empty if no run was trained in epochs.
    """
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    if not any(histories):
        return ""
    figure = curves_figure({"": histories}, TITLE)
    file = io.BytesIO()
    with any_letter(), mpl.rc_context({"svg.hashsalt": "manyheads", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = file.getvalue().decode()
    drawing = drawing[drawing.index("<svg") :]
    # Its style sheet would hold for the whole page; what it says stands in the page's own.
    drawing = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"font-family: [^;\"]*(; )?|\n(?=[Lz])", "", drawing)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", drawing)
    colours = {to_hex(colour): f"var(--{kind})" for kind, (_, colour, _) in KINDS.items()}
    colours |= {"#ffffff": "var(--card)", to_hex("0.9"): "var(--line)", "#000000": "var(--ink)"}
    drawing = re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", lambda found: colours.get(found[0], "var(--quiet)"), drawing)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{TITLE}" ', 1)
