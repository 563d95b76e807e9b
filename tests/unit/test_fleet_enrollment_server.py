"""The enrolment server over real TLS: what strangers may do and what it costs; and real curl."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import http.client
import json
import os
import random
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from edge_runtime.agent.setup.identity import read_identity
from edge_runtime.agent.setup.token import enroll
from edge_runtime.errors import InputError, TransferError, UntrustedError
from edge_runtime.fleet.cli import main
from edge_runtime.fleet.enrollment.place import place
from edge_runtime.fleet.enrollment.script import Packages
from edge_runtime.fleet.enrollment.server import Failures, Limits, network
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.package_order import order
from edge_runtime.messages.enrollment import (
    MAX_REQUEST_BYTES,
    Address,
    EnrollRequest,
    Token,
    refusal_of,
)
from tests.fakes import debs
from tests.fakes.brokers import free_port
from tests.fakes.enrolling import Enrolling, enrolling
from tests.fakes.homes import make_home

PACKAGE = "edge-agent_0.2.0+deb12_amd64.deb"


def silent(_said: str) -> None:
    """Nobody is told."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "fleet", now=None)


@pytest.fixture
def served(home: Home) -> Iterator[Enrolling]:
    with enrolling(home) as made:
        yield made


def ask(
    served: Enrolling, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """(status, body) over TLS that checks nothing; the tests of the pin are below."""
    at = served.place.addresses[0]
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(at.host, at.port, timeout=10, context=context)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(served: Enrolling) -> ssl.SSLSocket:
    at = served.place.addresses[0]
    plain = socket.create_connection((at.host, at.port), timeout=10)
    return ssl._create_unverified_context().wrap_socket(plain)


def request(token: Token, secret: str | None = None) -> bytes:
    from tests.unit.test_fleet_enrollment import csr, new_key

    return EnrollRequest(token.device, secret or token.secret, csr(new_key())).to_bytes()


# A board.


def test_a_board_gets_a_whole_identity_whose_key_never_left_it(
    served: Enrolling, tmp_path: Path
) -> None:
    folder = tmp_path / "board"
    enroll(served.token(), folder, silent)
    identity = read_identity(folder)
    assert identity.config.device_id == "press-7"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "device.key").stat().st_mode) == 0o600
    (told,) = served.told
    assert (told.device, told.refused, told.again) == ("press-7", "", False)
    assert told.python


def test_a_board_whose_line_broke_after_the_use_comes_again_and_is_answered(
    served: Enrolling, tmp_path: Path
) -> None:
    """The answer is lost: the folder has the key and nothing else."""
    token, folder = served.token(), tmp_path / "board"
    enroll(token, folder, silent)
    key = (folder / "device.key").read_bytes()
    certificate = (folder / "device.pem").read_bytes()
    for name in ("agent.toml", "device.pem", "ca.pem", "root.json"):
        (folder / name).unlink()
    enroll(token, folder, silent)
    assert (folder / "device.key").read_bytes() == key
    assert (folder / "device.pem").read_bytes() == certificate
    assert [h.again for h in served.told] == [False, True]


def test_a_board_that_lost_its_key_is_told_that_the_token_was_used(
    served: Enrolling, tmp_path: Path
) -> None:
    token = served.token()
    enroll(token, tmp_path / "one", silent)
    with pytest.raises(UntrustedError, match="was used on"):
        enroll(token, tmp_path / "two", silent)


