"""All sizes, ids and habits of a MolmoPoint: a Molmo 2 that chooses image tokens instead of writing coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import Molmo2Config
from typing_extensions import TypedDict

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import checked, float_in, int_in, read_model_json, shortened
from videomolmo.model.config import Small, Width
from videomolmo.model.token_order import Rules
from videomolmo.systems.molmo2_files import AdapterSizes, TextSizes, VisionSizes

Habits = Literal["ours", "training", "released"]
_Id = int_in(0, 2**23)
_Rule = Literal["always", "inference", "never"] | None
OFF = (None, "never")
_IDS = (
    "image_start_token_id", "image_end_token_id", "image_patch_id", "image_col_id", "image_non_indexable_patch_id",
    "frame_start_token_id", "frame_end_token_id", "patch_token_id", "subpatch_token_id", "location_token_id",
)  # fmt: skip
FIXED = {  # what a published config.json may say alone; the code that it belongs to has more options
    "embed_location": False, "embed_selected_vit_patch": "linear", "layer_norm_x": True, "no_more_points_class": True,
    "norm_logits": True, "patch_embedding_kind": "image_feature0", "patch_location": "3x3",
    "token_prediction_rotary": "one_d", "use_frame_special_tokens": True,
}  # fmt: skip
FIXED_ADAPTER = {
    "attention_pooling_out_layer": False, "pooling_attention_mask": True, "positional_embeddings": None,
}  # fmt: skip
FIXED_TEXT = {"use_qk_norm": True}
_Sizes = TypedDict(
    "_Sizes",
    {
        "text_config": TextSizes, "vision_config": VisionSizes, "vit_config": VisionSizes,
        "adapter_config": AdapterSizes, "initializer_range": Small, "tie_word_embeddings": bool,
        "low_res_image_start_token_id": _Id | None, "patch_embed_dim": Annotated[Width, Field(multiple_of=2)],
        "token_prediction_rotary_theta": float_in(1, 1e12), "habits": Habits,
    }
    | dict.fromkeys(_IDS, _Id)
    | dict.fromkeys(("mask_patches", "mask_subpatches", "mask_repeats"), _Rule),
    total=False,
)  # fmt: skip


class MolmoPointConfig(Molmo2Config):
    """A Molmo 2's configuration with the point heads' sizes, the ids of the three tokens of a point, and the habits.

    Args:
        patch_embed_dim: width in which queries and candidates are compared.
        token_prediction_rotary_theta: of the rotation by distance from the last chosen token.
        mask_patches, mask_repeats: ordering rules, see `token_order.Rules`; "always" is in training too, which
            repeats have no part in; None is "never".
        mask_subpatches: when slots without a patch are forbidden; in the released habits also the order of slots.
        habits: where training code and released model differ. "training" and "released" are each as it stands; "ours"
            is "training" with the location read from the normalised state in writing too, as it was learnt.

    Source: published configuration and code of MolmoPoint.
    """

    model_type = "molmo_point"

    image_col_id: int = 151939
    image_non_indexable_patch_id: int = 151942
    patch_token_id: int = 151947
    subpatch_token_id: int = 151948
    location_token_id: int = 151949
    patch_embed_dim: int = 256
    token_prediction_rotary_theta: float = 50000.0
    mask_patches: str | None = "always"
    mask_subpatches: str | None = "inference"
    mask_repeats: str | None = "inference"
    habits: str = "ours"

    @property
    def words(self) -> int:
        """Rows of the table of words, additional ones included; ids of chosen places begin here."""
        return self.text_config.vocab_size + self.text_config.additional_vocab_size

    @property
    def rules(self) -> Rules:
        """Which rules of order hold in writing; the released code takes "always" for no rule against repeats."""
        patches, repeats = self.mask_patches not in OFF, self.mask_repeats not in OFF
        if self.habits != "released":
            return Rules(patches, patches, repeats)
        slots = self.mask_subpatches not in OFF
        return Rules(patches, slots, slots and self.mask_repeats == "inference", is_released=True)

    def forbids_padding(self, is_writing: bool) -> bool:
        """Whether slots without a patch are out of the question, in writing or in training."""
        if not is_writing:
            return self.mask_subpatches == "always"
        return self.habits == "released" or self.mask_subpatches not in OFF

    @property
    def media_ids(self) -> list[int]:
        """Ids of tokens that see each other in both directions: images, frames, and what surrounds them."""
        return [getattr(self, name) for name in (*_IDS[:7], "low_res_image_start_token_id")]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration from the content of a config.json, ours or published.

        Args:
            config_dict: of config.json.
            kwargs: what transformers hands on: fields to change; the rest is given back where asked for.

        Raises:
            BadInput: values of another type, out of bounds, or that this package has no options for.
        """
        give_back = kwargs.pop("return_unused_kwargs", False)
        changes = {name: kwargs.pop(name) for name in _Sizes.__annotations__ if name in kwargs}
        config = cls(**_values({**config_dict, **changes}))
        _check_sizes(config)
        for name, own in (("attn_implementation", "_attn_implementation"), ("name_or_path", "name_or_path")):
            if name in kwargs:
                setattr(config, own, kwargs.pop(name))
        return (config, kwargs) if give_back else config

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> tuple[dict, dict]:
        """config.json of a folder as it stands, read as a file of a stranger; of a hub's id as transformers does."""
        if Path(pretrained_model_name_or_path).is_dir():
            return read_model_json(Path(pretrained_model_name_or_path) / "config.json"), kwargs
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)


