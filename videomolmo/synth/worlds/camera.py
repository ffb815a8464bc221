"""A pinhole camera that projects points of a scene onto the 320 × 240 units of the picture."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from videomolmo.synth.worlds.world import HIGH, WIDE, Colour


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in a world of x to the right, y ahead and z up.

    Attributes:
        at: where it is.
        focal: units on the picture for a thing as large as it is far.
        pitch: how far it looks down, radians.
        yaw: how far it looks to the right, radians.
        roll: how far it is tilted clockwise, radians.
        centre: where its axis meets the picture, units.
    """

    at: tuple[float, float, float]
    focal: float
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    centre: tuple[float, float] = (WIDE / 2, HIGH / 2)

    @cached_property
    def _axes(self) -> Float[np.ndarray, "3 3"]:
        """Columns: the directions right, down and ahead of the camera, in the world."""
        right = np.array([np.cos(self.yaw), -np.sin(self.yaw), 0.0])
        level = np.array([np.sin(self.yaw), np.cos(self.yaw), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        ahead = np.cos(self.pitch) * level - np.sin(self.pitch) * up
        down = -np.cos(self.pitch) * up - np.sin(self.pitch) * level
        tilt, lean = np.cos(self.roll), np.sin(self.roll)
        return np.stack([tilt * right + lean * down, tilt * down - lean * right, ahead], axis=1)

    def seen_from(self, points: Colour) -> Float[np.ndarray, "points 3"]:
        """Right, down and ahead of the camera."""
        return (np.atleast_2d(np.asarray(points, float)) - self.at) @ self._axes

    def project(self, points: Colour) -> Float[np.ndarray, "points 2"]:
        """Where points fall on the picture; those behind the camera are held a little in front of it."""
        seen = self.seen_from(points)
        return seen[:, :2] / np.maximum(seen[:, 2:], 0.05) * self.focal + self.centre

    def units(self, point: Colour) -> float:
        """Units on the picture for a length of 1 at a point."""
        return self.focal / max(float(self.seen_from(point)[0, 2]), 0.05)
