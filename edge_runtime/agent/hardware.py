"""Accelerators as Linux shows them: device nodes, modules of the kernel, versions.

The table is what is known of drivers today; a board with another driver adds a row. The doctor
looks each one up, and a change of any of them makes a worker prove its variants again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hardware:
    """How an accelerator shows on Linux.

    `nodes` are patterns under /dev, one of which is enough; `usb` are vendor and product of one
    that is plugged in; `drivers` are modules whose version matters to the runtime above;
    `versions` are files that tell it where a module does not. Nodes in /dev/dri and /dev/accel are
    numbered as they come, whatever is behind them: it is one of ours if its driver is in `kernel`.
    """

    title: str
    nodes: tuple[str, ...]
    drivers: tuple[str, ...]
    source: str
    usb: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()


_NVIDIA = Hardware(
    "NVIDIA GPU",
    ("nvidia0", "nvhost-gpu", "nvgpu/igpu0/ctrl"),
    ("nvidia", "nvgpu"),
    "NVIDIA Linux driver README, ch. 'nvidia-modprobe'; Jetson Linux developer guide",
    versions=("proc/driver/nvidia/version", "etc/nv_tegra_release"),
)
HARDWARE: Mapping[str, Hardware] = {
    "cuda": _NVIDIA,
    "tensorrt": _NVIDIA,
    "tensorrt-fp16": _NVIDIA,
    "openvino-gpu": Hardware(
        "Intel GPU",
        ("dri/renderD*",),
        ("i915", "xe"),
        "https://docs.openvino.ai, 'Configurations for Intel GPU'",
        kernel=("i915", "xe"),
    ),
    "openvino-npu": Hardware(
        "Intel NPU",
        ("accel/accel*",),
        ("intel_vpu",),
        "Linux, drivers/accel/ivpu; https://github.com/intel/linux-npu-driver",
        kernel=("intel_vpu",),
    ),
    "hexagon": Hardware(
        "Qualcomm Hexagon DSP",
        ("fastrpc-cdsp*", "adsprpc-smd*"),
        ("fastrpc",),
        "Linux, drivers/misc/fastrpc.c; Qualcomm's kernels, drivers/char/adsprpc.c",
    ),
    "ethos-u65": Hardware(
        "Arm Ethos-U65",
        ("ethosu*",),
        ("ethosu",),
        "Arm ethos-u-linux-driver-stack, kernel/drivers/staging/ethosu",
    ),
    "edgetpu": Hardware(
        "Edge TPU",
        ("apex_*",),
        ("apex", "gasket"),
        "https://coral.ai/docs/m2/get-started; https://github.com/google/gasket-driver",
        usb=("1a6e:089a", "18d1:9302"),
    ),
    "vx": Hardware(
        "VeriSilicon NPU",
        ("galcore",),
        ("galcore",),
        "NXP i.MX Machine Learning User's Guide, 'Hardware accelerators'",
    ),
    "rknpu": Hardware(
        "Rockchip NPU",
        ("rknpu", "dri/renderD*", "accel/accel*"),
        ("rknpu", "rocket"),
        "https://github.com/airockchip/rknn-toolkit2, rknpu2; Linux, drivers/accel/rocket",
        versions=("sys/kernel/debug/rknpu/version",),
        kernel=("RKNPU", "rocket"),
    ),
    "dpu": Hardware(
        "Vitis AI DPU",
        ("dpu", "dri/renderD*"),
        ("zocl", "xlnx_dpu"),
        "AMD UG1414, 'Vitis AI runtime'; https://github.com/Xilinx/XRT, zocl",
        kernel=("zocl-drm", "zocl"),
    ),
    "hailo8l": Hardware(
        "Hailo-8L",
        ("hailo0",),
        ("hailo_pci", "hailo1x_pci"),
        "https://github.com/hailo-ai/hailort-drivers",
    ),
}
"""By the name of the accelerator as engines and variants have it. Others are no device on Linux."""
