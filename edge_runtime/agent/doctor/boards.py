"""Which shipped profile fits a board best: by its device tree, or else by its architecture."""

from __future__ import annotations

from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.profile import profile_names

BOARDS: tuple[tuple[str, str], ...] = (
    ("raspberrypi,5-model-b", "raspberry-pi-5"),
    ("raspberrypi,5-compute-module", "raspberry-pi-5"),
    ("raspberrypi,500", "raspberry-pi-5"),
    ("raspberrypi,4-model-b", "raspberry-pi-4"),
    ("raspberrypi,4-compute-module", "raspberry-pi-4"),
    ("raspberrypi,400", "raspberry-pi-4"),
    ("raspberrypi,model-zero-2-w", "raspberry-pi-zero-2w"),
    ("google,imx8mq-phanbell", "coral-dev-board"),
    ("nvidia,p3450", "jetson-nano"),
    ("nvidia,jetson-nano", "jetson-nano"),
    ("nvidia,p3767-0003", "jetson-orin-nano"),
    ("nvidia,p3767-0004", "jetson-orin-nano"),
    ("nvidia,p3767-0005", "jetson-orin-nano"),
    ("nvidia,p3701", "jetson-agx-orin"),
    ("fsl,imx8mp", "imx8mp"),
    ("fsl,imx93", "imx93"),
    ("rockchip,rk3588", "rk3588"),
    ("qcom,qcs6490", "qcs6490"),
    ("qcom,qcm6490", "qcs6490"),
    ("xlnx,zynqmp-sk-kv260", "kria-kv260"),
)
"""Beginnings of names in /proc/device-tree/compatible, and the profile of such a board.

Source: Linux, arch/arm64/boot/dts (broadcom, freescale, nvidia, qcom, rockchip, xilinx); NVIDIA
Jetson Linux developer guide, "Jetson module adaptation and bring-up" (p3767 are Orin Nano and NX).
"""
WITH_DEVICE: tuple[tuple[str, str, str], ...] = (
    ("raspberry-pi-5", "dev/hailo0", "raspberry-pi-5-hailo8l"),
    ("generic-x86_64", "dev/accel/accel0", "openvino-x86_64"),
)
"""Boards that are another one once a device is plugged in or built in."""


def suggested(scene: Scene) -> tuple[str, str] | None:
    """The name of a shipped profile and why it fits; None where none is for this architecture."""
    known = profile_names()
    name, why = _by_tree(scene, known) or (f"generic-{scene.architecture}", "by its architecture")
    for board, device, other in WITH_DEVICE:
        if name == board and other in known and (scene.root / device).exists():
            name, why = other, f"{why} and its /{device}"
    return (name, why) if name in known else None


def _by_tree(scene: Scene, known: list[str]) -> tuple[str, str] | None:
    for found in scene.compatible:
        for beginning, name in BOARDS:
            if found.startswith(beginning) and name in known:
                return name, f"by its device tree, {found}"
    return None
