"""A torch module with named tensors as a `FloatModel`: run, and written for each engine.

For ONNX the legacy exporter comes first, because ONNX Runtime's fusion recognizes its graphs; what
it cannot trace goes to the newer one. LiteRT files have batch 1 and an entry point a length.

Order of an export: eval, sample inputs of sizes that no weight has, the toolchain, eval again (the
legacy exporter leaves modules in train mode).
"""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters.export import OPSETS
from converters.ort import open_session
from converters.quiet import quiet
from converters.sources.interface import Description, Exported, Interface
from converters.sources.torch_module import (
    BATCH,
    ROWS,
    SEQUENCE,
    TOKENS,
    Named,
    free,
    sized,
)
from edge_runtime.bundle.manifest import Signature, TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor

DYNAMO_OPSET = 18
"""The newer exporter writes no older one itself."""
MAIN = "main"
"""The entry point of a LiteRT file without a sequence."""
CHECKED = ((1, 9), (3, 5))
"""Rows and tokens that an exported file is held against the module with."""
TRACED = 1e-2
"""Relative to the output's scale: more is no rounding, but a graph of another shape."""
LEAST = 1e-6
"""Answers below it are nothing, however exact."""
MAX_TOLD = 240


class _Plain(torch.nn.Module):
    """Tensors in, a tuple of tensors out: the ONNX exporters name both themselves."""

    def __init__(self, network: Named) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.network(*given).values())


