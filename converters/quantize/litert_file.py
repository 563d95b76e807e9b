"""A LiteRT file from inside: its layers by name, its tensors and answers while samples run through.

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

from converters.quantize.graph import MASK_LIMIT, MASK_VALUE
from converters.quantize.samples import Sample
from converters.quiet import quiet
from edge_runtime.errors import InputError

LINEAR, EMBEDDING = "FULLY_CONNECTED", "EMBEDDING_LOOKUP"
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
WEIGHTED = (LINEAR, EMBEDDING, *CONVOLUTIONS)
WEIGHTS_AT: Mapping[str, tuple[int, int]] = {"TRANSPOSE_CONV": (2, 1)}
"""Operator → which inputs are its activations and its weights, where they are not 0 and 1."""
TRANSFORMING = ("BATCH_MATMUL", EMBEDDING, "RSQRT")
"""Attention, tables of tokens, norms that nothing could fold: marks of a transformer."""
FLOAT_BYTES = 4
FOLLOWED = "input_ids"
"""The input that tells how long a text is, where there is one of that name."""
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
    """The layers of every entry point; a transformer's head, which makes the output, is none."""
    file, kinds = _opened(model)
    heads = not is_transformer(model)
    found = []
    for graph in file.subgraphs:
        outputs = set(graph.outputs)
        for operator in graph.operators:
            kind = kinds[operator.opcodeIndex]
            if kind not in WEIGHTED or (outputs & set(operator.outputs) and not heads):
                continue
            source, weight = WEIGHTS_AT.get(kind, (0, 1))
            ends = [operator.inputs[source], operator.inputs[weight]]
            ends += [n for n in operator.inputs if n >= 0 and n not in ends]
            used = [graph.tensors[n] for n in (*ends, *operator.outputs)]
            if file.buffers[used[1].buffer].data is None:  # two activations
                continue
            words = tuple(tensor.name.decode() for tensor in used)
            count = int(np.prod(used[1].shape))
            found.append(LiteRtLayer(layer_name(words[-1]), kind, words[-1], words, count))
    return tuple(found)


def is_transformer(model: bytes) -> bool:
    """Whether norms, softmax and sums are to stay float: they cost little, and rounding is dear."""
    file, kinds = _opened(model)
    used = {kinds[one.opcodeIndex] for graph in file.subgraphs for one in graph.operators}
    return not used.isdisjoint(TRANSFORMING)


def activations_of(model: bytes) -> tuple[str, ...]:
    """Names of all float tensors that are no constants, of every entry point."""
    from ai_edge_litert.schema_py_generated import TensorType

    file, _ = _opened(model)
    found: dict[str, None] = {}
    for graph in file.subgraphs:
        made = [*graph.inputs, *(n for one in graph.operators for n in one.outputs)]
        for tensor in (graph.tensors[n] for n in made):
            if tensor.type == TensorType.FLOAT32:
                found[tensor.name.decode()] = None
    return tuple(found)


