"""A fleet home for tests of identities and the broker: settings, one signed root, an authority."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from edge_runtime.fleet import ca
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.settings import ROLES, RoleSettings, Settings
from edge_runtime.messages.topics import DEFAULT_PREFIX

BROKER = "mqtts://broker.example:8883"
NOW = datetime(2026, 11, 5, 12, 0, tzinfo=timezone.utc)


def signed_root(home: Home, version: int, signer: CryptoSigner) -> bytes:
    """A root of `home`, all of whose roles have one key; on the disk."""
    root = Root(version=version, expires=NOW + timedelta(days=365 * 20), consistent_snapshot=True)
    for role in ROLES:
        root.add_key(signer.public_key, role)
    metadata = Metadata(root)
    metadata.sign(signer)
    data = metadata.to_bytes()
    home.metadata.mkdir(parents=True, exist_ok=True)
    (home.metadata / f"{version}.root.json").write_bytes(data)
    return data


def make_home(
    folder: Path,
    *,
    broker: str = BROKER,
    prefix: str = DEFAULT_PREFIX,
    passphrase: str | None = None,
    now: datetime | None = NOW,
) -> Home:
    """A home that can enrol devices, as of `now`; None: as of today."""
    home = Home(folder)
    folder.mkdir(parents=True)
    signer = CryptoSigner.generate_ed25519()
    roles = {role: RoleSettings(1, 365, {signer.public_key.keyid: ""}) for role in ROLES}
    home.write(Settings(prefix=prefix, broker=broker, roles=roles))
    signed_root(home, 1, signer)
    ca.create(home, passphrase, now=now)
    return home
