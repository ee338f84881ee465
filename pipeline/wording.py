"""How counts and figures read, the same in a terminal and on a page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.comparison import Comparison, Pair
    from pipeline.metrics import Spread

# Name of each metric -> how it is written.
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
}


def counted(count: int, noun: str) -> str:
    """Write a number of things: 1 run, 2 runs."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def spread_text(values: "Spread") -> str:
    """Write a mean, with its deviation over seeds where there are several."""
    return f"{values.mean:.4f}" + ("" if values.deviation is None else f" ± {values.deviation:.4f}")


def interval_text(interval: tuple[float, float]) -> str:
    """Write an interval of accuracies."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def distance_text(behind: tuple[float, float, float]) -> tuple[str, str, str]:
    """Write how far one accuracy is behind the best: points, their 95 % interval, and what that means.

    More than noise is a difference whose interval, as it is written, leaves out 0.

    Args:
        behind: Mean accuracy minus the best one's, and the 95 % interval of that difference.
    """
    # Adding 0.0 turns -0.0, which a rounded tie can be, into 0.0.
    points, high, low = (round(-100 * value, 1) + 0.0 for value in behind)
    meaning = "within noise" if low <= 0 <= high else "more than noise"
    return f"{points:.1f}", f"{low:.1f} to {high:.1f}", meaning


def points_text(difference: tuple[float, float, float]) -> str:
    """Write a difference of two accuracies, with its 95 % interval: 9.1 points (95 %: 1.0 to 17.2).

    Args:
        difference: The difference, and the ends of its interval.
    """
    points, low, high = (round(100 * value, 1) + 0.0 for value in difference)
    return f"{points:.1f} points (95 %: {low:.1f} to {high:.1f})"


def standing(name: str, best: str, behind: tuple[float, float, float], images: int) -> str:
    """Say in one sentence, without its full stop, how far one name is behind the best, and whether that is noise.

    Args:
        name: Who is behind.
        best: Whom it is compared with.
        behind: See `distance_text`.
        images: Images that both saw.
    """
    points, interval, meaning = distance_text(behind)
    stands = f"level with {best}" if points == "0.0" else f"{points} points behind {best}"
    return f"{name} is {stands} (95 %: {interval}; {counted(images, 'image')}): {meaning}"


def notes_of(notes: Mapping[str, Iterable[str]]) -> list[str]:
    """Write the notes of several names, each note once, and of whom it is true unless of all.

    Args:
        notes: Name -> its notes.
    """
    noted: dict[str, list[str]] = {}
    for name, some in notes.items():
        for note in some:
            noted.setdefault(note, []).append(name)
    return [note if len(names) == len(notes) else f"{', '.join(names)}: {note}" for note, names in noted.items()]


def amount_text(metric: str, value: float) -> str:
    """Write a difference of two figures: in points, or as it is where the metric is no share."""
    return f"{value:.3f}" if metric == "log_loss" else f"{round(100 * value, 1) + 0.0:.1f} points"


def ends_text(metric: str, low: float, high: float) -> str:
    """Write the interval of a difference, in the unit of `amount_text`."""
    if metric == "log_loss":
        return f"{low:.3f} to {high:.3f}"
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(100 * low, 1) + 0.0:.1f} to {round(100 * high, 1) + 0.0:.1f}"


def p_text(p: float) -> str:
    """Write a p-value: 0.24, 0.03, 0.004, < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0095 else f"{p:.2f}"


def pair_text(pair: "Pair", comparison: "Comparison") -> str:
    """Say in one sentence, without its full stop, which of two names is better, or that this is noise."""
    metric, found = comparison.metric, pair.difference
    size = amount_text(metric, abs(found.value))
    adjusted = p_text(pair.adjusted)
    seen = [
        ends_text(metric, found.low, found.high),
        f"p {adjusted}" if adjusted[0] == "<" else f"p = {adjusted}",
        _fits(pair, comparison),
        counted(comparison.images, "image"),
    ]
    ground = f"({'; '.join(seen[:2])}; {', '.join(seen[2:])})"
    if pair.shown:
        return f"{pair.first} beats {pair.second} by {size} {ground}"
    corrected = f", once corrected for {len(comparison.pairs)} pairs" if pair.shown_alone else ""
    return (
        f"{pair.first} and {pair.second} are {size} apart {ground}: within noise{corrected}; seen here would be about "
        f"{amount_text(metric, pair.detectable)}"
    )


def _fits(pair: "Pair", comparison: "Comparison") -> str:
    """Say how many seeds and splits two names were compared over."""
    one, other = (next(one for one in comparison.names if one.name == name) for name in (pair.first, pair.second))
    counts = len(one.seeds), len(other.seeds)
    seeds = counted(counts[0], "seed") if counts[0] == counts[1] else f"{counts[0]} and {counted(counts[1], 'seed')}"
    return seeds if one.splits == 1 else f"{counted(one.splits, 'split')} with {seeds} each"


def pace(rate: float, unit: str) -> str:
    """Write a rate as a person says it: `12.5 images/s`, and below one a second `10 s/image`.

    Args:
        rate: Units a second, above 0.
        unit: Plural of what is counted.
    """
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{duration(1 / rate)}/{unit.removesuffix('s')}"


def duration(seconds: float) -> str:
    """Write a time as a person says it: 0.4 s, 42 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    seconds = round(seconds)  # before it is cut up: 119.6 s are two minutes, not one and sixty seconds
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 1e7:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return "a long time"


def seeds_text(found: Sequence[int]) -> str:
    """Write seeds as the command line reads them, neighbours as spans: 0-9, or 0,3,5-7."""
    spans: list[list[int]] = []
    for seed in found:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], seed]
        else:
            spans.append([seed])
    return ",".join("-".join(map(str, span)) for span in spans)
