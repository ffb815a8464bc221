"""What stands and drives on a road: vehicles, traffic lights, people, trees and houses, seen through a camera."""
# ruff: noqa: RUF005  (a vector plus a tuple is a sum here)

from collections.abc import Callable

import numpy as np

from videomolmo.synth.worlds.camera import Camera
from videomolmo.synth.worlds.world import NOBODY, Canvas, hull, mixed

LAMPS = ((1.0, 0.16, 0.12), (1.0, 0.75, 0.1), (0.2, 0.95, 0.35))
_DARK = np.array([0.07, 0.07, 0.09])


def _face(camera: Camera, x: float, y: float, box: tuple[float, float, float, float]) -> np.ndarray:
    """An upright rectangle (left, right, low, high) in metres around x, facing the camera at distance y."""
    left, right, low, high = box
    return camera.project([[x + left, y, low], [x + right, y, low], [x + right, y, high], [x + left, y, high]])


def vehicle(
    canvas: Canvas,
    camera: Camera,
    bend: tuple[float, float],
    ahead: float,
    paint: np.ndarray,
    owner: int,
    *,
    comes: bool,
    bus: bool,
    lit: bool,
) -> None:
    """A car or a bus whose near end is `ahead` metres away.

    Args:
        canvas, camera: where to, seen from where.
        bend: metres to the right of its near and far end.
        ahead: distance.
        paint: colour of the body.
        owner: object number.
        comes: whether it shows its front.
        bus: a bus, else a car.
        lit: whether its lamps are on.
    """
    near, far = bend
    end = ahead + (9.0 if bus else 3.9)
    half, low, waist, roof = (1.25, 0.35, 1.5, 3.0) if bus else (0.95, 0.3, 0.98, 1.5)
    scale = camera.units((near, ahead, 0))
    ground = camera.project(
        [[near - half, ahead, 0], [near + half, ahead, 0], [far + half, end, 0], [far - half, end, 0]]
    )
    canvas.polygon(ground + (0, 0.1 * scale), (0, 0, 0), opacity=0.5, soft=min(0.12 * scale, 3))
    for side in (-0.78, 0.58) if not bus else (-1.1, 0.85):
        canvas.polygon(_face(camera, near, ahead, (side, side + 0.25, 0.0, 0.5)), _DARK, owner)
    body = [_face(camera, near, ahead, (-half, half, low, waist)), _face(camera, far, end, (-half, half, low, waist))]
    canvas.polygon(hull(np.concatenate(body)), paint * 0.62, owner)
    slim = 1.0 if bus else 0.8
    back, ahead_top = (ahead, end) if bus else (ahead + 0.7, end - 1.0)
    cabin = [_face(camera, near, back, (-half * slim, half * slim, waist, roof)),
             _face(camera, mixed(near, far, 0.8)[()], ahead_top, (-half * slim, half * slim, waist, roof))]  # fmt: skip
    if not bus:
        cabin.append(_face(camera, near, ahead + 0.25, (-half, half, waist - 0.05, waist)))
    canvas.polygon(hull(np.concatenate(cabin)), paint * 0.5, owner)
    canvas.polygon(_face(camera, near, ahead, (-half, half, low, waist)), paint, shade=0.14, light=(-0.3, -1))
    if bus:
        canvas.polygon(_face(camera, near, ahead, (-half, half, waist, roof)), paint * 0.95)
        canvas.polygon(_face(camera, near, ahead, (-1.05, 1.05, 1.55, 2.45)), (0.15, 0.2, 0.27), shade=0.3)
        canvas.polygon(_face(camera, near, ahead, (-0.7, 0.7, 2.6, 2.85)), (0.98, 0.75, 0.25))
    else:
        glass = np.concatenate([_face(camera, near, ahead + 0.2, (-0.8, 0.8, waist, waist + 0.02))[:2],
                                _face(camera, near, ahead + 0.7, (-0.62, 0.62, waist, roof - 0.1))[2:]])  # fmt: skip
        canvas.polygon(glass, (0.16, 0.21, 0.27) if not comes else (0.3, 0.4, 0.48), shade=0.35)
    _lamps(canvas, camera, (near, ahead, half, scale), comes, lit)


def _lamps(canvas, camera, place, comes, lit) -> None:
    near, ahead, half, scale = place
    canvas.polygon(_face(camera, near, ahead, (-half, half, 0.3, 0.46)), (0.16, 0.16, 0.18))
    if comes:
        canvas.polygon(_face(camera, near, ahead, (-0.4, 0.4, 0.5, 0.72)), (0.1, 0.1, 0.12))
    else:
        canvas.polygon(_face(camera, near, ahead, (-0.26, 0.26, 0.52, 0.68)), (0.9, 0.9, 0.85))
    colour = (1.0, 0.97, 0.8) if comes else (0.95, 0.1, 0.08) if lit else (0.75, 0.08, 0.08)
    for side in (-half + 0.05, half - 0.33):
        canvas.polygon(_face(camera, near, ahead, (side, side + 0.28, 0.6, 0.85)), colour)
        if lit or comes:
            middle = camera.project((near + side + 0.14, ahead, 0.72))[0]
            canvas.ellipse(middle, 0.3 * scale, colour, opacity=0.3, soft=min(0.2 * scale, 5))


