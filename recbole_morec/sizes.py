"""Amounts of memory, written as a person writes them."""

from __future__ import annotations

import re

_UNITS = {"": 1e9, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_UNITS |= {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
_SIZE = re.compile(r"^(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)$")


def read_size(size: float | str) -> int:
    """Bytes of ``8GB``, ``500MB``, ``7.5GiB``, or of a number of GB (10^9 bytes).

    Raises:
        ValueError: it is no size above zero.

    Example:
        >>> read_size("500MB"), read_size(8)
        (500000000, 8000000000)
    """
    found = _SIZE.match(str(size).strip().lower())
    count = float(found[1]) * _UNITS.get(found[2], 0.0) if found else 0.0
    if count < 1:
        raise ValueError("give a size such as 8GB, 500MB or 7.5GiB, or a number of GB")
    return int(count)


def write_size(count: float) -> str:
    """``1.2 GB``, ``340 MB``, ``12.5 kB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return (
                f"{count / size:.3g} {unit}"
                if count < 1000 * size
                else f"{count / size:.0f} {unit}"
            )
    return f"{count:.0f} B"
