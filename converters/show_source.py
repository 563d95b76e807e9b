"""A model as it was brought, for people and machines: what `edge-convert inspect` says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from converters.show import table
from converters.sources.interface import Description
from converters.sources.shapes import PICTURE_RANK
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.text import MAX_ERROR, plain, size

MOST_OPERATORS = 40
MOST_LABELS = 12
ROW_RANK = 2
CHANNELS = (1, 3)


def guess(described: Description) -> tuple[str, bool]:
    """The task, and whether the model says so itself; else what its tensors look like, or ""."""
    interface = described.interface
    if interface.task:
        return interface.task, True
    if len(interface.inputs) != 1 or len(interface.outputs) != 1:
        names = {spec.name for spec in interface.inputs}
        return ("embedding" if "input_ids" in names else ""), False
    given, made = interface.inputs[0], interface.outputs[0]
    scores = len(made.shape) == ROW_RANK
    if len(given.shape) == PICTURE_RANK and {given.shape[1], given.shape[-1]} & set(CHANNELS):
        return ("image-classification" if scores else "image-segmentation"), False
    if given.shape == made.shape and len(given.shape) == ROW_RANK:
        return "anomaly-detection", False
    if len(given.shape) == ROW_RANK and scores:
        wide = made.shape[-1] != 1
        return ("tabular-classification" if wide else "regression"), False
    return "", False


def source_text(described: Description) -> str:
    """A description for people, 80 columns."""
    interface = described.interface
    task, told = guess(described)
    opset = ", ".join(f"{domain} {version}" for domain, version in described.opset)
    lines = [
        plain(f"{described.name}: {described.format}, {size(described.size_bytes)}"),
        f"  sha256      {described.sha256}",
        plain(f"  licence     {described.licence}"),
        f"  parameters  {described.parameters:,}",
    ]
    if opset:
        lines.append(plain(f"  opset       {opset}"))
    if task:
        lines.append(plain(f"  task        {task}{'' if told else ' (a guess from its tensors)'}"))
    else:
        lines.append("  task        unknown; a recipe must say it")
    lines += [plain(f"  note        {note}", MAX_ERROR) for note in described.notes]
    lines += _tensors("inputs", interface.inputs) + _tensors("outputs", interface.outputs)
    for name, steps in (("before", interface.preprocess), ("behind", interface.postprocess)):
        if steps:
            words = " → ".join(step.step for step in steps)
            lines.append(plain(f"  steps {name} the model: {words}", MAX_ERROR))
    if not interface.preprocess:
        lines.append("  steps before the model: it does not say; a recipe must")
    if interface.labels:
        shown = ", ".join(interface.labels[:MOST_LABELS])
        more = len(interface.labels) - MOST_LABELS
        lines.append(
            plain(f"  labels: {shown}{f' and {more} more' if more > 0 else ''}", MAX_ERROR)
        )
    ranked = sorted(described.operators.items(), key=lambda one: (-one[1], one[0]))
    more = len(ranked) - MOST_OPERATORS
    kinds = [(name, f"{count:,}") for name, count in ranked[:MOST_OPERATORS]]
    lines += ["", table(("operator", "count"), kinds)]
    if more > 0:
        lines.append(f"  and {more} more kinds; --json has them all")
    return "\n".join(lines)


def _tensors(title: str, specs: Sequence[TensorSpec]) -> list[str]:
    lines = [f"  {title}"]
    for spec in specs:
        shape = ", ".join(map(str, spec.shape))
        lines.append(plain(f"    {spec.name}  {spec.dtype} [{shape}] {spec.layout or ''}".rstrip()))
    return lines


def source_json(described: Description) -> dict[str, Any]:
    """Everything, as plain values."""
    task, told = guess(described)
    value = dataclasses.asdict(dataclasses.replace(
        described, interface=dataclasses.replace(described.interface, files={})
    ))  # fmt: skip
    value["opset"] = dict(described.opset)
    value["operators"] = dict(described.operators)
    value["task"], value["task_is_told"] = task, told
    return value
