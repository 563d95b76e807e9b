"""Bundles of one model for several boards, joined: what each board gets, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import edge_runtime
from converters.join import Joined, join
from converters.package import open_verified
from edge_runtime.bundle.manifest import Variant
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.profile import load_profile
from tests.converters.small import PROFILE, EdgeConvert
from tests.fakes.bundles import DIGEST
from tests.fakes.tiny import FIXTURE, TEXTS, VARIANTS, tiny_folder, tokenize_step, variant_json

PC, PI, ARM = "generic-x86_64", "raspberry-pi-5", "generic-aarch64"
Bundle = Callable[..., Path]


def variants(*names: str, **changed: Any) -> list[dict[str, Any]]:
    return [variant_json(name, VARIANTS[name], needs={}, **changed) for name in names]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A folder with the tiny classifier's variants of these names, for a profile."""

    def made(profile: str, *names: str | dict[str, Any], **changed: Any) -> Path:
        of = [one if isinstance(one, dict) else variants(one)[0] for one in names]
        folder = tmp_path / f"{profile}-{len(list(tmp_path.iterdir()))}"
        return tiny_folder(folder, of, profile=profile, **changed)

    return made


def preferred(made: Joined, profile: str) -> list[str]:
    return [v.id for v in made.bundle.manifest.variants_for(profile)]


def shown(made: Sequence[Variant]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(v.id, v.file, v.profiles) for v in made]


def test_each_board_gets_its_variants_in_its_order(bundle: Bundle, tmp_path: Path) -> None:
    a, b = bundle(PC, "litert-int8", "ort-int8"), bundle(PI, "ort-float", "ort-int8")
    made = join([a, b], tmp_path / "out")
    m = made.bundle.manifest
    assert (m.profile, m.profiles) == (PC, (PC, PI))
    assert shown(m.variants) == [
        ("litert-int8", "model.tflite", (PC,)),
        ("ort-float", "model.onnx", (PI,)),
        ("ort-int8", "model-int8.onnx", (PC, PI)),
    ]
    assert preferred(made, PC) == ["litert-int8", "ort-int8"]
    assert preferred(made, PI) == ["ort-float", "ort-int8"]
    assert {report.variant for report in made.proofs} == {v.id for v in m.variants}
    assert made.unproved == {}
    assert open_verified(made.archive).manifest_sha256 == made.bundle.manifest_sha256
    for name, path in ((PC, a), (PI, b)):
        needed = m.files_of(load_profile(name).fits(m))
        assert set(needed) == set(open_verified(path).manifest.files)
    with edge_runtime.load(made.archive, profile=PI) as model:
        assert model.variant.id == "ort-float"
        with edge_runtime.load(b, profile=PI) as alone:
            assert model(TEXTS) == alone(TEXTS)
    with edge_runtime.load(made.archive, profile=PC) as model:
        assert model.variant.id == "litert-int8"


def test_the_same_bundles_give_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    paths = [bundle(PC, "ort-int8"), bundle(PI, "litert-int8")]
    one, two = (join(paths, tmp_path / name) for name in ("one", "two"))
    assert one.archive.read_bytes() == two.archive.read_bytes()
    again = join(paths, tmp_path / "one")
    assert again.archive.read_bytes() == two.archive.read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "tiny-1.0.0-joined", "tiny-1.0.0-joined.edge",
    ]  # fmt: skip


def test_what_is_the_same_for_all_boards_is_there_once(bundle: Bundle, tmp_path: Path) -> None:
    paths = [bundle(name, "ort-int8", "litert-int8") for name in (PC, PI, ARM)]
    made = join(paths, tmp_path / "out")
    first = open_verified(paths[0]).manifest
    assert made.bundle.manifest.files == tuple(sorted(first.files, key=lambda one: one.path))
    assert [v.profiles for v in made.bundle.manifest.variants] == [(PC, PI, ARM)] * 2
    assert made.saved_bytes == 2 * first.size_bytes
    assert made.bundle.manifest.quality == first.quality


