"""Draw a scene at any time and size, with the exact visible mask of every object."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.synth.scene import Path, Scene, SceneObject, hsv

_SUBPIXEL = 4  # binary digits of subpixel accuracy given to OpenCV
_MARGIN = 0.1  # the background is drawn this much larger than the frame, so that the camera can drift


class Renderer:
    """Frames and masks of one scene at one size; the background is drawn once.

    Args:
        scene: what to draw.
        height: pixels.
        width: pixels; if width / height is not the scene's aspect the picture is stretched, masks with it.
    """

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        self.scene, self.height, self.width = scene, height, width
        self.scale = np.array([width / scene.aspect, height])
        self.background = _draw_background(scene, height, width)
        rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        self.vignette = (1 - scene.vignette * (rows**2 + columns**2) / 2)[..., None]

    def frame(
        self, time: float
    ) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "objects height width"]]:
        """The RGB frame at `time` and the visible part of every object there."""
        picture = self._shifted_background(time)
        masks = np.zeros((len(self.scene.objects), self.height, self.width), bool)
        for index, obj in enumerate(self.scene.objects):
            covered = self._coverage(self._corners(obj, time), obj.soft)
            if covered is not None:
                box, alpha = covered
                self._paint(picture[box], alpha, self._surface(obj, time, box))
                masks[:index][:, *box] &= alpha < 0.5
                masks[index][box] = alpha >= 0.5
        for shape, rgb, radius, path in self.scene.occluders:
            covered = self._coverage((shape * radius + self._at(path, time)) * self.scale, 0.0)
            if covered is not None:
                box, alpha = covered
                self._paint(picture[box], alpha, rgb)
                masks[:, *box] &= alpha < 0.5
        return self._apply_camera(picture, time), masks

    def full_areas(self, time: float) -> Float[np.ndarray, " objects"]:
        """Area in pixels that every object would have with nothing in front of it and no edge of the frame."""
        corners = [self._corners(obj, time) for obj in self.scene.objects]
        return np.array([cv2.contourArea(points.astype(np.float32)) for points in corners])

    def _at(self, path: Path, time: float) -> np.ndarray:
        return path.position(time) + self.scene.drift * time

    def _corners(self, obj: SceneObject, time: float) -> np.ndarray:
        angle = obj.angle + obj.spin * time
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return (obj.outline @ rotation.T * obj.radius + self._at(obj.path, time)) * self.scale

    def _coverage(self, corners: np.ndarray, soft: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """A box of the frame and how much of each pixel in it the outline covers (0…1); None when out of the frame."""
        low = np.maximum(np.floor(corners.min(0)).astype(int) - 4, 0)
        high = np.minimum(np.ceil(corners.max(0)).astype(int) + 4, (self.width, self.height))
        if (high <= low).any():
            return None
        alpha = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        points = np.round((corners - low - 0.5) * 2**_SUBPIXEL).astype(np.int32)
        cv2.fillPoly(alpha, [points], 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL)
        if soft > 0.3:
            alpha = cv2.GaussianBlur(alpha, (0, 0), soft * self.height / 128)
        return (slice(low[1], high[1]), slice(low[0], high[0])), alpha.astype(np.float32) / 255

    def _surface(self, obj: SceneObject, time: float, box: tuple[slice, slice]) -> np.ndarray:
        """The object's colour over a box of the frame: one RGB triple, or shaded, or with a small mark on it."""
        if obj.shade < 0.03 and obj.marked == 0:
            return obj.rgb
        centre = self._at(obj.path, time) * self.scale
        down = (np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None] - centre[1]) / self.scale[1]
        across = (np.arange(box[1].start, box[1].stop, dtype=np.float32)[None] - centre[0]) / self.scale[0]
        slope = (across * np.cos(obj.shade_angle) + down * np.sin(obj.shade_angle)) / obj.radius
        surface = obj.rgb * (1 - obj.shade * np.clip(0.35 + 0.65 * slope, -0.2, 1)).astype(np.float32)[..., None]
        if obj.marked:
            surface[across**2 + down**2 < (obj.marked * obj.radius) ** 2] = obj.mark_rgb
        return surface

    def _paint(self, picture: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
        cover = alpha[..., None]
        picture += cover * (colour - picture)

    def _shifted_background(self, time: float) -> np.ndarray:
        shift = -(self.scene.drift * time * self.scale) + _MARGIN * np.array([self.width, self.height])
        matrix = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]])
        size = (self.width, self.height)
        return cv2.warpAffine(self.background, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def _apply_camera(self, picture: np.ndarray, time: float) -> np.ndarray:
        """Light, lens and sensor: gain that swings with time, cast, vignette, blur, noise, JPEG."""
        scene = self.scene
        gain = scene.light[0] * (1 + scene.light[1] * np.sin(scene.light[2] * time))
        picture = picture * (self.vignette * (gain * scene.cast).astype(np.float32))
        if scene.blur > 0.25:
            picture = cv2.GaussianBlur(picture, (0, 0), scene.blur * self.height / 128)
        if scene.noise > 0:
            rng = np.random.default_rng([scene.seed, 7, round(time * 16) + 2**20])
            picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * scene.noise
        frame = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
        if scene.jpeg:
            _, code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg])
            frame = cv2.imdecode(code, cv2.IMREAD_COLOR)
        return frame


