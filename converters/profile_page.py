"""The page of the documentation about device profiles, made from the files that are shipped.

    python -m converters.profile_page --write docs/profiles.md

Without `--write` the page goes to stdout. A test holds the page in the repository to this.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from converters.profile_words import Point, Section, explain, runs_on
from edge_runtime.profile import DeviceProfile, load_profile, profile_names
from edge_runtime.text import size

COMMAND = "python -m converters.profile_page --write docs/profiles.md"
INTRO = f"""\
# Device profiles

<!-- Made by `{COMMAND}` from device_profiles/*.toml: edit those. -->

A profile says what a board is, which ways it has to run a model, what its accelerator demands of
the file, and what a model may spend there. `edge-convert run --profile NAME` converts for one;
`edge-convert profiles NAME` explains one on the terminal, also a file of your own:
[how to add a board](../device_profiles/README.md#adding-a-board).

Ways to run a model are in order of preference. An accelerator that is missing, fails its self-test
or gives wrong numbers is passed over for the next one; the last ones are always engines on the
CPU, so that a device serves in any case. *Proof on the host* is who says before shipping where
operators will run: a vendor's own compiler, or published rules. On the board the self-test measures
it again.

This page is made by `{COMMAND}`.
"""


def page(profiles: Sequence[DeviceProfile]) -> str:
    """The whole page, Markdown."""
    lines = [INTRO, *_overview(profiles)]
    for profile in profiles:
        lines += ["", f"## {profile.name}", "", f"{_escaped(profile.title)}.", *_profile(profile)]
    return "\n".join(lines) + "\n"


def _overview(profiles: Sequence[DeviceProfile]) -> Iterator[str]:
    yield "| profile | arch | RAM | runs on, the best first | proof on the host | image |"
    yield "|---|---|---|---|---|---|"
    for profile in profiles:
        proofs = dict.fromkeys(e.compiler for e in profile.engines if e.compiler)
        image = "" if profile.image == "none" else profile.image
        yield (
            f"| [{profile.name}](#{profile.name}) | {profile.arch} | {size(profile.ram_bytes)} | "
            f"{runs_on(profile)} | {', '.join(proofs)} | {image} |"
        )


def _profile(profile: DeviceProfile) -> Iterator[str]:
    for section in explain(profile):
        if section.points:
            yield from ("", f"### {section.title[0].upper()}{section.title[1:]}", "")
            yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    demands = [point for point in section.points if point.label == "demands"]
    yield from (f"- {point.label}: {_text(point)}" for point in section.points
                if point not in demands)  # fmt: skip
    if demands:
        yield "- demands:"
        yield from (f"  - {_text(point)}" for point in demands)


def _text(point: Point) -> str:
    names = ", ".join(f"`{name}`" for name in point.names)
    return ": ".join(part for part in (_escaped(point.text), names) if part)


def _escaped(text: str) -> str:
    """Without what Markdown would take for markup; what stands in backticks stays."""
    return re.sub(r"(`[^`]*`)|([<>*|])", lambda found: found[1] or f"\\{found[2]}", text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description="Make the page about device profiles.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it there")
    arguments = parser.parse_args(argv)
    text = page([load_profile(name) for name in profile_names()])
    if arguments.write is None:
        sys.stdout.write(text)
    else:
        arguments.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
