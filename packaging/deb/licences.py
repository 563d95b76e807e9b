"""Who owns what in a package, under which licence: the copyright file (DEP-5) and the notices."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from suites import PackagingError
from wheels import Wheel, licences, metadata, tops

# Wheels whose metadata has no SPDX expression, by what their repository says.
SPDX = {
    "ai-edge-litert": "Apache-2.0",
    "numpy": "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    "onnxruntime": "MIT",
    "safetensors": "Apache-2.0",
    "tokenizers": "Apache-2.0",
    "tomli": "MIT",
    "typing-extensions": "PSF-2.0",
}

# A text longer than this goes into a file of its own beside the copyright file.
MAX_INLINE = 12_500
MAX_HOLDERS = 12
HOLDER = re.compile(
    r"^\W{0,4}copyright:?\s+((?:\(c\)|©|\d{4}).*)$|^\W{0,4}(?:\(c\)|©)\s*(\d{4}.*)$", re.I | re.M
)

HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: edge-runtime
Comment:
 What is below usr/lib/edge-agent beside edge_runtime and device_profiles comes unchanged, but not
 whole, from the wheels on the Python Package Index that sbom.spdx.json names with their digests.

Files: *
Copyright: the edge-runtime authors
License: Apache-2.0
"""
APACHE = """\
License: Apache-2.0
 On Debian systems the text of the Apache License, Version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
"""


def spdx(wheel: Wheel) -> str:
    """The wheel's licence as an SPDX expression.

    Raises:
        PackagingError: it says none, and the table does not either.
    """
    said = metadata(wheel).licence
    if re.fullmatch(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*", said):
        return said
    if wheel.name in SPDX:
        return SPDX[wheel.name]
    raise PackagingError(
        f"{wheel.name}: its licence {said!r} is no SPDX expression; look it up "
        "and add it to licences.py"
    )


def holders(wheel: Wheel) -> list[str]:
    """The lines of its licences that name who owns it."""
    found = []
    for _, text in licences(wheel):
        for line in (one or other for one, other in HOLDER.findall(text)):
            plain = " ".join(line.strip(" \t*#-/").split())
            if plain and plain not in found and len(plain) < 200:
                found.append(plain)
    return found[:MAX_HOLDERS] or [f"the {metadata(wheel).name} authors"]


def copyright_file(wheels: Sequence[Wheel]) -> str:
    """The whole file, in the machine-readable format."""
    paragraphs, texts = [HEAD], [APACHE]
    for wheel in wheels:
        expression = spdx(wheel)
        name = expression if expression == "Apache-2.0" else f"{expression} ({wheel.name})"
        name = _short(name)
        files = "\n ".join(map(_pattern, tops(wheel)))
        owners = "\n ".join(holders(wheel))
        said = metadata(wheel)
        paragraphs.append(
            f"Files: {files}\nCopyright: {owners}\nLicense: {name}\n"
            f"Comment: {said.name} {said.version}, {said.homepage}\n"
        )
        if name != "Apache-2.0":
            texts.append(f"License: {name}\n{_quoted(_text(wheel))}\n")
    return "\n".join([*paragraphs, *texts])


def notices(wheels: Sequence[Wheel]) -> dict[str, str]:
    """Notices that are too long for the copyright file, by name of the file they go to."""
    return {
        f"{wheel.name}-{name}": text
        for wheel in wheels
        for name, text in licences(wheel)
        if len(text) > MAX_INLINE
    }


def _short(expression: str) -> str:
    """DEP-5 knows `and`, `or` and names without blanks; the wheel's own name keeps texts apart."""
    name = re.search(r" \((.+)\)$", expression)
    words = expression.removesuffix(name[0]) if name else expression
    joined = words.replace(" AND ", "_and_").replace(" OR ", "_or_")
    return f"{joined}~{name[1]}" if name else joined


def _pattern(place: str) -> str:
    return f"usr/lib/edge-agent/{place}" + ("" if place.endswith((".py", ".so")) else "/*")


def _text(wheel: Wheel) -> str:
    parts = []
    for name, text in licences(wheel):
        if len(text) > MAX_INLINE:
            parts.append(f"See {wheel.name}-{name}.gz beside this file.")
        elif "Version 2.0, January 2004" in text:
            parts.append("Apache-2.0: see /usr/share/common-licenses/Apache-2.0.")
        else:
            parts.append(text)
    return "\n\n".join(parts) or "See the project's page."


def _quoted(text: str) -> str:
    """As a field's continuation lines: one blank before each, a dot for an empty one."""
    plain = "".join(c if c.isprintable() or c == "\n" else " " for c in text.expandtabs(4))
    lines = (line.rstrip() for line in plain.strip("\n").split("\n"))
    return textwrap.indent("\n".join(line or "." for line in lines), " ")
