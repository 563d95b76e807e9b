"""The step `tokenize`: a text to token ids, with the bundle's own tokenizer file.

Padding and truncation that the tokenizer file may ask for are switched off: length is decided
here, and padding when the batch is put together. One text at a time on the caller's thread: the
library's own thread pool would take cores that the profile gave to others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.errors import DeviceError, IncompatibleError, InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.backend import Tensor, one_line

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MAX_LENGTH = 8192
MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """Options of the step, as the manifest declares them.

    `max_length` counts tokens, special ones included; `max_bytes` is of the text in UTF-8.
    """

    file: str
    max_length: int
    max_bytes: int
    pad_id: int
    inputs: tuple[str, ...]

    @classmethod
    def parse(cls, options: Fields) -> TokenizeOptions:
        """From the step's options; faults go to `options`."""
        inputs = options.texts("inputs", INPUTS[:2], max_items=len(INPUTS))
        for name in inputs:
            if name not in INPUTS:
                options.fault(
                    f"{options.where}: inputs holds {name!r}, known are {', '.join(INPUTS)}"
                )
        if "input_ids" not in inputs:
            options.fault(f"{options.where}: inputs must hold input_ids")
        return cls(
            file=options.text("file", max_len=512),
            max_length=options.integer("max_length", 128, low=1, high=MAX_LENGTH),
            max_bytes=options.integer("max_bytes", 1 << 16, low=1, high=MAX_TEXT_BYTES),
            pad_id=options.integer("pad_id", 0, high=2**31 - 1),
            inputs=inputs,
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's token ids, 1..max_length of them; `truncated` if there were more."""

    ids: list[int]
    truncated: bool


class Tokenize:
    """The step, its tokenizer loaded. Safe to call from any thread."""

    def __init__(self, options: TokenizeOptions, file: bytes, limit: int | None = None) -> None:
        """`file` is the tokenizer's JSON; `limit` the longest sequence that the engine runs.

        Raises:
            IncompatibleError: not a tokenizer that the installed library reads, or one whose
                special tokens alone fill the length.
        """
        from tokenizers import Tokenizer  # a text task pays for it, another does not

        self.options = options
        self.max_length = min(options.max_length, limit or options.max_length)
        try:
            inner = Tokenizer.from_buffer(file)
            inner.no_padding()
            if inner.post_processor is not None:
                _refuse_template(json.loads(inner.post_processor.__getstate__()))
            specials = inner.num_special_tokens_to_add(False)
            if specials >= self.max_length:
                raise ValueError(f"{specials} special tokens fill a length of {self.max_length}")
            inner.enable_truncation(self.max_length)
        except BaseException as reason:
            if not _is_panic(reason):
                raise
            raise IncompatibleError(
                f"step tokenize: {options.file} cannot be used ({one_line(reason)[:200]})"
            ) from None
        self._encode = inner.encode
        self._token = inner.id_to_token

    def __call__(self, text: str) -> Tokens:
        """Token ids of `text`; of an empty text without special tokens, one padding token.

        Raises:
            InputError: not a string, too long, or not valid Unicode.
            DeviceError: the tokenizer does not keep to the length.
        """
        if not isinstance(text, str):
            raise InputError(f"text: expected a string, found {type(text).__name__}")
        # A character is 1..4 bytes: only texts between the two bounds need to be measured.
        limit = self.options.max_bytes
        if len(text) * 4 > limit:
            size = len(text) if len(text) > limit else len(text.encode("utf-8", "replace"))
            if size > limit:
                raise InputError(f"text: {size} bytes or more, at most {limit} are accepted")
        try:
            encoding = self._encode(text)
        except BaseException as reason:
            if not _is_panic(reason):
                raise
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise InputError("text: not valid Unicode (half of a surrogate pair)") from None
            raise InputError(f"text: cannot be tokenized ({one_line(reason)[:200]})") from None
        ids: list[int] = encoding.ids
        if len(ids) > self.max_length:
            raise DeviceError(
                f"step tokenize: {self.options.file} makes {len(ids)} tokens, "
                f"at most {self.max_length} were asked for"
            )
        if not ids:
            return Tokens([self.options.pad_id], False)
        return Tokens(ids, len(ids) == self.max_length and bool(encoding.overflowing))

    def check_ids(self, ids: Tensor) -> None:
        """Whether token ids that a client made itself can be some.

        Engines tell it each in its own way, or read the embeddings from the end.

        Raises:
            InputError: one is negative, or beyond every token.
        """
        low, high = int(ids.min()), int(ids.max())
        known = low >= 0 and (
            high == self.options.pad_id or (high < 1 << 32 and self._token(high) is not None)
        )
        if not known:
            wrong = low if low < 0 else high
            raise InputError(f"input input_ids: holds {wrong}, which is no token of this model")

    def feeds(self, rows: Sequence[Tokens], length: int) -> dict[str, Tensor]:
        """The model's inputs for `rows`, int64, shape (len(rows), length), padded on the right."""
        first = rows[0].ids
        if len(rows) == 1 and len(first) == length:
            ids = np.array([first], dtype=np.int64)
            mask = np.ones((1, length), dtype=np.int64)
        else:
            ids = np.full((len(rows), length), self.options.pad_id, dtype=np.int64)
            mask = np.zeros((len(rows), length), dtype=np.int64)
            for index, row in enumerate(rows):
                ids[index, : len(row.ids)] = row.ids
                mask[index, : len(row.ids)] = 1
        made: dict[str, Tensor] = {}
        for name in self.options.inputs:
            if name == "input_ids":
                made[name] = ids
            elif name == "attention_mask":
                made[name] = mask
            else:
                made[name] = np.zeros_like(ids)
        return made


def _refuse_template(processor: Mapping[str, Any]) -> None:
    """Raises ValueError: a template that the library takes, to trip over it with every text."""
    for inner in processor.get("processors", ()):
        _refuse_template(inner)
    pieces = processor.get("single", ())
    for piece in pieces:
        special = piece.get("SpecialToken", {}).get("id")
        if special is not None and special not in processor.get("special_tokens", ()):
            raise ValueError(f"its template names {special!r}, which is no special token")
    if sum("Sequence" in piece for piece in pieces) > 1:
        raise ValueError("its template holds the text more than once")


def _is_panic(reason: BaseException) -> bool:
    """Whether the library refused; its crashes inside are no Exception, but are told like one."""
    return isinstance(reason, Exception) or type(reason).__name__ == "PanicException"
