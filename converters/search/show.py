"""A search for people: the table that fills while it runs, its result, the front, the choice.

Tables are 80 columns wide, or a name's length more.
"""

from __future__ import annotations

from converters.metrics import figure_words
from converters.search.budget import Budget
from converters.search.result import Finalist, Found, float_model
from converters.show import table
from edge_runtime.text import MAX_ERROR, plain, size

ENGINES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", "rknn": "RKNN"}
"""What people call them."""
FILLING = f"  {'candidate':<38} {'steps':>6} {'held out':>8} {'test':>7} {'ms':>6} {'size':>8}"
"""The head of the table that fills; of held-out rows the loss, lower is better."""


def trained_row(name: str, steps: int, loss: float) -> str:
    """A row of the table that fills: a candidate that was taught."""
    return f"  {name:<38} {steps:>6,} {loss:>8.4f}"


def measured_row(one: Finalist, budget: Budget) -> str:
    """A row of the table that fills: a variant that answered the test rows."""
    figures = (
        f"{figure_words(one.evidence.value, one.evidence.metric):>7} "
        f"{one.cost.latency_ms:>6.2f} {size(round(one.cost.size_bytes)):>8}"
    )
    broken = ", ".join(budget.broken(one.cost)) if one.ready else ""
    return plain(f"  {one.id:<38} {'':>6} {'':>8} {figures}{f'  over: {broken}' if broken else ''}")


def found_text(found: Found) -> str:
    """For people; a finalist takes two lines, its name and its figures."""
    names, rows = [], []
    base = float_model(found.finalists)
    for one in sorted(found.finalists, key=lambda one: one.cost.latency_ms):
        marks = [
            *(["choice"] if one.id == found.choice else []),
            *(["front"] if one.id in found.front else []),
            *([] if not found.budget.broken(one.cost) else ["over budget"]),
        ]
        names.append(plain(f"  {one.id}{': ' if marks else ''}{', '.join(marks)}"))
        low, high = one.evidence.difference.interval
        rows.append(
            (
                f"  {size(round(one.cost.size_bytes))} "
                f"{base.cost.size_bytes / one.cost.size_bytes:.1f}x",
                f"{one.cost.latency_ms:.2f} {base.cost.latency_ms / one.cost.latency_ms:.1f}x",
                size(round(one.cost.ram_bytes)) if one.cost.ram_bytes else "",
                figure_words(one.evidence.value, one.evidence.metric),
                f"{low:+.4f} to {high:+.4f}",
            )
        )
    metric = base.evidence.metric
    head, *shown = table(
        ("  size", "ms", "RAM", metric, "95 % against original"), rows
    ).splitlines()
    lines = [head, *(line for pair in zip(names, shown, strict=True) for line in pair)]
    engine = ENGINES.get(base.backend, base.backend)
    lines.append(f"  x: times smaller or faster than {engine}'s float model; p50 of the longest")
    lines.append("  input, 1 thread, batch 1, all in one run on this host, not on the board")
    lines.append(f"  budget: {found.budget.words()}; {found.seconds / 60:.1f} minutes")
    lines += [plain(f"  {note}", MAX_ERROR) for note in found.notes]
    if found.stopped:
        lines.append(plain(f"  ended early: {found.stopped}", MAX_ERROR))
    if found.recipe is not None and found.chosen is not None:
        lines.append(plain(f"  recipe: {found.recipe}", MAX_ERROR))
        lines.append(plain(f"  bundle: {found.chosen.model.bundle}", MAX_ERROR))
    return "\n".join(lines)
