"""Measure the nano models on held-out generated clips and print the table of the README.

    cd tests && python -m bench.nano --out results/nano_benchmark.json

All figures are from nano models and synthetic clips, unless a row names a real clip.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from videomolmo.grounding import VideoGrounder
from videomolmo.io import provenance
from videomolmo.io.files import write_json
from videomolmo.metrics import j_and_f, region_similarity
from videomolmo.model import collate
from videomolmo.points import read_points
from videomolmo.synth.clips import Clip, clip_query, generate_clip
from videomolmo.synth.scene import NAMELESS, sample_scene
from videomolmo.synth.sentences import Query, ask, sample_query

HELD_OUT = 10_000_000  # first seed; training never draws one that small a second time (its seeds lie below 2**40)
SIZE = 192
Row = dict[str, object]


def pointing_questions(kind: str, count: int) -> Iterator[tuple[Clip, Query, str, list[int]]]:
    """`count` clips of l + 1 frames with an answerable question of this kind about the last frame.

    Yields clip, query, question and the indices of the objects it means.
    """
    motion = kind in ("motion", "absent motion")
    seed, found = HELD_OUT, 0
    while found < count:
        seed += 1
        rng = np.random.default_rng([seed, 8])
        clip = generate_clip(seed, frames=5, height=SIZE, width=SIZE, motion=motion, square=False)
        for _ in range(12):
            query = sample_query(rng, clip.object_facts[-1], motion=motion)
            targets = query.targets(clip.object_facts[-1])
            if query.kind != kind or targets is None or bool(targets) == kind.startswith("absent"):
                continue
            if kind == "all" and not 2 <= len(targets) <= 4:
                continue
            found += 1
            yield clip, query, ask(rng, query), targets
            break


def point_row(grounder: VideoGrounder, kind: str, count: int) -> Row:
    """Share of questions of one kind that are answered right (greedy decoding, context l of the model)."""
    right, batch = [], []
    for item in tqdm(pointing_questions(kind, count), total=count, desc=kind):
        batch.append(item)
        if len(batch) == 20:
            right += _judge(grounder, batch)
            batch = []
    right += _judge(grounder, batch) if batch else []
    return {"row": kind, "measure": _measure(kind), **_share(right)}


def _measure(kind: str) -> str:
    if kind.startswith("absent"):
        return "refused"
    return "exact count and every point right" if kind == "all" else "point inside the right object"


def _judge(grounder: VideoGrounder, items: list[tuple[Clip, Query, str, list[int]]]) -> list[bool]:
    processor, model = grounder.pointer.processor, grounder.pointer.model
    inputs = collate([processor(clip.frames[-1], question, clip.frames[:-1]) for clip, _, question, _ in items])
    names = ("input_ids", "pixels", "past_pixels", "image_masks", "image_input_idx")
    chosen = {name: inputs[name] for name in names if name in inputs}
    with torch.inference_mode():
        texts = [processor.decode(ids) for ids in model.generate(**chosen)[:, chosen["input_ids"].shape[1] :]]
    verdicts = []
    for text, (clip, _, _, targets) in zip(texts, items, strict=True):
        answer = read_points(text, SIZE, SIZE)
        if not targets:
            verdicts.append(answer.outcome == "absent")
        else:
            verdicts.append(_all_hit(answer.points_px, clip.masks[-1][targets]))
    return verdicts


def _all_hit(points_px: np.ndarray, masks: np.ndarray) -> bool:
    """As many points as masks, and each mask has a point of its own."""
    if len(points_px) != len(masks):
        return False
    places = np.clip(points_px.astype(int), 0, SIZE - 1)
    hits = np.array([[mask[y, x] for mask in masks] for x, y in places])
    return bool(hits.any(0).all() and hits.any(1).all())


def _share(right: list[bool]) -> Row:
    """A share with its 95 % interval (Wilson)."""
    n, p, z = len(right), float(np.mean(right)), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": round(p, 4), "low": round(middle - half, 4), "high": round(middle + half, 4), "n": n}


def _mean(values: list[float]) -> Row:
    """A mean with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    data = np.array(values)
    means = data[rng.integers(len(data), size=(2000, len(data)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": round(float(data.mean()), 4), "low": round(low, 4), "high": round(high, 4), "n": len(data)}


def mask_rows(grounder: VideoGrounder, count: int) -> list[Row]:
    """J of nano SAM 2 from one click: on the clicked frame, and tracked over 20 frames, forwards and backwards."""
    prompted, tracked = [], []
    bar = tqdm(total=count, desc="masks")
    seed = HELD_OUT + 500_000
    while len(tracked) < count:
        seed += 1
        clip = generate_clip(seed, frames=21, height=SIZE, width=SIZE, motion=seed % 3 == 0)
        order = range(21) if seed % 2 else range(20, -1, -1)
        able = [n for n, thing in enumerate(clip.object_facts[order[0]]) if thing.seen]
        if not able:
            continue
        clicks = [np.array([clip.object_facts[order[0]][n].point], np.float32) * SIZE for n in able]
        features = [grounder.tracker.encode(clip.frames[at]) for at in order]
        track = grounder.tracker.start(order[0], features[0], clicks, frames=21, reverse=order[0] == 20)
        masks = [track.first_masks] + [track.step(at, frame) for at, frame in zip(order[1:], features[1:], strict=True)]
        truth = clip.masks[list(order)][:, able]
        for n in range(len(able)):
            prompted.append(float(region_similarity(truth[0, n], masks[0][n])))
            tracked.append(float(np.mean([region_similarity(truth[t, n], masks[t][n]) for t in range(1, 21)])))
        bar.update(len(able))
    bar.close()
    return [
        {"row": "nano SAM 2, clicked frame", "measure": "J", **_mean(prompted)},
        {"row": "nano SAM 2, tracked over 20 frames", "measure": "J", **_mean(tracked)},
    ]


def pipeline_row(grounder: VideoGrounder, count: int, frames: int = 21) -> Row:
    """J&F of the whole pipeline from the sentence, over all frames; a quarter of the sentences are about motion."""
    values = []
    seed = HELD_OUT + 700_000
    bar = tqdm(total=count, desc="pipeline")
    while len(values) < count:
        seed += 1
        motion = seed % 4 == 0
        clip = generate_clip(seed, frames=frames, height=SIZE, width=SIZE, motion=motion)
        query = clip_query(seed, clip, motion=motion)
        if query is None or clip.truth(query).mean() < 0.002:
            continue
        result = grounder(clip.frames, query.phrase, every=5, fusion="iou")
        values.append(float(np.mean(j_and_f(clip.truth(query), result.masks[:].any(1)).j_and_f)))
        bar.update()
    bar.close()
    return {"row": "pipeline, k = 5, iou", "measure": "J&F over all frames", **_mean(values)}


def coffee_rows(grounder: VideoGrounder, folder: Path) -> list[Row]:
    """The real clip: key frames hit and mean J at 640×360 on every tenth frame."""
    import cv2
    from PIL import Image

    result = grounder(folder / "coffee.mp4", "the blue object", every=10)
    hits, values = [], []
    for answer in result.answers:
        truth = np.asarray(Image.open(folder / "coffee_masks" / f"{answer.frame:05d}.png").convert("L")) > 127
        size = (truth.shape[1], truth.shape[0])
        scale = np.array(size) / (result.width, result.height)
        points = [
            (np.array(p) * scale).astype(int)
            for p, inside in zip(answer.points_px, answer.inside, strict=True)
            if inside
        ]
        hits.append(any(truth[y, x] for x, y in points))
        mask = cv2.resize(result.masks[answer.frame].any(0).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
        values.append(float(region_similarity(truth, mask > 0)))
    return [
        {"row": "coffee.mp4 (real), “the blue object”, k = 10", "measure": "key frames hit", **_share(hits)},
        {"row": "coffee.mp4 (real), “the blue object”, k = 10", "measure": "mean J", **_mean(values)},
    ]


def speed_row(grounder: VideoGrounder) -> Row:
    """Wall time of a clip of 60 frames 192×192 with two objects, k = 5: median of three runs after loading."""
    clip, shape = next(_pairs())
    runs = []
    for _ in range(3):
        begun = time.perf_counter()
        result = grounder(clip.frames, f"all the {shape}s", every=5)
        runs.append((time.perf_counter() - begun, result.config["seconds"]))
    total, split = sorted(runs, key=lambda run: run[0])[1]
    return {"row": "60 frames 192×192, k = 5", "measure": "seconds", "value": round(total, 2), "split": split, "n": 3}


def _pairs() -> Iterator[tuple[Clip, str]]:
    """Clips of 60 frames with exactly two objects, of one shape."""
    for seed in range(HELD_OUT, HELD_OUT + 9999):
        shapes = [thing.shape for thing in sample_scene(seed, motion=False, frames=60, aspect=1.0).objects]
        if len(shapes) == 2 and shapes[0] == shapes[1] != NAMELESS:
            yield generate_clip(seed, frames=60), shapes[0]


def main() -> None:
    """Run the rows asked for, write them with their provenance, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/nano_benchmark.json"))
    parser.add_argument("--count", type=int, default=300, help="queries a row")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--masks", default="nano")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--videos", type=Path, default=None, help="folder with coffee.mp4 and coffee_masks/")
    parser.add_argument("--rows", default="point,masks,pipeline,coffee,speed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    grounder = VideoGrounder.from_pretrained(options.model, options.masks, "cpu")
    rows: list[Row] = []
    wanted = options.rows.split(",")
    kinds = ("appearance", "motion", "colour", "absent object", "absent motion", "all")
    parts: dict[str, Callable[[], list[Row]]] = {
        "point": lambda: [point_row(grounder, kind, options.count) for kind in kinds],
        "masks": lambda: mask_rows(grounder, options.count),
        "pipeline": lambda: [pipeline_row(grounder, options.count)],
        "coffee": lambda: coffee_rows(grounder, options.videos) if options.videos else [],
        "speed": lambda: [speed_row(grounder)],
    }
    for name, part in parts.items():
        rows += part() if name in wanted else []
    facts = {"versions": provenance.versions(), "commit": provenance.commit(), "weights": grounder.weights}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts["options"] = {name: str(value) for name, value in vars(options).items()}
    write_json(options.out, {"rows": rows, **facts})
    print("| what | measure | value | 95 % | n |\n|---|---|---|---|---|")
    for row in rows:
        interval = f"{row['low']:.3f} … {row['high']:.3f}" if "low" in row else str(row.get("split", ""))
        print(f"| {row['row']} | {row['measure']} | {row['value']:.3f} | {interval} | {row['n']} |")


if __name__ == "__main__":
    main()
