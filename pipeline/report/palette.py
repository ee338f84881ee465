"""The page's colours in both schemes, told apart by colour-blind people, and how far apart they are for all others."""

from collections.abc import Mapping

# Role -> colour. What is written on what is in `TEXT`, what is drawn on what in `SHAPES`.
LIGHT: Mapping[str, str] = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#1a1e24",
    "quiet": "#56606c",
    "line": "#d8dce2",
    "edge": "#7c8591",  # of what can be pressed
    "link": "#0b5cad",
    "right": "#2166ab",
    "wrong": "#b5432a",
    "train": "#b85000",
    "val": "#0072b2",
    "cell-right": "#2166ab",
    "cell-wrong": "#cc4d33",
    "map-0": "#0072b2",
    "map-1": "#c25200",
    "map-2": "#007a5a",
    "map-3": "#a8437f",
    "map-4": "#806600",
    "map-5": "#5a4fcf",
    "map-6": "#7a1f3d",
    "map-7": "#5f6670",
}
DARK: Mapping[str, str] = {
    "page": "#111418",
    "card": "#1a1e24",
    "ink": "#e9ecf0",
    "quiet": "#a3adb9",
    "line": "#343b45",
    "edge": "#77818e",
    "link": "#7db8f5",
    "right": "#6fb1ee",
    "wrong": "#f08a6c",
    "train": "#f0954a",
    "val": "#62b4ea",
    "cell-right": "#2a6fb5",
    "cell-wrong": "#b8452d",
    "map-0": "#56b4e9",
    "map-1": "#f0954a",
    "map-2": "#2fc39a",
    "map-3": "#e58fbf",
    "map-4": "#e6d84a",
    "map-5": "#a9a2ff",
    "map-6": "#ff7d8e",
    "map-7": "#c3c8cf",
}
MAP_COLOURS = sum(role.startswith("map-") for role in LIGHT)
STRONGEST = 0.7  # share of its colour in the strongest cell of a confusion matrix, so that its number can be read

TEXT = tuple(
    (role, ground) for ground in ("page", "card") for role in ("ink", "quiet", "link", "right", "wrong", "train", "val")
)
SHAPES = tuple(("card", role) for role in LIGHT if role.startswith("map-") or role in ("right", "wrong", "edge"))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21.

    Args:
        one: Such as #1a1e24.
        other: Likewise.

    Source: Web Content Accessibility Guidelines 2.2, W3C 2023, "contrast ratio" and "relative luminance".
    """
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def mixed(colour: str, ground: str, share: float) -> str:
    """Mix a colour into a ground, as CSS does in sRGB.

    Args:
        colour: Such as #1a1e24.
        ground: Likewise.
        share: Of the colour, 0 to 1.
    """
    pairs = zip(_channels(colour), _channels(ground), strict=True)
    return "#" + "".join(f"{round(share * one + (1 - share) * other):02x}" for one, other in pairs)


def variables(colours: Mapping[str, str]) -> str:
    """Write colours as CSS variables, one for each role."""
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())


def _channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _luminance(colour: str) -> float:
    shares = [value / 255 for value in _channels(colour)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
