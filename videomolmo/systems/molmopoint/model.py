"""MolmoPoint: images or the frames of a video and a question become words and chosen places, three tokens a point."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.models.molmo2.modeling_molmo2 import (
    Molmo2Adapter,
    Molmo2TextModel,
    Molmo2VisionAttention,
    Molmo2VisionModel,
)
from transformers.utils import ModelOutput

from videomolmo.errors import BadInput
from videomolmo.masks.configuration import Unfilled
from videomolmo.model.point_heads import (
    CLOSED,
    FORBIDDEN,
    Candidates,
    PointLosses,
    PointPredictor,
    cross_entropy,
    ordered,
)
from videomolmo.model.pointing import CACHE
from videomolmo.model.token_heads import before_norm
from videomolmo.systems.molmopoint.config import MolmoPointConfig
from videomolmo.systems.molmopoint.weights import fill, published_state, read_configuration, settled
from videomolmo.weights import hub
from videomolmo.weights.assign import Shards, write_folder

IDLE = ("trust_remote_code", "use_safetensors", "weights_only", "_from_auto", "_commit_hash", "adapter_kwargs",
        "code_revision")  # fmt: skip
CROPS = 64  # through the vision tower at a time
Z_WEIGHT = 1e-4


class Seen(NamedTuple):
    """Images as the language model reads them; `patches` are 0 and `valid` is False at padding."""

    patches: Float[Tensor, "batch tokens slots features"]
    tokens: Float[Tensor, "batch tokens width"]
    valid: Bool[Tensor, "batch tokens slots"]


@dataclass
class MolmoPointOutput(ModelOutput):
    """What one forward pass computed; None where it was not asked for.

    Scores of points are flat over the points of the batch, in its order: `patch_logits` one row of scores for each
    patch token (closing ones included), as a tuple over rows of the batch; `word_loss` and `z_loss` are sums.
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch tokens words"] | None = None
    word_loss: Float[Tensor, ""] | None = None
    z_loss: Float[Tensor, ""] | None = None
    point_losses: PointLosses | None = None
    patch_logits: tuple[Tensor, ...] | None = None
    subpatch_logits: Float[Tensor, "points slots"] | None = None
    location_logits: Float[Tensor, "points cells"] | None = None
    inputs_embeds: Float[Tensor, "batch tokens width"] | None = None
    last_hidden_state: Float[Tensor, "batch tokens width"] | None = None
    candidates: Candidates | None = None
    seen: Seen | None = None