def test_a_server_with_another_key_is_told_nothing(
    served: Enrolling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.agent.setup.token.PAUSE_S", 0.01)
    token = served.token()
    stranger = make_home(tmp_path / "stranger", now=None)
    with enrolling(stranger) as other:
        wrong = Token(token.device, other.place.addresses, token.pin_sha256, token.secret)
        with pytest.raises(UntrustedError, match="is not the server that made the token"):
            enroll(wrong, tmp_path / "board", silent)
        assert other.told == []
    assert not (tmp_path / "board" / "agent.toml").exists()


def test_one_of_several_addresses_is_enough(
    served: Enrolling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.agent.setup.token.PAUSE_S", 0.01)
    dead = Address("127.0.0.1", free_port())
    token = served.token()
    both = Token(token.device, (dead, *token.addresses), token.pin_sha256, token.secret)
    enroll(both, tmp_path / "board", silent)
    nobody = Token(token.device, (dead,), token.pin_sha256, token.secret)
    with pytest.raises(TransferError, match=f"no enrolment server answers: {dead}"):
        enroll(nobody, tmp_path / "other", silent)


# Strangers.


def test_wrong_tokens_of_one_address_are_answered_so_often_and_no_more(home: Home) -> None:
    with enrolling(home, limits=Limits(failures=3)) as served:
        token = served.token()
        codes = [ask(served, "POST", "/v1/enroll", request(token, "x" * 43))[0] for _ in range(5)]
        assert codes == [403, 403, 403, 429, 429]
        status, body = ask(served, "POST", "/v1/enroll", request(token))
        assert (status, refusal_of(body)[:14]) == (429, "too many wrong")
        assert [h.refused != "" for h in served.told] == [True] * 3


def test_the_rate_of_wrong_tokens_recovers_and_is_one_network_s_own() -> None:
    now = [0.0]
    failures = Failures(6, lambda: now[0])
    for _ in range(6):
        assert failures.allowed("10.0.0.7")
        failures.spend("10.0.0.7")
    assert not failures.allowed("10.0.0.7")
    assert failures.allowed("10.0.0.8")
    now[0] = 11.0
    assert failures.allowed("10.0.0.7")
    assert network("2001:db8:0:1::1") == network("2001:db8:0:1:ffff::2") == "2001:db8:0:1::/64"
    assert network("::ffff:10.0.0.7") == "10.0.0.7"
    for number in range(6000):
        failures.spend(f"10.1.{number >> 8}.{number & 255}")
    assert len(failures._left) <= 4096


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/", None, {}, 404),
        ("GET", "/v1/packages/../../etc/passwd", None, {}, 404),
        ("GET", "/v1/packages/", None, {}, 404),
        ("POST", "/v1/setup.sh", b"{}", {}, 404),
        ("DELETE", "/v1/enroll", None, {}, 501),
        ("POST", "/v1/enroll", b"{}", {}, 400),
        ("POST", "/v1/enroll", b"\xff\xfe", {}, 400),
        ("POST", "/v1/enroll", b"[" * 1000, {}, 400),
        ("POST", "/v1/enroll", None, {"Content-Length": str(MAX_REQUEST_BYTES + 1)}, 413),
        ("POST", "/v1/enroll", None, {"Content-Length": "-1"}, 411),
        ("POST", "/v1/enroll", None, {"Content-Length": "9" * 30}, 411),
        ("POST", "/v1/enroll", b"", {"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_a_request_that_is_none_is_refused(
    served: Enrolling,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
) -> None:
    found, text = ask(served, method, path, body, **headers)
    assert found == status
    assert len(text) < 1000
    assert str(served.home.folder).encode() not in text


def test_what_is_wrong_with_the_home_is_told_to_the_operator_only(served: Enrolling) -> None:
    token = served.token()
    (served.home.metadata / "1.root.json").unlink()
    status, body = ask(served, "POST", "/v1/enroll", request(token))
    assert status == 409
    assert str(served.home.folder).encode() not in body
    assert str(served.home.folder) in served.told[0].refused


def test_who_sends_a_byte_now_and_then_is_cut_off(home: Home) -> None:
    with enrolling(home, limits=Limits(request_s=0.6, silence_s=5.0)) as served, raw(served) as tls:
        began_s = time.monotonic()
        with suppress(OSError):
            while time.monotonic() < began_s + 8:
                tls.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - began_s < 4


def test_who_never_ends_the_handshake_is_cut_off(home: Home) -> None:
    with enrolling(home, limits=Limits(request_s=0.6, silence_s=5.0)) as served:
        at = served.place.addresses[0]
        with socket.create_connection((at.host, at.port), timeout=8) as plain:
            began_s = time.monotonic()
            assert plain.recv(1) == b""
            assert time.monotonic() - began_s < 4


def test_one_address_cannot_take_every_place(home: Home) -> None:
    limits = Limits(connections=20, per_address=4, request_s=5.0)
    with enrolling(home, limits=limits) as served:
        at = served.place.addresses[0]
        idle = [socket.create_connection((at.host, at.port)) for _ in range(8)]
        try:
            time.sleep(0.3)
            assert len(served.server._open) <= 4
            threads = [t for t in threading.enumerate() if "process_request_thread" in t.name]
            assert len(threads) <= 4
        finally:
            for one in idle:
                one.close()
        deadline_s = time.monotonic() + 5
        while served.server._open and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert ask(served, "GET", "/v1/setup.sh")[0] == 200


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 64, b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00" + b"\xff" * 512],
)
def test_who_speaks_no_tls_disturbs_nobody(served: Enrolling, data: bytes) -> None:
    at = served.place.addresses[0]
    with socket.create_connection((at.host, at.port), timeout=5) as plain, suppress(OSError):
        plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(4096):
            pass
    assert ask(served, "GET", "/v1/setup.sh")[0] == 200


def test_nothing_older_than_tls_1_2_is_spoken(served: Enrolling) -> None:
    assert served.server._context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_many_boards_at_once_all_get_their_own(served: Enrolling, tmp_path: Path) -> None:
    names = [f"press-{number}" for number in range(8)]
    tokens = [served.token(name) for name in names]
    threads = [
        threading.Thread(target=enroll, args=(token, tmp_path / token.device, silent))
        for token in tokens
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [read_identity(tmp_path / name).config.device_id for name in names] == names


# Packages and the script.


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (PACKAGE, "edge-agent_0.1.9+deb12_amd64.deb", "edge-agent_0.2.0+jammy_arm64.deb"):
        (folder / name).write_bytes(debs.named(name))
    (folder / "secret.txt").write_text("x")
    (folder / "SHA256SUMS").write_text("x")
    return folder


def test_only_the_newest_package_for_each_board_is_handed_out(home: Home, dist: Path) -> None:
    with enrolling(home, packages=dist) as served:
        status, body = ask(served, "GET", f"/v1/packages/{PACKAGE}")
        assert (status, body) == (200, (dist / PACKAGE).read_bytes())
        for name in ("secret.txt", "SHA256SUMS", "edge-agent_0.1.9+deb12_amd64.deb"):
            assert ask(served, "GET", f"/v1/packages/{name}")[0] == 404
    digest = hashlib.sha256((dist / PACKAGE).read_bytes()).hexdigest()
    assert [one.sha256 for one in Packages(dist).all() if one.path.name == PACKAGE] == [digest]


def test_a_folder_without_packages_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no whole package such as"):
        Packages(tmp_path)


BAD: Mapping[str, tuple[bytes, str]] = {
    "edge-agent_0.3.0+deb12_amd64.deb": (b"text.\n", "is no Debian package"),
    "edge-agent_0.4.0+deb12_amd64.deb": (debs.named(PACKAGE)[:-10], "is cut off"),
    "edge-agent_0.5.0+deb12_amd64.deb": (
        debs.named(PACKAGE), "expected what its name says, found 0.2.0+deb12 for x86_64"
    ),
    "edge-agent-latest.deb": (b"", "expected a name such as edge-agent_0.2.0+deb12_arm64.deb"),
}  # fmt: skip


def test_what_is_no_whole_package_hides_no_good_one_and_is_told_once(
    dist: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, (data, _) in BAD.items():
        (dist / name).write_bytes(data)
    packages = Packages(dist)
    names = [PACKAGE, "edge-agent_0.2.0+jammy_arm64.deb"]
    assert [one.path.name for one in packages.all()] == names
    told = sorted(getattr(record, "reason", "") for record in caplog.records)
    assert told == sorted(f"{dist / name}: {why}" for name, (_, why) in BAD.items())


def test_a_package_with_damage_behind_its_first_file_is_passed_over(
    dist: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = random.Random(7).randbytes(300_000)
    data = bytearray(debs.named(PACKAGE, noise))
    data[-100_000] ^= 1
    (dist / PACKAGE).write_bytes(data)
    kept = [one.version for one in Packages(dist).all() if one.arch == "amd64"]
    assert kept == ["0.1.9+deb12"]
    assert "is damaged" in str(getattr(caplog.records[0], "reason", ""))


def test_a_package_that_is_mended_is_handed_out_again(dist: Path) -> None:
    (dist / PACKAGE).write_bytes(b"half")
    packages = Packages(dist)
    assert packages.find(PACKAGE) is None
    (dist / PACKAGE).write_bytes(debs.named(PACKAGE))
    assert packages.find(PACKAGE) is not None


def test_the_command_says_which_files_it_passes_over(
    home: Home, dist: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_FLEET_PASSPHRASE", "")
    (dist / "edge-agent_0.3.0+deb12_amd64.deb").write_bytes(b"text.\n")
    words = ["enroll-server", "--home", str(home.folder), "--packages", str(dist)]
    assert main([*words, "--listen", f"127.0.0.1:{free_port()}", "--seconds", "0.01"]) == 0
    err = capsys.readouterr().err
    bad = dist / "edge-agent_0.3.0+deb12_amd64.deb"
    said = f"edge-fleet: warning: package passed over: {bad}: is no Debian package\n"
    assert err.count(said) == err.count("0.3.0") == 1
    assert f"hands out {PACKAGE}" in err


def test_a_port_that_was_said_for_another_run_is_warned_of(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_FLEET_PASSPHRASE", "")
    words = ["enroll-server", "--home", str(home.folder), "--seconds", "0.01", "--listen"]

    def told(port: int, *more: str) -> str:
        assert main([*words, f"127.0.0.1:{port}", *more]) == 0
        return capsys.readouterr().err

    first, second = free_port(), free_port()
    assert "warning" not in told(first, "--host", "fleet.example")
    assert "warning" not in told(first)
    assert (
        f"warning: boards are told fleet.example:{first}, as --host said last time, but this "
        f"listens on port {second}; say --host again" in told(second)
    )
    assert "warning" not in told(second, "--host", "fleet.example:443"), "it is said just now"


def test_versions_are_ordered_as_dpkg_orders_them() -> None:
    versions = ["0.2.0~rc1+deb12", "0.2.0+deb12", "0.9.0+deb12", "0.10.0~a+deb12", "0.10.0+deb12"]
    assert sorted(set(versions), key=order) == versions


@pytest.mark.parametrize("host", ["x'; reboot; '", "a b", "$(reboot)", "`x`", "", "h" * 300])
def test_a_host_header_never_gets_into_the_script_as_more_than_a_name(
    served: Enrolling, host: str
) -> None:
    status, body = ask(served, "GET", "/v1/setup.sh", None, Host=host)
    assert status == 200
    assert f"SERVER='https://{served.place.addresses[0]}'" in body.decode()


# Real curl.


def curl(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return subprocess.run(
        ["curl", "-fsS", "-k", "--noproxy", "*", *words],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def wrong(pin: str) -> str:
    return pin[:9] + ("A" if pin[9] != "A" else "B") + pin[10:]


def test_curl_with_k_still_holds_the_server_to_the_pin(served: Enrolling) -> None:
    url, pin = f"{served.url}/v1/setup.sh", served.place.curl_pin
    good = curl("--pinnedpubkey", pin, url)
    assert (good.returncode, good.stdout[:10]) == (0, "#!/bin/sh\n")
    bad = curl("--pinnedpubkey", wrong(pin), url)
    assert (bad.returncode, bad.stdout) == (90, "")
    assert "public key does not match" in bad.stderr


def test_a_curl_that_was_built_with_gnutls_holds_it_too(served: Enrolling) -> None:
    """The library itself: distributions differ in which one their curl uses."""
    name = ctypes.util.find_library("curl-gnutls")
    if name is None:
        pytest.skip("libcurl-gnutls is not installed")
    library = ctypes.CDLL(name)
    library.curl_easy_init.restype = ctypes.c_void_p
    keep = ctypes.CFUNCTYPE(
        ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
    )(lambda _data, size, count, _: size * count)
    results = []
    for pin in (served.place.curl_pin, wrong(served.place.curl_pin)):
        handle = ctypes.c_void_p(library.curl_easy_init())
        for option, value in (
            (10002, f"{served.url}/v1/setup.sh".encode()),  # URL
            (10230, pin.encode()),  # PINNEDPUBLICKEY
            (10177, b"*"),  # NOPROXY
            (64, ctypes.c_long(0)),  # SSL_VERIFYPEER
            (81, ctypes.c_long(0)),  # SSL_VERIFYHOST
            (20011, keep),  # WRITEFUNCTION
        ):
            assert library.curl_easy_setopt(handle, option, value) == 0
        results.append(library.curl_easy_perform(handle))
        library.curl_easy_cleanup(handle)
    assert results == [0, 90]


def test_the_device_and_curl_take_the_same_pin(served: Enrolling) -> None:
    assert served.place == place(served.home)
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key = served.home.enrollment / "server.key"
    spki = subprocess.run(
        [openssl, "pkey", "-in", str(key), "-pubout", "-outform", "DER"],
        capture_output=True, timeout=30, check=True,
    ).stdout  # fmt: skip
    assert hashlib.sha256(spki).hexdigest() == served.place.pin_sha256


def test_the_command_serves_until_it_is_told_to_end(home: Home) -> None:
    words = ["enroll-server", "--home", str(home.folder), "--listen", f"127.0.0.1:{free_port()}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.fleet.cli", *words, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "EDGE_FLEET_PASSPHRASE": ""},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        page = curl("--pinnedpubkey", told["pin"], f"https://{told['addresses'][0]}/v1/setup.sh")
        assert page.stdout.startswith("#!/bin/sh")
    finally:
        process.terminate()
    assert process.wait(20) == 0
