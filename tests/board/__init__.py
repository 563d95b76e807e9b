"""Power cuts of a whole board: an emulated ARM64 machine, killed in the middle of updates.

`python -m tests.board.powercut --cuts 20` does it, with what it needs made first. Neither root nor
a network namespace is needed; mmdebstrap, qemu-system-aarch64, e2fsprogs and mosquitto are.
"""
