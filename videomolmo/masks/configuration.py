"""SAM 2 from its configuration: only parts that are listed here, with arguments of known types within bounds.

Nothing in a configuration is looked up, resolved or called but these classes of the `sam2` package; its own builder
would run whatever a file names.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Required

import torch
import yaml
from pydantic import ConfigDict, Field, with_config
from torch import nn
from torch.overrides import TorchFunctionMode
from typing_extensions import TypedDict

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import checked, first_line, float_in, int_in, read_model_text

MOST_BYTES = 2**16  # of a configuration; those of the package have 4 kB
Width, Few, Layers, Side = int_in(2, 4096), int_in(1, 16), int_in(1, 32), int_in(1, 128)
Share = float_in(0, 1)


def _several(kind: Any, most: int, least: int = 1) -> Any:
    return Annotated[list[kind], Field(min_length=least, max_length=most)]


def _part(name: str, **arguments: Any) -> Any:
    """The type of what a configuration says of one class of `sam2.modeling`; no other argument is accepted."""
    fields = {"_target_": Required[Literal[f"sam2.modeling.{name}"]], **arguments}
    return with_config(ConfigDict(extra="forbid"))(TypedDict(name.rpartition(".")[2], fields, total=False))


_positions = _part(
    "position_encoding.PositionEmbeddingSine", num_pos_feats=Width, normalize=bool, scale=float_in(1e-3, 1e3) | None,
    temperature=float_in(1, 1e9),
)  # fmt: skip
_trunk = _part(
    "backbones.hieradet.Hiera", embed_dim=int_in(2, 512), num_heads=Few, q_pool=int_in(0, 5),
    stages=_several(int_in(1, 64), 6), window_spec=_several(int_in(1, 64), 6),
    global_att_blocks=_several(int_in(0, 383), 32, least=0), window_pos_embed_bkg_spatial_size=_several(Side, 2, 2),
)  # fmt: skip
_neck = _part(
    "backbones.image_encoder.FpnNeck", position_encoding=Required[_positions], d_model=Width,
    backbone_channel_list=_several(int_in(1, 2**15), 6), fpn_top_down_levels=_several(int_in(0, 5), 6, least=0),
    fpn_interp_model=Literal["nearest", "bilinear"],
)  # fmt: skip
_encoder = _part(
    "backbones.image_encoder.ImageEncoder", scalp=int_in(0, 5), trunk=Required[_trunk], neck=Required[_neck]
)  # fmt: skip
_attention = _part(
    "sam.transformer.RoPEAttention", rope_theta=float_in(1, 1e9), rope_k_repeat=bool, feat_sizes=_several(Side, 2, 2),
    embedding_dim=Width, num_heads=Few, downsample_rate=Few, dropout=Share, kv_in_dim=Width,
)  # fmt: skip
_layer = _part(
    "memory_attention.MemoryAttentionLayer", activation=Literal["relu", "gelu"], dim_feedforward=int_in(1, 2**15),
    dropout=Share, pos_enc_at_attn=bool, self_attention=Required[_attention], d_model=Width,
    pos_enc_at_cross_attn_keys=bool, pos_enc_at_cross_attn_queries=bool, cross_attention=Required[_attention],
)  # fmt: skip
_memory = _part(
    "memory_attention.MemoryAttention", d_model=Width, pos_enc_at_input=bool, layer=Required[_layer],
    num_layers=Layers,
)  # fmt: skip
_downsampler = _part(
    "memory_encoder.MaskDownSampler", embed_dim=Width, kernel_size=int_in(1, 15), stride=int_in(2, 16),
    padding=int_in(0, 7), total_stride=int_in(2, 16),
)  # fmt: skip
_block = _part(
    "memory_encoder.CXBlock", dim=Width, kernel_size=int_in(1, 31), padding=int_in(0, 15),
    layer_scale_init_value=Share, use_dwconv=bool,
)  # fmt: skip
_fuser = _part("memory_encoder.Fuser", layer=Required[_block], num_layers=Layers)
_memory_encoder = _part(
    "memory_encoder.MemoryEncoder", in_dim=Width, out_dim=Width, position_encoding=Required[_positions],
    mask_downsampler=Required[_downsampler], fuser=Required[_fuser],
)  # fmt: skip
_switches = (
    "binarize_mask_from_pts_for_mem_enc", "use_mask_input_as_output_without_sam", "directly_add_no_mem_embed",
    "use_high_res_features_in_sam", "multimask_output_in_sam", "multimask_output_for_tracking",
    "use_multimask_token_for_obj_ptr", "iou_prediction_use_sigmoid", "non_overlap_masks_for_mem_enc",
    "use_obj_ptrs_in_encoder", "add_tpos_enc_to_obj_ptrs", "proj_tpos_enc_in_obj_ptrs",
    "use_signed_tpos_enc_to_obj_ptrs", "only_obj_ptrs_in_the_past_for_eval", "pred_obj_scores", "pred_obj_scores_mlp",
    "fixed_no_obj_ptr", "soft_no_obj_ptr", "use_mlp_for_obj_ptr_proj", "no_obj_embed_spatial",
)  # fmt: skip
Sam2 = _part(
    "sam2_base.SAM2Base", image_encoder=Required[_encoder], memory_attention=Required[_memory],
    memory_encoder=Required[_memory_encoder], image_size=int_in(32, 1024), backbone_stride=int_in(4, 32),
    num_maskmem=int_in(1, 64), max_obj_ptrs_in_encoder=int_in(1, 64), max_cond_frames_in_attn=int_in(-1, 64),
    memory_temporal_stride_for_eval=Few, multimask_min_pt_num=int_in(0, 16), multimask_max_pt_num=int_in(0, 16),
    sigmoid_scale_for_mem_enc=float_in(-1e3, 1e3), sigmoid_bias_for_mem_enc=float_in(-1e3, 1e3),
    compile_image_encoder=Literal[False], **dict.fromkeys(_switches, bool),
)  # fmt: skip


def read_configuration(path: Path) -> dict[str, Any]:
    """A configuration of SAM 2 as plain values, ready for `instantiate`.

    Raises:
        BadInput: no YAML, references or interpolations in it, another class, or arguments that are unknown, of another
            type or out of bounds. Nothing was run.
    """
    return checked(Sam2, read_yaml(path), f"{path}: not a configuration of SAM 2, nothing was run")


def read_yaml(path: Path) -> Any:
    """Plain values of a YAML file without anchors, aliases and `${…}`.

    Raises:
        BadInput: it has some, is too large, or no YAML.
    """
    text = read_model_text(path, MOST_BYTES)
    if "${" in text:
        raise BadInput(f"{path}: has an interpolation, ${{…}}, expected plain values; nothing was run, write them out")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise BadInput(f"{path}: not a configuration of SAM 2 ({first_line(error)}); see data/nano/masks") from error


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values; an alias, which could double what it stands for many times over, is refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


_PlainLoader.add_implicit_resolver(  # 1e-6, which is text to YAML 1.1 and a number to everyone who writes it
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def instantiate(values: dict[str, Any]) -> nn.Module:
    """The module that a checked configuration describes, untrained, with all that it is made of."""
    arguments = {
        name: instantiate(value) if isinstance(value, dict) and "_target_" in value else value
        for name, value in values.items()
        if name != "_target_"
    }
    module, _, name = values["_target_"].rpartition(".")
    return getattr(import_module(module), name)(**arguments)


class Unfilled(TorchFunctionMode):
    """While it is entered, new weights have shapes and no memory; what is computed from sizes stays real.

    Differs: under `torch.device("meta")` SAM 2 cannot be built, because it reads numbers off a tensor.
    """

    MAKERS = (torch.empty, torch.zeros, torch.ones, torch.randn)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self.MAKERS and kwargs.get("device") is None:
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)
