"""The pointing model: configuration, model and processor."""

from videomolmo.model.config import PointingConfig
from videomolmo.model.pointing import PointingModel, PointingOutput
from videomolmo.model.processor import PointingProcessor, collate

__all__ = ["PointingConfig", "PointingModel", "PointingOutput", "PointingProcessor", "collate"]
