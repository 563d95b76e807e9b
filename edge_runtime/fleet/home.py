"""The fleet home: the operator's folder of keys, metadata and identities, and `fleet.toml`.

This module owns where everything lies and who may read it; what `fleet.toml` holds is in
`settings`. It makes no key and signs nothing. A secret is written with mode 0600 from its first
byte, in a folder of mode 0700. One command works on a home at a time: `Home.hold`. A passphrase
comes from a file, from stdin or from the environment, never from the command line, never asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.settings import MAX_SETTINGS_BYTES, Settings
from edge_runtime.messages.topics import DEVICE_ID

HOME_VARIABLE = "EDGE_FLEET_HOME"
DEFAULT_HOME = Path("fleet")
PASSPHRASE_VARIABLE = "EDGE_FLEET_PASSPHRASE"
SETTINGS_FILE = "fleet.toml"
LOCK_FILE = ".lock"
MAX_PASSPHRASE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything lies. Making one touches no disk.

    `repository` is what devices read, ready for a web server or a USB stick; all else is for
    operators only, and `keys` and `ca` for nobody but them.
    """

    folder: Path

    @property
    def settings_file(self) -> Path:
        """`fleet.toml`; a folder that has one is a fleet home."""
        return self.folder / SETTINGS_FILE

    @property
    def keys(self) -> Path:
        """Private keys of the TUF roles."""
        return self.folder / "keys"

    @property
    def staged(self) -> Path:
        """Metadata that lacks signatures: `<N>.<role>.json`."""
        return self.folder / "staged"

    @property
    def repository(self) -> Path:
        """The tree that devices read: `metadata/` and `chunks/`."""
        return self.folder / "repository"

    @property
    def metadata(self) -> Path:
        """TUF metadata, and one release file for each release."""
        return self.repository / "metadata"

    @property
    def chunks(self) -> Path:
        """`<aa>/<sha256>`, as `bundle.store.ChunkStore` keeps them."""
        return self.repository / "chunks"

    @property
    def ca(self) -> Path:
        """The fleet's own certificate authority."""
        return self.folder / "ca"

    @property
    def ca_certificate(self) -> Path:
        """Of the certificate authority."""
        return self.ca / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """Of the certificate authority; secret."""
        return self.ca / "ca.key"

    @property
    def crl(self) -> Path:
        """Certificates that are revoked."""
        return self.ca / "crl.pem"

    @property
    def operator(self) -> Path:
        """The operator's own client certificate, its key, and the authority's."""
        return self.folder / "operator"

    @property
    def operator_certificate(self) -> Path:
        """Client certificate of `edge-fleet` itself."""
        return self.operator / "operator.pem"

    @property
    def operator_key(self) -> Path:
        """Of the client certificate; secret."""
        return self.operator / "operator.key"

    @property
    def operator_ca(self) -> Path:
        """What the broker's certificate is held to."""
        return self.operator / "ca.pem"

    @property
    def devices(self) -> Path:
        """A folder to flash for each device."""
        return self.folder / "devices"

    def device(self, device: str) -> Path:
        """The folder to flash of one device.

        Raises:
            InputError: not a device id.
        """
        if not re.fullmatch(DEVICE_ID, device):
            raise InputError(f"device id {device!r}: expected up to 64 letters, digits, '-' or '_'")
        return self.devices / device

    @property
    def broker(self) -> Path:
        """The broker's configuration, rights and certificate."""
        return self.folder / "broker"

    @property
    def enrollment(self) -> Path:
        """The enrolment server's key, and what is kept of one-time tokens; secret."""
        return self.folder / "enrollment"

    @property
    def exists(self) -> bool:
        """Whether the folder is a fleet home."""
        return self.settings_file.is_file()

    def read(self) -> Settings:
        """The settings.

        Raises:
            InputError: no fleet home, or `fleet.toml` is faulty.
        """
        try:
            with open(self.settings_file, "rb") as stream:
                data = stream.read(MAX_SETTINGS_BYTES + 1)
        except FileNotFoundError:
            raise InputError(
                f"{self.folder} is no fleet home, {SETTINGS_FILE} is missing; make one with "
                f"`edge-fleet init --home {self.folder}`, or say where yours is with --home DIR or "
                f"in {HOME_VARIABLE}"
            ) from None
        except OSError as reason:
            raise InputError(f"{self.settings_file}: cannot be read ({reason.strerror})") from None
        return Settings.from_bytes(data, str(self.settings_file))

    def write(self, settings: Settings) -> None:
        """Replace the settings; comments of people are lost. A broker's URL may hold a password.

        Raises:
            DeviceError: the disk is full, read-only or failing.
        """
        write_secret(self.settings_file, settings.to_bytes())

    @contextlib.contextmanager
    def hold(self, patience_s: float = 10.0) -> Iterator[None]:
        """Nobody else changes this home inside the block.

        Raises:
            InputError: another edge-fleet is at work here, for longer than `patience_s`.
            DeviceError: the folder cannot be written.
        """
        try:
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as reason:
            raise DeviceError(
                f"fleet home {self.folder}: cannot be written ({reason.strerror})"
            ) from None
        try:
            deadline_s = time.monotonic() + patience_s
            while not _locked(descriptor):
                if time.monotonic() > deadline_s:
                    raise InputError(
                        f"fleet home {self.folder}: another edge-fleet is at work here; "
                        "wait until it is done"
                    )
                time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def find_home(given: Path | None, environment: Mapping[str, str] = os.environ) -> Home | None:
    """The home that was named; or the default one, where it is one; None where there is none.

    A home that was named and is none shows when it is read: nobody's word is passed over.
    """
    named = given if given is not None else environment.get(HOME_VARIABLE)
    if named:
        return Home(Path(named))
    return Home(DEFAULT_HOME) if Home(DEFAULT_HOME).exists else None


def make_secret_folder(folder: Path) -> None:
    """`folder` with mode 0700, unless it is there.

    Raises:
        DeviceError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.sync_folder(folder.parent)
    except OSError as reason:
        raise DeviceError(f"{folder}: cannot be made ({reason.strerror})") from None


def write_secret(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`, durably; no other user may read a byte of it, ever.

    Raises:
        DeviceError: the disk is full, read-only or failing; `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        durable.sync_folder(path.parent)
    except OSError as reason:
        raise DeviceError(f"{path}: cannot be written ({reason.strerror})") from None


def read_passphrase(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The first line of `file` (`-`: of stdin), else what the environment says, else None.

    Raises:
        InputError: unreadable, empty, too long, or no UTF-8.
    """
    if file is None:
        return environment.get(PASSPHRASE_VARIABLE) or None
    where = "passphrase on stdin" if str(file) == "-" else f"passphrase file {file}"
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.readline(MAX_PASSPHRASE_BYTES + 1)
        else:
            with open(file, "rb") as stream:
                data = stream.readline(MAX_PASSPHRASE_BYTES + 1)
        passphrase = data.decode("utf-8").rstrip("\r\n")
    except OSError as reason:
        raise InputError(f"{where}: cannot be read ({reason.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text") from None
    if not passphrase or len(data) > MAX_PASSPHRASE_BYTES:
        raise InputError(
            f"{where}: the first line has {len(data)} bytes, expected 1..{MAX_PASSPHRASE_BYTES}"
        )
    return passphrase
