"""Sound examples of what each parser reads: attacks change one thing in them, fuzzers begin there.

`EXAMPLES` maps a parser to a maker of named examples; `json_of` gives a fresh document to change.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.bundle.archive import pack
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.delta import DeltaIndex, Difference, Piece, difference, join
from edge_runtime.bundle.files import Chunk
from edge_runtime.messages.enrollment import (
    Address,
    EnrollAnswer,
    EnrollRequest,
    OwnProfile,
    Token,
)
from edge_runtime.messages.fleet import BundleRef, Desired, Refusal
from edge_runtime.update import journal
from edge_runtime.update.lifecycle import State
from edge_runtime.update.record import Record
from tests.fakes.bundles import folder_reader, manifest, manifest_json, noise, write_bundle
from tests.fakes.messages import FLEET_MESSAGES, FRAMES, RELEASE
from tests.fakes.tiny import FIXTURE
from tests.hostile.attack import dumped
from tests.hostile.parse_peers import signed_files
from tests.hostile.promises import scratch

Examples = Mapping[str, bytes]

SMALL: Mapping[str, bytes] = {
    "model.onnx": noise(40, 1),
    "litert/model.tflite": noise(30, 2),
    "tokenizer.json": b"{}",
    "golden.safetensors": noise(50, 3),
    "empty.txt": b"",
}
"""Files of a bundle that a fuzzer can turn over many times a second."""


def _manifests() -> Examples:
    tokenize = {"step": "tokenize", "options": {"file": "tokenizer.json", "inputs": ["input_ids"]}}
    ranked = [{"step": "softmax"}, {"step": "top_k", "options": {"labels": ["a", "b"], "k": 1}}]
    full = manifest_json(SMALL, preprocess=[tokenize], postprocess=ranked)
    embedding = {"task": "embedding", "postprocess": [{"step": "l2_normalize"}]}
    return {
        "full": dumped(full),
        "embedding": dumped(full | embedding),
        "plain": manifest(SMALL, quality=None, preprocess=[], postprocess=[]).to_bytes(),
    }


def archive(contents: Mapping[str, bytes] = SMALL, name: str = "sound") -> bytes:
    """An `.edge` file."""
    folder, _ = write_bundle(scratch(f"{name}-bundle"), contents)
    pack(folder_reader(folder, contents=contents), scratch() / f"{name}.edge")
    return (scratch() / f"{name}.edge").read_bytes()


def _archives() -> Examples:
    few = {name: SMALL[name] for name in ("model.onnx", "litert/model.tflite", "tokenizer.json")}
    return {
        "small": archive(),
        "without-chunks": archive(
            {**dict.fromkeys(few, b""), "golden.safetensors": b"", "x": b""}, "empty"
        ),
    }


def _chunk_lists() -> Examples:
    entries = {
        "one": file_entry("model.onnx", b"x" * 10),
        "three": file_entry("a/b/c.bin", noise(200_000, 5)),
        "empty": file_entry("empty.txt", b""),
    }
    return {name: json.dumps(entry.as_json()).encode() for name, entry in entries.items()}


def _indexes() -> Examples:
    pieces = (Piece(Chunk("ab" * 32, 100), 0, 2), Piece(Chunk("cd" * 32, 131072), 2, 16))
    return {
        "two": DeltaIndex("12" * 32, "34" * 32, pieces).to_bytes(),
        "none": DeltaIndex("12" * 32, "34" * 32, ()).to_bytes(),
    }


def _pieces() -> Examples:
    old = bytes(range(256)) * 4
    new = bytes(byte ^ (index % 97 == 0) for index, byte in enumerate(old))
    near = Difference(0, 0, difference(new[:1000], old[:1000]))
    far = Difference(1, 500, difference(noise(1000), old[500:]))
    return {"near": join([near, near]), "far": join([near, far])}


def _messages(kind: str) -> Callable[[], Examples]:
    def examples() -> Examples:
        found = {type(message).__name__: data for message, data in FLEET_MESSAGES}
        made = {"full": found[kind]}
        if kind == "Desired":
            made["nothing"] = Desired(4, None).to_bytes()
        if kind == "InferResult":
            made["error"] = b'{"error":"no bundle serves","format":1}'
        if kind == "Telemetry":
            made["counted"] = json.dumps(telemetry()).encode()
        return made

    return examples


def telemetry() -> dict[str, Any]:
    """A message with histograms that are some."""
    found = {type(message).__name__: data for message, data in FLEET_MESSAGES}
    histogram = {
        "base": 1.1, "sum_ms": 6.0, "min_ms": 1.0, "max_ms": 3.0, "buckets": [[0, 1], [11, 1]],
    }  # fmt: skip
    read: dict[str, Any] = json.loads(found["Telemetry"])
    return read | {"latency": histogram, "queue_wait": histogram | {"buckets": [], "sum_ms": 0}}


def _frames() -> Examples:
    return {f"{number:02}": data for number, data in enumerate(FRAMES)} | {
        "several": b"".join(FRAMES[2:5])
    }


TOPICS = (
    "edge/v1/device/press-7/desired",
    "edge/v1/device/press-7/infer/r1",
    "edge/v1/device/press-7/infer/r1/result",
    "edge/v1/repo/metadata/demo@1.0.0@generic-x86_64.json",
    f"edge/v1/repo/chunk/{'ab' * 32}",
    "edge/v1/device/+/reported",
    "$share/fleet/edge/v1/#",
    "factory/line 3",
)

PROFILE = """\
name = "board"
title = "A board"
arch = "x86_64"
ram_bytes = 2_147_483_648
storage_bytes = 1
cpu_features = ["avx2"]
python = ["3.11"]
sequence_lengths = [16, 64]

