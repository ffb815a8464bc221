"""Things on a kitchen table, as bodies of revolution or simple shapes seen through a pinhole camera."""
# ruff: noqa: RUF005  (a vector plus a tuple is a sum here)

from collections.abc import Callable

import numpy as np

from videomolmo.synth.worlds.camera import Camera
from videomolmo.synth.worlds.world import Canvas, Colour, hull, mixed, oval

FRUIT = ("apple", "orange", "banana")
_RING = np.pad(oval((0, 0), 1.0), ((0, 0), (0, 1)))


def ring(camera: Camera, at: np.ndarray, radius: float, height: float) -> np.ndarray:
    """A level circle on the picture."""
    return camera.project(at + _RING * radius + (0, 0, height))


def shadow(canvas: Canvas, camera: Camera, at: np.ndarray, radius: float) -> None:
    spread = 1 + at[2] / 20
    ground = np.array([at[0] + 1.2 + 0.25 * at[2], at[1] - 0.6, 0.0])
    soft = 0.25 * radius * camera.units(ground) * spread
    canvas.polygon(ring(camera, ground, radius * 1.05 * spread, 0), (0, 0, 0), opacity=0.42 / spread, soft=min(soft, 6))


def _frustum(canvas, camera, at, low, high, height, colour, owner, shade=0.28) -> None:
    """The side of a body that is `low` wide at its foot and `high` at `height` (radii)."""
    body = hull(np.concatenate([ring(camera, at, low, 0), ring(camera, at, high, height)]))
    canvas.polygon(body, colour, owner, shade=shade, light=(-1.0, -0.15))


