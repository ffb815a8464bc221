"""VideoGLaMM against numbers of the released code, stage by stage, in float32.

The worst error of each stage is printed as a table at the end of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import HOW, ROOT, read_json, tensors
from golden import near as not_empty_near
from torch import Tensor

from videomolmo.masks.configuration import Unfilled
from videomolmo.systems.videoglamm import VideoGLaMMConfig, VideoGLaMMForConditionalGeneration
from videomolmo.systems.videoglamm.config import (
    ImageConfig,
    LanguageConfig,
    MaskConfig,
    PretrainingConfig,
    VideoConfig,
)
from videomolmo.systems.videoglamm.internvideo2 import resized_positions, sincos_positions
from videomolmo.systems.videoglamm.masks import decode, decode_all, follow, image_maps, to_size
from videomolmo.systems.videoglamm.model import pool
from videomolmo.systems.videoglamm.processor import chosen, context_images, sam_images, video_images
from videomolmo.systems.videoglamm.segmenter import read_words
from videomolmo.systems.videoglamm.weights import our_name, published_name
from videomolmo.weights.assign import check_fit

FEATURES, TOKENS, HIDDEN, LOGITS, MASKS, LOSS = 3e-6, 5e-6, 1e-5, 1e-4, 5e-4, 1e-5
FROM_FRAMES = 2e-3  # of mask logits up to 40, where SAM 2's maps, which differ by 4e-6, are computed here as well
KEYS = ROOT / "videoglamm" / "checkpoint_keys_videoglamm.json"
FOLDERS = sorted(path.parent for path in ROOT.glob("videoglamm/*/weights.safetensors"))
ABSENT = [pytest.param(None, marks=pytest.mark.skip(reason=HOW), id="absent")]


@pytest.fixture(autouse=True, scope="module")
def plain_kernels() -> Iterator[None]:
    """oneDNN's convolutions differ by 3e-6 from processor to processor, of which SAM 2's decoder makes up to 6e-4."""
    enabled, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    yield
    torch.backends.mkldnn.enabled = enabled


@pytest.fixture(scope="module", params=[pytest.param(path, id=path.name) for path in FOLDERS] or ABSENT)
def folder(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def inputs(folder: Path) -> dict[str, Tensor]:
    return tensors(folder / "inputs.safetensors")


@pytest.fixture(scope="module")
def golden(folder: Path) -> dict[str, Tensor]:
    return tensors(folder / "outputs.safetensors")


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoGLaMMForConditionalGeneration:
    return model_of(folder)


def near(stage: str, found: Tensor, wanted: Tensor, bound: float, *, relative: bool = False) -> None:
    """As `golden.near`; of no objects there is nothing to compare but that there are none."""
    assert found.numel() == wanted.numel(), f"{stage}: {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    if wanted.numel():
        not_empty_near(stage, found, wanted, bound, relative=relative)


def part_of(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Golden tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def config_of(folder: Path, **language: Any) -> VideoGLaMMConfig:
    """Our configuration of a golden instance."""
    values = read_json(folder / "config.json")
    phi, clip, video, sam = (values[name] for name in ("llm", "clip", "iv", "sam"))
    state = tensors(folder / "weights.safetensors")
    window, weights, end = phi.get("sliding_window"), values["loss_weights"], phi["eos_token_id"]
    end = tuple(end) if isinstance(end, list) else (end,)
    return VideoGLaMMConfig(
        language=LanguageConfig(**{
            "vocab_size": phi["vocab_size"], "width": phi["hidden_size"], "ff": phi["intermediate_size"],
            "layers": phi["num_hidden_layers"], "heads": phi["num_attention_heads"],
            "kv_heads": phi["num_key_value_heads"], "rms_eps": phi["rms_norm_eps"], "rope_theta": phi["rope_theta"],
            "window": None if window is None else window + 1, "max_positions": phi["max_position_embeddings"],
            "segment": values["seg"], "end": end, "begin": phi["bos_token_id"],
            "padding": phi["pad_token_id"], **language,
        }),
        image=ImageConfig(
            size_px=clip["image_size"], patch_px=clip["patch_size"], width=clip["hidden_size"],
            ff=clip["intermediate_size"], layers=clip["num_hidden_layers"], heads=clip["num_attention_heads"],
            norm_eps=clip["layer_norm_eps"], activation=clip["hidden_act"], pool=values["clip_pool"],
        ),
        video=VideoConfig(
            size_px=video["img_size"], patch_px=video["patch_size"], frames=values["chunk_frames"],
            width=video["embed_dim"], ff=values["iv_mlp_hidden"], layers=video["depth"], heads=video["num_heads"],
            pool=values["iv_pool"],
            pretraining=PretrainingConfig(
                layers=video["clip_return_layer"], clip_width=video["clip_embed_dim"],
                teacher_width=video["clip_teacher_embed_dim"], final_width=video["clip_teacher_final_dim"],
                text_width=len(state["model.vision_tower.vision_proj.weight"]),
            ),
        ),
        masks=MaskConfig(
            size_px=sam["image_size"], width=sam["d_model"], memory_width=sam["mem_dim"],
            trunk_width=sam["embed_dim"], trunk_heads=sam["heads"], stages=tuple(sam["stages"]),
            windows=tuple(sam["window"]), global_blocks=tuple(sam["glob"]), background=tuple(sam["bkg"]),
            layers=sam["layers"], ff=sam["ff"], memories=sam["num_maskmem"],
        ),
        frames=values["frames"], most_objects=values["max_seg_per_sample"], ce_weight=weights["ce"],
        bce_weight=weights["bce"], dice_weight=weights["dice"],
    )  # fmt: skip


def model_of(folder: Path, **language: Any) -> VideoGLaMMForConditionalGeneration:
    """The golden model, its published names read as a file's would be."""
    state = {our_name(name): value for name, value in tensors(folder / "weights.safetensors").items()}
    made = VideoGLaMMForConditionalGeneration(config_of(folder, **language), attn_implementation="eager")
    check_fit(made, state.items(), str(folder))
    made.load_state_dict(state)
    return made.eval()


