"""What a device measures about itself, kept small, mergeable and bounded on its way out."""

from edge_runtime.telemetry.metrics import Histogram, Metrics, Outcome, Snapshot
from edge_runtime.telemetry.probes import Probes
from edge_runtime.telemetry.reporter import Reporter, new_boot_id
from edge_runtime.telemetry.spool import Spool

__all__ = [
    "Histogram",
    "Metrics",
    "Outcome",
    "Probes",
    "Reporter",
    "Snapshot",
    "Spool",
    "new_boot_id",
]