def clamp_masks(model: bytes) -> bytes:
    """Constants such as -3e38 as -30: they only mask, and would be the range of what they touch.

    Left out of the ranges instead, they would mask nothing where masks themselves are integers.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(model)
    root: Any = schema.Model.GetRootAs(data, 0)
    for number in range(root.BuffersLength()):
        # A view of `data`. Only floats are below the limit and nothing else is so small.
        content = root.Buffers(number).DataAsNumpy()
        if isinstance(content, np.ndarray) and content.nbytes == FLOAT_BYTES:
            value = content.view(np.float32)
            if value[0] < MASK_LIMIT and number in _float_buffers(root, schema):
                value[0] = MASK_VALUE
    return bytes(data)


def _float_buffers(root: Any, schema: Any) -> set[int]:
    """Buffers that tensors of float32 use."""
    graphs = [root.Subgraphs(number) for number in range(root.SubgraphsLength())]
    return {
        tensor.Buffer()
        for graph in graphs
        for tensor in map(graph.Tensors, range(graph.TensorsLength()))
        if tensor.Type() == schema.TensorType.FLOAT32
    }


def _opened(model: bytes) -> tuple[Any, list[str]]:
    """The file's tables, and the name of each operator code."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    file: Any = tfl_flatbuffer_utils.read_model(model)
    return file, [names[code.builtinCode] for code in file.operatorCodes]


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
    """One sample in one entry point of `length` tokens, of which `kept` are its own.

    What is no sequence has as many of the one as of the other.
    """

    interpreter: Any
    subgraph: int
    length: int
    kept: int
    outputs: Mapping[str, FloatArray]

    @property
    def output(self) -> FloatArray:
        """The first output, (rows, width)."""
        first = next(iter(self.outputs.values()))
        return first.reshape(len(first), -1) if first.ndim != 2 else first

    def tensors(self, names: Collection[str]) -> Iterator[Tensor]:
        """The tensors called so, as float32; rows of padding are left out.

        Several tensors may share a name; they come in the file's order.
        """
        for one in self.interpreter.get_tensor_details(self.subgraph):
            scale, zero_point = one["quantization"]
            if one["name"] in names and (one["dtype"] is np.float32 or scale):
                value = self.interpreter.get_tensor(one["index"], self.subgraph)
                if value.dtype != np.float32:
                    value = (value.astype(np.float32) - zero_point) * np.float32(scale)
                rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
                own = rows[: self.kept] if len(rows) == self.length else rows
                yield Tensor(one["name"], value.ndim, own)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry point: `shapes` and `dtypes` of its inputs by name."""

    subgraph: int
    runner: Any
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, npt.DTypeLike]

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def holds(self, feeds: Mapping[str, npt.NDArray[Any]]) -> bool:
        return all(
            size <= room
            for name, shape in self.shapes.items()
            for size, room in zip(feeds[name].shape, shape, strict=True)
        )

    def fitted(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """`feeds` cut or padded with zeros to the shapes here."""
        ready = {}
        for name, shape in self.shapes.items():
            cut = feeds[name][tuple(slice(size) for size in shape)]
            missing = [(0, room - size) for room, size in zip(shape, cut.shape, strict=True)]
            ready[name] = np.pad(cut, missing).astype(self.dtypes[name])
        return ready

    def lengths(self, feeds: Mapping[str, npt.NDArray[Any]]) -> tuple[int, int]:
        """Tokens of the entry point, and those of them that are the sample's own."""
        name = FOLLOWED if FOLLOWED in self.shapes else next(iter(self.shapes))
        for room, size in zip(self.shapes[name], feeds[name].shape, strict=True):
            if room != size:
                return room, min(room, size)
        whole = self.shapes[name][-1] if self.shapes[name] else 1
        return whole, whole


def runs(
    model: bytes, texts: Sequence[Sample], *, everywhere: int = 0, look: bool = True
) -> Iterator[Run]:
    """Each sample in the smallest entry point that holds it, the first `everywhere` in all, cut.

    With `look` tensors inside can be asked for until the next one runs; then the engine's plain
    kernels compute, whose dynamic scales differ a little from those of the fast ones.

    Raises:
        InputError: a sample lacks an input of the file, or has another rank there.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain: dict[str, Any] = {
        "experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "experimental_preserve_all_tensors": True,
    }
    with quiet():
        interpreter = Interpreter(model_content=model, num_threads=1, **plain if look else {})
    entries = _entries(interpreter)
    for number, text in enumerate(texts):
        given = text.tensors()
        _check(entries[0], given)
        fitting = [one for one in entries if one.holds(given)] or entries[-1:]
        for entry in entries if number < everywhere else fitting[:1]:
            outputs = entry.runner(**entry.fitted(given))
            length, kept = entry.lengths(given)
            yield Run(interpreter, entry.subgraph, length, kept, outputs)


def _entries(interpreter: Any) -> list[_Entry]:
    """The entry points, the smallest first."""
    entries = []
    for place, name in enumerate(interpreter.get_signature_list()):
        runner = interpreter.get_signature_runner(name)
        inputs = runner.get_input_details()
        shapes = {key: tuple(map(int, one["shape"])) for key, one in inputs.items()}
        dtypes = {key: one["dtype"] for key, one in inputs.items()}
        entries.append(_Entry(place, runner, shapes, dtypes))
    return sorted(entries, key=lambda one: one.size)


def _check(entry: _Entry, given: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, shape in entry.shapes.items():
        if name not in given:
            raise InputError(
                f"calibration: a sample has the inputs {', '.join(sorted(given))}, the file wants "
                f"{name}"
            )
        if given[name].ndim != len(shape):
            raise InputError(
                f"calibration: {name} has {given[name].ndim} dimensions in a sample, "
                f"{len(shape)} in the file"
            )


def answers_litert(model: bytes, texts: Sequence[Sample]) -> FloatArray:
    """One row a text, on the kernels that a device uses."""
    return np.concatenate([run.output for run in runs(model, texts, look=False)])


def layer_tensors(
    model: bytes, texts: Sequence[Sample], names: Collection[str]
) -> Iterator[Mapping[str, list[FloatArray]]]:
    """For each text: layer → the outputs in `names` that belong to it, in the file's order."""
    for run in runs(model, texts):
        found: dict[str, list[FloatArray]] = {}
        for tensor in run.tensors(names):
            found.setdefault(layer_name(tensor.name), []).append(tensor.rows.copy())
        yield found
