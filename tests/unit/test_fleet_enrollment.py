"""One-time tokens in a real home: made, used once, repeated after a cut, refused, revoked."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from edge_runtime.errors import DeviceError, EdgeError, InputError, UntrustedError
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.certificates import Role
from edge_runtime.fleet.cli import main
from edge_runtime.fleet.enroll import enroll
from edge_runtime.fleet.enrollment.place import place
from edge_runtime.fleet.enrollment.redeem import redeem
from edge_runtime.fleet.enrollment.tokens import Tokens
from edge_runtime.fleet.home import Home
from edge_runtime.messages.enrollment import EnrollAnswer, EnrollRequest, Token
from tests.fakes.homes import NOW, make_home

PROFILE = "generic-x86_64"
HOUR = timedelta(hours=1)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "fleet")


def token(home: Home, device: str = "press-7", **more: object) -> Token:
    made, _ = Tokens(home).make(device, PROFILE, place(home), now=NOW, **more)  # type: ignore[arg-type]
    return made


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(key: PrivateKey, name: str = "press-7") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def request(given: Token, key: PrivateKey, **more: str) -> EnrollRequest:
    values = {"device": given.device, "secret": given.secret, "csr": csr(key), **more}
    return EnrollRequest(**values)


def certificate(answer: EnrollAnswer) -> x509.Certificate:
    return x509.load_pem_x509_certificate(answer.certificate.encode())


def test_a_token_leads_to_a_certificate_for_the_key_that_the_board_made(home: Home) -> None:
    key = new_key()
    answer = redeem(home, request(token(home), key), None, NOW).answer
    found = certificate(answer)
    assert found.public_key() == key.public_key()
    ca = x509.load_pem_x509_certificate(home.ca_certificate.read_bytes())
    found.verify_directly_issued_by(ca)
    assert found.subject.rfc4514_string() == "CN=press-7"
    (entry,) = CertificateAuthority(home).issued().good("device", "press-7", NOW)
    assert entry.serial == found.serial_number
    assert answer.root == (home.metadata / "1.root.json").read_text()
    assert 'device_id = "press-7"' in answer.config


def test_the_home_keeps_neither_the_boards_key_nor_the_tokens_secret(home: Home) -> None:
    given, key = token(home), new_key()
    redeem(home, request(given, key), None, NOW)
    assert not (home.device("press-7") / "device.key").exists()
    secret = given.secret.encode()
    for path in home.folder.rglob("*"):
        assert path.is_dir() or secret not in path.read_bytes(), path
    assert (home.enrollment / "tokens").stat().st_mode & 0o777 == 0o700


def test_a_name_in_the_request_counts_nothing(home: Home) -> None:
    key = new_key()
    answer = redeem(home, request(token(home), key, csr=csr(key, "operator")), None, NOW).answer
    assert certificate(answer).subject.rfc4514_string() == "CN=press-7"


def test_the_same_key_is_answered_the_same_again(home: Home) -> None:
    given, key = token(home), new_key()
    first = redeem(home, request(given, key), None, NOW)
    again = redeem(home, request(given, key), None, NOW + HOUR / 2)
    assert (first.again, again.again) == (False, True)
    assert first.answer == again.answer
    assert len(CertificateAuthority(home).issued().of("device", "press-7")) == 1


def test_another_key_is_refused_once_the_token_was_used(home: Home) -> None:
    given = token(home)
    redeem(home, request(given, new_key()), None, NOW)
    with pytest.raises(UntrustedError, match="was used on 2026-11-05 at 12:00 UTC, by another"):
        redeem(home, request(given, new_key()), None, NOW)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("wrong secret", "not known to this fleet"),
        ("another device", "not known to this fleet"),
        ("revoked", "was revoked"),
        ("replaced", "not known to this fleet"),
    ],
)
def test_a_token_that_is_not_good_is_refused_in_one_sentence(
    home: Home, how: str, words: str
) -> None:
    given = token(home)
    if how == "revoked":
        Tokens(home).revoke("press-7", NOW)
    if how == "replaced":
        token(home)
    device = "press-8" if how == "another device" else given.device
    secret = "x" * 43 if how == "wrong secret" else given.secret
    with pytest.raises(UntrustedError, match=words) as caught:
        redeem(home, request(given, new_key(), device=device, secret=secret), None, NOW)
    assert given.secret not in str(caught.value)
    assert not home.devices.exists()


def test_an_expired_token_is_refused_also_for_the_key_that_used_it(home: Home) -> None:
    given, key = token(home), new_key()
    redeem(home, request(given, key), None, NOW + HOUR - timedelta(seconds=1))
    for one in (key, new_key()):
        with pytest.raises(UntrustedError, match="expired on 2026-11-05 at 13:00 UTC"):
            redeem(home, request(given, one), None, NOW + HOUR)


def test_what_a_token_led_to_and_was_revoked_is_not_handed_out_again(home: Home) -> None:
    given, key = token(home), new_key()
    redeem(home, request(given, key), None, NOW)
    CertificateAuthority(home).revoke(Role.DEVICE, "press-7", now=NOW)
    with pytest.raises(UntrustedError, match="was revoked or replaced"):
        redeem(home, request(given, key), None, NOW)


@pytest.mark.parametrize("fails_at", range(1, 14))
def test_a_power_cut_at_any_file_leaves_a_token_that_the_same_key_can_repeat(
    home: Home, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    given, key = token(home), new_key()
    real, seen = os.replace, []

    def replace(source: Path, target: Path) -> None:
        seen.append(target)
        if len(seen) == fails_at:
            raise OSError(5, "the power is gone")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        try:
            redeem(home, request(given, key), None, NOW)
            assert fails_at > len(seen) > 5
        except DeviceError:
            pass
    used = (home.enrollment / "tokens" / "press-7.json").read_bytes()
    if CertificateAuthority(home).issued().of("device", "press-7"):
        assert json.loads(used)["used"], "the mark is on disk before any certificate"
        with pytest.raises(UntrustedError, match="was used"):
            redeem(home, request(given, new_key()), None, NOW)
    answer = redeem(home, request(given, key), None, NOW).answer
    good = CertificateAuthority(home).issued().good("device", "press-7", NOW)
    assert [entry.serial for entry in good] == [certificate(answer).serial_number]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("no pem", "no certificate request"),
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "no cert",
        ),
        (csr(rsa.generate_private_key(65537, 2048)), "curve P-256"),
        (csr(ec.generate_private_key(ec.SECP384R1())), "curve P-256"),
    ],
)
def test_a_request_without_a_usable_key_uses_up_nothing(home: Home, made: str, words: str) -> None:
    given = token(home)
    with pytest.raises(InputError, match=words):
        redeem(home, request(given, new_key(), csr=made), None, NOW)
    assert not redeem(home, request(given, new_key()), None, NOW).again


def test_a_key_that_the_sender_does_not_have_gets_no_certificate(home: Home) -> None:
    """A request whose signature was spoiled: the public key in it is somebody else's."""
    lines = csr(new_key()).splitlines()
    lines[-2] = lines[-2][:4] + ("AAAA" if lines[-2][4:8] != "AAAA" else "BBBB") + lines[-2][8:]
    with pytest.raises(InputError, match=r"csr: "):
        redeem(home, request(token(home), new_key(), csr="\n".join(lines)), None, NOW)


