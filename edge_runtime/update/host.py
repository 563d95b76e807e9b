"""What the driver asks of its host: the agent's supervisor, or a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Release
from edge_runtime.update.record import Status


class Host(Protocol):
    """Runs workers and knows whom to trust. It may answer at once or later, and call back in.

    Every call may be repeated: what is already so stays so. None of them raises.
    """

    def authenticate(self, release: Release) -> None:
        """Find out whether the fleet's key holders signed this; answer `authenticated`.

        With trust "none" the answer is yes.
        """

    def stop_authenticating(self) -> None:
        """No answer is wanted any more."""

    def start_active(self, manifest_sha256: str) -> None:
        """Load, self-test and serve this bundle instead of whatever serves; `failed` if not."""

    def start_candidate(self, manifest_sha256: str) -> None:
        """Load and self-test in a new worker; answer `tested`. The active one goes on serving."""

    def activate_candidate(self) -> None:
        """Let the tested candidate serve in place of the active bundle; answer `activated`."""

    def stop_candidate(self) -> None:
        """End the candidate's worker, if there is one."""

    def stop_active(self) -> None:
        """Serve nothing."""

    def report(self, status: Status) -> None:
        """Something in `reported` changed."""

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        """Something happened that the operator should hear of once."""
