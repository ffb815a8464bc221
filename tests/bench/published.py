"""Time grounding beside the published procedure, written short over the stock predictor of the `sam2` package.

    cd tests && python -m bench.published --threads 1 --out results/published.json
    cd tests && python -m bench.published --rows middle --video clip.mp4 --ways "ours;published" --quick
    cd tests && python -m bench.published --rows middle --video clip.mp4 --device cuda   # not run yet: no GPU at hand

Published: for each key frame 1 + l frames go through the vision encoder one by one, the answer is written alone; SAM 2
reads a folder of JPEG files, its state is reset at each key frame, objects are followed one by one, forwards only;
then, naively, a second time backwards, and the unions of all objects are fused. Both get the same weights and files,
and take turns; times are of the processor, on a GPU of the clock. Masks of both are compared on the same pixels. The
floor of a run is the time inside its batched encoders, passes through the language model and steps of SAM 2 alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from sam2 import sam2_video_predictor
from sam2.utils import misc

from bench.full import Letters, random_model
from videomolmo.fusion import fuse, iou
from videomolmo.grounding import VideoGrounder, rounded
from videomolmo.io import provenance, timing
from videomolmo.io.files import write_json
from videomolmo.io.video import open_video
from videomolmo.masks.sam2 import MaskTracker, build_published, published_names
from videomolmo.model import VideoMolmoProcessor, collate
from videomolmo.model.config import ImageConfig, LanguageConfig, VideoMolmoConfig, VisionConfig
from videomolmo.pointing import VideoMolmoPointer
from videomolmo.points import Answer, read_points
from videomolmo.protocols import as_question
from videomolmo.synth.clips import generate_clip
from videomolmo.synth.scene import NAMELESS, sample_scene
from videomolmo.weights.hub import nano_masks

HELD_OUT, FRAMES = 10_000_000, 41
Masks = dict[int, np.ndarray]


class Published:
    """The published procedure for one grounder's weights."""

    def __init__(self, grounder: VideoGrounder, predictor: Any) -> None:
        self.model, self.processor = grounder.pointer.model, grounder.pointer.processor
        self.told, self.context = getattr(grounder.pointer, "told", None), grounder.describe()["context"]
        self.predictor = predictor

    def run(self, folder: Path, sentence: str, every: int, clock: timing.Stopwatch, *, both: bool) -> Masks:
        """Fused masks of all objects together, by frame."""
        with clock.measure("io"):
            frames = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
            state = self.predictor.init_state(str(folder))
        clicks = {at: self.clicks(frames, at, sentence, clock) for at in range(0, len(frames), every)}
        with clock.measure("masks"):
            forward = self.follow(state, clicks, every, reverse=False)
            if not both:
                return {at: masks.any(0) for at, masks in forward.items()}
            backward = self.follow(state, clicks, every, reverse=True)
            empty = np.zeros((1, *frames[0].shape[:2]), bool)
            sides = [(side.get(at, empty).any(0) for side in (forward, backward)) for at in range(len(frames))]
            return {at: fuse(*side) if at in backward else next(iter(side)) for at, side in enumerate(sides)}

    @torch.inference_mode()
    def clicks(self, frames: list, at: int, sentence: str, clock: timing.Stopwatch) -> list[np.ndarray]:
        """What the model points at on a key frame."""
        height, width = frames[at].shape[:2]
        black = np.zeros_like(frames[at])
        shown = [frames[n] if n >= 0 else black for n in range(at - self.context, at + 1)]
        with clock.measure("vision"):
            pixels = [self.processor.image.pixels_only(frame[None]).to(self.model.device) for frame in shown]
            encoded = [self.model.encode_frames(one) for one in pixels]
            masks = None
            if self.model.config.image_padding_embed is not None:
                masks = self.processor.image(shown[-1]).masks[None].to(self.model.device)
            tokens = self.model.image_tokens(encoded[-1], torch.stack(encoded[:-1], dim=1), masks)
        with clock.measure("text"):
            prompt = collate([self.processor.tokens((height, width), [[as_question(sentence)]])])
            ids, places = (prompt[name].to(self.model.device) for name in ("input_ids", "image_input_idx"))
            written = self.model.generate(ids, image_input_idx=places, image_tokens=tokens)
            answer = read_points(self.processor.decode(written[0, ids.shape[1] :]), height, width)
        points, inside = (answer.points_px, list(answer.inside)) if self.told is None else (self.told, [True] * 9)
        kept = rounded(points, inside[: len(points)], width, height)
        return [np.array([point], np.float32) for point, is_in in zip(kept, inside, strict=False) if is_in]

    def follow(self, state: dict, clicks: dict[int, list], every: int, *, reverse: bool) -> Masks:
        """Masks (objects, height, width) by frame, from a fresh state at each key frame."""
        found = {}
        for at, points in clicks.items():
            self.predictor.reset_state(state)
            for number, own in enumerate(points):
                self.predictor.add_new_points_or_box(state, at, number, points=own, labels=np.ones(len(own), np.int32))
            for frame, _, logits in self.predictor.propagate_in_video(state, at, every - 1, reverse) if points else ():
                found[frame] = (logits[:, 0] > 0).cpu().numpy()
        return found