[[engine]]
backend = "onnxruntime"
quantization = "dynamic_w8_channel"
threads = 1
options = { "session.intra_op.allow_spinning" = "0" }

[budget]
latency_ms = 250.0

[sources]
arch = "a test's choice"
ram_bytes = "a test's choice"
storage_bytes = "a test's choice"
cpu_features = "a test's choice"
python = "a test's choice"
sequence_lengths = "a test's choice"
engine = "a test's choice"
budget = "a test's choice"
"""

CONFIG = """\
device_id = "press-7"
profile = "generic-x86_64"
state_dir = "state"
trust = "none"
log_level = "info"

[broker]
url = "mqtt://user:secret@broker.example:1883"
prefix = "edge/v1"
version = "auto"

[api]
host = "127.0.0.1"
port = 8080
idle_timeout_s = 75.0

[telemetry]
interval_s = 10

[worker]
hang_s = 30.0

[update]
trial_s = 60.0
"""

FLEET = """\
format = 1
prefix = "edge/v1"
broker = "mqtts://broker.example:8883"
first_root = ""

[roles.root]
threshold = 1
expiry_days = 365
keys = { "12345678" = "file:keys/root.pem" }

[roles.targets]
threshold = 2
expiry_days = 90
keys = { "12345678" = "", "abcdefgh" = "hsm:2" }

[roles.snapshot]
threshold = 1
expiry_days = 30
keys = { "abcdefgh" = "file:s" }

[roles.timestamp]
threshold = 1
expiry_days = 7
keys = { "abcdefgh" = "file:t" }
"""
ISSUED = {
    "format": 1,
    "issued": [
        {"serial": "1f", "role": "device", "name": "press-7", "issued": "2026-01-01T00:00:00Z",
         "not_after": "2027-01-01T00:00:00Z"},
        {"serial": "2a", "role": "operator", "name": "o", "issued": "2026-01-01T00:00:00Z",
         "not_after": "2027-01-01T00:00:00Z", "revoked": "2026-02-01T00:00:00Z", "reason": "lost"},
    ],
}  # fmt: skip
ASKED = {"path": "/media/usb/demo.edge", "release": "demo==1.0.0", "token": "1", "reason": ""}

RECORD = Record(
    state=State.TESTING,
    desired=Desired(7, RELEASE, 2),
    local=True,
    active=BundleRef("demo", "0.9.0", "1" * 64),
    previous=BundleRef("demo", "0.8.0", "2" * 64),
    candidate=RELEASE.ref,
    good=False,
    refused=(Refusal("3" * 64, 1, "cosine 0.07, floor 0.99"),),
    boots=2,
    fetched_bytes=123,
    update_s=4.5,
    reason="why",
)
FLOOR = {"format": 1, "time_s": 1.8e9, "keys": ["a"], "boot_id": "b", "uptime_s": 7.0}


def _pictures() -> Examples:
    from PIL import Image

    made = {}
    for name, mode in (("png", "RGB"), ("png", "P"), ("png", "LA"), ("jpeg", "RGB"), ("jpeg", "L")):
        file = io.BytesIO()
        Image.linear_gradient("L").resize((24, 16)).convert(mode).save(file, name)
        made[f"{name}-{mode.lower()}"] = file.getvalue()
    return made


def wav(data: bytes, *, tag: int = 1, channels: int = 1, bits: int = 16, rate: int = 8000) -> bytes:
    """A RIFF WAVE file of these samples."""
    wide = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * wide, wide, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _sounds() -> Examples:
    return {
        "pcm16": wav(bytes(range(64))),
        "pcm8-stereo": wav(bytes(range(32)), channels=2, bits=8),
        "pcm24": wav(bytes(range(48)), bits=24),
        "float": wav(struct.pack("<4f", 0.0, 0.5, -0.5, 1.0), tag=3, bits=32),
    }


def varint(value: int) -> bytes:
    """As protobuf writes a number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(field: int, body: bytes) -> bytes:
    """A protobuf field with a length."""
    return varint(field << 3 | 2) + varint(len(body)) + body


