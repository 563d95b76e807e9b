"""Results: the cases of each kind counted, kept on disk between runs, and shown.

A full run of everything takes long; a kind that was run alone takes the place of its own row only.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.tables import Row
from edge_runtime.version import release
from tests.reliability.case import LEFT_OVER, Case, Ending, Kind


@dataclass(frozen=True, slots=True)
class Result:
    """A row of the table. `quick`: a share of the cases only. `broken`: each with its faults."""

    name: str
    title: str
    cases: int
    endings: dict[str, int]
    left_over: int
    broken: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]
    seconds: float
    quick: bool
    day: str


def counted(
    kind: Kind, cases: Iterable[Case], notes: Sequence[str], seconds: float, *, quick: bool
) -> Result:
    """One kind's cases."""
    made = list(cases)
    return Result(
        name=kind.name,
        title=kind.title,
        cases=len(made),
        endings={e.name: sum(case.ending is e for case in made) for e in Ending},
        left_over=sum(case.note == LEFT_OVER for case in made),
        broken=tuple((case.what, case.broken) for case in made if case.broken),
        notes=tuple(notes),
        seconds=round(seconds, 1),
        quick=quick,
        day=date.today().isoformat(),
    )


class Kept:
    """Results and numbers in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results: dict[str, Result] = {}
        self.numbers: list[Row] = []
        if path.exists():
            found = json.loads(path.read_bytes())
            self.results = {name: _result(value) for name, value in found["results"].items()}
            self.numbers = [Row(**row) for row in found["numbers"]]

    def save(self) -> None:
        """Write everything."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def as_json(self) -> Mapping[str, Any]:
        """For scripts."""
        return {
            "machine": machine(),
            "results": {name: asdict(result) for name, result in self.results.items()},
            "numbers": [asdict(row) for row in self.numbers],
        }


def _result(value: dict[str, Any]) -> Result:
    broken = tuple((what, tuple(faults)) for what, faults in value["broken"])
    return Result(**value | {"broken": broken, "notes": tuple(value["notes"])})


def machine() -> str:
    """What all this ran on, in a line."""
    tools = [f"{name} {_version(name)}" for name in ("mosquitto", "strace") if shutil.which(name)]
    parts = [
        f"edge-runtime {release() or 'unreleased'}",
        f"Python {platform.python_version()}",
        *tools,
    ]
    return f"{platform.system()} {platform.machine()}, {', '.join(parts)}"


def _version(name: str) -> str:
    """The last word of the first line that it says of itself."""
    option = "-h" if name == "mosquitto" else "-V"
    done = subprocess.run([name, option], capture_output=True, text=True)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].split()[-1] if lines else "unknown"
