"""What a device profile means, in words for somebody who sees the board for the first time.

`explain` turns a profile into sections of labelled sentences; `show_profile` puts them on a
terminal and `profile_page` on the page of the documentation. Nothing here is measured or looked up
elsewhere: every sentence follows from a field of the profile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from converters.quantize.scheme import FLOAT, SMOOTH, Scheme, parse_scheme
from converters.tensorflow.ways import SCHEMES as TENSORFLOW
from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.profile import CPU, Demands, DeviceProfile, Engine
from edge_runtime.text import size

ACCELERATORS: Mapping[str, str] = {
    CPU: "the processor",
    "cuda": "an NVIDIA GPU, through CUDA",
    "tensorrt": "an NVIDIA GPU, through TensorRT in INT8",
    "tensorrt-fp16": "an NVIDIA GPU, through TensorRT in FP16",
    "openvino-cpu": "an Intel processor, through OpenVINO",
    "openvino-gpu": "an Intel GPU, through OpenVINO",
    "openvino-npu": "an Intel NPU, through OpenVINO",
    "hexagon": "Qualcomm's Hexagon NPU",
    "ethos-u65": "Arm's Ethos-U65 NPU",
    "edgetpu": "Google's Edge TPU",
    "vx": "VeriSilicon's NPU, through the VX delegate",
    "nnapi": "what the Android device's own drivers reach, through NNAPI",
    "coreml": "Apple's Neural Engine, GPU and CPU, through CoreML",
    "rknpu": "Rockchip's NPU",
    "dpu": "AMD's DPU in the FPGA, through Vitis AI",
    "hailo8l": "the Hailo-8L on the PCIe bus",
}
"""What computes, by the name that a profile and a variant's placement give it."""
COMPILERS: Mapping[str, str] = {
    "qnn": "Qualcomm's compiler, which also emulates the chip",
    "vela": "Arm's compiler Vela",
    "edgetpu": "Google's compiler where it is installed, else its published rules",
    "vx": "the list of operators that the delegate publishes",
    "nnapi": "ONNX Runtime's usability checker",
    "coreml": "ONNX Runtime's usability checker",
    "rknn": "Rockchip's toolkit, which also simulates the chip",
    "openvino": "OpenVINO itself, where it runs on this host",
    "tensorrt": "published rules; the engine is built on the board",
    "dpu": "published rules",
    "hailo": "published rules; its compiler needs an account",
}
"""What tells on the host where operators will run, by the name that a profile gives it."""
CPU_FEATURES: Mapping[str, str] = {
    "asimddp": "INT8 dot products",
    "i8mm": "INT8 matrix products",
    "avx_vnni": "INT8 dot products",
    "avx512_vnni": "INT8 dot products",
}
"""Those that make INT8 fast, by their names in /proc/cpuinfo."""

WAYS = (
    "Best way first. What is missing on the board or fails the self-test is passed over for the "
    "next one."
)