def number(field: int, value: int) -> bytes:
    """A protobuf field that is a number."""
    return varint(field << 3) + varint(value)


TENSOR = number(1, 3) + number(2, 1) + record(8, b"weights") + record(9, b"\0" * 12)
OUTSIDE = record(8, b"weights") + record(13, record(1, b"location") + record(2, b"../../shadow"))


def _onnx() -> Examples:
    node = record(4, b"Constant") + record(5, record(1, b"value") + record(5, TENSOR))
    graph = record(1, node) + record(2, b"main") + record(5, TENSOR)
    head = number(1, 8) + record(2, b"us") + record(8, number(2, 17))
    sub = record(1, record(5, record(6, record(5, TENSOR))))
    return {
        "graph": head + record(7, graph),
        "subgraph": head + record(7, sub),
        "sparse": head + record(7, record(15, record(1, TENSOR) + record(2, TENSOR))),
        "function": head + record(25, record(7, node) + record(11, record(5, TENSOR))),
        "training": head + record(20, record(1, graph)),
        "outside": head + record(7, record(5, OUTSIDE)),
        "outside-by-number": head + record(7, record(5, record(8, b"w") + number(14, 1))),
    }


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A file with this header, as JSON or as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


TENSORS: Mapping[str, Any] = {
    "0.ids": {"dtype": "I64", "shape": [1, 2], "data_offsets": [0, 16]},
    "0.logits": {"dtype": "F32", "shape": [1, 3], "data_offsets": [16, 28]},
}
VALUES = (1).to_bytes(8, "little") * 2 + b"\0\0\x80\x3f" * 3


def _golden() -> Examples:
    half = {**TENSORS, "0.logits": {"dtype": "F16", "shape": [1, 3], "data_offsets": [16, 22]}}
    return {
        "float": safetensors(TENSORS, VALUES),
        "half": safetensors(half, VALUES[:22]),
        "noted": safetensors({"__metadata__": {"a": "b"}, **TENSORS}, VALUES),
    }


TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": 0, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True},
    ],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "web": 2}, "unk_token": "[UNK]",
    },
}  # fmt: skip


def _tokenizers() -> Examples:
    pieces = TOKENIZER | {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Removed",
                          "invert": False},
        "model": {
            "type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        },
    }  # fmt: skip
    bytewise = TOKENIZER | {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    }
    made = {"words": TOKENIZER, "pieces": pieces, "bytes": bytewise}
    return {
        **{name: json.dumps(value).encode() for name, value in made.items()},
        "fixture": (FIXTURE / "tokenizer.json").read_bytes(),
    }


