"""Every topic on the broker, with its QoS and whether it is retained, in one table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_runtime.bundle.files import SHA256
from edge_runtime.errors import InputError

DEFAULT_PREFIX = "edge/v1"
DEVICE_ID = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
REQUEST_ID = r"[A-Za-z0-9_-]{1,64}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a topic is published."""

    qos: int
    retain: bool


DELIVERY: dict[str, Delivery] = {
    "desired": Delivery(1, True),
    "reported": Delivery(1, True),
    "online": Delivery(1, True),
    "telemetry": Delivery(1, False),
    "event": Delivery(1, False),
    "command": Delivery(1, False),
    "command/result": Delivery(1, False),
    "infer": Delivery(1, False),
    "infer/result": Delivery(1, False),
    "metadata": Delivery(1, True),
    "chunk": Delivery(1, True),
    "fence": Delivery(1, False),
}


@dataclass(frozen=True, slots=True)
class Topics:
    """Topic names under a prefix.

    Raises:
        InputError: the prefix holds a wildcard, an empty level, or what cannot be printed.
    """

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        form = r"[^+#/\s\0]{1,64}(/[^+#/\s\0]{1,64}){0,7}"
        if not (re.fullmatch(form, self.prefix) and self.prefix.isprintable()):
            raise InputError(
                f"topic prefix {self.prefix[:80]!r}: expected levels parted by single slashes, "
                "without + or #"
            )

    def device(self, device: str, what: str) -> str:
        """`<prefix>/device/<id>/<what>`; `+` as device subscribes to the whole fleet.

        Raises:
            InputError: `device` is not a device id.
        """
        if device != "+" and not re.fullmatch(DEVICE_ID, device):
            raise InputError(
                f"device id {device[:80]!r}: expected up to 64 letters, digits, '-' or '_'"
            )
        return f"{self.prefix}/device/{device}/{what}"

    def infer(self, device: str, request: str = "+") -> str:
        """Where a request for `device` goes; the default subscribes to all of them.

        Raises:
            InputError: not a device id, or not a request's name.
        """
        self._check_request(request)
        return self.device(device, f"infer/{request}")

    def infer_result(self, device: str, request: str = "+") -> str:
        """Where the answer to a request comes, unless the request names a response topic.

        Raises:
            InputError: not a device id, or not a request's name.
        """
        self._check_request(request)
        return self.device(device, f"infer/{request}/result")

    def _check_request(self, request: str) -> None:
        if request != "+" and not re.fullmatch(REQUEST_ID, request):
            raise InputError(
                f"request {request[:80]!r}: expected up to 64 letters, digits, '-' or '_'"
            )

    def metadata(self, file: str) -> str:
        """`<prefix>/repo/metadata/<file>`; `+` as file subscribes to all of them.

        Raises:
            InputError: `file` is more than one level, or holds a wildcard.
        """
        if file != "+" and not re.fullmatch(r"[A-Za-z0-9@%._-]{1,320}", file):
            raise InputError(
                f"metadata file {file[:80]!r}: expected letters, digits, '@', '%', '.', '-' or '_'"
            )
        return f"{self.prefix}/repo/metadata/{file}"

    def is_metadata(self, topic: str) -> bool:
        """Whether `topic` is that of a file of the repository's metadata."""
        return topic.startswith(f"{self.prefix}/repo/metadata/")

    def chunk(self, sha256: str) -> str:
        """`<prefix>/repo/chunk/<sha256>`."""
        return f"{self.prefix}/repo/chunk/{sha256}"

    def device_of(self, topic: str) -> tuple[str, str] | None:
        """(device id, what) of a device topic, or None for any other topic."""
        head = f"{self.prefix}/device/"
        if not topic.startswith(head):
            return None
        device, slash, what = topic[len(head) :].partition("/")
        return (device, what) if slash and re.fullmatch(DEVICE_ID, device) else None

    def request_of(self, topic: str) -> str | None:
        """The request's name in an `infer/<request>` topic, or None."""
        found = self.device_of(topic)
        match = re.fullmatch(rf"infer/({REQUEST_ID})", found[1]) if found else None
        return match[1] if match else None

    def chunk_of(self, topic: str) -> str | None:
        """The digest in a chunk topic, or None."""
        head = f"{self.prefix}/repo/chunk/"
        digest = topic[len(head) :]
        return digest if topic.startswith(head) and re.fullmatch(SHA256, digest) else None

    def fence(self, token: str) -> str:
        """Where an operator hears from itself, after all that the broker had kept before.

        Raises:
            InputError: `token` is not a plain level.
        """
        if not re.fullmatch(REQUEST_ID, token):
            raise InputError(f"fence {token[:80]!r}: expected up to 64 letters, digits, '-' or '_'")
        return f"{self.prefix}/fleet/fence/{token}"
