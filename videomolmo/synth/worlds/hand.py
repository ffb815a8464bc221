"""A forearm in a sleeve with a hand that opens and closes, reaching in from the lower edge of the picture."""

import numpy as np

from videomolmo.synth.worlds.camera import Camera
from videomolmo.synth.worlds.world import HIGH, WIDE, Canvas, Colour, mixed, oval

# Knuckle, middle joint and tip of a right hand whose fingers point up the picture and whose palm faces down; cm from
# the place it grips. Stretched out, then closed around a mug; index finger first.
_OPEN = np.array([
    [[-3.2, 3.0], [-4.2, -2.2], [-4.6, -6.6]],
    [[-1.1, 2.3], [-1.3, -3.5], [-1.4, -8.4]],
    [[1.2, 2.6], [1.7, -3.0], [1.9, -7.6]],
    [[3.3, 3.8], [4.4, -0.8], [4.9, -4.4]],
])  # fmt: skip
_CLOSED = np.array([
    [[-1.2, 4.6], [-0.6, 0.6], [-1.6, -2.4]],
    [[1.4, 4.0], [2.0, 0.2], [0.4, -3.4]],
    [[3.8, 4.4], [4.4, 0.6], [2.9, -3.2]],
    [[5.9, 5.6], [6.6, 2.4], [5.4, -1.0]],
])  # fmt: skip
_THUMB = np.array([[[-3.0, 9.0], [-6.6, 5.0], [-8.0, 1.2]], [[-2.2, 9.2], [-5.9, 5.6], [-6.2, 0.4]]])
_WRIST = np.array([2.2, 14.0])


def draw_hand(
    canvas: Canvas,
    camera: Camera,
    grip: np.ndarray,
    closed: float,
    kind: tuple[int, Colour, Colour, bool],
    *,
    fingers: bool,
) -> None:
    """Draw the part of the hand behind what it holds (arm, palm, thumb) or the part before it (fingers).

    Args:
        canvas, camera: where to, seen from where.
        grip: where it grips, in the camera's world.
        closed: 0 for an open hand, 1 for one closed around a thing.
        kind: object number, colours of skin and sleeve, and whether it is a left hand.
        fingers: which part.
    """
    owner, skin, sleeve, left = kind
    at, scale = camera.project(grip)[0], camera.units(grip) * 0.95
    side = -1.0 if left else 1.0
    elbow = np.array([WIDE / 2 + side * 0.44 * WIDE, HIGH + 95.0])
    down = (elbow - at) / np.linalg.norm(elbow - at)
    across = np.array([down[1], -down[0]])

    place_points = _placer(at, scale, across * side, down)
    dark = mixed(skin, (0.25, 0.08, 0.05), 0.35)
    if fingers:
        for index in (3, 2, 0, 1) if closed < 0.5 else (0, 1, 2, 3):
            _finger(canvas, place_points(mixed(_OPEN[index], _CLOSED[index], closed)), 2.5 * scale, skin, dark, owner)
        return
    wrist = place_points(_WRIST)
    cuff = mixed(wrist, elbow, 0.3)
    canvas.stroke([wrist, elbow], [5.8 * scale, 10.5 * scale], dark, owner)
    canvas.stroke([wrist, elbow], [5.0 * scale, 9.6 * scale], skin, shade=0.12, light=(-1, -0.2))
    canvas.stroke([cuff, elbow], [9.2 * scale, 15.0 * scale], mixed(sleeve, (0, 0, 0), 0.3), owner)
    canvas.stroke([cuff, elbow], [8.0 * scale, 13.6 * scale], sleeve, shade=0.2, light=(-1, -0.2))
    knuckles = place_points(mixed(_OPEN[:, 0], _CLOSED[:, 0], closed))
    palm = np.concatenate([knuckles, place_points(np.array([[4.6, 9.5], [4.4, 14.5], [0.0, 14.5], [-2.4, 10.5]]))])
    for colour, width, paint in ((dark, 3.4, owner), (skin, 2.7, -1)):
        canvas.polygon(palm, colour, paint)
        canvas.stroke(np.concatenate([palm, palm[:1]]), width * scale, colour, paint)
    _finger(canvas, place_points(mixed(_THUMB[0], _THUMB[1], closed)), 2.9 * scale, skin, dark, owner)


def _placer(at, scale, across, down):
    return lambda points: at + scale * (points[..., :1] * across + points[..., 1:] * down)


def _finger(canvas: Canvas, joints: np.ndarray, width: float, skin: Colour, dark: Colour, owner: int) -> None:
    widths = np.array([1.05, 1.0, 0.86]) * width
    canvas.stroke(joints, widths + 0.22 * width, dark, owner)
    canvas.stroke(joints, widths, skin, shade=0.08)
    along = joints[2] - joints[1]
    angle = float(np.arctan2(along[1], along[0]))
    nail = joints[2] + 0.12 * along / max(float(np.linalg.norm(along)), 1e-6) * width
    canvas.polygon(oval(nail, (0.36 * width, 0.26 * width), angle), mixed(skin, (1, 0.92, 0.9), 0.55))
    across = np.array([-np.sin(angle), np.cos(angle)]) * 0.26 * width
    canvas.stroke([joints[1] - across, joints[1] + across], 0.1 * width, dark, opacity=0.7)
