"""What our own processes are started with: one JSON argument, inherited descriptors among it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.agent.config import ApiConfig, WorkerConfig
from edge_runtime.fields import Json


@dataclass(frozen=True, slots=True)
class Order:
    """`control` and `listener` are descriptors. `profile` is a name, or the path of a file.

    `variants` are those to try, in the bundle's order; all that fit where there are none.
    """

    control: int
    listener: int
    state_dir: str
    manifest_sha256: str
    profile: str
    version: str
    log_level: str
    api: ApiConfig
    worker: WorkerConfig
    variants: tuple[str, ...] = ()

    def to_argument(self) -> str:
        """For `from_argument`, in another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Order:
        """Written by our own supervisor: trusted."""
        value = json.loads(text)
        return cls(
            **value
            | {
                "api": ApiConfig(**value["api"]),
                "worker": WorkerConfig(**value["worker"]),
                "variants": tuple(value["variants"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """What a prover is to prove. `report` is a descriptor; `parent` is who asks, a process id."""

    report: int
    parent: int
    state_dir: str
    manifest_sha256: str
    profile: str
    variant: str

    def to_argument(self) -> str:
        """For `from_argument`, in another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Proof:
        """Written by our own worker: trusted."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Question:
    """What a notary is asked. `control` is its end of a socket pair, `supervisor` who asks.

    `folder` is where it keeps trusted metadata, `root` the file of the initial trusted root,
    `release` the message of a release, `ca` a file that vouches for https sources. A source that
    takes longer than `budget_s` gives way to the next.
    """

    control: int
    folder: str
    root: str
    release: Mapping[str, Json]
    sources: tuple[str, ...]
    ca: str | None
    budget_s: float
    supervisor: int

    def to_argument(self) -> str:
        """For `from_argument`, in another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Question:
        """Written by our own supervisor: trusted, but for the release."""
        value = json.loads(text)
        return cls(**value | {"sources": tuple(value["sources"])})
