"""The other side of the board: a real broker on this machine, signed releases, and an operator.

Each bundle carries its version in its labels, so that an answer over MQTT tells which one gave it.
All bundles share a part, which must outlive the removal of any one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.link import Message
from edge_runtime.messages.fleet import InferRequest, Release, Reported, to_bytes
from tests.fakes.agents import DEVICE, TOPICS, Operator
from tests.fakes.bundles import noise
from tests.fakes.signed import SignedRepository, publish_retained
from tests.fakes.tiny import LABELS, tiny_folder, variant_json

PROFILE = "emulated-board"
SHARED_BYTES = 300_000
OWN_BYTES = 2_000_000
STEP_S = 6 * 3600.0
"""Between two releases, by the signer's clock: far enough that a floor of time shows it."""
ROTATE_EVERY = 5
ASK_AGAIN_S = 3.0
NEEDS = {"ram_bytes": 1000, "cpu_features": ["asimd"], "driver": ""}


def bundle_folder(folder: Path, version: str) -> Path:
    """The tiny classifier in INT8, with about 2 MB of its own."""
    labels = [f"{label} {version}" for label in LABELS]
    return tiny_folder(
        folder / version,
        [variant_json("ort-int8", "model-int8.onnx", needs=NEEDS)],
        {
            "shared.bin": noise(SHARED_BYTES, 1),
            "own.bin": noise(OWN_BYTES, sum(version.encode()) + len(version)),
        },
        version=version,
        profile=PROFILE,
        postprocess=[
            {"step": "softmax", "options": {}},
            {"step": "top_k", "options": {"labels": labels, "k": 2}},
        ],
    )


def chunks_of(manifest: Manifest) -> set[str]:
    """Digests of all that its files consist of."""
    return {chunk.sha256 for entry in manifest.files for chunk in entry.chunks}


class Fleet(Operator):
    """See `Operator`. `heard` is every report since it was last cleared, with its time."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.heard: list[tuple[float, Reported]] = []
        self.repository = SignedRepository(now_s=time.time())
        self._folder = folder
        self._kept: dict[str, bytes] = {}
        self._asked = 0
        super().__init__(broker)

    def _on_message(self, message: Message) -> None:
        super()._on_message(message)
        if message.topic.endswith("/reported") and self.reported is not None:
            self.heard.append((time.monotonic(), self.reported))

    def release(self, version: str, *, expired: bool) -> tuple[Release, Manifest]:
        """Make, publish and sign a new bundle, some hours after the one before."""
        folder = bundle_folder(self._folder, version)
        made = self.publish(folder)
        data = FolderReader(folder).read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        self.repository.now_s += STEP_S
        self.repository.add(made.file, data)
        if len(self.repository.artifacts) % ROTATE_EVERY == 0:
            self.repository.rotate("root", f"root of {version}")
            self.repository.publish("root")
        if expired:
            self.repository.expiry_s["timestamp"] = self.repository.now_s - 2 * STEP_S
        self.sign()
        self.repository.expiry_s.clear()
        return made, Manifest.from_bytes(data)

    def sign(self) -> None:
        """The next version of all metadata, on the broker."""
        self.repository.publish()
        publish_retained(self.link, TOPICS, self.repository.files, self._kept)
        self._kept = dict(self.repository.files)

    def withdraw(self, manifest: Manifest, *keep: Manifest) -> None:
        """Let the broker forget a bundle, but for what those need that it is to `keep`."""
        for digest in chunks_of(manifest).difference(*map(chunks_of, keep)):
            self.link.publish(TOPICS.chunk(digest), b"", retain=True, wait_s=10)

    def listen_anew(self) -> None:
        """Forget what the board said before it was switched off."""
        self.reported = None
        self.heard.clear()
        self.answers.clear()

    def who_serves(self, check: Callable[[], None], timeout_s: float) -> str:
        """The version of the bundle that answers first; empty where none does in time."""
        end_s = time.monotonic() + timeout_s
        again_s = 0.0
        while time.monotonic() < end_s:
            check()
            for answer in list(self.answers.values()):
                if answer.results:
                    return str(answer.results[0]["label"]).rpartition(" ")[2]
            if time.monotonic() >= again_s:
                again_s = time.monotonic() + ASK_AGAIN_S
                self._asked += 1
                payload = to_bytes(InferRequest(("mail server",)))
                self.link.publish(TOPICS.infer(DEVICE, f"who-{self._asked}"), payload)
            time.sleep(0.05)
        return ""
