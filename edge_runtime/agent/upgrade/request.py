"""What the agent asks of the helper: one file in the agent's own state folder.

Whoever writes it is not believed: the helper reads it through `link.folder`, which follows no link
and reads plain files only, and takes from it which release is meant and what to do, no more.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.upgrade.places import ASKED
from edge_runtime.agent.upgrade.record import IDENTITY
from edge_runtime.agent.upgrade.states import Candidate
from edge_runtime.bundle import durable
from edge_runtime.bundle.files import SHA256
from edge_runtime.bundle.manifest import VERSION
from edge_runtime.errors import DeviceError, EdgeError, UntrustedError
from edge_runtime.fields import Fields, decode_json, encode_json
from edge_runtime.link.folder import FolderPlace
from edge_runtime.messages.fleet import Release
from edge_runtime.text import plain

REQUEST = "request.json"
STANDING = "standing.json"
STAGE, ACTIVATE, CONFIRM = "stage", "activate", "confirm"
MAX_REQUEST_BYTES = 128 << 10
MAX_STANDING_BYTES = 4 << 10
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Request:
    """`action` with `candidate`. `token` names the request in the helper's answer.

    `release` goes with "stage", and is of the candidate. `serving` and `connected` go with
    "activate": what the agent that runs does now.
    """

    action: str
    candidate: Candidate
    release: Release | None = None
    serving: bool = False
    connected: bool = False
    token: str = ""

    def leave(self, state: Path) -> str:
        """Where the helper is waked by it; its token.

        Raises:
            DeviceError: it cannot be written.
        """
        token = secrets.token_hex(8)
        value = {
            "format": FORMAT,
            "action": self.action,
            "version": self.candidate.version,
            "manifest_sha256": self.candidate.manifest_sha256,
            "attempt": self.candidate.attempt,
            "release": self.release.as_json() if self.release is not None else None,
            "serving": self.serving,
            "connected": self.connected,
            "token": token,
        }
        folder = state / ASKED
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as reason:
            raise DeviceError(f"{folder}: cannot be made ({reason.strerror})") from None
        durable.replace(folder / REQUEST, encode_json(value))
        return token

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Of what the agent left.

        Raises:
            UntrustedError: it is no request.
        """
        f = Fields(
            decode_json(data, max_bytes=MAX_REQUEST_BYTES, where=REQUEST, error=UntrustedError),
            REQUEST,
            UntrustedError,
        )
        if f.integer("format") != FORMAT:
            f.fault(f"{REQUEST}: format {f.integer('format')}, this software reads {FORMAT}")
        action = f.choice("action", (STAGE, ACTIVATE, CONFIRM))
        release = Release.parse(f.object("release")) if f.present("release") else None
        candidate = Candidate(
            version=f.text("version", pattern=VERSION),
            manifest_sha256=f.text("manifest_sha256", pattern=SHA256),
            attempt=f.integer("attempt", 0),
        )
        if action == STAGE and (
            release is None
            or (release.version, release.manifest.sha256)
            != (candidate.version, candidate.manifest_sha256)
        ):
            f.fault(f"{REQUEST}: its release is missing, or is another one")
        return cls(
            action=action,
            candidate=candidate,
            release=release,
            serving=f.boolean("serving", False),
            connected=f.boolean("connected", False),
            token=f.text("token", pattern=IDENTITY, max_len=32),
        )


def withdraw(state: Path) -> None:
    """Nothing is asked any more."""
    for name in (REQUEST, STANDING):
        with contextlib.suppress(OSError):
            os.unlink(state / ASKED / name)


def is_left(state: Path) -> bool:
    """Whether something lies where requests lie, whatever it is."""
    return os.path.lexists(state / ASKED / REQUEST)


def take(place: FolderPlace) -> Request | None:
    """What lies in the state folder that `place` reads; None: nothing.

    Raises:
        EdgeError: it is no request, or no plain file.
    """
    data = place.get(f"{ASKED}/{REQUEST}", MAX_REQUEST_BYTES)
    return None if data is None else Request.parse(data)


def remove(state: Path) -> None:
    """Remove what lies there. Only that name in that folder: a link is removed, never followed.

    Raises:
        DeviceError: it cannot be removed, so it would wake the helper for ever.
    """
    try:
        folder = os.open(state / ASKED, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as reason:
        raise DeviceError(f"{state / ASKED}: cannot be opened ({reason.strerror})") from None
    try:
        os.unlink(REQUEST, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as reason:
        raise DeviceError(f"{REQUEST}: cannot be removed ({reason.strerror})") from None
    finally:
        os.close(folder)


def say_standing(state: Path, lacks: str) -> None:
    """What keeps the new agent from being healthy, for the reason of a refusal. Best effort."""
    with contextlib.suppress(DeviceError):
        durable.replace(state / ASKED / STANDING, encode_json({"lacks": lacks}))


def standing(place: FolderPlace) -> str:
    """The same, as the helper reads it; empty where nothing sensible was said."""
    try:
        data = place.get(f"{ASKED}/{STANDING}", MAX_STANDING_BYTES)
        value = decode_json(
            data or b"{}", max_bytes=MAX_STANDING_BYTES, where=STANDING, error=UntrustedError
        )
        return plain(Fields(value, STANDING, UntrustedError).sentence("lacks", ""), 200)
    except EdgeError:
        return ""
