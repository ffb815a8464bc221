"""VideoGLaMM: configuration, model and processor, known to transformers' Auto classes by this import."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from videomolmo.systems.videoglamm.config import VideoGLaMMConfig
from videomolmo.systems.videoglamm.model import VideoGLaMMForConditionalGeneration, VideoGLaMMOutput
from videomolmo.systems.videoglamm.processor import VideoGLaMMProcessor, collate

__all__ = [
    "VideoGLaMMConfig",
    "VideoGLaMMForConditionalGeneration",
    "VideoGLaMMOutput",
    "VideoGLaMMProcessor",
    "collate",
]

AutoConfig.register(VideoGLaMMConfig.model_type, VideoGLaMMConfig, exist_ok=True)
AutoModelForImageTextToText.register(VideoGLaMMConfig, VideoGLaMMForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VideoGLaMMConfig, VideoGLaMMProcessor, exist_ok=True)
