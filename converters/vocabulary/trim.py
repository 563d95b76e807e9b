"""The pass: count tokens, keep those that the recipe's texts need, cut tokenizer and embedding.

Counted are training, unlabelled and calibration texts, never the test set. Tokenizer and embedding
change together or not at all: ids are renumbered in both. Architectures that count positions from
the padding's id on keep every id up to it, because their position table stays as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from converters.cache import tool_versions
from converters.data import Dataset
from converters.model import Artifact, Job, TextModel
from converters.network import CONFIG_FILE, WEIGHTS_FILE, load_encoder, save_encoder
from converters.source import OFFSET, files_digest
from converters.vocabulary.config import VocabularyConfig
from converters.vocabulary.tokens import (
    Document,
    check_supported,
    choose,
    ids_of,
    parts_of,
    rebuild,
    single_ids,
    special_ids,
)
from edge_runtime.errors import InputError
from edge_runtime.fields import Json

TOKENIZER_FILE, FIGURES_FILE = "tokenizer.json", "figures.json"


def trim(model: TextModel, config: VocabularyConfig, job: Job) -> tuple[TextModel, dict[str, Json]]:
    """The pass.

    Raises:
        InputError: the tokenizer is of a kind that cannot be trimmed, or `size` has no room for
            what must stay.
    """
    parts: dict[str, object] = {
        "encoder": model.encoder_sha256,
        "tokenizer": model.tokenizer.sha256,
        "texts": _digests(job.data),
        "config": config,
        "tools": tool_versions("torch", "transformers", "tokenizers"),
    }
    cached = job.cache.holds("vocabulary", parts)
    folder = job.cache.folder("vocabulary", parts, lambda made: _make(made, model, config, job))
    figures: dict[str, Json] = json.loads((folder / FIGURES_FILE).read_text())
    encoder = folder / "encoder"
    changed = json.loads((encoder / CONFIG_FILE).read_text())
    trimmed = replace(
        model,
        tokenizer=Artifact.of(folder / TOKENIZER_FILE),
        encoder=encoder,
        encoder_sha256=files_digest([encoder / CONFIG_FILE, encoder / WEIGHTS_FILE]),
        source=replace(
            model.source,
            vocabulary=changed["vocab_size"],
            pad_id=changed["pad_token_id"] or 0,
        ),
    )
    return trimmed, figures | {"cached": cached}


def _digests(data: Dataset) -> list[str]:
    sets = (data.train, data.unlabelled, data.calibration)
    return [rows.sha256 for rows in sets if rows is not None]


def _texts(data: Dataset) -> list[str]:
    """Every text that may be counted, once."""
    sets = (data.train, data.unlabelled, data.calibration)
    return list(dict.fromkeys(text for rows in sets if rows is not None for text in rows.texts))


def _make(out: Path, model: TextModel, config: VocabularyConfig, job: Job) -> None:
    """Write tokenizer, encoder and figures to `out`."""
    document: Document = json.loads(model.tokenizer.path.read_bytes())
    check_supported(document, f"tokenizer of {model.source.name}")
    texts = _texts(job.data)
    with job.progress.busy(f"count the tokens of {len(texts)} texts"):
        tokenizer = Tokenizer.from_file(str(model.tokenizer.path))
        usage = Usage.of(tokenizer, texts)
    always = _always(document, usage, model, config)
    kept = choose(
        usage.counts, always, parts_of(document), min_count=config.min_count, size=config.size
    )
    made, order = rebuild(document, kept)
    smaller = _checked(made, document, order, model)
    smaller.save(str(out / TOKENIZER_FILE), pretty=False)
    encoder = load_encoder(model.encoder)
    before = encoder.get_input_embeddings().weight.numel()
    _pick_rows(encoder, order)
    save_encoder(encoder, out / "encoder")
    figures = {
        "before": len(ids_of(document)),
        "after": len(order),
        "texts": len(texts),
        "changed": usage.changed(kept),
        "new_texts_changed": usage.new_texts_changed(kept, always, config.min_count),
        "embedding_parameters": [before, encoder.get_input_embeddings().weight.numel()],
    }
    (out / FIGURES_FILE).write_text(json.dumps(figures) + "\n")


@dataclass(frozen=True, slots=True)
class Usage:
    """How often each token occurs, in all and in each text."""

    counts: Counter[int]
    texts: tuple[Counter[int], ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, texts: Sequence[str]) -> Usage:
        """Count the tokens of `texts`, which are not truncated."""
        each = tuple(Counter(one.ids) for one in tokenizer.encode_batch(list(texts)))
        total: Counter[int] = Counter()
        for counts in each:
            total.update(counts)
        return cls(total, each)

    def changed(self, kept: set[int]) -> float:
        """Share of the texts with a token that is not kept, 0..1."""
        return sum(not counts.keys() <= kept for counts in self.texts) / len(self.texts)

    def new_texts_changed(self, kept: set[int], always: set[int], min_count: int) -> float:
        """What share of texts like these, unseen, will be cut otherwise, by leaving each one out.

        A token would be missing if without this text it did not reach `min_count`. Texts that come
        in families vouch for each other, so the share is a bound from below.
        """
        missing = sum(
            any(
                token not in kept or self.counts[token] - count < min_count
                for token, count in counts.items()
                if token not in always
            )
            for counts in self.texts
        )
        return missing / len(self.texts)


def _always(
    document: Document, usage: Usage, model: TextModel, config: VocabularyConfig
) -> set[int]:
    """The ids that stay whatever the texts hold."""
    ids = set(ids_of(document).values())
    always = special_ids(document) | ({model.source.pad_id} & ids)
    always |= single_ids(document, usage.counts if config.characters == "seen" else None)
    if model.source.architecture in OFFSET:
        always |= {one for one in ids if one <= model.source.pad_id}
    if config.size and len(always) > config.size:
        raise InputError(
            f"vocabulary: size is {config.size}, but {len(always)} tokens of "
            f"{model.source.name} are special or single characters and must stay"
        )
    return always


def _checked(
    made: Document, document: Document, order: Sequence[int], model: TextModel
) -> Tokenizer:
    """The trimmed tokenizer, loaded; each of its tokens has the id that its embedding row has."""
    names = {place: token for token, place in ids_of(document).items()}
    try:
        tokenizer = Tokenizer.from_str(json.dumps(made, ensure_ascii=False))
    except Exception as reason:  # the Rust binding raises bare Exception
        raise InputError(
            f"tokenizer of {model.source.name}: cannot be trimmed ({reason})"
        ) from None
    for new, old in enumerate(order):
        if tokenizer.token_to_id(names[old]) != new:
            raise InputError(
                f"tokenizer of {model.source.name}: cannot be trimmed; token {names[old]!r} should "
                f"get id {new}, the library gives it {tokenizer.token_to_id(names[old])}"
            )
    return tokenizer


def _pick_rows(encoder: Any, order: Sequence[int]) -> None:
    """The embedding's rows in the new order, and the configuration's ids with them."""
    new = {old: place for place, old in enumerate(order)}
    config = encoder.config
    for name in [name for name in vars(config) if name.endswith("_token_id")]:
        setattr(config, name, new.get(getattr(config, name)))
    config.vocab_size = len(order)
    weight = encoder.get_input_embeddings().weight.detach()[list(order)].clone()
    rows = torch.nn.Embedding(len(weight), weight.shape[1], padding_idx=config.pad_token_id)
    with torch.no_grad():
        rows.weight.copy_(weight)
    encoder.set_input_embeddings(rows)