def mug(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    shadow(canvas, camera, at, 5.4)
    scale = camera.units(at)
    loop = camera.project(
        at + np.array([[4.6, -1, 9.2], [8.2, -1, 9.0], [8.6, -1, 5.2], [7.2, -1, 2.8], [4.6, -1, 2.6]])
    )
    canvas.stroke(loop, 1.7 * scale, mixed(colour, (0, 0, 0), 0.25), owner)
    _frustum(canvas, camera, at, 4.7, 5.2, 11, mixed(colour, (0, 0, 0), 0.1), owner)
    canvas.polygon(ring(camera, at, 5.2, 11), mixed(colour, (1, 1, 1), 0.35))
    canvas.polygon(ring(camera, at, 4.6, 11), mixed(colour, (0, 0, 0), 0.35))
    canvas.polygon(ring(camera, at + (0, 0.2, 0), 4.2, 9.6), (0.2, 0.11, 0.06), shade=0.3)


def bowl(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    shadow(canvas, camera, at, 8.4)
    _frustum(canvas, camera, at, 4.0, 8.6, 6.0, mixed(colour, (0, 0, 0), 0.15), owner)
    canvas.polygon(ring(camera, at, 8.6, 6.0), mixed(colour, (1, 1, 1), 0.45))
    canvas.polygon(ring(camera, at, 7.9, 6.0), mixed(colour, (1, 1, 1), 0.12), shade=0.25, light=(0.8, 0.6))
    canvas.polygon(ring(camera, at, 4.2, 1.6), mixed(colour, (1, 1, 1), 0.25), shade=0.1, opacity=0.8)


def plate(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    shadow(canvas, camera, at, 12.2)
    _frustum(canvas, camera, at, 8.0, 12.5, 1.6, mixed(colour, (0, 0, 0), 0.25), owner, shade=0.1)
    canvas.polygon(ring(camera, at, 12.5, 1.6), colour, shade=0.06)
    canvas.polygon(ring(camera, at, 8.2, 1.0), mixed(colour, (0.4, 0.5, 0.7), 0.22), shade=0.1, light=(0.6, 0.8))
    canvas.polygon(ring(camera, at, 7.6, 0.9), mixed(colour, (0, 0, 0), 0.06), shade=0.06, light=(0.6, 0.8))


def _ball(canvas, camera, at, radius, colour, owner) -> tuple[np.ndarray, float]:
    shadow(canvas, camera, at, radius)
    middle = camera.project(at + (0, 0, radius))[0]
    size = radius * camera.units(at + (0, 0, radius))
    canvas.ellipse(middle, size, mixed(colour, (0, 0, 0), 0.3), owner)
    canvas.ellipse(middle - 0.1 * size, 0.86 * size, colour, soft=0.14 * size)
    canvas.ellipse(
        middle - 0.38 * size, (0.22 * size, 0.15 * size), (1, 1, 1), opacity=0.6, soft=0.06 * size, angle=-0.7
    )
    return middle, size


def apple(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    middle, size = _ball(canvas, camera, at, 4.6, colour, owner)
    top = middle - (0, 0.62 * size)
    canvas.ellipse(top, (0.32 * size, 0.14 * size), mixed(colour, (0.1, 0.05, 0), 0.5), soft=0.05 * size)
    canvas.stroke([top, top + (0.08 * size, -0.62 * size)], 0.14 * size, (0.28, 0.18, 0.08), owner)
    canvas.ellipse(top + (0.4 * size, -0.42 * size), (0.34 * size, 0.15 * size), (0.3, 0.6, 0.15), owner, angle=-0.5)


def orange(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    middle, size = _ball(canvas, camera, at, 4.6, colour, owner)
    for turn in np.arange(14) * 2.4:
        far = 0.7 * size * ((turn * 0.618) % 1) ** 0.5
        spot = middle + far * np.array([np.cos(turn), np.sin(turn)])
        canvas.ellipse(spot, 0.045 * size, mixed(colour, (0.4, 0.1, 0), 0.4))
    canvas.ellipse(middle - (0, 0.7 * size), (0.13 * size, 0.07 * size), (0.3, 0.4, 0.1))


def banana(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    turn = np.linspace(0.35, 2.6, 9)
    curve = at + np.stack([11 * np.cos(turn), 8 * np.sin(turn) - 4, np.full(9, 1.8)], axis=1)
    points, scale = camera.project(curve), camera.units(at)
    width = np.array([0.9, 2.4, 3.5, 4.1, 4.3, 4.1, 3.6, 2.5, 1.0]) * scale
    canvas.stroke(points + (0.8 * scale, 1.3 * scale), width, (0, 0, 0), opacity=0.35, soft=0.5 * scale)
    canvas.stroke(points, width, mixed(colour, (0.35, 0.2, 0), 0.25), owner)
    canvas.stroke(points - (0, 0.5 * scale), width * 0.66, colour)
    for end in (points[:2], points[-2:][::-1]):
        canvas.stroke([end[0], mixed(end[0], end[1], 0.25)], 1.1 * scale, (0.3, 0.22, 0.08), owner)


def bottle(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    shadow(canvas, camera, at, 4.6)
    _frustum(canvas, camera, at, 4.2, 4.2, 15, colour, owner, shade=0.45)
    _frustum(canvas, camera, at + (0, 0, 14.8), 4.2, 1.7, 4.5, colour, owner, shade=0.45)
    _frustum(canvas, camera, at + (0, 0, 19), 1.6, 1.5, 4.0, colour, owner, shade=0.45)
    _frustum(canvas, camera, at + (0, 0, 22.5), 1.8, 1.8, 1.8, np.array([0.85, 0.8, 0.7]), owner)
    lower, upper = ring(camera, at, 4.25, 4.5)[:15], ring(camera, at, 4.25, 11.5)[:15]
    canvas.polygon(np.concatenate([lower, upper[::-1]]), (0.95, 0.92, 0.82), shade=0.12, light=(-1, 0))
    middle = camera.project(at + (0, -4.3, 8.0))[0]
    canvas.ellipse(middle, np.array([2.0, 1.5]) * camera.units(at), (0.75, 0.2, 0.15))


def glass(canvas: Canvas, camera: Camera, at: np.ndarray, colour: Colour, owner: int) -> None:
    shadow(canvas, camera, at, 4.4)
    _frustum(canvas, camera, at, 3.5, 4.4, 12, mixed(colour, (0.5, 0.6, 0.65), 0.5), owner, shade=0.3)
    _frustum(canvas, camera, at + (0, 0, 0.6), 3.3, 3.9, 7.5, np.array([1.0, 0.72, 0.25]), owner, shade=0.2)
    canvas.polygon(ring(camera, at, 3.9, 8.0), (1.0, 0.82, 0.4))
    canvas.polygon(ring(camera, at, 4.4, 12), colour, opacity=0.45)
    edge = camera.project(at + np.array([[-2.6, -3.0, 1.5], [-3.1, -3.4, 11.0]]))
    canvas.stroke(edge, 0.7 * camera.units(at), (1, 1, 1), opacity=0.7)


DRAW: dict[str, Callable[[Canvas, Camera, np.ndarray, Colour, int], None]] = {
    "mug": mug, "bowl": bowl, "plate": plate, "apple": apple, "orange": orange, "banana": banana, "bottle": bottle,
    "glass": glass,
}  # fmt: skip
