"""Every error that the project raises on purpose, cut by who must act.

Wrong input from outside gets one of these, with a sentence that names the object, what was
expected and what was found; never a secret. Misuse of our own functions gets RuntimeError.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of every error raised on purpose."""


class InputError(EdgeError):
    """What the caller handed in is wrong: a recipe, a configuration, a request. They mend it."""


class UntrustedError(EdgeError):
    """The bundle or message is not to be believed. Never retry."""


class MetadataError(EdgeError):
    """The repository's signed metadata is stale, mixed or forged. Ask another source, or later."""


class IncompatibleError(EdgeError):
    """Genuine, but not for this device. Tell the fleet."""


class TransferError(EdgeError):
    """The network failed. Retry with backoff."""


class DeviceError(EdgeError):
    """Disk, memory or accelerator. Needs a human or a reboot."""


def exit_code(error: EdgeError) -> int:
    """Exit code of a command that ends with `error`: 3 for untrusted, else 1 (2 is for usage)."""
    return 3 if isinstance(error, UntrustedError | MetadataError) else 1
