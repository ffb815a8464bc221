"""All sizes of the pointing model in one place: images, vision tower, language model and what joins them."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import PreTrainedConfig, Qwen2Config

from videomolmo.errors import BadInput
from videomolmo.io.files import write_text
from videomolmo.io.untrusted import check_fields, float_in, int_in, read_model_json, shortened

TemporalKind = Literal["none", "addition", "concatenation", "cross_attention", "cross_attention_all"]
TEMPORAL_KINDS = get_args(TemporalKind)
# Far above any model that there is, and small enough that a model of all of them is laid out (without memory) at once.
Width, Layers, Heads, Vocabulary = int_in(1, 2**17), int_in(1, 256), int_in(1, 1024), int_in(1, 2**22)
Small = float_in(0, 1)
EXTRA_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>")
POINT_TOKENS = 3  # more rows, where points are tokens: an image token, a patch of it, a place in that


def divides(owner: object, small: str, large: str) -> None:
    """Raise ValueError where field `small` does not divide field `large`."""
    if getattr(owner, large) % getattr(owner, small):
        raise ValueError(
            f"{type(owner).__name__}.{large} is {getattr(owner, large)}, "
            f"must be a multiple of {small} = {getattr(owner, small)}"
        )


@dataclass(frozen=True)
class ImageConfig:
    """How a frame becomes crops. Source: published model, image preprocessor.

    Args:
        size_px: side of a crop.
        patch_px: side of a patch.
        margins: patches on the left/top and right/bottom of a high-resolution crop that only serve as surroundings.
        max_crops: most high-resolution crops of a frame; 0 keeps the overview crop alone.
        resize: "pad" keeps the aspect ratio (published), "stretch" fills the square.
        mean, std: normalisation per RGB channel.
    """

    size_px: int_in(1, 4096) = 336
    patch_px: int_in(1, 256) = 14
    margins: tuple[int_in(0, 256), int_in(0, 256)] = (4, 4)
    max_crops: int_in(0, 256) = 12
    resize: Literal["pad", "stretch"] = "pad"
    mean: tuple[Small, Small, Small] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float_in(1e-3, 10), float_in(1e-3, 10), float_in(1e-3, 10)] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        check_fields(self)
        divides(self, "patch_px", "size_px")
        if self.grid % 2:
            raise ValueError(f"ImageConfig.size_px / patch_px is {self.grid}, must be even for 2x2 windows")
        if self.max_crops and (any(margin % 2 for margin in self.margins)):
            raise ValueError(f"ImageConfig.margins is {self.margins}, must be even")
        if self.max_crops and sum(self.margins) >= self.grid:
            raise ValueError(f"ImageConfig.margins is {self.margins}, their sum must be below the grid of {self.grid}")

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.size_px // self.patch_px

    @property
    def patches(self) -> int:
        """Patches of one crop."""
        return self.grid**2

    @property
    def window_grid(self) -> int:
        """2x2 windows along one side of a crop."""
        return self.grid // 2

    @property
    def windows(self) -> int:
        """2x2 windows, that is image tokens, of one crop."""
        return self.window_grid**2

    @property
    def most_tokens(self) -> int:
        """Most image tokens of a frame: no more than the windows of all its crops."""
        return (1 + self.max_crops) * self.windows

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened RGB patch."""
        return 3 * self.patch_px**2

    @property
    def usable(self) -> int:
        """Patches along one side of a high-resolution crop without its margins."""
        return self.grid - sum(self.margins)


