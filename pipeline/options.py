"""The options that several commands share, and how they are read: seeds, layer sizes, hyper-parameters, grids."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from cache.size import read_size
from pipeline.wording import seeds_text

Command = TypeVar("Command", bound=Callable[..., Any])

# Hyper-parameters that have an option of their own; all others are given by --set.
OWN = ("epochs", "lr", "dropout", "batch_size", "hidden", "weight_decay", "patience")
# Other keyword arguments of `fit_head` and `fit_grid`: those that a command types, and those that it never does.
TYPED = ("head", "name", "use_views", "split", "split_seed", "resplits", "calibrate", "device", "memory")
NO_HYPER_PARAMETERS = (*TYPED, "seeds", "per_class", "cache", "runs", "grid", "jobs", "progress")


def seeds(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read seeds as people write them: `0-9`, or `0,3,5-7`."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", value):
        raise click.BadParameter(f"{value!r} is not a list of seeds such as 0-9 or 0,3,5-7.")
    if any(len(number) > 6 for number in re.findall(r"\d+", value)):
        raise click.BadParameter(f"{value!r} holds a seed above 999999, the largest that this option takes.")
    spans = [[int(end) for end in piece.split("-")] for piece in value.split(",")]
    found = tuple(dict.fromkeys(seed for span in spans for seed in range(span[0], span[-1] + 1)))
    if not found:
        raise click.BadParameter(f"{value!r} holds no seed: write the smaller one first.")
    return found


def sizes(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read the sizes of hidden layers: `84-63-42`."""
    if value is None:
        return None
    if not re.fullmatch(r"\d+(-\d+)*", value):
        raise click.BadParameter(f"{value!r} is not a list of layer sizes such as 84-63-42.")
    return tuple(int(size) for size in value.split("-"))


def counts(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read whole numbers: `5,10,20`."""
    if value is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}(,[1-9]\d{0,8})*", value):
        raise click.BadParameter(f"{value!r} is no list of numbers above 0, such as 5,10,20.")
    return tuple(int(one) for one in value.split(","))


def size(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Read a number of bytes: 500MB, 1.5GB."""
    if value is None:
        return None
    try:
        return read_size(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


def settings(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Read hyper-parameters by name: `C=0.1`, `metric=euclidean`; a value is a number where it reads as one."""
    return {name: _value(context, option, name, text) for name, text in _named(values).items()}


def grid(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """Read the axes of a grid: `lr=1e-4,1e-3`, `hidden=84-63-42,128`."""
    return {
        name: tuple(_value(context, option, name, piece) for piece in text.split(","))
        for name, text in _named(values).items()
    }


def merged(given: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Join options that were given with hyper-parameters of --set or --grid, and refuse what would be given twice."""
    if clash := sorted(other.keys() & set(NO_HYPER_PARAMETERS)):
        raise click.UsageError(f"--set and --grid take hyper-parameters of the head, which {clash[0]} is not.")
    if twice := sorted(other.keys() & given.keys()):
        raise click.UsageError(f"{twice[0]} is given twice; give it once, by its own option, --set or --grid.")
    return {**given, **other}


def typed(settings: Mapping[str, Any]) -> list[str]:
    """Write keyword arguments of `fit_head` as the options that give them; those that are None are left out."""
    words: list[str] = []
    for name, value in settings.items():
        if name == "seeds":
            words += ["--seeds", seeds_text(value)]
        elif name in OWN:
            words += [] if value is None else [f"--{name.replace('_', '-')}", value_text(name, value)]
        elif name in TYPED:
            text = f"{value}B" if name == "memory" else str(value)
            option = f"--{name.replace('_', '-')}"
            # `is`, since 1 is a value and equals True.
            words += [] if value is None or value is False else [option] if value is True else [option, text]
        else:
            words += ["--set", f"{name}={value_text(name, value)}"]
    return words


def value_text(name: str, value: Any) -> str:
    """Write the value of a hyper-parameter as it is read: 0.001, 84-63-42, euclidean, none."""
    if value is None:
        return "none"
    if isinstance(value, str) and _read(value) == value:
        return value
    if name == "hidden" and isinstance(value, tuple | list):
        return "-".join(map(str, value))
    return json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other))


def _named(values: Sequence[str]) -> dict[str, str]:
    """Part each text at its first equals sign."""
    found: dict[str, str] = {}
    for whole in values:
        name, equals, text = whole.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{whole!r} is not of the form name=value.")
        if name in found:
            raise click.BadParameter(f"{name} is given twice.")
        found[name] = text
    return found


def _value(context: click.Context, option: click.Parameter, name: str, text: str) -> Any:
    return sizes(context, option, text) if name == "hidden" and text.lower() != "none" else _read(text)


def _read(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def together(*parts: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Make one decorator of several options, which the help shows in this order."""

    def decorate(function: Command) -> Command:
        for part in reversed(parts):
            function = part(function)
        return function

    return decorate


SPLIT = together(
    click.option("--split", help="80/10/10, paper, own, or a CSV.  [default: the image set's own, else 80/10/10]"),
    click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True),
)
RESPLITS = click.option(
    "--resplits", type=click.IntRange(2), metavar="K", help="Fit on K drawn splits, every seed on each of them."
)
STOPPING = together(
    click.option("--weight-decay", type=float, help="L2 penalty of Adam.  [default: 0]"),
    click.option("--patience", type=click.IntRange(1), help="Stop after so many epochs without a lower val loss."),
)
USE_VIEWS = click.option(
    "--use-views",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Views of each training image; every epoch draws one.",
)
JOBS = click.option("--jobs", type=click.IntRange(1), help="Runs fitted side by side.  [default: one a processor]")
MEMORY = click.option(
    "--memory",
    metavar="SIZE",
    callback=size,
    help="Take no more than this, such as 4GB: mlp then reads features anew in every epoch.  [default: what is free]",
)
MAX_SIZE = click.option(
    "--max-size", metavar="SIZE", callback=size, help="Let the cache take no more than this, such as 20GB."
)
ON_ERROR = click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What unreadable images mean in the end.",
)


def recipe(defaults: str) -> Callable[[Command], Command]:
    """Make the options of the paper's training recipe; their defaults are those of the head that is named."""
    return together(
        click.option("--epochs", type=click.IntRange(1), help=f"[{defaults}: 15]"),
        click.option("--lr", type=float, help=f"Learning rate of Adam.  [{defaults}: 1e-4]"),
        click.option("--dropout", type=float, help=f"Share of features dropped in training.  [{defaults}: 0.5]"),
        click.option("--batch-size", type=click.IntRange(1), help=f"[{defaults}: 16]"),
        click.option(
            "--hidden",
            callback=sizes,
            help=f"Sizes of the hidden layers, such as 84-63-42.  [{defaults}: 4, 3 and 2 times the classes]",
        ),
    )


def seeds_option(default: str, name: str = "--seeds", about: str = "Such as 0-9 or 0,3,5-7.") -> Callable[[Any], Any]:
    """Make an option that takes seeds."""
    return click.option(name, callback=seeds, default=default, show_default=True, help=about)
