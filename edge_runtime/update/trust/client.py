"""The client of signed metadata: python-tuf's, with what a device needs on top.

It owns the folder of trusted metadata and decides whether a release is vouched for. It opens no
connection: metadata comes from a `Files`, by name and with a bound. The workflow, its order
included, is python-tuf's `Updater`; added here: 1. the initial root is given every time, the disk
is never the anchor; 2. files are fsynced, and left alone where nothing changed; 3. expiry is judged
by trusted time, see `clock`; 4. bounds on size hold whatever another role announces; 5. JSON that
two readers may read in two ways is refused; 6. one key never counts twice for a threshold; 7. every
failure is one sentence.

Source: The Update Framework Specification 1.0.34, section 5, "Detailed client workflow".
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from tuf.api import exceptions as tuf
from tuf.api.metadata import (
    Key,
    Metadata,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edge_runtime.bundle import durable
from edge_runtime.errors import (
    DeviceError,
    EdgeError,
    InputError,
    MetadataError,
    TransferError,
    UntrustedError,
)
from edge_runtime.fields import decode_json
from edge_runtime.messages.fleet import Release
from edge_runtime.text import MAX_ERROR, plain
from edge_runtime.update.clock import Clock

SIGNED_AT = "signed_at"
MAX_ROOT_BYTES = 128 << 10
MAX_TIMESTAMP_BYTES = 16 << 10
MAX_SNAPSHOT_BYTES = 128 << 10
MAX_TARGETS_BYTES = 1 << 20
MAX_BYTES = {
    Root.type: MAX_ROOT_BYTES,
    Timestamp.type: MAX_TIMESTAMP_BYTES,
    Snapshot.type: MAX_SNAPSHOT_BYTES,
}
"""Of a role's metadata; all others are targets."""
MAX_DOWNLOAD_BYTES = 64 << 20
MAX_ROOT_ROTATIONS = 256
MAX_DELEGATIONS = 32
BASE = "metadata/"


