"""MolmoPoint: configuration and model, known to transformers' Auto classes by this import."""

from transformers import AutoConfig, AutoModelForImageTextToText

from videomolmo.systems.molmopoint.config import MolmoPointConfig
from videomolmo.systems.molmopoint.model import MolmoPointForConditionalGeneration, MolmoPointOutput

__all__ = ["MolmoPointConfig", "MolmoPointForConditionalGeneration", "MolmoPointOutput"]

AutoConfig.register(MolmoPointConfig.model_type, MolmoPointConfig, exist_ok=True)
AutoModelForImageTextToText.register(MolmoPointConfig, MolmoPointForConditionalGeneration, exist_ok=True)