@dataclass(frozen=True)
class VisionConfig:
    """The CLIP-style tower. `vit_layers` count from the last of `layers` blocks and are concatenated in this order."""

    width: Width = 1024
    heads: Heads = 16
    layers: Layers = 23
    mlp: Width = 4096
    vit_layers: tuple[int_in(-256, 255), ...] = (-2, -9)
    stem: Literal["linear", "conv"] = "linear"
    norm_eps: Small = 1e-5

    def __post_init__(self) -> None:
        check_fields(self)
        divides(self, "heads", "width")
        if not 1 <= len(self.vit_layers) <= self.layers or any(
            not -self.layers <= layer < self.layers for layer in self.vit_layers
        ):
            raise ValueError(
                f"VisionConfig.vit_layers is {self.vit_layers}, each must lie in [-{self.layers}, {self.layers - 1}]"
            )

    @property
    def selected(self) -> tuple[int, ...]:
        """The selected blocks, counted from 0."""
        return tuple(layer % self.layers for layer in self.vit_layers)

    @property
    def feature_dim(self) -> int:
        """Width of a patch feature: the selected blocks side by side."""
        return self.width * len(self.vit_layers)


@dataclass(frozen=True)
class LanguageConfig:
    """The Qwen2 language model. `ff` is the SwiGLU width (the published files give twice that)."""

    vocab_size: Vocabulary = 152064
    extra_vocab: int_in(len(EXTRA_TOKENS), 2**16) = 128
    width: Width = 3584
    layers: Layers = 28
    heads: Heads = 28
    kv_heads: Heads = 4
    ff: Width = 18944
    rope_theta: float_in(1, 1e12) = 1e6
    rms_eps: Small = 1e-6
    max_positions: int_in(1, 2**24) = 4096
    tie_word_embeddings: bool = False
    end_of_text: int_in(0, 2**22) = 151643

    def __post_init__(self) -> None:
        check_fields(self)
        divides(self, "heads", "width")
        divides(self, "kv_heads", "heads")
        if self.end_of_text >= self.vocab_size:
            raise ValueError(
                f"LanguageConfig.end_of_text is {self.end_of_text}, must be below vocab_size = {self.vocab_size}"
            )

    @property
    def extra_ids(self) -> dict[str, int]:
        """Ids of the image tokens: the first rows after the vocabulary."""
        return {name: self.vocab_size + row for row, name in enumerate(EXTRA_TOKENS)}

    @property
    def point_ids(self) -> tuple[int, ...]:
        """Ids of the three tokens of a point: the rows after those of image tokens."""
        first = self.vocab_size + len(EXTRA_TOKENS)
        return tuple(range(first, first + POINT_TOKENS))

    @property
    def all_words(self) -> int:
        """Rows of the table of words, extra ones included; ids of chosen places begin here."""
        return self.vocab_size + self.extra_vocab


class NestedConfig(PreTrainedConfig):
    """A configuration of parts, dataclasses of their own: read as the file of a stranger, written with every value."""

    def __post_init__(self, **kwargs: Any) -> None:
        if unknown := sorted(set(kwargs) - set(SETTINGS)):
            raise TypeError(f"{type(self).__name__} has no {unknown[0]!r}, expected only {self.own_fields()}")
        super().__post_init__(**kwargs)
        check_fields(self)

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of the fields that fix a model, without those that transformers adds."""
        inherited = {entry.name for entry in fields(PreTrainedConfig)}
        return [entry.name for entry in fields(cls) if entry.name not in inherited]

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        values = {name: getattr(self, name) for name in self.own_fields()}
        plain = {name: asdict(value) if is_dataclass(value) else value for name, value in values.items()}
        return {"model_type": self.model_type, **json.loads(json.dumps(plain))}

    to_diff_dict = to_dict

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of config.json: every value, so that later defaults change no saved model."""
        return json.dumps({"architectures": self.architectures, **self.to_dict()}, indent=2) + "\n"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The inverse of `to_dict`; raises BadInput on an unknown key and ValueError on a value out of range.

        Args:
            config_dict: of config.json.
            kwargs: what transformers hands on: settings and fields to change; the rest is given back where asked for.
        """
        if not isinstance(config_dict, dict):
            raise BadInput(f"config is {shortened(config_dict)}, expected a JSON object; see {cls.__name__}.to_dict()")
        values = {name: value for name, value in config_dict.items() if name not in WRITTEN}
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise BadInput(
                f"model_type is {shortened(kind)}, expected {cls.model_type!r}; use load_grounder for others"
            )
        for entry in fields(cls):
            if entry.name in values and is_dataclass(entry.default_factory):
                values[entry.name] = cls.build(entry.default_factory, values[entry.name], entry.name)
        return changed(cls.build(cls, values, "config"), kwargs)

    @classmethod
    def build(cls, part: type, values: dict[str, Any], name: str) -> Any:
        """Dataclass `part` from a mapping, lists turned into tuples; unknown keys raise BadInput."""
        if not isinstance(values, dict):
            raise BadInput(f"{name} is {shortened(values)}, expected a JSON object; see {cls.__name__}.to_dict()")
        known = cls.own_fields() if part is cls else [entry.name for entry in fields(part)]
        if unknown := sorted(set(values) - set(known)):
            raise BadInput(
                f"{name} has unknown keys {shortened(unknown)}, expected only {known}; remove or rename them"
            )
        return part(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> tuple[dict, dict]:
        """config.json of a folder as it stands, read as a file of a stranger; of a hub's id as transformers does."""
        if Path(pretrained_model_name_or_path).is_dir():
            folder = Path(pretrained_model_name_or_path, kwargs.pop("subfolder", None) or "")
            return read_model_json(folder / "config.json"), kwargs
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)


