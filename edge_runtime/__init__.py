"""edge-runtime: small models on small boards, proved where they run.

`load` is all that a program needs. The rest is behind three commands: `edge-convert`,
`edge-agent`, `edge-fleet`. Importing this package imports no engine and no numpy.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.inference.model import Model

__all__ = ["load"]


def load(
    path: str | PathLike[str], *, variant: str | None = None, profile: str | None = None
) -> Model:
    """Load a bundle; `model("text")` answers a text, `model(["a", "b"])` a list of them.

    Digests are verified, signatures not yet. `variant` picks one by its id, otherwise the first
    runs whose engine is installed; `profile` names a device profile for threads and options.

    Raises:
        InputError: no such file, variant or profile.
        UntrustedError: a file that is not what the manifest says.
        IncompatibleError: nothing in it runs here; says why for each variant.
    """
    from edge_runtime.inference.model import load_model

    return load_model(path, variant=variant, profile=profile)
