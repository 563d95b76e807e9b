from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from edge_runtime.agent.config import ApiConfig
from edge_runtime.agent.openinference import Request, Response, reply
from edge_runtime.agent.server import MAX_HEAD_BYTES, HttpServer

CONFIG = ApiConfig(
    max_connections=4, max_body_bytes=1000, request_timeout_s=0.4, idle_timeout_s=5.0
)


def echo(request: Request) -> Response:
    return reply(
        {"method": request.method, "path": request.path, "body": request.body.decode("latin-1")}
    )


class Running:
    """A server on a free port, and whatever it handed over."""

    def __init__(self, config: ApiConfig, answer: Callable[[Request], Response]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.handed: list[socket.socket] = []
        self.server = HttpServer(self.listener, config, answer, self._hand_over)
        self.drained = False

    def _hand_over(self, sock: socket.socket) -> None:
        self.handed.append(sock.dup())

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname(), timeout=5)

    def drain(self, timeout_s: float = 5.0) -> bool:
        self.drained = True
        return self.server.drain(timeout_s)


@contextmanager
def running(
    config: ApiConfig = CONFIG, answer: Callable[[Request], Response] = echo
) -> Iterator[Running]:
    made = Running(config, answer)
    made.server.start()
    try:
        yield made
    finally:
        if not made.drained:
            made.drain()
        for sock in (*made.handed, made.listener):
            sock.close()


