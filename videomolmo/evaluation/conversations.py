"""A model that describes is asked about the clips of a benchmark, and its grounded answers are scored in one table.

Source: VideoGLaMM's evaluation of grounded conversations. Differs: only the answer counts as caption, never the prompt;
    a clip that was refused counts 0 in every measure; words are greedy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict
from tqdm import tqdm
from typing_extensions import TypedDict

from videomolmo.annotation.words import WordMaker, word_maker
from videomolmo.datasets import first_records, read_dataset
from videomolmo.datasets.generated import GCG_NANO
from videomolmo.datasets.record import Expression, Record, Records
from videomolmo.datasets.registry import known
from videomolmo.errors import BadInput
from videomolmo.evaluation.answers import (
    EncoderSimilarity,
    Grounded,
    WordSimilarity,
    answer_scores,
    caption_counts,
    judged,
)
from videomolmo.evaluation.evaluate import ALL, COLUMNS, answer_path, digest, identity, name_of, pairs_of
from videomolmo.io import provenance
from videomolmo.io.cache import key_of
from videomolmo.io.files import atomic_file, write_json
from videomolmo.io.formats.run_lengths import decode_rle, encode_rle
from videomolmo.io.plain_values import require_path
from videomolmo.io.tables import write_csv
from videomolmo.io.untrusted import read_json
from videomolmo.metrics.captions import cider
from videomolmo.metrics.conversations import drop_small_components, gcg_matches, gcg_miou
from videomolmo.metrics.meteor import data_folder, meteor, of_counts
from videomolmo.weights import hub

if TYPE_CHECKING:
    import pandas as pd

    from videomolmo.grounding import VideoGrounder

CAPTION = "caption"
OURS = ("answers", "verdicts", "missing.json", "results.parquet", "results.csv")
DRAWS, SEED = 2000, 0  # of the bootstrap
MEASURES = ("mIoU", "recall", "METEOR", "CIDEr", "CLAIR")
QUOTED = {  # in the units of the paper's table 1: percent, shares, percent
    "PG-Video-LLaVA": (24.03, 0.093, 0.10, 0.01, 15.0),
    "GLaMM + SAM 2": (28.60, 0.117, 0.097, 0.15, 22.9),
    "VideoGLaMM": (62.34, 0.375, 0.103, 0.59, 28.2),
}


class Phrased(TypedDict):
    """Where in a kept answer an object is named."""

    start: int
    stop: int
    object: int


class KeptConversation(TypedDict):
    """A kept answer: words, phrases, and masks by object and frame as run lengths."""

    __pydantic_config__ = ConfigDict(strict=True)
    question: str
    text: str
    phrases: list[Phrased]
    masks: dict[str, list[dict[str, Any]]]
    seconds: float
    made_by: str
    commit: NotRequired[str | None]


def evaluate_conversations(
    benchmark: str,
    out: Path,
    *,
    path: Path | None = None,
    split: str | None = None,
    model: str = "nano",
    masks: str = "nano",
    device: str = "auto",
    limit: int | None = None,
    similarity: str = WordSimilarity.name,
    judge: str | None = None,
    endpoint: str | None = None,
    confirm: Callable[[str], bool] = lambda plan: False,
) -> pd.DataFrame:
    """The table of a benchmark, also written to `out`/results.parquet and results.csv; run again to go on.

    Args:
        benchmark, path, split: see `read_dataset`.
        out: gets answers/, verdicts/, results and missing.json.
        model, masks, device: see `videomolmo.load_grounder`; the model has to describe.
        limit: only so many clips.
        similarity: of phrases, for the recall: "words", or an encoder such as bert-base-uncased.
        judge, endpoint: who gives CLAIR, see `word_maker`; None for nobody.
        confirm: gets what would be sent to an endpoint, in words; only if it says yes anything is.

    Returns:
        One row for each clip, question and measure, and rows with clip "(all)" for the whole set, with a 95 % interval
        from a bootstrap over clips in `low` and `high`.

    Raises:
        BadInput: a model that only points, `out` holds other results, sending was not allowed, or a part refuses.
    """
    benchmark, out = known(benchmark)[0], require_path(out, "out")
    alike = WordSimilarity() if similarity == WordSimilarity.name else EncoderSimilarity(similarity)
    records = first_records(read_dataset(benchmark, path, split), limit)
    maker = _judge(judge, endpoint)
    from videomolmo.systems import load_grounder

    grounder = load_grounder(hub.as_name(model, "--model"), hub.as_name(masks, "--masks"), device)
    if grounder.segmenter is None:
        raise BadInput(
            f"--model {model}: points at what is named; {benchmark} asks for descriptions, as nano-glamm gives them"
        )
    manifest = identity(benchmark, records, limit) | {
        "model": str(model), "expressions": digest(records), "weights": grounder.weights, "about": "answers",
    }  # fmt: skip
    with provenance.locked_manifest(out, manifest, "an evaluation", OURS):
        key = key_of(manifest)
        refused = _answer_all(grounder, records, out, key)
        scored = _Scored(records, out, key, alike)
        if maker is not None:
            scored.judge(maker, confirm)
        metadata = {**manifest, "weights": " ".join(sorted(grounder.weights.values())), "similarity": alike.name,
                    "judge": getattr(maker, "name", ""), "commit": provenance.commit()}  # fmt: skip
        write_json(out / "missing.json", {"missing": sorted(refused), "count": len(refused), "reasons": refused})
        return _write(out, metadata, scored.rows + scored.means())


def _judge(name: str | None, endpoint: str | None) -> WordMaker | None:
    if name is None and endpoint is not None:
        raise BadInput(f"endpoint {endpoint} is given and no judge; name the model that shall judge, or leave it out")
    maker = None if name is None else word_maker(name, endpoint)
    if name is not None and maker is None:
        raise BadInput(f"judge {name!r}: expected a model's name; templates cannot judge")
    return maker


def read_kept(out: Path, record: Record, expression: Expression, key: str) -> KeptConversation | None:
    """What was kept of one question; None where nothing was, where it is damaged, or by other settings."""
    try:
        answer = read_json(answer_path(out, record, expression), KeptConversation)
    except (OSError, BadInput):
        return None
    objects = {phrase["object"] for phrase in answer["phrases"]}
    fits = all(str(object_id) in answer["masks"] for object_id in objects) and all(
        0 <= phrase["start"] <= phrase["stop"] <= len(answer["text"]) for phrase in answer["phrases"]
    )
    return answer if fits and (answer["question"], answer["made_by"]) == (expression.text, key) else None


def _answer_all(grounder: VideoGrounder, records: Records, out: Path, key: str) -> dict[str, str]:
    """Ask what has no answer yet; why questions were refused. A clip or question that is stops no other."""
    refused: dict[str, str] = {}
    todo = [pair for pair in pairs_of(records) if pair[1].answer and read_kept(out, *pair, key) is None]
    for record, expression in tqdm(todo, desc="answer", unit="question"):
        begun = time.perf_counter()
        try:
            with record.frames() as video:
                result = grounder(video, expression.text)
        except BadInput as error:
            refused[name_of(record, expression)] = str(error)
            continue
        said = result.caption
        phrases = [] if said is None else said.phrases
        runs: dict[str, list[dict]] = {str(one.object): [] for one in phrases}
        for frame in range(len(result.masks)):
            found = result.masks[frame]
            for object_id in runs:
                runs[object_id].append(encode_rle(found[int(object_id) - 1]))
        write_json(
            answer_path(out, record, expression),
            {
                "question": expression.text,
                "text": "" if said is None else said.text,
                "phrases": [{"start": one.start, "stop": one.stop, "object": one.object} for one in phrases],
                "masks": runs,
                "seconds": round(time.perf_counter() - begun, 3),
                "made_by": key,
                "commit": provenance.commit(),
            },
        )
    return refused


def true_answer(record: Record, expression: Expression) -> tuple[Grounded, list[int]]:
    """The true answer, and the frames that its masks cover: those on which everything that it names is annotated."""
    answer = expression.answer
    frames, masks = [], []
    for at in range(len(record.frame_names)):
        found = {name: record.mask_of(name, at) for name in answer.objects}
        if any(mask is None for mask in found.values()):
            continue
        frames.append(at)
        if answer.spans:
            masks.append([np.logical_or.reduce([found[name] for name in span.objects]) for span in answer.spans])
    stacked = np.zeros((len(answer.spans), len(frames), *record.size()), bool)
    if masks:
        stacked = np.stack([np.stack(of_frame) for of_frame in masks], axis=1)
    return Grounded(answer.text, answer.phrases, stacked), frames


def kept_answer(kept: KeptConversation | None, frames: Sequence[int], size: tuple[int, int], place: object) -> Grounded:
    """A model's answer on these frames, its masks without specks; nothing where there is none."""
    if kept is None:
        return Grounded("", [], np.zeros((0, len(frames), *size), bool))
    masks = np.zeros((len(kept["phrases"]), len(frames), *size), bool)
    for row, phrase in enumerate(kept["phrases"]):
        runs = kept["masks"][str(phrase["object"])]
        for column, at in enumerate(frames):
            mask = decode_rle(runs[at], place) if at < len(runs) else masks[row, column]
            if mask.shape != size:
                raise BadInput(f"{place}: a mask of {mask.shape}; the clip is {size}; remove the folder and run again")
            masks[row, column] = mask
    phrases = [kept["text"][phrase["start"] : phrase["stop"]] for phrase in kept["phrases"]]
    return Grounded(kept["text"], phrases, drop_small_components(masks))


