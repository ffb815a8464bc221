"""Training rows of grounded captions, half by machine: boxes become masks, a maker of words writes; resumable.

Source: VideoGLaMM (Munasinghe et al. 2024), figure 3, whose three forms start from masks alone (BURST, YTVIS), from
    boxes and captions (ActivityNet-Entities), and from objects with referring sentences (MeViS, Ref-YouTube-VOS,
    VidSTG, HC-STVG). Differs: the prompts are our own, and masks whose box is not the given one are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videomolmo.annotation.annotate import SMALLEST, part_file, read_part, written_lines
from videomolmo.annotation.words import (
    LONGEST_SIDE_PX,
    TEMPLATES,
    Endpoint,
    Refused,
    Request,
    Unavailable,
    WordMaker,
    word_maker,
)
from videomolmo.datasets import first_records, read_dataset
from videomolmo.datasets.conversations import linked
from videomolmo.datasets.files import Unreadable
from videomolmo.datasets.record import GroundedAnswer, Record, Span
from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.cache import key_of
from videomolmo.io.drawing import draw_masks
from videomolmo.io.files import UNFINISHED, remove_abandoned, write_json, write_text
from videomolmo.io.formats.run_lengths import encode_rle
from videomolmo.io.plain_values import as_float, as_int, as_path, require_path
from videomolmo.masks.sam2 import MaskTracker
from videomolmo.metrics.boxes import box_fit
from videomolmo.metrics.captions import MAX_CHARACTERS
from videomolmo.weights import hub

FORMS = ("masks", "captions", "sentences")
ROWS, QUALITY, REPORT = "captions.jsonl", "quality.jsonl", "report.json"
OURS = (ROWS, QUALITY, REPORT, "parts")
CLICK, CORNERS = 1, (2, 3)  # what SAM 2 calls a click on an object, and the corners of a box
MOST_SENTENCES = 4  # of one object in a request
ASKED = 2  # times for one clip, where an answer cannot be read

SHOWN = "The pictures are frames of one video, in order. Its objects of interest are outlined and bear numbers."
TASKS = {
    "masks": "Tell in one to four plain sentences what these objects are, what they look like and what they do.",
    "captions": "This is a short caption of it:\n{caption}\nWrite it anew with more detail where the pictures show it: "
    "looks, actions, place. Keep what it says, and all the objects that it names.",
    "sentences": "People have called them so:\n{listed}\nJoin this to a description of the video in one to four plain "
    "sentences, in which each object comes once or more.",
}
KNOWN = "What is known of the objects: {listed}."
FORMAT = (
    'Answer with JSON and nothing else: {{"caption": "..."}}. In the caption write each phrase that names objects as '
    "[phrase](number), or [phrase](number, number) where it names several, with the numbers {numbers} only. "
    'For example: {{"caption": "[A child](1) throws [two balls](2, 3) to the left."}}'
)


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are made.

    Args:
        words: "templates", an image-text model of transformers, or an endpoint's model.
        endpoint: URL for chat completions.
        form: what there is to start from, one of `FORMS`; "auto" looks at the first clip.
        pictures: frames of a clip that a model is shown.
        min_iou: IoU of boxes from which SAM 2's mask is believed to be what was boxed.
        from_boxes: whether masks are made of boxes even where the data set has masks.
    """

    words: str = TEMPLATES
    endpoint: str | None = None
    form: str = "auto"
    pictures: int = 4
    min_iou: float = 0.5
    from_boxes: bool = False

    def __post_init__(self) -> None:
        if self.form not in ("auto", *FORMS):
            raise BadInput(f"form is {self.form!r}, expected auto, {', '.join(FORMS)}")
        if as_int(self.pictures, 1) is None:
            raise BadInput(f"pictures is {self.pictures!r}, expected a whole number, at least 1")
        share = as_float(self.min_iou)
        if share is None or not 0 <= share <= 1:
            raise BadInput(f"min_iou is {self.min_iou!r}, expected an IoU from 0 to 1")


