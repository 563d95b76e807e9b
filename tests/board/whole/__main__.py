"""A whole emulated ARM64 board, from flashing to a signed update through a power cut.

    python -m tests.board.whole [--flavour bookworm|trixie] [--model minilm|tiny] [--write]
                                [--package DEB] [--seed 1] [--json] [--mirror URL]

The first run makes the base image as root, which takes some minutes and the network; it is cached
under `$EDGE_CACHE/board` or `build/board`. The serial log is kept beside it. Exit code 0: all that
must be true was; 1: something was not, or the board cannot be made; 2: usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from edge_runtime.errors import EdgeError
from tests.board import host, image
from tests.board.whole import base, bundles, page
from tests.board.whole.run import Options, run

PAGE = image.ROOT / "docs" / "board.md"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.board.whole", description=(__doc__ or "").splitlines()[0]
    )
    made.add_argument(
        "--flavour",
        choices=list(base.FLAVOURS),
        default="bookworm",
        help="which Raspberry Pi OS the image is like (default: bookworm)",
    )
    made.add_argument(
        "--model",
        choices=list(bundles.MODELS),
        default="minilm",
        help="what is served (default: minilm, a real pretrained model)",
    )
    made.add_argument("--package", type=Path, metavar="DEB", help="the agent's (default: in dist/)")
    made.add_argument("--seed", type=int, default=1, help="of what a cut loses (default: 1)")
    made.add_argument("--json", action="store_true", help="the outcome as JSON on stdout")
    made.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    made.add_argument(
        "--mirror", default=image.MIRROR, metavar="URL", help=f"Debian (default: {image.MIRROR})"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code."""
    options = parser().parse_args(argv)
    talk = Console(stderr=True)
    begin_s = time.monotonic()

    def say(what: str) -> None:
        talk.print(f"{time.monotonic() - begin_s:7.1f} s  {what}", markup=False, soft_wrap=True)

    if missing := host.missing(images=True):
        talk.print(f"not installed: {', '.join(missing)}", markup=False)
        return 1
    logs = image.cache_folder() / "logs" / options.flavour
    asked = Options(
        options.flavour, options.model, logs, options.mirror, options.package, options.seed
    )
    try:
        outcome = run(asked, say)
    except EdgeError as error:
        talk.print(f"board: {error}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        talk.print(f"serial logs: {logs}", markup=False)
    if options.json:
        print(json.dumps(dataclasses.asdict(outcome), indent=1))
    else:
        print(page.LABEL)
        for what, seconds in outcome.seconds.items():
            print(f"{seconds:9.1f} s  {what}")
        for sentence in page.sentences(outcome):
            print(f"  {sentence}")
    say(f"{len(outcome.broken)} broken")
    if options.write:
        page.write(PAGE, outcome)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