class Files(Protocol):
    """Where metadata comes from: a broker, a web server, a folder."""

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """The file called `name`, or None where there is none. Not to be believed.

        What is longer than `max_bytes` may be cut off there, one byte beyond.

        Raises:
            TransferError: it cannot be had now.
        """


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a refresh ended in: the version of each role, and trusted time, Unix seconds."""

    root_version: int
    timestamp_version: int
    snapshot_version: int
    targets_version: int
    time_s: float


class Client:
    """One refresh of the metadata in `folder`, and what it says of releases.

    Args:
        folder: made if need be; holds `timestamp.json`, `snapshot.json`, `targets.json` and
            `root_history/`.
        root: initial trusted root metadata, from this device's own configuration.

    Raises:
        MetadataError: `root` is no root metadata, or not signed by its own keys.
        DeviceError: the folder cannot be written.
    """

    def __init__(self, folder: Path, root: bytes, files: Files, clock: Clock) -> None:
        self._fetcher = _Fetcher(files)
        with self._sentences("initial root"):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_torn(folder)
            self._updater = _Updater(folder, root, self._fetcher, clock)

    def refresh(self) -> Trusted:
        """Follow root, timestamp, snapshot and targets to their newest versions. Once.

        Raises:
            MetadataError: something is not signed as it must be, expired, older than what was
                seen, at odds with the rest, too large or malformed.
            TransferError: something cannot be had now.
            DeviceError: the disk failed.
        """
        with self._sentences():
            self._updater.refresh()
            return self._updater.trusted()

    def target(self, path: str) -> TargetFile | None:
        """What the metadata says of a target, delegated or not; None: nothing.

        Raises:
            MetadataError, TransferError, DeviceError: as `refresh`, for delegated metadata.
        """
        with self._sentences():
            return self._updater.get_targetinfo(path)

    def check(self, release: Release) -> None:
        """Hold `release` to the signed metadata. Steps the caller owes: profile, files.

        Raises:
            UntrustedError: nobody signed it, or another bundle is signed under its name.
            TransferError: it is signed, and what the desired state says beside it is wrong: no
                bundle is to blame for that.
            MetadataError, TransferError, DeviceError: as `target`.
        """
        target = self.target(release.file)
        where = f"release {release.name}=={release.version} for {release.profile}"
        if target is None:
            raise UntrustedError(
                f"{where}: not in the signed metadata, "
                f"targets version {self._updater.targets_version}"
            )
        signed = target.hashes.get("sha256", "")
        wanted = release.manifest
        if (signed, target.length) != (wanted.sha256, wanted.size_bytes):
            kind = TransferError if signed == wanted.sha256 else UntrustedError
            raise kind(
                f"{where}: wanted is manifest {wanted.sha256[:12]}… of {wanted.size_bytes} bytes, "
                f"signed is {plain(signed, 12)}… of {target.length}"
            )

    def download(self, target: TargetFile, folder: Path, base: str) -> Path:
        """Fetch a target's own bytes into `folder`, checked, in memory; for `python -m` only.

        Nothing is fetched where the file is there already.

        Args:
            base: put before the target's path to make the name that `Files` is asked for.

        Raises:
            MetadataError: they are not what the metadata says, or too many.
            TransferError, DeviceError: they cannot be had, or kept.
        """
        what = f"target {plain(target.path, 80)}"
        path = folder / quote(target.path, "")
        if target.length > MAX_DOWNLOAD_BYTES:
            raise MetadataError(
                f"{what}: {target.length} bytes, at most {MAX_DOWNLOAD_BYTES} are fetched"
            )
        with self._sentences(what):
            if self._updater.find_cached_target(target, str(path)) is None:
                self._updater.download_target(target, str(path), base)
        return path

    @contextlib.contextmanager
    def _sentences(self, what: str = "") -> Iterator[None]:
        """Whatever python-tuf says, as one of our errors."""
        try:
            yield
        except EdgeError:
            raise
        except tuf.DownloadLengthMismatchError as reason:
            raise MetadataError(f"{what or self._fetcher.last}: too large ({reason})") from None
        except tuf.DownloadError as reason:
            raise TransferError(f"{what or self._fetcher.last}: {reason}") from None
        except tuf.RepositoryError as reason:
            name = what or self._fetcher.last
            raise MetadataError(f"{name}: {_why(reason, self._fetcher.now_s)}") from None
        except OSError as reason:
            raise DeviceError(
                f"{what or 'trusted metadata'}: cannot be kept ({reason.strerror or reason})"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as reason:
            # python-tuf wraps what parsing raises; what it overlooks is malformed all the same.
            name = what or self._fetcher.last
            raise MetadataError(f"{name}: malformed ({type(reason).__name__})") from None


class _Updater(Updater):
    """See the module's text. The names with an underscore are python-tuf 7's own."""

    def __init__(self, folder: Path, root: bytes, fetcher: _Fetcher, clock: Clock) -> None:
        _check_root_keys(root)
        self._clock = clock
        self._told = fetcher
        self._following = False
        super().__init__(
            str(folder),
            BASE,
            fetcher=fetcher,
            config=UpdaterConfig(
                max_root_rotations=MAX_ROOT_ROTATIONS,
                max_delegations=MAX_DELEGATIONS,
                root_max_length=MAX_ROOT_BYTES,
                timestamp_max_length=MAX_TIMESTAMP_BYTES,
                snapshot_max_length=MAX_SNAPSHOT_BYTES,
                targets_max_length=MAX_TARGETS_BYTES,
            ),
            bootstrap=root,
        )

    def trusted(self) -> Trusted:
        """After a refresh."""
        s = self._trusted_set
        return Trusted(
            root_version=s.root.version,
            timestamp_version=s.timestamp.version,
            snapshot_version=s.snapshot.version,
            targets_version=s.targets.version,
            time_s=self._told.now_s,
        )

    @property
    def targets_version(self) -> int:
        """Of the targets metadata."""
        return self._trusted_set.targets.version

    def _load_root(self) -> None:
        self._following = True
        super()._load_root()
        self._set_time(signed_at(self._trusted_set.root))

    def _load_timestamp(self) -> None:
        super()._load_timestamp()
        # Believed only now: its signature, version and expiry were checked.
        self._clock.vouch(signed_at(self._trusted_set.timestamp), self._timestamp_keys)
        self._set_time(signed_at(self._trusted_set.root))
        if self._trusted_set.root.is_expired(self._trusted_set.reference_time):
            # As the next refresh would say: this timestamp has told that it is later.
            raise tuf.ExpiredMetadataError("Final root.json is expired")

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        targets = super()._load_targets(role, parent_role)
        if targets.delegations is not None:
            delegated: Iterable[Role] = (targets.delegations.roles or {}).values()
            if targets.delegations.succinct_roles is not None:
                delegated = [targets.delegations.succinct_roles]
            _refuse_one_key_twice(targets.delegations.keys, delegated)
        return targets

    def _download_metadata(self, rolename: str, length: int, version: int | None = None) -> bytes:
        # The length was announced by another role, whose key may be stolen.
        bound = min(length, MAX_BYTES.get(rolename, MAX_TARGETS_BYTES))
        data = super()._download_metadata(rolename, bound, version)
        decode_json(data, max_bytes=bound, where=self._told.last, error=MetadataError)
        if rolename == Root.type:
            _check_root_keys(data)
        return data

    def _set_time(self, root_signed_s: float) -> None:
        now_s = self._clock.now_s(root_signed_s, self._timestamp_keys)
        self._told.now_s = now_s
        self._trusted_set.reference_time = datetime.datetime.fromtimestamp(
            now_s, datetime.timezone.utc
        )

    @property
    def _timestamp_keys(self) -> list[str]:
        return list(self._trusted_set.root.roles[Timestamp.type].keyids)

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        with contextlib.suppress(OSError):
            if durable.read(path, len(data) + 1) == data:
                return  # Nothing new: a memory card counts its writes.
        durable.replace(path, data)

    def _persist_root(self, version: int, data: bytes) -> None:
        history = Path(self._dir, "root_history")
        if not history.is_dir():
            history.mkdir(parents=True, exist_ok=True)
            durable.sync_folder(Path(self._dir))
        self._persist_file(str(history / f"{version}.root.json"), data)

    def _update_root_symlink(self) -> None:
        link = Path(self._dir, "root.json")
        if not self._following and link.exists():
            return  # It points at a later root than the initial one: leave it until that is loaded.
        aim = f"root_history/{self._trusted_set.root.version}.root.json"
        if not Path(self._dir, aim).exists():
            return  # It could not be kept: whoever calls is about to say so.
        with contextlib.suppress(OSError):
            if os.readlink(link) == aim:
                return
        temporary = link.with_name(".root.json.tmp")
        temporary.unlink(missing_ok=True)
        os.symlink(aim, temporary)
        os.replace(temporary, link)
        durable.sync_folder(link.parent)


def _why(reason: tuf.RepositoryError, now_s: float) -> str:
    """python-tuf's reason in the words of the specification's attacks."""
    said = plain(str(reason), MAX_ERROR)
    match reason:
        case tuf.ExpiredMetadataError():
            now = datetime.datetime.fromtimestamp(now_s, datetime.timezone.utc)
            return f"frozen or forgotten: {said}, trusted time is {now:%Y-%m-%d %H:%M} UTC"
        case tuf.UnsignedMetadataError():
            return f"not signed by enough of the keys that are trusted for it: {said}"
        case tuf.LengthOrHashMismatchError():
            return f"mixed with other metadata: {said}"
        case tuf.BadVersionNumberError():
            return f"rolled back or mixed: {said}"
        case DeserializationError() if reason.__cause__ is not None:
            return f"malformed: {_form(reason.__cause__)}"
        case _:
            return f"malformed or at odds with the rest: {said}"


def _form(cause: BaseException) -> str:
    """What is wrong with the form of metadata, as far as parsing it tells."""
    match cause:
        case KeyError():
            return f"{plain(str(cause), 80)} is missing"
        case ValueError():
            return plain(str(cause), MAX_ERROR)
        case _:
            return "not of the form that the specification gives it"


def _check_root_keys(data: bytes) -> None:
    """Before it is believed: a root that was accepted cannot be taken back."""
    root: Metadata[Any] = Metadata.from_bytes(data)
    if isinstance(root.signed, Root):
        _refuse_one_key_twice(root.signed.keys, root.signed.roles.values())


def _refuse_one_key_twice(keys: Mapping[str, Key], roles: Iterable[Role]) -> None:
    """The specification wants unique key ids; that one key has two ids would pass, and count two.

    Raises:
        RepositoryError: one of `roles` lists a key under two ids.
    """
    for role in roles:
        # Hex may be written large or small, PEM with other line ends: the same key all the same.
        values = [
            "".join(str(keys[keyid].keyval.get("public")).lower().split())
            for keyid in role.keyids
            if keyid in keys
        ]
        if len(set(values)) < len(values):
            raise tuf.RepositoryError("one key stands under two key ids, to be counted twice")


def _remove_torn(folder: Path) -> None:
    """What a power cut left of files that were being replaced."""
    for torn in (*folder.glob(".*.tmp"), *folder.glob("root_history/.*.tmp")):
        torn.unlink(missing_ok=True)


class _Fetcher(FetcherInterface):
    """python-tuf's way to a `Files`. For messages: the file asked for last, and trusted time."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.last = "metadata"
        self.now_s = 0.0

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise RuntimeError(f"{url}: everything is fetched whole, by download_bytes")

    @contextlib.contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """A target, in memory."""
        yield io.BytesIO(self.download_bytes(url, max_length))

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Fetched whole before anything is returned, so no error escapes a generator."""
        name = url.removeprefix(BASE)
        self.last = plain(name, 80)
        try:
            data = self._files.read(name, max_length)
        except InputError as reason:
            # Named by whoever signed the delegation, not by who runs us.
            raise MetadataError(str(reason)) from None
        if data is None:
            raise tuf.DownloadHTTPError("not there", 404)
        if len(data) > max_length:
            raise tuf.DownloadLengthMismatchError(f"at most {max_length} bytes expected")
        return data


def root_version(data: bytes) -> int:
    """The version of root metadata that is signed by its own keys; its expiry is not looked at.

    Raises:
        MetadataError: it is none, or not so signed.
    """
    try:
        metadata = Metadata[Root].from_bytes(data)
        metadata.verify_delegate(Root.type, metadata)
    except (tuf.RepositoryError, ValueError, TypeError) as reason:
        raise MetadataError(f"root metadata: {plain(str(reason), MAX_ERROR)}") from None
    return metadata.signed.version


def signed_at(signed: Signed) -> float:
    """When it was signed by its own word, Unix seconds; 0 where it does not say."""
    text = signed.unrecognized_fields.get(SIGNED_AT)
    if not isinstance(text, str):
        return 0.0
    try:
        when = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return 0.0
    # Whoever says that it was signed after it has expired says nothing.
    found_s = when.replace(tzinfo=datetime.timezone.utc).timestamp()
    return found_s if found_s <= signed.expires.timestamp() else 0.0
