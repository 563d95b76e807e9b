"""Files of a bundle that claim to be a model, golden vectors or a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edge_runtime.errors import EdgeError, IncompatibleError, UntrustedError
from tests.hostile.attack import TRICKS, Attack
from tests.hostile.sound import (
    OUTSIDE,
    TENSOR,
    TENSORS,
    TOKENIZER,
    VALUES,
    number,
    record,
    safetensors,
    varint,
)

HEAD = number(1, 8)


def external(*files: bytes, path: Sequence[int] = (7, 5)) -> bytes:
    """A model with a tensor for each of these places of its values."""
    body = b""
    for file in files:
        tensor = record(8, b"w") + record(13, record(1, b"location") + record(2, file))
        for field in reversed(path[1:]):
            tensor = record(field, tensor)
        body += tensor
    return HEAD + record(path[0], body)


def _onnx() -> Iterator[Attack]:
    def refused(name: str, data: Callable[[], bytes], says: str = "not a whole ONNX") -> Attack:
        return Attack(name, "onnx", data, says, IncompatibleError)

    yield refused("a wire type that is none", lambda: b"\x0f\x00")
    yield refused("a group", lambda: HEAD + b"\x3b\x3c")
    yield refused("a record beyond the end", lambda: HEAD + b"\x3a\x7f" + b"x")
    yield refused("a record of 4 GiB", lambda: HEAD + b"\x3a\xff\xff\xff\xff\x0f")
    yield refused("a length of 11 bytes", lambda: HEAD + b"\x3a" + b"\xff" * 10 + b"\x01")
    yield refused("a length below 0", lambda: HEAD + b"\x3a" + b"\xff" * 9 + b"\x01")
    yield refused("a tag of 40 bits", lambda: HEAD + varint(7 << 3 | 2 | 1 << 36) + b"\0")
    yield refused("a number that is cut off", lambda: HEAD + b"\x08\xff\xff")
    yield refused("eight bytes of four", lambda: HEAD + b"\x09\0\0\0\0")
    yield refused("noise", lambda: bytes(range(255, 0, -1)) * 100)
    yield refused("subgraphs without end", lambda: HEAD + record(7, _nested(200)))
    for name, data in (
        ("nothing", b""),
        ("huge dims", HEAD + record(7, record(5, number(1, 2**62) * 8 + record(8, b"w")))),
        ("a dim below 0", HEAD + record(7, record(5, b"\x08" + b"\xff" * 9 + b"\x01"))),
        ("a hundred thousand empty tensors", HEAD + record(7, record(5, b"") * 100_000)),
        ("a hundred thousand graphs", HEAD + record(7, b"") * 100_000),
        ("60 subgraphs", HEAD + record(7, _nested(10))),
        ("a tensor that is none", HEAD + record(7, record(4, OUTSIDE))),
    ):
        yield Attack(name, "onnx", lambda data=data: data, error=None)  # type: ignore[misc]


def _nested(depth: int) -> bytes:
    body = record(5, TENSOR)
    for _ in range(depth):
        body = record(1, record(5, record(6, body)))
    return body


EXTERNAL: Sequence[tuple[str, bytes]] = (
    ("a parent", b"../../../etc/shadow"),
    ("an absolute path", b"/etc/shadow"),
    ("a file beside it", b"weights.bin"),
    ("a URL", b"http://evil.example/w"),
    ("memory", b"*/_ORT_MEM_ADDR_/*"),
    ("nothing", b""),
    ("a NUL", b"w\0.bin"),
    ("not UTF-8", b"\xff\xfe"),
    ("a device", b"/dev/zero"),
    ("a path without end", b"x/" * 5000),
)
"""Where an ONNX tensor says that its values are; none of it may ever be opened."""


def _golden() -> Iterator[Attack]:
    def refused(name: str, data: Callable[[], bytes], says: str = "") -> Attack:
        return Attack(name, "golden", data, says or "not a safetensors file", UntrustedError)

    def entry(key: str, value: object, of: str = "0.logits") -> Callable[[], bytes]:
        return lambda: safetensors({**TENSORS, of: {**TENSORS[of], key: value}}, VALUES)

    def header(text: str, size: int | None = None) -> Callable[[], bytes]:
        raw = text.encode()
        length = len(raw) if size is None else size
        return lambda: length.to_bytes(8, "little") + raw + VALUES

    whole = json.dumps(TENSORS)
    yield refused("nothing", lambda: b"")
    yield refused("seven bytes", lambda: b"\0" * 7)
    yield refused("an empty header", lambda: b"\0" * 8)
    yield refused("a header of 2**62", header(whole, 1 << 62))
    yield refused("a header of 100 MB", header(whole, 100_000_000))
    yield refused("a header below 0", header(whole, (1 << 64) - 1))
    yield refused("a header of spaces", header(" " * 1_000_000))
    yield refused("a list", header("[]"))
    yield refused("lists without end", header('{"a":' + "[" * 1_000_000))
    yield refused("not UTF-8", lambda: safetensors(b'{"\xff":1}'))
    yield refused("NaN", header(whole.replace("28", "NaN")))
    yield refused("bytes behind", lambda: safetensors(TENSORS, VALUES + b"x"))
    yield refused("cut short", lambda: safetensors(TENSORS, VALUES[:-1]))
    yield refused("an overlap", entry("data_offsets", [12, 24]))
    yield refused("a hole", entry("data_offsets", [17, 29]))
    yield refused("offsets that run backwards", entry("data_offsets", [28, 16]))
    yield refused("offsets beyond all", entry("data_offsets", [2**62, 2**62 + 12]))
    yield refused("an offset below 0", entry("data_offsets", [-12, 0]))
    yield refused("a huge dim", entry("shape", [2**40, 2**40]))
    yield refused("a dim below 0", entry("shape", [-1, -3]))
    yield refused(
        "no values of a huge shape",
        lambda: safetensors(
            {**TENSORS, "x": {"dtype": "U8", "shape": [2**63, 0], "data_offsets": [28, 28]}}, VALUES
        ),
    )
    yield refused("a hundred dims", entry("shape", [1] * 99 + [3]))
    yield refused("a larger dtype", entry("dtype", "F64"))
    yield refused("a smaller dtype", entry("dtype", "U8"))
    yield refused("another dtype", entry("dtype", "X" * 100_000))
    yield refused("a dtype that acts on terminals", entry("dtype", "F32\x1b[2J\n"))
    yield refused(
        "bfloat",
        lambda: safetensors(
            {"0.logits": {"dtype": "BF16", "shape": [6], "data_offsets": [0, 12]}}, VALUES[:12]
        ),
    )
    yield refused("complex", lambda: safetensors(
        {"0.ids": TENSORS["0.ids"],
         "0.logits": {"dtype": "C64", "shape": [1], "data_offsets": [16, 24]}}, VALUES[:24]),
        "is of complex64")  # fmt: skip
    yield refused("no tensors", lambda: safetensors({}), "0.ids is missing")
    yield refused("one missing", lambda: safetensors(
        {"0.ids": TENSORS["0.ids"]}, VALUES[:16]), "0.logits is missing")  # fmt: skip
    nan = VALUES[:16] + b"\0\0\xc0\x7f" * 3
    yield refused("a reference of NaN", lambda: safetensors(TENSORS, nan), "NaN or infinity")
    many = {**TENSORS, **{f"x{i}": {"dtype": "U8", "shape": [0], "data_offsets": [28, 28]}
                          for i in range(10_000)}}  # fmt: skip
    yield Attack("ten thousand empty tensors", "golden", lambda: safetensors(many, VALUES),
                 error=None)  # fmt: skip


def _tokenizers() -> Iterator[Attack]:
    def attack(name: str, build: Callable[[], bytes], error: type[EdgeError] | None) -> Attack:
        return Attack(name, "tokenizer", build, "cannot be used" if error else "", error)

    def with_parts(**parts: Any) -> Callable[[], bytes]:
        return lambda: json.dumps(TOKENIZER | parts).encode()

    model: dict[str, Any] = TOKENIZER["model"]
    for name, build in (
        ("nothing", lambda: b""),
        ("an object", lambda: b"{}"),
        ("a list", lambda: b"[]"),
        ("not UTF-8", lambda: b"\xff"),
        ("lists without end", lambda: b"[" * 1_000_000),
        ("no model", with_parts(model=None)),
        ("another model", with_parts(model={"type": "Exec", "command": "x"})),
        ("a vocabulary of text", with_parts(model=model | {"vocab": {"a": "b"}})),
        ("an id below 0", with_parts(model=model | {"vocab": {"a": -1}})),
        ("an id beyond all", with_parts(model=model | {"vocab": {"a": 2**40}})),
        ("another normalizer", with_parts(normalizer={"type": "\x1b[2J\n" * 500})),
        ("a regex that is none", with_parts(pre_tokenizer={
            "type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed", "invert": False})),
        ("merges of nothing", with_parts(model={
            "type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zz"]]})),
        ("special tokens that fill the length", with_parts(post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[PAD]", "type_id": 0}}] * 20,
            "pair": [],
            "special_tokens": {"[PAD]": {"id": "[PAD]", "ids": [0], "tokens": ["[PAD]"]}}})),
        ("a template that doubles the text", with_parts(post_processor={
            "type": "Sequence", "processors": [{"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
            "pair": [], "special_tokens": {}}]})),
        ("a special token that is not there", with_parts(post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[GONE]", "type_id": 0}}],
            "pair": [], "special_tokens": {}})),
    ):  # fmt: skip
        yield attack(name, build, IncompatibleError)
    for name, build in (
        ("no vocabulary", with_parts(model=model | {"vocab": {"[UNK]": 0}})),
        ("tokens that act on terminals", with_parts(model=model | {
            "vocab": {"[UNK]": 0, "\x1b[2J\n": 1}})),
        ("the largest id", with_parts(model=model | {"vocab": {"[UNK]": 2**32 - 1}})),
        ("padding to a million", with_parts(padding={
            "strategy": {"Fixed": 1_000_000}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"})),
        ("no truncation", with_parts(truncation={
            "direction": "Right", "max_length": 10**6, "strategy": "LongestFirst", "stride": 0})),
        *((what, with_parts(model=model | {"vocab": {"[UNK]": 0, text: 1}}))
          for what, text in TRICKS.items()),
    ):  # fmt: skip
        yield attack(name, build, None)


MODEL_ATTACKS: tuple[Attack, ...] = (*_onnx(), *_golden(), *_tokenizers())
