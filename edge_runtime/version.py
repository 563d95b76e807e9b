"""Which release this is, asked only when somebody wants to know: the answer is read from disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def release() -> str | None:
    """As 0.1.0; None in a checkout that nothing installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edge-runtime")
    except PackageNotFoundError:
        return None


class VersionAction(argparse.Action):
    """`--version`. Argparse's own wants to know before anybody asks, which costs every start."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{parser.prog} {release() or 'unknown'}")  # noqa: T201 - a command's result
        parser.exit()
