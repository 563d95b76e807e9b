"""The tables of steps and tasks, and how a manifest's declarations become calls.

Steps are data in the manifest and code only here: a bundle names them and brings no code. An
unknown name is refused, the known ones listed, before the model is loaded. What a task takes and
what it answers is said once, in `TASKS`; that the declared steps lead from the one to the model,
and from the model to the other, is checked here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edge_runtime.bundle.manifest import Step, TensorSpec
from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.tasks.items import Item
from edge_runtime.inference.tasks.results import (
    Anomaly,
    Classification,
    Embedding,
    FloatArray,
    Raw,
    Result,
    Spans,
    Values,
)
from edge_runtime.inference.tasks.stream import Stream
from edge_runtime.inference.tasks.tokenize import Tokenize, TokenizeOptions
from edge_runtime.inference.tasks.windows import split, window_of

PACKAGE = "edge_runtime.inference.tasks"
ITEM = "item"
"""What the last preprocess step gives: see `Item`."""


@dataclass(frozen=True, slots=True)
class Before:
    """A step before the model: what it is made by, from what to what it leads."""

    path: str
    takes: tuple[str, ...]
    gives: str


PREPROCESS: dict[str, Before] = {
    "tokenize": Before("tokenize:TokenizeOptions", ("text", "text-pair"), ITEM),
    "decode_image": Before("image:DecodeImage", ("image",), "picture"),
    "resize": Before("image:Resize", ("picture",), "picture"),
    "center_crop": Before("image:CenterCrop", ("picture",), "picture"),
    "normalize": Before("image:Normalize", ("picture",), ITEM),
    "decode_audio": Before("audio:DecodeAudio", ("audio",), "samples"),
    "standardize": Before("audio:Standardize", ("samples",), "samples"),
    "log_mel": Before("mel:LogMel", ("samples",), "features"),
    "audio_tensor": Before("audio:AudioTensor", ("samples", "features"), ITEM),
    "columns": Before("tabular:Columns", ("row",), ITEM),
}
POSTPROCESS: dict[str, str] = {
    "softmax": "postprocess:Softmax",
    "sigmoid": "postprocess:Sigmoid",
    "l2_normalize": "postprocess:L2Normalize",
    "top_k": "postprocess:TopK",
    "spans": "spans:FindSpans",
    "boxes": "boxes:Detect",
    "class_map": "segment:ClassMap",
    "values": "tabular:NamedValues",
    "anomaly": "tabular:ReconstructionError",
    "stream": "stream:Stream",
}
ENDS: dict[str, str] = {
    "labels": "top_k",
    "vector": "",
    "spans": "spans",
    "boxes": "boxes",
    "mask": "class_map",
    "values": "values",
    "anomaly": "anomaly",
    "tensors": "",
}
"""What a task may answer, and the postprocess step that it must end in."""

STREAM = "stream"
"""May stand behind the end of a task that gives labels to sounds."""

MANY = ("batch",)
INPUTS: dict[str, tuple[TensorSpec, ...]] = {
    "text": (TensorSpec("text", "bytes", MANY),),
    "text-pair": (TensorSpec("text", "bytes", MANY), TensorSpec("text_pair", "bytes", MANY)),
    "image": (TensorSpec("image", "bytes", MANY),),
    "audio": (TensorSpec("audio", "bytes", MANY),),
    "row": (TensorSpec("row", "bytes", MANY),),
    "tensors": (),
}
"""What a client sends, by what the first step takes. Pictures and sound are base64 of a file's
bytes, rows are JSON."""
OUTPUTS: dict[str, tuple[TensorSpec, ...]] = {
    "labels": (TensorSpec("label", "bytes", MANY), TensorSpec("score", "float32", MANY)),
    "vector": (TensorSpec("embedding", "float32", ("batch", "dimension")),),
    "spans": (TensorSpec("spans", "bytes", MANY),),
    "boxes": (TensorSpec("boxes", "bytes", MANY),),
    "mask": (TensorSpec("mask", "bytes", MANY),),
    "values": (TensorSpec("values", "float32", ("batch", "name")),),
    "anomaly": (TensorSpec("score", "float32", MANY), TensorSpec("anomalous", "bool", MANY)),
    "tensors": (),
}
"""What a client gets; results that are lists of things are JSON."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a task may take, a key of INPUTS, and what it answers, one of ENDS."""

    name: str
    takes: tuple[str, ...]
    answers: str

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """For those who describe the task to clients."""
        return OUTPUTS[self.answers]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("text-classification", ("text",), "labels"),
        Task("text-pair-classification", ("text-pair",), "labels"),
        Task("token-classification", ("text",), "spans"),
        Task("embedding", ("text", "image", "audio"), "vector"),
        Task("image-classification", ("image",), "labels"),
        Task("object-detection", ("image",), "boxes"),
        Task("image-segmentation", ("image",), "mask"),
        Task("audio-classification", ("audio",), "labels"),
        Task("tabular-classification", ("row",), "labels"),
        Task("regression", ("row", "text", "text-pair", "image", "audio"), "values"),
        Task("anomaly-detection", ("row", "audio", "image"), "anomaly"),
        Task("tensors", ("tensors",), "tensors"),
    )
}


