"""Links of the documentation: every file and every heading that a page names is there, on GitHub
and in the site; and every page is in the site's navigation.

Addresses of other people's pages are not asked: a test needs no network. What MkDocs makes of the
pages, `make docs` checks.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "device_profiles" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "changelog.d").glob("*.md"),
    ]
)

FENCED = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1[`~]*\s*$|\Z)", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
LINK = re.compile(r"\]\(\s*<?([^()\s<>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*(\S+)", re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def prose(path: Path) -> str:
    """The page without blocks of code and comments."""
    return COMMENT.sub("", FENCED.sub("", path.read_text(encoding="utf-8")))


def links(path: Path) -> Iterator[str]:
    text = INLINE.sub("", prose(path))
    for found in (LINK, REFERENCE):
        yield from (match[1] for match in found.finditer(text))


def slug(heading: str) -> str:
    """GitHub's rule, which the site follows: no marks, small letters, a hyphen for each space."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """Those that lead to the same place on GitHub and in the site.

    A heading's second occurrence is `name-1` there and `name_1` here, so that it has none.
    """
    return frozenset(slug(match[1]) for match in HEADING.finditer(prose(path)))


def broken(path: Path) -> Iterator[str]:
    """What is wrong with the links of a page, a sentence each."""
    for link in links(path):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            if not re.match(r"(https?://[^/]+\.|mailto:)", link):
                yield f"{link}: expected https://, http:// or mailto:"
            continue
        way, _, anchor = link.partition("#")
        target = (path.parent / unquote(way)).resolve() if way else path
        if way.startswith("/"):
            yield f"{link}: begins at the root, which is another on GitHub and in the site"
        elif not target.is_relative_to(ROOT) or not target.exists():
            yield f"{link}: there is no {way}"
        elif target.is_dir() and not (target / "README.md").is_file():
            yield f"{link}: a folder without a README.md is no page of the site"
        elif anchor:
            page = target / "README.md" if target.is_dir() else target
            if page.suffix == ".md" and unquote(anchor) not in anchors(page):
                yield f"{link}: {named(page)} has no heading #{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert list(broken(path)) == []


def test_a_wrong_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "b.md").write_text("# The file's *name*: `a_b`, 2\n```sh\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# A\n[1](b.md#the-files-name-a_b-2) [2](#a) [3](https://example.org/x) `[code](gone.md)`\n"
        "[4](gone.md) [5](b.md#no-heading) [6](#b) [7](/b.md) [8](../b.md) [9]\n\n[9]: gone.toml\n"
    )
    found = [sentence.partition(":")[0] for sentence in broken(page)]
    assert found == ["gone.md", "b.md#no-heading", "#b", "/b.md", "../b.md", "gone.toml"]


def navigation() -> list[str]:
    """The pages of the navigation in mkdocs.yml, which needs no YAML to be read."""
    _, _, nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")
    return re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", nav, re.MULTILINE)


def brought_in() -> dict[str, str]:
    """The pages outside docs/ that the site has, from the hook's table; MkDocs is not needed."""
    text = (ROOT / "packaging" / "docs" / "pages.py").read_text(encoding="utf-8")
    table = re.search(r"^PAGES = \{.*?^\}$", text, re.DOTALL | re.MULTILINE)
    assert table, "packaging/docs/pages.py has no table PAGES"
    names: dict[str, dict[str, str]] = {}
    exec(table[0], names)
    return names["PAGES"]


def test_every_page_is_in_the_navigation_once() -> None:
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(navigation()) == sorted([*pages, *brought_in().values()])


def test_every_page_outside_docs_is_brought_in() -> None:
    outside = {named(path) for path in PAGES if path.parts[len(ROOT.parts)] != "docs"}
    fragments = {name for name in outside if name.startswith("changelog.d/")}
    assert set(brought_in()) == outside - fragments
