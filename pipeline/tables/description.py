"""What a cache is."""

from typing import TYPE_CHECKING

from rich.console import Console

from cache.atomic import human_size
from pipeline.tables.printing import RANDOM_WEIGHTS, print_lines, print_notes
from pipeline.wording import counted

if TYPE_CHECKING:
    from cache.description import Description


def show_description(result: "Description", console: Console) -> None:
    """Tell what a cache is."""
    state = f"{result.images} images of {len(result.classes)} classes" if result.finished else "not finished yet"
    said = [
        f"{result.path}: {state}, {counted(result.features, 'feature')} in {counted(result.shards, 'shard')}, "
        f"{human_size(result.size)}",
    ]
    if result.finished:
        said.append(f"images from {result.source}")
        said.append("classes: " + ", ".join(f"{name} {count}" for name, count in result.classes.items()))
    if any(views > 1 for views in result.views):
        said.append("views: " + ", ".join(f"{views} of {count} images" for views, count in result.views.items()))
    if result.parts:
        said.append("its own split: " + ", ".join(f"{part} {count}" for part, count in result.parts.items()))
    if result.unused:
        said.append(f"{result.unused} features belong to images that are no longer in the set")
    print_lines(console, [*said, "recipe:"])
    print_lines(console, [f"  {name}: {value}" for name, value in result.recipe.items()])
    print_notes(console, [RANDOM_WEIGHTS] if result.random_weights else [])
    print_notes(console, [f"{path} could not be read: {reason}" for path, reason in result.skipped])
    if not result.finished:
        print_notes(console, ["run the same `manyheads extract` again: it goes on after the last shard"])