class Told(VideoMolmoPointer):
    """A pointer that does its work and then says the same points always: random weights find nothing."""

    def __init__(self, pointer: VideoMolmoPointer, points_px: np.ndarray) -> None:
        super().__init__(pointer.model, pointer.processor)
        self.told = points_px

    def answers(self, frames: Iterator, question: Any) -> Iterator[tuple[int, Answer]]:
        """The same for each key frame."""
        for at, answer in super().answers(frames, question):
            yield at, replace(answer, outcome="found", points_px=self.told, inside=np.ones(len(self.told), bool))


def predictor_of(config: Path, weights: dict[str, torch.Tensor], **options: Any) -> torch.nn.Module:
    """The package's own video predictor of a configuration and weights."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    values = OmegaConf.load(config)
    values = values.get("model", values)
    values["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    predictor = instantiate(values, _recursive_=True, **options)
    predictor.load_state_dict(weights)
    return predictor.eval()


def clip_of(count: int, folder: Path) -> str:
    """Write a clip with exactly `count` objects of one shape as JPEG files; the sentence that means them all."""
    for seed in range(HELD_OUT, HELD_OUT + 9999):
        things = sample_scene(seed, motion=False, frames=FRAMES, aspect=1.0).objects
        shapes = {thing.shape for thing in things}
        if len(things) == count and len(shapes) == 1 and NAMELESS not in shapes:
            clip = generate_clip(seed, frames=FRAMES)
            if all(thing.seen for facts in clip.object_facts for thing in facts):
                write_frames(clip.frames, folder)
                return f"all the {shapes.pop()}s" if count > 1 else f"the {shapes.pop()}"
    raise SystemExit(f"no clip with {count} objects")


def write_frames(frames: Any, folder: Path) -> None:
    """JPEG files, as the published procedure reads them."""
    for at, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{at:05d}.jpg", quality=95)


def middle(size: tuple[int, int], device: str) -> tuple[VideoGrounder, torch.nn.Module]:
    """Random weights: a language model of 0.5 billion, SAM 2.1 tiny at 1024 pixels; two points on each key frame."""
    language = LanguageConfig(
        vocab_size=151_936, width=896, layers=24, heads=14, kv_heads=2, ff=4864, tie_word_embeddings=True, end_of_text=0
    )
    config = VideoMolmoConfig(
        image=ImageConfig(size_px=224, patch_px=14, max_crops=0, resize="stretch"),
        vision=VisionConfig(width=384, heads=6, layers=6, mlp=1536, vit_layers=(-1, -3)), language=language,
    )  # fmt: skip
    model = random_model(config, device, torch.float32, None)
    model.generate = partial(model.generate, max_new_tokens=8, min_new_tokens=8)
    name = "facebook/sam2.1-hiera-tiny"
    torch.manual_seed(0)
    masks = build_published(name).to(device).eval()
    points = np.array([[0.4, 0.5], [0.7, 0.6]]) * (size[1], size[0])
    pointer = Told(VideoMolmoPointer(model, VideoMolmoProcessor(Letters(), config)), points)
    import sam2

    decoder = {"dynamic_multimask_via_stability": True, "dynamic_multimask_stability_delta": 0.05,
               "dynamic_multimask_stability_thresh": 0.98}  # fmt: skip
    options = {"binarize_mask_from_pts_for_mem_enc": True, "sam_mask_decoder_extra_args": decoder}
    path = Path(sam2.__file__).parent / published_names()[name][0]
    return VideoGrounder(pointer, MaskTracker(masks)), predictor_of(path, masks.state_dict(), **options).to(device)


def nano(device: str) -> tuple[VideoGrounder, torch.nn.Module]:
    """The shipped models, and the predictor of the same weights."""
    grounder = VideoGrounder.from_pretrained("nano", "nano", device)
    return grounder, predictor_of(nano_masks() / "config.yaml", grounder.tracker.model.state_dict()).to(device)


@contextmanager
def counted(owner: Any, predictor: Any) -> Iterator[Counter]:
    """Calls of the large parts, the frames, prompts or objects that go through them, and their seconds."""
    calls: Counter = Counter()

    def count(module: Any, name: str, label: str, rows: Callable) -> Callable[[], None]:
        original = getattr(module, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            calls[f"{label} calls"] += 1
            calls[f"{label} rows"] += rows(*args, **options)
            begun = timing.time.perf_counter()
            result = original(*args, **options)
            calls[f"{label} s"] += timing.time.perf_counter() - begun
            return result

        module.__dict__[name] = wrapped
        return lambda: module.__dict__.pop(name)

    undo = [count(owner.model, "encode_frames", "vision", lambda pixels: len(pixels))]
    undo.append(count(owner.model.language, "forward", "language", lambda **o: len(o["inputs_embeds"])))
    for model in predictor:
        undo.append(count(model, "forward_image", "SAM 2 frames", lambda pixels: len(pixels)))
        undo.append(count(model, "track_step", "SAM 2 steps", lambda **o: o["current_vision_feats"][-1].shape[1]))
    try:
        yield calls
    finally:
        for one in undo:
            one()


def least_iou(
    grounder: VideoGrounder, published: Published, folder: Path, clicks: dict[int, list], every: int
) -> float:
    """The least IoU of any mask that SAM 2 makes of the same pixels and clicks, forwards, in both ways."""
    tracker, state = grounder.tracker, published.predictor.init_state(str(folder))
    with open_video(folder) as video:
        features = tracker.encode_all(frames := list(video))
        state["images"] = tracker.pixels(frames)
    state["cached_features"] = {}
    wanted, worst = published.follow(state, clicks, every, reverse=False), 1.0
    for at, points in clicks.items():
        track = tracker.start(at, features[at], points, frames=len(features)) if points else None
        for n in range(at, min(at + every, len(features)) if points else at):
            masks = track.first_masks if n == at else track.step(n, features[n])
            worst = min(worst, *iou(masks, wanted[n]).tolist())
    return worst


def compare(name: str, every: int, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Medians, floor, calls and stages of one setting; or one run of one way, for its memory."""
    clock, now = timing.Stopwatch, timing.time.perf_counter
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if name == "middle":
            with open_video(options.video, max_frames=8) as frames:
                write_frames(frames, folder)
                sentence, size = "the cup", (frames.height, frames.width)
            grounder, predictor = middle(size, options.device)
        else:
            sentence, (grounder, predictor) = clip_of(count, folder), nano(options.device)
        published = Published(grounder, predictor)
        ways = {
            "ours": lambda _: grounder(folder, sentence, every=every),
            "ours, forward": lambda _: grounder(folder, sentence, every=every, fusion="forward"),
            "published": lambda watch: published.run(folder, sentence, every, watch, both=True),
            "published, forward": lambda watch: published.run(folder, sentence, every, watch, both=False),
        }
        if options.only:
            before = peak_mb()
            ways[options.only](clock())
            return {"loaded_mb": before, "peak_mb": peak_mb()}
        ways = {way: ways[way] for way in (options.ways or ";".join(ways)).split(";")}
        times: dict[str, list] = {way: [] for way in ways}
        rows, answers, shares = {}, [], []
        for _ in range(options.runs):
            for way, work in ways.items():
                with counted(grounder.pointer, (grounder.tracker.model, predictor)) as calls:
                    begun, watch = now(), clock()
                    result = work(watch)
                    times[way].append(now() - begun)
                print(f"{way}: {times[way][-1]:.2f} s", file=sys.stderr, flush=True)
                rows[way] = {"stages": watch.rounded() or result.config["seconds"], **calls}
                if way == "ours":
                    answers = result.answers
                    shares.append(times[way][-1] / sum(value for key, value in calls.items() if key.endswith(" s")))
        for way, row in rows.items():
            row["seconds"], row["runs"] = round(float(np.median(times[way])), 3), [round(t, 3) for t in times[way]]
        clicks = {a.frame: [np.array([p], np.float32) for p in a.points_px] for a in answers}
        found = {"setting": name, "every": every, "frames": len(list(folder.iterdir())), "sentence": sentence,
                 "objects": [len(points) for points in clicks.values()], "ways": rows,
                 "ours ÷ floor": float(np.median(shares))}  # fmt: skip
        return found if options.quick else found | {
            "least_iou": least_iou(grounder, published, folder, clicks, every)}  # fmt: skip


