"""The nano model's tokenizer: bytes, single digits, and whole tokens for the grammar of points."""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from videomolmo.errors import BadInput
from videomolmo.model.config import LanguageConfig
from videomolmo.whole_files import files_of

END_OF_TEXT = "<|endoftext|>"
MOST_NUMBERED = 9  # points with a token of their own for x2=" .. y9="
GRAMMAR = (
    *('<point x="', '" y="', '" alt="', '">', "</point>", "</points>", '<points x1="', '" y1="'),
    *(f'" {axis}{number}="' for number in range(2, MOST_NUMBERED + 1) for axis in "xy"),
    *(' <point x="', ' <points x1="'),  # as an answer begins after "Assistant:"
)
SMALLEST = 1 + 256 + len(GRAMMAR)


def build_nano_tokenizer(corpus: list[str], size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from `corpus` that gives back any text exactly.

    Digits stay single, so that a coordinate is always written with the same tokens; grammar fragments are one token
    each, so that a point costs few. `<|endoftext|>` has id 0 and serves as BOS too; in a user's text it is plain text.

    Args:
        corpus: texts to learn merges from.
        size: most tokens; a small corpus gives fewer.

    Raises:
        BadInput: the size has no room for the bytes and the grammar.
    """
    if size < SMALLEST:
        raise BadInput(f"tokenizer size is {size}, expected at least {SMALLEST} for bytes and grammar; raise it")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(GRAMMAR),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fragments = re.compile("|".join(re.escape(text) for text in sorted(GRAMMAR, key=len, reverse=True)))
    tokenizer.train_from_iterator((part for text in corpus for part in fragments.split(text) if part), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in GRAMMAR])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write tokenizer.json and its settings into a folder."""
    with files_of(folder, "tokenizer.json") as place:
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
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, split_special_tokens=True)
    wanted = {} if config is None else config.extra_ids | {END_OF_TEXT: config.end_of_text}
    known = tokenizer.get_vocab()
    for name, number in wanted.items():
        if known.get(name, number) != number:
            raise BadInput(f"{folder}: the tokenizer gives {name} the id {known[name]}, the model has {number} for it")
    return tokenizer