@dataclass(frozen=True)
class Scene:
    """What is known of a clip before there are words.

    Attributes:
        objects: ids, in the order of their numbers from 1.
        shown: frames to show, each with its number in the clip and masks of `objects`.
        runs: run lengths by object and frame, where the masks are SAM 2's; None where the data set has them.
        quality: a row for each object and frame that had a box.
    """

    objects: tuple[str, ...]
    shown: list[tuple[np.ndarray, np.ndarray]]
    runs: dict[str, list[dict | None]] | None
    quality: list[dict]


def form_of(record: Record) -> str:
    """Which of `FORMS` a clip has."""
    if any(said.answer is not None and said.answer.spans for said in record.expressions):
        return "captions"
    return "sentences" if any(said.objects for said in record.expressions) else "masks"


def needs_boxes(record: Record) -> bool:
    """Whether a clip's objects have boxes and no masks."""
    for at in range(len(record.frame_names)):
        for object_id in record.objects:
            if record.mask_of(object_id, at) is not None:
                return False
            if record.box_of(object_id, at) is not None:
                return True
    return False


def look(record: Record, form: str, tracker: MaskTracker | None, settings: CaptionSettings) -> Scene:
    """The objects of a clip that can be spoken of, and their masks on frames to show.

    With a `tracker` masks are made of boxes, one by one. Of three ways to tell SAM 2 a box the one counts whose mask
    fits it best; a mask is kept where the box around it agrees with the given one, an object where half of its masks
    are.
    """
    wanted = {
        "masks": list(record.objects),
        "captions": [name for said in record.expressions if said.answer for name in said.answer.objects],
        "sentences": [name for said in record.expressions for name in said.objects or ()],
    }[form]
    objects = [object_id for object_id in record.objects if object_id in wanted]
    found: dict[str, dict[int, np.ndarray]] = {object_id: {} for object_id in objects}
    quality: list[dict] = []
    with record.frames() as video:
        count = len(video)
        if tracker is not None:
            for at, frame in enumerate(video.iterate()):
                _from_boxes(record, at, frame, tracker, settings.min_iou, found, quality)
            kept = Counter(row["object"] for row in quality if row["verdict"] == "kept")
            boxed = Counter(row["object"] for row in quality)
            objects = [object_id for object_id in objects if kept[object_id] * 2 >= max(boxed[object_id], 1)]
        places = _places(record, objects, found if tracker is not None else None, count)
        chosen = [places[at] for at in np.linspace(0, len(places) - 1, min(settings.pictures, len(places))).astype(int)]
        shown = [(video[at], _stacked(record, objects, found if tracker is not None else None, at)) for at in chosen]
    runs = None
    if tracker is not None:
        runs = {
            name: [None if (mask := found[name].get(at)) is None else encode_rle(mask) for at in range(count)]
            for name in objects
        }
    return Scene(tuple(objects), shown, runs, quality)


def _from_boxes(
    record: Record, at: int, frame: np.ndarray, tracker: MaskTracker, min_iou: float,
    found: dict[str, dict[int, np.ndarray]], quality: list[dict],
) -> None:  # fmt: skip
    boxes = {name: box for name in found if (box := record.box_of(name, at)) is not None}
    if not boxes:
        return
    prompts = [prompt for box in boxes.values() for prompt in _prompts(box)]
    masks = tracker.masks_of(tracker.encode(frame), *map(list, zip(*prompts, strict=True)))
    for (name, box), several in zip(boxes.items(), masks.reshape(len(boxes), -1, *masks.shape[1:]), strict=True):
        ious = [box_fit(box, mask) for mask in several]
        iou, mask = max(ious), several[int(np.argmax(ious))]
        good = iou >= min_iou and mask.sum() >= SMALLEST
        quality.append({"clip": record.clip, "object": name, "frame": at, "box_iou": round(iou, 4),
                        "verdict": "kept" if good else "rejected"})  # fmt: skip
        if good:
            found[name][at] = mask


