"""The pointing model: configuration, model and processor, in transformers' own terms.

`import videomolmo`, before transformers or after it, makes its Auto classes know them:

    import videomolmo
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained("ghazishazan/VideoMolmo", device_map="auto")
    processor = AutoProcessor.from_pretrained("ghazishazan/VideoMolmo")
"""

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