def of_samples(inputs: dict[str, Tensor], name: str, prefix: str = "") -> list[Tensor]:
    """One tensor for each sample, of the batch with this prefix or, for those it has none of, of the first batch."""
    count = len(inputs[f"{prefix}offset"]) - 1
    names = [(f"{prefix}{name}.{sample}", f"{name}.{sample}") for sample in range(count)]
    return [inputs[own if own in inputs else first] for own, first in names]


def batch_of(inputs: dict[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """A golden batch under our argument names."""
    pictures, at = of_samples(inputs, "sam_images", prefix), of_samples(inputs, "sam_frame_index", prefix)
    return {
        "input_ids": inputs[f"{prefix}input_ids"],
        "attention_mask": inputs[f"{prefix}attention_mask"],
        "labels": inputs[f"{prefix}labels"],
        "images": of_samples(inputs, "images", prefix),
        "context_images": of_samples(inputs, "context_images", prefix),
        "sam_images": [shown[index] for shown, index in zip(pictures, at, strict=True)],
        "masks": of_samples(inputs, "masks", prefix),
        "offset": inputs[f"{prefix}offset"].tolist(),
    }


def batches(inputs: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    for prefix in ("", "multi."):
        if f"{prefix}input_ids" in inputs:
            yield prefix, batch_of(inputs, prefix)


def test_every_key_and_shape_of_the_full_size() -> None:
    if not KEYS.is_file():
        pytest.skip(HOW)
    with Unfilled():
        full = VideoGLaMMForConditionalGeneration(VideoGLaMMConfig())
    found = {published_name(name): list(value.shape) for name, value in full.state_dict().items()}
    assert found == read_json(KEYS)["shapes"]
    assert all(our_name(published_name(name)) == name for name in full.state_dict())
    assert sum(value.numel() for value in full.state_dict().values()) == read_json(KEYS)["parameters"]


def test_published_folder_round_trips_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    state = tensors(folder / "weights.safetensors")
    model_of(folder).save_pretrained(tmp_path)
    back = tensors(tmp_path / "model.safetensors")
    assert back.keys() == state.keys() and all(torch.equal(back[name], value) for name, value in state.items())
    again = VideoGLaMMForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config == config_of(folder)
    assert all(torch.equal(again.state_dict()[our_name(name)], value) for name, value in state.items())


WHOLE = r"(?:[^<\[\n']|(?<!\S)<p>[^<\[\n']*</p>\s*\[SEG\](?![^\s.,;:!?]))*"  # every phrase with its mask, or none
APART = r"(?:[^<\[\n']|\[SEG\](?![^\s.,;:!?\[]))*"


def closed_up(text: str) -> str:
    """Words without the spaces that stand before punctuation where a tag was."""
    return re.sub(r"\s+(?=[.,;:!?])", "", " ".join(text.split()))


def test_words_are_cleaned_as_captions_are_scored() -> None:
    """Of answers in good order: what the reference makes of odd text, and of the prompt, is its own."""
    path = ROOT / "eval" / "captions.json"
    if not path.is_file():
        pytest.skip(HOW)
    compared = 0
    for case in read_json(path)["clean"]:
        if "ASSISTANT" not in case["raw"] and re.fullmatch(f"{WHOLE}|{APART}", case["raw"]):
            text, phrases = read_words(case["raw"])
            assert closed_up(text) == closed_up(case["cleaned"])
            named = [text[start:stop] for start, stop, _ in phrases if (start, stop) != (0, len(text))]
            wanted = [" ".join(phrase.split()) for phrase in case["phrases"]]
            assert named == [phrase for phrase in wanted if phrase != text]
            compared += 1
    assert compared


def test_positions(folder: Path, model: VideoGLaMMForConditionalGeneration, golden: dict[str, Tensor]) -> None:
    config = model.config.video
    fresh = sincos_positions(config.width, config.grid, config.frames)
    near("fresh positions", fresh, golden["iv.sincos_pos_embed"], 1e-6)
    stored = tensors(folder / "pos_interp.safetensors")
    for name, value in stored.items():
        kind, _, rest = name.partition(".")
        if kind == "pos_in":
            made = resized_positions(value, config.grid, config.frames, int(rest.split("_")[0]))
            near("resized positions", made, stored[f"pos_out.{rest}"], 1e-5)
        elif kind == "sincos":  # for example sincos.width48_grid3_t2
            width, grid, frames = (int(part.lstrip("widthgr")) for part in rest.split("_"))
            near("fresh positions", sincos_positions(width, grid, frames), value, 1e-6)


def test_preprocessing(folder: Path, inputs: dict[str, Tensor], model: VideoGLaMMForConditionalGeneration) -> None:
    config = model.config
    for sample, raw in enumerate(of_samples(inputs, "frames_u8")):
        frames = raw.numpy()
        shown = frames[chosen(min(len(frames), config.frames), config.frames)]
        near("frames for InternVideo2", video_images(shown, config.video.size_px), inputs[f"images.{sample}"], 1e-5)
        seen = context_images(shown, config.image.size_px)
        near("frames for CLIP", seen, inputs[f"context_images.{sample}"], 2e-2)
        wanted = inputs[f"sam_images.{sample}"]
        near("frames for SAM 2", sam_images(frames[: len(wanted)], config.masks.size_px), wanted, 1e-4)


@pytest.mark.parametrize(
    "name, make, bound",
    [("video_224", video_images, 1e-5), ("image_336", context_images, 2e-2), ("sam_1024", sam_images, 1e-3)],
)
def test_preprocessing_at_full_size(folder: Path, name: str, make: Any, bound: float) -> None:
    stored = tensors(folder / "preprocess.safetensors")
    made = make(stored["frame_u8"].numpy()[None], int(name.split("_")[1]))[0]
    channel, row, column = stored[f"{name}.index_cyx"].unbind(1)
    near(f"full size, {name}", made[channel, row, column], stored[f"{name}.value"], bound)
    near(f"full size, {name}, channel means", made.mean((1, 2)), stored[f"{name}.channel_mean"], 1e-3)


@torch.no_grad()
def test_encoders(
    model: VideoGLaMMForConditionalGeneration, inputs: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    body, config = model.model, model.config
    for sample, (video, context) in enumerate(
        zip(of_samples(inputs, "images"), of_samples(inputs, "context_images"), strict=True)
    ):
        moved, seen = body.vision_tower(video), body.image_vision_tower(context)
        near("InternVideo2", moved, golden[f"video_features.{sample}"], FEATURES, relative=True)
        near("CLIP", seen, golden[f"image_features.{sample}"], FEATURES, relative=True)
        projected = body.mm_projector(moved[0, 0]), body.image_mm_projector(seen[0])
        near("adapters", projected[0], golden[f"video_projected_frame0.{sample}"], TOKENS, relative=True)
        near("adapters", projected[1], golden[f"image_projected_frame0.{sample}"], TOKENS, relative=True)
        tokens = model.visual_tokens(video, context)
        near("visual tokens", tokens, golden[f"visual_tokens.{sample}"], TOKENS, relative=True)
        first = pool(projected[1][None], config.image.pool)[0]
        near("visual tokens, first frame", tokens[: len(first)], first, TOKENS, relative=True)
    encoder, states = body.vision_tower.vision_encoder, []
    hooks = [part.register_forward_hook(lambda _m, _i, out: states.append(out)) for part in encoder.blocks]
    hooks.append(encoder.patch_embed.register_forward_hook(lambda _m, _i, out: states.append(out)))
    body.vision_tower(inputs["images.0"][: config.video.frames])
    for hook in hooks:
        hook.remove()
    assert len(states) == 1 + int(golden["iv.num_blocks_run"])
    near("InternVideo2, patches", states[0], golden["iv.patch_embed"], FEATURES, relative=True)
    for block, state in enumerate(states[1:]):
        near("InternVideo2, blocks", state, golden[f"iv.block.{block}"], FEATURES, relative=True)


@torch.no_grad()
def test_picture(
    model: VideoGLaMMForConditionalGeneration, inputs: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    picture = inputs["context_images.0"][:1]
    near("CLIP", model.model.image_vision_tower(picture), golden["image.features"], FEATURES, relative=True)
    tokens = model.visual_tokens(None, picture)
    near("adapters", tokens, golden["image.projected"], TOKENS, relative=True)
    out = model(inputs["image.input_ids"], context_images=[picture])
    near("logits", out.logits, golden["image.logits"], LOGITS)


@torch.no_grad()
def test_language(
    model: VideoGLaMMForConditionalGeneration, inputs: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    for prefix, batch in batches(inputs):
        seen: list[Tensor] = []
        hook = model.model.layers[0].register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        out = model(**batch)
        hook.remove()
        wanted = part_of(golden, prefix)
        real = wanted.get("merged_attention_mask", out.attention_mask).bool()
        exact = {
            "merged_attention_mask": out.attention_mask, "merged_labels": out.labels, "seg_mask": out.segment_mask,
            "seg_positions": out.segment_mask.nonzero(),
        }  # fmt: skip
        hidden = out.last_hidden_state
        close = {
            "merged_embeds": (out.inputs_embeds, TOKENS), "layer0_hidden": (seen[0], HIDDEN),
            "final_hidden": (hidden, HIDDEN), "seg_hidden": (hidden[out.segment_mask], HIDDEN),
            "seg_vectors": (torch.cat(out.segments), LOGITS), "logits": (out.logits, LOGITS),
        }  # fmt: skip
        for name in (*exact, *close):
            if prefix and name not in wanted:  # later batches have fewer
                continue
            if name in exact:
                assert torch.equal(exact[name], wanted[name].to(exact[name].dtype)), name
                continue
            found, bound = close[name]
            kept = slice(None) if name in ("seg_hidden", "seg_vectors") else real
            near(f"language, {name}", found[kept], wanted[name][kept], bound, relative=bound != LOGITS)


@torch.no_grad()
def test_sliding_window(folder: Path, inputs: dict[str, Tensor], golden: dict[str, Tensor]) -> None:
    batch = batch_of(inputs)
    for name in ("sam_images", "masks"):
        batch.pop(name)
    real = golden["merged_attention_mask"].bool()
    for name, wanted in golden.items():
        if found := re.fullmatch(r"window(\d+)\.logits", name):
            out = model_of(folder, window=int(found[1]) + 1)(**batch)
            near("logits, sliding window", out.logits[real], wanted[real], LOGITS)


@torch.no_grad()
def test_sam2_frame_by_frame(
    model: VideoGLaMMForConditionalGeneration, inputs: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    batch = batch_of(inputs)
    out = model(**batch | {"masks": None})
    for sample, pixels in enumerate(batch["sam_images"]):
        maps = image_maps(model.sam2, pixels)
        near("SAM 2, coarse map", maps[2][:1], golden[f"sam.image_embed.{sample}"], LOSS)
        for level in (0, 1):
            near("SAM 2, fine maps", maps[level][:1], golden[f"sam.high_res_{level}.{sample}"], LOSS)
        if f"eval_low_res.{sample}" in golden:
            found, wanted = out.mask_logits[sample], golden[f"eval_low_res.{sample}"]
            near("masks, evaluation, from frames", found, wanted, FROM_FRAMES)
            if not len(found):
                continue
            quality = [decode(model.sam2, out.segments[sample], maps, at)[1] for at in range(len(pixels))]
            near("predicted IoU", torch.stack(quality, dim=1), golden[f"eval_iou.{sample}"], LOSS)
            given = [golden[f"sam.{name}.{sample}"] for name in ("high_res_0", "high_res_1", "image_embed")]
            vectors = golden["seg_vectors"].split([len(part) for part in out.segments])[sample]
            near("masks, evaluation", decode(model.sam2, vectors, given, 0)[0], wanted[:, 0], MASKS)


def test_training_step(folder: Path, inputs: dict[str, Tensor], golden: dict[str, Tensor]) -> None:
    model, norms = model_of(folder).train(), read_json(folder / "train_grad_norms.json")
    for prefix, batch in batches(inputs):
        model.zero_grad()
        out = model(**batch)
        wanted = part_of(golden, prefix)
        for sample, (found, true) in enumerate(zip(out.mask_logits, batch["masks"], strict=True)):
            if f"low_res.{sample}" not in wanted:
                continue
            low, full = wanted[f"low_res.{sample}"], wanted[f"mask_logits.{sample}"]
            both = min(len(found), len(low))  # without any [SEG] 8 there, 4 here
            near("masks, training, from frames", found[:both], low[:both], FROM_FRAMES)
            found = to_size(found, true.shape[-2:])
            near("masks, training, full size", found[:both], full[:both], FROM_FRAMES)
            given = [golden[f"sam.{name}.{sample}"] for name in ("high_res_0", "high_res_1", "image_embed")]
            vectors = wanted.get("seg_vectors", torch.cat(out.segments).detach()).split(
                [len(part) for part in out.segments]
            )[sample]
            real = torch.arange(both) < len(vectors)
            vectors = torch.nn.functional.pad(vectors, (0, 0, 0, both - len(vectors)))
            near("masks, training", decode(model.sam2, vectors, given, 0, real)[0], low[:both, 0], MASKS)
        losses = {"ce_loss": out.ce_loss, "mask_bce_loss": out.bce_loss, "mask_dice_loss": out.dice_loss}
        losses |= {"mask_loss": out.bce_loss + out.dice_loss, "loss": out.loss}
        for name in (name for name in losses if not prefix or name in wanted):
            near(f"loss, {name}", losses[name][None], wanted[name], 2 * LOSS if name == "loss" else LOSS)
        if not prefix:
            out.loss.backward()
            gradients_near(model, golden, norms)


def gradients_near(model: torch.nn.Module, golden: dict[str, Tensor], norms: dict[str, float | None]) -> None:
    """Assert that gradients are the golden ones: some of them whole, all by their norm."""
    gradients = {published_name(name): value.grad for name, value in model.named_parameters()}
    compared = 0
    for name, value in golden.items():
        if name.startswith("grad."):
            parts = [re.escape(part) for part in name.removeprefix("grad.").split(".")]
            pattern = re.compile(r"(?:.*\.)?" + r"\.(?:.*\.)?".join(parts) + r"(?:\.weight)?")
            full = min((key for key in gradients if pattern.fullmatch(key)), key=len)
            near("gradients", gradients[full], value, 3e-4, relative=True)
    for name, norm in norms.items():
        found = gradients[name]
        if norm is None:
            assert found is None, name
        elif norm < 1e-3:
            assert found is None or found.norm() < 2e-3, name
        else:
            near("gradient norms", found.norm()[None], torch.tensor([norm]), 2e-4, relative=True)
            compared += 1
    assert compared


def test_true_masks_that_are_not_filled_up(folder: Path, inputs: dict[str, Tensor], golden: dict[str, Tensor]) -> None:
    if "unpadded_gt.mask_bce_loss" not in golden:
        pytest.skip(f"{folder.name} has no true mask")
    batch = batch_of(inputs)
    batch["masks"] = [true[(true != -1).flatten(1).any(1)] for true in batch["masks"]]
    with torch.no_grad():
        out = model_of(folder).train()(**batch)
    near("loss, mask_bce_loss", out.bce_loss[None], golden["unpadded_gt.mask_bce_loss"], LOSS)
    near("loss, mask_dice_loss", out.dice_loss[None], golden["unpadded_gt.mask_dice_loss"], LOSS)


def test_generation(
    model: VideoGLaMMForConditionalGeneration, inputs: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    for sample, video in enumerate(of_samples(inputs, "images")):
        wanted = part_of(golden, f"generate.{sample}.")
        if "ids" not in wanted:
            continue
        prompt, context = inputs[f"prompt_ids.{sample}"], inputs[f"context_images.{sample}"]
        new = wanted["ids"].shape[1] - prompt.shape[1]
        written = model.write(prompt, images=[video], context_images=[context], max_new_tokens=new)
        assert written.ids.tolist() == wanted["ids"].tolist()
        assert written.ids[:, prompt.shape[1] :].tolist() == inputs[f"taught_ids.{sample}"].tolist()
        vectors = wanted.get("seg_vectors", written.segments[0][:0])  # the released code fails without any [SEG]
        near("prompts of masks, written", written.segments[0], vectors, LOGITS)
        with torch.no_grad():
            again = model(written.ids, images=[video], context_images=[context])
            found = decode_all(model.sam2, inputs[f"sam_images.{sample}"], written.segments[0])
        places = again.segment_mask[0].nonzero()[:, 0].tolist()
        assert places == (wanted["seg_positions"].tolist() if "seg_positions" in wanted else [])
        near("logits while writing", again.logits[0, -new - 1 : -1], wanted["step_logits"], LOGITS)
        if "low_res" not in wanted:
            assert not len(found)
            continue
        full = wanted["mask_logits"]
        near("masks, written, from frames", found, wanted["low_res"], FROM_FRAMES)
        near("masks, written, full size", to_size(found, full.shape[-2:]), full, FROM_FRAMES)


def test_video_branch(
    model: VideoGLaMMForConditionalGeneration,
    inputs: dict[str, Tensor],
    golden: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracked: list[dict[str, Any]] = []
    decoded: list[tuple] = []
    step = model.sam2.track_step

    def recorded(**arguments: Any) -> dict[str, Any]:
        tracked.append(step(**arguments))
        return tracked[-1]

    monkeypatch.setattr(model.sam2, "track_step", recorded)
    hook = model.sam2.sam_mask_decoder.register_forward_hook(lambda _m, _i, out: decoded.append(out))
    for sample, pixels in enumerate(of_samples(inputs, "sam_images")):
        prefix = f"video.{sample}."
        if f"{prefix}masks" not in golden:
            continue
        wanted = part_of(golden, prefix)
        tracked.clear(), decoded.clear()
        size = wanted["masks"].shape[-2:]
        vectors = golden[f"generate.{sample}.seg_vectors"]
        found = list(follow(model.sam2, vectors, (frame[None] for frame in pixels), len(pixels), tuple(size)))
        near("video branch, three masks", decoded[0][0], wanted["cond_multimask_low_res"], MASKS)
        near("video branch, predicted IoU", decoded[0][1], wanted["cond_multimask_iou"], LOSS)
        for at, out in enumerate(tracked):
            near("video branch, masks", out["pred_masks"], wanted[f"pred_low_res.{at}"], MASKS)
            near("video branch, pointers", out["obj_ptr"], wanted[f"obj_ptr.{at}"], LOGITS)
            memory, bound = out["maskmem_features"].to(torch.bfloat16).float(), 1e-2
            near("video branch, memory", memory, wanted[f"memory_bf16.{at}"].float(), bound, relative=True)
        scores = torch.stack([out["object_score_logits"][:, 0] for out in tracked])
        near("video branch, object scores", scores, wanted["object_score_logits"], LOGITS)
        logits = to_size(torch.cat([out["pred_masks"] for out in tracked], dim=1), size)
        near("video branch, full size", logits, wanted["mask_logits"], 1e-3)
        apart = torch.from_numpy(np.stack(found, axis=1)) != wanted["masks"].bool()
        assert not (apart & (wanted["mask_logits"].abs() >= 1e-3)).any()
    hook.remove()
