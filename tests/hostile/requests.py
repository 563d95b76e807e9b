"""Malformed requests to the local API, and malformed answers of servers that a device asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from edge_runtime.errors import EdgeError, MetadataError, TransferError
from tests.hostile.attack import TRICKS, Attack, dumped, on_json
from tests.hostile.sound import (
    ACCEPTED,
    TENSOR_BODY,
    TEXT_BODY,
    http,
    packet,
    published,
)

MAX_BODY_BYTES = 4 << 20
"""Of the API that the parser `infer-body` asks, which answers its errors: none is raised."""


def _tensor(**changes: object) -> Callable[[], Any]:
    """A body with one tensor."""
    tensor: dict[str, Any] = {"name": "input_ids", "datatype": "INT64", "shape": [1], "data": [1]}
    return lambda: {"inputs": [tensor | changes]}


def _bodies() -> Iterator[Attack]:
    for general in on_json("infer-body", lambda: TEXT_BODY, MAX_BODY_BYTES, TransferError):
        yield Attack(general.name, "infer-body", general.build, error=None)
    bomb = ["x" * 100_000] + [""] * 20_000
    for name, document in (
        ("no inputs", lambda: {"inputs": []}),
        ("inputs as object", lambda: {"inputs": {"0": {}}}),
        ("65 inputs", lambda: {"inputs": [{}] * 65}),
        ("an input twice", lambda: {"inputs": TEXT_BODY["inputs"] * 2}),
        ("texts beside tensors", lambda: {"inputs": TEXT_BODY["inputs"] + TENSOR_BODY["inputs"]}),
        ("an unknown input", _tensor(name="x\n\x1b[2J")),
        ("an unknown output", lambda: TEXT_BODY | {"outputs": [{"name": "x\u202e" * 100}]}),
        ("another datatype", _tensor(datatype="FP128")),
        ("texts as tensor", _tensor(datatype="BYTES", data=["a"])),
        ("a huge dim", _tensor(shape=[2**31 - 1] * 8)),
        ("a dim beyond all", _tensor(shape=[2**31])),
        ("a dim below 0", _tensor(shape=[-1, -1])),
        ("a dim of 1.0", _tensor(shape=[1.0])),
        ("a dim of true", _tensor(shape=[True])),
        ("rank 9", _tensor(shape=[1] * 9)),
        ("no dims", _tensor(shape=[])),
        ("no values", _tensor(shape=[0], data=[])),
        ("no values of a huge shape", _tensor(shape=[0, 2**31 - 1], data=[])),
        ("too few values", _tensor(shape=[2])),
        ("uneven nesting", _tensor(shape=[2, 2], data=[[1], [2, 3]])),
        ("nesting beside numbers", _tensor(shape=[2], data=[[1], 2])),
        ("nesting without end", _tensor(data=json.loads("[" * 30 + "1" + "]" * 30))),
        ("strings as numbers", _tensor(data=["1"])),
        ("the room of the longest string for each", _tensor(shape=[20_001], data=bomb)),
        ("the same, nested", _tensor(shape=[2, 20_001], data=[bomb, bomb])),
        ("objects as numbers", _tensor(data=[{"a": 1}])),
        ("nothing as number", _tensor(data=[None])),
        ("a number beyond 64 bits", _tensor(data=[2**64])),
        ("a number beyond floats", _tensor(datatype="FP32", data=[10**299])),
        ("mixed numbers beyond all", _tensor(datatype="FP32", data=[0.5, 10**299], shape=[2])),
        ("a float that overflows", _tensor(datatype="FP16", data=[1e9])),
        ("a fraction as integer", _tensor(data=[0.5])),
        ("true as integer", _tensor(datatype="BOOL", data=[1])),
        ("a byte that wraps around", _tensor(datatype="UINT8", data=[-1])),
        ("a token that is none", _tensor(shape=[1, 1], data=[2**40])),
        ("a million numbers", _tensor(shape=[1_000_000], data=[1] * 1_000_000)),
        ("data as text", _tensor(data="1234")),
        ("data as object", _tensor(data={})),
        ("an id of a list", lambda: TEXT_BODY | {"id": []}),
        ("an id without end", lambda: TEXT_BODY | {"id": "x" * 100_000}),
        ("65 texts", changed_text(["a"] * 65)),
        ("a text of lists", changed_text([["a", "b"], [["c"]]])),
        ("a text of a megabyte", changed_text(["x" * (1 << 20), "y"])),
        ("a text with NUL", changed_text(["a\0b", ""])),
        *((what, changed_text([text, text])) for what, text in TRICKS.items()),
    ):
        yield Attack(name, "infer-body", _written(document), error=None)


def _written(document: Callable[[], Any]) -> Callable[[], bytes]:
    return lambda: dumped(document())


def changed_text(data: object) -> Callable[[], Any]:
    """The body of texts with other texts."""
    return lambda: {"inputs": [TEXT_BODY["inputs"][0] | {"data": data}]}


def _paths() -> Iterator[Attack]:
    for text in (
        "", " ", "GET", "GET /", "GET //v2", "GET /v2/../v2", "GET /v2/models/%", "GET /v2/%2e%2e/",
        "GET /v2/models/" + "x" * 30_000, "POST /v2/models/tiny/infer/", "GET /v2/models/%00",
        "GET /v2/models/tiny%0d%0aX: y", "OPTIONS *", "CONNECT a:1", "GET http://a/v2",
        "\x1b[2J /v2", "GET /v2/models/\xff\xfe/versions/\x9b2J", "GET /v2?" + "a=b&" * 9000,
    ):  # fmt: skip
        yield Attack(repr(text)[:40], "request-path", lambda text=text: text.encode("latin-1"),  # type: ignore[misc]
                     error=None)  # fmt: skip


def _connections() -> Iterator[Attack]:
    get, post = "GET /v2 HTTP/1.1\r\nHost: a\r\n", b"POST /v2 HTTP/1.1\r\nContent-Length: "
    body = dumped(TEXT_BODY)
    for name, data in (
        ("nothing", b""),
        ("zeros", b"\0" * 8000),
        ("noise", bytes(range(256)) * 30),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 300),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("HTTP/0.9", b"GET /v2\r\n"),
        ("HTTP/9.9", b"GET /v2 HTTP/9.9\r\n\r\n"),
        ("a version beyond all", b"GET /v2 HTTP/" + b"1" * 5000 + b".1\r\n\r\n"),
        ("a line without end", b"GET /" + b"a" * 15_000),
        ("headers without end", get.encode() + b"A: b\r\n" * 2000),
        ("a header without end", get.encode() + b"A: " + b"b" * 15_000),
        ("a folded header", (get + "A: b\r\n c\r\n\r\n").encode()),
        ("a header that acts on terminals", (get + "A: \x1b[2J\r\n\r\n").encode()),
        ("a bare carriage return", (get + "A: b\rContent-Length: 5\r\n\r\nhello").encode()),
        ("a space before the colon", (get + "Content-Length : 5\r\n\r\nhello").encode()),
        ("two lengths", http(body, "Content-Length: 1")),
        ("a length below 0", b"POST /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        ("a length of +1", b"POST /v2 HTTP/1.1\r\nContent-Length: +1\r\n\r\nx"),
        ("a length in Arabic digits", "POST /v2 HTTP/1.1\r\nContent-Length: ١\r\n\r\nx".encode()),
        ("a length beyond all", post + b"9" * 5000 + b"\r\n\r\n"),
        ("a body in pieces", http(b"", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"),
        ("a body that never comes", b"POST /v2 HTTP/1.1\r\nContent-Length: 900\r\n\r\nx"),
        ("a thousand requests", (get + "\r\n").encode() * 400),
        ("two requests in one", http(b"GET /v2 HTTP/1.1\r\n\r\n")),
        ("a NUL in the path", b"GET /v2\0/x HTTP/1.1\r\n\r\n"),
        ("newlines first", b"\r\n" * 2000 + (get + "\r\n").encode()),
        ("expecting anything", http(body, "Expect: 200-ok")),
    ):  # fmt: skip
        yield Attack(name, "http-connection", lambda data=data: data, error=None)  # type: ignore[misc]


def _answers() -> Iterator[Attack]:
    ok = b"HTTP/1.1 200 OK\r\n"
    pieces = ok + b"Transfer-Encoding: chunked\r\n\r\n"
    failed, large = TransferError, MetadataError
    rows: tuple[tuple[str, bytes, str, type[EdgeError]], ...] = (
        ("nothing", b"", "cannot be fetched", failed),
        ("zeros", b"\0" * 5000, "cannot be fetched", failed),
        ("noise", bytes(range(256)) * 300, "", failed),
        ("TLS", b"\x15\x03\x01\x00\x02\x02\x46", "cannot be fetched", failed),
        ("a status that is none", b"HTTP/1.1 OK\r\n\r\n", "cannot be fetched", failed),
        ("a status of 9 digits", b"HTTP/1.1 200000000 OK\r\n\r\n", "cannot be fetched", failed),
        ("HTTP/2", b"HTTP/2.0 200 OK\r\n\r\n{}", "", failed),
        ("a status line without end", b"HTTP/1.1 200 " + b"O" * 200_000, "", failed),
        ("headers without end", ok + b"A: b\r\n" * 20_000, "", failed),
        ("a header without end", ok + b"A: " + b"b" * 200_000, "", failed),
        ("1xx without end", b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, "", failed),
        ("no end of the head", ok + b"Content-Length: 2\r\n", "cut off", failed),
        ("a length below 0", ok + b"Content-Length: -5\r\n\r\n" + b"x" * 2000, "", large),
        ("a length beyond all", ok + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", "", large),
        ("more than it may", ok + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, "more", large),
        ("more, unannounced", b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 5000, "more than", large),
        ("less than it says", ok + b"Content-Length: 9\r\n\r\nx", "cut off after 1", failed),
        ("compressed", ok + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "gzip",
         failed),
        ("an encoding that acts on terminals",
         ok + b"Content-Encoding: \x1b[2J\r\nContent-Length: 1\r\n\r\nx", "asked for", failed),
        ("pieces without end", pieces + b"1\r\nx\r\n" * 5000, "", large),
        ("a piece of 2**64", pieces + b"FFFFFFFFFFFFFFFF\r\n" + b"x" * 5000, "", large),
        ("a piece below 0", pieces + b"-5\r\n" + b"x" * 5000, "", failed),
        ("a piece that is none", pieces + b"zz\r\nxx\r\n", "", failed),
        ("notes on pieces without end", pieces + b"1;" + b"x" * 200_000, "", failed),
        ("trailers without end", pieces + b"0\r\n" + b"A: b\r\n" * 20_000, "", failed),
        ("a redirect to nowhere", b"HTTP/1.1 302 F\r\n\r\n", "without saying where", failed),
        ("a redirect off TLS",
         b"HTTP/1.1 302 F\r\nLocation: http://169.254.169.254/\r\n\r\n", "redirects", failed),
        ("a redirect to a file",
         b"HTTP/1.1 302 F\r\nLocation: file:///etc/shadow\r\n\r\n", "redirects", failed),
        ("a redirect that acts on terminals",
         b"HTTP/1.1 302 F\r\nLocation: \x1b[2J\xe2\x80\xae://x\r\n\r\n", "redirects", failed),
        ("an error page without end",
         b"HTTP/1.1 500 E\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000, "500", failed),
    )  # fmt: skip
    for name, data, says, error in rows:
        yield Attack(name, "web-answer", lambda data=data: data, says, error)  # type: ignore[misc]


def _packets() -> Iterator[Attack]:
    topic = b"edge/v1/device/d1/desired"
    for name, data in (
        ("nothing", b""),
        ("zeros", b"\0" * 5000),
        ("noise", bytes(range(256)) * 30),
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("a length of 5 bytes", b"\x20\xff\xff\xff\xff\xff\xff"),
        ("a packet of 256 MB", b"\x30\xff\xff\xff\x7f" + b"x" * 5000),
        ("half a connack", b"\x20\x03\0"),
        ("a connack of nothing", b"\x20\0"),
        ("another reason", packet(0x20, b"\0\x7f\0")),
        ("properties beyond the end", packet(0x20, b"\0\0\x7f\x21")),
        ("a property that is none", packet(0x20, b"\0\0\2\xfe\0")),
        ("a property twice", packet(0x20, b"\0\0\6\x21\0\1\x21\0\2")),
        ("no receiving at all", packet(0x20, b"\0\0\3\x21\0\0")),
        ("a publish of nothing", ACCEPTED + packet(0x30, b"")),
        ("a topic beyond the end", ACCEPTED + packet(0x30, b"\xff\xffx")),
        ("a topic of nothing", ACCEPTED + published(b"", b"{}")),
        ("a topic that is not UTF-8", ACCEPTED + published(b"edge/v1/\xff", b"{}")),
        ("a topic with NUL", ACCEPTED + published(b"edge/v1/\0", b"{}")),
        ("a topic with wildcards", ACCEPTED + published(b"edge/v1/#", b"{}")),
        ("a topic that was not asked for", ACCEPTED + published(b"other", b"{}")),
        ("a topic without end", ACCEPTED + published(b"edge/v1/" + b"a/" * 30_000, b"{}")),
        ("a payload beyond the bound", ACCEPTED + published(topic, b"x" * 3000)),
        ("quality 3", ACCEPTED + published(topic, b"{}", kind=0x36)),
        ("a response topic that is not UTF-8",
         ACCEPTED + published(topic, b"{}", b"\x08\0\2\xff\xfe")),
        ("an acknowledgement of nothing", ACCEPTED + packet(0x40, b"\0\1\x87\0")),
        ("a subscription that nobody made", ACCEPTED + packet(0x90, b"\xff\xff\0\x87")),
        ("a packet for brokers", ACCEPTED + packet(0x10, b"\0\4MQTT\5\0\0\0\0\0\0")),
        ("type 0", ACCEPTED + packet(0, b"xx")),
        ("an authentication", ACCEPTED + packet(0xF0, b"\x18\0")),
        ("a goodbye with a text that acts on terminals",
         ACCEPTED + packet(0xE0, b"\x8b\x07\x1f\0\4\x1b[2J")),
        ("a thousand connacks", ACCEPTED * 1000),
        ("a thousand messages", ACCEPTED + published(topic, b"{}") * 1000),
    ):  # fmt: skip
        yield Attack(name, "broker-packets", lambda data=data: data, error=None)  # type: ignore[misc]


REQUEST_ATTACKS: tuple[Attack, ...] = (
    *_bodies(), *_paths(), *_connections(), *_answers(), *_packets(),
)  # fmt: skip