def light(canvas: Canvas, camera: Camera, at: tuple[float, float], lit: int, owner: int) -> None:
    """A traffic light on its pole; `lit` is 0 for red, 1 for amber, 2 for green."""
    x, y = at
    scale = camera.units((x, y, 0))
    canvas.stroke(camera.project([[x, y, 0], [x, y, 4.0]]), 0.22 * scale, (0.28, 0.29, 0.3), NOBODY)
    canvas.polygon(_face(camera, x, y, (-0.56, 0.56, 3.4, 6.3)), (0.08, 0.09, 0.09), owner)
    canvas.polygon(_face(camera, x, y, (-0.48, 0.48, 3.48, 6.22)), (0.17, 0.18, 0.17))
    for lamp, height in enumerate((5.75, 4.85, 3.95)):
        middle, on = camera.project((x, y, height))[0], lamp == lit
        canvas.ellipse(middle, 0.40 * scale, LAMPS[lamp] if on else np.array(LAMPS[lamp]) * 0.24)
        if on:
            canvas.ellipse(middle, 0.9 * scale, LAMPS[lamp], opacity=0.35, soft=0.4 * scale)
            canvas.ellipse(middle - 0.1 * scale, 0.14 * scale, (1, 1, 1), opacity=0.7, soft=0.05 * scale)


def person(
    canvas: Canvas, camera: Camera, at: tuple[float, float], coat: np.ndarray, step: tuple[float, float], owner: int
) -> None:
    """Somebody on foot; `step` is how far along their stride they are, and which way they face (-1 left, 1 right)."""
    x, y = at
    stride, way = step
    swing = 0.36 * np.sin(stride * 2 * np.pi / 2)
    scale = camera.units((x, y, 0))

    def draw(points: list[tuple[float, float]], width: float, colour: tuple | np.ndarray) -> None:
        canvas.stroke(camera.project([[x + way * right, y, up] for right, up in points]), width * scale, colour, owner)

    canvas.ellipse(camera.project((x, y, 0))[0], (0.5 * scale, 0.1 * scale), (0, 0, 0), opacity=0.4, soft=0.06 * scale)
    for side, shade in ((-swing, 0.7), (swing, 1.0)):
        knee = (side * 0.55 + 0.06, 0.5)
        draw([(0, 0.98), knee, (side, 0.05), (side + 0.16, 0.04)], 0.24, np.array([0.16, 0.18, 0.3]) * shade)
    draw([(0, 1.5), (-0.8 * swing, 1.15), (-swing + 0.1, 0.92)], 0.17, coat * 0.65)
    draw([(0, 1.0), (0.02, 1.52)], 0.46, coat)
    draw([(0, 1.5), (0.8 * swing, 1.15), (swing + 0.1, 0.92)], 0.17, coat * 0.82)
    canvas.ellipse(camera.project((x + 0.04 * way, y, 1.96))[0], 0.23 * scale, (0.85, 0.64, 0.5), owner)
    hair = camera.project((x - 0.03 * way, y, 2.05))[0]
    canvas.ellipse(hair, (0.23 * scale, 0.16 * scale), (0.2, 0.13, 0.08), owner)


def tree(
    canvas: Canvas, camera: Camera, aside: Callable[[float], float], ahead: float, size: float, looks: float
) -> None:
    """A round or a pointed tree, `size` metres high."""
    if ahead < 1.5:
        return
    x, scale = aside(ahead), camera.units((aside(ahead), ahead, 0))
    green = np.array([0.2 + 0.12 * looks, 0.44 + 0.1 * looks, 0.16])
    canvas.ellipse(camera.project((x, ahead, 0))[0], (0.3 * size * scale, 0.05 * size * scale), (0, 0, 0), opacity=0.3)
    canvas.stroke(
        camera.project([[x, ahead, 0], [x, ahead, 0.5 * size]]), 0.08 * size * scale, (0.36, 0.25, 0.16), NOBODY
    )
    if looks < 0.4:
        for low, high, wide in ((0.2, 0.65, 0.26), (0.42, 0.85, 0.2), (0.62, 1.0, 0.14)):
            cone = [[x - wide * size, ahead, low * size], [x + wide * size, ahead, low * size], [x, ahead, high * size]]
            canvas.polygon(camera.project(cone), green * 0.8, NOBODY, shade=0.25, light=(-1, -0.4))
        return
    for right, up, wide in ((-0.16, 0.56, 0.22), (0.17, 0.58, 0.21), (0.0, 0.75, 0.25)):
        middle = camera.project((x + right * size, ahead, up * size))[0]
        canvas.ellipse(middle, wide * size * scale, green, NOBODY, shade=0.3)


def building(
    canvas: Canvas, camera: Camera, aside: Callable[[float], float], ahead: float, size: float, looks: float
) -> None:
    """A house of `size` metres whose front runs along the road, with rows of windows, some of them lit."""
    start, end = max(ahead, 1.6), ahead + 10.6
    if end < start + 0.5:
        return
    near, far = aside(start), aside(end)
    tones = ((0.5, 0.36, 0.34), (0.45, 0.42, 0.46), (0.56, 0.48, 0.40), (0.36, 0.38, 0.46))
    wall = np.array(tones[int(looks * 4)])
    out = 7.0 if near > 0 else -7.0
    front = camera.project([[near, start, 0], [near + out, start, 0], [near + out, start, size], [near, start, size]])
    canvas.polygon(front, wall * 0.62, NOBODY)
    side = camera.project([[near, start, 0], [far, end, 0], [far, end, size], [near, start, size]])
    canvas.polygon(side, wall * 0.9, NOBODY, shade=0.1)
    for row in range(int(size / 2.8)):
        for column in range(4):
            first = ahead + 1.0 + 2.5 * column
            if not 2.0 < first < 55.0:
                continue
            low = 0.9 + 2.8 * row
            glow = (looks * 97 + row * 7.3 + column * 3.7) % 1 < 0.45
            pane = [[aside(first), first, low], [aside(first + 1.3), first + 1.3, low],
                    [aside(first + 1.3), first + 1.3, low + 1.5], [aside(first), first, low + 1.5]]  # fmt: skip
            canvas.polygon(camera.project(pane), (1.0, 0.83, 0.45) if glow else wall * 0.42)
