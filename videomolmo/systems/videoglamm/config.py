"""All sizes of VideoGLaMM in one place: two encoders of frames, a Phi-3 that reads them, and the SAM 2 it prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from transformers import CLIPVisionConfig, Phi3Config

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import check_fields, float_in, int_in, shortened
from videomolmo.model.config import NestedConfig, divides

Width, Layers, Heads, Side = int_in(1, 2**17), int_in(1, 256), int_in(1, 1024), int_in(1, 4096)
Token = int_in(0, 2**22)


@dataclass(frozen=True)
class LanguageConfig:
    """Phi-3. `window` counts the keys that a token sees, itself included; None is all.

    Differs: the published configuration gives one less, since the transformers of its time counted without the token.
    """

    vocab_size: int_in(2, 2**22) = 32012
    width: Width = 3072
    ff: Width = 8192
    layers: Layers = 32
    heads: Heads = 32
    kv_heads: Heads = 32
    rms_eps: float_in(0, 1) = 1e-5
    rope_theta: float_in(1, 1e12) = 1e4
    window: int_in(1, 2**24) | None = 2048
    max_positions: int_in(1, 2**24) = 4096
    segment: Token = 32011  # [SEG]: the id that stands for a mask
    end: tuple[Token, ...] = (32000, 32001, 32007)
    begin: Token = 1
    padding: Token = 0

    def __post_init__(self) -> None:
        check_fields(self)
        divides(self, "heads", "width")
        divides(self, "kv_heads", "heads")
        if self.width // self.heads % 2:
            raise ValueError(f"LanguageConfig.width / heads is {self.width // self.heads}, must be even to be rotated")
        for name, ids in {"segment": [self.segment], "end": self.end, "padding": [self.padding]}.items():
            if any(one >= self.vocab_size for one in ids):
                raise ValueError(
                    f"LanguageConfig.{name} is {getattr(self, name)}, must be below vocab_size = {self.vocab_size}"
                )


@dataclass(frozen=True)
class ImageConfig:
    """CLIP, which sees every frame alone; its patches are pooled to a square of `pool` by `pool` tokens.

    `stem` "conv" is nano's: a few convolutions (`model.vision.stem_layers`) where the published one has a linear map.
    """

    size_px: Side = 336
    patch_px: int_in(1, 256) = 14
    width: Width = 1024
    ff: Width = 4096
    layers: int_in(2, 256) = 24
    heads: Heads = 16
    norm_eps: float_in(0, 1) = 1e-5
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    pool: int_in(1, 256) = 12
    stem: Literal["linear", "conv"] = "linear"

    def __post_init__(self) -> None:
        check_fields(self)
        divides(self, "heads", "width")
        _check_patches(self)


def _check_patches(part: Any) -> None:
    """Refuse a picture without a whole patch; convolutions of stride 2 want all of it in patches of a power of two.

    The linear map leaves out what remains at the right and below, as in the released code.
    """
    name = type(part).__name__
    if part.size_px < part.patch_px:
        raise ValueError(f"{name}.size_px is {part.size_px}, must be at least patch_px = {part.patch_px}")
    if part.stem == "conv":
        divides(part, "patch_px", "size_px")
        if part.patch_px & (part.patch_px - 1):
            raise ValueError(f"{name}.patch_px is {part.patch_px}, must be a power of two for stem 'conv'")


@dataclass(frozen=True)
class PretrainingConfig:
    """Heads that InternVideo2 was pretrained with; published weights hold them, and nothing here runs them."""

    layers: Layers = 6
    clip_width: Width = 768
    teacher_width: Width = 3200
    final_width: Width = 768
    text_width: Width = 512

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class VideoConfig:
    """InternVideo2, which sees chunks of `frames` frames; their patches are pooled to `pool` by `pool` per frame.

    `layers` are those of the file; the last one is not run. `pretraining` is None where a file holds what is run alone.
    `stem` as in `ImageConfig`.
    """

    size_px: Side = 224
    patch_px: int_in(1, 256) = 14
    frames: int_in(1, 64) = 4
    width: Width = 1408
    ff: Width = 6144
    layers: int_in(2, 256) = 40
    heads: Heads = 16
    pool: int_in(1, 256) = 8
    pretraining: PretrainingConfig | None = field(default_factory=PretrainingConfig)
    stem: Literal["linear", "conv"] = "linear"

    def __post_init__(self) -> None:
        check_fields(self)
        _check_patches(self)
        divides(self, "heads", "width")
        if self.width % 16:
            raise ValueError(f"VideoConfig.width is {self.width}, must be a multiple of 16 for the position table")

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.size_px // self.patch_px


NANO_WIDTH = 128


@dataclass(frozen=True)
class MaskConfig:
    """SAM 2.0 (Hiera-L): what differs between its published sizes; the rest is as in `masks.sam2.build_published`.

    `kind` "nano" is this package's own SAM 2: of the numbers only `size_px` counts, and `width` must be its own.
    """

    kind: Literal["hiera_l", "nano"] = "hiera_l"
    size_px: int_in(32, 1024) = 1024
    width: int_in(2, 4096) = 256
    memory_width: int_in(2, 4096) = 64
    trunk_width: int_in(2, 512) = 144
    trunk_heads: int_in(1, 16) = 2
    stages: tuple[int_in(1, 64), ...] = (2, 6, 36, 4)
    windows: tuple[int_in(1, 64), ...] = (8, 4, 16, 8)
    global_blocks: tuple[int_in(0, 383), ...] = (23, 33, 43)
    background: tuple[int_in(1, 128), ...] = (7, 7)
    layers: int_in(1, 32) = 4
    ff: int_in(1, 2**15) = 2048
    memories: int_in(1, 64) = 7

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind == "nano" and self.width != NANO_WIDTH:
            raise ValueError(f"MaskConfig.width is {self.width}, must be {NANO_WIDTH} for kind 'nano'")
        if self.kind == "hiera_l":
            for name, part in (("size_px", 32), ("width", 16), ("memory_width", 2)):
                if getattr(self, name) % part:
                    raise ValueError(f"MaskConfig.{name} is {getattr(self, name)}, must be a multiple of {part}")
            divides(self, "memory_width", "width")
            divides(self, "trunk_heads", "trunk_width")
        for name in ("stages", "windows"):
            if len(getattr(self, name)) != 4:
                raise ValueError(f"MaskConfig.{name} is {getattr(self, name)}, expected four numbers, one for a stage")
        firsts = set(accumulate(self.stages[:-1]))
        if not firsts.isdisjoint(self.global_blocks) or max(self.global_blocks, default=0) >= sum(self.stages):
            raise ValueError(
                f"MaskConfig.global_blocks is {self.global_blocks}, must be below {sum(self.stages)} and none of the "
                f"first blocks of a stage, {sorted(firsts)}"
            )

    @property
    def grid(self) -> int:
        """Side of the coarsest feature map."""
        return self.size_px // 16


class VideoGLaMMConfig(NestedConfig):
    """Everything that fixes the shape of a VideoGLaMM, as a configuration of transformers.

    Args:
        language, image, video, masks: the parts.
        frames: shown to the encoders; longer videos are sampled, shorter ones repeat their last frame.
        most_objects: masks of a sample that a training step counts, missing ones as zero.
        ce_weight, bce_weight, dice_weight: of the three losses.
        frame_marks: whether the frames stand between `<vid_start>` and `<vid_end>` in a prompt, a picture between
            `<im_start>` and `<im_end>`.
        shared: "nano" where a file leaves out what it has in common with the models that this package ships: frozen
            encoders. (The published export leaves out CLIP.)
    """

    model_type = "videoglamm"

    language: LanguageConfig = field(default_factory=LanguageConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    frames: int_in(1, 1024) = 16
    most_objects: int_in(1, 256) = 4
    ce_weight: float_in(0, 1e3) = 1.0
    bce_weight: float_in(0, 1e3) = 2.0
    dice_weight: float_in(0, 1e3) = 0.5
    frame_marks: bool = False
    shared: Literal["nothing", "nano"] = "nothing"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.frames % self.video.frames:
            raise ValueError(
                f"VideoGLaMMConfig.frames is {self.frames}, must be a multiple of video.frames = {self.video.frames}"
            )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Phi3Config:
        """The language model in transformers' terms."""
        part = self.language
        return Phi3Config(
            vocab_size=part.vocab_size, hidden_size=part.width, intermediate_size=part.ff,
            num_hidden_layers=part.layers, num_attention_heads=part.heads, num_key_value_heads=part.kv_heads,
            rms_norm_eps=part.rms_eps, max_position_embeddings=part.max_positions,
            original_max_position_embeddings=part.max_positions, sliding_window=part.window,
            rope_parameters={"rope_type": "default", "rope_theta": part.rope_theta, "partial_rotary_factor": 1.0},
            bos_token_id=part.begin, eos_token_id=list(part.end), pad_token_id=part.padding,
            attn_implementation=self._attn_implementation,
        )  # fmt: skip

    def get_image_config(self) -> CLIPVisionConfig:
        """The image encoder in transformers' terms."""
        part = self.image
        return CLIPVisionConfig(
            hidden_size=part.width, intermediate_size=part.ff, num_hidden_layers=part.layers,
            num_attention_heads=part.heads, image_size=part.size_px, patch_size=part.patch_px,
            layer_norm_eps=part.norm_eps, hidden_act=part.activation, attn_implementation="sdpa",
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VideoGLaMMConfig) and self.to_dict() == other.to_dict()

    __hash__ = None

    @classmethod
    def build(cls, part: type, values: dict[str, Any], name: str) -> Any:
        """See `NestedConfig.build`; the pretraining heads of an encoder are a part of a part."""
        if isinstance(values, dict) and isinstance(values.get("pretraining"), dict):
            heads = super().build(PretrainingConfig, values["pretraining"], "pretraining")
            values = {**values, "pretraining": heads}
        return super().build(part, values, name)