def _prompts(box: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """What SAM 2 is told of a box: its corners, these and a click in the middle, the click alone (for nano SAM 2)."""
    left, top, width, height = box
    corners, middle = [[left, top], [left + width, top + height]], [left + width / 2, top + height / 2]
    return [(np.array(corners), np.array(CORNERS)), (np.array([middle, *corners]), np.array([CLICK, *CORNERS])),
            (np.array([middle]), np.array([CLICK]))]  # fmt: skip


def _places(record: Record, objects: Sequence[str], found: dict | None, count: int) -> list[int]:
    """Frames on which any of the objects is seen; all where none is on any."""
    seen = [at for at in range(count) if _stacked(record, objects, found, at).any()]
    return seen or list(range(count))


def _stacked(record: Record, objects: Sequence[str], found: dict | None, at: int) -> np.ndarray:
    """Masks of the objects on a frame."""
    empty = np.zeros(record.size(), bool)
    masks = [record.mask_of(name, at) if found is None else found[name].get(at) for name in objects]
    return np.stack([empty if mask is None else mask for mask in masks]) if masks else np.zeros((0, *empty.shape), bool)


def request_of(record: Record, form: str, scene: Scene) -> Request:
    """What a maker of words is asked about a clip; objects go by their numbers from 1."""
    numbers = {name: str(number) for number, name in enumerate(scene.objects, 1)}
    said: dict[str, list[str]] = {}  # by numbers, with commas
    caption = ""
    for one in record.expressions:
        if form == "captions" and one.answer is not None and not caption:
            caption = _with_links(one.answer, numbers)
        if form == "sentences" and one.objects and set(one.objects) <= numbers.keys():
            said.setdefault(", ".join(numbers[name] for name in one.objects), []).append(one.text.strip())
    names = {numbers[name]: record.objects[name] for name in scene.objects if record.objects[name]}
    listed = "\n".join(
        f"{who}: {'; '.join(map(json.dumps, sentences[:MOST_SENTENCES]))}" for who, sentences in said.items()
    )
    known = KNOWN.format(listed=", ".join(f"{number} is a {name}" for number, name in names.items()))
    parts = [SHOWN, TASKS[form].format(caption=caption, listed=listed), *[known] * bool(names)]
    text = "\n".join([*parts, FORMAT.format(numbers=", ".join(numbers.values()))])
    facts = {"numbers": list(numbers.values()), "names": names, "caption": caption, "sentences": said}
    return Request(text, [_drawn(*shown) for shown in scene.shown], facts)


def _drawn(frame: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A frame with its objects, enlarged where it is small, so that the numbers can be read."""
    times = max(LONGEST_SIDE_PX // max(frame.shape[:2]), 1)
    return draw_masks(frame.repeat(times, 0).repeat(times, 1), masks.repeat(times, 1).repeat(times, 2))


def _with_links(answer: GroundedAnswer, numbers: Mapping[str, str]) -> str:
    """A caption with `[phrase](1, 2)` for what has numbers."""
    pieces, at = [], 0
    for span, words in zip(answer.spans, answer.phrases, strict=True):
        known = [numbers[name] for name in span.objects if name in numbers]
        pieces += [answer.text[at : span.start], f"[{words}]({', '.join(known)})" if known else words]
        at = span.stop
    return "".join([*pieces, answer.text[at:]])


def template_caption(facts: Mapping[str, Any]) -> str:
    """Words without a model: the caption that there is, else what the objects are called, each once.

    Example:
        >>> template_caption({"numbers": ["1", "2", "3"], "names": {"1": "dog", "2": "ball", "3": "ball"}})
        'The video shows [a dog](1) and [two balls](2, 3).'
    """
    if facts.get("caption"):
        return facts["caption"]
    phrases, named = [], set()
    for who, sentences in sorted(facts.get("sentences", {}).items(), key=lambda item: item[0].count(",")):
        if not named & set(who.split(", ")):
            phrases.append(f"[{sentences[0].strip().rstrip('.?!')}]({who})")
            named |= set(who.split(", "))
    alike: dict[str, list[str]] = {}
    for number in facts["numbers"]:
        if number not in named:
            alike.setdefault(facts["names"].get(number) or "object", []).append(number)
    phrases += [f"[{_counted(name, len(who))}]({', '.join(who)})" for name, who in alike.items()]
    return f"The video shows {' and '.join(filter(None, (', '.join(phrases[:-1]), phrases[-1])))}."


def _counted(name: str, count: int) -> str:
    if count == 1:
        return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
    number = dict(enumerate(("two", "three", "four", "five", "six"), 2)).get(count, str(count))
    return f"{number} {name}{'es' if name.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def read_caption(answer: str, scene: Scene) -> GroundedAnswer:
    """The caption in a maker's answer, with ids of objects in place of numbers.

    Raises:
        Unreadable: it holds no JSON with a caption, no phrase, or a number that no object has.
    """
    try:
        caption = json.JSONDecoder().raw_decode(answer, max(answer.find("{"), 0))[0]["caption"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Unreadable(f"answer {answer[:60]!r}: expected JSON with a caption") from None
    if not isinstance(caption, str) or len(caption) > MAX_CHARACTERS:
        raise Unreadable(f"caption {str(caption)[:60]!r}: expected a text of at most {MAX_CHARACTERS} characters")
    names = {str(number): name for number, name in enumerate(scene.objects, 1)}
    answer = linked(caption, names, "caption")
    if not answer.spans:
        raise Unreadable(f"caption {caption[:60]!r}: names no object as [phrase](number)")
    return GroundedAnswer(answer.text, tuple(
        Span(span.start, span.stop, tuple(names[number] for number in span.objects)) for span in answer.spans
    ))  # fmt: skip


def caption_clip(
    record: Record, number: int, form: str, maker: WordMaker | None, tracker: MaskTracker | None,
    settings: CaptionSettings,
) -> tuple[dict | None, list[dict]]:  # fmt: skip
    """The row of a clip (see `videomolmo.datasets.registry.read_captions`), None without objects; and quality rows.

    Raises:
        BadInput: an answer that cannot be read, asked twice.
    """
    scene = look(record, form, tracker, settings)
    if not scene.objects:
        return None, scene.quality
    request = request_of(record, form, scene)
    if maker is None:
        answer = read_caption(json.dumps({"caption": template_caption(request.facts)}), scene)
    else:
        for asked in range(1, ASKED + 1):
            try:
                answer = read_caption(maker.write(request), scene)
                break
            except Unreadable as error:
                if asked == ASKED:
                    raise Refused(f"{maker.name}: {error}") from None
    phrases = [[span.start, span.stop, list(span.objects)] for span in answer.spans]
    row = {"dataset": record.dataset, "split": record.split, "number": number, "clip": record.clip,
           "caption": answer.text, "phrases": phrases, "form": form,
           "words": TEMPLATES if maker is None else maker.name}  # fmt: skip
    return row | ({} if scene.runs is None else {"masks": scene.runs}), scene.quality


def annotate_captions(
    name: str,
    path: Path | None,
    out: Path,
    settings: CaptionSettings,
    *,
    split: str | None = None,
    masks: str = "nano",
    limit: int | None = None,
    confirm: Callable[[str], bool] = lambda plan: False,
    maker: WordMaker | None = None,
) -> dict:
    """Write captions.jsonl, quality.jsonl and report.json of a data set into `out`; run again to go on after a stop.

    Args:
        name, path, split: see `read_dataset`.
        out: gets the rows, and parts/, one file for each clip.
        settings: how captions are made.
        masks: SAM 2, for data sets that have boxes.
        limit: only so many clips.
        confirm: gets what would be sent to an endpoint, in words; only if it says yes anything is.
        maker: of words, in place of the one that `settings` names.

    Returns:
        The report; `refused` names clips without a caption, and why. They are tried again by the next run.

    Raises:
        BadInput: `out` holds captions made otherwise, sending was not allowed, nobody answers, or no clip is good.
    """
    out, path, masks = require_path(out, "out"), as_path(path), hub.as_name(masks, "--masks")
    records = first_records(read_dataset(name, path, split), limit)
    first = records[_first_readable(records)]
    form = form_of(first) if settings.form == "auto" else settings.form
    tracker, weights = None, {}
    if settings.from_boxes or needs_boxes(first):
        from videomolmo.grounding import load_tracker

        tracker, weights = load_tracker(masks, "auto")
    maker = maker or word_maker(settings.words, settings.endpoint)
    names = [_name(records, number) for number in range(len(records))]
    clips = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    manifest = {"dataset": name, "split": records.split, "clips": len(records), "names": clips, "weights": weights,
                **asdict(settings), "form": form}  # fmt: skip
    key, parts = key_of(manifest), out / "parts"
    todo = [number for number in range(len(records)) if read_part(part_file(parts, number), key) is None]
    if isinstance(maker, Endpoint) and todo:
        plan = _plan(maker, first, form, tracker, settings, len(todo))
        if not confirm(plan):
            raise BadInput(f"nothing was sent: {plan}; say yes, or give --yes")
    with provenance.locked_manifest(out, manifest, "captions", OURS):
        parts.mkdir(exist_ok=True)
        remove_abandoned(parts, UNFINISHED)
        refused = {}
        for number in tqdm(todo, desc="caption", unit="clip"):
            if reason := _caption(records, number, form, maker, tracker, settings, parts, key):
                refused[names[number]] = reason
        if len(refused) == len(records):
            raise BadInput(f"no clip could be captioned; the first: {next(iter(refused.values()))}")
        found = (read_part(part_file(parts, number), key) for number in range(len(records)))
        return _gather(out, found, manifest | {"sent": getattr(maker, "sent", None)}, refused)


def _caption(
    records: Sequence[Record], number: int, form: str, maker: WordMaker | None, tracker: MaskTracker | None,
    settings: CaptionSettings, parts: Path, key: str,
) -> str:  # fmt: skip
    """Write the part of a clip, or say why it was refused; a maker that answers nobody ends the run."""
    try:
        row, quality = caption_clip(records[number], number, form, maker, tracker, settings)
    except Unavailable:
        raise
    except BadInput as error:
        return str(error)
    part = {"made_by": key, "rows": [row] if row else [], "quality": quality}
    write_text(part_file(parts, number), json.dumps(part))
    return ""


def _first_readable(records: Sequence[Record]) -> int:
    """The number of the first clip whose frames can be read, which shows what the others are like.

    Raises:
        BadInput: none can; the line is about the first.
    """
    reason: BadInput | None = None
    for number in range(len(records)):
        try:
            with records[number].frames() as video:
                video[0]
            return number
        except BadInput as error:
            reason = reason or error
    raise reason or BadInput("no clip to caption; check path and split")


def _name(records: Sequence[Record], number: int) -> str:
    try:
        return records[number].clip
    except BadInput:
        return f"clip {number}"


def _plan(
    maker: Endpoint, record: Record, form: str, tracker: MaskTracker | None, settings: CaptionSettings, clips: int
) -> str:
    """What would be sent, measured on one clip."""
    request = request_of(record, form, look(record, form, tracker, settings))
    size = len(maker.body(request)) * clips / 1e6
    each = f"{len(request.text)} characters and {len(request.pictures)} pictures each"
    return (
        f"{clips} requests (at most {clips * ASKED} where answers cannot be read) of {each}, about {size:.2g} MB in "
        f"all, to {maker.url} as {maker.model}"
    )


def _gather(out: Path, parts: Any, manifest: dict, refused: dict[str, str]) -> dict:
    """Join all parts in the order of the clips; returns the report."""
    verdicts: Counter = Counter()
    rejected: dict[str, Counter] = {}
    count = phrases = 0
    with written_lines(out / ROWS) as rows, written_lines(out / QUALITY) as quality:
        for part in parts:
            for row in [] if part is None else part["rows"]:
                rows.write(json.dumps(row) + "\n")
                count, phrases = count + 1, phrases + len(row["phrases"])
            for row in [] if part is None else part["quality"]:
                quality.write(json.dumps(row) + "\n")
                verdicts[row["verdict"]] += 1
                if row["verdict"] == "rejected":
                    rejected.setdefault(row["clip"], Counter())[row["object"]] += 1
    report = {
        "rows": count,
        "phrases": phrases,
        "refused": refused,
        "masks": dict(sorted(verdicts.items())),
        "rejected": rejected,
        **manifest,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    write_json(out / REPORT, report)
    return report
