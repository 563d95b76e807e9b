"""What a worker is started with: one JSON argument, the descriptors it inherits among it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from edge_runtime.agent.config import ApiConfig, WorkerConfig


@dataclass(frozen=True, slots=True)
class Order:
    """`control` and `listener` are descriptors. `profile` is a name, or the path of a file."""

    control: int
    listener: int
    state_dir: str
    manifest_sha256: str
    profile: str
    version: str
    log_level: str
    api: ApiConfig
    worker: WorkerConfig

    def to_argument(self) -> str:
        """For `from_argument`, in another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Order:
        """Written by our own supervisor: trusted."""
        value = json.loads(text)
        return cls(
            **value | {"api": ApiConfig(**value["api"]), "worker": WorkerConfig(**value["worker"])}
        )