def read_response(sock: socket.socket) -> tuple[int, dict[str, str], Any]:
    """(status, headers, JSON) of one response; its body ends where Content-Length says."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(4096)
        assert piece, f"connection ended after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    size = int(headers["Content-Length"])
    while len(body) < size:
        body += sock.recv(4096)
    assert len(body) == size, "more than one response arrived"
    return int(status_line.split()[1]), headers, json.loads(body) if body else None


def ask(sock: socket.socket, data: bytes) -> tuple[int, dict[str, str], Any]:
    sock.sendall(data)
    return read_response(sock)


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /x HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_one_connection_carries_many_requests() -> None:
    with running() as it, it.connect() as sock:
        for text in (b"one", b"two", b"x" * 1000):
            status, headers, value = ask(sock, post(text))
            assert (status, value["body"]) == (200, text.decode())
            assert "Connection" not in headers


def test_requests_that_come_together_are_answered_in_order() -> None:
    with running() as it, it.connect() as sock:
        sock.sendall(post(b"a") + post(b"b") + post(b"c"))
        seen = b""
        while seen.count(b"HTTP/1.1 200") < 3 or not seen.endswith(b"}"):
            seen += sock.recv(4096)
        bodies = [seen.index(b'"body":"' + letter) for letter in (b"a", b"b", b"c")]
        assert bodies == sorted(bodies)


def test_a_request_may_come_byte_by_byte() -> None:
    with running() as it, it.connect() as sock:
        for byte in post(b"slow but sure"):
            sock.sendall(bytes([byte]))
        assert read_response(sock)[2]["body"] == "slow but sure"


def test_http_1_0_closes_unless_asked_to_stay() -> None:
    with running() as it:
        with it.connect() as sock:
            _, headers, _ = ask(sock, b"GET /a HTTP/1.0\r\n\r\n")
            assert headers["Connection"] == "close"
            assert is_closed(sock)
        with it.connect() as sock:
            _, headers, _ = ask(sock, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert headers["Connection"] == "keep-alive"
            assert ask(sock, b"GET /b HTTP/1.0\r\n\r\n")[0] == 200


def test_head_has_a_length_and_no_body() -> None:
    with running() as it, it.connect() as sock:
        sock.sendall(b"HEAD /a HTTP/1.1\r\n\r\n")
        time.sleep(0.1)
        data = sock.recv(4096)
        assert data.endswith(b"\r\n\r\n")
        assert b"Content-Length: 0" not in data


def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    with running() as it, it.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert ask(sock, b"ok")[2]["body"] == "ok"


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"POST /x HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413, "1001 bytes, at most 1000"),
        (
            b"POST /x HTTP/1.1\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n",
            413,
            "1001 bytes, at most 1000",
        ),
        (b"POST /x HTTP/1.1\r\n\r\n", 411, "Content-Length is missing"),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411, "chunked|not"),
        (b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "one number"),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1e2\r\n\r\n", 400, "one number"),
        (
            b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400,
            "one number",
        ),
        (b"POST /x HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400, "one number"),
        (b"GET /x\r\n\r\n", 400, "HTTP/0.9"),
        (b"nonsense\r\n\r\n", 400, "nonsense"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "Bad"),
        (b"GET /x HTTP/3.0\r\n\r\n", 505, "HTTP version"),
        (b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n", 431, "head of the request"),
        (b"GET /x HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, "header"),
        (b"GET /x HTTP/1.1\r\nA: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, "head"),
    ],
)
def test_a_bad_request_gets_one_sentence_and_the_connection_ends(
    data: bytes, status: int, says: str
) -> None:
    with running() as it, it.connect() as sock:
        found, headers, value = ask(sock, data)
        assert found == status
        assert list(value) == ["error"]
        assert any(part in value["error"] for part in says.split("|"))
        assert headers["Connection"] == "close"
        assert is_closed(sock)


SMUGGLED = b"GET /evil HTTP/1.1\r\nHost: inside\r\n\r\n"
SIZE = b"%d" % len(SMUGGLED)
HIDING = {
    "a blank before the colon": b"Content-Length : " + SIZE,
    "a tab before the colon": b"Content-Length\t: " + SIZE,
    "a blank before the name": b"X: a\r\n Content-Length: " + SIZE,
    "a folded value": b"Content-Length:\r\n " + SIZE,
    "a line without a colon": b"junk\r\nContent-Length: " + SIZE,
    "a line without a name": b": junk\r\nContent-Length: " + SIZE,
    "a name that is no token": b"a(b): c\r\nContent-Length: " + SIZE,
    "a name in another script": b"\xe9: c\r\nContent-Length: " + SIZE,
    "chunks behind junk": b"Content-Length: 0\r\njunk\r\nTransfer-Encoding: chunked",
    "chunks behind a blank": b"Content-Length: 0\r\nTransfer-Encoding : chunked",
    "a bare CR": b"X: a\rContent-Length: " + SIZE,
    "a bare CR before the end of a line": b"X: a\r\r\nContent-Length: " + SIZE,
    "a bare LF": b"X: a\nContent-Length: " + SIZE,
    "a NUL": b"X: a\0\r\nContent-Length: " + SIZE,
    "a NUL in the length": b"Content-Length: " + SIZE + b"\0",
    "a blank that is none": b"Content-Length: " + SIZE + b"\xa0",
    "a form feed": b"Content-Length: \x0c" + SIZE,
    "an escape": b"X: \x1b[2J\r\nContent-Length: " + SIZE,
    "lengths that conflict": b"Content-Length: 0\r\nContent-Length: " + SIZE,
    "lengths in one line": b"Content-Length: 0, " + SIZE,
    "the mark of a mailbox": b"From nobody\r\nContent-Length: " + SIZE,
}


@pytest.mark.parametrize("lines", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("first", [b"GET /x", b"POST /x"], ids=["get", "post"])
def test_a_head_that_can_be_read_in_two_ways_is_refused_and_nothing_after_it_is_served(
    lines: bytes, first: bytes
) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        return echo(request)

    with running(answer=answer) as it, it.connect() as sock:
        sock.sendall(first + b" HTTP/1.1\r\nHost: test\r\n" + lines + b"\r\n\r\n" + SMUGGLED)
        status, headers, value = read_response(sock)
        assert (status, headers["Connection"], list(value)) == (400, "close", ["error"])
        assert is_closed(sock)
        assert seen == []


@pytest.mark.parametrize(
    "line",
    [
        b"GET /x\rHTTP/1.1",
        b"GET /x\x0bHTTP/1.1",
        b"GET\t/x HTTP/1.1",
        b"GET  /x HTTP/1.1",
        b"GET /x HTTP/1.1 ",
        b" GET /x HTTP/1.1",
        b"GET /x\0 HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET /x HTTP/01.1",
    ],
)
def test_a_request_line_that_can_be_read_in_two_ways_is_refused(line: bytes) -> None:
    with running() as it, it.connect() as sock:
        status, headers, value = ask(sock, line + b"\r\n\r\n")
        assert (status, headers["Connection"], list(value)) == (400, "close", ["error"])
        assert is_closed(sock)


def test_headers_that_honest_clients_send_pass() -> None:
    lines = [
        *("Accept:*/*", "X-Empty:", "x-tab:\ta\tb ", "Cookie: a=b; c=\u00fc", "!#$%&'*+-.^_`|~: x"),
        *("Content-Type: multipart/form-data", "Content-Length: 2"),
    ]
    with running() as it, it.connect() as sock:
        for _ in range(2):
            data = post(b"ok", *lines[:-1]).replace(b"\xc3\xbc", b"\xfc")
            assert ask(sock, data)[2]["body"] == "ok"
        assert ask(sock, post(b"ok", lines[-1]))[2]["body"] == "ok"


def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    with running(replace(CONFIG, request_timeout_s=5.0)) as it, it.connect() as sock:
        begin_s = time.monotonic()
        status, _, _ = ask(sock, b"POST /x HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nabc")
        assert status == 413
        assert time.monotonic() - begin_s < 2


def test_a_client_that_is_too_slow_is_told_so() -> None:
    with running() as it:
        with it.connect() as sock:
            assert ask(sock, b"POST /x HT")[0] == 408
        with it.connect() as sock:
            assert ask(sock, b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")[0] == 408


def test_a_trickle_does_not_stretch_the_time_for_a_request() -> None:
    with running() as it, it.connect() as sock:
        begin_s = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(40):
                sock.sendall(b"A")
                time.sleep(0.05)
        assert time.monotonic() - begin_s < 4
        assert read_response(sock)[0] == 408


def test_a_connection_that_idles_is_closed_without_a_word() -> None:
    with running(replace(CONFIG, idle_timeout_s=0.2)) as it, it.connect() as sock:
        assert ask(sock, post(b"a"))[0] == 200
        assert is_closed(sock)


def test_connections_above_the_limit_are_told_to_come_back() -> None:
    with running() as it, contextlib.ExitStack() as stack:
        for _ in range(CONFIG.max_connections):
            sock = stack.enter_context(it.connect())
            assert ask(sock, post(b"a"))[0] == 200
        late = stack.enter_context(it.connect())
        status, headers, value = ask(late, post(b"a"))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "4 connections" in value["error"]


def test_a_closed_connection_makes_room_for_another() -> None:
    with running() as it:
        for _ in range(3 * CONFIG.max_connections):
            with it.connect() as sock:
                assert ask(sock, post(b"a", "Connection: close"))[0] == 200
                assert is_closed(sock)


def test_a_client_that_leaves_in_the_middle_harms_nobody() -> None:
    with running() as it:
        for piece in (b"", b"POST", b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"):
            with it.connect() as sock:
                sock.sendall(piece)
        with it.connect() as sock:
            assert ask(sock, post(b"a"))[0] == 200


def test_drain_hands_idle_connections_over_whole() -> None:
    with running() as it, it.connect() as used, it.connect() as fresh:
        assert ask(used, post(b"a"))[0] == 200
        time.sleep(0.1)
        assert it.drain()
        assert len(it.handed) == 2
        with running() as successor:
            for sock in it.handed:
                successor.server.adopt(sock.dup())
            assert ask(used, post(b"again"))[2]["body"] == "again"
            assert ask(fresh, post(b"first"))[2]["body"] == "first"


def test_a_request_sent_while_draining_reaches_the_successor() -> None:
    with running() as it, it.connect() as sock:
        assert ask(sock, post(b"a"))[0] == 200
        assert it.drain()
        sock.sendall(post(b"meanwhile"))
        with running() as successor:
            successor.server.adopt(it.handed[0].dup())
            assert read_response(sock)[2]["body"] == "meanwhile"


def test_drain_lets_a_request_finish_and_then_hands_its_connection_over() -> None:
    began, go = threading.Event(), threading.Event()

    def slow(request: Request) -> Response:
        began.set()
        go.wait(5)
        return echo(request)

    with running(answer=slow) as it, it.connect() as sock:
        sock.sendall(post(b"patience"))
        assert began.wait(5)
        threading.Timer(0.2, go.set).start()
        assert it.drain()
        assert read_response(sock)[2]["body"] == "patience"
        assert len(it.handed) == 1


def test_drain_gives_up_on_a_request_that_takes_too_long() -> None:
    go = threading.Event()

    def stuck(request: Request) -> Response:
        go.wait(5)
        return echo(request)

    with running(answer=stuck) as it, it.connect() as sock:
        sock.sendall(post(b"x"))
        time.sleep(0.1)
        assert not it.drain(0.1)
        go.set()


def test_what_was_read_ahead_is_answered_before_a_connection_is_handed_over() -> None:
    began, go = threading.Event(), threading.Event()

    def slow(request: Request) -> Response:
        began.set()
        go.wait(5)
        return echo(request)

    with running(answer=slow) as it, it.connect() as sock:
        sock.sendall(post(b"1") + post(b"2"))
        assert began.wait(5)
        threading.Timer(0.1, go.set).start()
        assert it.drain()
        seen = b""
        while seen.count(b"HTTP/1.1 200") < 2:
            seen += sock.recv(4096)
        assert len(it.handed) == 1
