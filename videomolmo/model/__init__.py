"""The pointing model: configuration, model and processor, known to transformers' Auto classes by this import."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.pointing import PointingOutput, VideoMolmoForConditionalGeneration
from videomolmo.model.processor import VideoMolmoProcessor, collate

__all__ = [
    "PointingOutput",
    "VideoMolmoConfig",
    "VideoMolmoForConditionalGeneration",
    "VideoMolmoProcessor",
    "collate",
]

AutoConfig.register(VideoMolmoConfig.model_type, VideoMolmoConfig, exist_ok=True)
AutoModelForImageTextToText.register(VideoMolmoConfig, VideoMolmoForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VideoMolmoConfig, VideoMolmoProcessor, exist_ok=True)
