"""What the documentation site does beyond docs/: a hook of MkDocs, see mkdocs.yml.

Pages read the same on GitHub and in the site, so they link as GitHub wants it: also to files
outside docs/. Those are brought into the site: PAGES as pages of the navigation, any other file
that a page links to as a page with its text under source/. A link that leads nowhere is left for
MkDocs to warn of, and `--strict` makes that an error.

The one diagram is drawn by GitHub with a script that the site would have to load from elsewhere;
here it becomes a table.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

# Files outside docs/, and where they stand in the site.
PAGES = {
    "README.md": "tour.md",
    "CHANGELOG.md": "changelog.md",
    "device_profiles/README.md": "writing-a-profile.md",
    **{
        f"examples/{name}/README.md": f"examples/{name}.md"
        for name in ("anomaly", "debian-sections", "glyphs", "keywords")
    },
}
ASSETS = {
    "iframe-worker.js": "assets/javascripts/iframe-worker.js",
    "site.css": "assets/stylesheets/site.css",
}
KINDS = ("added", "changed", "fixed", "removed", "security")  # of changelog.d

LINK = re.compile(r"(?<!!)(\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^()\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$|`+[^`]+`+", re.DOTALL | re.MULTILINE)
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EDGE = re.compile(r"^\s*(\w+) --> (\w+): (.+)$", re.MULTILINE)

_sources = {page: source for source, page in PAGES.items()}  # the site's page → the file


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring the pages outside docs/ in, and the files that any page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_text(source)))
    for name, place in ASSETS.items():
        files.append(File.generated(config, place, abs_src_path=str(HERE / name)))
    for file in list(files.documentation_pages()):
        for target in _targets(file.content_string, _source(file.src_uri)):
            place = _place(target)
            if place.startswith("source/") and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, content=_listing(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where their files are in the site."""
    here = page.file.src_uri
    source = _source(here)

    def moved(match: re.Match[str]) -> str:
        text, link = match.groups()
        target, anchor = _target(link, source)
        if target is None:
            return match[0]
        place = _place(target)
        way = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{text}({way}{'' if place.startswith('source/') else anchor})"

    markdown = MERMAID.sub(lambda match: _table(match[1]), markdown)
    return "".join(
        piece if is_code else LINK.sub(moved, piece) for piece, is_code in _pieces(markdown)
    )


def _text(source: str) -> str:
    """A file's text; the changelog with what is not released yet."""
    text = (ROOT / source).read_text(encoding="utf-8")
    if source != "CHANGELOG.md":
        return text
    lines = ["## Not released yet", ""]
    for kind in KINDS:
        fragments = sorted((ROOT / "changelog.d").glob(f"*.{kind}.md"))
        if fragments:
            lines += [f"### {kind.capitalize()}", ""]
            for path in fragments:
                lines.append("- " + " ".join(path.read_text(encoding="utf-8").split()))
            lines.append("")
    head, mark, rest = text.partition("\n## ")
    return head + "\n" + "\n".join(lines) + mark + rest


def _pieces(markdown: str) -> Iterator[tuple[str, bool]]:
    """The text in order, code apart from the rest."""
    end = 0
    for match in CODE.finditer(markdown):
        yield markdown[end : match.start()], False
        yield match[0], True
        end = match.end()
    yield markdown[end:], False


def _source(page: str) -> str:
    """The file that a page of the site is made from, relative to the repository's root."""
    return _sources.get(page) or f"docs/{page}"


def _target(link: str, source: str) -> tuple[str | None, str]:
    """The file that a link in `source` names and its anchor; None where nothing need be done."""
    way, mark, anchor = link.partition("#")
    if not way or "://" in way or way.startswith(("mailto:", "/")):
        return None, ""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), way))
    path = ROOT / target
    if path.is_dir():
        target, path = f"{target}/README.md", path / "README.md"
    if target.startswith("../") or not path.is_file():
        return None, ""  # MkDocs warns of it
    return target, mark + anchor


def _targets(markdown: str, source: str) -> Iterator[str]:
    for piece, is_code in _pieces(markdown):
        if not is_code:
            for match in LINK.finditer(piece):
                target, _ = _target(match[2], source)
                if target is not None:
                    yield target


def _place(target: str) -> str:
    """Where a file of the repository is in the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return PAGES.get(target) or f"source/{target}.md"


def _listing(target: str) -> str:
    """A page that shows a file."""
    text = (ROOT / target).read_text(encoding="utf-8")
    language = {".py": "python", ".toml": "toml", ".json": "json", ".sh": "bash"}.get(
        Path(target).suffix, "text"
    )
    return f"# {target}\n\n````` {language}\n{text.rstrip()}\n`````\n"


def _table(diagram: str) -> str:
    """A state diagram as a table: a row for each state, with where it goes and on which events."""
    ways: dict[str, list[str]] = {}
    for left, to, events in EDGE.findall(diagram):
        ways.setdefault(left, []).append(f"{to}: {events}")
    rows = ["| in | goes to, on |", "|---|---|"]
    rows += [f"| {state} | {'<br>'.join(found)} |" for state, found in ways.items()]
    return "\n".join(rows)
