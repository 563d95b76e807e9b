"""One way a board runs models: engine, accelerator, options, and what the accelerator demands.

Data only. What a demand means for a file is the converter's matter; which options an engine takes
is the engine's. LiteRT's are so few that a slip in them is told here already, before a device is
asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_runtime.bundle.manifest import NAME
from edge_runtime.fields import Fields, Json

CPU = "cpu"
"""The accelerator of an engine that names none."""
LITERT = "litert"
LITERT_OPTIONS = ("delegate", "delegate_options")
"""All that LiteRT takes: a shared library, and a table that is handed to it."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What an accelerator takes; the defaults demand nothing.

    `integer`: no float operator may be left. `symmetric`: zero points are 0. `per_tensor`: one
    scale for a tensor of weights, not one a channel. `power_of_two`: every scale is one.
    `max_opset` 0 is any. `operators` are those that it runs, all where empty; `keep_float` those
    that stay float for the sake of accuracy, or because they are no integers there. Names of
    operators are those of the engine's format: ONNX's (MatMul) or TFLite's (FULLY_CONNECTED).
    `max_weights_bytes` is room for weights on the chip, 0 where they may lie outside.
    """

    static_shapes: bool = False
    integer: bool = False
    symmetric: bool = False
    per_tensor: bool = False
    power_of_two: bool = False
    max_opset: int = 0
    operators: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    max_weights_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """One way this board runs models. Engines stand in order of preference.

    `backend` is a key of the backend table, `quantization` the recipe that is legal and best
    here, `convolutions` the same for models that have some, "" where there is no difference;
    `options` go to the engine as they are (session options, delegate options).
    """

    backend: str
    quantization: str
    providers: tuple[str, ...]
    threads: int
    options: Mapping[str, Json]
    convolutions: str = ""
    runtime: str = ""
    """Which of several packages runs the engine on the board; "" for any."""
    accelerator: str = CPU
    """What computes, as variants name it in their placement; with `backend` it is unique."""
    affinity: tuple[int, ...] = ()
    """Cores that inference may use; any where empty."""
    compiler: str = ""
    """Which of the converter's tools says where nodes run; "" for none."""
    target: Mapping[str, Json] = field(default_factory=dict)
    """Which chip the tool compiles for, in the tool's own words."""
    coverage: float = 0.0
    """Least share of operators that must run on the accelerator, 0..1."""
    demands: Demands = Demands()
    build_s: float = 0.0
    """What building a program of a file may take at its first load on the board, once."""

    def scheme(self, *, convolutional: bool) -> str:
        """The quantization for a model that has convolutions, or has none."""
        return (convolutional and self.convolutions) or self.quantization

    @property
    def id(self) -> str:
        """Both names, as `onnxruntime on hexagon`; the engine's alone on the CPU."""
        return named(self.backend, self.accelerator)


def named(backend: str, accelerator: str) -> str:
    """An engine in words."""
    return backend if accelerator == CPU else f"{backend} on {accelerator}"


def parse_engine(f: Fields) -> Engine:
    """Read the table of one engine; faults go to `f`."""
    demands = f.object("demands", {})
    engine = Engine(
        backend=f.text("backend", pattern=NAME),
        quantization=f.text("quantization"),
        providers=f.texts("providers", (), max_items=16),
        threads=f.integer("threads", 1, low=1, high=256),
        options=f.mapping("options", {}),
        convolutions=f.text("convolutions", ""),
        runtime=f.text("runtime", ""),
        accelerator=f.text("accelerator", CPU, pattern=NAME),
        affinity=_cores(f),
        compiler=f.text("compiler", pattern=NAME) if f.present("compiler") else "",
        target=f.mapping("target", {}),
        coverage=f.number("coverage", 0.0, low=0, high=1),
        build_s=f.number("build_s", 0.0, low=0, high=3600),
        demands=Demands(
            static_shapes=demands.boolean("static_shapes", False),
            integer=demands.boolean("integer", False),
            symmetric=demands.boolean("symmetric", False),
            per_tensor=demands.boolean("per_tensor", False),
            power_of_two=demands.boolean("power_of_two", False),
            max_opset=demands.integer("max_opset", 0, high=1000),
            operators=demands.texts("operators", (), max_items=512),
            keep_float=demands.texts("keep_float", (), max_items=512),
            max_weights_bytes=demands.integer("max_weights_bytes", 0),
        ),
    )
    refuse_unknown(demands)
    refuse_unknown(f)
    if engine.backend == LITERT:
        _check_litert(f, engine)
    return engine


def _check_litert(f: Fields, engine: Engine) -> None:
    """LiteRT has delegates and no providers; what else stands there would do nothing."""
    if engine.providers:
        f.fault(
            f"{f.where}: providers are ONNX Runtime's; litert takes options = "
            '{ delegate = "lib….so" }'
        )
    for key in engine.options:
        if key not in LITERT_OPTIONS:
            f.fault(
                f"{f.where}.options: {key} is not an option of litert; known are "
                f"{', '.join(LITERT_OPTIONS)}"
            )
    delegate, given = (engine.options.get(key) for key in LITERT_OPTIONS)
    if "delegate" in engine.options and not (isinstance(delegate, str) and delegate):
        f.fault(f"{f.where}.options: delegate must be the name or path of a shared library")
    if "delegate_options" in engine.options and not isinstance(given, Mapping):
        f.fault(f"{f.where}.options: delegate_options must be a table")


def refuse_unknown(f: Fields) -> None:
    """A key that no field reads is a fault."""
    for key in f.unknown():
        f.fault(f"{f.where}: {key} is not a field of a profile")


def _cores(f: Fields) -> tuple[int, ...]:
    cores = f.items("affinity", (), max_items=256)
    if not all(type(core) is int and 0 <= core < 1024 for core in cores):
        f.fault(f"{f.where}: affinity must be numbers of cores, 0..1023")
        return ()
    return tuple(cores)