@dataclass
class _Scored:
    """Scores of all answers, one clip in memory at a time.

    Attributes:
        rows: of the table.
        shares: by kind and measure what its value over the set is made of: (counted, of how many) for each clip.
        pairs: (row labels, true caption, caption) of each caption.
        verdicts: CLAIR of each caption, where there is a judge.
    """

    records: Records
    out: Path
    key: str
    alike: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    rows: list[dict] = field(default_factory=list)
    shares: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    pairs: list[tuple[dict, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for record, expression in tqdm(list(pairs_of(self.records)), desc="score", unit="question"):
            if expression.answer is None:
                continue
            kept = read_kept(self.out, record, expression, self.key)
            true, frames = true_answer(record, expression)
            found = kept_answer(kept, frames, record.size(), answer_path(self.out, record, expression))
            labels = {"clip": record.clip, "expression": expression.id, "kind": expression.kind,
                      "text": expression.text, "seconds": kept and kept["seconds"]}  # fmt: skip
            if expression.kind == CAPTION:
                self.pairs.append((labels, true.text, found.text))
                self._caption(record, labels, true, found)
            else:
                for measure, value in answer_scores(true, found).items():
                    self._add(labels, measure, value, 1)

    def _caption(self, record: Record, labels: dict, true: Grounded, found: Grounded) -> None:
        if true.masks.size:
            matches = gcg_matches(true.masks, found.masks, self.alike(true.phrases, found.phrases))
            self._add(labels, "mIoU", gcg_miou(true.masks, found.masks), 1)
            self._add(labels, "recall", len(matches), len(true.phrases))
        if record.dataset == GCG_NANO:
            counts = caption_counts(true, found)
            self._add(labels, "precision of objects", counts["right"], counts["named"])
            self._add(labels, "recall of objects", counts["right"], counts["true"])
            self._add(labels, "recall of masks", counts["grounded"], counts["true"])

    def _add(self, labels: dict, measure: str, counted: float, of: float) -> None:
        self.shares.setdefault((labels["kind"], measure), []).append((counted, of))
        value = counted / of if of else 0.0
        self.rows.append({**labels, "metric": measure, "value": float(value), "n": int(of)})

    def judge(self, maker: WordMaker, confirm: Callable[[str], bool]) -> None:
        """CLAIR of every caption."""
        verdicts = judged([pair[1:] for pair in self.pairs], maker, self.out / "verdicts", confirm)
        for (labels, *_), score in zip(self.pairs, verdicts, strict=True):
            self._add(labels, "CLAIR", score, 1)

    def means(self) -> list[dict]:
        """Rows of the whole set."""
        found = [_overall(kind, measure, np.array(shares, float)) for (kind, measure), shares in self.shares.items()]
        return found + self._of_captions()

    def _of_captions(self) -> list[dict]:
        """CIDEr and METEOR, which are about all captions together; METEOR only where its data are."""
        if not self.pairs:
            return []
        true, said = [one for _, one, _ in self.pairs], [one for *_, one in self.pairs]
        values = np.array(cider(true, said))
        rows = [_overall(CAPTION, "CIDEr", np.stack([values, np.ones(len(values))], axis=1))]
        try:
            data_folder()
        except BadInput:
            return rows
        scores = meteor(true, said)
        weights = _resampled(len(said))
        spread = [of_counts(total) for total in weights @ scores.counts]
        return [*rows, _row(CAPTION, "METEOR", scores.corpus, len(said), np.quantile(spread, (0.025, 0.975)))]


def _resampled(clips: int) -> Float[np.ndarray, "draws clips"]:
    """How often each clip is drawn in each of the bootstrap's draws."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(clips, np.full(clips, 1 / clips), size=DRAWS).astype(float)


def _overall(kind: str, measure: str, shares: Float[np.ndarray, "clips 2"]) -> dict:
    """A measure over the set, counted of how many, and its interval."""
    sums = _resampled(len(shares)) @ shares
    spread = sums[:, 0] / np.maximum(sums[:, 1], 1e-12)
    counted, of = shares.sum(axis=0)
    return _row(kind, measure, counted / of if of else 0.0, len(shares), np.quantile(spread, (0.025, 0.975)))


def _row(kind: str, measure: str, value: float, n: int, interval: Sequence[float]) -> dict:
    return {"clip": ALL, "expression": ALL, "kind": kind, "text": "", "seconds": None, "metric": measure,
            "value": float(value), "n": int(n), "low": float(interval[0]), "high": float(interval[1])}  # fmt: skip


def _write(out: Path, metadata: Mapping[str, Any], rows: list[dict]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame([metadata | row for row in rows], columns=[*metadata, *COLUMNS, "low", "high"])
    with atomic_file(out / "results.parquet") as unfinished:
        table.to_parquet(unfinished, index=False)
    write_csv(table, out / "results.csv")
    return table


def table_text(table: pd.DataFrame, out: Path) -> str:
    """The measures of a run with their intervals, as Markdown, who judged, and what has no answer."""
    lines = ["| kind | measure | value | 95 % interval | n |", "|---|---|---|---|---|"]
    means = table[table["clip"] == ALL]
    lines += [
        f"| {row.kind} | {row.metric} | {row.value:.4f} | {row.low:.4f} … {row.high:.4f} | {row.n} |"
        for row in means.itertuples()
    ]
    notes = [f"phrases compared by {table['similarity'].iloc[0]}" if len(table) else "nothing to score"]
    if len(table) and table["judge"].iloc[0]:
        notes.append(f"CLAIR judged by {table['judge'].iloc[0]}")
    if "METEOR" not in set(means["metric"]):
        notes.append("without METEOR, which needs pip install 'videomolmo[captions]'")
    missing = read_json(out / "missing.json")["count"]
    notes += [f"{missing} questions have no answer and count 0, see {out / 'missing.json'}"] if missing else []
    return "\n".join([*lines, "; ".join(notes)])


def compared(table: pd.DataFrame) -> str:
    """A run's captions beside the published figures, which are marked as quoted: Markdown."""
    means = table[(table["clip"] == ALL) & (table["kind"] == CAPTION)].set_index("metric")["value"]
    split = table["split"].iloc[0] if len(table) else ""
    scales = dict.fromkeys(MEASURES, 1.0) | {"mIoU": 100.0, "CLAIR": 100.0}
    ours = [f"{scales[one] * means[one]:.3f}" if one in means else "–" for one in MEASURES]
    rows = [(f"this run: {split}", *ours, "measured here")]
    quoted = "quoted from VideoGLaMM's paper, table 1, on its own test set of real videos"
    rows += [(name, *map(str, values), quoted) for name, values in QUOTED.items()]
    heads = ("system", "mIoU %", "recall", "METEOR", "CIDEr", "CLAIR %", "source")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
