"""Where nodes ran, as ONNX Runtime tells it: what it profiled, and what it assigned.

The profile of a run is the proof that a provider's kernels were executed at all; but a provider
that compiles makes one node of hundreds. Which nodes of the file those were, newer engines tell by
themselves (from 1.24 on); of older ones it is known which the CPU ran, and the file says how many
there are.

The engine writes its profile into a file. It lies in a folder of its own, which goes with the
account, and holds the runs until then.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from edge_runtime.errors import DeviceError
from edge_runtime.inference.backend import Account, one_line
from edge_runtime.inference.onnx_wire import operators

MAX_PROFILE_BYTES = 64 << 20
UNCOUNTED = frozenset({"Constant", "QuantizeLinear", "DequantizeLinear"})
"""Values, and the way to integers and back: whoever computes takes them along."""
LAYOUT = "Transpose"
"""The engine adds some where a provider wants channels last: a net of 7 operators had 9."""
RECORD = "session.record_ep_graph_assignment_info"


class Watch:
    """Of one load: makes its sessions keep account, and reads it."""

    def __init__(self, model: bytes) -> None:
        self._in_file = [kind for kind in operators(model) if kind not in UNCOUNTED]
        try:
            self._folder = tempfile.mkdtemp(prefix="edge-profile-")
        except OSError as reason:
            raise DeviceError(
                f"no folder for the engine's profile of a run ({reason.strerror})"
            ) from None

    def prepare(self, settings: Any) -> None:
        """Let the session that is made with these options keep account."""
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(self._folder) / "run")
        settings.add_session_config_entry(RECORD, "1")

    def account(self, session: Any, meant: str) -> Account:
        """What ran on the provider `meant`, once the session has run; it profiles no more.

        Raises:
            DeviceError: the engine does not tell.
        """
        try:
            ran = _ran(Path(session.end_profiling()))
            assigned = _assigned(session)
        except Exception as reason:  # the engine's own, of no common base, or the disk's
            raise DeviceError(f"ONNX Runtime does not tell what ran ({one_line(reason)})") from None
        finally:
            self.close()
        if meant not in ran:
            return Account(len(self._in_file), Counter(self._in_file), "profile")
        if assigned:
            on = Counter(kind for kind, where in assigned if where == meant)
            off = Counter(kind for kind, where in assigned if where != meant)
            added = on[LAYOUT] + off[LAYOUT] - self._in_file.count(LAYOUT)
            nodes = len(assigned) - min(max(added, 0), on[LAYOUT])
            return Account(nodes, off, "profile and assignment")
        off = Counter({k: n for where, kinds in ran.items() if where != meant
                       for k, n in kinds.items()})  # fmt: skip
        return Account(max(len(self._in_file), sum(off.values())), off, "profile")

    def close(self) -> None:
        """Remove what the engine wrote."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _ran(path: Path) -> dict[str, Counter[str]]:
    """Kernels by provider and kind, out of the profile at `path`; each is counted once."""
    if path.stat().st_size > MAX_PROFILE_BYTES:
        raise ValueError(f"its profile has {path.stat().st_size} bytes")
    kernels: dict[str, tuple[str, str]] = {}
    for event in json.loads(path.read_bytes()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            told = event["args"]
            kernels[event["name"]] = (told["provider"], told["op_name"])
    found: dict[str, Counter[str]] = {}
    for where, kind in kernels.values():
        counts = found.setdefault(where, Counter())
        counts[kind] += kind not in UNCOUNTED
    return found


def _assigned(session: Any) -> list[tuple[str, str]]:
    """Kind and provider of every node that was assigned; nothing where the engine is too old."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    return [
        (node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if node.op_type not in UNCOUNTED
    ]
