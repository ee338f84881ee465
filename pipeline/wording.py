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


def points_text(difference: tuple[float, float, float]) -> str:
    """Write a difference of two accuracies, with its 95 % interval: 9.1 points (95 %: 1.0 to 17.2).

    Args:
        difference: The difference, and the ends of its interval.
    """
    value, low, high = difference
    return f"{amount_text('accuracy', value)} (95 %: {ends_text('accuracy', low, high)})"


def noise_text(shown: bool) -> str:
    """Say whether a difference is one."""
    return "more than noise" if shown else "within noise"


def verdict_text(pair: "Pair") -> str:
    """Say whether the difference of two names is more than noise, or would be if there were no other pairs."""
    corrected = pair.difference.clear and not pair.shown
    return noise_text(pair.shown) + (", once corrected for so many" if corrected else "")


def standing(name: str, best: str, pair: "Pair", images: int) -> str:
    """Say in one sentence, without its full stop, how far one name is behind the best in accuracy, and what it means.

    Args:
        name: Who is behind.
        best: Whom it is compared with.
        pair: The best and the other.
        images: Images that both saw.
    """
    points, found = amount_text("accuracy", pair.difference.value), pair.difference
    if points == "0.0 points" and not pair.shown:
        stands = f"level with {best}"
    else:
        stands = f"{'less than 0.1 points' if points == '0.0 points' else points} behind {best}"
    ends = ends_text("accuracy", found.low, found.high)
    seen = f"95 %: {ends}; {among_text(pair)}; {counted(images, 'image')}"
    return f"{name} is {stands} ({seen}): {verdict_text(pair)}"


def part_text(part: str, images: int, splits: int) -> str:
    """Write what was measured on: test, 210 images in each of 10 splits."""
    return f"{part}, {counted(images, 'image')}" + (f" in each of {splits} splits" if splits > 1 else "")


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
    return f"{round(value, 3) + 0.0:.3f}" if metric == "log_loss" else f"{_points(value)} points"


def ends_text(metric: str, low: float, high: float) -> str:
    """Write the interval of a difference, in the unit of `amount_text`."""
    if metric == "log_loss":
        return f"{round(low, 3) + 0.0:.3f} to {round(high, 3) + 0.0:.3f}"
    return f"{_points(low)} to {_points(high)}"


def _points(share: float) -> str:
    # Adding 0.0 turns -0.0, which a rounded tie can be, into 0.0.
    return f"{round(100 * share, 1) + 0.0:.1f}"


def detectable_text(metric: str, value: float | None) -> str:
    """Write what difference would be seen, or that none would."""
    return "none" if value is None else amount_text(metric, value)


def p_text(p: float) -> str:
    """Write a p-value: 0.24, 0.03, 0.004, < 0.001; near 0.05 as exactly as it takes to see on which side it lies."""
    if p < 0.001:
        return "< 0.001"
    digits = 3 if p < 0.0095 else 2
    while digits < 9 and (float(f"{p:.{digits}f}") < 0.05) != (p < 0.05):
        digits += 1
    return f"{p:.{digits}f}"


def among_text(pair: "Pair") -> str:
    """Write the p-value that decides, and among how many: p = 0.03, p < 0.001 among 6 pairs."""
    text = p_text(pair.adjusted)
    sign = f"p {text}" if text[0] == "<" else f"p = {text}"
    return sign + (f" among {pair.tests} pairs" if pair.tests > 1 else "")


def span_text(counts: Sequence[int]) -> str:
    """Write how many there are of each: 3, or 1 to 3."""
    return f"{min(counts)}" + ("" if min(counts) == max(counts) else f" to {max(counts)}")


def pair_text(pair: "Pair", comparison: "Comparison") -> str:
    """Say in one sentence, without its full stop, which of two names is better, or that this is noise."""
    metric, found = comparison.metric, pair.difference
    seen = [
        f"95 %: {ends_text(metric, found.low, found.high)}",
        among_text(pair),
        _fits(pair, comparison),
        counted(comparison.images, "image"),
    ]
    ground = f"({'; '.join(seen[:2])}; {', '.join(seen[2:])})"
    size = amount_text(metric, found.value)
    if pair.shown:
        return f"{pair.first} beats {pair.second} by {size} {ground}"
    seen_here = (
        "here no difference would be seen"
        if pair.detectable is None
        else f"seen here would be about {amount_text(metric, pair.detectable)}"
    )
    return f"{pair.first} and {pair.second} are {size} apart {ground}: {verdict_text(pair)}; {seen_here}"


def _fits(pair: "Pair", comparison: "Comparison") -> str:
    """Say how many seeds and splits two names were compared over."""
    fits = [next(one.fits for one in comparison.names if one.name == name) for name in (pair.first, pair.second)]
    spans = list(dict.fromkeys(map(span_text, fits)))
    seeds = f"{' and '.join(spans)} seed" + ("" if spans[-1] == "1" else "s")
    splits = len(fits[0])
    return seeds if splits == 1 else f"{counted(splits, 'split')} with {seeds} each"


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