@dataclass(slots=True)
class TorchModel:
    """See `FloatModel`. `samples` has a tensor for each input, any batch and sequence.

    `format` and `size_bytes` are for `describe`; `notes` grow with what an export had to do. The
    module is put in eval mode and float32 when the model is made.
    """

    module: torch.nn.Module
    interface: Interface
    samples: Mapping[str, torch.Tensor]
    name: str
    sha256: str
    licence: str = "unknown"
    format: str = "torch"
    size_bytes: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lacking = [one.name for one in self.interface.inputs if one.name not in self.samples]
        if lacking:
            raise InputError(f"model {self.name}: there is no sample of its input {lacking[0]}")
        self.module = self.module.float().eval()

    def export(self, backend: str, *, opset: int, lengths: Sequence[int]) -> Exported:
        """See `FloatModel`."""
        if backend == "onnxruntime":
            return Exported(self._onnx(opset))
        if backend == "litert":
            return self._litert(lengths)
        raise InputError(
            f"model {self.name}: no way leads from torch to {backend!r}; "
            "known are onnxruntime, litert"
        )

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `FloatModel`.

        Raises:
            InputError: an input is missing, or the module refuses what it is given.
        """
        given = {}
        for spec in self.interface.inputs:
            if spec.name not in feeds:
                raise InputError(f"model {self.name}: input {spec.name} is missing")
            value = np.ascontiguousarray(feeds[spec.name], dtype=np.dtype(spec.dtype))
            given[spec.name] = torch.from_numpy(value)
        self.module.eval()
        with torch.inference_mode():
            try:
                found = self._named()(**given)
            except Exception as reason:  # a stranger's module raises what it likes
                raise InputError(f"model {self.name}: cannot run ({sentence(reason)})") from None
        return {name: one.detach().cpu().numpy() for name, one in found.items()}

    def describe(self) -> Description:
        """See `FloatModel`; operators are the kinds of the module's leaves."""
        kinds = Counter(
            type(one).__name__ for one in self.module.modules() if not any(one.children())
        )
        return Description(
            format=self.format,
            name=self.name,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            licence=self.licence,
            parameters=sum(one.numel() for one in self.module.parameters()),
            operators=dict(sorted(kinds.items())),
            interface=self.interface,
            notes=self.notes,
        )

    @property
    def has_sequence(self) -> bool:
        """Whether an input's length is free."""
        return any(SEQUENCE in spec.shape for spec in self.interface.inputs)

    def _named(self) -> Named:
        outputs = [one.name for one in self.interface.outputs]
        return Named(self.module, [one.name for one in self.interface.inputs], outputs).eval()

    def _sized(self, rows: int, tokens: int) -> dict[str, torch.Tensor]:
        """The samples with these sizes, in the interface's order."""
        return {
            spec.name: sized(self.samples[spec.name], spec, {BATCH: rows, SEQUENCE: tokens})
            for spec in self.interface.inputs
        }

    def _onnx(self, opset: int) -> bytes:
        if opset not in OPSETS:
            raise InputError(f"opset {opset}: expected {OPSETS.start}..{OPSETS.stop - 1}")
        told = []
        for words, exporter in (("the legacy exporter", self._legacy), ("the newer", self._dynamo)):
            try:
                data: bytes = or_sentence(partial(exporter, opset), words)
                or_sentence(partial(self._check, data), words)
            except InputError as reason:
                told.append(str(reason))
                continue
            if told:
                self._note(f"exported to ONNX by the newer exporter: {told[0]}")
            return data
        raise InputError(f"model {self.name}: cannot be exported to ONNX: {'; '.join(told)}")

    def _check(self, data: bytes) -> None:
        """That the file is right for other sizes, too: a traced size may stand in it for good.

        Raises:
            InputError: the engine refuses it, or answers something else than the module.
        """
        session = open_session(data)
        names = [one.name for one in self.interface.outputs]
        for rows, tokens in CHECKED if self.has_sequence else CHECKED[:1]:
            feeds = {name: one.numpy() for name, one in self._sized(rows, tokens).items()}
            wanted = self.run(feeds)
            # What a graph does not read is no input of it.
            read = {one.name for one in session.get_inputs()}
            found = session.run(names, {k: v for k, v in feeds.items() if k in read})
            for name, ours in zip(names, found, strict=True):
                if ours.shape != wanted[name].shape:
                    raise InputError(
                        f"its {name} has the shape {list(ours.shape)}, expected "
                        f"{list(wanted[name].shape)}: a size stands in the graph for good"
                    )
                error = _error(wanted[name], ours)
                if not error <= TRACED:
                    length = f" of {tokens} tokens" if self.has_sequence else ""
                    raise InputError(
                        f"its {name} is off by {error:.1g} of its scale for a batch of {rows}"
                        f"{length}"
                    )

    def _legacy(self, opset: int) -> bytes:
        named = self._named()
        out: Any = io.BytesIO()  # the legacy exporter takes one; the signature knows paths only
        try:
            torch.onnx.export(
                _Plain(named).eval(),
                tuple(self._sized(ROWS, TOKENS).values()),
                out,
                input_names=list(named.inputs),
                output_names=list(named.outputs),
                dynamic_axes={one.name: axes for one in self._specs() if (axes := free(one))},
                opset_version=opset,
                dynamo=False,
            )
        finally:
            self.module.eval()
        return bytes(out.getvalue())

    def _dynamo(self, opset: int) -> bytes:
        named = self._named()
        dims = {name: torch.export.Dim(name, min=1, max=1 << 15) for name in (BATCH, SEQUENCE)}
        shapes = tuple(
            {axis: dims[name] for axis, name in free(spec).items()}
            for spec in self.interface.inputs
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            program = torch.onnx.export(
                _Plain(named).eval(),
                tuple(self._sized(ROWS, TOKENS).values()),
                input_names=list(named.inputs),
                output_names=list(named.outputs),
                dynamic_shapes=(shapes,),
                opset_version=max(opset, DYNAMO_OPSET),
                dynamo=True,
            )
            if program is None:
                raise InputError("it gave no program")
            program.save(str(path), external_data=False)
            return path.read_bytes()

    def _specs(self) -> tuple[TensorSpec, ...]:
        return (*self.interface.inputs, *self.interface.outputs)

    def _litert(self, lengths: Sequence[int]) -> Exported:
        if self.has_sequence and not lengths:
            raise InputError(f"model {self.name}: LiteRT needs sequence lengths, none are given")
        entries = tuple(
            Signature(f"tokens_{n}", {SEQUENCE: n}) for n in sorted(set(lengths))
        ) if self.has_sequence else ()  # fmt: skip
        where = f"model {self.name}: cannot be exported to LiteRT"
        try:
            data = or_sentence(lambda: self._converted(entries), where)
        finally:
            self.module.eval()
        return Exported(data, entries)

    def _converted(self, entries: Sequence[Signature]) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            import litert_torch

            converter = litert_torch._convert.interface.Converter()
            for entry in entries or (Signature(MAIN, {SEQUENCE: 1}),):
                # A copy each: a tensor that is passed twice would be traced as a single input.
                feeds = {
                    name: one.clone() for name, one in self._sized(1, entry.dims[SEQUENCE]).items()
                }
                converter.signature(entry.name, self._named(), sample_kwargs=feeds)
            path = Path(folder) / "model.tflite"
            converter.convert().export(str(path))
            return path.read_bytes()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes = (*self.notes, text)


def _error(wanted: Tensor, found: Tensor) -> float:
    """Largest difference over the largest finite number wanted; what is equal may be infinite."""
    one, other = wanted.astype(np.float64), found.astype(np.float64)
    apart = np.abs(np.subtract(one, other, where=one != other, out=np.zeros_like(one)))
    scale = np.abs(one[np.isfinite(one)]).max(initial=LEAST)
    return float(apart.max(initial=0.0) / scale)


def sentence(reason: BaseException) -> str:
    """What a toolchain says of its failure, on one line: the first words that mean something."""
    lines = [_plain_line(line) for line in str(reason).splitlines()]
    told = next((line for line in lines if len(line) > 3), "")
    if " " not in told:  # a key that was not found, or nothing
        told = f"{type(reason).__name__}: {told}".rstrip(" :")
    return told if len(told) <= MAX_TOLD else f"{told[: MAX_TOLD - 1]}…"


_NOISE = re.compile(
    r"\x1b\[[0-9;]*m"  # colours
    r"|^\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|(?:/[\w.@+-]+)+/(?=[\w.@+-]+)"  # folders of the machine, which say nothing to others
    r"| Name:'.*"  # of a node, after its kind
)


def _plain_line(line: str) -> str:
    return " ".join(_NOISE.sub("", line).split()).strip(" .:")


def or_sentence(work: Callable[[], Any], where: str) -> Any:
    """What `work` returns; toolchains share no base of their errors, so all of them are told.

    Raises:
        InputError: `where`, and what the failure says of itself; what was printed is dropped.
    """
    with quiet():
        try:
            return work()
        except InputError as reason:
            raise InputError(f"{where} ({reason})") from None
        except Exception as reason:
            raise InputError(f"{where} ({sentence(reason)})") from None