class Reader:
    """The preprocess steps of one bundle, ready. Pure; safe to call from any thread."""

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self._steps = tuple(steps)
        first = steps[0] if steps else None
        self.tokenize = first if isinstance(first, Tokenize) else None

    def __call__(self, raw: Raw) -> Item:
        """One input, from what a client sent to the model's tensors.

        Raises:
            InputError: it is not what the task takes; says what was expected.
            DeviceError: a file of the bundle does not do what it must.
        """
        value: Any = raw
        for step in self._steps:
            value = step(value)
        if not isinstance(value, Item):
            raise RuntimeError("the steps of a bundle are checked when it is opened")
        return value

    def windows(self, raw: Raw, hop: int) -> Iterator[Item]:
        """One input, which may be longer than the model's window, as several.

        Raises:
            InputError, DeviceError: as a call; too many windows.
        """
        return map(self, split(self._steps[0], raw, hop))

    @property
    def max_length(self) -> int:
        """Most tokens of one input; 0 where there are none."""
        return self.tokenize.max_length if self.tokenize else 0

    @property
    def fills(self) -> Mapping[str, int]:
        """What a sequence is padded with, by input; 0 in the others."""
        return self.tokenize.options.fills if self.tokenize else {}

    def check(self, feeds: Mapping[str, Tensor]) -> None:
        """Tensors that a client made itself, beyond their shapes.

        Raises:
            InputError: they hold what no input becomes.
        """
        if self.tokenize and "input_ids" in feeds:
            self.tokenize.check_ids(np.asarray(feeds["input_ids"]))