TEXT_BODY: dict[str, Any] = {
    "id": "1",
    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "web server"]}],
    "outputs": [{"name": "label"}],
}
TENSOR_BODY: dict[str, Any] = {
    "inputs": [
        {"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]},
        {"name": "attention_mask", "datatype": "INT64", "shape": [1, 3], "data": [[1, 1, 1]]},
    ]
}
PATHS = (
    "GET /v2",
    "GET /v2/health/ready",
    "GET /v2/models/tiny",
    "HEAD /v2/models/tiny/versions/1.0.0/ready?x=1",
    "POST /v2/models/t%69ny/infer",
    "DELETE /v2/models/tiny/",
)


def http(body: bytes, *headers: str, line: str = "POST /v2/models/tiny/infer HTTP/1.1") -> bytes:
    """A request."""
    head = [line, "Host: here", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _connections() -> Examples:
    body = json.dumps(TEXT_BODY).encode()
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"
    return {
        "post": http(body),
        "two": get + http(body, "Connection: close"),
        "expect": http(body, "Expect: 100-continue"),
        "old": b"GET /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get,
        "head": b"HEAD /v2 HTTP/1.1\r\nHost: here\r\n\r\n",
    }


def _answers() -> Examples:
    return {
        "found": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "missing": b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "until-closed": b"HTTP/1.0 200 OK\r\n\r\n{}",
        "moved": b"HTTP/1.1 302 F\r\nLocation: https://b.example/x\r\nContent-Length: 0\r\n\r\n",
        "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    }


def packet(kind: int, body: bytes) -> bytes:
    """An MQTT packet."""
    return bytes([kind]) + varint(len(body)) + body


def _text(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


ACCEPTED = packet(0x20, b"\0\0\0")
"""The broker takes the connection (MQTT 5)."""


def published(topic: bytes, payload: bytes, properties: bytes = b"", kind: int = 0x30) -> bytes:
    """A message of quality 0."""
    return packet(kind, _text(topic) + varint(len(properties)) + properties + payload)


def _packets() -> Examples:
    topic = b"edge/v1/device/d1/desired"
    properties = b"\x08" + _text(b"edge/v1/x") + b"\x09" + _text(b"r1")
    once = packet(0x33, _text(topic) + b"\0\1" + b"\0" + b"{}")
    return {
        "accepted": ACCEPTED,
        "refused": packet(0x20, b"\0\x87\0"),
        "published": ACCEPTED + published(topic, b"{}") + published(topic, b"{}", properties),
        "acknowledged": ACCEPTED + once + packet(0x90, b"\0\1\0\1") + packet(0xD0, b""),
        "ended": ACCEPTED + packet(0xE0, b"\x8b\0"),
        "limited": packet(0x20, b"\0\0\3\x21\0\1"),
    }


def _metadata() -> Examples:
    files = signed_files()
    names = ["2.root.json", "timestamp.json", *(n for n in files if n[:2] == "2.")]
    made = {name: files.get(name, files["1.root.json"]) for name in names}
    made["disk/timestamp.json"] = files["timestamp.json"]
    return {
        name.replace("/", "-"): name.encode() + b"\n" + data for name, data in sorted(made.items())
    }


TOKEN = Token(
    "press-7",
    (Address("fleet.example"), Address("fd00::7", 9000)),
    "ab" * 32,
    "s3cret_-" * 5 + "abc",
)
ENROLL_REQUEST = EnrollRequest("press-7", TOKEN.secret, "a request", "0.2.0", "aarch64", "3.11.2")
ENROLL_ANSWER = EnrollAnswer(
    "press-7", "a certificate", "an authority", "{}", "x = 1", OwnProfile("my-board.toml", "y = 2")
)


def _numbered(*lines: str) -> Callable[[], Examples]:
    return lambda: {f"{number:02}": line.encode() for number, line in enumerate(lines)}


EXAMPLES: Mapping[str, Callable[[], Examples]] = {
    "manifest": _manifests,
    "container": _archives,
    "archive": _archives,
    "chunk-list": _chunk_lists,
    "delta-index": _indexes,
    "delta-piece": _pieces,
    **{
        type(message).__name__.lower(): _messages(type(message).__name__)
        for message, _ in FLEET_MESSAGES
    },
    "token": lambda: {"full": TOKEN.text.encode()},
    "enroll-request": lambda: {"full": ENROLL_REQUEST.to_bytes()},
    "enroll-answer": lambda: {"full": ENROLL_ANSWER.to_bytes()},
    "frame": _frames,
    "topic": _numbered(*TOPICS),
    "profile": lambda: {"board": PROFILE.encode()},
    "config": lambda: {"agent": CONFIG.encode()},
    "broker-url": _numbered(
        "mqtt://broker.example", "mqtts://u:p%40@[::1]:8883/", "MQTT://127.0.0.1:1883"
    ),
    "source-url": _numbered(
        "https://mirror.example/edge", "file:///media/usb/edge", "http://127.0.0.1:8000/",
        "https://[::1]:8443/a/b", "//b.example/x?sig=1", "../other",
    ),
    "picture": _pictures,
    "sound": _sounds,
    "infer-lines": _numbered('"a"\n{"text": "b", "id": 1}\n\n', '{"text": "ü"}'),
    "fleet-settings": lambda: {"fleet": FLEET.encode()},
    "certificates": lambda: {"two": json.dumps(ISSUED).encode()},
    "install": lambda: {"asked": json.dumps(ASKED).encode()},
    "journal": lambda: {
        "full": journal.to_bytes(RECORD),
        "idle": journal.to_bytes(Record()),
        "nothing-wanted": journal.to_bytes(Record(desired=Desired(1, None))),
    },
    "time-floor": lambda: {"floor": json.dumps(FLOOR).encode()},
    "spool": _numbered('{"n":1}\n{"n":2}\n{"n":3,"te', '{"n":1}\n\0\0\0\0\n{"n":2}\n'),
    "slot": lambda: {"full": _manifests()["full"]},
    "onnx": _onnx,
    "golden": _golden,
    "tokenizer": _tokenizers,
    "infer-body": lambda: {
        "texts": json.dumps(TEXT_BODY).encode(),
        "tensors": json.dumps(TENSOR_BODY).encode(),
    },
    "request-path": _numbered(*PATHS),
    "http-connection": _connections,
    "web-answer": _answers,
    "broker-packets": _packets,
    "metadata": _metadata,
}  # fmt: skip


def json_of(parser: str, example: str = "full") -> Callable[[], Any]:
    """A fresh document of an example, for an attack to change."""
    return lambda: json.loads(EXAMPLES[parser]()[example])


CORPUS = Path(__file__).parent / "corpus"


def corpus(parser: str) -> dict[str, bytes]:
    """What is committed for a parser, by file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / parser).iterdir())}
