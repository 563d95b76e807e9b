"""The step `tokenize`: a text, or two, to token ids, with the bundle's own tokenizer file.

Padding and truncation that the tokenizer file may ask for are switched off: length is decided
here, and padding when the batch is put together. One text at a time on the caller's thread: the
library's own thread pool would take cores that the profile gave to others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from edge_runtime.errors import DeviceError, IncompatibleError, InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.backend import Tensor, one_line
from edge_runtime.inference.tasks.items import Item
from edge_runtime.inference.tasks.spans import Token

if TYPE_CHECKING:
    from tokenizers import Encoding

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MAX_LENGTH = 8192
MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """Options of the step, as the manifest declares them.

    `max_length` counts tokens, special ones included; `max_bytes` is of a text in UTF-8. `pair`:
    each input is two texts, which the tokenizer's own template puts together.
    """

    file: str
    max_length: int
    max_bytes: int
    pad_id: int
    inputs: tuple[str, ...]
    pair: bool = False

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
            pair=options.boolean("pair", False),
        )

    @property
    def takes(self) -> tuple[str]:
        """What one input is."""
        return ("text-pair",) if self.pair else ("text",)

    @property
    def fills(self) -> dict[str, int]:
        """What padding is made of, by input; 0 in the others."""
        return {"input_ids": self.pad_id}


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
                kind = "pair" if options.pair else "single"
                _refuse_template(json.loads(inner.post_processor.__getstate__()), kind)
            specials = inner.num_special_tokens_to_add(options.pair)
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

    def __call__(self, raw: object) -> Item:
        """A text, or a pair of texts; of an empty text without special tokens, one padding token.

        Raises:
            InputError: not a string (or two), too long, or not valid Unicode.
            DeviceError: the tokenizer does not keep to the length.
        """
        texts = self._texts(raw)
        try:
            encoding = self._encode(*texts)
        except BaseException as reason:
            if not _is_panic(reason):
                raise
            if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
                raise InputError("text: not valid Unicode (half of a surrogate pair)") from None
            raise InputError(f"text: cannot be tokenized ({one_line(reason)[:200]})") from None
        ids = np.array(encoding.ids, dtype=np.int64)
        if len(ids) > self.max_length:
            raise DeviceError(
                f"step tokenize: {self.options.file} makes {len(ids)} tokens, "
                f"at most {self.max_length} were asked for"
            )
        if not len(ids):
            ids = np.array([self.options.pad_id], dtype=np.int64)
        made: dict[str, Tensor] = {"input_ids": ids}
        if "attention_mask" in self.options.inputs:
            made["attention_mask"] = np.ones_like(ids)
        if "token_type_ids" in self.options.inputs:
            types = encoding.type_ids if self.options.pair else ()
            made["token_type_ids"] = np.array(types or [0] * len(ids), dtype=np.int64)
        cut = len(ids) == self.max_length and bool(encoding.overflowing)
        return Item(made, length=len(ids), truncated=cut, tokens=_Places(encoding))

    def _texts(self, raw: object) -> tuple[str, ...]:
        """What is encoded, measured before it is."""
        if not self.options.pair:
            if not isinstance(raw, str):
                raise InputError(f"text: expected a string, found {type(raw).__name__}")
            self._check_size(raw, "text")
            return (raw,)
        if not isinstance(raw, (tuple, list)) or len(raw) != 2:
            found = f"{len(raw)} of them" if isinstance(raw, (tuple, list)) else type(raw).__name__
            raise InputError(f"text: expected two texts, found {found}")
        first, second = raw
        if not isinstance(first, str) or not isinstance(second, str):
            wrong = second if isinstance(first, str) else first
            raise InputError(f"text: expected two strings, found {type(wrong).__name__}")
        self._check_size(first, "first text")
        self._check_size(second, "second text")
        return first, second

    def _check_size(self, text: str, what: str) -> None:
        # A character is 1..4 bytes: only texts between the two bounds need to be measured.
        limit = self.options.max_bytes
        if len(text) * 4 > limit:
            size = len(text) if len(text) > limit else len(text.encode("utf-8", "replace"))
            if size > limit:
                raise InputError(f"{what}: {size} bytes or more, at most {limit} are accepted")

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


class _Places(Sequence["Token | None"]):
    """Where each token stands in the text, read from the encoding only where a task asks for it."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding.ids)

    @overload
    def __getitem__(self, index: int) -> Token | None: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Token | None]: ...

    def __getitem__(self, index: int | slice) -> Token | Sequence[Token | None] | None:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        word = self._encoding.word_ids[index]
        if word is None:
            return None
        start, end = self._encoding.offsets[index]
        return Token(start, end, word)


def _refuse_template(processor: Mapping[str, Any], kind: str) -> None:
    """Raises ValueError: a template that the library takes, to trip over it with every text.

    `kind` is "single", or "pair" where two texts are put together.
    """
    for inner in processor.get("processors", ()):
        _refuse_template(inner, kind)
    pieces = processor.get(kind, ())
    for piece in pieces:
        special = piece.get("SpecialToken", {}).get("id")
        if special is not None and special not in processor.get("special_tokens", ()):
            raise ValueError(f"its template names {special!r}, which is no special token")
    if sum("Sequence" in piece for piece in pieces) > (2 if kind == "pair" else 1):
        raise ValueError("its template holds the text more than once")


def _is_panic(reason: BaseException) -> bool:
    """Whether the library refused; its crashes inside are no Exception, but are told like one."""
    return isinstance(reason, Exception) or type(reason).__name__ == "PanicException"
