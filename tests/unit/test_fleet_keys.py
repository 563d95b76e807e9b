"""Keys as files and as words, and signers behind any URI."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
    SSlibKey,
)

from edge_runtime.errors import InputError, TransferError
from edge_runtime.fleet.keyring import PIN_VARIABLE, Keyring
from edge_runtime.fleet.keys import (
    Held,
    check_passphrase,
    keyid_of,
    make_key,
    make_key_pair,
    needs_passphrase,
    read_word,
)

SECRET = "correct horse battery"
DATA = b"what is signed"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    folder.mkdir()
    return folder


@pytest.fixture
def held(home: Path) -> Held:
    return make_key(home / "keys", "targets", SECRET.encode())


def ring(home: Path, *several: Held, passphrase: str | None = SECRET) -> Keyring:
    uris = {held.key.keyid: held.uri for held in several}
    return Keyring(home, uris, lambda: passphrase, {})


def path(home: Path, held: Held) -> Path:
    return home / held.uri.partition(":")[2]


# Files.


def test_a_private_key_is_readable_by_its_owner_only(home: Path, held: Held) -> None:
    assert stat.S_IMODE((home / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE(path(home, held).stat().st_mode) == 0o600
    assert [item.name for item in (home / "keys").iterdir()] == [path(home, held).name]


def test_an_encrypted_key_opens_with_its_passphrase_only(home: Path, held: Held) -> None:
    data = path(home, held).read_bytes()
    assert data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert needs_passphrase(held.uri, home)
    load_pem_private_key(data, SECRET.encode())
    plain = make_key(home / "keys", "timestamp", None)
    assert path(home, plain).read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert not needs_passphrase(plain.uri, home)


def test_a_key_is_named_by_what_it_is(held: Held) -> None:
    assert held.key.keyid == keyid_of(held.key)
    assert held.uri == f"file:keys/targets-{held.key.keyid[:8]}.pem"


def test_a_key_pair_is_never_written_over(home: Path) -> None:
    file = home / "bob.pem"
    key, public = make_key_pair(file, SECRET.encode())
    assert public == home / "bob.pub.pem"
    load_pem_public_key(public.read_bytes())
    assert read_word(str(public), home, None) == Held(key, "")
    before = file.read_bytes()
    for taken in (file, public):
        for other in (file, public):
            other.unlink(missing_ok=True)
        taken.write_bytes(before)
        with pytest.raises(InputError, match="is there already"):
            make_key_pair(file, SECRET.encode())
        assert taken.read_bytes() == before


@pytest.mark.parametrize(
    ("passphrase", "says"), [(None, "give a passphrase"), ("eleven char", "11")]
)
def test_a_passphrase_that_is_guessed_soon_is_refused(passphrase: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_passphrase(passphrase)


# Words.


def test_a_private_key_by_path_says_which_public_key_it_is(
    home: Path, held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inside = f"file:fleet/keys/{path(home, held).name}"
    assert read_word(inside, home, SECRET) == held
    assert read_word(f"file://{path(home, held)}", home, SECRET) == held
    moved = path(home, held).rename(tmp_path / "usb.pem")
    assert read_word("file:usb.pem", home, SECRET) == Held(held.key, f"file:{moved}")


def test_a_public_key_may_come_with_any_signer(home: Path) -> None:
    key, public = make_key_pair(home / "bob.pem", SECRET.encode())
    word = f"{public}=hsm:2?label=YubiKey+PIV+%231"
    assert read_word(word, home, None) == Held(key, "hsm:2?label=YubiKey+PIV+%231")
    assert read_word(f"{public}=file:{home}/keys/b.pem", home, None).uri == "file:keys/b.pem"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nobody.pem", r"key nobody\.pem: cannot be read \(No such file"),
        ("file:nobody.pem", r"nobody\.pem: cannot be read"),
        ("garbage.pem", r"key garbage\.pem: no public key in PEM"),
        ("file:garbage.pem", r"garbage\.pem: no private key in PEM"),
        ("fleet/keys/secret.pem", r"a private key that is here is named file:fleet/keys/secret"),
        ("awskms:arn:aws:kms:1", r"write PUBLIC\.pem=awskms:arn:aws:kms:1"),
        ("public.pem=ftp:x", r"scheme 'ftp' is not known; known are .*awskms.*file.*hsm"),
        ("public.pem=x", r"scheme '' is not known"),
        ("envvar:NO_SUCH_KEY", r"envvar:NO_SUCH_KEY: no private key in PEM"),
    ],
)
def test_a_word_that_names_no_key_is_one_sentence(
    word: str, says: str, home: Path, held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_key_pair(tmp_path / "x.pem", SECRET.encode())
    (tmp_path / "x.pub.pem").rename("public.pem")
    path(home, held).rename(home / "keys" / "secret.pem")
    Path("garbage.pem").write_bytes(b"garbage")
    with pytest.raises(InputError, match=says) as refused:
        read_word(word, home, SECRET)
    assert "\n" not in str(refused.value)


# Signing.


def test_whoever_is_here_signs(home: Path, held: Held) -> None:
    other = make_key(home / "keys", "targets", SECRET.encode())
    away = Held(make_key(home / "keys", "targets", None).key, "file:keys/away.pem")
    nobody = Held(make_key(home / "keys", "targets", None).key)
    keys = [each.key for each in (held, other, away, nobody)]
    made = ring(home, held, other, away, nobody).sign(DATA, keys)
    assert [signature.keyid for signature in made.signatures] == [held.key.keyid, other.key.keyid]
    for key, signature in zip(keys, made.signatures, strict=False):
        key.verify_signature(signature, DATA)
    assert made.failures == ()


def test_the_passphrase_is_asked_for_once_and_only_where_it_is_needed(
    home: Path, held: Held
) -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return SECRET

    plain = make_key(home / "keys", "timestamp", None)
    other = make_key(home / "keys", "root", SECRET.encode())
    uris = {each.key.keyid: each.uri for each in (held, plain, other)}
    signers = Keyring(home, uris, ask)
    signers.sign(DATA, [plain.key])
    assert asked == []
    signers.sign(DATA, [held.key, other.key])
    assert asked == [1]


@pytest.mark.parametrize(
    ("passphrase", "says"),
    [(None, "is encrypted; give its passphrase"), ("wrong", "the passphrase does not open it")],
)
def test_no_key_that_opens_is_an_error_and_one_of_two_is_told(
    passphrase: str | None, says: str, home: Path, held: Held
) -> None:
    with pytest.raises(InputError, match=says):
        ring(home, held, passphrase=passphrase).sign(DATA, [held.key])
    with pytest.raises(InputError, match=says):
        ring(home, held, passphrase=passphrase).check([held.key])
    plain = make_key(home / "keys", "targets", None)
    made = ring(home, held, plain, passphrase=passphrase).sign(DATA, [held.key, plain.key])
    assert len(made.signatures) == 1
    (failure,) = made.failures
    assert says in failure


def test_a_file_with_another_key_is_found_out(home: Path, held: Held) -> None:
    other = make_key(home / "keys", "targets", SECRET.encode())
    path(home, other).replace(path(home, held))
    with pytest.raises(InputError, match=f"is not the private half of {held.key.keyid[:8]}"):
        ring(home, held).sign(DATA, [held.key])


def test_a_key_may_lie_in_the_environment(
    home: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMESTAMP_KEY", path(home, held).read_text())
    named = read_word("envvar:TIMESTAMP_KEY", home, SECRET)
    assert named == Held(held.key, "envvar:TIMESTAMP_KEY")
    assert ring(home, named).sign(DATA, [held.key]).signatures
    monkeypatch.delenv("TIMESTAMP_KEY")
    assert not ring(home, named).is_here(held.key.keyid)


def test_a_signer_for_this_run_is_found_by_what_it_holds_or_by_its_id(
    home: Path, held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path(home, held).rename(tmp_path / "usb.pem")
    keys = {held.key.keyid: held.key}
    for word in ("file:usb.pem", f"{held.key.keyid[:10]}=file:usb.pem"):
        signers = ring(home)
        signers.add_word(word, keys)
        assert signers.sign(DATA, [held.key]).signatures
    with pytest.raises(InputError, match="which signs nothing in this fleet"):
        ring(home).add_word("file:usb.pem", {})
    with pytest.raises(InputError, match="0 keys begin so"):
        ring(home).add_word("ffff=file:usb.pem", keys)
    with pytest.raises(InputError, match="scheme 'ftp' is not known"):
        ring(home).add_word(f"{held.key.keyid[:10]}=ftp:x", keys)


# Signers of securesystemslib.


def test_any_scheme_of_the_library_goes_to_it_as_it_is(home: Path) -> None:
    private = Ed25519PrivateKey.generate()
    key = SSlibKey.from_crypto(private.public_key())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (home / "theirs.pem").write_bytes(pem)
    made = ring(home, Held(key, f"file2:{home / 'theirs.pem'}")).sign(DATA, [key])
    key.verify_signature(made.signatures[0], DATA)


class Token(Signer):
    """A token in software: wants a PIN, and may hold another key than one thinks."""

    pins: list[str]
    private = Ed25519PrivateKey.from_private_bytes(b"7" * 32)
    public = SSlibKey.from_crypto(private.public_key())

    def __init__(self, uri: str, handler: SecretsHandler | None) -> None:
        self.uri, self.handler = uri, handler

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Token:
        if "unplugged" in priv_key_uri:
            raise RuntimeError("no such token\nTraceback and other noise")
        return cls(priv_key_uri, secrets_handler)

    @property
    def public_key(self) -> Key:
        return self.public

    def sign(self, payload: bytes) -> Signature:
        assert self.handler is not None
        Token.pins.append(self.handler("PIN"))
        if "offline" in self.uri:
            raise OSError("host unreachable")
        return CryptoSigner(self.private).sign(payload)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> type[Token]:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "token", Token)
    monkeypatch.setattr(Token, "pins", [], raising=False)
    return Token


def test_a_token_gets_its_pin_from_the_environment_or_else_the_passphrase(
    home: Path, token: type[Token]
) -> None:
    uris = {token.public.keyid: "token:1"}
    assert ring(home, Held(token.public, "token:1")).sign(DATA, [token.public]).signatures
    own = Keyring(home, uris, lambda: SECRET, {PIN_VARIABLE: "123456"})
    assert own.sign(DATA, [token.public]).signatures
    assert token.pins == [SECRET, "123456"]


@pytest.mark.parametrize(
    ("uri", "error", "says"),
    [
        ("token:unplugged", InputError, r"cannot be opened \(no such token\)"),
        ("token:offline", TransferError, r"did not sign as it should \(host unreachable\)"),
    ],
)
def test_a_token_that_fails_is_one_sentence(
    uri: str, error: type[Exception], says: str, home: Path, token: type[Token]
) -> None:
    with pytest.raises(error, match=says) as refused:
        ring(home, Held(token.public, uri)).sign(DATA, [token.public])
    assert token.public.keyid[:8] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_token_that_holds_another_key_is_found_out(
    home: Path, held: Held, token: type[Token]
) -> None:
    with pytest.raises(TransferError, match="did not sign as it should"):
        ring(home, Held(held.key, "token:1")).sign(DATA, [held.key])


@pytest.mark.parametrize(
    ("uri", "missing", "extra"),
    [
        ("hsm:2", "_hsm_signer.PKCS11_IMPORT_ERROR", "hsm"),
        ("gcpkms:projects/p/cryptoKeyVersions/1", "_gcp_signer.GCP_IMPORT_ERROR", "gcpkms"),
        ("awskms:arn:aws:kms:eu-west-1:1:key/k", "_aws_signer.AWS_IMPORT_ERROR", "awskms"),
        ("azurekms://v.vault.azure.net/keys/k/1", "_azure_signer.AZURE_IMPORT_ERROR", "azurekms"),
        ("hv:key/1", "_vault_signer.VAULT_IMPORT_ERROR", "vault"),
    ],
)
def test_a_signer_that_is_not_installed_says_what_to_install(
    uri: str,
    missing: str,
    extra: str,
    home: Path,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Where it happens to be installed, the library is told that it is not.
    monkeypatch.setattr(f"securesystemslib.signer.{missing}", "it is missing")
    with pytest.raises(InputError, match=rf"pip install 'securesystemslib\[{extra}\]'") as refused:
        ring(home, Held(held.key, uri)).sign(DATA, [held.key])
    assert uri in str(refused.value)
    assert "\n" not in str(refused.value)