class VideoMolmoConfig(NestedConfig):
    """Everything that fixes the shape of a pointing model, as a configuration of transformers.

    Args:
        temporal: how the context of past frames enters; one of `TEMPORAL_KINDS`. Source: paper, eq. 1 and ablation.
        context: number l of past frames.
        temporal_heads, temporal_head_dim: attention of the temporal module; None takes the vision tower's.
        init_output_zero: start the temporal module at zero output, so that the model starts as its single-frame self.
        projector_width: hidden width of the projector; None takes the language model's `ff`.
        connector_norm: LayerNorm before and after the projector (published: no).
        window_positions: learned row and column embedding on projected window tokens (published: no).
        image_padding_embed: None (VideoMolmo) or "pad_and_partial_pad" (Molmo).
        loss_token_weighting: None or "root_subsegments" (tokens weigh 1 / sqrt(branches)).
        points: "text" (published) or "tokens": three for a point, which choose an image token, one of the patches that
            it was pooled from, and one of nine places in that. Source: MolmoPoint; see `token_heads`.
        point_width: in which these are compared with what asks for them; even.
        image_attention: whether image tokens see those before them alone (published), or each other.
    """

    model_type = "videomolmo"
    is_published = False  # whether only the language model's sizes are known, see `PublishedConfig`

    image: ImageConfig = field(default_factory=ImageConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    temporal: TemporalKind = "cross_attention"
    context: int_in(0, 256) = 4
    temporal_heads: Heads | None = None
    temporal_head_dim: Width | None = None
    init_output_zero: bool = True
    projector_width: Width | None = None
    connector_norm: bool = False
    window_positions: bool = False
    image_padding_embed: Literal["pad_and_partial_pad"] | None = None
    loss_token_weighting: Literal["root_subsegments"] | None = None
    points: Literal["text", "tokens"] = "text"
    point_width: Width = 512
    image_attention: Literal["causal", "bidirectional"] = "causal"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.context < 1 and self.temporal != "none":
            raise ValueError(f"VideoMolmoConfig.context is {self.context}, must be at least 1")
        if self.points == "tokens" and self.language.extra_vocab < (least := len(EXTRA_TOKENS) + POINT_TOKENS):
            raise ValueError(
                f"LanguageConfig.extra_vocab is {self.language.extra_vocab}, with points = 'tokens' it must be at "
                f"least {least}"
            )
        if self.point_width % 2:
            raise ValueError(f"VideoMolmoConfig.point_width is {self.point_width}, must be even")
        patch_px, width = self.image.patch_px, self.vision.width
        if self.vision.stem == "conv" and (patch_px < 2 or patch_px & (patch_px - 1) or width % (patch_px // 2)):
            raise ValueError(
                f"ImageConfig.patch_px is {patch_px}, with VisionConfig.stem = 'conv' it must be a power of two "
                f"of at least 2 whose half divides VisionConfig.width = {width}"
            )

    @property
    def attention_shape(self) -> tuple[int, int]:
        """Heads and head width of the temporal attention."""
        heads, width = self.vision.heads, self.vision.width
        return self.temporal_heads or heads, self.temporal_head_dim or width // heads

    @property
    def projector_dim(self) -> int:
        """Hidden width of the projector."""
        return self.projector_width or self.language.ff

    @property
    def needs_past(self) -> bool:
        """Whether past frames enter the model at all."""
        return self.temporal != "none"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VideoMolmoConfig) and self.to_dict() == other.to_dict()

    __hash__ = None

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Qwen2Config:
        """The language model's sizes in transformers' terms, a new copy each time."""
        return copy.deepcopy(_qwen2(self.language, self._attn_implementation))

    def to_json(self, path: str | Path) -> None:
        """Write the configuration as JSON."""
        write_text(Path(path), self.to_json_string())

    @classmethod
    def from_json(cls, path: str | Path) -> VideoMolmoConfig:
        """Read what `to_json` wrote."""
        values = read_model_json(path)
        try:
            return cls.from_dict(values)
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}: {error}") from error

    @classmethod
    def molmo_7b(cls, temporal: str = "cross_attention", image_padding_embed: str | None = None) -> VideoMolmoConfig:
        """The full size: VideoMolmo as published; Molmo-7B-D with temporal="none" and "pad_and_partial_pad"."""
        return cls(temporal=temporal, image_padding_embed=image_padding_embed)

    @classmethod
    def nano(
        cls, temporal: str = "cross_attention", context: int = 4, vocab_size: int = 512, points: str = "text"
    ) -> VideoMolmoConfig:
        """A 2 M parameter model of the same parts that trains on a laptop.

        Example:
            >>> VideoMolmoConfig.nano().image.windows
            36
        """
        return cls(
            image=ImageConfig(size_px=96, patch_px=8, max_crops=0, resize="stretch"),
            vision=VisionConfig(width=128, heads=4, layers=4, mlp=256, vit_layers=(-1, -3), stem="conv"),
            language=LanguageConfig(
                vocab_size=vocab_size, width=128, layers=4, heads=4, kv_heads=2, ff=384, rope_theta=1e4,
                max_positions=1024, tie_word_embeddings=True, end_of_text=0,
            ),
            temporal=temporal, context=context, connector_norm=True, window_positions=True, points=points,
            point_width=64,
        )  # fmt: skip


WRITTEN = ("model_type", "architectures", "transformers_version", "dtype", "_commit_hash")  # transformers' own keys
SETTINGS = ("attn_implementation", "experts_implementation", "output_attentions", "name_or_path")  # never saved


def changed(config: NestedConfig, kwargs: dict[str, Any]) -> Any:
    """The configuration with what transformers' `from_dict` is given; what is for others is given back where asked."""
    give_back = kwargs.pop("return_unused_kwargs", False)
    config = replace(config, **{name: kwargs.pop(name) for name in config.own_fields() if name in kwargs})
    for name in ("_from_auto", "_from_pipeline"):
        kwargs.pop(name, None)
    for name, own in (("attn_implementation", "_attn_implementation"), ("name_or_path", "name_or_path")):
        if name in kwargs:
            setattr(config, own, kwargs.pop(name))
    return (config, kwargs) if give_back else config


@lru_cache(maxsize=8)
def _qwen2(config: LanguageConfig, attention: str | None) -> Qwen2Config:
    """Made once, for `generate` asks each time, and transformers checks every value then."""
    return Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.ff,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        use_sliding_window=False,
        tie_word_embeddings=False,
        attn_implementation=attention,
    )
