"""MolmoPoint against numbers of the released model and of its training code, in float32.

The worst error of each stage is printed as a table at the end of the run.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from golden import HOW, ROOT, near, read_json, tensors
from torch import Tensor
from transformers import AutoTokenizer

from videomolmo.model.point_heads import IMPOSSIBLE
from videomolmo.model.token_order import Ids, as_text
from videomolmo.systems.molmopoint import MolmoPointForConditionalGeneration
from videomolmo.systems.molmopoint.weights import published_rows
from videomolmo.systems.molmopoint.writing import Writer, places, write

STATES, LOGITS, LOSS, GRADIENT, NORM, PIXELS = 2e-5, 2e-4, 1e-5, 3e-4, 2e-4, 1e-3
ROUNDING = 1e-2  # gradients below: their last digits are noise in float32 (an answer known by heart; biases of keys)
FOLDERS = sorted(path.parent for path in ROOT.glob("molmopoint/*/weights.safetensors"))
ABSENT = [pytest.param(None, marks=pytest.mark.skip(reason=HOW), id="absent")]


class Golden(NamedTuple):
    folder: Path
    model: MolmoPointForConditionalGeneration
    index: dict[str, Any]
    generation: dict[str, Tensor]
    training: dict[str, Tensor]
    end: int
    windows: dict[str, list[int] | None]


@pytest.fixture(scope="module", params=[pytest.param(path, id=path.name) for path in FOLDERS] or ABSENT)
def golden(request, tmp_path_factory) -> Golden:
    """The golden instance; its model is loaded from a published folder of it, strictly."""
    folder, published = request.param, tmp_path_factory.mktemp("published")
    values = read_json(folder / "config.json")
    shutil.copyfile(folder / "weights.safetensors", published / "model.safetensors")
    (published / "config.json").write_text(json.dumps(values["model"]))
    return Golden(
        folder, MolmoPointForConditionalGeneration.from_pretrained(published),
        read_json(folder / "index.json"), tensors(folder / "generation.safetensors"),
        tensors(folder / "training.safetensors"), values["bos_and_eos_id"],
        {kind: values.get("processor", {}).get(f"{kind}_pooling") for kind in ("image", "video")},
    )  # fmt: skip


def with_habits(golden: Golden, habits: str) -> MolmoPointForConditionalGeneration:
    golden.model.config.habits = habits
    return golden.model.eval()


def pixels(values: Tensor) -> Tensor:
    return (values.float() / 255 - 0.5) / 0.5


def inputs(golden: Golden, case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt, pixels and pooling of a case."""
    source = golden.index["cases"][case].get("pixels_from", case)
    data = golden.generation
    if f"{case}.in.video_grids" in data:
        shown, pooling = data[f"{source}.in.pixel_values_videos_u8"], data[f"{case}.in.video_token_pooling"]
        return data[f"{case}.in.input_ids"], pixels(shown)[None], pooling[None]
    shown, pooling = data[f"{source}.in.pixel_values_u8"], data[f"{case}.in.image_token_pooling"].clone()
    grids, crops = data[f"{case}.in.image_grids"], data[f"{case}.in.image_num_crops"]
    counts = grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]
    before = (crops.cumsum(0) - crops) * shown.shape[1]  # each image counts its own patches
    pooling[pooling >= 0] += before.repeat_interleave(counts)[:, None].expand_as(pooling)[pooling >= 0]
    return data[f"{case}.in.input_ids"], pixels(shown)[None], pooling[None]


def grids_of(golden: Golden, case: str) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """Fine grids and sizes of a case's images or frames, see `places`."""
    data, grids, first = golden.generation, [], 0
    if f"{case}.in.video_grids" in data:
        frames, rows, columns = data[f"{case}.in.video_grids"][0].tolist()
        height, width = data[f"{case}.in.raw_u8"].shape[1:3]
        return [(frame * rows * columns, rows, columns) for frame in range(frames)], [(height, width)] * frames
    images = data[f"{case}.in.image_grids"].tolist()
    for low_rows, low_columns, rows, columns in images:
        first += low_rows * low_columns
        grids.append((first, rows, columns))
        first += rows * columns
    return grids, [tuple(data[f"{case}.in.raw_u8.{at}"].shape[:2]) for at in range(len(images))]


def cases(golden: Golden) -> Iterator[str]:
    found = list(golden.index["cases"])
    assert found
    yield from found