PHI3 = {  # keys of a published config.json, and ours
    "vocab_size": "vocab_size", "hidden_size": "width", "intermediate_size": "ff", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "num_key_value_heads": "kv_heads", "rms_norm_eps": "rms_eps",
    "rope_theta": "rope_theta", "max_position_embeddings": "max_positions", "bos_token_id": "begin",
}  # fmt: skip
FIXED = {  # values of a published config.json that this package has no options for
    "mm_projector_type": "mlp2x_gelu", "image_mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch", "out_dim": 256, "use_sam2": True,
    "hidden_act": "silu", "rope_scaling": None, "partial_rotary_factor": 1.0, "attention_bias": False,
    "tie_word_embeddings": False, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


def config_from_published(values: dict[str, Any], rows: int) -> VideoGLaMMConfig:
    """Our configuration from a published config.json, which describes Phi-3 alone; encoders and SAM 2 are fixed.

    Args:
        values: of config.json.
        rows: of the embedding in the file; the last one is [SEG], whatever ids the configuration holds.

    Raises:
        BadInput: an option that this package does not compute.
        ValueError: a value out of range.
    """
    for name, wanted in FIXED.items():
        if values.get(name) not in (None, wanted):
            raise BadInput(f"config.json has {name} = {shortened(values[name])}, only {wanted!r} is supported")
    known = {ours: values[name] for name, ours in PHI3.items() if values.get(name) is not None}
    window = values.get("sliding_window", LanguageConfig.window - 1)
    known["window"] = window + 1 if isinstance(window, int) else window
    marks = values.get("mm_use_im_start_end")
    if marks not in (None, True, False):
        raise BadInput(f"config.json has mm_use_im_start_end = {shortened(marks)}, expected true or false; correct it")
    language = LanguageConfig(**known | {"vocab_size": rows, "segment": rows - 1})
    return VideoGLaMMConfig(language=language, frame_marks=bool(marks))
