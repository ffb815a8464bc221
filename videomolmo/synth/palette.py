"""The eight colour names of the generated videos, and the plain colours of what is not an object."""

import colorsys

import numpy as np

# name: hue range in degrees, saturation range, value range; wide enough to hold what other renderers call so.
COLOURS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-10, 9), (0.70, 1.0), (0.55, 1.0)),
    "green": ((92, 150), (0.50, 1.0), (0.38, 1.0)),
    "blue": ((205, 246), (0.55, 1.0), (0.38, 1.0)),
    "yellow": ((48, 62), (0.60, 1.0), (0.80, 1.0)),
    "orange": ((21, 39), (0.75, 1.0), (0.82, 1.0)),
    "purple": ((265, 303), (0.42, 1.0), (0.42, 0.95)),
    "cyan": ((174, 192), (0.45, 1.0), (0.68, 1.0)),
    "white": ((0, 360), (0.0, 0.07), (0.88, 1.0)),
}


def sample_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """An RGB triple in 0…1 that a person would call `name`; one time in three the purest of its kind."""
    ranges = COLOURS[name]
    hue, saturation, value = (rng.uniform(*bounds) for bounds in ranges)
    if rng.random() < 0.33:
        saturation, value = (0.0, 1.0) if name == "white" else (rng.uniform(0.9, 1.0), ranges[2][1])
    return hsv(hue, saturation, value)


def hsv(hue_deg: float, saturation: float, value: float) -> np.ndarray:
    """RGB in 0…1 of a colour given as hue (degrees), saturation and value."""
    return np.array(colorsys.hsv_to_rgb((hue_deg % 360) / 360, saturation, value), dtype=np.float32)


def sample_background_colour(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
    """A colour for background and clutter: mostly muted, and away from every colour in `taken` (RGB in 0…1)."""
    colour = np.full(3, 0.3, np.float32)
    for _ in range(12):
        kind = rng.random()
        if kind < 0.30:  # greys, black included
            colour = hsv(0, 0, rng.uniform(0.0, 0.8))
        elif kind < 0.60:  # wood, skin, sand, stone
            colour = hsv(rng.uniform(8, 50), rng.uniform(0.08, 0.55), rng.uniform(0.12, 0.75))
        elif kind < 0.85:  # muted, any hue
            colour = hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.38), rng.uniform(0.1, 0.8))
        else:  # strong, dark
            colour = hsv(rng.uniform(0, 360), rng.uniform(0.3, 0.75), rng.uniform(0.08, 0.4))
        if all(float(np.abs(colour - other).sum()) > 0.55 for other in taken):
            break
    return colour