def test_saved_it_is_the_published_file_again(golden: Golden, tmp_path) -> None:
    golden.model.save_pretrained(tmp_path)
    wanted = tensors(golden.folder / "weights.safetensors")
    found = tensors(tmp_path / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name].to(value.dtype), value) for name, value in wanted.items())
    again = MolmoPointForConditionalGeneration.from_pretrained(tmp_path)
    where = {"_name_or_path": None, "architectures": None}  # of transformers
    assert again.config.to_dict() | where == golden.model.config.to_dict() | where
    ours, theirs = again.state_dict(), golden.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_prompts_as_they_are_read(golden: Golden) -> None:
    model, seen = with_habits(golden, "released"), 0
    for case in cases(golden):
        wanted = {name.removeprefix(f"{case}."): value for name, value in golden.generation.items()
                  if name.startswith(f"{case}.")}  # fmt: skip
        if "pre_norm" not in wanted:
            continue
        seen += 1
        ids, shown, pooling = inputs(golden, case)
        media = torch.isin(ids, torch.tensor(model.config.media_ids))
        assert torch.equal(media, wanted["in.token_type_ids"])
        writer = Writer(model, ids, shown, pooling)
        heads, count = model.model.point_predictor, pooling.shape[1]
        near("patch features", writer.seen.patches, wanted["vit_features"], STATES, relative=True)
        near("image tokens", writer.seen.tokens, wanted["image_features"], STATES, relative=True)
        near("embeddings", writer.embeds, wanted["lm_input_embeds"], STATES, relative=True)
        near("states", writer.states, wanted["pre_norm"], STATES, relative=True)
        last = model.model.language_model.norm(writer.states[:, -1])
        near("states, last norm", last, wanted["final_norm_last"], STATES, relative=True)
        near("patch keys", writer.candidates.keys, wanted["patch_k"], STATES, relative=True)
        near("slot keys", heads.subpatch_k(writer.seen.patches), wanted["subpatch_k"], STATES, relative=True)
        assert torch.equal(writer.candidates.positions, wanted["image_pos_ids"])
        assert torch.equal(writer.candidates.selectable, wanted["patch_k_mask"][:, :count].bool())
    assert seen


def test_answers_of_the_released_model(golden: Golden) -> None:
    model = with_habits(golden, "released")
    tokenizer = AutoTokenizer.from_pretrained(golden.folder / "tokenizer")
    for case, about in golden.index["cases"].items():
        ids, shown, pooling = inputs(golden, case)
        written = golden.generation[f"{case}.generated_ids"].tolist()
        writer = Writer(model, ids, shown, pooling)
        for at, number in enumerate(written):
            scores = writer.scores.masked_fill(~writer.allowed, -torch.inf)
            wanted = golden.generation[f"{case}.step_extended_logits"][at]
            assert torch.equal(scores.isinf(), wanted.isinf()), f"{case}, step {at}"
            near("scores, released", scores[~scores.isinf()], wanted[~wanted.isinf()], LOGITS)
            assert writer.best == number
            if at == len(written) - 1:
                break
            step = writer.take(number)
            for name, value, bound, relative in (
                ("embeds", step.embed, STATES, True), ("pre_norm", step.state, STATES, True),
                ("patch_logits", step.patches, LOGITS, False), ("subpatch_logits", step.slots, LOGITS, False),
                ("location_logits", step.cells, LOGITS, False),
            ):  # fmt: skip
                wanted = golden.generation[f"{case}.step_{name}"][at]
                assert (value is None) == bool(wanted.isnan().any()), f"{case}, step {at}: {name}"
                if value is not None:
                    fair = wanted > -1e4
                    assert torch.equal(value > -1e4, fair)
                    near(f"steps, {name}", value[fair], wanted[fair], bound, relative=relative)
        answer = write(model, ids, shown, pooling, 64, golden.end)
        assert answer.ids.tolist() == written
        text = as_text(written, writer.ids, tokenizer)
        assert text == about["text"]
        check_places(golden, case, text, writer.ids, about, tokenizer)


def check_places(golden: Golden, case: str, text: str, ids: Ids, about: dict[str, Any], tokenizer: Any) -> None:
    prompt, _, pooling = inputs(golden, case)
    grids, sizes = grids_of(golden, case)
    window = golden.windows["video" if f"{case}.in.video_grids" in golden.generation else "image"]
    found = [list(place) for place in places(text, ids, pooling[0], grids, sizes, window)]
    if "seconds" in about["columns"]:
        shown, start = [], 0
        for at in (prompt[0] == golden.model.config.frame_start_token_id).nonzero()[:, 0].tolist():
            shown.append(float(re.findall(r"\d+\.\d", tokenizer.decode(prompt[0, start:at]))[-1]))
            start = at
        found = [[name, shown[frame], x, y] for name, frame, x, y in found]
    wanted = about["points"]
    if "seconds" in about["columns"]:  # of the frame; the prompt tells its tenths
        wanted = [[name, float(f"{seconds:.1f}"), x, y] for name, seconds, x, y in wanted]
    assert len(found) == len(wanted)
    if found:
        near("pixels of points", torch.tensor(found), torch.tensor(wanted), PIXELS)


