"""Bundles and self-tests as a person or a machine wants to read them.

A bundle may come from anybody: what is shown of it passes `plain`, value by value, so that none
can write a line of its own. A line of a table fits a terminal of 80 columns.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

from converters.placement.result import percent
from converters.proofs import Proof
from edge_runtime.bundle.manifest import Figure, Placement
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.profile import DeviceProfile
from edge_runtime.text import MAX_ERROR, plain, size


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first to the left, others to the right."""
    shown = [head, *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = []
    for row in shown:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def bundle_text(bundle: VerifiedBundle) -> str:
    """A manifest for people."""
    m = bundle.manifest
    chunks = {chunk.sha256 for entry in m.files for chunk in entry.chunks}
    lines = [
        plain(f"{m.name} {m.version} for {', '.join(m.profiles)}: {m.task}"),
        plain(f"  created   {m.created}"),
        f"  manifest  sha256 {bundle.manifest_sha256}",
        f"  size      {size(m.size_bytes)} in {len(m.files)} files, {len(chunks)} chunks",
        plain(f"  source    {m.provenance.source} ({m.provenance.licence})"),
    ]
    if m.quality is not None:
        low, high = m.quality.interval
        lines.append(
            f"  quality   {plain(m.quality.metric)} {m.quality.bundle:.4f}, "
            f"float {m.quality.reference:.4f} "
            f"(n = {m.quality.n}, 95 % interval {low:.4f} to {high:.4f})"
        )
    lines += ["", "variants, the preferred first"]
    for v in m.variants:
        lines.append(plain(f"  {v.id}"))
        if len(m.profiles) > 1:
            lines.append(plain(f"      for {', '.join(v.profiles or (m.profile,))}"))
        lines.append(
            plain(
                f"      {v.backend}, {v.precision}, latency {_figure(v.latency_ms, 'ms')}, "
                f"{v.tolerance.metric} >= {v.tolerance.floor:g}"
            )
        )
        lines.append(plain(f"      {_placement(v.placement)}"))
    steps = " → ".join(step.step for step in (*m.preprocess, *m.postprocess))
    lines += ["", plain(f"steps: {steps}", MAX_ERROR), "", "files"]
    lines.append(
        table(
            ("path", "size", "chunks", "sha256"),
            [(e.path, size(e.size_bytes), str(len(e.chunks)), e.sha256[:16]) for e in m.files],
        )
    )
    return "\n".join(lines)


def _figure(figure: Figure, unit: str) -> str:
    return figure.evidence if figure.value is None else f"{figure.value:g} {unit}"


def _placement(placement: Placement) -> str:
    """As "on hexagon: 98.3 % of its operators, vendor-compiled (onnxruntime-qnn 2.7.0), 2 off"."""
    share = placement.share
    if share.value is None:
        return f"on {placement.accelerator}: {share.evidence} how much of it"
    where = f" ({share.where})" if share.where else ""
    count = off_count(placement)
    off = f", {count} left to the CPU" if count else ""
    words = f"{percent(share.value)} of its operators, {share.evidence}{where}{off}"
    return f"on {placement.accelerator}: {words}"


def off_count(placement: Placement) -> int:
    """Operators that are left off the accelerator; the manifest names the first of very many."""
    if placement.off and (more := re.fullmatch(r"and (\d{1,9}) more", placement.off[-1][1])):
        return len(placement.off) - 1 + int(more[1])
    return len(placement.off)


def bundle_json(bundle: VerifiedBundle) -> dict[str, Any]:
    """The manifest and what follows from it."""
    placements = [
        {
            "variant": v.id,
            "accelerator": v.placement.accelerator,
            "share": v.placement.share.value,
            "evidence": v.placement.share.evidence,
            "tool": v.placement.share.where,
            "off": off_count(v.placement),
        }
        for v in bundle.manifest.variants
    ]
    return {
        "manifest_sha256": bundle.manifest_sha256,
        "size_bytes": bundle.manifest.size_bytes,
        "placements": placements,
        "manifest": json.loads(bundle.manifest.to_bytes()),
    }


def proofs_text(
    bundle: VerifiedBundle, proofs: Sequence[Proof], profile: DeviceProfile | None = None
) -> str:
    """Digests are right by now; two lines a variant: its figures, and what they are worth."""
    m = bundle.manifest
    head, *shown = table(
        ("variant", "", "cosine", "floor", "p95"), [_proof_row(one) for one in proofs]
    ).splitlines()
    lines = [
        plain(f"{m.name} {m.version} for {', '.join(m.profiles)}")
        + f": {len(m.files)} files are what the manifest says",
        f"golden vectors, {m.golden.cases} cases, on this machine",
        head,
    ]
    for proof, row in zip(proofs, shown, strict=True):
        lines.append(row)
        if proof.report is not None:
            lines.append(plain(f"      {proof.report.accelerator.actual}"))
        if proof.why and not proof.failed:
            lines.append(plain(f"      {proof.why}", MAX_ERROR))
    lines += [plain(f"  {one.variant}: {one.why}", MAX_ERROR) for one in proofs if one.failed]
    if profile is not None:
        # What the CPU takes for an accelerator's work says nothing of the board.
        p95_ms = {
            one.variant: one.report.latency_p95_ms
            for one in proofs
            if one.proved == "here" and one.report is not None
        }
        lines += over_budget(profile, p95_ms)
    return "\n".join(lines)


def _proof_row(proof: Proof) -> tuple[str, ...]:
    report = proof.report
    if report is None:
        return proof.variant, "not run", "-", "-", "-"
    states = {"here": "passed", "numbers": "numbers", "no": "FAILED"}
    return (
        proof.variant,
        states[proof.proved],
        f"{report.value:.4f}",
        f"{report.floor:g}",
        f"{report.latency_p95_ms:.1f} ms",
    )


def over_budget(profile: DeviceProfile, p95_ms: Mapping[str, float]) -> list[str]:
    """One line where variants took longer here than `profile` allows; none for another kind of CPU.

    `p95_ms` is by variant. It refuses nothing: this host is not the board.
    """
    allowed = profile.budget.latency_ms
    over = [f"{name} {p95:.1f} ms" for name, p95 in p95_ms.items() if 0 < allowed < p95]
    if not over or profile.arch != platform.machine():
        return []
    return [
        plain(
            f"  p95 of {', '.join(over)}: over the profile's budget of {allowed:g} ms; "
            "a device like this host would refuse it",
            MAX_ERROR,
        )
    ]


def proofs_json(bundle: VerifiedBundle, proofs: Sequence[Proof]) -> dict[str, Any]:
    """What `proofs_text` says, in full; the figures of a variant that did not run are missing."""
    return {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "manifest_sha256": bundle.manifest_sha256,
        "passed": not any(proof.failed for proof in proofs),
        "variants": [
            {
                **(dataclasses.asdict(proof.report) if proof.report else {"passed": None}),
                "variant": proof.variant,
                "meant_for": proof.accelerator,
                "proved": proof.proved,
                "why": proof.why,
            }
            for proof in proofs
        ],
    }
