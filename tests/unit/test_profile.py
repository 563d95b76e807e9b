"""Device profiles: what a file may say, which variants fit, and where every value comes from."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle.manifest import Needs, Variant
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.profile import (
    CPU,
    MAX_PROFILE_BYTES,
    Budget,
    Demands,
    DeviceProfile,
    Engine,
    Probes,
    load_profile,
    load_toml,
    profile_names,
)
from tests.fakes.bundles import manifest
from tests.fakes.jsonschema import faults

FOLDER = Path(__file__).parents[2] / "device_profiles"
SCHEMA = json.loads((FOLDER / "schema.json").read_text())
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.toml"))

PIECES = {
    "name": 'name = "board"',
    "title": 'title = "A board"',
    "arch": 'arch = "aarch64"',
    "ram_bytes": "ram_bytes = 1_000",
    "storage_bytes": "storage_bytes = 2_000",
    "python": 'python = ["3.11"]',
    "engine": '[[engine]]\nbackend = "litert"\nquantization = "dynamic_w8_channel"',
    "sources": "[sources]\n"
    + "\n".join(
        f'{key} = "its data sheet"'
        for key in ("arch", "ram_bytes", "storage_bytes", "python", "sequence_lengths", "engine")
    ),
}


def without(key: str) -> str:
    """A profile that says the least, and not even `key`."""
    return "\n".join(piece for name, piece in PIECES.items() if name != key)


LEAST = without("")


def parse(text: str) -> DeviceProfile:
    return DeviceProfile.from_toml(text.encode(), where="board.toml")


def document(name: str) -> dict[str, Any]:
    return load_toml((FOLDER / f"{name}.toml").read_bytes(), MAX_PROFILE_BYTES, name)


BOARDS = """
android-nnapi apple-coreml coral-dev-board generic-aarch64 generic-x86_64 imx8mp imx93
jetson-agx-orin jetson-nano jetson-orin-nano kria-kv260 openvino-x86_64 qcs6490 raspberry-pi-4
raspberry-pi-5 raspberry-pi-5-hailo8l raspberry-pi-zero-2w rk3588
"""
ACCELERATORS = {
    CPU, "cuda", "tensorrt", "tensorrt-fp16", "openvino-cpu", "openvino-gpu", "openvino-npu",
    "hexagon", "ethos-u65", "edgetpu", "vx", "nnapi", "coreml", "rknpu", "dpu", "hailo8l",
}  # fmt: skip
COMPILERS = {
    "qnn", "vela", "edgetpu", "vx", "nnapi", "coreml", "rknn", "openvino", "tensorrt", "dpu",
    "hailo",
}  # fmt: skip


def test_the_boards_that_are_shipped() -> None:
    assert set(SHIPPED) >= set(BOARDS.split())
    assert profile_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_obeys_the_schema_and_the_loader(name: str) -> None:
    assert faults(document(name), SCHEMA) == []
    assert load_profile(name).name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_field_of_a_shipped_profile_carries_its_source(name: str) -> None:
    profile = document(name)
    accelerated = {
        f"engine.{engine['accelerator']}" for engine in profile["engine"] if "accelerator" in engine
    }
    fields = set(profile) - {"name", "title", "sources"}
    assert set(profile["sources"]) == fields | accelerated


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_ends_with_both_engines_on_the_cpu(name: str) -> None:
    engines = load_profile(name).engines
    assert [engine.id for engine in engines[-2:]] == ["litert", "onnxruntime"]
    assert all(engine.accelerator != CPU for engine in engines[:-2])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_names_known_accelerators_and_compilers_only(name: str) -> None:
    for engine in load_profile(name).engines:
        assert engine.accelerator in ACCELERATORS
        assert engine.compiler in COMPILERS | {""}
        assert bool(engine.coverage) == bool(engine.compiler)
        assert not engine.target or engine.compiler


@pytest.mark.parametrize("name", SHIPPED)
def test_a_demand_of_a_shipped_profile_fits_its_quantization(name: str) -> None:
    for engine in load_profile(name).engines:
        schemes = {engine.quantization, engine.convolutions or engine.quantization}
        if engine.demands.integer:
            assert all(scheme.startswith("static_w8a") for scheme in schemes), engine.id
        if engine.demands.per_tensor:
            assert all(scheme.endswith("_tensor") for scheme in schemes), engine.id


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_says_where_telemetry_looks_and_what_can_be_flashed(name: str) -> None:
    if name == "generic-x86_64":  # as old as the bundles that were made for it
        return
    assert {"probes", "image"} <= set(document(name))
    probes = load_profile(name).probes
    assert all(path.startswith("/sys/") for path in (*probes.power, *probes.throttling))


@pytest.mark.parametrize("key", SCHEMA["properties"])
def test_schema_and_loader_know_the_same_fields(key: str) -> None:
    text = f"{key} = true\n{without(key)}"
    assert any(f"$.{key}:" in fault for fault in faults(load_toml(text.encode(), 1000, ""), SCHEMA))
    with pytest.raises(InputError, match=rf"board\.toml: {key} must be"):
        parse(text)


TABLES = {
    "engine": (Engine, SCHEMA["properties"]["engine"]["items"]),
    "engine.demands": (
        Demands, SCHEMA["properties"]["engine"]["items"]["properties"]["demands"],
    ),
    "budget": (Budget, SCHEMA["properties"]["budget"]),
    "probes": (Probes, SCHEMA["properties"]["probes"]),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_schema_and_loader_know_the_same_fields_of_a_table(table: str) -> None:
    kind, schema = TABLES[table]
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(kind)}
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("table", "key"), [(table, key) for table in TABLES for key in TABLES[table][1]["properties"]]
)
def test_a_value_of_the_wrong_type_in_a_table_is_refused_by_both(table: str, key: str) -> None:
    """`a = 1979-05-27` is a date, which no field takes."""
    head = "" if table.startswith("engine") else f"[{table}]\n"
    line = f"{head}{'demands.' if table.endswith('demands') else ''}{key} = 1979-05-27\n"
    engine = PIECES["engine"]
    if key in ("backend", "quantization") and table == "engine":
        engine = "\n".join(part for part in engine.splitlines() if not part.startswith(key))
    text = LEAST.replace(PIECES["engine"], f"{engine}\n{line}")
    assert faults(load_toml(text.encode(), 4000, ""), SCHEMA)
    with pytest.raises(InputError, match=rf"{key} must be"):
        parse(text)


def test_a_field_that_the_schema_forbids_is_refused_by_the_loader_too() -> None:
    value = {**document(SHIPPED[0]), "colour": "red"}
    assert faults(value, SCHEMA) == ["$: colour is unknown"]
    with pytest.raises(InputError, match=r"board\.toml: colour is not a field of a profile"):
        parse('colour = "red"\n' + LEAST)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (LEAST + "\n[budget]\nlatncy_ms = 5\n", "budget: latncy_ms"),
        (LEAST.replace('"litert"\n', '"litert"\nthread = 4\n'), "engine[0]: thread"),
    ],
)
def test_a_slip_inside_a_table_is_refused_by_both(text: str, where: str) -> None:
    table, _, key = where.partition(": ")
    assert f"$.{table}: {key} is unknown" in faults(load_toml(text.encode(), 4000, ""), SCHEMA)
    with pytest.raises(InputError, match=re.escape(f"board.toml.{where} is not a field of")):
        parse(text)


@pytest.mark.parametrize("key", ["ram_bytes", "engine"])
def test_a_field_that_is_set_needs_its_source(key: str) -> None:
    text = LEAST.replace(f'\n{key} = "its data sheet"', "")
    with pytest.raises(InputError, match=f"sources: {key} is missing; say where its value stands"):
        parse(text)
    with pytest.raises(InputError, match="sources: budget is missing"):
        parse(LEAST + "\n[budget]\nlatency_ms = 5\n")


def test_a_source_of_no_field_is_refused() -> None:
    for key in ("colour", '"engine.hexagon"'):
        with pytest.raises(
            InputError, match=f"{key.strip(chr(34))} names no field; known are arch"
        ):
            parse(f'{LEAST}\n{key} = "its data sheet"')


def test_an_engine_on_an_accelerator_may_have_a_source_of_its_own() -> None:
    engine = f'{PIECES["engine"]}\naccelerator = "npu"\n{PIECES["engine"]}'
    text = LEAST.replace(PIECES["engine"], engine) + '\n"engine.npu" = "its data sheet"'
    assert parse(text).sources["engine.npu"] == "its data sheet"


def both_refuse(text: str, says: str) -> None:
    assert faults(load_toml(text.encode(), 4000, ""), SCHEMA)
    with pytest.raises(InputError, match=says):
        parse(text)


@pytest.mark.parametrize("source", ["", "here", "        "])
def test_a_source_that_says_nothing_is_refused(source: str) -> None:
    text = LEAST.replace('arch = "its data sheet"', f'arch = "{source}"')
    with pytest.raises(InputError, match=f"sources: arch is '{source}'; say where its value"):
        parse(text)


def test_forms_of_strings_in_lists_are_held_by_both() -> None:
    both_refuse(LEAST.replace('"3.11"', '"three"'), "python has 'three', expected versions")
    for key in ("power", "throttling"):
        for path in ("/etc/passwd", "/sys/../etc/passwd", "sys/a", "/sys/"):
            probed = f'{LEAST}\nprobes = "its data sheet"\n[probes]\n{key} = ["{path}"]'
            both_refuse(probed, f"probes: '{path}' is no file under /sys")


def test_a_board_whose_last_engine_is_an_accelerator_is_refused() -> None:
    engine = PIECES["engine"]
    npu = f'{engine}\naccelerator = "npu"'
    for engines in (npu, f"{engine}\n{npu}"):
        with pytest.raises(
            InputError, match=r"the last engines must run on the CPU.*is litert on npu"
        ):
            parse(LEAST.replace(engine, engines))
    assert parse(LEAST.replace(engine, f"{npu}\n{engine}")).engines[-1].accelerator == CPU


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('providers = ["CPUExecutionProvider"]', "providers are ONNX Runtime's"),
        ('options = { delgate = "libx.so" }', "options: delgate is not an option of litert; known"),
        ("options = { delegate = 7 }", "options: delegate must be the name or path"),
        ('options = { delegate = "" }', "options: delegate must be the name or path"),
        ('options = { delegate_options = "a" }', "options: delegate_options must be a table"),
    ],
)
def test_what_litert_does_not_take_is_refused(line: str, says: str) -> None:
    engine = PIECES["engine"]
    with pytest.raises(InputError, match=says):
        parse(LEAST.replace(engine, f"{engine}\n{line}"))


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_what_the_schema_requires_the_loader_requires(key: str) -> None:
    with pytest.raises(InputError, match=f"{key} is missing"):
        parse(without(key))


def test_optional_fields_have_defaults() -> None:
    profile = parse(LEAST)
    assert profile.cpu_features == ()
    assert profile.sequence_lengths == (16, 64, 128)
    assert profile.budget == Budget(0.0, 0)
    assert profile.engines[0].threads == 1
    assert dict(profile.engines[0].options) == {}


def test_every_fault_is_told_in_one_go_with_the_file() -> None:
    bad = LEAST.replace('"aarch64"', '"arm"').replace("1_000", "-1", 1).replace('"litert"', "7")
    with pytest.raises(InputError) as caught:
        parse(bad)
    assert str(caught.value).split("; ") == [
        "board.toml: arch is 'arm', expected one of x86_64, aarch64, armv7l",
        "board.toml: ram_bytes is -1, expected 1..9007199254740992",
        "board.toml.engine[0]: backend must be a string, found 7",
    ]


@pytest.mark.parametrize(
    "lengths", ["[]", "[16, 16]", "[64, 16]", "[0]", "[9000]", "[true]", "[1.0]"]
)
def test_sequence_lengths_ascend_within_bounds(lengths: str) -> None:
    with pytest.raises(InputError, match="sequence_lengths"):
        parse(f"sequence_lengths = {lengths}\n" + LEAST)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"#" * (MAX_PROFILE_BYTES + 1), "at most 262144 are accepted"),
        (b"\xff", "not valid TOML"),
        (b"name = ", "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"a = " + b"9" * 5_000, "not valid TOML"),
    ],
)
def test_a_file_that_is_no_toml_says_so(data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=f"board.toml: .*{says}"):
        DeviceProfile.from_toml(data, where="board.toml")


def test_a_profile_of_ones_own_is_loaded_by_path(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(LEAST)
    profile = load_profile(str(tmp_path / "board.toml"))
    assert profile.name == "board"
    assert profile == parse(LEAST)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    assert parse(LEAST).sha256 != parse(LEAST + "# changed\n").sha256


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'rasberry' is not known; known are .*generic-x86_64, "):
        load_profile("rasberry")


@pytest.mark.parametrize("name", ["../generic-x86_64", "schema.json", ""])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(InputError, match="is not known"):
        load_profile(name)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        load_profile(str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        load_profile(str(tmp_path / "folder.toml"))


def fitting(profile: str = "generic-x86_64", **changed: Any) -> list[str]:
    made = manifest(profile=profile)
    variants: tuple[Variant, ...] = tuple(
        dataclasses.replace(variant, **changed) if variant.id == "litert-cpu" else variant
        for variant in made.variants
    )
    board = load_profile("generic-x86_64")
    return [variant.id for variant in board.fits(dataclasses.replace(made, variants=variants))]


def test_variants_that_fit_keep_the_bundles_order() -> None:
    assert fitting() == ["litert-cpu", "ort-cpu"]


@pytest.mark.parametrize(
    "changed",
    [
        {"backend": "rknn"},
        {"needs": Needs(ram_bytes=1 << 40)},
        {"needs": Needs(cpu_features=("avx2", "avx512_vnni"))},
    ],
)
def test_a_variant_that_needs_more_is_passed_over(changed: dict[str, Any]) -> None:
    assert fitting(**changed) == ["ort-cpu"]


def test_a_bundle_for_another_board_is_incompatible() -> None:
    with pytest.raises(IncompatibleError, match="made for profile raspberry-pi-5, this device is"):
        fitting(profile="raspberry-pi-5")


def test_a_device_that_takes_only_some_tasks_refuses_the_others() -> None:
    made, profile = manifest(), load_profile("generic-x86_64")
    assert dataclasses.replace(profile, tasks=(made.task,)).fits(made)
    with pytest.raises(IncompatibleError, match="this device takes embedding"):
        dataclasses.replace(profile, tasks=("embedding",)).fits(made)


def test_where_nothing_fits_every_variant_has_its_reason() -> None:
    made = manifest()
    variants = (
        dataclasses.replace(made.variants[0], backend="rknn"),
        dataclasses.replace(made.variants[1], needs=Needs(ram_bytes=1 << 40)),
    )
    with pytest.raises(IncompatibleError) as caught:
        load_profile("generic-x86_64").fits(dataclasses.replace(made, variants=variants))
    assert str(caught.value) == (
        "bundle demo 1.0.0: no variant fits profile generic-x86_64 (litert-cpu: needs rknn, "
        "the profile has litert, onnxruntime; ort-cpu: needs 1099511627776 bytes of RAM, "
        "the board has 2147483648)"
    )


def test_an_engine_is_found_by_its_backend() -> None:
    profile = load_profile("generic-x86_64")
    engine = profile.engine("onnxruntime")
    assert engine is not None
    assert engine.options == {"session.intra_op.allow_spinning": "0"}
    assert profile.engine("tensorrt") is None
