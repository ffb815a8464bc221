"""Files written from the inspector: masks, tables, videos, pictures, training rows."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from videomolmo.annotation.annotate import ABSENT
from videomolmo.errors import BadInput
from videomolmo.inspector.edit_history import ON, Click, parts_of, positive_only
from videomolmo.inspector.fused_masks import MASK_LAYERS
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.render import Look, paint_beside
from videomolmo.inspector.repropagation import middle_of_packed
from videomolmo.io.drawing import png_bytes
from videomolmo.io.files import move_into_place, new_file
from videomolmo.io.formats.labels import Labels
from videomolmo.io.formats.registry import export
from videomolmo.mask_store import pack

Progress = Callable[[int, int], None]
Scores = Mapping[int, Mapping[int, float]]
Beside = tuple[Inspection, Look]  # a result, and how it is shown
SMALLEST_SIDE = 360  # of videos, so that players show small clips well
GIF_SIDE = 360


def export_labels(
    inspection: Inspection, to: str, path: str | Path, layer: str = "fused", frames: bool = False
) -> list[str]:
    """Write masks or tracks as shown, corrections included, for other tools; what the format could not hold.

    Args:
        inspection: what is shown.
        to: a name of `videomolmo.io.formats.registry.FORMATS`.
        path: of the new file or folder.
        layer: a name of `Inspection.layers`.
        frames: write the frames, too, see `videomolmo.io.formats.registry.export`.

    Raises:
        BadInput: as there, or the layer has nothing.
    """
    return export(labels_of(inspection, layer), to, path, frames)


def labels_of(inspection: Inspection, layer: str = "fused") -> Labels:
    """A layer as writers of formats take it, with the ids, names and scores of the result as far as they still fit.

    Raises:
        BadInput: the layer has nothing.
    """
    reasons = inspection.layers()
    if layer not in reasons:
        raise BadInput(f"layer {layer!r} is unknown; choose one of {', '.join(reasons)}")
    if reasons[layer] is not None:
        raise BadInput(f"layer {layer!r} has nothing to write: {reasons[layer]}")
    result, is_truth = inspection.result, layer == "truth"
    stored, count = result.labels(), inspection.truth.objects if is_truth else inspection.objects
    ids, names = stored.ids, list(stored.names)
    if is_truth or len(ids) > count or "labels" not in result.config:
        ids, names = (), [] if is_truth else names[:count]
    fresh = (str(n) for n in itertools.count(len(ids) + 1) if str(n) not in ids)
    ids += tuple(itertools.islice(fresh, count - len(ids)))
    names += [inspection.name_of(n) if is_truth else inspection.sentence for n in range(len(names) + 1, count + 1)]
    if not is_truth:
        given = inspection.names
        names = [given.get(n, name) for n, name in enumerate(names, start=1)]
    scores = {} if is_truth else _scores(inspection, stored.scores)
    decisions, agreement = (inspection.decisions(), inspection.agreement) if layer == "fused" else (None, None)

    def columns(t: int, n: int) -> dict:
        if decisions is None:
            return result.in_source(t)
        agreed = round(float(agreement[t, n - 1]), 4)
        return {"decision": decisions[t, n - 1], "agreement": agreed, **result.in_source(t)}

    return replace(
        stored, sentence=inspection.sentence, ids=ids, names=tuple(names), columns=columns, times_s=inspection.times_s,
        shapes=partial(_shapes, inspection, layer), void=None if is_truth else stored.void,
        scores=scores, read_video=inspection.video,
    )  # fmt: skip


def _scores(inspection: Inspection, of_tracks: Scores) -> Scores:
    """Scores of tracks as those of objects; of merged ones the surer counts."""
    if not inspection.history.state.edits:
        return of_tracks
    identities, found = inspection.identities, {}
    for track, own in of_tracks.items():
        for at, score in own.items():
            if (name := identities.object_of(track, at)) is not None:
                there = found.setdefault(name, {})
                there[at] = max(score, there.get(at, score))
    return found


def _shapes(inspection: Inspection, layer: str, t: int) -> Iterator[tuple[int, np.ndarray]]:
    """The objects of a layer on a frame with their masks."""
    if layer in MASK_LAYERS:
        for n, top, left, part in sorted(inspection.patches(layer, t), key=lambda patch: patch.object_id):
            mask = np.zeros((inspection.height, inspection.width), bool)
            mask[top : top + part.shape[0], left : left + part.shape[1]] = part
            yield n, mask
        return
    masks = inspection.mask(layer, t)
    for n, mask in enumerate(() if masks is None else masks, start=1):
        if mask.any():
            yield n, mask


def export_video(
    inspection: Inspection,
    path: str | Path,
    look: Look | None = None,
    progress: Progress | None = None,
    beside: Beside | None = None,
) -> Path:
    """The chosen layers over the clip, as .mp4 (H.264) or .gif, with the clip's times and shape of pixels.

    Args:
        inspection: what is shown.
        path: of the new file.
        look: how; without a size small clips are enlarged.
        progress: called with frames done and frames in all.
        beside: another result to the right of it, and how it is shown.

    Raises:
        BadInput: the file exists, another suffix, or a clip without frames.
    """
    look, suffix = look or Look(), Path(path).suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise BadInput(f"{path}: expected a name that ends in .mp4 or .gif")
    smallest = GIF_SIDE if suffix == ".gif" else SMALLEST_SIDE
    sides = [(one, _enlarged(one, its_look, smallest)) for one, its_look in _sides(inspection, look, beside)]
    if not sides:
        raise BadInput("the clip has no frames to write")
    with new_file(path, suffix) as new:
        longest, video = max((one for one, _ in sides), key=lambda one: one.frames), sides[0][0].video()
        aspect = Fraction(1) if video is None else video.pixel_aspect
        write = _write_gif if suffix == ".gif" else _write_mp4
        write(new, _pictures(sides, progress), inspection.fps, longest.times_s, aspect)
    return Path(path)


def export_view(
    inspection: Inspection, path: str | Path, t: int, look: Look | None = None, beside: Beside | None = None
) -> Path:
    """One painted frame as a PNG; `beside`: another result to the right of it, and how it is shown.

    Raises:
        BadInput: the file exists, or there is no frame `t`.
    """
    sides = _sides(inspection, look or Look(), beside)
    frames = max((one.frames for one, _ in sides), default=0)
    if not 0 <= t < frames:
        raise BadInput(f"frame {t} is not in the clip of {frames} frames")
    with new_file(path, ".png") as new:
        new.write_bytes(png_bytes(paint_beside(sides, t)))
    return Path(path)


def _sides(inspection: Inspection, look: Look, beside: Beside | None) -> list[Beside]:
    """What there is to paint, from left to right."""
    both = [(inspection, look)] + ([] if beside is None else [beside])
    return [(one, its_look) for one, its_look in both if one.frames and one.height]


def _enlarged(inspection: Inspection, look: Look, smallest: int) -> Look:
    """With a size: without one a small clip is enlarged."""
    if look.size is not None:
        return look
    scale = max(1, -(-smallest // min(inspection.height, inspection.width)))
    return replace(look, size=(inspection.height * scale, inspection.width * scale))


def _pictures(sides: list[Beside], progress: Progress | None) -> Iterator[np.ndarray]:
    frames = max(one.frames for one, _ in sides)
    for t in range(frames):
        yield paint_beside(sides, t)
        if progress is not None:
            progress(t + 1, frames)


def _write_mp4(path: Path, pictures: Iterator[np.ndarray], fps: float, times_s: np.ndarray, aspect: Fraction) -> None:
    from videomolmo.io.video import VideoWriter

    first = next(pictures)
    with VideoWriter(path, fps, *first.shape[:2], times_s, aspect) as writer:
        for picture in itertools.chain([first], pictures):
            writer.write(picture)


def _write_gif(path: Path, pictures: Iterator[np.ndarray], fps: float, times_s: np.ndarray, aspect: Fraction) -> None:
    """A GIF, which counts in hundredths of a second, below two of which players slow down, and knows square pixels."""
    from PIL import Image

    kept, starts = [], np.rint(100 * np.asarray(times_s)).astype(int)
    for n, start in enumerate(starts.tolist()):
        if not kept or start - starts[kept[-1]] >= 2:
            kept.append(n)
    chosen, steps = set(kept), np.diff(starts[kept]).tolist()
    last = max(2, round(float(np.median(steps)) if steps else 100 / max(fps, 1)))
    images = (
        Image.fromarray(picture)
        .resize((max(1, round(picture.shape[1] * aspect)), picture.shape[0]))
        .quantize(128, Image.Quantize.FASTOCTREE)
        for n, picture in enumerate(pictures)
        if n in chosen
    )
    durations = [10 * step for step in [*steps, last]]
    next(images).save(path, "GIF", save_all=True, append_images=images, duration=durations, loop=0)


JPEG_QUALITY = 95


def write_rows(inspection: Inspection, path: Path) -> int:
    """Write one row with the points on all key frames, corrective ones included, and those frames beside it.

    On the corrective key frame of one object, the others have the middle of their masks. Key frames of which neither
    the model nor a person said where something is, or that nothing is there, are left out. The frames go to
    `<name of the clip>_<name of the file>/00000.jpg …` beside it, where the reader `videomolmo` looks for them.

    Args:
        inspection: with corrections.
        path: of the new .jsonl file.

    Returns:
        The number of rows: 1.

    Raises:
        BadInput: the file or the folder of frames exists, nothing but names and colours was corrected, no key frame is
            left, or there is no video.
    """
    from PIL import Image

    if not inspection.history.state.changes_masks:
        raise BadInput("nothing was corrected in this clip; correct it first, or use the run's own answers")
    if inspection.video() is None:
        raise BadInput("the video is needed to write training frames, and it cannot be opened")
    clip = re.sub(r"[^\w-]+", "_", f"{_clip_name(inspection)}_{path.stem}")
    folder = path.parent / clip
    if folder.exists():
        raise BadInput(f"{folder} exists; choose another name for the rows")
    row = training_row(inspection, clip)
    if not row["frame_idxs"]:
        raise BadInput("no key frame has an answer that can be learned from; add a point to one")
    _check_frames(inspection, row["frame_idxs"])
    with new_file(path, ".jsonl") as new:
        new.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        frames = new.parent / "frames"
        frames.mkdir()
        for t in row["frame_idxs"]:
            Image.fromarray(inspection.frame(t)).save(frames / f"{t:05d}.jpg", quality=JPEG_QUALITY)
        move_into_place(frames, folder, replace=False)
    return 1


def _check_frames(inspection: Inspection, frames: list[int]) -> None:
    """Nothing where the video has all these frames; the inspector shows plain grey in place of those that it lacks."""
    video = inspection.video()
    for t in frames:
        try:
            video[t]
        except (IndexError, BadInput) as error:
            raise BadInput(
                f"key frame {t} is not in the video ({error}); give the video that the result is of"
            ) from None


def training_row(inspection: Inspection, clip: str) -> dict:
    """The row; points in percent of the frame, negative ones in a field of their own.

    Args:
        inspection: with corrections.
        clip: name of the folder of frames.
    """
    points: dict[str, list[dict]] = {}
    negative: dict[str, list[dict]] = {}
    for t in inspection.key_frames:
        clicks = _clicks_on(inspection, t)
        if not _is_known(inspection, t, clicks):
            continue
        there = dict.fromkeys(click for click in clicks if click[2])  # two objects may share a mask
        points[str(t)] = [_percent(inspection, click) for click in there] or [ABSENT]
        if off := [_percent(inspection, click) for click in clicks if not click[2]]:
            negative[str(t)] = off
    row = {
        "video": clip,
        "frame_idxs": [int(t) for t in points],
        "points": points,
        "caption": inspection.sentence,
        "expression": "0",
        "objects": [str(object_id) for object_id in inspection.object_ids],
        "fps": inspection.fps,
        "corrections": len(inspection.history.records),
    }
    if origin := inspection.result.in_source(row["frame_idxs"]):
        row |= {"source_frames": origin["source_frame"], "source_times_s": origin["source_time_s"]}
    return row | ({"negative_points": negative} if negative else {})


def _is_known(inspection: Inspection, t: int, clicks: list[Click]) -> bool:
    """Whether a key frame can be learned from: an answer without a point inside the frame is not one of absence."""
    corrected = any(frame == t and own for (_, frame), own in inspection.history.state.clicks.items())
    lost = t not in inspection.outcomes()  # the file of answers is damaged; masks tell where objects were
    return corrected or _is_answered(inspection, t) or (lost and bool(clicks))


def _is_answered(inspection: Inspection, t: int) -> bool:
    """Whether the model's answer on a key frame counts and says where objects are, or that none is there."""
    answers = {answer.frame: answer for answer in inspection.result.answers}
    if t not in answers or t in inspection.history.state.dropped:
        return False
    return answers[t].outcome == "absent" or (answers[t].outcome == "found" and any(answers[t].inside))