@pytest.mark.parametrize("name", ["forced_same", "forced_late"])
def test_ordering_rules(golden: Golden, name: str) -> None:
    model, data = with_habits(golden, "released"), golden.generation
    writer = Writer(model, *inputs(golden, golden.index["forced"]["base"]))
    for at, number in enumerate(data[f"{name}.forced_ids"].tolist()):
        assert torch.equal(writer.allowed, data[f"{name}.allowed"][at].bool()), f"step {at}"
        near("scores, forced", writer.scores, data[f"{name}.raw_scores"][at], LOGITS)
        if at < len(data[f"{name}.patch_logits"]):
            step, wanted = writer.take(number), data[f"{name}.patch_logits"][at]
            near("patch logits, forced", step.patches[wanted > -1e4], wanted[wanted > -1e4], LOGITS)


def test_answers_of_the_training_code(golden: Golden) -> None:
    model = with_habits(golden, "training")
    for case in cases(golden):
        prompt, shown, pooling = inputs(golden, case)
        answer = write(model, prompt, shown, pooling, 64, golden.end)
        ids = Ids(model.config.words, *pooling.shape[1:])
        tokens = {"patch": model.config.patch_token_id, "closed": model.config.patch_token_id,
                  "slot": model.config.subpatch_token_id, "cell": model.config.location_token_id}  # fmt: skip
        found = [one if ids.part(one) == "word" else tokens[ids.part(one)] for one in answer.ids.tolist()]
        assert found == golden.generation[f"{case}.train_code_ids"].tolist(), case
        wanted = golden.generation[f"{case}.train_code_targets"].reshape(-1, 3).long()
        assert torch.equal(answer.points, wanted), case


def test_losses_and_gradients(golden: Golden) -> None:
    model = with_habits(golden, "training")
    norms = read_json(golden.folder / "train_grad_norms.json")
    for name, sums in golden.index["train"].items():
        data = {key.removeprefix(f"{name}."): value for key, value in golden.training.items()
                if key.startswith(f"{name}.")}  # fmt: skip
        arguments = {
            "input_ids": data["in.input_ids"],
            "pixels": pixels(data["in.images_u8"]) if "in.images_u8" in data else None,
            "pooling": data.get("in.token_pooling"), "points": data.get("in.point_target_ids"),
            "labels": data["in.labels"], "weights": data["in.loss_masks"], "position_ids": data["in.position_ids"],
            "subsegments": data.get("in.subsegment_ids"),
        }  # fmt: skip
        model.zero_grad()
        out = model(**arguments)
        compare_logits(out, data)
        out.loss.backward()
        compare_losses(out, sums)
        compare_gradients(model, data, norms[name])
        with torch.no_grad():
            compare_losses(model(**arguments, weigh_points=True), sums["with_answer_weights"])


def compare_logits(out: Any, data: dict[str, Tensor]) -> None:
    near("training, words", out.logits[data["in.loss_masks"] > 0], data["response_logits"], LOGITS)
    if "patch_logits" not in data:
        assert out.point_losses is None
        return
    for row, found in enumerate(out.patch_logits):
        wanted = data["patch_logits"][row, : len(found)]
        fair = wanted > IMPOSSIBLE / 2
        assert torch.equal(found > IMPOSSIBLE / 2, fair)
        near("training, patches", found[fair], wanted[fair], LOGITS)
    near("training, slots", out.subpatch_logits, data["subpatch_logits"], LOGITS)
    near("training, locations", out.location_logits, data["location_logits"], LOGITS)


def compare_losses(out: Any, sums: dict[str, float]) -> None:
    points = out.point_losses or (torch.zeros(()),) * 3
    for name, found in (
        ("total", out.loss), ("text_ce_sum", out.word_loss), ("z_loss_sum", out.z_loss),
        ("point_loss_sum", sum(points)), ("patch_loss_sum", points[0]), ("subpatch_loss_sum", points[1]),
        ("location_loss_sum", points[2]),
    ):  # fmt: skip
        size = max(abs(sums[name]), 1.0)  # of less than that, rounding in the sum of exponentials is seen
        near(f"loss, {name}", found / size, torch.tensor(sums[name] / size), LOSS)


def compare_gradients(model: Any, data: dict[str, Tensor], norms: dict[str, float]) -> None:
    """Gradients by published names, by the mapping that weights are saved with."""
    ours, least = {name: value.grad for name, value in model.named_parameters()}, ROUNDING
    compared = 0
    for name, parts in published_rows(model).items():
        values = [None if ours[part.name] is None else ours[part.name][part.first : part.last] for part in parts]
        found = None if any(value is None for value in values) else torch.cat(values)
        if (norm := norms.get(name)) is not None:
            size = torch.zeros(()) if found is None else found.norm()
            near("gradients, norms", size / max(norm, least), torch.tensor(norm / max(norm, least)), NORM)
            compared += 1
        if (wanted := data.get(f"grad.{name}")) is not None:
            size = max(float(wanted.abs().max()), least)
            near("gradients of the heads", found / size, wanted / size, GRADIENT)
    tied = [name for name in norms if model.lm_head is None and name.startswith("lm_head.")]
    nothing = [name for name, norm in norms.items() if norm is None and name not in tied]
    assert compared == len(norms) - len(tied) - len(nothing)