@dataclass(frozen=True, slots=True)
class Point:
    """One thing to know. `names` is a long list that goes with it, which a terminal cuts short."""

    label: str
    text: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Points under a heading, perhaps with a sentence before them."""

    title: str
    points: tuple[Point, ...]
    intro: str = ""


def explain(profile: DeviceProfile) -> tuple[Section, ...]:
    """Everything that the profile says, in the order in which a newcomer asks."""
    return (
        Section("the board", tuple(_board(profile))),
        Section("how it runs a model", (), WAYS),
        *(
            Section(f"{rank}. {engine.id}", tuple(_engine(engine)))
            for rank, engine in enumerate(profile.engines, 1)
        ),
        Section("what a model may spend", tuple(_budget(profile))),
        Section("what the agent watches", tuple(_probes(profile))),
        Section(
            "where each value comes from",
            tuple(Point(key, source) for key, source in profile.sources.items()),
        ),
    )


def runs_on(profile: DeviceProfile) -> str:
    """Ways to run a model, best first: accelerators by name, the CPU by its engines."""
    return ", ".join(
        engine.backend if engine.accelerator == CPU else engine.accelerator
        for engine in profile.engines
    )


def _board(profile: DeviceProfile) -> Iterator[Point]:
    yield Point("architecture", profile.arch)
    yield Point("memory", _bytes(profile.ram_bytes))
    yield Point("storage", _bytes(profile.storage_bytes))
    yield Point("CPU features", _features(profile.cpu_features))
    yield Point("Python", ", ".join(profile.python))
    lengths = _listed(profile.sequence_lengths)
    yield Point("text lengths", f"{lengths} tokens, where an engine's shapes are fixed")
    written = "none that `edge-fleet flash` writes to" if profile.image == "none" else profile.image
    yield Point("system image", written)


def _features(features: Sequence[str]) -> str:
    fast = [f"{CPU_FEATURES[name]} ({name})" for name in features if name in CPU_FEATURES]
    about = f"INT8 is fast: {', '.join(fast)}" if fast else "no INT8 dot products"
    return f"{', '.join(features) or 'none are counted on'}; {about}"


def _engine(engine: Engine) -> Iterator[Point]:
    yield Point("computes on", ACCELERATORS.get(engine.accelerator, engine.accelerator))
    yield Point("numbers", f"{engine.quantization}: {scheme_words(engine.quantization)}")
    if engine.convolutions and engine.convolutions != engine.quantization:
        words = scheme_words(engine.convolutions)
        yield Point("with convolutions", f"{engine.convolutions}: {words}")
    cores = f", on cores {_listed(engine.affinity)}" if engine.affinity else ""
    yield Point("threads", f"{engine.threads}{cores}")
    if engine.runtime:
        yield Point("package", engine.runtime)
    if engine.providers:
        yield Point("providers", ", ".join(engine.providers))
    if engine.options:
        yield Point("options", _options(engine.options))
    if engine.build_s:
        yield Point("first load", f"builds, within {engine.build_s:g} s; what it built is kept")
    if engine.compiler or engine.coverage:
        yield Point("proof on the host", _proof(engine))
    for rule, names in demands_words(engine.demands):
        yield Point("demands", rule, names)


def _proof(engine: Engine) -> str:
    """Who says where operators run, and how many must run on the accelerator."""
    if not engine.compiler:
        who = "nothing tells where operators will run"
    else:
        target = f" for {_options(engine.target)}" if engine.target else ""
        words = COMPILERS.get(engine.compiler, "a tool of that name")
        who = f"{engine.compiler}{target}: {words}"
    if not engine.coverage:
        return who
    return (
        f"{who}. At least {engine.coverage * 100:g} % of the operators must run on "
        f"{engine.accelerator}, or the conversion fails"
    )


def demands_words(demands: Demands) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each demand and what it means for the model; with a list of operators where it is of some."""
    if demands.static_shapes:
        yield (
            "fixed shapes: no dimension may be left open, so the file is for one row of one size, "
            "and shorter inputs are padded",
            (),
        )
    if demands.integer:
        yield (
            "integers only: an operator in float falls off the accelerator, so activations are "
            "quantized too, with ranges from calibration data",
            (),
        )
    if demands.symmetric:
        yield (
            "symmetric: zero points are 0, so values that are never negative use half of the range",
            (),
        )
    if demands.per_tensor:
        yield (
            "one scale a tensor: coarser than one a channel, so layers with uneven channels lose "
            "accuracy",
            (),
        )
    if demands.power_of_two:
        yield "scales are powers of two: each is rounded to one, which costs up to a bit", ()
    if demands.max_opset:
        yield f"ONNX opset {demands.max_opset} at most: the file is written in no newer one", ()
    if demands.max_weights_bytes:
        yield (
            f"room for {size(demands.max_weights_bytes)} of weights on the chip: a larger model is "
            "fetched in part for every inference",
            (),
        )
    if demands.keep_float:
        yield "kept in float, for accuracy", demands.keep_float
    if demands.operators:
        yield (
            f"{len(demands.operators)} kinds of operators only; others run on the CPU",
            (demands.operators),
        )


def scheme_words(name: str) -> str:
    """A quantization scheme, decoded; what is no scheme is told as such."""
    if name in TENSORFLOW:
        way = TENSORFLOW[name]
        ends = ", inputs and outputs too" if way.integer_io else ""
        return f"TensorFlow's converter: weights {way.weights}, activations {way.activations}{ends}"
    try:
        words = _decoded(parse_scheme(name))
    except InputError:
        return "not a scheme that is known"
    return words + ("; large activations are smoothed first" if name.startswith(SMOOTH) else "")


def _decoded(scheme: Scheme) -> str:
    if scheme.name == FLOAT:
        return "nothing is quantized"
    kinds = {"w": "integers", "c": "an index into a codebook", "f": "half floats"}
    share = {
        "channel": "one scale a channel",
        "tensor": "one scale a tensor",
        "block": f"one scale for {scheme.block} inputs",
    }[scheme.share]
    weights = f"weights are {kinds[scheme.kind]} of {scheme.bits} bits"
    if scheme.kind != "f":
        weights += f", {share}"
    activations = {
        "dynamic": "activations are measured and quantized while it runs",
        "static": f"activations are integers of {scheme.width} bits, ranges from calibration data",
        "weight": "activations stay float",
    }[scheme.activations]
    return f"{weights}; {activations}"


def _budget(profile: DeviceProfile) -> Iterator[Point]:
    budget = profile.budget
    latency = f"95 % of requests within {budget.latency_ms:g} ms" if budget.latency_ms else ""
    ram = f"{size(budget.ram_bytes)} for the process that serves" if budget.ram_bytes else ""
    yield Point("latency", latency or "no bound")
    yield Point("memory", ram or "no bound")


def _probes(profile: DeviceProfile) -> Iterator[Point]:
    probes = profile.probes
    yield Point("heat", ", ".join(probes.thermal) or "every thermal zone there is")
    yield Point("power", "none known" if not probes.power else "", probes.power)
    yield Point("throttling", "none known" if not probes.throttling else "", probes.throttling)


def _bytes(count: int) -> str:
    return f"{size(count)} ({count:,} bytes)"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _options(options: Mapping[str, Json]) -> str:
    """`key = value` of each, tables of theirs in braces."""
    return ", ".join(f"{key} = {_option(value)}" for key, value in options.items())


def _option(value: Json) -> str:
    if isinstance(value, Mapping):
        return "{" + _options(value) + "}"
    return value if isinstance(value, str) else json.dumps(value)
