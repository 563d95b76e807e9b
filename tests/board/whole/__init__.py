"""A whole ARM64 board: an image like Raspberry Pi OS, flashed by `edge-fleet flash`, booted with
its own systemd under full emulation; it serves, is updated, and its power is cut.

`python -m tests.board.whole` does it. No Raspberry Pi is measured: its firmware, its SD card and
its kernel are not here; Debian's kernel for ARM64 and QEMU's `virt` machine are.
"""
