"""The table of tools that say where a model's operators run, by `compiler` of a profile's engine.

One that has requirements lives in an environment of its own, which `edge-convert setup-target`
makes (see `environments`); the others are rules and checkers that run in this process. A tool is
the module of the same name in `tools`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from converters.placement.result import COMPILED, MEASURED, RULES, UNKNOWN
from edge_runtime.errors import InputError

ONNX, TFLITE = ".onnx", ".tflite"


@dataclass(frozen=True, slots=True)
class Target:
    """A tool. `proves` says what its answer is worth, `evidence` the same as a label.

    `steps` are arguments of pip, one call each, every version pinned: what a tool drags in decides
    what it answers as much as its own version. `pythons` are those for which it has wheels, the
    preferred first. `disk_mb` is about what the environment takes. `environment` are variables of
    its process. Where the board loads what the tool compiled instead of the model's file: `custom`
    is the operator that such a file holds, or `made` the ending of one in a format of its own.
    """

    title: str
    proves: str
    formats: tuple[str, ...]
    evidence: str
    steps: tuple[tuple[str, ...], ...] = ()
    pythons: tuple[str, ...] = ()
    disk_mb: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    custom: str = ""
    made: str = ""

    @property
    def ships(self) -> bool:
        """Whether the board loads what the tool compiled."""
        return bool(self.custom or self.made)

    @property
    def own_process(self) -> bool:
        """Whether it needs an environment, and so a process, of its own."""
        return bool(self.steps)


TARGETS: Mapping[str, Target] = {
    "vela": Target(
        "Arm Ethos-U (i.MX 93 and others)",
        "Arm's compiler takes the file: which operators it compiles for the NPU and why not the "
        "others, memory, its estimate of the time",
        (TFLITE,),
        COMPILED,
        steps=(("ethos-u-vela==5.2.0", "flatbuffers==25.12.19"),),
        pythons=("3.11", "3.12", "3.13", "3.10"),
        disk_mb=108,
        custom="ethos-u",
    ),
    "qnn": Target(
        "Qualcomm Hexagon through QNN",
        "Qualcomm's compiler makes a context binary of the file with the CPU forbidden, and its "
        "emulator answers the golden vectors",
        (ONNX,),
        COMPILED,
        # The last two are for the device's own code, which runs there as on such a board.
        steps=(
            (
                "onnxruntime-qnn==2.7.0",
                "onnxruntime==1.32.0",
                "onnx==1.18.0",
                "safetensors==0.8.0",
                "tokenizers==0.23.3",
            ),
        ),
        pythons=("3.11", "3.12", "3.13"),
        disk_mb=587,
    ),
    "openvino": Target(
        "OpenVINO on Intel CPUs, GPUs and NPUs",
        "the execution provider really runs the file, on this machine's devices",
        (ONNX,),
        MEASURED,
        # The last two are for the device's own code, which runs there as on such a board.
        steps=(
            (
                "onnxruntime-openvino==1.24.1",
                "onnx==1.18.0",
                "safetensors==0.8.0",
                "tokenizers==0.23.3",
            ),
        ),
        pythons=("3.11", "3.12", "3.13"),
        disk_mb=480,
    ),
    "rknn": Target(
        "Rockchip RKNPU (RK3588 and others)",
        "Rockchip's toolkit builds the file, in INT8 or in half floats, and its simulator answers "
        "the golden vectors",
        (ONNX,),
        COMPILED,
        # The toolkit wants torch <= 2.4, whose wheel for x86-64 brings 4 GB of CUDA; it needs torch
        # only to import, and builds and simulates as well with the host's own, which comes first
        # and alone, as everywhere here. Hence no dependencies of its own choice either.
        steps=(
            ("torch==2.13.0",),
            (
                "--no-deps", "rknn-toolkit2==2.5.0", "numpy==1.26.4", "onnx==1.18.0",
                "onnxruntime==1.26.0", "protobuf==4.25.4", "scipy==1.17.1", "psutil==7.2.2",
                "ruamel.yaml==0.19.1", "tqdm==4.70.1", "opencv-python-headless==4.11.0.86",
                "fast-histogram==0.14", "flatbuffers==25.12.19", "packaging==26.4",
                "setuptools==80.9.0",
            ),
        ),
        pythons=("3.11", "3.12"),
        disk_mb=1500,
        made=".rknn",
    ),
    "edgetpu": Target(
        "Google Edge TPU",
        "the vendor's compiler takes the file, where edgetpu_compiler is on PATH; else its "
        "documented rules",
        (TFLITE,),
        RULES,
        custom="edgetpu-custom-op",
    ),
    "vx": Target(
        "VeriSilicon NPU through the VX delegate (i.MX 8M Plus)",
        "the delegate's own list of operators and what it refuses of them",
        (TFLITE,),
        RULES,
    ),
    "nnapi": Target(
        "Android NNAPI",
        "ONNX Runtime's checker for mobile devices: operators, shapes, partitions",
        (ONNX,),
        RULES,
    ),
    "coreml": Target(
        "Apple Core ML",
        "ONNX Runtime's checker for mobile devices: operators, shapes, partitions",
        (ONNX,),
        RULES,
    ),
    "tensorrt": Target(
        "NVIDIA TensorRT",
        "the documented rules for operators and for explicit quantization; the engine is built on "
        "the device",
        (ONNX,),
        RULES,
    ),
    "dpu": Target(
        "AMD Vitis AI DPU",
        "the documented rules for operators and scales",
        (ONNX,),
        RULES,
    ),
    "hailo": Target(
        "Hailo-8L",
        "nothing: the vendor's compiler, which alone could tell, needs an account",
        (ONNX,),
        UNKNOWN,
    ),
}  # fmt: skip


def target(name: str) -> Target:
    """The tool called `name`.

    Raises:
        InputError: there is none; says which there are.
    """
    if name not in TARGETS:
        raise InputError(f"target {name}: not known; there are {', '.join(TARGETS)}")
    return TARGETS[name]
