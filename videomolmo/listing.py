"""Files in the order in which people count them: frame 2 before frame 10."""

import re
from collections.abc import Iterable
from pathlib import Path


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 precedes frame10, whatever the case.

    Example:
        >>> sorted(["f10.png", "F2.png", "f1.png"], key=natural_key)
        ['f1.png', 'F2.png', 'f10.png']
    """
    parts = re.split(r"([0-9]+)", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts] + [(2, 0, name)]


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths by their folders, and in each by `natural_key` of their names."""
    return sorted(paths, key=lambda path: [natural_key(part) for part in path.parts])
