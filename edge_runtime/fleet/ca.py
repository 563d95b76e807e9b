"""The fleet's own certificate authority: who may talk to the broker, and who no longer.

Owns `ca/` and `operator/` of the fleet's home. A name has at most one good certificate in each
role: a new one revokes those before it. What certificates hold is in `certificates`.

Order of a change: the index, then the revocation list, then the caller writes the new certificate.
A power cut leaves at worst an entry too many, never a certificate that nobody could revoke. Who
changes something holds the home (`Home.hold`): two at once would forget what the other issued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from edge_runtime.bundle.durable import replace
from edge_runtime.errors import InputError
from edge_runtime.fleet.certificates import (
    CA_VALID,
    OPERATOR,
    VALID,
    Key,
    PublicKey,
    Role,
    alternative_names,
    key_pem,
    leaf_certificate,
    new_key,
    pem,
    read_certificate,
    read_key,
    revocation_list,
    root_certificate,
)
from edge_runtime.fleet.home import Home, make_secret_folder, write_secret
from edge_runtime.fleet.issued import Entry, Issued, utc

RENEW = timedelta(days=180)
"""A certificate that can be renewed in passing is, so long before it ends."""
SUPERSEDED, REVOKED = "superseded", "revoked"
"""Why a certificate gets in no longer: another took its place, or somebody said so."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate, PEM, for a key that somebody else keeps."""

    certificate: bytes
    entry: Entry


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, both PEM. The key is nowhere else: whoever asked writes it."""

    certificate: bytes
    key: bytes = field(repr=False)
    entry: Entry


class CertificateAuthority:
    """The authority of a home. `passphrase` is that of `ca.key`, None where it has none.

    The key is read only by what needs it: `issue`, `sign` and `revoke`.
    """

    def __init__(self, home: Home, passphrase: str | None = None) -> None:
        self._home = home
        self._passphrase = passphrase
        self._index = home.ca / "index.json"

    def certificate(self) -> bytes:
        """`ca.pem`: what devices, operators and the broker trust. Raises InputError."""
        return _read(self._home.ca_certificate)

    def crl(self) -> bytes:
        """`crl.pem`: whom the broker lets in no longer. Raises InputError."""
        return _read(self._home.crl)

    def issued(self) -> Issued:
        """Everything that was issued. Raises InputError."""
        return Issued.read(self._index)

    def create(self, now: datetime | None = None) -> None:
        """Make the authority's key, certificate and an empty revocation list.

        Raises:
            InputError: there is an authority already; it is never replaced.
            DeviceError: it cannot be written.
        """
        home = self._home
        if home.ca_certificate.exists():
            raise InputError(
                f"{home.ca_certificate}: there is a certificate authority already, and every "
                "device trusts it; it is not replaced"
            )
        make_secret_folder(home.ca)
        key = new_key()
        certificate = root_certificate(key, utc(now) + CA_VALID)
        write_secret(home.ca_key, key_pem(key, self._passphrase))
        self._write(Issued(), certificate, key)
        # The certificate last: with it the authority is there, and whole.
        replace(home.ca_certificate, pem(certificate))

    def issue(
        self, role: Role, name: str, hosts: Sequence[str] = (), *, now: datetime | None = None
    ) -> Identity:
        """A new key and certificate for `name`; those that it had in this role are revoked.

        Args:
            hosts: names and addresses that the broker is reached by; for the broker only.

        Raises:
            InputError: the name is no such name, or the authority cannot be used.
            DeviceError: it cannot be written.
        """
        key = new_key()
        made = self.sign(role, name, key.public_key(), hosts, now=now)
        return Identity(made.certificate, key_pem(key), made.entry)

    def sign(
        self,
        role: Role,
        name: str,
        public_key: PublicKey,
        hosts: Sequence[str] = (),
        *,
        now: datetime | None = None,
    ) -> Signed:
        """As `issue`, for a key that was made elsewhere and stays there. Raises as `issue`."""
        names = alternative_names(role, name, hosts)
        now = utc(now)
        ca, ca_key = self._load(now)
        end = min(now + VALID[role], ca.not_valid_after_utc)
        certificate = leaf_certificate(ca, ca_key, public_key, role, name, names, end)
        entry = Entry(certificate.serial_number, role.value, name, now, end)
        issued = self.issued()
        before = [old.serial for old in issued.good(role.value, name, now)]
        self._write(issued.without(before, now, SUPERSEDED).with_one(entry), ca, ca_key)
        return Signed(pem(certificate), entry)

    def demand_usable(self, now: datetime | None = None) -> None:
        """For who will issue later: raises InputError where the authority cannot be used now."""
        self._load(utc(now))

    def revoke(self, role: Role, name: str, *, now: datetime | None = None) -> tuple[Entry, ...]:
        """Let `name` in no longer; returns the certificates that got in before this.

        The revocation list is written anew also where none did, so that a try that was cut short
        can be repeated.

        Raises:
            InputError: `name` never had a certificate, or the authority cannot be used.
            DeviceError: it cannot be written.
        """
        now = utc(now)
        issued = self.issued()
        if not issued.of(role.value, name):
            raise InputError(f"{role.value} {name}: never had a certificate of this fleet")
        gone = issued.good(role.value, name, now)
        ca, ca_key = self._load(now)
        self._write(issued.without([one.serial for one in gone], now, REVOKED), ca, ca_key)
        return gone

    def keeps(
        self, role: Role, certificate: Path, key: Path, hosts: Sequence[str], now: datetime
    ) -> bool:
        """Whether the files hold a certificate of ours, for these hosts, that need not be renewed.

        Raises:
            InputError: the index cannot be read.
        """
        try:
            found = read_certificate(_read(certificate), str(certificate))
            own = read_key(_read(key), None, str(key)).public_key() == found.public_key()
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (InputError, x509.ExtensionNotFound):
            return False
        same = not hosts or set(names) == set(alternative_names(role, "", hosts))
        good = any(
            entry.good(now + RENEW)
            for entry in self.issued()
            if (entry.serial, entry.role) == (found.serial_number, role.value)
        )
        return own and same and good

    def _write(self, issued: Issued, ca: x509.Certificate, key: Key) -> None:
        revoked = [
            (entry.serial, entry.revoked, entry.reason == SUPERSEDED)
            for entry in issued
            if entry.revoked is not None
        ]
        crl = revocation_list(ca, key, revoked)
        issued.write(self._index)
        replace(self._home.crl, crl)

    def _load(self, now: datetime) -> tuple[x509.Certificate, Key]:
        """The authority's certificate and key. Raises InputError."""
        path = self._home.ca_certificate
        certificate = read_certificate(self.certificate(), str(path))
        if now >= certificate.not_valid_after_utc:
            raise InputError(
                f"{path}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}; this fleet needs "
                "a new authority, and its devices must be enrolled anew"
            )
        key = read_key(_read(self._home.ca_key), self._passphrase, str(self._home.ca_key))
        if key.public_key() != certificate.public_key():
            raise InputError(f"{self._home.ca_key}: is not the key of {path}")
        return certificate, key


