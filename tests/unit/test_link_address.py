"""Which URLs name a source, and which are refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.link.address import WebAddress, parse_source


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://mirror.example/edge", WebAddress(True, "mirror.example", 443, "/edge")),
        ("https://mirror.example", WebAddress(True, "mirror.example", 443, "")),
        ("HTTPS://Mirror.Example:8443/a/b//", WebAddress(True, "mirror.example", 8443, "/a/b")),
        ("https://[2001:db8::1]/e%20e", WebAddress(True, "2001:db8::1", 443, "/e%20e")),
        ("http://localhost:8000/", WebAddress(False, "localhost", 8000, "")),
        ("http://127.0.0.1/x", WebAddress(False, "127.0.0.1", 80, "/x")),
        ("http://[::1]:81/x", WebAddress(False, "::1", 81, "/x")),
    ],
)
def test_a_web_server_is_taken_apart(url: str, address: WebAddress) -> None:
    assert parse_source(url) == address


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///media/usb/edge", "/media/usb/edge"),
        ("file://localhost/media/usb/edge/", "/media/usb/edge"),
        ("file:///media/my%20stick", "/media/my stick"),
    ],
)
def test_a_folder_is_a_path(url: str, path: str) -> None:
    assert parse_source(url) == Path(path)


def test_what_is_shown_and_sent_names_a_port_only_where_it_must() -> None:
    assert WebAddress(True, "h", 443, "/e").url == "https://h/e"
    assert WebAddress(False, "::1", 8000).file("metadata/1.root.json").url == (
        "http://[::1]:8000/metadata/1.root.json"
    )
    assert WebAddress(False, "h", 443).authority == "h:443"


@pytest.mark.parametrize("host", ["mirror.example", "10.0.0.1", "127.0.0.1.example", "[::2]"])
def test_plain_http_off_the_loopback_must_be_allowed(host: str) -> None:
    with pytest.raises(InputError, match="plain http is only for the loopback"):
        parse_source(f"http://{host}/edge")
    assert isinstance(parse_source(f"http://{host}/edge", allow_http=True), WebAddress)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "no scheme"),
        ("mirror.example/edge", "no scheme"),
        ("ftp://mirror.example/edge", "starts with 'ftp'"),
        ("mqtt://broker.example", "starts with 'mqtt'"),
        ("https:///edge", "expected a host"),
        ("https://bücher.example/", "expected a host"),
        ("https://a..b/", "expected a host"),
        ("https://h h/", "expected a host"),
        ("https://mirror.example:0/", "port is 0"),
        ("https://mirror.example:99999/", "malformed"),
        ("https://mirror.example:x/", "malformed"),
        ("https://[::1/", "malformed"),
        ("https://mirror.example/a b", "what a URL must not"),
        ("https://mirror.example/ä", "what a URL must not"),
        ("https://mirror.example/a/../b", "what a URL must not"),
        ("https://mirror.example/a/..", "what a URL must not"),
        ("https://mirror.example/x?token=1", "after ? or #"),
        ("https://mirror.example/x#part", "after ? or #"),
        ("file:relative/path", "absolute path"),
        ("file://server/share", "absolute path"),
        ("file:///a%00b", "absolute path"),
    ],
)
def test_what_is_no_source_is_refused_in_one_sentence(url: str, fault: str) -> None:
    with pytest.raises(InputError) as error:
        parse_source(url)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["https://ann:s3cret@h/e", "https://s3cret@h/e?key=s3cret"])
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="holds credentials") as error:
        parse_source(url)
    assert "s3cret" not in str(error.value)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InputError, match=r"credentials.*port is 0.*after \? or #.*plain http"):
        parse_source("http://a@mirror.example:0/?x")
