"""The papers of a package: changelog, man page, and how to read on. Plain text, compressed."""

from __future__ import annotations

import argparse
import gzip
import time
from email.utils import formatdate
from pathlib import PurePosixPath

from archive import File

MAINTAINER = "edge-runtime authors <edge-runtime@users.noreply.github.com>"

FOLDER = PurePosixPath("usr/share/doc/edge-agent")


def gzipped(text: str) -> bytes:
    """Compressed, without a name and a time in it."""
    return gzip.compress(text.encode(), 9, mtime=0)


def changelog(version: str, suite: str, epoch: int) -> str:
    """One entry: what changed is told by the project's own changelog."""
    return (
        f"edge-agent ({version}) {suite}; urgency=medium\n\n"
        f"  * Release {version.partition('+')[0]}. What changed: CHANGELOG.md of edge-runtime.\n\n"
        f" -- {MAINTAINER}  {formatdate(epoch, usegmt=False)}\n"
    )


def man_page(parser: argparse.ArgumentParser, version: str, epoch: int) -> str:
    """edge-agent(1), from the parser's own words."""
    day = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    verbs = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    lines = [
        f'.TH EDGE-AGENT 1 "{day}" "edge-agent {version}" "User Commands"',
        ".SH NAME",
        "edge-agent \\- run a model on a small Linux device and keep it healthy",
        ".SH SYNOPSIS",
        ".B edge-agent",
        ".I VERB",
        "[\\fIOPTION\\fR...]",
        *(".SH DESCRIPTION", _roff(parser.description or "")),
        ".SH VERBS",
    ]
    for choice in verbs._choices_actions:
        if choice.help and choice.help != argparse.SUPPRESS:
            lines += [".TP", f".B {_roff(choice.dest)}", _roff(choice.help)]
    lines += [
        ".PP",
        "Each verb has its own help with examples:",
        "\\fBedge-agent\\fR \\fIVERB\\fR \\fB\\-\\-help\\fR.",
    ]
    if parser.epilog:
        lines += [".SH EXAMPLES AND NOTES", ".nf", _roff(parser.epilog.strip("\n")), ".fi"]
    lines += [
        ".SH FILES",
        *(".TP", ".I /etc/edge-agent/", "Identity and configuration; root's alone."),
        *(".TP", ".I /var/lib/edge-agent/", "State: bundles, journal, spool."),
        *(".TP", ".I /usr/local/lib/edge-agent/", "Python packages of yours: a vendor's engine."),
        ".SH EXIT STATUS",
        "0 done, 1 failed, 2 usage, 3 not to be trusted.",
    ]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        "\\&" + line if line[:1] in (".", "'") else line for line in escaped.split("\n")
    )


def readme() -> str:
    """What to do after the installation."""
    return (
        "edge-agent: the device's half of edge-runtime\n\n"
        "A board that is not enrolled yet has a quiet service. Enrol it, start it and check it:\n\n"
        "    sudo edge-agent setup FOLDER          (made by `edge-fleet enroll`)\n"
        "    sudo edge-agent setup --token TOKEN   (made by `edge-fleet token`)\n\n"
        "A vendor's own engine (onnxruntime-gpu, rknn-toolkit-lite2) goes to a folder of yours,\n"
        "which is looked at before the package's:\n\n"
        "    sudo pip install --target /usr/local/lib/edge-agent --no-deps PACKAGE\n"
    )


def document_files(texts: dict[str, str], mtime: int) -> list[File]:
    """Files below /usr/share/doc/edge-agent: a name that ends in .gz is compressed."""
    return [
        File(FOLDER / name, gzipped(text) if name.endswith(".gz") else text.encode(), mtime)
        for name, text in sorted(texts.items())
    ]
