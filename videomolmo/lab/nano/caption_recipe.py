"""The recipe of Nano-GLaMM, stage by stage, and how good it is on clips that were held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videomolmo.io.files import write_json
from videomolmo.lab.nano.caption_batches import HELD_OUT, Seen
from videomolmo.lab.nano.caption_stage import PARTS, Stage, assembled, train_stage
from videomolmo.lab.nano.grounded_model import caption_tokenizer, nano_config
from videomolmo.metrics.conversations import gcg_miou, volume_iou
from videomolmo.model.tokenizer import load_tokenizer, save_tokenizer
from videomolmo.synth.captions import KINDS, Exchange, GroundedText, exchange
from videomolmo.systems.videoglamm import VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor, collate
from videomolmo.systems.videoglamm.masks import decode_all, to_size

STAGES = (
    Stage("see", "see", steps=3000, batch=8, max_lr=2e-3, parts=("video",), frames=4),
    Stage("segment", "segment", steps=2500, batch=8, max_lr=1e-3, parts=("decoder",), frames=4),
    Stage(
        "speak", "speak", steps=5000, batch=6, max_lr=2e-3, parts=("adapters", "language", "projector"),
        cached_batches=1200, look_weight=0.3,
    ),
    Stage(
        "speak_more", "speak", steps=3000, batch=6, max_lr=1.5e-3, parts=("adapters", "language", "projector"),
        cached_batches=1000, look_weight=0.3, always=("caption", "motion"),  # which is learnt last
    ),
    Stage(
        "ground", "ground", steps=800, batch=8, max_lr=5e-4, parts=tuple(part for part in PARTS if part != "video"),
        cached_batches=100, look_weight=0.1,
    ),
)  # fmt: skip
WRITTEN, AT_ONCE = 160, 32  # most tokens of an answer; questions answered in a batch


def train_nano_glamm(out: Path, *, seed: int = 1, share: float = 1.0) -> Path:
    """Train Nano-GLaMM in `out`, with a folder for each stage, and write it in half precision to `out`/glamm.

    Returns the last stage's weights. Run again to go on.

    Args:
        out: working folder.
        seed: of first weights and order of examples.
        share: of all steps, for a trial run.
    """
    processor, weights = processor_of(out), None
    for stage in STAGES:
        stage = replace(stage, steps=max(2, round(stage.steps * share)))
        folder = Path(out) / f"glamm_{stage.name}"
        weights = train_stage(processor.config, processor, stage, folder, weights, seed)
    model, processor = load_stage(out, weights)
    model.save_pretrained(Path(out) / "glamm", dtype=torch.float16)
    processor.save_pretrained(Path(out) / "glamm")
    write_json(
        Path(out) / "glamm" / "recipe.json", {"seed": seed, "share": share, "stages": [asdict(s) for s in STAGES]}
    )
    return weights


def processor_of(out: Path) -> VideoGLaMMProcessor:
    """The processor of a run, whose tokenizer is made and kept at the first call."""
    folder = Path(out) / "glamm_tokenizer"
    if not (folder / "tokenizer.json").exists():
        save_tokenizer(caption_tokenizer(), folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.split_special_tokens = False
    return VideoGLaMMProcessor(tokenizer, nano_config(tokenizer))


def load_stage(out: Path, weights: Path) -> tuple[VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor]:
    """Model in evaluation mode and processor of a run, after one of its stages."""
    processor = processor_of(out)
    return assembled(processor.config, weights, seed=0)["model"].eval(), processor


@torch.no_grad()
def answers(
    model: VideoGLaMMForConditionalGeneration, processor: VideoGLaMMProcessor, clips: Sequence[Seen],
    questions: Sequence[str],
) -> list[tuple[GroundedText, np.ndarray]]:  # fmt: skip
    """Greedy answers to a question for each clip; with masks (spans, shown frames, height, width)."""
    made = []
    for first in range(0, len(clips), AT_ONCE):
        part = clips[first : first + AT_ONCE]
        rows = [processor(one.frames, text) for one, text in zip(part, questions[first : first + AT_ONCE], strict=True)]
        written = model.write(**collate(rows), max_new_tokens=WRITTEN)
        longest = max(len(row["input_ids"]) for row in rows)
        for clip, ids, segments in zip(part, written.ids[:, longest:], written.segments, strict=True):
            said = GroundedText.parsed(processor.decode(ids))
            vectors = segments[[span.objects[0] for span in said.spans]]
            low = decode_all(model.sam2, processor.sam_images(clip.frames), vectors)
            made.append((said, to_size(low, clip.ids.shape[1:]).numpy() > 0))
    return made


def judge(
    model: VideoGLaMMForConditionalGeneration, processor: VideoGLaMMProcessor, clips: int = 50, frames: int = 12
) -> dict[str, Any]:
    """How good captions, questions and referring sentences are on held-out clips; all greedy.

    Returns:
        `precision` and `recall` of objects named in captions; `miou` of their phrases and `mask_recall`, the share of
        true objects with a phrase of their name and IoU from 0.5; for each kind of question `exact` and `iou`.
    """
    seen = [Seen.of(HELD_OUT + number, frames, processor.config.frames) for number in range(clips)]
    asked: list[tuple[Seen, Exchange]] = []
    for number, one in enumerate(seen):
        rng = np.random.default_rng([HELD_OUT, number])
        asked += [(one, told) for kind in KINDS if (told := exchange(one.said, rng, kind))]
    given = answers(model, processor, [one for one, _ in asked], [told.question for _, told in asked])
    captions, kinds = [], {kind: [] for kind in KINDS}
    for (one, told), (said, masks) in zip(asked, given, strict=True):
        if told.kind == "caption":
            captions.append(_caption_scores(one, said, masks))
        kinds[told.kind].append(_answer_scores(one, told, said, masks))
    rows = {}
    for kind, scores in kinds.items():
        if scores:
            exact, names, ious = (np.array(part, float) for part in zip(*scores, strict=True))
            rows[kind] = {"n": len(scores), "exact": exact.mean(), "names": names.mean(), "iou": _mean(ious)}
    named, right, true, grounded, mious = (np.array(part, float) for part in zip(*captions, strict=True))
    return {
        "clips": clips, "precision": right.sum() / max(named.sum(), 1), "recall": right.sum() / true.sum(),
        "miou": mious.mean(), "mask_recall": grounded.sum() / true.sum(), "kinds": rows,
    }  # fmt: skip


def _mean(values: np.ndarray) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def _name(phrase: str) -> str:
    return phrase.lower().removeprefix("a ").removeprefix("an ").removeprefix("the ")


def _caption_scores(one: Seen, said: GroundedText, masks: np.ndarray) -> tuple[int, int, int, int, float]:
    """Objects named, those of them in the clip, objects of the clip, those named with the right mask, and mIoU."""
    first: dict[str, np.ndarray] = {}
    for phrase, mask in zip(said.phrases, masks, strict=True):
        first.setdefault(_name(phrase), mask)
    truth = {told.name: one.masks([at]) for at, told in enumerate(one.said.objects)}
    common = first.keys() & truth.keys()
    grounded = sum(float(volume_iou(truth[name][None], first[name][None])[0, 0]) >= 0.5 for name in common)
    found = np.stack(list(first.values())) if first else np.zeros((0, *one.ids.shape), bool)
    return len(first), len(common), len(truth), grounded, gcg_miou(np.stack(list(truth.values())), found)


def _answer_scores(one: Seen, told: Exchange, said: GroundedText, masks: np.ndarray) -> tuple[bool, bool, float]:
    """Whether the words are exactly right, whether the objects named are, and the IoU of all that should be masked."""
    names = set(map(_name, said.phrases)) == set(map(_name, told.answer.phrases))
    if not told.answer.spans:
        return said.text == told.answer.text, names, float("nan")
    true = one.masks([at for span in told.answer.spans for at in span.objects])
    found = masks.any(axis=0) if len(masks) else np.zeros_like(true)
    return said.text == told.answer.text, names, float(volume_iou(true[None], found[None])[0, 0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how good a stage of a run is, as JSON."""
    import argparse

    parser = argparse.ArgumentParser(description="Judge a stage of Nano-GLaMM on held-out clips.")
    parser.add_argument("out", type=Path, help="working folder of the training")
    parser.add_argument("--stage", default=STAGES[-1].name, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=50, help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, processor = load_stage(options.out, options.out / f"glamm_{options.stage}" / "weights.safetensors")
    print(json.dumps(judge(model, processor, options.clips), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
