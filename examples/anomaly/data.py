"""Rows of healthy machines to learn from, of other machines healthy and ill to be tested on.

`make_data` writes `train.jsonl`, `calibration.jsonl` and `test.jsonl`: a `row` of 128 named numbers
and its `label`, "normal" or "anomaly". Line by line, `test-details.jsonl` and its like say which
machine it is, which fault and how severe. Training and
calibration hold normal rows only. No machine is in two splits, so that the threshold, which comes
from calibration, is one for machines that training did not see.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.progress import Progress, Terminal
from examples.anomaly.features import NAMES, row_of
from examples.anomaly.machine import FAULTS, NORMAL, Machine, record
from examples.workbench import SPLITS

ANOMALY = "anomaly"
DIGITS = 3
"""After the point: thousandths of a dB."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which machines by number, and rows of each: normal ones, and ones of each fault."""

    machines: range
    normal: int
    ill: int


SPLIT_OF = {
    "train": Split(range(80), 90, 0),
    "calibration": Split(range(80, 92), 40, 0),
    "test": Split(range(92, 104), 100, 12),
}


def machine_of(number: int, seed: int) -> Machine:
    """The machine with this number."""
    return Machine.draw(f"pump-{number:02}", np.random.default_rng([seed, number]))


@dataclass(frozen=True, slots=True)
class Row:
    """A second of a machine. `severity` is 0 where `fault` is "normal"."""

    values: dict[str, float]
    fault: str
    machine: str
    severity: float

    @property
    def labelled(self) -> dict[str, object]:
        """As a recipe's data have it."""
        return {"label": NORMAL if self.fault == NORMAL else ANOMALY, "row": self.values}

    @property
    def details(self) -> dict[str, object]:
        """What else is known of it."""
        return {"machine": self.machine, "fault": self.fault, "severity": self.severity}


def rows(split: str, seed: int) -> Iterator[Row]:
    """Every row of a split, in a fixed order."""
    one = SPLIT_OF[split]
    for number in one.machines:
        machine = machine_of(number, seed)
        wanted = [NORMAL] * one.normal + [fault for fault in FAULTS for _ in range(one.ill)]
        for at, fault in enumerate(wanted):
            random = np.random.default_rng([seed, SPLITS.index(split), number, at])
            severity = float(random.random())
            signal, speed_hz = record(machine, fault, severity, random)
            values = np.round(row_of(signal, speed_hz), DIGITS).tolist()
            yield Row(
                values=dict(zip(NAMES, values, strict=True)),
                fault=fault,
                machine=machine.name,
                severity=0.0 if fault == NORMAL else round(severity, DIGITS),
            )


def make_data(out: Path, progress: Progress, *, seed: int = 1) -> None:
    """Write every split under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for split, one in SPLIT_OF.items():
        total = len(one.machines) * (one.normal + one.ill * len(FAULTS))
        with (
            (out / f"{split}.jsonl").open("w") as file,
            (out / f"{split}-details.jsonl").open("w") as details,
            progress.count(f"{split}: rows", total) as more,
        ):
            for row in rows(split, seed):
                file.write(json.dumps(row.labelled) + "\n")
                details.write(json.dumps(row.details) + "\n")
                more(1, row.fault)


def main() -> int:
    """Command line: only the data."""
    parser = argparse.ArgumentParser(prog="python -m examples.anomaly.data", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/anomaly/data"))
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    make_data(parsed.out, Terminal(), seed=parsed.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