def _draw_background(scene: Scene, height: int, width: int) -> np.ndarray:
    """A canvas with a margin on all sides, RGB float32 in 0…1."""
    rng = np.random.default_rng([scene.seed, 3])
    size = (round(height * (1 + 2 * _MARGIN)), round(width * (1 + 2 * _MARGIN)))
    colours, kind = scene.background_rgb, scene.background
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32) / height
    columns *= scene.aspect * height / width
    if kind == "flat":
        return np.broadcast_to(colours[0], (*size, 3)).astype(np.float32).copy()
    if kind == "gradient":
        corners = np.stack(colours[:4]).reshape(2, 2, 3).astype(np.float32)
        return cv2.resize(corners, size[::-1], interpolation=cv2.INTER_LINEAR)
    if kind == "noise":
        return _mix(colours, _value_noise(rng, size, scene.background_scale))
    angle = rng.uniform(0, np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    if kind == "stripes":
        return _mix(colours, 0.5 + 0.5 * np.sin(2 * np.pi * along / scene.background_scale) * rng.uniform(0.3, 1))
    if kind == "checks":
        field = (np.floor(along / scene.background_scale) + np.floor(across / scene.background_scale)) % 2
        return _mix(colours, field * rng.uniform(0.3, 1))
    if kind == "rooms":  # a horizon: two large planes, each with its own gradient
        edge = rng.uniform(0.25, 0.75) + rng.uniform(-0.2, 0.2) * columns
        upper, lower = _mix(colours[:2], rows), _mix(colours[2:4], columns / scene.aspect)
        return _clutter(rng, np.where((rows < edge)[..., None], upper, lower), colours, int(rng.integers(0, 6)))
    canvas = _mix(colours, _value_noise(rng, size, scene.background_scale))
    return _clutter(rng, canvas, colours, int(rng.integers(8, 40)))


def _mix(colours: tuple[np.ndarray, ...], field: np.ndarray) -> np.ndarray:
    field = np.clip(field, 0, 1)[..., None].astype(np.float32)
    return colours[0] * (1 - field) + colours[1] * field


def _value_noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Smooth noise in 0…1 of two grain sizes; `scale` is the larger, as a share of the height."""
    total = np.zeros(size, np.float32)
    for grain, weight in ((scale, 0.7), (scale / 4, 0.3)):
        cells = max(2, round(1 / grain))
        coarse = rng.random((cells, cells), dtype=np.float32)
        total += weight * cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return total


def _clutter(rng: np.random.Generator, canvas: np.ndarray, colours: tuple[np.ndarray, ...], pieces: int) -> np.ndarray:
    """Bars, lines and blobs in muted colours, or greyed versions of strong ones, over `canvas`."""
    canvas = np.ascontiguousarray(canvas, dtype=np.float32)
    height, width = canvas.shape[:2]
    for _ in range(pieces):
        colour = colours[int(rng.integers(len(colours)))] * rng.uniform(0.7, 1.2)
        if rng.random() < 0.2:
            colour = hsv(rng.uniform(0, 360), rng.uniform(0.0, 0.35), rng.uniform(0.1, 0.8))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if rng.random() < 0.3:
            end = (int(x + rng.normal(0, width / 4)), int(y + rng.normal(0, height / 4)))
            cv2.line(canvas, (int(x), int(y)), end, colour.tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            corners = np.array([x, y]) + rng.normal(0, rng.uniform(0.02, 0.12) * height, (int(rng.integers(3, 7)), 2))
            hull = cv2.convexHull(corners.astype(np.float32)).astype(np.int32)
            cv2.fillPoly(canvas, [hull], colour.tolist(), cv2.LINE_AA)
    return canvas