@dataclass(frozen=True, slots=True)
class Steps:
    """A manifest's declared steps, checked. `takes` is a key of INPUTS."""

    task: Task
    takes: str
    before: tuple[Any, ...]
    inputs: tuple[str, ...]
    output: str
    """The model's output that `apply` works on."""
    apply: tuple[Callable[[FloatArray], FloatArray], ...]
    last: Any
    stream: Stream | None = None
    """How the model is to be put to sound without end, where the bundle says it."""

    @property
    def hop(self) -> int:
        """Samples or rows from one window of a long input to the next; 0: it is not cut."""
        return self.last.hop if self.task.answers == "anomaly" else 0

    @property
    def window(self) -> int:
        """Samples or rows of the model's window; 0 where it takes any number, or no series."""
        return window_of(self.before[0]) if self.before else 0

    def open(self, read: Callable[[str], bytes], limit: int | None) -> Reader:
        """The steps before the model, with the bundle's files; `limit` is the engine's longest
        sequence.

        Raises:
            IncompatibleError: a file cannot be used.
        """
        return _opened(self.before, read, limit)

    def results(
        self, values: Mapping[str, Tensor], feeds: Mapping[str, Tensor], items: Sequence[Item]
    ) -> list[Result]:
        """One typed result for each of `items`, of the model's outputs for `feeds`."""
        if self.task.answers == "boxes":
            return [self.last(values, at, item.picture) for at, item in enumerate(items)]
        rows = self.numbers(values, len(items))
        match self.task.answers:
            case "vector":
                return [
                    Embedding(row, item.truncated) for row, item in zip(rows, items, strict=True)
                ]
            case "labels":
                return [
                    Classification(best[0][0], best[0][1], best, item.truncated)
                    for best, item in zip(self.last(rows), items, strict=True)
                ]
            case "spans":
                return [
                    Spans(self.last(row, item.tokens), item.truncated)
                    for row, item in zip(rows, items, strict=True)
                ]
            case "mask":
                return [self.last(row, item.picture) for row, item in zip(rows, items, strict=True)]
            case "values":
                return [Values(self.last(row)) for row in rows]
            case "anomaly":
                given = feeds[self.inputs[0]]
                return [
                    Anomaly(self.last(a, b), self.last.threshold)
                    for a, b in zip(given, rows, strict=True)
                ]
        raise RuntimeError(f"task {self.task.name} answers tensors only")

    def whole(self, results: Sequence[Result]) -> Result:
        """The result of an input of which `results` are the windows': their mean."""
        scores = [result.score for result in results if isinstance(result, Anomaly)]
        return Anomaly(float(np.mean(scores)), self.last.threshold)

    def numbers(self, values: Mapping[str, Tensor], count: int) -> FloatArray:
        """The output in float32, a vector a row where the answer is of one, with `apply`."""
        rows: FloatArray = values[self.output]
        if rows.dtype != np.float32:
            rows = rows.astype(np.float32)
        flat = self.task.answers in ("labels", "vector", "values")
        if flat and rows.ndim != 2:
            rows = rows.reshape(count, -1)
        for step in self.apply:
            rows = step(rows)
        return rows


class Declares(Protocol):
    """What declares steps: a manifest, or what is to become one."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def preprocess(self) -> tuple[Step, ...]: ...
    @property
    def postprocess(self) -> tuple[Step, ...]: ...


def declared_steps(manifest: Declares) -> Steps:
    """The steps of `manifest`.

    Raises:
        IncompatibleError: an unknown task or step (the known ones are listed), faulty options,
            or steps that do not add up to the task.
    """
    where = f"bundle {manifest.name} {manifest.version}"
    task = _task(manifest, where)
    names = tuple(spec.name for spec in manifest.inputs)
    takes, before = _before(manifest, task, where)
    apply, last, stream = _after(manifest, task, takes, where)
    steps = Steps(task, takes, before, names, manifest.outputs[0].name, apply, last, stream)
    if steps.hop and not steps.window:
        raise IncompatibleError(
            f"{where}: the step anomaly has a hop, but no step before the model says how long a "
            "window is"
        )
    return steps


def reader(manifest: Declares, read: Callable[[str], bytes]) -> tuple[str, Reader]:
    """What an input is, a key of INPUTS, and the steps before the model by themselves.

    Raises:
        IncompatibleError: as `declared_steps`.
    """
    where = f"bundle {manifest.name} {manifest.version}"
    takes, steps = _before(manifest, _task(manifest, where), where)
    return takes, _opened(steps, read, None)


def _opened(steps: Sequence[Any], read: Callable[[str], bytes], limit: int | None) -> Reader:
    return Reader(
        [
            Tokenize(step, read(step.file), limit) if isinstance(step, TokenizeOptions) else step
            for step in steps
        ]
    )


def _task(manifest: Declares, where: str) -> Task:
    if manifest.task not in TASKS:
        raise IncompatibleError(
            f"{where}: task {manifest.task!r} is not known to this software; "
            f"known are {', '.join(TASKS)}"
        )
    return TASKS[manifest.task]


def _before(manifest: Declares, task: Task, where: str) -> tuple[str, tuple[Any, ...]]:
    """What the first step takes, and the steps, which lead from there to the model's inputs."""
    made: list[Any] = []
    at = takes = ""
    for step in manifest.preprocess:
        if step.step not in PREPROCESS:
            raise _unknown(PREPROCESS, "preprocess", step, where)
        known = PREPROCESS[step.step]
        made.append(_make(known.path, step, where))
        accepts = made[-1].takes if isinstance(made[-1], TokenizeOptions) else known.takes
        if not at:
            takes = accepts[0]
        elif at not in accepts:
            raise IncompatibleError(
                f"{where}: the preprocess step {step.step} takes {' or '.join(accepts)}, "
                f"the one before it gives {at}"
            )
        at = known.gives
    if not made and task.takes == ("tensors",):
        return "tensors", ()
    if takes not in task.takes or at != ITEM:
        starts = [name for name, one in PREPROCESS.items() if set(one.takes) & set(task.takes)]
        ends = [name for name, one in PREPROCESS.items() if one.gives == ITEM]
        raise IncompatibleError(
            f"{where}: the preprocess steps of task {task.name} must begin with "
            f"{' or '.join(starts)} and end in {' or '.join(ends)}"
        )
    wanted = set(made[-1].inputs if isinstance(made[-1], TokenizeOptions) else (made[-1].input,))
    names = {spec.name for spec in manifest.inputs}
    if names != wanted:
        raise IncompatibleError(
            f"{where}: the step {manifest.preprocess[-1].step} makes {', '.join(sorted(wanted))}, "
            f"the model takes {', '.join(sorted(names))}"
        )
    return takes, tuple(made)


