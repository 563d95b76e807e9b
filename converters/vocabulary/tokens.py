"""The tokens of a tokenizer's file: which must stay together, and the file without the others.

Pure functions on the parsed `tokenizer.json`. A text whose tokens are all kept is cut as before:
WordPiece takes the longest piece and Unigram the best path, and both are still there; BPE goes
through merges, so a token is kept with all that it may be merged from (`parts_of`). New ids keep
the order of the old ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from edge_runtime.errors import InputError

Document: TypeAlias = dict[str, Any]
"""A parsed tokenizer.json."""
MODELS = ("WordPiece", "BPE", "Unigram")
ASCII = frozenset(chr(code) for code in range(0x21, 0x7F))
BLANK = "▁"
"""How sentencepiece writes a space."""


def check_supported(document: Document, where: str) -> None:
    """Refuse what cannot be trimmed.

    Raises:
        InputError: the model is none of `MODELS`, or drops merges at random.
    """
    kind = document["model"].get("type")
    if kind not in MODELS:
        raise InputError(
            f"{where}: a tokenizer of type {kind!r} cannot be trimmed; "
            f"those of type {', '.join(MODELS)} can"
        )
    if document["model"].get("dropout"):
        raise InputError(f"{where}: its merges are dropped at random, so no token is sure to stay")


def model_tokens(document: Document) -> list[str]:
    """The tokens of the model itself, in the order of their ids; added ones may come after them."""
    vocabulary = document["model"]["vocab"]
    if document["model"]["type"] == "Unigram":
        return [token for token, _ in vocabulary]
    return sorted(vocabulary, key=vocabulary.__getitem__)


def ids_of(document: Document) -> dict[str, int]:
    """Token → id, those added beside the model too."""
    model = document["model"]
    if model["type"] == "Unigram":
        found = {token: place for place, (token, _) in enumerate(model["vocab"])}
    else:
        found = dict(model["vocab"])
    return found | {one["content"]: one["id"] for one in document["added_tokens"]}


def special_ids(document: Document) -> set[int]:
    """Ids that the tokenizer itself refers to: added tokens, the unknown one, the frame of a text.

    Of Unigram also the token with the lowest score: what an unknown character costs is reckoned
    from it.
    """
    model, ids = document["model"], ids_of(document)
    found = {one["id"] for one in document["added_tokens"]}
    found.update(ids[token] for token in _framing(document.get("post_processor")) if token in ids)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        found.add(scores.index(min(scores)))
        found.update({model["unk_id"]} - {None})
    elif model.get("unk_token") in ids:
        found.add(ids[model["unk_token"]])
    return found


def _framing(processor: Any) -> Iterable[str]:
    """The special tokens that a post-processor puts around a text."""
    if not processor:
        return
    for inner in processor.get("processors", ()):
        yield from _framing(inner)
    for name in ("sep", "cls"):
        if name in processor:
            yield processor[name][0]
    for special in (processor.get("special_tokens") or {}).values():
        yield from special["tokens"]


def single_ids(document: Document, seen: Iterable[int] | None) -> set[int]:
    """Ids of the tokens that stand for one character or byte, wherever in a word.

    With `seen`, of these only ASCII's and the characters of the tokens with those ids; bytes all.
    """
    model = document["model"]
    ids = ids_of(document)
    characters = None
    if seen is not None and not _bytes(document):
        names = {place: token for token, place in ids.items()}
        characters = ASCII | {char for place in seen for char in _bare(names[place], model)}
    found = set()
    for token in model_tokens(document):
        bare = _bare(token, model)
        byte = len(token) == 6 and token.startswith("<0x") and model.get("byte_fallback")
        if byte or (len(bare) == 1 and (characters is None or bare in characters)):
            found.add(ids[token])
    return found


def _bare(token: str, model: Document) -> str:
    """The characters of a token, without the mark that says where in a word it stands."""
    if model["type"] == "Unigram":
        return token.removeprefix(BLANK) or token
    bare = token
    if prefix := model.get("continuing_subword_prefix"):
        bare = bare.removeprefix(prefix)
    if suffix := model.get("end_of_word_suffix"):
        bare = bare.removesuffix(suffix)
    return bare or token


def _bytes(document: Document) -> bool:
    """Whether each character stands for a byte: then there are 256, and every text needs them."""
    steps = document.get("pre_tokenizer") or {}
    return "ByteLevel" in {one["type"] for one in (steps, *steps.get("pretokenizers", ()))}


def parts_of(document: Document) -> dict[int, set[int]]:
    """Id → ids of all tokens that a merge makes it of; empty but for BPE."""
    model = document["model"]
    found: dict[int, set[int]] = {}
    for left, right in _merges(model):
        whole = model["vocab"].get(_merged(left, right, model))
        if whole is not None:
            found.setdefault(whole, set()).update(
                {model["vocab"][left], model["vocab"][right]} - {whole}
            )
    return found


def _merges(model: Document) -> Iterable[tuple[str, str]]:
    for merge in model.get("merges") or ():
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _merged(left: str, right: str, model: Document) -> str:
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def choose(
    counts: Mapping[int, int],
    always: set[int],
    parts: Mapping[int, set[int]],
    *,
    min_count: int,
    size: int,
) -> set[int]:
    """`always`, then the tokens that occur most, each with its parts, while they fit in `size`."""
    kept: set[int] = set()
    for token in always:
        kept |= _closure(token, parts, kept)
    for token in sorted(counts, key=lambda token: (-counts[token], token)):
        if counts[token] < min_count:
            break
        more = _closure(token, parts, kept)
        if not size or len(kept) + len(more) <= size:
            kept |= more
    return kept


def _closure(token: int, parts: Mapping[int, set[int]], kept: set[int]) -> set[int]:
    """`token` and all that it is made of, without what is kept already."""
    found: set[int] = set()
    waiting = [token]
    while waiting:
        one = waiting.pop()
        if one not in kept and one not in found:
            found.add(one)
            waiting.extend(parts.get(one, ()))
    return found


def rebuild(document: Document, kept: set[int]) -> tuple[Document, list[int]]:
    """The file with the tokens in `kept` alone, and the old id of each new one.

    `kept` must hold `special_ids`, and the parts of all that it holds.
    """
    made = copy.deepcopy(document)
    model, ids = made["model"], ids_of(document)
    own = [token for token in model_tokens(document) if ids[token] in kept]
    inside = set(model_tokens(document))
    beside = sorted(
        one["id"] for one in document["added_tokens"] if one["content"] not in inside
    )  # the library numbers them after the model's own
    order = [ids[token] for token in own] + beside
    new = {old: place for place, old in enumerate(order)}
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][ids[token]] for token in own]
        if model["unk_id"] is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {token: new[ids[token]] for token in own}
    if model.get("merges"):
        model["merges"] = _merges_within(model)
    for one in made["added_tokens"]:
        one["id"] = new[one["id"]]
    made["added_tokens"].sort(key=lambda one: one["id"])
    _renumber(made.get("post_processor"), ids, new)
    if made.get("padding"):
        made["padding"]["pad_id"] = new[made["padding"]["pad_id"]]
    return made, order


def _merges_within(model: Document) -> list[Sequence[str]]:
    """The merges whose parts and result are in the vocabulary, in their order."""
    tokens = model["vocab"]
    return [
        [left, right]
        for left, right in _merges(model)
        if left in tokens and right in tokens and _merged(left, right, model) in tokens
    ]


def _renumber(processor: Any, ids: Mapping[str, int], new: Mapping[int, int]) -> None:
    """The new ids of the tokens that a post-processor puts around a text, in place."""
    if not processor:
        return
    for inner in processor.get("processors", ()):
        _renumber(inner, ids, new)
    for name in ("sep", "cls"):
        if name in processor:
            processor[name][1] = new[processor[name][1]]
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [new[one] for one in special["ids"]]