def test_a_profile_of_ones_own_goes_along_as_it_was_when_the_token_was_made(
    home: Home, tmp_path: Path
) -> None:
    import device_profiles

    shipped = Path(device_profiles.__path__[0], "generic-x86_64.toml").read_text()
    own = tmp_path / "board.toml"
    own.write_text(shipped.replace('name = "generic-x86_64"', 'name = "my-board"', 1))
    given, _ = Tokens(home).make("press-7", str(own), place(home), now=NOW)
    content = own.read_text()
    own.unlink()
    answer = redeem(home, request(given, new_key()), None, NOW).answer
    assert answer.profile is not None
    assert (answer.profile.file, answer.profile.text) == ("my-board.toml", content)
    assert 'profile = "my-board.toml"' in answer.config


def test_who_is_enrolled_gets_a_token_only_by_force_and_then_a_new_certificate(home: Home) -> None:
    old = enroll(home, "press-7", PROFILE, now=NOW).entry
    with pytest.raises(InputError, match=r"is enrolled, .* with --force"):
        token(home)
    answer = redeem(home, request(token(home, force=True), new_key()), None, NOW).answer
    good = CertificateAuthority(home).issued().good("device", "press-7", NOW)
    assert [entry.serial for entry in good] == [certificate(answer).serial_number]
    assert old.serial != good[0].serial


