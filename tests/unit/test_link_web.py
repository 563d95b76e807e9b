"""What a web repository does about servers that fail, lie, stall or flood."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EdgeError, InputError, MetadataError, TransferError
from edge_runtime.link.address import TlsFiles, WebAddress, parse_source
from edge_runtime.link.repository import open_place
from edge_runtime.link.web import MAX_REDIRECTS, Timeouts, WebPlace
from tests.fakes.web import Exchange, Identity, WebServer, make_identity

QUICK = Timeouts(connect_s=5.0, read_s=0.2, whole_s=0.5)
PATIENT = Timeouts(connect_s=5.0, read_s=20.0, whole_s=20.0)


def place(server: WebServer, timeouts: Timeouts = PATIENT, ca: Path | None = None) -> WebPlace:
    address = parse_source(server.url)
    assert isinstance(address, WebAddress)
    return WebPlace(address, TlsFiles(ca=ca), timeouts)


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return make_identity(tmp_path_factory.mktemp("identity"))


def refused(server: WebServer, timeouts: Timeouts = PATIENT, max_bytes: int = 1000) -> str:
    """Why /x cannot be had, in one sentence."""
    with pytest.raises(TransferError) as error:
        place(server, timeouts).get("x", max_bytes)
    assert "\n" not in str(error.value)
    return str(error.value)


# Connections.


def test_one_connection_serves_request_after_request(server: WebServer) -> None:
    server.files = {"/a": b"1", "/b": b""}
    web = place(server)
    for _ in range(5):
        assert (web.get("a", 10), web.get("b", 10), web.get("c", 10)) == (b"1", b"", None)
    assert (len(server.requests), server.connections) == (15, 1)


def test_an_answer_in_pieces_keeps_the_connection_too(server: WebServer) -> None:
    body = b"4\r\nwiki\r\n5;note=1\r\npedia\r\n0\r\nTrailer: 1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.faults["/x"] = lambda x: x.raw(head + body)
    web = place(server)
    assert [web.get("x", 9), web.get("x", 9)] == [b"wikipedia"] * 2
    assert server.connections == 1
    with pytest.raises(MetadataError, match="more than 8 bytes"):
        web.get("x", 8)


def test_a_connection_that_the_server_closed_is_replaced_unseen(server: WebServer) -> None:
    def answer_and_leave(x: Exchange) -> None:
        x.answer(200, b"1")  # It does not say that it will close.
        x.hang_up()

    server.faults["/x"] = answer_and_leave
    web = place(server)
    assert [web.get("x", 10) for _ in range(3)] == [b"1"] * 3
    assert server.connections == 3


def test_a_server_that_always_closes_at_once_is_not_asked_for_ever(server: WebServer) -> None:
    server.files["/a"] = b"1"
    server.faults["/x"] = lambda x: x.reset()
    web = place(server)
    assert web.get("a", 10) == b"1"
    with pytest.raises(TransferError, match="cannot be fetched"):
        web.get("x", 10)
    assert server.requests == ["/a", "/x", "/x"]


def test_an_old_server_that_ends_answers_by_closing_is_understood(server: WebServer) -> None:
    def old(x: Exchange) -> None:
        x.raw(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        x.hang_up()

    server.faults["/x"] = old
    web = place(server)
    assert [web.get("x", 100), web.get("x", 9)] == [b"all of it"] * 2
    with pytest.raises(MetadataError):
        web.get("x", 8)


def test_resting_closes_what_is_idle(server: WebServer) -> None:
    server.files["/a"] = b"1"
    web = place(server)
    web.get("a", 10)
    web.rest()
    assert web.get("a", 10) == b"1"
    assert server.connections == 2


def test_closing_ends_a_request_that_waits(server: WebServer) -> None:
    asked = threading.Event()

    def stall(_: Exchange) -> None:
        asked.set()
        server.over.wait(30.0)

    server.faults["/x"] = stall
    web = place(server)
    reasons: list[str] = []

    def ask() -> None:
        try:
            web.get("x", 10)
        except TransferError as reason:
            reasons.append(str(reason))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert asked.wait(10.0)
    web.close()
    thread.join(10.0)
    assert not thread.is_alive()
    assert len(reasons) == 1


def test_nobody_there_is_told_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    web = WebPlace(WebAddress(False, "127.0.0.1", port))
    with pytest.raises(TransferError, match=f"http://127.0.0.1:{port}/x: cannot be .*refused"):
        web.get("x", 10)


def test_a_host_that_has_no_address_is_told() -> None:
    with pytest.raises(TransferError, match=r"https://nowhere\.invalid/x: cannot be fetched"):
        WebPlace(WebAddress(True, "nowhere.invalid", 443)).get("x", 10)


def test_the_environments_proxy_is_not_used(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.files["/a"] = b"1"
    assert place(server).get("a", 10) == b"1"


# What a server may stretch.


def test_silence_ends(server: WebServer) -> None:
    def stall(_: Exchange) -> None:
        server.over.wait(30.0)

    server.faults["/x"] = stall
    assert refused(server, QUICK) == f"{server.url}/x: did not answer in time"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + bytes(900),
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 60,
        b"HTTP/1.1 100 Wait\r\n\r\n" * 50,
    ],
    ids=["body", "head", "interim answers"],
)
def test_a_slow_drip_ends_though_each_byte_comes_in_time(server: WebServer, answer: bytes) -> None:
    """30 s worth of bytes, each well within the time for one wait."""
    server.faults["/x"] = lambda x: x.drip(answer, 30.0 / len(answer))
    assert refused(server, QUICK) == f"{server.url}/x: did not answer in time"


def test_a_body_without_end_is_left_after_what_was_allowed(server: WebServer) -> None:
    sent: list[int] = []

    def flood(x: Exchange) -> None:
        x.raw(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.over.is_set():
            x.raw(bytes(65536))
            sent.append(65536)

    server.faults["/x"] = flood
    with pytest.raises(MetadataError, match="more than 131072 bytes"):
        place(server).get("x", 131072)
    assert sum(sent) < 64 << 20  # What the two ends' buffers took.


def test_a_length_that_is_too_large_is_refused_unread(server: WebServer) -> None:
    server.faults["/x"] = lambda x: x.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n")
    with pytest.raises(MetadataError, match="more than 1000 bytes"):
        place(server).get("x", 1000)


@pytest.mark.parametrize(
    "piece",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"X" * 1000, b"HTTP/1.1 200 OK\r\nX: "],
    ids=["interim answers", "line", "header"],
)
def test_a_head_without_end_is_left(server: WebServer, piece: bytes) -> None:
    def flood(x: Exchange) -> None:
        while not server.over.is_set():
            x.raw(piece)

    server.faults["/x"] = flood
    assert re_any(refused(server), "sends more than it may", "not HTTP")


def test_trailers_without_end_are_left(server: WebServer) -> None:
    def flood(x: Exchange) -> None:
        x.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
        while not server.over.is_set():
            x.raw(b"Trailer: 1\r\n" * 100)

    server.faults["/x"] = flood
    assert refused(server) == f"{server.url}/x: sends more than it may"


def re_any(text: str, *wanted: str) -> bool:
    return any(part in text for part in wanted)


# What a server may get wrong.


def raw(data: bytes) -> Callable[[Exchange], None]:
    def answer(x: Exchange) -> None:
        x.raw(data)
        x.hang_up()

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 404 Not Found\r\nContent-Le",
        HEAD,
        HEAD + bytes(899),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 401 Who\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 429 Slowly\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 503 Later\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_no_whole_answer_is_a_failed_transfer(server: WebServer, answer: bytes) -> None:
    server.faults["/x"] = raw(answer)
    assert refused(server).startswith(f"{server.url}/x: ")


def test_a_reset_in_the_middle_is_a_failed_transfer(server: WebServer) -> None:
    def cut(x: Exchange) -> None:
        x.raw(HEAD + bytes(100))
        x.reset()

    server.faults["/x"] = cut
    assert refused(server).startswith(f"{server.url}/x: c")


def test_a_negative_piece_does_not_open_the_flood(server: WebServer) -> None:
    def flood(x: Exchange) -> None:
        x.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
        while not server.over.is_set():
            x.raw(bytes(65536))

    server.faults["/x"] = flood
    assert refused(server) == f"{server.url}/x: sends more than it may"


def test_nothing_is_asked_for_compressed_and_nothing_unpacked(server: WebServer) -> None:
    server.faults["/x"] = lambda x: x.answer(200, bytes(20), Content_Encoding="gzip")
    assert "Content-Encoding 'gzip'" in refused(server)
    assert server.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_a_server_does_not_show_is_not_there(server: WebServer, status: int) -> None:
    """Object stores say 403 of what is not there to whoever may not list."""
    server.faults["/x"] = lambda x: x.answer(status, b"nothing" * 10)
    web = place(server)
    assert [web.get("x", 1), web.get("x", 1)] == [None, None]
    assert server.connections == 1


def test_an_error_page_without_end_costs_its_connection_and_no_more(server: WebServer) -> None:
    def flood(x: Exchange) -> None:
        x.raw(b"HTTP/1.1 404 Nothing\r\nContent-Length: 99999999\r\n\r\n")
        x.hang_up()

    server.faults["/x"] = flood
    web = place(server)
    assert [web.get("x", 1), web.get("x", 1)] == [None, None]
    assert server.connections == 2


def test_what_is_left_of_an_error_page_is_not_taken_for_the_next_answer(server: WebServer) -> None:
    server.files["/a"] = b"right"
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong" * 2000
    server.faults["/x"] = lambda x: x.raw(
        b"HTTP/1.1 404 Nothing\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
    )
    web = place(server)
    assert [web.get("x", 10), web.get("a", 10)] == [None, b"right"]


@pytest.fixture(scope="module")
def shared() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda status, fields, body: b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\n" + body,
        st.sampled_from([b"200 OK", b"200", b"301 Moved", b"404 x", b"100 x"]),
        st.sampled_from(
            [
                b"",
                b"Content-Length: 3\r\n",
                b"Content-Length: -3\r\n",
                b"Content-Length: 3, 4\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Location: //[\r\n",
                b" folded: 1\r\n",
                b": 1\r\n\xff\xfe: \0\r\n",
                b"Content-Type: multipart/mixed; boundary=\xff\r\n",
            ]
        ),
        st.binary(max_size=60)
        | st.builds(
            b"%x\r\n%s\r\n0\r\n\r\n".__mod__, st.tuples(st.integers(0, 70), st.binary(max_size=70))
        ),
    )
)
@settings(max_examples=150)
def test_whatever_a_server_sends_is_an_answer_or_one_sentence(
    shared: WebServer, answer: bytes
) -> None:
    shared.faults["/x"] = raw(answer)
    web = place(shared)
    said, data = f"{shared.url}/x: ", None
    try:
        data = web.get("x", 64)
    except EdgeError as reason:
        said = str(reason)
    finally:
        web.close()
    assert said.startswith(f"{shared.url}/x: ")
    assert data is None or len(data) <= 64


# Redirects.


def to(url: str) -> Callable[[Exchange], None]:
    return lambda x: x.answer(307, b"elsewhere", Location=url)


def test_plain_http_is_never_led_anywhere(server: WebServer) -> None:
    """Anybody on the way could send a device to whatever answers inside its own network."""
    with WebServer() as inside:
        inside.files["/y"] = b"secret"
        for target in (f"{inside.url}/y", "/y", "https://mirror.example/y", "file:///etc/passwd"):
            server.faults["/x"] = to(target)
            assert "only https may redirect, to https" in refused(server)
        assert inside.requests == []
    assert set(server.requests) == {"/x"}


def test_https_is_led_to_https_alone(identity: Identity, server: WebServer) -> None:
    server.files["/y"] = b"plain"
    with WebServer(identity) as secure, WebServer(identity) as other:
        other.files["/deep/y?token=s3cret"] = b"found"
        secure.files["/beside"] = b"found too"
        secure.faults["/x"] = to(f"{other.url}/deep/y?token=s3cret#part")
        secure.faults["/near"] = to("beside")
        web = place(secure, ca=identity.ca)
        assert [web.get("x", 10), web.get("x", 10)] == [b"found"] * 2
        assert (secure.connections, other.connections) == (1, 1)
        assert web.get("near", 10) == b"found too"
        for target in (f"{server.url}/y", "ftp://h/y", "https://h:0x/", "https://a b/", "/ä", ""):
            secure.faults["/x"] = to(target)
            with pytest.raises(TransferError, match="redirect"):
                web.get("x", 10)
        assert server.requests == []


def test_a_redirect_that_fails_keeps_its_query_secret(identity: Identity) -> None:
    with WebServer(identity) as secure:
        secure.faults["/x"] = to("/y?token=s3cret")
        secure.faults["/y?token=s3cret"] = lambda x: x.answer(500, b"")
        with pytest.raises(TransferError, match="/y: answered with status 500") as error:
            place(secure, ca=identity.ca).get("x", 10)
        assert "s3cret" not in str(error.value)


def test_a_circle_of_redirects_is_left(identity: Identity) -> None:
    with WebServer(identity) as secure:
        secure.faults["/x"] = to("/x")
        with pytest.raises(TransferError, match="answered with status 307, expected 200"):
            place(secure, ca=identity.ca).get("x", 10)
        assert len(secure.requests) == MAX_REDIRECTS + 1


# TLS.


def certificate_fault(server: WebServer, files: TlsFiles, url: str = "") -> str:
    server.files["/a"] = b"1"
    with pytest.raises(TransferError) as error:
        open_place(url or server.url, files).get("a", 10)
    assert server.requests == []
    return str(error.value)


def test_a_server_that_no_authority_vouches_for_is_not_asked(
    identity: Identity, tmp_path: Path
) -> None:
    stranger = make_identity(tmp_path)
    with WebServer(identity) as server:
        assert "certificate: " in certificate_fault(server, TlsFiles())
        assert "certificate: " in certificate_fault(server, TlsFiles(ca=stranger.ca))


def test_a_server_with_another_name_is_not_asked(tmp_path: Path) -> None:
    identity = make_identity(tmp_path, "mirror.example")
    with WebServer(identity) as server:
        files = TlsFiles(ca=identity.ca)
        assert "not valid for '127.0.0.1'" in certificate_fault(server, files)
        named = f"https://localhost:{server.port}"
        assert "not valid for 'localhost'" in certificate_fault(server, files, named)


def test_a_certificate_that_has_expired_is_refused(tmp_path: Path) -> None:
    identity = make_identity(tmp_path, expired=True)
    with WebServer(identity) as server:
        assert "expired" in certificate_fault(server, TlsFiles(ca=identity.ca))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_before_1_2_is_not_spoken(identity: Identity) -> None:
    with WebServer(identity) as server:
        old = ssl.create_default_context(cafile=identity.ca)
        for context in (server.context, old):
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", server.port), 10.0) as sock,
            old.wrap_socket(sock, server_hostname="127.0.0.1") as spoken,
        ):
            assert spoken.version() == "TLSv1.1"  # So it is us who refuse, not the server.
        assert "TLS: " in certificate_fault(server, TlsFiles(ca=identity.ca))


def test_a_server_that_speaks_no_tls_is_told(server: WebServer, identity: Identity) -> None:
    url = server.url.replace("http:", "https:")
    assert "cannot be fetched" in certificate_fault(server, TlsFiles(ca=identity.ca), url)


def test_a_handshake_that_drips_ends(identity: Identity) -> None:
    """A record's head that promises 16 KB, then a byte now and then."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"\x16\x03\x03\x3f\xff")
                    while not over.wait(0.02):
                        connection.sendall(b"\x02")
                except OSError:
                    pass

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        address = WebAddress(True, "127.0.0.1", listener.getsockname()[1])
        web = WebPlace(address, TlsFiles(ca=identity.ca), Timeouts(0.3, 0.3, 0.3))
        try:
            with pytest.raises(TransferError):
                web.get("x", 10)
        finally:
            over.set()
            thread.join(10.0)


def test_a_server_that_asks_who_we_are_is_told(identity: Identity) -> None:
    with WebServer(identity, ask_client=True) as server:
        server.files["/a"] = b"1"
        files = TlsFiles(identity.ca, identity.cert, identity.key)
        assert open_place(server.url, files).get("a", 10) == b"1"
        with pytest.raises(TransferError):
            open_place(server.url, TlsFiles(ca=identity.ca)).get("a", 10)


def test_an_authority_that_is_none_is_told_before_anything_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(InputError, match=r"CA file .*ca\.pem: not usable"):
        open_place("https://mirror.example/edge", TlsFiles(ca=tmp_path / "ca.pem"))


# What it costs.


def test_naming_sources_loads_no_http_library() -> None:
    script = (
        "import json, sys\n"
        "import edge_runtime.agent.sources\n"
        "from edge_runtime.link.repository import open_repository\n"
        "open_repository('file:///nowhere')\n"
        "before = sorted(sys.modules)\n"
        "open_repository('https://mirror.example/edge')\n"
        "print(json.dumps([before, sorted(sys.modules)]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    before, after = json.loads(result.stdout)
    assert "http.client" not in before
    assert "http.client" in after
    assert not {"urllib3", "requests", "tuf", "numpy"} & set(after)