def _synchronised() -> float:
    """The time when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_mb() -> int:
    """The most memory that this process has held so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024


SETTINGS = {"one": ("one", 5, 1), "three": ("three", 3, 3), "middle": ("middle", 4, 2)}


def main() -> None:
    """Compare the settings asked for, print them, and write them with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="one,three")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--video", type=Path, help="for row middle: a real clip of at least 8 frames")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", help="those to run, ours among them, between semicolons")
    parser.add_argument("--quick", action="store_true", help="neither memory nor IoU")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sam2_video_predictor.tqdm = misc.tqdm = lambda items, **_: items
    timing.time = SimpleNamespace(perf_counter=time.process_time if options.device == "cpu" else _synchronised)
    found = []
    for row in options.rows.split(","):
        name, every, count = SETTINGS[row]
        table = compare(name, every, count, options)
        if options.only:
            return print(json.dumps(table))
        for way, facts in () if options.quick else table["ways"].items():
            line = [sys.executable, "-m", "bench.published", "--only", way, "--rows", row]
            line += ["--threads", str(options.threads), "--device", options.device]
            line += ["--video", str(options.video)] if options.video else []
            told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
            facts |= json.loads(told.splitlines()[-1])
        seconds = {way: facts["seconds"] for way, facts in table["ways"].items()}
        pairs = [("published", "ours"), ("published, forward", "ours, forward"), ("ours", "ours, forward")]
        table["ratios"] = {f"{a} ÷ {b}": seconds[a] / seconds[b] for a, b in pairs if {a, b} <= seconds.keys()}
        print(json.dumps(table, indent=1, ensure_ascii=False))
        found.append(table)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"threads": options.threads, "versions": provenance.versions(), "commit": provenance.commit()}
        write_json(options.out, {"tables": found, **facts})


if __name__ == "__main__":
    main()