def _after(
    manifest: Declares, task: Task, takes: str, where: str
) -> tuple[tuple[Any, ...], Any, Stream | None]:
    """The steps that work on numbers, the one that makes the result of them, and how to stream."""
    ends = {name for name in ENDS.values() if name}
    names = [step.step for step in manifest.postprocess]
    made = []
    for step in manifest.postprocess:
        if step.step not in POSTPROCESS:
            raise _unknown(POSTPROCESS, "postprocess", step, where)
        made.append(_make(POSTPROCESS[step.step], step, where))
    stream: Stream | None = None
    if STREAM in names:
        if (task.answers, takes) != ("labels", "audio") or names.index(STREAM) != len(names) - 1:
            raise IncompatibleError(
                f"{where}: the step {STREAM} stands last, in a task that gives labels to sounds"
            )
        stream = made.pop()
        names.pop()
    wanted = ENDS[task.answers]
    found = [name for name in names if name in ends]
    if found != ([wanted] if wanted else []) or (wanted and names[-1] != wanted):
        ending = f"end in one step {wanted}" if wanted else f"have no step {' or '.join(found)}"
        raise IncompatibleError(f"{where}: the postprocess steps of {task.name} must {ending}")
    if task.answers == "boxes":
        _check_outputs(manifest, made[-1].options.outputs, where)
        if len(made) > 1:
            raise IncompatibleError(f"{where}: the step boxes stands alone")
    return (tuple(made[:-1]), made[-1], stream) if wanted else (tuple(made), None, stream)


def _check_outputs(manifest: Declares, wanted: Sequence[str], where: str) -> None:
    names = [spec.name for spec in manifest.outputs]
    for name in wanted:
        if name not in names:
            raise IncompatibleError(
                f"{where}: the step boxes reads output {name}, the model has {', '.join(names)}"
            )


def _unknown(table: Mapping[str, object], kind: str, step: Step, where: str) -> IncompatibleError:
    return IncompatibleError(
        f"{where}: {kind} step {step.step!r} is not known to this software; "
        f"known are {', '.join(table)}"
    )


def unknown_options(step: Step) -> list[str]:
    """Options of a known step that nothing reads, sorted."""
    path = PREPROCESS[step.step].path if step.step in PREPROCESS else POSTPROCESS[step.step]
    module, _, attribute = path.partition(":")
    options = Fields(step.options, f"step {step.step}", IncompatibleError)
    getattr(importlib.import_module(f"{PACKAGE}.{module}"), attribute).parse(options)
    return options.unknown()


def _make(path: str, step: Step, where: str) -> Any:
    """`step` made from its options, by what its table names."""
    module, _, attribute = path.partition(":")
    options = Fields(step.options, f"{where}: step {step.step}", IncompatibleError)
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), attribute).parse(options)
