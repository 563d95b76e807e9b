"""The fleet's certificate authority: what it issues and takes back, what a power cut leaves."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet import ca
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.certificates import EPOCH, OPERATOR, Role
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.issued import Issued

NOW = datetime(2026, 11, 5, 12, 0, tzinfo=timezone.utc)
YEAR = timedelta(days=365)
SECRET = "correct horse battery"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "fleet")


@pytest.fixture
def authority(home: Home) -> CertificateAuthority:
    made = CertificateAuthority(home)
    made.create(NOW)
    return made


def certificate(data: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data)


def crl(home: Home) -> x509.CertificateRevocationList:
    """The list, its signature checked."""
    found = x509.load_pem_x509_crl(home.crl.read_bytes())
    key = certificate(home.ca_certificate.read_bytes()).public_key()
    assert found.is_signature_valid(key)  # type: ignore[arg-type]
    return found


def revoked(home: Home) -> set[int]:
    return {entry.serial_number for entry in crl(home)}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# What is issued.


def test_the_authority_signs_certificates_and_lists_but_no_other_authority(
    home: Home, authority: CertificateAuthority
) -> None:
    root = certificate(authority.certificate())
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert root.not_valid_before_utc == EPOCH
    assert 9 * YEAR < root.not_valid_after_utc - NOW < 11 * YEAR
    assert revoked(home) == set()
    assert crl(home).next_update_utc == root.not_valid_after_utc


def test_two_authorities_never_have_the_same_name(tmp_path: Path) -> None:
    names = set()
    for number in range(2):
        made = CertificateAuthority(Home(tmp_path / str(number)))
        made.create(NOW)
        names.add(certificate(made.certificate()).subject.rfc4514_string())
    assert len(names) == 2


@pytest.mark.parametrize(
    ("role", "name", "hosts", "usage", "years"),
    [
        (Role.DEVICE, "press-7", (), ExtendedKeyUsageOID.CLIENT_AUTH, 5),
        (Role.OPERATOR, OPERATOR, (), ExtendedKeyUsageOID.CLIENT_AUTH, 2),
        (Role.BROKER, "broker", ("broker.example",), ExtendedKeyUsageOID.SERVER_AUTH, 2),
    ],
)
def test_a_certificate_is_good_for_its_role_alone(
    authority: CertificateAuthority,
    role: Role,
    name: str,
    hosts: tuple[str, ...],
    usage: x509.ObjectIdentifier,
    years: int,
) -> None:
    made = authority.issue(role, name, hosts, now=NOW)
    leaf, root = certificate(made.certificate), certificate(authority.certificate())
    found = leaf.extensions
    leaf.verify_directly_issued_by(root)
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == name
    assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    constraints = found.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    key_usage = found.get_extension_for_class(x509.KeyUsage).value
    assert key_usage.digital_signature
    assert not key_usage.key_cert_sign
    own = found.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert own == x509.SubjectKeyIdentifier.from_public_key(leaf.public_key())
    issuer = found.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    theirs = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer.key_identifier == theirs.digest
    assert leaf.not_valid_before_utc == EPOCH
    assert abs(leaf.not_valid_after_utc - NOW - years * YEAR) < timedelta(days=3)
    key = serialization.load_pem_private_key(made.key, None)
    assert key.public_key() == leaf.public_key()
    assert made.key.decode() not in repr(made)


def test_a_path_validator_that_is_not_ours_accepts_what_we_issue(
    authority: CertificateAuthority,
) -> None:
    store = verification.Store([certificate(authority.certificate())])
    builder = verification.PolicyBuilder().store(store).time(NOW)
    hosts = ("broker.example", "10.0.0.7")
    broker = certificate(authority.issue(Role.BROKER, "broker", hosts, now=NOW).certificate)
    device = certificate(authority.issue(Role.DEVICE, "press-7", now=NOW).certificate)
    builder.build_server_verifier(x509.DNSName("broker.example")).verify(broker, [])
    builder.build_client_verifier().verify(device, [])
    with pytest.raises(verification.VerificationError):
        builder.build_client_verifier().verify(broker, [])
    with pytest.raises(verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("press-7")).verify(device, [])


def test_a_board_whose_clock_stands_at_1970_believes_the_broker(
    authority: CertificateAuthority,
) -> None:
    broker = certificate(authority.issue(Role.BROKER, "b", ("b.example",), now=NOW).certificate)
    store = verification.Store([certificate(authority.certificate())])
    early = verification.PolicyBuilder().store(store).time(EPOCH + timedelta(seconds=7))
    early.build_server_verifier(x509.DNSName("b.example")).verify(broker, [])


def test_the_broker_is_known_by_names_and_addresses(authority: CertificateAuthority) -> None:
    hosts = ("Broker.Example", "10.0.0.7", "fd00::7", "localhost")
    leaf = certificate(authority.issue(Role.BROKER, "broker", hosts, now=NOW).certificate)
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["broker.example", "localhost"]
    assert [str(a) for a in found.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "fd00::7"]


@pytest.mark.parametrize(
    "host", ["", "*", "*.example", "a b", "-a", "a..b", "a/b", "x" * 64, "é.example", "a" * 300]
)
def test_what_is_no_host_is_refused(authority: CertificateAuthority, host: str) -> None:
    with pytest.raises(InputError, match="expected a name such as"):
        authority.issue(Role.BROKER, "broker", (host,), now=NOW)


@pytest.mark.parametrize("name", ["operator", "Operator", "OPERATOR"])
def test_a_device_cannot_be_called_operator(
    home: Home, authority: CertificateAuthority, name: str
) -> None:
    with pytest.raises(InputError, match="belongs to the fleet's operator"):
        authority.issue(Role.DEVICE, name, now=NOW)
    assert Issued.read(home.ca / "index.json").entries == ()


def test_nobody_else_gets_the_operators_rights(authority: CertificateAuthority) -> None:
    with pytest.raises(InputError, match="belongs to the fleet's operator"):
        authority.issue(Role.OPERATOR, "press-7", now=NOW)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "press 7", "a" * 65, "-a", "ü", "a\n"])
def test_what_is_no_device_id_gets_no_certificate(
    authority: CertificateAuthority, name: str
) -> None:
    with pytest.raises(InputError, match="expected up to 64 letters"):
        authority.issue(Role.DEVICE, name, now=NOW)


def test_no_certificate_outlives_the_authority(authority: CertificateAuthority) -> None:
    end = certificate(authority.certificate()).not_valid_after_utc
    late = authority.issue(Role.DEVICE, "press-7", now=NOW + 9 * YEAR)
    assert certificate(late.certificate).not_valid_after_utc == end
    with pytest.raises(InputError, match="expired on 2036"):
        authority.issue(Role.DEVICE, "press-8", now=NOW + 11 * YEAR)


# What is taken back.


def test_a_new_certificate_revokes_the_one_before_it(
    home: Home, authority: CertificateAuthority
) -> None:
    first = authority.issue(Role.DEVICE, "press-7", now=NOW).entry
    other = authority.issue(Role.DEVICE, "press-8", now=NOW).entry
    second = authority.issue(Role.DEVICE, "press-7", now=NOW + YEAR).entry
    assert revoked(home) == {first.serial}
    (entry,) = crl(home)
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.superseded
    good = {e.serial for e in authority.issued() if e.good(NOW + YEAR)}
    assert good == {other.serial, second.serial}


def test_revoking_takes_back_every_good_certificate_and_can_be_repeated(
    home: Home, authority: CertificateAuthority
) -> None:
    entry = authority.issue(Role.DEVICE, "press-7", now=NOW).entry
    authority.issue(Role.DEVICE, "press-8", now=NOW)
    assert [e.serial for e in authority.revoke(Role.DEVICE, "press-7", now=NOW)] == [entry.serial]
    assert revoked(home) == {entry.serial}
    assert authority.revoke(Role.DEVICE, "press-7", now=NOW) == ()
    assert revoked(home) == {entry.serial}


def test_each_revocation_list_has_a_higher_number(
    home: Home, authority: CertificateAuthority
) -> None:
    def number() -> int:
        return crl(home).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    numbers = [number()]
    for name in ("press-7", "press-8", "press-9"):
        authority.issue(Role.DEVICE, name, now=NOW)
        authority.revoke(Role.DEVICE, name, now=NOW)
        numbers.append(number())
    assert numbers == sorted(set(numbers))


def test_who_never_had_a_certificate_cannot_be_revoked(authority: CertificateAuthority) -> None:
    with pytest.raises(InputError, match="device press-9: never had a certificate"):
        authority.revoke(Role.DEVICE, "press-9", now=NOW)


def test_the_same_name_in_another_role_is_somebody_else(
    home: Home, authority: CertificateAuthority
) -> None:
    broker = authority.issue(Role.BROKER, "broker", ("b.example",), now=NOW).entry
    device = authority.issue(Role.DEVICE, "broker", now=NOW).entry
    authority.revoke(Role.DEVICE, "broker", now=NOW)
    assert revoked(home) == {device.serial}
    assert broker.serial != device.serial


def test_after_a_revocation_the_list_still_holds_everybody_before(
    home: Home, authority: CertificateAuthority
) -> None:
    names = [f"press-{number}" for number in range(20)]
    serials = {authority.issue(Role.DEVICE, name, now=NOW).entry.serial for name in names}
    for name in names:
        authority.revoke(Role.DEVICE, name, now=NOW)
    assert revoked(home) == serials


# What lies on the disk.


def test_private_keys_are_their_owners_alone(home: Home) -> None:
    before = os.umask(0)
    try:
        ca.create(home, now=NOW)
    finally:
        os.umask(before)
    assert mode(home.ca_key) == 0o600
    assert mode(home.operator_key) == 0o600
    assert mode(home.ca) == 0o700
    assert mode(home.operator) == 0o700


def test_the_authoritys_key_opens_only_with_its_passphrase(home: Home) -> None:
    CertificateAuthority(home, SECRET).create(NOW)
    assert b"ENCRYPTED" in home.ca_key.read_bytes()
    CertificateAuthority(home, SECRET).issue(Role.DEVICE, "press-7", now=NOW)
    with pytest.raises(InputError, match=r"is encrypted; give its passphrase with --passphrase"):
        CertificateAuthority(home).issue(Role.DEVICE, "press-8", now=NOW)
    with pytest.raises(InputError, match="the passphrase does not open it"):
        CertificateAuthority(home, "wrong").revoke(Role.DEVICE, "press-7", now=NOW)
    assert revoked(home) == set()


def test_there_is_never_a_second_authority(home: Home, authority: CertificateAuthority) -> None:
    before = home.ca_key.read_bytes()
    with pytest.raises(InputError, match="is a certificate authority already"):
        authority.create(NOW)
    assert home.ca_key.read_bytes() == before


def test_a_key_that_is_not_the_authoritys_is_told(
    home: Home, authority: CertificateAuthority
) -> None:
    home.ca_key.write_bytes(authority.issue(Role.DEVICE, "press-7", now=NOW).key)
    with pytest.raises(InputError, match="is not the key of"):
        authority.issue(Role.DEVICE, "press-8", now=NOW)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("ca.pem", b"-----BEGIN CERTIFICATE-----\n"),
        ("ca.key", b"no key"),
        ("index.json", b"{}"),
        ("index.json", b'{"format":1,"issued":[{"serial":"zz"}]}'),
        ("index.json", b'{"format":2,"issued":[]}'),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_issued(
    home: Home, authority: CertificateAuthority, file: str, content: bytes
) -> None:
    (home.ca / file).write_bytes(content)
    before = {path: path.read_bytes() for path in home.ca.iterdir()}
    with pytest.raises(InputError, match=file):
        authority.issue(Role.DEVICE, "press-7", now=NOW)
    assert {path: path.read_bytes() for path in home.ca.iterdir()} == before


def test_a_lost_index_is_no_empty_index(home: Home, authority: CertificateAuthority) -> None:
    authority.issue(Role.DEVICE, "press-7", now=NOW)
    (home.ca / "index.json").unlink()
    with pytest.raises(InputError, match=r"index\.json: cannot be read"):
        authority.issue(Role.DEVICE, "press-8", now=NOW)


def test_the_index_reads_as_it_was_written_with_a_line_for_each(
    home: Home, authority: CertificateAuthority
) -> None:
    authority.issue(Role.DEVICE, "press-7", now=NOW)
    authority.issue(Role.DEVICE, "press-7", now=NOW)
    authority.revoke(Role.DEVICE, "press-7", now=NOW)
    path = home.ca / "index.json"
    issued, data = Issued.read(path), path.read_bytes()
    issued.write(path)
    assert path.read_bytes() == data
    assert [e.reason for e in issued] == ["superseded", "revoked"]
    assert data.count(b"\n") == 4


def replaces(monkeypatch: pytest.MonkeyPatch, fails_at: int) -> list[str]:
    """Every file that is put in place from now on; the power goes at the one of that number."""
    seen: list[str] = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append(Path(target).name)
        if len(seen) == fails_at:
            raise OSError(5, "the power is gone")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    return seen


@pytest.mark.parametrize("change", ["issue", "revoke"])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_power_cut_never_leaves_a_certificate_that_cannot_be_revoked(
    home: Home,
    authority: CertificateAuthority,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    fails_at: int,
) -> None:
    first = authority.issue(Role.DEVICE, "press-7", now=NOW).entry
    act: Callable[[], object] = {
        "issue": lambda: authority.issue(Role.DEVICE, "press-7", now=NOW),
        "revoke": lambda: authority.revoke(Role.DEVICE, "press-7", now=NOW),
    }[change]
    with monkeypatch.context() as patch:
        seen = replaces(patch, fails_at)
        with pytest.raises(DeviceError):
            act()
    assert seen == ["index.json", "crl.pem"][:fails_at]
    # What the list holds is never more than the index knows, and the next try mends the list.
    assert revoked(home) <= {e.serial for e in authority.issued() if e.revoked}
    authority.revoke(Role.DEVICE, "press-7", now=NOW)
    assert first.serial in revoked(home)
    assert not any(e.good(NOW) for e in authority.issued())
    assert revoked(home) == {e.serial for e in authority.issued()}


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_making_the_authority_can_be_cut_short_and_repeated(
    home: Home, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    with monkeypatch.context() as patch:
        seen = replaces(patch, fails_at)
        with pytest.raises(DeviceError):
            ca.create(home, SECRET, now=NOW)
    assert len(seen) == fails_at
    ca.create(home, SECRET, now=NOW)
    operator = certificate(home.operator_certificate.read_bytes())
    operator.verify_directly_issued_by(certificate(home.ca_certificate.read_bytes()))
    assert home.operator_ca.read_bytes() == home.ca_certificate.read_bytes()
    assert operator.serial_number not in revoked(home)


# The operator.


def test_making_it_again_leaves_all_as_it_is(home: Home) -> None:
    ca.create(home, SECRET, now=NOW)
    before = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    ca.create(home, SECRET, now=NOW + timedelta(days=30))
    assert {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()} == before


def test_the_operators_certificate_is_renewed_half_a_year_before_its_end(home: Home) -> None:
    ca.create(home, now=NOW)
    first = certificate(home.operator_certificate.read_bytes())
    assert ca.renew_operator(home, now=NOW + timedelta(days=540)) is None
    renewed = ca.renew_operator(home, now=NOW + timedelta(days=560))
    second = certificate(home.operator_certificate.read_bytes())
    assert renewed is not None
    assert renewed.serial == second.serial_number
    assert revoked(home) == {first.serial_number}


def test_an_operators_certificate_that_is_lost_or_revoked_is_issued_anew(home: Home) -> None:
    ca.create(home, now=NOW)
    home.operator_key.unlink()
    assert ca.renew_operator(home, now=NOW) is not None
    CertificateAuthority(home).revoke(Role.OPERATOR, OPERATOR, now=NOW)
    assert ca.renew_operator(home, now=NOW) is not None
    assert ca.renew_operator(home, now=NOW) is None


def test_the_brokers_copy_of_the_list_follows(home: Home) -> None:
    ca.create(home, now=NOW)
    assert ca.copy_crl(home) is None
    home.broker.mkdir()
    copy = home.broker / "crl.pem"
    copy.write_bytes(b"old")
    CertificateAuthority(home).issue(Role.DEVICE, "press-7", now=NOW)
    CertificateAuthority(home).revoke(Role.DEVICE, "press-7", now=NOW)
    assert ca.copy_crl(home) == copy
    assert copy.read_bytes() == home.crl.read_bytes()