def _values(values: dict[str, Any]) -> dict[str, Any]:
    """Of a config.json what `MolmoPointConfig` takes."""
    if (kind := values.get("model_type")) != MolmoPointConfig.model_type:
        raise BadInput(f"model_type is {shortened(kind)}, expected {MolmoPointConfig.model_type!r}; use load_grounder")
    parts = {name: values[name] for name in ("text_config", "vision_config", "vit_config", "adapter_config")
             if isinstance(values.get(name), dict)}  # fmt: skip
    fixed_of = (
        ("", FIXED | {"image_high_res_id": values.get("image_patch_id")}, values),
        ("adapter_config.", FIXED_ADAPTER, parts.get("adapter_config")),
        ("text_config.", FIXED_TEXT, parts.get("text_config")),
    )
    for place, fixed, given in fixed_of:
        for name, value in fixed.items():
            if (found := (given or {}).get(name, value)) != value:
                raise BadInput(f"{place}{name} is {shortened(found)}, expected {value!r}; there is no option for it")
    own = {name: {key: value for key, value in part.items() if key != "model_type"} for name, part in parts.items()}
    found = checked(_Sizes, {**values, **own}, "config.json")
    text, blocks = found.get("text_config", {}), found.get("vit_config", {}).get("num_hidden_layers", 25)
    for layer in found.get("adapter_config", {}).get("vit_layers") or ():
        if not -blocks <= layer < blocks:
            raise BadInput(f"adapter_config.vit_layers has {layer}, expected -{blocks} to {blocks - 1}; correct it")
    most = text.get("vocab_size", 151936) + text.get("additional_vocab_size", 128)
    for name in _IDS:
        if (number := found.get(name, getattr(MolmoPointConfig, name))) >= most:
            raise BadInput(
                f"{name} is {number}, expected below {most}, the number of words; use the weights' own config"
            )
    if found.get("low_res_image_start_token_id") is None:  # published as null, and yet in use
        found["low_res_image_start_token_id"] = text.get("vocab_size", 151936) + 4
    return found


def _check_sizes(config: MolmoPointConfig) -> None:
    """Nothing, where the sizes of the parts go together; more than their own bounds, which are checked before."""
    text, vision, adapter = config.text_config, config.vision_config, config.adapter_config
    patches = (vision.image_size[0] // vision.patch_size) * (vision.image_size[1] // vision.patch_size)
    for place, part in (("text_config", text), ("vit_config", vision), ("adapter_config", adapter)):
        heads, shared = part.num_attention_heads, part.num_key_value_heads
        if heads % shared:
            raise BadInput(f"{place}.num_key_value_heads is {shared}, expected a divisor of {heads}; correct it")
    for name, found, wanted in (
        ("adapter_config.hidden_size", adapter.hidden_size, adapter.num_attention_heads * adapter.head_dim),
        ("adapter_config.text_hidden_size", adapter.text_hidden_size, text.hidden_size),
        ("vit_config.image_num_pos", vision.num_position_embeddings, patches),
    ):
        if found != wanted:
            raise BadInput(f"{name} is {found}, expected {wanted} by the other sizes; use the weights' own config")
