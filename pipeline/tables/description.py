"""What a cache is."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cache.atomic import human_size
from pipeline.printable import printable
from pipeline.tables.printing import RANDOM_WEIGHTS, print_lines, print_next, print_notes
from pipeline.wording import counted

if TYPE_CHECKING:
    from cache.description import Description

MOST_CLASSES = 100
MOST_SKIPPED = 20


def show_description(result: "Description", console: Console) -> None:
    """Tell what a cache is."""
    state = "not finished yet"
    if result.finished:
        state = f"{counted(result.images, 'image')} of {len(result.classes)} classes"
    held = f"{counted(result.features, 'feature')} in {counted(result.shards, 'shard')}"
    if result.packed:
        held += f" ({result.packed} of them packed)"
    print_lines(console, [f"{result.path}: {state}, {held}, {human_size(result.size)}"])
    facts = {}
    if result.finished:
        facts = {"images": result.source, "classes": _classes(result.classes), "features": _features(result)}
    if result.parts:
        facts["split"] = "its own: " + ", ".join(f"{part} {count}" for part, count in result.parts.items())
    if result.writer:
        facts["written"] = f"now, by {result.writer}"
    _print_facts(console, facts)
    recipe = dict(result.recipe)
    print_lines(console, [f"recipe {recipe.pop('digest')}"])
    _print_facts(console, {name: _text(value) for name, value in recipe.items()})
    others = {name: value for name, value in result.made_from.items() if value != str(recipe.get(name))}
    print_lines(console, ["made from"] if others else [])
    _print_facts(console, others)

    print_notes(console, [RANDOM_WEIGHTS] if result.random_weights else [])
    skipped = [f"{path} could not be read: {reason}" for path, reason in result.skipped]
    print_notes(console, skipped[:MOST_SKIPPED])
    if len(skipped) > MOST_SKIPPED:
        print_notes(console, [f"{len(skipped) - MOST_SKIPPED} more images could not be read; --json names them"])
    if (result.unfinished or not result.finished) and not result.writer:
        print_notes(console, ["run the same `manyheads extract` again: it goes on after the last shard"])
    if result.unused:
        print_next(console, "cache", "prune", result.path, label=f"frees {human_size(result.unused_size)}")


def _features(result: "Description") -> str:
    used = "all of them used"
    if result.unused:
        used = f"{result.features - result.unused} of them used, {result.unused} needed by no image of the set"
    if result.unfinished:
        used += f"; {result.unfinished} are of an extraction that has not finished"
    if any(views > 1 for views in result.views):
        used += "; views: " + ", ".join(f"{views} of {count} images" for views, count in result.views.items())
    return used


def _classes(classes: Mapping[str, int]) -> str:
    """List classes with the numbers of their images, which are named once where they are all the same."""
    counts = set(classes.values())
    names = [name if len(counts) == 1 else f"{name} {count}" for name, count in classes.items()]
    listed = ", ".join(names[:MOST_CLASSES])
    if len(names) > MOST_CLASSES:
        listed += f" and {len(names) - MOST_CLASSES} more; --json names them"
    return f"{counted(counts.pop(), 'image')} each: {listed}" if len(counts) == 1 else listed


def _text(value: Any) -> str:
    """Write a value of a recipe: `resize_size 256, mean 0.485 0.456 0.406`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return str(value)


def _print_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print names and values in two columns; a value goes on below itself where it is long."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print_lines(console, _wrapped(f"  {printable(name):{width}}  ", printable(value), console.width))


def _wrapped(before: str, text: str, width: int) -> Iterable[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=before,
        subsequent_indent=" " * len(before),
        break_long_words=False,  # a path or a digest is copied whole
        break_on_hyphens=False,
    )
