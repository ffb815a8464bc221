"""The pointing model: configuration, model and processor, known to transformers' Auto classes by this import."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.pointing import PointingOutput, VideoMolmoForConditionalGeneration
from videomolmo.model.processor import VideoMolmoProcessor, collate
from videomolmo.weights.published import PublishedConfig

__all__ = [
    "PointingOutput",
    "VideoMolmoConfig",
    "VideoMolmoForConditionalGeneration",
    "VideoMolmoProcessor",
    "collate",
]

for _config in (VideoMolmoConfig, PublishedConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
AutoModelForImageTextToText.register(VideoMolmoConfig, VideoMolmoForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VideoMolmoConfig, VideoMolmoProcessor, exist_ok=True)
