"""A LiteRT file from inside: its layers by name, its tensors and answers while texts run through.

Entry points of one file share their weights and, the number of tokens apart, their shape, so that a
layer is there once in each. Layers have the names that the ONNX graph gives them, with one
exception: the converter calls query, key and value of a layer all `query`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.encoding import Encoded
from converters.quiet import quiet

LINEAR, EMBEDDING = "FULLY_CONNECTED", "EMBEDDING_LOOKUP"
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LiteRtLayer:
    """A layer of one entry point: our name, the operator, its tensors in the file, its weights."""

    name: str
    op: str
    output: str
    tensors: tuple[str, ...]
    weights: int


def layers_of(model: bytes) -> tuple[LiteRtLayer, ...]:
    """The layers of every entry point; the head, which makes the output, is none."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    file: Any = tfl_flatbuffer_utils.read_model(model)
    found = []
    for graph in file.subgraphs:
        outputs = set(graph.outputs)
        for operator in graph.operators:
            kind = names[file.operatorCodes[operator.opcodeIndex].builtinCode]
            if kind not in (LINEAR, EMBEDDING) or outputs & set(operator.outputs):
                continue
            used = [graph.tensors[n] for n in (*operator.inputs, *operator.outputs) if n >= 0]
            words = tuple(tensor.name.decode() for tensor in used)
            count = int(np.prod(used[1].shape))
            found.append(LiteRtLayer(layer_name(words[-1]), kind, words[-1], words, count))
    return tuple(found)


def layer_sizes(model: bytes) -> Mapping[str, int]:
    """Layer → how many weights it holds, in one entry point."""
    sizes: dict[str, int] = {}
    seen: set[str] = set()
    for layer in layers_of(model):
        if layer.tensors[1] not in seen:  # entry points share it
            sizes[layer.name] = sizes.get(layer.name, 0) + layer.weights
        seen.add(layer.tensors[1])
    return sizes


def layer_name(tensor: str) -> str:
    """`…BertEncoder_encoder/…BertLayer_0/…Linear_query;3` → `encoder.layer.0.….query`."""
    words: list[str] = []
    for part in tensor.partition(";")[0].split("/"):
        last = part.rpartition(".")[2]
        word = last.partition("_")[2] or last
        words += ["layer", word] if word.isdigit() else [word]
    return ".".join(words[2:] if words[1:2] == ["encoder"] else words)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's name and rank in the file, and its values as (rows, width)."""

    name: str
    rank: int
    rows: FloatArray


@dataclass(frozen=True, slots=True)
class Run:
    """One text in one entry point of `length` tokens, of which `kept` are its own."""

    interpreter: Any
    subgraph: int
    length: int
    kept: int
    output: FloatArray

    def tensors(self, names: Collection[str]) -> Iterator[Tensor]:
        """The float tensors called so; rows of padding are left out.

        Several tensors may share a name; they come in the file's order.
        """
        for one in self.interpreter.get_tensor_details(self.subgraph):
            if one["name"] in names and one["dtype"] is np.float32:
                value = self.interpreter.get_tensor(one["index"], self.subgraph)
                rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
                own = rows[: self.kept] if len(rows) == self.length else rows
                yield Tensor(one["name"], value.ndim, own)


def runs(
    model: bytes, texts: Sequence[Encoded], *, everywhere: int = 0, look: bool = True
) -> Iterator[Run]:
    """Each text in the smallest entry point that holds it, the first `everywhere` in all, cut.

    With `look` tensors inside can be asked for until the next text runs; then the engine's plain
    kernels compute, whose dynamic scales differ a little from those of the fast ones.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain: dict[str, Any] = {
        "experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "experimental_preserve_all_tensors": True,
    }
    with quiet():
        interpreter = Interpreter(model_content=model, num_threads=1, **plain if look else {})
    entries = []
    for place, name in enumerate(interpreter.get_signature_list()):
        runner = interpreter.get_signature_runner(name)
        length = int(runner.get_input_details()["input_ids"]["shape"][-1])
        entries.append((length, place, runner))
    entries.sort(key=lambda one: one[0])
    for number, text in enumerate(texts):
        fitting = [one for one in entries if one[0] >= len(text)] or entries[-1:]
        for length, place, runner in entries if number < everywhere else fitting[:1]:
            kept = min(len(text), length)
            feeds = {
                name: np.pad(value[:, :kept], ((0, 0), (0, length - kept))).astype(np.int32)
                for name, value in text.tensors().items()
            }
            (output,) = runner(**feeds).values()
            yield Run(interpreter, place, length, kept, output)


def answers_litert(model: bytes, texts: Sequence[Encoded]) -> FloatArray:
    """One row a text, on the kernels that a device uses."""
    return np.concatenate([run.output for run in runs(model, texts, look=False)])


def layer_tensors(
    model: bytes, texts: Sequence[Encoded], names: Collection[str]
) -> Iterator[Mapping[str, list[FloatArray]]]:
    """For each text: layer → the outputs in `names` that belong to it, in the file's order."""
    for run in runs(model, texts):
        found: dict[str, list[FloatArray]] = {}
        for tensor in run.tensors(names):
            found.setdefault(layer_name(tensor.name), []).append(tensor.rows.copy())
        yield found
