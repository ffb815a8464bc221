"""The nano model's tokenizer: bytes, single digits, and whole tokens for the grammar of points."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typing_extensions import TypedDict

from videomolmo.errors import BadInput
from videomolmo.io.files import atomic_files
from videomolmo.io.untrusted import checked, first_line, float_in, int_in, read_model_json
from videomolmo.model.config import LanguageConfig

END_OF_TEXT = "<|endoftext|>"
MOST_NUMBERED = 9  # points with a token of their own for x2=" .. y9="
GRAMMAR = (
    *('<point x="', '" y="', '" alt="', '">', "</point>", "</points>", '<points x1="', '" y1="'),
    *(f'" {axis}{number}="' for number in range(2, MOST_NUMBERED + 1) for axis in "xy"),
    *(' <point x="', ' <points x1="'),  # as an answer begins after "Assistant:"
)
SMALLEST = 1 + 256 + len(GRAMMAR)


MOST_SETTINGS = 256
MOST_ADDED = 4096  # tokens beside the vocabulary; each takes longer than the one before, and Molmo has 423
PROBE = "Point to the cat: 1.5"
_Token = str | dict[str, str | bool | int] | None
_Tokens = Annotated[list[_Token] | dict[str, _Token] | None, Field(max_length=MOST_ADDED)]
_Settings = with_config(ConfigDict(extra="allow"))(
    TypedDict(
        "_Settings",
        dict.fromkeys([f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")], _Token)
        | dict.fromkeys(("extra_special_tokens", "additional_special_tokens"), _Tokens)
        | dict.fromkeys(("clean_up_tokenization_spaces", "split_special_tokens", "add_prefix_space"), bool | None)
        | dict.fromkeys(("padding_side", "truncation_side"), Literal["left", "right"])
        | {
            "added_tokens_decoder": Annotated[dict[str, _Token], Field(max_length=MOST_ADDED)],
            "model_max_length": float_in(1, 1e31) | None,
        },
        total=False,
    )
)
_Numbered = Annotated[dict[str, int_in(0, 2**24)], Field(max_length=MOST_ADDED)]
_Added = dict[str, Annotated[list[Any], Field(max_length=MOST_ADDED)]]
# Arguments of transformers' classes that would make them read other files or objects than the folder's own.
_FOREIGN = ("init_inputs", "fast_tokenizer_files", "gguf_file", "tokenizer_object", "vocab_file", "tokenizer_file",
            "vocab", "merges", "spm_file", "from_slow")  # fmt: skip


def check_tokenizer(folder: str | Path) -> None:
    """Nothing, where the files of a folder's tokenizer are JSON with values of the right kinds.

    Raises:
        BadInput: they are not, or they would have other files read.
    """
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        path = Path(folder) / name
        if not os.path.lexists(path):
            continue
        values = read_model_json(path)
        if name == "added_tokens.json":
            checked(_Numbered, values, str(path))
        elif name == "tokenizer.json":
            checked(_Added, {"added_tokens": values.get("added_tokens")}, str(path))
        else:
            checked(_Settings, values, str(path))
            if len(values) > MOST_SETTINGS:
                raise BadInput(f"{path} has {len(values)} settings, expected at most {MOST_SETTINGS}; copy it again")
            if foreign := sorted(key for key in values if key in _FOREIGN or key.startswith("_")):
                raise BadInput(f"{path}: has {foreign[0]!r}, which is no setting of a tokenizer; remove it")


def check_words(tokenizer: PreTrainedTokenizerFast) -> None:
    """ValueError where a tokenizer loses words: a question would vanish without an error."""
    if (found := tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False))) != PROBE:
        raise ValueError(f"it gives {found!r} for {PROBE!r}")


@contextmanager
def broken_tokenizers_are_refused(folder: str | Path) -> Iterator[None]:
    """Every error of the tokenizer's library inside it becomes a BadInput; even its panics, which are no Exceptions."""
    try:
        yield
    except (BadInput, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise BadInput(
            f"{folder}: its tokenizer cannot be read ({first_line(error)}); copy tokenizer.json and "
            "tokenizer_config.json again"
        ) from error


def build_nano_tokenizer(
    corpus: list[str], size: int = 512, grammar: Sequence[str] = GRAMMAR
) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from `corpus` that gives back any text exactly.

    Digits stay single, so that a coordinate is always written with the same tokens; grammar fragments are one token
    each, so that a point costs few. `<|endoftext|>` has id 0 and serves as BOS too; in a user's text it is plain text.

    Args:
        corpus: texts to learn merges from.
        size: most tokens; a small corpus gives fewer.
        grammar: fragments of answers that are one token each.

    Raises:
        BadInput: the size has no room for the bytes and the grammar.
    """
    if size < (smallest := SMALLEST - len(GRAMMAR) + len(grammar)):
        raise BadInput(f"tokenizer size is {size}, expected at least {smallest} for bytes and grammar; raise it")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(grammar),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fragments = re.compile("|".join(re.escape(text) for text in sorted(grammar, key=len, reverse=True)))
    tokenizer.train_from_iterator((part for text in corpus for part in fragments.split(text) if part), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in grammar])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write tokenizer.json and its settings into a folder."""
    with atomic_files(folder, "tokenizer.json") as place:
        tokenizer.save_pretrained(place)


def load_tokenizer(folder: str | Path, config: LanguageConfig | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model's folder, nano's or a published one.

    Special tokens in a user's text stay plain text: nobody can smuggle an image token into a question.

    Args:
        folder: with tokenizer.json.
        config: checked against the tokenizer's special ids where it names them.

    Raises:
        BadInput: there is none, it cannot be read, or its special ids are not the model's.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise BadInput(f"{folder} has no tokenizer.json; a pointing model comes with its tokenizer, copy both")
    check_tokenizer(folder)
    with broken_tokenizers_are_refused(folder):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, split_special_tokens=True, local_files_only=True)
        known = tokenizer.get_vocab()
        check_words(tokenizer)
    wanted = {} if config is None else config.extra_ids | {END_OF_TEXT: config.end_of_text}
    most = max(known.values(), default=0)
    if config is not None and most >= config.vocab_size + config.extra_vocab:
        raise BadInput(f"{folder}: the tokenizer has an id {most}, which the model has no place for; copy both")
    for name, place in wanted.items():
        if known.get(name, place) != place:
            raise BadInput(f"{folder}: the tokenizer gives {name} the id {known[name]}, the model has {place} for it")
    return tokenizer
