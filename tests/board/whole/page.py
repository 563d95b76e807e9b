"""The result for people: docs/board.md, and the same in short for a terminal."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.board.whole import bundles
from tests.board.whole.story import Outcome

LABEL = "emulated (TCG on x86-64); no board was measured"
SYSTEMS = {
    "bookworm": "Debian 12, as Raspberry Pi OS bookworm",
    "trixie": "Debian 13 with cloud-init, as Raspberry Pi OS trixie",
    "jetson": "Debian 12 in a Jetson's layout: GPT, no FAT partition",
}
BEGIN, END = "<!-- {0}: begin -->", "<!-- {0}: end -->"
HEAD = f"""\
# A whole ARM64 board, emulated

`make board` makes an image like Raspberry Pi OS Lite, puts agent, identity and a first signed
bundle into it with `edge-fleet flash`, and boots it: a whole ARM64 machine in QEMU, with systemd, a
real mosquitto on the host, and every instruction translated. Then it updates the board, cuts its
power in the middle, and looks at the card. All figures here are **{LABEL}**: they show that
everything happens by itself, in this order, and is not broken; they say nothing of a board's speed.

What is not here: a Raspberry Pi's firmware, kernel, SD card and Wi-Fi. The image is made of
Debian's packages, with stand-ins for what Raspberry Pi OS adds to the first boot; the kernel is
Debian's and comes from outside the image; the card is a file whose cache forgets what was not
flushed.
"""


def text(outcome: Outcome) -> str:
    """The section of one flavour, markers included."""
    rows = [f"| {what} | {seconds:,.1f} |" for what, seconds in outcome.seconds.items()]
    lines = [
        BEGIN.format(outcome.flavour),
        f"## {SYSTEMS[outcome.flavour]}",
        "",
        _wrapped(f"The model: {bundles.MODELS[outcome.model]}. Seconds, {LABEL}:"),
        "",
        "| what | s |",
        "|---|---:|",
        *rows,
        "",
        *map(_point, sentences(outcome)),
        END.format(outcome.flavour),
    ]
    return "\n".join(lines) + "\n"


def sentences(outcome: Outcome) -> list[str]:
    """What no table of seconds says."""
    found = [
        f"The variant {one.variant}: {one.metric} to the float reference, the lowest of "
        f"{one.cases} golden vectors, {one.board:.5f} on the board and {one.host:.5f} on x86-64 "
        f"(at least {one.floor} is needed); the two differ by at most {one.gap:.2g} of the "
        "largest output."
        for one in outcome.agreements
    ]
    found += [f"Power cut in {cut}." for cut in outcome.cuts]
    found += [f"{what}: {value}." for what, value in outcome.facts.items()]
    return [*found, *(f"Broken: {fault}." for fault in outcome.broken)]


def write(path: Path, outcome: Outcome) -> None:
    """Put the flavour's section where its markers are, or at the end."""
    page = path.read_text() if path.exists() else HEAD
    begin, end = BEGIN.format(outcome.flavour), END.format(outcome.flavour)
    before, found, rest = page.partition(begin)
    after = rest.partition(end + "\n")[2] if found else ""
    path.write_text(f"{before.rstrip()}\n\n{text(outcome)}{after}")


def _point(sentence: str) -> str:
    return _wrapped(f"- {sentence[:1].upper()}{sentence[1:]}", "  ")


def _wrapped(words: str, indent: str = "") -> str:
    return textwrap.fill(
        words, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
