"""The report: a page that loads nothing, escapes everything, and says what was measured where."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from converters.model import Evidence
from converters.pipeline import Conversion
from converters.report import as_json, plots, summary, write_reports
from converters.report.page import html_page
from converters.report.plots import Series
from edge_runtime.errors import DeviceError
from edge_runtime.profile import Budget

HOSTILE = "<script>alert(1)</script>$\\frac{&\"'"
VOID = {"br", "meta", "use"}
SERIES = [Series("a", "onnxruntime", True), Series("b", "litert", False), Series("c", "npu", True)]


class Page(HTMLParser):
    """Every tag's attributes, ids and text; a tag that is closed by another is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[str(value)] += 1
            if name in ("href", "src", "xlink:href"):
                self.links.append(str(value))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def changed(conversion: Conversion, change: Callable[[Evidence], Evidence]) -> Conversion:
    """The conversion with each candidate's evidence changed."""
    verdict = conversion.model.verdict
    assert verdict is not None
    candidates = tuple(change(one) for one in verdict.candidates)
    model = replace(conversion.model, verdict=replace(verdict, candidates=candidates))
    return replace(conversion, model=model)


def test_the_page_is_whole_and_loads_nothing(converted: Conversion, continued: Conversion) -> None:
    text = html_page([converted, continued])
    page = Page(text)
    assert page.tags["svg"] == 8
    assert page.tags["script"] == page.tags["img"] == page.tags["link"] == 0
    assert {link[0] for link in page.links} == {"#"}
    assert "url(http" not in text
    assert "@import" not in text
    assert max(page.ids.values()) == 1, "an id stands once"
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_the_page_tells_what_a_person_asks(converted: Conversion) -> None:
    words = re.sub(r"\s+", " ", Page(html_page([converted])).words)
    verdict = converted.model.verdict
    assert verdict is not None
    for part in (
        "small 1.0.0",
        "A board of these tests",
        f"measured on {verdict.host}, not on the board",
        "Memory: unknown",
        "Nothing: every variant stayed within the bounds",
        "n = 30",
        "Class by class",
        "fonts",
        "encoder and head on 240 rows, 3 epochs",
        converted.recipe.sha256,
        "Apache-2.0",
        "torch 2.",
    ):
        assert part in words


def test_the_same_conversion_gives_the_same_page(converted: Conversion) -> None:
    assert html_page([converted]) == html_page([converted])


def test_what_was_refused_is_told_with_its_reason(converted: Conversion) -> None:
    refused = changed(
        converted,
        lambda one: (
            replace(one, refused="cosine 0.07, expected more") if "litert" in one.id else one
        ),
    )
    words = Page(html_page([refused])).words
    assert "cosine 0.07, expected more" in words
    assert "Nothing: every variant" not in words
    assert "refused litert-cpu-dynamic-w8-channel: cosine 0.07" in summary(refused)


def test_every_word_from_outside_is_escaped(converted: Conversion) -> None:
    hostile = changed(
        converted,
        lambda one: replace(
            one,
            refused=HOSTILE,
            classes=tuple(replace(found, label=HOSTILE + found.label) for found in one.classes),
        ),
    )
    source = replace(hostile.text.source, name=HOSTILE, licence=HOSTILE)
    hostile = replace(
        hostile,
        model=replace(hostile.text, source=source),
        profile=replace(hostile.profile, name=HOSTILE, title=HOSTILE),
        recipe=replace(hostile.recipe, name=HOSTILE, path=Path(HOSTILE)),
    )
    page = Page(html_page([hostile, hostile]))
    assert page.tags["script"] == 0
    assert HOSTILE in page.words


def test_quick_mode_is_said_at_the_top(converted: Conversion) -> None:
    assert "Quick mode" not in html_page([converted])
    assert "Quick mode" in html_page([replace(converted, quick=True)])


def test_thousands_of_classes_do_not_make_a_wall(converted: Conversion) -> None:
    many = changed(
        converted,
        lambda one: replace(
            one, classes=tuple(replace(one.classes[0], label=f"c{n}") for n in range(500))
        ),
    )
    page = Page(html_page([many]))
    assert page.tags["tr"] < 80
    assert "The 60 classes of 500 that agree least" in page.words