def test_another_file_of_the_same_name_gets_its_board_s_name(
    bundle: Bundle, tmp_path: Path
) -> None:
    files = {"model.onnx": (FIXTURE / "model-int8.onnx").read_bytes()}
    floor = {"metric": "cosine", "floor": 0.97}
    here = variant_json("ort", "model.onnx", needs={})
    other = variant_json("ort", "model.onnx", needs={}, tolerance=floor)
    made = join([bundle(PC, here), bundle(PI, other, replace=files)], tmp_path / "out")
    assert shown(made.bundle.manifest.variants) == [
        ("ort", "model.onnx", (PC,)), (f"ort-{PI}", f"model-{PI}.onnx", (PI,)),
    ]  # fmt: skip
    for profile, file in ((PC, "model.onnx"), (PI, "model-int8.onnx")):
        with edge_runtime.load(made.archive, profile=profile) as model:
            assert made.bundle.read(model.variant.file) == (FIXTURE / file).read_bytes()


def test_the_same_file_under_another_name_is_there_once(bundle: Bundle, tmp_path: Path) -> None:
    files = {"own/name.onnx": (FIXTURE / "model-int8.onnx").read_bytes()}
    renamed = variant_json("ort-int8", "own/name.onnx", needs={})
    made = join([bundle(PC, "ort-int8"), bundle(PI, renamed, replace=files)], tmp_path / "out")
    assert shown(made.bundle.manifest.variants) == [("ort-int8", "model-int8.onnx", (PC, PI))]


def test_a_board_s_own_order_is_never_turned_round(bundle: Bundle, tmp_path: Path) -> None:
    made = join(
        [bundle(PC, "ort-int8", "litert-int8"), bundle(PI, "litert-int8", "ort-int8")],
        tmp_path / "out",
    )
    assert preferred(made, PC) == ["ort-int8", "litert-int8"]
    assert preferred(made, PI) == ["litert-int8", f"ort-int8-{PI}"]
    assert len(made.bundle.manifest.files) == 4
    assert made.bundle.manifest.variants[0].id == "ort-int8", "what quality was measured on"


def test_a_joined_bundle_is_joined_with_another(bundle: Bundle, tmp_path: Path) -> None:
    a, b, c = (bundle(name, "ort-int8") for name in (PC, PI, ARM))
    two = join([a, b], tmp_path / "two").archive
    made = join([two, c], tmp_path / "out")
    at_once = join([a, b, c], tmp_path / "once")
    assert made.archive.read_bytes() == at_once.archive.read_bytes()


def test_what_cannot_run_here_is_said_to_be_unproved(bundle: Bundle, tmp_path: Path) -> None:
    abacus = variant_json("beads", "model.onnx", backend="abacus", needs={})
    made = join([bundle(PC, "ort-int8"), bundle(PI, abacus)], tmp_path / "out")
    assert list(made.unproved) == ["beads"]
    assert [report.variant for report in made.proofs] == ["ort-int8"]
    assert "  beads: unproved here, " in made.text()
    assert made.as_json()["unproved"] == made.unproved