def word_losses(
    logits: Float[Tensor, "words vocabulary"], true: Int[Tensor, " words"], weights: Float[Tensor, " words"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Weighted sums of cross-entropy and of the squared log of the normaliser, the latter times `Z_WEIGHT`."""
    squares = logits.float().logsumexp(dim=-1).square()
    return cross_entropy(logits, true, weights), Z_WEIGHT * (squares * weights).sum()


class Parts(nn.Module):
    """All of a MolmoPoint but the output head. The language model's last norm is apart: heads read what is before."""

    def __init__(self, config: MolmoPointConfig) -> None:
        super().__init__()
        self.language_model = Molmo2TextModel(config.text_config)
        self.vision_tower = Molmo2VisionModel(config.vision_config)
        features = config.vision_config.hidden_size * len(config.adapter_config.vision_feature_layer)
        connector = Molmo2Adapter(config.adapter_config)
        if connector.image_pooling_2d.q_proj.in_features != features:  # transformers takes the adapter's width for it
            connector.image_pooling_2d = Molmo2VisionAttention(config.adapter_config, hidden_size=features)
            connector.image_pooling_2d.apply(connector._init_weights)
        connector.image_pooling_2d.o_proj = nn.Identity()
        self.connector = connector
        self.build_vit_embedding = nn.Linear(features, config.text_config.hidden_size)
        self.point_predictor = PointPredictor(
            config.text_config.hidden_size, config.patch_embed_dim, features,
            theta=config.token_prediction_rotary_theta, eps=config.text_config.rms_norm_eps, is_published=True,
        )  # fmt: skip


class MolmoPointForConditionalGeneration(PreTrainedModel):
    """Molmo 2 whose answers choose image tokens; `write` answers, `forward` computes losses.

    Source: MolmoPoint (arXiv 2603.28069); released code.
    Differs: `config.habits` says whose of three where training code and release differ; forward takes batches in each.
        Dropout of embeddings and between layers, which published configurations have at 0, is none in training either.

    Args:
        config: every size; the model keeps a copy.
        attn_implementation: of all attention, "sdpa" or "eager"; None takes what the configuration says, or "sdpa".
    """

    config_class = MolmoPointConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ("Molmo2DecoderLayer", "Molmo2VisionEncoderLayer")

    def __init__(self, config: MolmoPointConfig, attn_implementation: str | None = None) -> None:
        config = copy.deepcopy(config)
        config._attn_implementation = attn_implementation or config._attn_implementation or "sdpa"
        for part in (config.text_config, config.vision_config, config.adapter_config):
            part._attn_implementation = config._attn_implementation
        super().__init__(config)
        self.model = Parts(config)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text_config.hidden_size, config.words, bias=False)
        for module in (self.lm_head, self.model.build_vit_embedding, *self.model.point_predictor.children()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        self.generation_config = GenerationConfig(eos_token_id=getattr(config.text_config, "eos_token_id", None))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: each part has drawn its weights when it was made."""

    def get_input_embeddings(self) -> nn.Module:
        """The table of words."""
        return self.model.language_model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.lm_head or self.get_input_embeddings()

    def see(
        self, pixels: Float[Tensor, "batch crops patches values"], pooling: Int[Tensor, "batch tokens slots"]
    ) -> Seen:
        """Image tokens and the patches each was pooled from.

        Args:
            pixels: patches of every crop or frame, -1 to 1.
            pooling: numbers of the patches of each token among those of its row of the batch; -1 is padding.

        Raises:
            BadInput: patches of another size or number, or a number of no patch.
        """
        vision = self.config.vision_config
        wanted = (vision.num_position_embeddings, vision.num_channels * vision.patch_size**2)
        if pixels.shape[2:] != wanted:
            raise BadInput(f"crops are {tuple(pixels.shape[2:])}, expected {wanted}, patches and values; prepare anew")
        config, model = self.config.adapter_config, self.model
        crops = pixels.flatten(0, 1).to(self.dtype)
        features = torch.cat([self._features(some) for some in crops.split(CROPS)])
        features = features.reshape(len(pixels), -1, features.shape[-1])
        if not -1 <= int(pooling.min()) <= int(pooling.max()) < features.shape[1]:
            raise BadInput(f"pooling names a patch that is none of the {features.shape[1]} shown; prepare it anew")
        valid = pooling >= 0
        rows = torch.arange(len(pixels), device=pooling.device)[:, None, None]
        patches = features[rows, pooling.clamp(min=0)] * valid[..., None].to(features.dtype)
        real = valid.any(dim=-1)
        chosen, there = patches[real], valid[real]
        query = chosen.sum(dim=1, keepdim=True) / there.sum(dim=1)[:, None, None].to(chosen.dtype)
        mask = torch.zeros(there.shape, dtype=chosen.dtype, device=chosen.device)
        mask = mask.masked_fill(~there, torch.finfo(chosen.dtype).min)[:, None, None]
        pooled, _ = model.connector.image_pooling_2d(query, chosen, attention_mask=mask)
        tokens = patches.new_zeros(*real.shape, config.text_hidden_size)
        tokens[real] = model.connector.image_projector(pooled[:, 0])
        return Seen(patches, tokens, valid)

    def _features(self, crops: Float[Tensor, "crops patches values"]) -> Float[Tensor, "crops patches features"]:
        """Outputs of the layers that the configuration names, side by side."""
        tower = self.model.vision_tower
        states, kept = tower.patch_embedding(crops) + tower.positional_embedding, {}
        for number, layer in enumerate(tower.layers):
            states = layer(states, None)
            kept[number] = states
        wanted = [layer % len(tower.layers) for layer in self.config.adapter_config.vision_feature_layer]
        return torch.cat([kept[number] for number in wanted], dim=-1)

    def embed(
        self, ids: Int[Tensor, "batch tokens"], seen: Seen | None, points: Int[Tensor, "points 3"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """What the language model reads: words, image tokens added to their placeholders, and chosen places.

        Args:
            ids: words, placeholders and the three tokens of a point; below 0 is padding.
            seen: images; None without any.
            points: token, slot, cell for each patch token in the order of the batch; `CLOSED` for no more points.

        Raises:
            BadInput: placeholders and images, or points, do not match.
        """
        config = self.config
        words = ids.clamp(min=0)
        if config.habits != "released":  # tokens of the global crop were learnt under the other's row
            words = words.masked_fill(words == config.image_non_indexable_patch_id, config.image_patch_id)
        embeds = self.get_input_embeddings()(words)
        images = self.image_places(ids)
        if images.sum(dim=1).tolist() != ([0] * len(ids) if seen is None else seen.valid.any(-1).sum(1).tolist()):
            raise BadInput("placeholders and image tokens differ in number, expected one for each; prepare them anew")
        if seen is None:
            return embeds
        embeds = embeds.masked_scatter(images[..., None], embeds[images] + seen.tokens[seen.valid.any(dim=-1)])
        if points is None:
            return embeds
        row, at, chosen = self._chosen(ids, points, config.patch_token_id, chosen=0)
        more = torch.zeros_like(embeds)
        open_ = chosen[:, 0] != CLOSED
        most = chosen.new_tensor(seen.valid.shape[1:])
        if bool((chosen[open_, :2] >= most).any()):
            raise BadInput(f"a point is outside the {most[0]} image tokens of {most[1]} patches; prepare it anew")
        more = more.index_put((row[open_], at[open_]), seen.tokens[row[open_], chosen[open_, 0]])
        row, at, chosen = self._chosen(ids, points, config.subpatch_token_id, chosen=1)
        patches = self.model.build_vit_embedding(seen.patches[row, chosen[:, 0], chosen[:, 1]])
        if config.habits == "released":
            patches = patches - embeds[row, at]
        return embeds + more.index_put((row, at), patches)

    def image_places(self, ids: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
        """Where image tokens are, those of the global crop included."""
        return (ids == self.config.image_patch_id) | (ids == self.config.image_non_indexable_patch_id)

    @staticmethod
    def _chosen(ids: Tensor, points: Int[Tensor, "points 3"], token: int, chosen: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and places of a point's token in the batch, and the points that they stand for."""
        row, at = (ids == token).nonzero(as_tuple=True)
        own = points[points[:, chosen] >= 0]
        if len(own) != len(row):
            raise BadInput(f"{len(row)} tokens {token} and {len(own)} targets, expected as many; prepare them anew")
        return row, at, own

    def mask(
        self, ids: Int[Tensor, "batch tokens"], subsegments: Int[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch 1 queries keys"]:
        """What is added to attention: each token sees those before it, media tokens all media tokens.

        Args:
            ids: below 0 is padding.
            subsegments: several questions about the same images: each sees its own tokens and higher numbers.
        """
        media = torch.isin(ids, torch.tensor(self.config.media_ids, device=ids.device))
        allowed = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()[None]
        allowed = (allowed | (media[:, :, None] & media[:, None])) & (ids >= 0)[:, None]
        if subsegments is not None:
            allowed = allowed & (subsegments[:, :, None] <= subsegments[:, None])
        none = torch.zeros(allowed.shape, dtype=self.dtype, device=ids.device)
        return none.masked_fill(~allowed, torch.finfo(self.dtype).min)[:, None]

    def read(
        self, embeds: Float[Tensor, "batch tokens width"], cache: DynamicCache | None = None, **options: Any
    ) -> Float[Tensor, "batch tokens width"]:
        """States after the last layer, before the last norm."""
        with before_norm(self.model.language_model) as states:
            self.model.language_model(inputs_embeds=embeds, use_cache=cache is not None, **{CACHE: cache}, **options)
        return states[0]

    def words(self, states: Float[Tensor, "*any width"]) -> Float[Tensor, "*any words"]:
        """Scores of words from states before the last norm."""
        return functional.linear(self.model.language_model.norm(states), self.get_output_embeddings().weight)

    def candidates(
        self, ids: Int[Tensor, "batch tokens"], states: Float[Tensor, "batch tokens width"], count: int
    ) -> Candidates:
        """What patch tokens choose from: `count` image tokens in each row, padding included."""
        images = self.image_places(ids)
        row, at = images.nonzero(as_tuple=True)
        order = (images.cumsum(dim=1) - 1)[row, at]
        own = states.new_zeros(len(ids), count, states.shape[-1]).index_put((row, order), states[row, at])
        selectable = torch.zeros(own.shape[:2], dtype=torch.bool, device=ids.device)
        selectable[row, order] = ids[row, at] == self.config.image_patch_id
        return self.model.point_predictor.candidates(self.model.point_predictor.x_norm(own), selectable)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        pixels: Float[Tensor, "batch crops patches values"] | None = None,
        pooling: Int[Tensor, "batch tokens slots"] | None = None,
        points: Int[Tensor, "batch points 3"] | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        weights: Float[Tensor, "batch tokens"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        subsegments: Int[Tensor, "batch tokens"] | None = None,
        weigh_points: bool = False,
    ) -> MolmoPointOutput:
        """Scores of words and places, and with labels the losses.

        Args:
            input_ids: below 0 is padding, on the right.
            pixels, pooling: see `see`; None for text alone.
            points: token, slot, cell of each point, `CLOSED` where a list ends, -1 for padding.
            labels: the id after each token (already shifted, since questions may share what is before them).
            weights: of each label; none counts that is 0 or less. None is 1 for labels from 0 on.
            position_ids: None counts from 0.
            subsegments: see `mask`.
            weigh_points: multiply the losses of points by the weights of their tokens as well.

        Raises:
            BadInput: see `see` and `embed`.
        """
        seen = None if pixels is None or pooling is None else self.see(pixels, pooling)
        flat = None if points is None else points[points[..., 0] >= 0]
        embeds = self.embed(input_ids, seen, flat)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        mask = self.mask(input_ids, subsegments)
        states = self.read(embeds, attention_mask=mask, position_ids=position_ids.clamp(min=0))
        result = MolmoPointOutput(
            logits=self.words(states), inputs_embeds=embeds, last_hidden_state=states, seen=seen,
            candidates=None if seen is None else self.candidates(input_ids, states, seen.tokens.shape[1]),
        )  # fmt: skip
        if weights is None and labels is not None:
            weights = (labels >= 0).float()
        if seen is not None and flat is not None:
            self._add_points(result, input_ids, flat, weights if weigh_points else None)
        if labels is not None:
            kept = weights > 0
            result.word_loss, result.z_loss = word_losses(result.logits[kept], labels[kept], weights[kept])
            total = result.word_loss + result.z_loss + sum(result.point_losses or ())
            result.loss = total / weights[kept].sum()
        return result

    def _add_points(self, result: MolmoPointOutput, ids: Tensor, flat: Tensor, weights: Tensor | None) -> None:
        """Scores and losses of points; each token is chosen in the state before it."""
        config, heads, seen = self.config, self.model.point_predictor, result.seen
        states = result.last_hidden_state
        normed = heads.x_norm(states)
        row, at, chosen = self._chosen(ids, flat, config.patch_token_id, 0)
        logits, losses, count = [], [], seen.tokens.shape[1]
        for number in range(len(ids)):
            own = row == number
            true = chosen[own, 0]
            before = torch.cat([true.new_full((1,), CLOSED), true])[: len(true)]
            previous = before.masked_fill(before == CLOSED, -1)
            scores = heads.patch_logits(normed[number, at[own] - 1], result.candidates.rows(number), previous)
            scores = ordered(scores, true) if config.mask_patches == "always" else scores
            weight = None if weights is None else weights[number, at[own] - 1]
            logits.append(scores)
            losses.append(cross_entropy(scores, true.clamp(max=count), weight))
        result.patch_logits = tuple(logits)
        row, at, chosen = self._chosen(ids, flat, config.subpatch_token_id, 1)
        result.subpatch_logits = heads.subpatch_logits(normed[row, at - 1], seen.patches[row, chosen[:, 0]])
        if config.forbids_padding(is_writing=False):
            padding = ~seen.valid[row, chosen[:, 0]]
            result.subpatch_logits = result.subpatch_logits.masked_fill(padding, FORBIDDEN)
        slot_loss = cross_entropy(
            result.subpatch_logits, chosen[:, 1], None if weights is None else weights[row, at - 1]
        )
        row, at, chosen = self._chosen(ids, flat, config.location_token_id, 2)
        result.location_logits = heads.location_logits(normed[row, at - 1])
        cell_loss = cross_entropy(
            result.location_logits, chosen[:, 2], None if weights is None else weights[row, at - 1]
        )
        result.point_losses = PointLosses(torch.stack(losses).sum(), slot_loss, cell_loss)

    def write(self, *args: Any, **options: Any) -> Any:
        """See `writing.write`."""
        from videomolmo.systems.molmopoint.writing import write

        return write(self, *args, **options)

    def save_pretrained(
        self, save_directory: str | Path, dtype: torch.dtype | None = None, max_shard_size: str = "5GB", **kwargs: Any
    ) -> None:
        """Write config.json and the weights under published names; each file atomically.

        Args:
            save_directory: made where missing.
            dtype: of the stored weights; None keeps the model's.
            max_shard_size: most bytes of one file.
            kwargs: transformers' other options, which change nothing here.
        """
        state = {name: value.to("cpu", dtype).contiguous() for name, value in published_state(self)}
        state = {name: value.clone() for name, value in state.items()}  # parts of one table share its memory
        config = copy.deepcopy(self.config)
        config.architectures, config.name_or_path = [type(self).__name__], ""
        write_folder(save_directory, config.to_json_string(use_diff=False), state, max_shard_size)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: MolmoPointConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        attn_implementation: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> Any:
        """A model in evaluation mode with the weights of a folder, saved here or published; what misfits is refused.

        All names and shapes are compared before memory is taken; weights are then read one by one.

        Args:
            pretrained_model_name_or_path: a folder, or an id of the hub.
            config: None takes the folder's.
            dtype: of the weights in the model; None is float32, and "auto" what they are stored in.
            device: of the weights.
            attn_implementation: "sdpa" or "eager".
            revision, local_files_only: of the hub.
            kwargs: those that transformers' Auto classes add, which change nothing; no others.

        Raises:
            BadInput: files missing or broken, weights that do not fit or are not finite, or another option.
        """
        if strange := sorted(set(kwargs) - set(IDLE)):
            raise BadInput(f"{strange[0]} is no option of {cls.__name__}.from_pretrained; leave it out")
        if attn_implementation not in (None, "sdpa", "eager"):
            raise BadInput(f"attn_implementation is {attn_implementation!r}, expected 'sdpa' or 'eager'")
        name = str(pretrained_model_name_or_path)
        folder = Path(name) if Path(name).is_dir() else hub.pointing_folder(
            f"{name}@{revision}" if revision else name, local_files_only
        )  # fmt: skip
        config = read_configuration(folder) if config is None else settled(config, folder)
        model = cls.empty(config, attn_implementation)
        if dtype == "auto":
            dtype = next(iter(Shards(folder).tensors.values())).dtype
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
        fill(model, folder, device, dtype)
        model.name_or_path = model.config.name_or_path = name
        return model.to(device).eval()

    @classmethod
    def empty(cls, config: MolmoPointConfig, attn_implementation: str | None = None) -> Any:
        """A model without memory for its weights; what is computed from sizes is there."""
        with Unfilled():
            return cls(config, attn_implementation)