@pytest.mark.parametrize("draw", [
    lambda name: plots.size_bars(name, [(one, 1.0, HOSTILE) for one in SERIES]),
    lambda name: plots.latency_lines(name, [(one, {16: 1.0, 64: 2.0}) for one in SERIES]),
    lambda name: plots.latency_lines(name, [(SERIES[0], {16: 1.0})]),
    lambda name: plots.quality_intervals(
        name, "accuracy", [(one, 0.7, (0.6, 0.8)) for one in SERIES], 0.69
    ),
    lambda name: plots.quality_intervals(name, "cosine", [(SERIES[0], 1.0, (1.0, 1.0))], 0.99),
    lambda name: plots.training_curve(name, [(4, 1.0, 0.5)]),
    lambda name: plots.training_curve(name, [(n, 1.0, 0.5) for n in range(50)]),
])  # fmt: skip
def test_a_figure_is_sound_themed_and_repeatable(draw: Callable[[str], str]) -> None:
    svg = draw("one")
    ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
    assert svg == draw("one")
    assert "#0" not in re.sub(r'(href="|url\()#', "", svg), "no colour is fixed"
    ids = [set(re.findall(r'\bid="([^"]+)"', draw(name))) for name in ("one", "two")]
    assert ids[0] & ids[1] == set()


def test_a_label_is_text_never_mathematics() -> None:
    svg = plots.size_bars("name", [(Series(HOSTILE, "npu", True), 1.0, HOSTILE)])
    assert "<script" not in svg
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$\\frac{&amp;" in svg


def test_both_files_are_written(converted: Conversion, tmp_path: Path) -> None:
    page = write_reports([converted], tmp_path)
    assert page == tmp_path / "report.html"
    told = json.loads((tmp_path / "report.json").read_text())
    assert told == as_json([converted])
    (only,) = told["conversions"]
    assert (only["profile"], only["passes"]["verify"]["rows"]) == ("board", 100)


def test_a_file_in_the_way_is_one_sentence(converted: Conversion, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DeviceError, match=r"report\.html: cannot be written"):
        write_reports([converted], tmp_path)


def test_the_summary_puts_float_and_int8_side_by_side(converted: Conversion) -> None:
    text = summary(converted)
    assert "float accuracy" in text
    assert re.search(r"ort-cpu-smooth-dynamic-w8-channel: first\n +\S+ MB 0\.2\dx ", text)
    assert re.search(r"ort-cpu-float32: to compare, n = 30\n +\S+ MB 1\.00x .* 1\.00x ", text)
    assert "ms @ 16" in text
    assert "not on the board" in text


def test_the_summary_fits_a_terminal(converted: Conversion) -> None:
    slow = {16: 1234.5, 64: 2345.6, 128: 3456.7, 256: 4567.8}
    long = changed(converted, lambda one: replace(one, latency_ms=slow))
    for conversion in (converted, long):
        table = summary(conversion).splitlines()[1:-3]
        assert max(map(len, table)) <= 80
    assert "ms @ 16 " in summary(long)
    assert "ms @ 256 " in summary(long)


def budgeted(conversion: Conversion, arch: str, p95_ms: float) -> str:
    """The summary where the board allows 250 ms and every packed variant took `p95_ms`."""
    profile = replace(conversion.profile, arch=arch, budget=Budget(250.0, 0))
    package = dict(conversion.passes["package"])
    measured = package["latency_p95_ms"]
    assert isinstance(measured, Mapping)
    package["latency_p95_ms"] = dict.fromkeys(measured, p95_ms)
    passes = {**conversion.passes, "package": package}
    return summary(replace(conversion, profile=profile, passes=passes))


def test_the_summary_says_that_a_device_like_this_host_would_refuse(
    converted: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    told = budgeted(converted, "x86_64", 312.04)
    assert (
        "p95 of ort-cpu-smooth-dynamic-w8-channel 312.0 ms, litert-cpu-dynamic-w8-channel 312.0 ms"
        ": over the profile's budget of 250 ms; a device like this host would refuse it" in told
    )
    assert "budget" not in budgeted(converted, "x86_64", 249.9)
    assert "budget" not in budgeted(converted, "aarch64", 312.0), "another CPU: no evidence"
