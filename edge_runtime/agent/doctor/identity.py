"""Who this device is and whom it believes: its certificate and key, its root of trust.

Signatures of metadata are the notary's matter. Here is read what stands on disk: which version, and
until when.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.agent.doctor.finding import Finding, obstacle, ok, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.bundle import durable
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import Fields, Json, decode_json
from edge_runtime.text import plain

SOON_S = 30 * 86_400.0
MAX_BYTES = 1 << 20
ROLES = ("root", "timestamp", "snapshot", "targets")
WHEN = "%Y-%m-%dT%H:%M:%SZ"


def certificate(scene: Scene) -> Iterator[Finding]:
    """Its dates, and whether it is this device's."""
    b = scene.config.broker if scene.config is not None else None
    if scene.config is None or b is None or b.cert_file is None:
        return
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        found = x509.load_pem_x509_certificate(durable.read(b.cert_file, MAX_BYTES))
        names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = str(names[0].value) if names else ""
    except (OSError, ValueError) as reason:
        yield obstacle(
            "identity.certificate",
            f"{b.cert_file}: cannot be read ({plain(str(reason))})",
            "copy the folder that edge-fleet enroll wrote once more",
        )
        return
    end_s, now_s = found.not_valid_after_utc.timestamp(), scene.readings.now_s()
    end = f"{found.not_valid_after_utc:%Y-%m-%d}"
    again = f"enroll it anew: edge-fleet enroll {scene.config.device_id}"
    values: dict[str, Json] = {"name": plain(name), "expires_s": end_s}
    if name != scene.config.device_id:
        yield obstacle(
            "identity.certificate",
            f"is of {plain(name) or 'nobody'}, this device is {scene.config.device_id}: the broker "
            "keeps it from its own topics",
            f"correct device_id, or {again}",
            values=values,
        )
    elif now_s >= end_s:
        yield obstacle("identity.certificate", f"expired on {end}", again, values=values)
    elif found.not_valid_before_utc.timestamp() > now_s:
        yield obstacle(
            "identity.certificate",
            f"valid from {found.not_valid_before_utc:%Y-%m-%d} on only",
            "set this machine's clock",
            values=values,
        )
    elif end_s - now_s < SOON_S:
        yield warning("identity.certificate", f"expires on {end}", again, values=values)
    else:
        yield ok("identity.certificate", f"of {plain(name)}, until {end}", values=values)


def key(scene: Scene) -> Iterator[Finding]:
    """Readable for us, and not for everybody. That it fits the certificate the loader checks."""
    b = scene.config.broker if scene.config is not None else None
    if b is None or b.key_file is None:
        return
    try:
        mode = stat.S_IMODE(os.stat(b.key_file).st_mode)
        durable.read(b.key_file, 1)
    except OSError as reason:
        yield obstacle(
            "identity.key",
            f"{b.key_file}: cannot be read ({reason.strerror})",
            f"give it to the agent's user: sudo chown USER {b.key_file}",
        )
        return
    if mode & 0o007:
        yield warning(
            "identity.key",
            f"{b.key_file}: mode {mode:04o}, everybody on this machine may use it",
            f"chmod 600 {b.key_file}",
            values={"mode": mode},
        )
    else:
        yield ok("identity.key", f"{b.key_file}, mode {mode:04o}", values={"mode": mode})


def root(scene: Scene) -> Iterator[Finding]:
    """The root that this device begins with; what it leads to is not asked here."""
    c = scene.config
    if c is None:
        return
    if c.root is None:
        yield warning(
            "identity.root",
            "none: bundles are not signed, who writes to the broker decides what runs",
            'in the field set trust = "tuf" and root, as edge-fleet enroll writes them',
        )
        return
    from edge_runtime.update.trust.client import root_version

    try:
        version = root_version(durable.read(c.root, MAX_BYTES))
    except OSError as reason:
        yield obstacle(
            "identity.root",
            f"{c.root}: cannot be read ({reason.strerror})",
            "copy root.json from the folder that edge-fleet enroll wrote",
        )
    except EdgeError as reason:
        yield obstacle(
            "identity.root",
            f"{c.root}: {reason}",
            "copy root.json from the folder that edge-fleet enroll wrote",
        )
    else:
        yield ok("identity.root", f"version {version}, {c.root}", values={"version": version})


def metadata(scene: Scene) -> Iterator[Finding]:
    """What was followed so far, by its own word."""
    if scene.config is None or scene.config.trust != "tuf":
        return
    folder = scene.config.state_dir / "trust"
    found = {role: told for role in ROLES if (told := _told(folder / f"{role}.json"))}
    if not found:
        yield ok("identity.metadata", "none followed yet")
        return
    now_s = scene.readings.now_s()
    text = ", ".join(
        f"{role} {version} until {_day(end)}" for role, (version, end) in found.items()
    )
    values: dict[str, Json] = {
        role: {"version": v, "expires_s": end} for role, (v, end) in found.items()
    }
    late = [role for role, (_, end) in found.items() if end <= now_s]
    if late:
        yield warning(
            "identity.metadata",
            f"{' and '.join(late)} expired: {text}",
            "the operator signs anew, daily best: edge-fleet refresh; what is installed goes on "
            "running, new updates wait",
            values=values,
        )
    else:
        yield ok("identity.metadata", text, values=values)


def _told(path: Path) -> tuple[int, float] | None:
    """Version and expiry; None where it is not there or is none."""
    try:
        data = durable.read(path, MAX_BYTES + 1)
        f = Fields(
            decode_json(data, max_bytes=MAX_BYTES, where=str(path), error=InputError),
            str(path),
            InputError,
        ).object("signed")
        end = datetime.strptime(f.text("expires"), WHEN).replace(tzinfo=timezone.utc)
        return f.integer("version"), end.timestamp()
    except (OSError, EdgeError, ValueError):
        return None


def _day(time_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time_s))