def create(home: Home, passphrase: str | None = None, *, now: datetime | None = None) -> None:
    """The authority of a new home and the operator's certificate; what is there stays.

    Raises:
        InputError: what is there cannot be used.
        DeviceError: it cannot be written.
    """
    if not home.ca_certificate.exists():
        CertificateAuthority(home, passphrase).create(now)
    renew_operator(home, passphrase, now=now)


def renew_operator(
    home: Home, passphrase: str | None = None, *, now: datetime | None = None
) -> Entry | None:
    """A new certificate for the operator, unless the one in `operator/` is good for long enough.

    Raises:
        InputError: the authority cannot be used.
        DeviceError: it cannot be written.
    """
    now = utc(now)
    authority = CertificateAuthority(home, passphrase)
    make_secret_folder(home.operator)
    replace(home.operator_ca, authority.certificate())
    if authority.keeps(Role.OPERATOR, home.operator_certificate, home.operator_key, (), now):
        return None
    made = authority.issue(Role.OPERATOR, OPERATOR, now=now)
    write_secret(home.operator_key, made.key)
    replace(home.operator_certificate, made.certificate)
    copy_crl(home)
    return made.entry


def copy_crl(home: Home) -> Path | None:
    """Bring the revocation list in `broker/` up to date; returns it, None where there is none.

    Raises:
        InputError: the authority's own cannot be read.
        DeviceError: it cannot be written.
    """
    copy = home.broker / home.crl.name
    if not copy.exists():
        return None
    replace(copy, CertificateAuthority(home).crl())
    return copy


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