def _clicks_on(inspection: Inspection, t: int) -> list[Click]:
    """Points of all objects on a key frame.

    Where only some were clicked on, the middles of the others' masks; and of those that a box or a drawn mask tells of.
    """
    found, answered, identities = [], _is_answered(inspection, t), inspection.identities
    for track in identities.tracks:
        if (name := identities.object_of(track, t)) is None:
            continue
        clicks = inspection.clicks(track, t)
        points = parts_of(clicks)[2]
        is_unsaid = not clicks and not answered and (track, t) not in inspection.history.state.clicks
        if is_unsaid or (positive_only(clicks) and not positive_only(points)):
            for patch in inspection.patches("fused", t):
                if patch.object_id == name:
                    x, y = middle_of_packed(pack(t, patch.mask[None]), t)
                    points = ((x + patch.left, y + patch.top, ON), *points)
        found += points
    return found


def _percent(inspection: Inspection, click: Click) -> dict[str, float]:
    return {"x": round(100 * click[0] / inspection.width, 4), "y": round(100 * click[1] / inspection.height, 4)}


def _clip_name(inspection: Inspection) -> str:
    """That of the video or of the result."""
    source = inspection.result.source
    stem = Path(source).stem if isinstance(source, (str, Path)) else inspection.folder and inspection.folder.name
    return stem or "clip"
