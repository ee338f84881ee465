"""What the demo made."""

from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.tables.evaluation import show_evaluation
from pipeline.tables.printing import print_next, print_notes, program

if TYPE_CHECKING:
    from pipeline.demo import Demo


def show_demo(result: "Demo", console: Console) -> None:
    """Show the demo's ranking, and say what to type next."""
    show_evaluation(result.evaluation, console)
    if result.extraction.random_weights:
        print_notes(
            console,
            [
                "so this is the floor that transfer learning is measured against; with a file of ImageNet weights: "
                f"`{program()} demo --weights FILE`"
            ],
        )
    best = result.evaluation.names[0]
    image = next(path for path in sorted(result.images.rglob("*.jpg")))
    print_next(console, "predict", best.folder / "seed-0000", image)
