"""What the converter's tests convert: a two-layer BERT, Debian package descriptions, a small board.

The texts are real and the network learns them a little; the embedding table is the larger part of
the file, as in the real encoders, so that what a new head costs can be seen.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

EdgeConvert: TypeAlias = Callable[..., tuple[int, str, str]]
"""The command in this process: arguments → exit code, stdout, stderr."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "debian-sections"
CLASSES = ("fonts", "games", "mail", "math")
HIDDEN, HEADS, LAYERS, VOCABULARY, POSITIONS = 128, 4, 2, 12_000, 64
MAX_LENGTH = 48

PROFILE = """
name = "board"
title = "A board of these tests"
arch = "x86_64"
ram_bytes = 1_000_000_000
storage_bytes = 1_000_000_000
python = ["3.11"]
sequence_lengths = [16, 48]

[[engine]]
backend = "onnxruntime"
quantization = "smooth_dynamic_w8_channel"
providers = ["CPUExecutionProvider"]

[[engine]]
backend = "litert"
quantization = "dynamic_w8_channel"

[sources]
arch = "own choice for these tests"
ram_bytes = "own choice for these tests"
storage_bytes = "own choice for these tests"
python = "own choice for these tests"
sequence_lengths = "own choice for these tests"
engine = "own choice for these tests"
"""

TOP = {
    "name": '"small"',
    "version": '"1.0.0"',
    "task": '"text-classification"',
    "created": '"2026-01-02T03:04:05Z"',
    "seed": "1",
}
SOURCE = {"model": '"encoder"', "licence": '"Apache-2.0"'}
DATA = {
    "train": '"train.jsonl"',
    "calibration": '"calibration.jsonl"',
    "test": '"test.jsonl.xz"',
    "max_length": str(MAX_LENGTH),
}
FINETUNE = {"epochs": "3", "lr": "2e-3", "head_lr": "1e-2", "batch": "16", "max_length": "32",
            "freeze_embeddings": "false", "precision": '"float32"'}  # fmt: skip
VERIFY = {"max_drop": "0.05", "min_agreement": "0.9", "latency_runs": "5",
          "golden_cases": "4", "float_rows": "30"}  # fmt: skip


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """The example's rows of a split, in the file's order."""
    with lzma.open(EXAMPLE / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


def picked(name: str, each: int) -> list[dict[str, str]]:
    """The first `each` rows of each of our classes, in the file's order."""
    left = dict.fromkeys(CLASSES, each)
    chosen = []
    for row in rows(name):
        if left.get(row["label"], 0):
            left[row["label"]] -= 1
            chosen.append(row)
    return chosen


def as_lines(some: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in some)


def write_data(folder: Path) -> None:
    """train.jsonl, calibration.jsonl and test.jsonl.xz: plain and packed are both read."""
    (folder / "train.jsonl").write_text(as_lines(picked("train", 60)))
    (folder / "calibration.jsonl").write_text(as_lines(picked("calibration", 10)))
    with lzma.open(folder / "test.jsonl.xz", "wt", encoding="utf-8") as out:
        out.write(as_lines(picked("test", 25)))


@cache
def _word_pieces() -> dict[str, int]:
    """Special tokens, characters, then the most frequent words and endings of the training texts.

    Not the library's trainer: what it learns differs from run to run.
    """
    from tokenizers import normalizers, pre_tokenizers

    normalizer, cut = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word
        for row in rows("train")
        for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(row["text"]))
    )
    pieces = Counter(words)
    for word, count in words.items():
        for size in range(2, min(5, len(word))):
            pieces["##" + word[-size:]] += count
    characters = sorted({character for word in words for character in word})
    chosen = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    chosen += ["##" + character for character in characters]
    frequent = sorted(pieces, key=lambda piece: (-pieces[piece], piece))
    kept = dict.fromkeys([*chosen, *frequent])
    return {piece: place for place, piece in enumerate(list(kept)[:VOCABULARY])}


def write_encoder(folder: Path, *, seed: int = 3, pooler: bool = False) -> None:
    """A Hugging Face folder: a BERT with random weights, a word-piece tokenizer of real texts."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordPiece(_word_pieces(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # As many published tokenizers do, and as the shipped one must not.
    tokenizer.enable_padding(length=MAX_LENGTH)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=POSITIONS,
        initializer_range=0.05,
    )
    BertModel(config, add_pooling_layer=pooler).save_pretrained(folder)


def recipe_text(
    *,
    source: Mapping[str, str] = {},
    data: Mapping[str, str] = {},
    finetune: Mapping[str, str] | None = None,
    export: Mapping[str, str] = {},
    quantize: str = "",
    verify: Mapping[str, str] = {},
    package: Mapping[str, str] = {},
    passes: str | None = None,
    **top: str,
) -> str:
    """A recipe; values are TOML, an empty one leaves the key out.

    `passes` replaces all passes; `finetune` the whole configuration of that pass.
    """
    tables = [
        _keys(TOP | top),
        "[source]\n" + _keys(SOURCE | dict(source)),
        "[data]\n" + _keys(DATA | dict(data)),
    ]
    if passes is None:
        tables += [
            _pass("finetune", FINETUNE if finetune is None else finetune),
            _pass("export", export),
            _pass("fuse", {}),
            _pass("quantize", {}) + quantize,
            _pass("verify", VERIFY | dict(verify)),
            _pass("package", package),
        ]
    else:
        tables.append(passes)
    return "\n".join(tables)


def write_recipe(path: Path, **changed: object) -> Path:
    """`recipe_text` at `path`."""
    path.write_text(recipe_text(**changed))  # type: ignore[arg-type]
    return path


def _pass(kind: str, keys: Mapping[str, str]) -> str:
    return f'[[pass]]\nkind = "{kind}"\n' + _keys(keys)


def _keys(keys: Mapping[str, str]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in keys.items() if value)
