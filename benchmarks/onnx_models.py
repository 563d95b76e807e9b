"""ONNX files that others made: every model among the `onnx` package's own test data.

    python -m benchmarks.onnx_models [--write docs/onnx-models.md] [--json]

Each is opened as `edge-convert` opens a source and fed what the package says, and its answers are
compared with those that the package expects; then it is quantized, and compared with itself in
float. What is refused says why.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.progress import track

from converters.quantize import quantizer
from converters.quiet import quiet
from converters.sources.onnx_file import OnnxModel, open_onnx
from edge_runtime.errors import InputError
from edge_runtime.inference.golden import cosine

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
TOLERANCE = 1e-3
"""Of the largest expected number, as the package's own runner has it."""
LIGHT_TOLERANCE = 1e-2
"""Of models whose weights are all alike and whose answers are sums of thousands of them."""
SCHEME = "static_w8a8_channel"
SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a model. `error` is relative to the largest expected number.

    `state`: "same", "differs", "refused" or "no data" (opened, but the package gives nothing to
    compare with). `quantized` is the cosine of the quantized file's answers, or why there is none.
    """

    name: str
    state: str
    told: str = ""
    error: float = 0.0
    quantized: str = ""


@dataclass(frozen=True, slots=True)
class Fed:
    """One set of inputs."""

    feeds: Mapping[str, Any]

    def __len__(self) -> int:
        return 1

    def tensors(self) -> Mapping[str, Any]:
        return self.feeds


def models() -> list[Path]:
    """Every model of the package, by name."""
    return sorted(DATA.rglob("*.onnx"))


def name_of(path: Path) -> str:
    """As `simple/test_expand_shape_model1`."""
    named = path.parent if path.name == "model.onnx" else path.with_suffix("")
    return str(named.relative_to(DATA))


def judge(path: Path, *, quantize: bool = True) -> Outcome:
    """Open, run and compare the model at `path`."""
    name = name_of(path)
    try:
        model = open_onnx(path)
        feeds, expected = _case(path, model)
        if not expected:
            return Outcome(name, "no data")
        answers = model.run(feeds)
    except InputError as reason:
        return Outcome(name, "refused", str(reason))
    error = max(
        _error(np.asarray(answers[spec.name]), value)
        for spec, value in zip(model.interface.outputs, expected, strict=False)
    )
    allowed = LIGHT_TOLERANCE if name.startswith("light") else TOLERANCE
    state = "same" if error <= allowed else "differs"
    return Outcome(name, state, error=error, quantized=_quantized(model, feeds) if quantize else "")


def _case(path: Path, model: OnnxModel) -> tuple[dict[str, Any], list[Any]]:
    """Inputs and expected outputs of the first data set; a light model's inputs are all ones."""
    specs = model.interface.inputs
    if path.name != "model.onnx":
        shape = [1 if isinstance(dim, str) else dim for dim in specs[0].shape]
        ones = {specs[0].name: np.ones(shape, np.float32)}
        output = path.with_name(f"{path.stem}_output_0.pb")
        return ones, [_tensor(output)] if output.is_file() else []
    folder = path.parent / "test_data_set_0"
    given = [_tensor(one) for one in sorted(folder.glob("input_*.pb"))]
    if len(given) < len(specs):
        return {}, []
    feeds = {spec.name: value for spec, value in zip(specs, given, strict=False)}
    return feeds, [_tensor(one) for one in sorted(folder.glob("output_*.pb"))]


def _tensor(path: Path) -> Any:
    proto = onnx.TensorProto()
    proto.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(proto)


def _error(found: Any, expected: Any) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    if expected.dtype.kind not in "fiu":
        return float((found != expected).any())
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    finite = expected[np.isfinite(expected)]
    scale = float(np.abs(finite).max(initial=0)) or 1.0
    return float(np.abs(np.where(same, 0, found - expected)).max()) / scale


def _quantized(model: OnnxModel, feeds: Mapping[str, Any]) -> str:
    """Cosine of the quantized file's answers with the float ones, or a sentence."""
    from converters.ort import open_session

    if any(spec.dtype != "float32" for spec in model.interface.inputs):
        return "inputs are no float32"
    try:
        data = model.export("onnxruntime", opset=17, lengths=()).data
        with quiet():
            made = quantizer("onnxruntime", SCHEME)(data, (Fed(feeds),) * SAMPLES).model
            names = [spec.name for spec in model.interface.outputs]
            session = open_session(made)
            pairs = zip(session.run(names, dict(feeds)), model.run(feeds).values(), strict=True)
        if made == data:
            return "nothing to quantize"
        return f"{min(cosine(a, b) for a, b in pairs):.4f}"
    except InputError as reason:
        return str(reason)


def page(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as Markdown."""
    states = Counter(one.state for one in outcomes)
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common())
    tried = [one for one in outcomes if one.quantized[:1] in ("0", "1")]
    lines = [
        "# ONNX files that others made",
        "",
        "`python -m benchmarks.onnx_models --write docs/onnx-models.md` made this page: every "
        f"model among the test data of the package onnx {onnx.__version__}, opened as "
        "`edge-convert` opens a source.",
        "",
        f"{len(outcomes)} models: {counted}. {len(tried)} have something to quantize ({SCHEME}, "
        "calibrated on the one input that there is; most weights are random).",
        "",
        "| model | answers | error, of the largest | quantized: cosine |",
        "|---|---|---|---|",
    ]
    for one in outcomes:
        told = one.told.replace("|", "\\|") or one.state
        error = f"{one.error:.1e}" if one.state in ("same", "differs") else ""
        lines.append(f"| {one.name} | {told} | {error} | {one.quantized} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="write the page there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    console = Console(stderr=True)
    outcomes = [judge(one) for one in track(models(), "models", console=console)]
    if arguments.write:
        arguments.write.write_text(page(outcomes))
    if arguments.json:
        print(json.dumps([asdict(one) for one in outcomes], indent=2))
    else:
        print(page(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