def test_a_variant_that_fails_here_is_not_joined(bundle: Bundle, tmp_path: Path) -> None:
    strict = variants("ort-int8", tolerance={"metric": "cosine", "floor": 1.0})[0]
    with pytest.raises(DeviceError, match="variant ort-int8-raspberry-pi-5 fails its self-test"):
        join([bundle(PC, "ort-int8"), bundle(PI, strict)], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "other"}, "differ in name: tiny here and other there"),
        ({"version": "1.0.1"}, "differ in version: 1.0.0 here and 1.0.1 there"),
        ({"task": "embedding"}, "differ in task: text-classification here and embedding there"),
        ({"outputs": [{"name": "x", "dtype": "float32", "shape": [1]}]}, "differ in outputs"),
        ({"preprocess": [tokenize_step(max_length=64)]}, "differ in preprocess"),
        ({"postprocess": []}, "differ in postprocess"),
        ({"golden": {"file": "golden.safetensors", "cases": 1}}, "differ in golden"),
        ({"replace": {"tokenizer.json": b"{}"}}, "differ in tokenizer.json, a file that steps"),
        (
            {"replace": {"golden.safetensors": bytes(8)}},
            "differ in golden.safetensors, golden vectors",
        ),
        ({"profile": PC}, "are both made for generic-x86_64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_one_model_is_refused_in_a_sentence(
    changed: dict[str, Any], says: str, bundle: Bundle, tmp_path: Path
) -> None:
    first = bundle(PC, "ort-int8")
    other = tiny_folder(tmp_path / "b", variants("ort-int8"), **({"profile": PI} | changed))
    with pytest.raises(InputError, match=f"^join: bundle .* {says}") as error:
        join([first, other], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_one_bundle_alone_is_not_joined(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected two bundles or more, found 1"):
        join([bundle(PC, "ort-int8")], tmp_path / "out")


def test_more_variants_than_a_manifest_has_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    def many(floor: float) -> list[dict[str, Any]]:
        tolerance = {"metric": "cosine", "floor": floor}
        return [
            variant_json(f"v{i}", "model-int8.onnx", needs={}, tolerance=tolerance)
            for i in range(40)
        ]

    with pytest.raises(InputError, match="80 variants, a bundle may have 64"):
        join([bundle(PC, *many(0.5)), bundle(PI, *many(0.6))], tmp_path / "out")


def test_the_verb_says_what_became_of_it(
    bundle: Bundle, tmp_path: Path, edge_convert: EdgeConvert
) -> None:
    paths = [bundle(PC, "ort-int8", "litert-int8"), bundle(PI, "ort-int8")]
    code, out, err = edge_convert("join", *paths, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"tiny 1.0.0 for {PC}, {PI}"
    code, out, _ = edge_convert("join", *paths, "--out", tmp_path / "out", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["profiles"][PI]["variants"] == ["ort-int8"]
    assert told["profiles"][PI]["size_bytes"] < told["profiles"][PC]["size_bytes"]
    code, out, _ = edge_convert("inspect", told["bundle"])
    assert f"tiny 1.0.0 for {PC}, {PI}: text-classification" in out
    assert f"      for {PC}, {PI}\n" in out
    assert edge_convert("verify", told["bundle"])[0] == 0
    code, out, err = edge_convert("join", paths[0], "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("converted")  # Which leaves the passes in the cache.
def test_a_run_for_two_boards_is_joined_in_one_go(
    workshop: Path, tmp_path: Path, edge_convert: EdgeConvert
) -> None:
    said, _, sources = PROFILE.partition("[sources]")
    head, first, _ = said.split("[[engine]]")
    other = "[[engine]]".join([head.replace('"board"', '"other"'), first])
    (tmp_path / "other.toml").write_text(f"{other}\n[sources]{sources}")
    command = ["run", workshop / "recipe.toml", "--profile", workshop / "board.toml"]
    code, out, err = edge_convert(
        *command, "--profile", tmp_path / "other.toml", "--out", tmp_path, "--join", "--json"
    )
    assert code == 0, err
    told = json.loads(out)["joined"]
    assert list(told["profiles"]) == ["board", "other"]
    manifest = open_verified(Path(told["bundle"])).manifest
    assert [len(manifest.variants_for(name)) for name in ("board", "other")] == [2, 1]
    assert told["unproved"] == {}
    alone = open_verified(tmp_path / "small-1.0.0-board.edge").manifest
    assert (manifest.created, manifest.provenance) == (alone.created, alone.provenance)
    code, _, err = edge_convert(*command, "--out", tmp_path, "--join")
    assert (code, err.count("\n")) == (1, 1)
    assert "two --profile or more" in err


def test_the_first_bundle_gives_what_only_one_can(bundle: Bundle, tmp_path: Path) -> None:
    later = {"created": "2027-01-01T00:00:00Z", "quality": None}
    paths = [bundle(PC, "ort-int8"), bundle(PI, "ort-int8", **later)]
    made = join(paths, tmp_path / "out").bundle.manifest
    assert (made.created, made.profile_sha256) == ("2026-11-24T00:00:00Z", DIGEST)
    assert made.quality is not None
    made = join(paths[::-1], tmp_path / "out").bundle.manifest
    assert (made.created, made.profile, made.quality) == (later["created"], PI, None)
