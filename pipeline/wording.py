"""How counts and figures read, the same in a terminal and on a page."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.metrics import Spread


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
