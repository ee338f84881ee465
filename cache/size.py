"""Sizes as people write them."""

import re
from decimal import Decimal

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")  # each a thousand times the one before, as `cache.atomic.human_size` writes


def read_size(text: str) -> int:
    """Read a number of bytes: 500MB, 1.5 GB, 512 B; what `cache.atomic.human_size` writes is read back.

    Args:
        text: A number, then a unit in letters of any case; a space may stand between them.

    Raises:
        ValueError: It is no size.
    """
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([kMGTP]?B)", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is no size: write a number and one of {', '.join(UNITS)}, such as 500MB or 1.5GB")
    number, unit = found.groups()
    power = [name.lower() for name in UNITS].index(unit.lower())
    return round(Decimal(number) * Decimal(1000) ** power)