@pytest.mark.parametrize(
    ("device", "profile", "valid", "words"),
    [
        ("operator", PROFILE, HOUR, "belongs to the fleet's operator"),
        ("../x", PROFILE, HOUR, "device id"),
        ("press-7", "raspberry", HOUR, "is not known"),
        ("press-7", PROFILE, timedelta(days=31), "expected up to 30 days"),
    ],
)
def test_a_faulty_word_makes_no_token(
    home: Home, device: str, profile: str, valid: timedelta, words: str
) -> None:
    where = place(home)
    with pytest.raises(EdgeError, match=words):
        Tokens(home).make(device, profile, where, valid=valid, now=NOW)
    assert Tokens(home).all() == ()


# On the command line.


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    for name in ("EDGE_FLEET_HOME", "EDGE_FLEET_PASSPHRASE", "EDGE_FLEET_BROKER"):
        monkeypatch.delenv(name, raising=False)
    make_home(tmp_path / "cli", now=None)

    def call(*words: str) -> tuple[int, str, str]:
        try:
            code = main([*words, "--home", str(tmp_path / "cli")])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_line_to_paste_holds_pin_address_and_token(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    words = ("token", "press-7", "--profile", PROFILE, "--server", "fleet.example:9000")
    code, out, _ = run(*words, "--json")
    made = json.loads(out)
    assert code == 0
    given = Token.parse(made["token"])
    assert (given.device, [str(a) for a in given.addresses]) == ("press-7", ["fleet.example:9000"])
    assert shlex.split(made["install"]) == [
        *("curl", "-fsS", "-k", "--pinnedpubkey", made["pin"]),
        *("https://fleet.example:9000/v1/setup.sh", "|", "sudo", "sh", "-s", "--", made["token"]),
    ]
    assert shlex.split(made["setup"]) == ["sudo", "edge-agent", "setup", "--token", made["token"]]
    code, out, err = run(*words)
    assert code == 0
    assert out.count("edge1_") == 3
    assert "enroll-server" in err


def test_tokens_are_listed_and_revoked(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("token", "press-7", "--profile", PROFILE, "--valid", "2d")[0] == 0
    code, out, _ = run("token", "--list", "--json")
    (row,) = json.loads(out)["tokens"]
    assert (code, row["device"], row["state"]) == (0, "press-7", "open")
    assert run("token", "--revoke", "press-7")[:2] == (0, "the token of press-7 is good no more\n")
    assert json.loads(run("token", "--list", "--json")[1])["tokens"][0]["state"] == "revoked"
    assert "press-7  revoked" in run("token", "--list")[1]
    code, out, err = run("token", "--revoke", "press-9")
    assert (code, out, err) == (1, "", "edge-fleet: device press-9: never had a token\n")


def test_revoking_a_device_revokes_its_open_token(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    assert run("enroll", "press-7", "--profile", PROFILE)[0] == 0
    assert run("token", "press-7", "--profile", PROFILE, "--force")[0] == 0
    assert run("revoke", "press-7")[0] == 0
    assert json.loads(run("token", "--list", "--json")[1])["tokens"][0]["state"] == "revoked"


@pytest.mark.parametrize(
    "words",
    [
        ("token",),
        ("token", "press-7"),
        ("token", "press-7", "--profile", PROFILE, "--valid", "a day"),
        ("token", "press-7", "--profile", PROFILE, "--valid", "31d"),
        ("token", "press-7", "--profile", PROFILE, "--server", "https://x"),
        ("token", "press-7", "--list"),
        ("token", "--list", "--revoke", "press-7"),
        ("enroll-server", "--listen", "x:0"),
        ("enroll-server", "--host", "a b"),
    ],
)
def test_words_that_cannot_be_are_usage_errors(
    run: Callable[..., tuple[int, str, str]], words: tuple[str, ...]
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "edge-fleet" in err


def test_a_server_without_the_authoritys_passphrase_says_so_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_FLEET_PASSPHRASE", raising=False)
    make_home(tmp_path / "locked", passphrase="correct horse", now=None)
    assert main(["enroll-server", "--home", str(tmp_path / "locked")]) == 1
    assert "--passphrase-file" in capsys.readouterr().err
