"""Profiles as a newcomer reads them: on a terminal, in a pipe, as JSON, and on the page."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from converters.checks import check_profile, doubts
from converters.cli import main
from converters.model import SUFFIXES
from converters.placement.build import exported_as
from converters.placement.targets import TARGETS
from converters.profile_page import main as make_page
from converters.profile_words import ACCELERATORS, COMPILERS, demands_words, explain, scheme_words
from converters.quantize.scheme import known_scheme
from converters.show_profile import profile_text, profiles_table
from edge_runtime.profile import Demands, DeviceProfile, load_profile, profile_names
from tests.fakes.operators import ESCAPES, clean

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "profiles.md").read_text()
README = (ROOT / "device_profiles" / "README.md").read_text()
SCHEMA = json.loads((ROOT / "device_profiles" / "schema.json").read_text())
NAMES = profile_names()
FORGED = f"{ESCAPES}\n  quality   accuracy 1.0000"


def unfolded(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_can_be_converted_for(name: str) -> None:
    profile = load_profile(name)
    check_profile(profile)
    for engine in profile.engines:
        assert known_scheme(engine.backend, engine.quantization)
        assert engine.accelerator in ACCELERATORS
        if engine.compiler:
            assert SUFFIXES[exported_as(engine.backend)] in TARGETS[engine.compiler].formats


def test_every_tool_that_places_is_in_words() -> None:
    assert set(COMPILERS) == set(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_an_explained_profile_has_every_value_and_its_source(name: str) -> None:
    profile = load_profile(name)
    lines = profile_text(profile).splitlines()
    shown = unfolded("\n".join(lines))
    for engine in profile.engines:
        assert engine.id in shown
        assert scheme_words(engine.quantization) in shown
        assert f"{engine.coverage * 100:g} % of the operators" in shown or not engine.coverage
        for rule, _ in demands_words(engine.demands):
            assert rule in shown
    for path in (*profile.probes.thermal, *profile.probes.power, *profile.probes.throttling):
        assert path in shown
    for key, source in profile.sources.items():
        assert f"{key} {unfolded(source)}" in shown
    # Only an address or a path is longer than a line.
    assert all(len(line) <= 80 or " " not in line[21:].strip() for line in lines)


def test_every_demand_is_told_and_none_where_there_is_none() -> None:
    assert list(demands_words(Demands())) == []
    all_of_them = Demands(True, True, True, True, True, 17, ("Conv",), ("Softmax",), 8_000_000)
    assert len(list(demands_words(all_of_them))) == len(dataclasses.fields(Demands))


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        ("float", "nothing is quantized"),
        ("static_w8a16_channel", "activations are integers of 16 bits, ranges from calibration"),
        ("static_w8a8_tensor", "weights are integers of 8 bits, one scale a tensor"),
        ("smooth_dynamic_w8_channel", "quantized while it runs; large activations are smoothed"),
        ("weight_w4_block32", "of 4 bits, one scale for 32 inputs; activations stay float"),
        ("weight_f16", "weights are half floats of 16 bits; activations stay float"),
        ("tensorflow_w8a8_integer", "activations int8, inputs and outputs too"),
        ("int3", "not a scheme that is known"),
    ],
)
def test_a_scheme_is_decoded(scheme: str, says: str) -> None:
    assert says in scheme_words(scheme)


def test_a_profile_from_a_stranger_is_harmless() -> None:
    profile = load_profile("qcs6490")
    engine = dataclasses.replace(
        profile.engines[0], quantization=FORGED, compiler=FORGED, options={FORGED: {FORGED: FORGED}}
    )
    forged = dataclasses.replace(
        profile, title=FORGED, engines=(engine,), sources={"arch": FORGED, FORGED: "x"}
    )
    assert clean(profile_text(forged))
    stream = io.StringIO()
    Console(file=stream, width=100).print(
        profiles_table([dataclasses.replace(forged, arch=FORGED)])
    )
    assert clean(stream.getvalue())


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_names_every_board_and_what_it_computes_on(width: int) -> None:
    stream = io.StringIO()
    profiles = [load_profile(name) for name in NAMES]
    Console(file=stream, width=width, force_terminal=True).print(profiles_table(profiles))
    shown = stream.getvalue()
    for profile in profiles:
        assert profile.name in shown
        assert all(engine.accelerator in shown for engine in profile.engines[:-2])


def test_a_pipe_gets_one_line_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["profile", "arch", "RAM"]
    assert [row.split()[0] for row in rows] == NAMES
    assert "hexagon, litert, onnxruntime" in next(row for row in rows if "qcs6490" in row)


def test_a_file_of_ones_own_is_explained_and_given_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    text = (ROOT / "device_profiles" / "imx93.toml").read_text()
    path.write_text(text.replace('"imx93"', '"mine"').replace("coverage = 0.9", "coverage = 0.5"))
    assert main(["profiles", str(path)]) == 0
    assert "At least 50 % of the operators must" in unfolded(capsys.readouterr().out)
    assert main(["profiles", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["engines"][0]["demands"]["integer"] is True
    path.write_text(text.replace("integer = true", "integre = true"))
    assert main(["profiles", str(path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "engine[0].demands: integre is not a field of a profile" in said.err
    path.write_text(text.replace('compiler = "vela"', 'compiler = "velo"'))
    assert main(["profiles", str(path)]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "compiler 'velo' of litert on ethos-u65 is not known; known are vela" in said.err


def test_a_board_s_memory_is_told_as_people_say_it() -> None:
    assert "2.1 GB (2,147,483,648 bytes)" in profile_text(load_profile("generic-x86_64"))


def test_the_page_is_what_the_files_say(tmp_path: Path) -> None:
    assert make_page(["--write", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == PAGE, (
        "run python -m converters.profile_page --write docs/profiles.md"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_every_operator_that_an_accelerator_runs(name: str) -> None:
    _, _, rest = PAGE.partition(f"\n## {name}\n")
    part = rest.partition("\n## ")[0]
    for engine in load_profile(name).engines:
        assert all(f"`{operator}`" in part for operator in engine.demands.operators)


def documented(where: str, schema: dict[str, object]) -> list[str]:
    properties = schema.get("properties")
    assert isinstance(properties, dict)
    return [f"{where}{key}" for key in properties]


def test_the_readme_describes_every_field() -> None:
    fields = SCHEMA["properties"]
    engine = fields["engine"]["items"]
    names = [
        *(key for key in fields if key not in ("engine", "budget", "probes", "sources")),
        *documented("engine.", engine),
        *documented("engine.demands.", engine["properties"]["demands"]),
        *documented("budget.", fields["budget"]),
        *documented("probes.", fields["probes"]),
    ]
    tables = ["engine.demands"]  # told by its fields
    assert [n for n in names if f"| `{n}` |" not in README and n not in tables] == []
    assert [name for name in NAMES if f"`{name}`" not in README] == []


def test_what_is_explained_follows_from_the_fields() -> None:
    base = load_profile("generic-aarch64")
    fast = dataclasses.replace(base, cpu_features=("asimd", "asimddp"), image="jetson")

    def said(profile: DeviceProfile) -> str:
        return " ".join(point.text for point in explain(profile)[0].points)

    assert "no INT8 dot products" in said(base)
    assert "INT8 is fast: INT8 dot products (asimddp)" in said(fast)
    assert said(fast).endswith("jetson")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "imx93"', 'name = "imx94"', "its name is 'imx94', expected that of the file, "
         "'imx93'"),
        ('compiler = "vela"', 'compiler = "qnn"', "compiler 'qnn' of litert on ethos-u65 takes "
         ".onnx files, the engine's are .tflite files"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["profiles", "run", "place"])
def test_a_slip_that_only_the_converter_can_see_is_refused(
    verb: str, old: str, new: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "imx93.toml"
    text = (ROOT / "device_profiles" / "imx93.toml").read_text()
    path.write_text(text.replace(old, new, 1))
    command = {
        "profiles": ["profiles", str(path)],
        "run": ["run", "a.toml", "--profile", str(path), "--out", str(tmp_path / "out")],
        "place": ["place", "a.tflite", "--profile", str(path)],
    }[verb]
    assert main(command) == 1
    assert says in capsys.readouterr().err


def test_a_provider_that_nobody_knows_is_doubted_with_the_near_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "qcs6490.toml"
    text = (ROOT / "device_profiles" / "qcs6490.toml").read_text()
    path.write_text(text.replace('["QNNExecutionProvider"', '["QNNExecutionProvder"'))
    assert main(["profiles", str(path)]) == 0
    assert (
        "profile qcs6490: provider 'QNNExecutionProvder' of onnxruntime on hexagon is not known; "
        "did you mean QNNExecutionProvider?"
    ) in capsys.readouterr().err
    assert [name for name in NAMES if doubts(load_profile(name))] == []
