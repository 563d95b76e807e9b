"""A device's identity as a folder: read by the real loaders before the service is handed it.

The service gets each file by its name (`LoadCredential=`), so the names are fixed; a profile of
one's own becomes `profile.toml`, and `agent.toml` says so. What the folder holds besides is not
looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from edge_runtime.agent.config import MAX_CONFIG_BYTES, AgentConfig, load_config
from edge_runtime.errors import EdgeError, InputError, UntrustedError
from edge_runtime.profile import DeviceProfile, load_profile, load_toml

CONFIG, ROOT, CA, CERTIFICATE, KEY = (
    "agent.toml", "root.json", "ca.pem", "device.pem", "device.key"
)  # fmt: skip
PROFILE, PASSWORD, SOURCES_CA = "profile.toml", "password", "sources-ca.pem"
NAMES = (CONFIG, ROOT, CA, CERTIFICATE, KEY, PROFILE, PASSWORD, SOURCES_CA)
"""What edge-agent.service is handed out of /etc/edge-agent."""
STATE_DIR = Path("/var/lib/edge-agent")
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What the service will be handed, by name. The key is among `files`: never show them."""

    config: AgentConfig
    profile: DeviceProfile
    files: Mapping[str, bytes] = field(repr=False)


def read_identity(folder: Path, profile: str | None = None) -> Identity:
    """The identity in `folder`.

    Args:
        profile: a name, or the path of a .toml file, in place of what agent.toml says.

    Raises:
        InputError: something is missing or faulty, does not belong together, or is what the service
            cannot use.
        UntrustedError: the certificate is not of the authority beside it.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"{folder}: is no identity, it has no {CONFIG}; expected the folder that "
            "`edge-fleet enroll` writes"
        )
    config = load_config(path, {})
    raw = load_toml(_read(path), MAX_CONFIG_BYTES, str(path))
    if config.state_dir != STATE_DIR:
        raise InputError(
            f"{path}: state_dir is {config.state_dir}, but the service keeps its state in "
            f"{STATE_DIR}; leave state_dir out, and mount there what shall hold it"
        )
    files = {CONFIG: _read(path)}
    for key, file in _named(config, raw, folder).items():
        if file.parent != folder:
            if key == "key" or not file.is_file():
                raise InputError(f"{path}: {key} is {file}, expected a file in {folder}")
            continue
        if file.name not in NAMES:
            raise InputError(
                f"{path}: {key} is {file.name}, which the service is not handed; call it one of "
                f"{', '.join(NAMES[1:])}"
            )
        files[file.name] = _read(file)
    _check_certificate(config)
    if config.root is not None:
        _check_root(config.root)
    named = profile or config.profile
    found = load_profile(named)
    own = named.endswith(".toml")
    if own:
        files[PROFILE] = _read(Path(named))
    files[CONFIG] = _with_profile(files[CONFIG], PROFILE if own else named, str(path))
    return Identity(config, found, files)


def device_of(folder: Path) -> str | None:
    """Whose identity lies in `folder`; None where there is none, or nobody can tell."""
    try:
        raw = load_toml(_read(folder / CONFIG), MAX_CONFIG_BYTES, CONFIG)
    except InputError:
        return None
    found = raw.get("device_id")
    return found if isinstance(found, str) else None


def _named(config: AgentConfig, raw: Mapping[str, object], folder: Path) -> dict[str, Path]:
    """The files that agent.toml names, but for its profile, by key."""
    broker = config.broker
    table = raw.get("broker")
    password = table.get("password_file") if isinstance(table, Mapping) else None
    found = {
        "root": config.root,
        "sources_ca": config.sources_ca,
        "ca": broker.ca_file if broker is not None else None,
        "cert": broker.cert_file if broker is not None else None,
        "key": broker.key_file if broker is not None else None,
        "password_file": folder / password if isinstance(password, str) else None,
    }
    return {key: path for key, path in found.items() if path is not None}


def _check_certificate(config: AgentConfig) -> None:
    """It is this device's, and of the authority that the broker is held to.

    That the key belongs to it, the configuration's loader has checked.
    """
    broker = config.broker
    if broker is None or broker.cert_file is None:
        return
    where = str(broker.cert_file)
    try:
        found = x509.load_pem_x509_certificate(_read(broker.cert_file))
        names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        raise InputError(f"{where}: no certificate in PEM") from None
    name = str(names[0].value) if names else ""
    if name != config.device_id:
        raise InputError(f"{where}: is of {name or 'nobody'}, but device_id is {config.device_id}")
    if broker.ca_file is None:
        return
    try:
        authority = x509.load_pem_x509_certificate(_read(broker.ca_file))
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise UntrustedError(f"{where}: is not of the authority {broker.ca_file}") from None


def _check_root(path: Path) -> None:
    from edge_runtime.update.trust.client import root_version

    try:
        root_version(_read(path))
    except InputError:
        raise
    except EdgeError as reason:
        raise InputError(f"{path}: {reason}") from None


def _with_profile(config: bytes, profile: str, where: str) -> bytes:
    """The configuration, with its profile called so; all else stays as a person wrote it."""
    before = load_toml(config, MAX_CONFIG_BYTES, where)
    if before.get("profile") == profile:
        return config
    head, table, rest = config.decode("utf-8").partition("\n[")
    line = f"profile = {json.dumps(profile, ensure_ascii=False)}"
    changed, count = re.subn(r"(?m)^[ \t]*profile[ \t]*=.*$", lambda _: line, head, count=1)
    data = f"{changed}{table}{rest}".encode()
    try:
        after = load_toml(data, MAX_CONFIG_BYTES, where)
    except InputError:
        after = {}
    if count != 1 or after != {**before, "profile": profile}:
        raise InputError(f'{where}: expected the profile on a line of its own, profile = "…"')
    return data


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path}: more than {MAX_FILE_BYTES} bytes, no such file is so large")
    return data
