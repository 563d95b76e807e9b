"""A function in a file of whoever converts, run on the host; nothing of it goes into a bundle."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_runtime.errors import InputError


def load_function(
    path: Path,
    function: str,
    where: str,
    *,
    module: str,
    said: Callable[[BaseException], object] = str,
) -> Callable[..., Any]:
    """The function called `function` of the file at `path`, imported as `module`.

    `where` begins the sentence of an error; `said` words what the file's own code raised.

    Raises:
        InputError: there is no such file or function, or it cannot be imported.
    """
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{where}: there is no file {path}")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded  # dataclasses look for their module there
    try:
        spec.loader.exec_module(loaded)
    except (Exception, SystemExit) as reason:  # a stranger's code raises what it likes
        raise InputError(f"{where}: {path} cannot be imported ({said(reason)})") from None
    found = getattr(loaded, function, None)
    if not callable(found):
        raise InputError(f"{where}: {path} has no function {function!r}")
    return found  # type: ignore[no-any-return]
