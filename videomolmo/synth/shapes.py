"""Outlines of the generated objects: four named shapes, and nameless ones that are only "the red object"."""

import numpy as np
from jaxtyping import Float

SHAPES = ("circle", "square", "triangle", "star")
NAMELESS = "object"  # the shape name of everything that is none of the four


def outline(rng: np.random.Generator, shape: str) -> Float[np.ndarray, "points 2"]:
    """Corner points of one random instance of `shape`, around the origin, reaching about 1 from it."""
    if shape == "circle":
        return _ellipse(1.0, rng.uniform(0.93, 1.0))
    if shape == "square":
        return _box(0.88, 0.88 * rng.uniform(0.92, 1.08))
    if shape == "triangle":
        lean = rng.uniform(-0.12, 0.12)
        return np.array([[lean, -1.0], [rng.uniform(0.8, 1.0), 0.72], [-rng.uniform(0.8, 1.0), 0.72]])
    if shape == "star":
        return _star(5, rng.uniform(0.36, 0.52))
    return _nameless(rng)


def _ellipse(rx: float, ry: float, points: int = 36) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1)


def _box(rx: float, ry: float) -> np.ndarray:
    return np.array([[-rx, -ry], [rx, -ry], [rx, ry], [-rx, ry]])


def _star(tips: int, inner: float) -> np.ndarray:
    angle = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _nameless(rng: np.random.Generator) -> np.ndarray:
    """A bar, a mug with its handle, a smooth blob, a cross or an irregular polygon."""
    kind = rng.integers(5)
    if kind == 0:
        return _box(1.0, rng.uniform(0.3, 0.6))
    if kind == 1:
        half, top = rng.uniform(0.5, 0.75), rng.uniform(0.7, 0.95)
        body = [[-half, -top], [half, -top], [half, -0.5 * top]]
        handle = [[half + 0.4, -0.45 * top], [half + 0.45, 0.3 * top], [half, 0.45 * top]]
        return np.array([*body, *handle, [half * rng.uniform(0.7, 1.0), top], [-half * rng.uniform(0.7, 1.0), top]])
    if kind == 2:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = sum(rng.uniform(0, 0.22) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
        radius = (0.85 + waves)[:, None]
        return np.clip(radius, 0.4, 1.2) * np.stack([np.cos(angle), rng.uniform(0.6, 1.0) * np.sin(angle)], axis=1)
    if kind == 3:
        arm = rng.uniform(0.22, 0.4)
        quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm], [1.0, arm], [arm, arm], [arm, 1.0]])
        return np.concatenate([quarter, -quarter])
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(6, 10)))
    return rng.uniform(0.7, 1.0, len(angle))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
