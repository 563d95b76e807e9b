"""`edge-convert` as a person meets it: what it prints where, its exit codes, its sentences."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from converters.cli import VERBS, main
from converters.pipeline import Conversion
from tests.converters.small import (
    PROFILE,
    EdgeConvert,
    as_lines,
    picked,
    recipe_text,
    write_data,
    write_encoder,
    write_recipe,
)

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "litert_torch", "matplotlib", "rich")


@pytest.fixture
def bundle(converted: Conversion) -> Path:
    assert converted.model.bundle is not None
    return converted.model.bundle


@pytest.fixture
def shop(workshop: Path, tmp_path: Path) -> Path:
    """A copy of the workshop that a test may spoil."""
    return Path(shutil.copytree(workshop, tmp_path / "shop"))


def run_arguments(folder: Path, recipe: str = "recipe.toml") -> list[str | Path]:
    return ["run", folder / recipe, "--profile", folder / "board.toml", "--out", folder / "out"]


def one_sentence(code: int, out: str, err: str, expected: int = 1) -> str:
    """The sentence a command ended with: the last line, no traceback, nothing on stdout."""
    assert "Traceback" not in err
    assert code == expected
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("edge-convert: ")
    return last


# run


def test_run_prints_the_table_on_stdout_and_a_line_a_pass_on_stderr(
    edge_convert: EdgeConvert, converted: Conversion, workshop: Path, tmp_path: Path
) -> None:
    arguments = run_arguments(workshop)[:-1]
    code, out, err = edge_convert(*arguments, tmp_path)
    assert code == 0
    assert "ort-cpu-smooth-dynamic-w8-channel" in out
    assert f"report: {tmp_path / 'report.html'}" in out
    lines = err.splitlines()
    assert lines[0] == "small 1.0.0 for board"
    starts = [line.split()[0] for line in lines[1:]]
    assert starts == ["finetune", "export", "fuse", "quantize", "verify", "package"]
    assert "from the cache" in lines[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html", "report.json", "small-1.0.0-board", "small-1.0.0-board.edge",
    ]  # fmt: skip


def test_run_as_json_prints_the_report_and_nothing_else(
    edge_convert: EdgeConvert, converted: Conversion, workshop: Path, tmp_path: Path
) -> None:
    code, out, _ = edge_convert(*run_arguments(workshop)[:-1], tmp_path, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "report.json").read_text())


def test_run_for_two_boards_makes_two_bundles(
    edge_convert: EdgeConvert, converted: Conversion, workshop: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(PROFILE.replace('"board"', '"other"'))
    arguments = [*run_arguments(workshop)[:-1], tmp_path / "out", "--profile", other]
    code, out, _ = edge_convert(*arguments)
    assert code == 0
    assert "small 1.0.0 for other" in out
    assert len(list((tmp_path / "out").glob("*.edge"))) == 2


def test_quick_mode_says_so_in_every_place(
    edge_convert: EdgeConvert, converted: Conversion, shop: Path
) -> None:
    write_recipe(
        shop / "quick.toml",
        finetune={"quick_rows": "80", "max_length": "32", "head_lr": "1e-2", "lr": "2e-3"},
        verify={"quick_rows": "40", "min_agreement": "0.5", "max_drop": "0.5"},
    )
    code, out, err = edge_convert(*run_arguments(shop, "quick.toml"), "--quick")
    assert (code, "quick mode" in out, "n = 40" in out) == (0, True, True)
    assert "on 80 rows" in err
    assert "Quick mode" in (shop / "out" / "report.html").read_text()


def test_another_model_may_be_given(
    edge_convert: EdgeConvert, converted: Conversion, workshop: Path, tmp_path: Path
) -> None:
    arguments = [*run_arguments(workshop)[:-1], tmp_path, "--model", workshop / "encoder"]
    code, _, _ = edge_convert(*arguments)
    assert code == 0
    code, out, _ = edge_convert("inspect", tmp_path / "small-1.0.0-board.edge")
    assert code == 0
    assert f"{workshop / 'encoder'} (unknown)" in out, "its licence is not the recipe's"


def test_optimum_exports_to_the_same_answers(
    edge_convert: EdgeConvert, converted: Conversion, shop: Path
) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    write_recipe(shop / "optimum.toml", export={"exporter": '"optimum"'})
    code, out, _ = edge_convert(*run_arguments(shop, "optimum.toml"), "--json")
    assert code == 0
    (told,) = json.loads(out)["conversions"]
    variants = {one["id"]: one for one in told["passes"]["verify"]["verdict"]["variants"]}
    assert variants["ort-cpu-float32"]["cosine_min"] > 0.999999
    assert told["passes"]["fuse"]["fused_operators"]["Attention"] == 2


Spoil = Callable[[Path], object]


def text(name: str, content: str | bytes) -> Spoil:
    """Overwrite a file of the workshop."""
    data = content.encode() if isinstance(content, str) else content
    return lambda shop: (shop / name).write_bytes(data)


def recipe(**changed: object) -> Spoil:
    return text("recipe.toml", recipe_text(**changed))  # type: ignore[arg-type]


def config(**changed: object) -> Spoil:
    """Change the encoder's config.json."""

    def spoil(shop: Path) -> None:
        path = shop / "encoder" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return spoil


def one_class(shop: Path) -> None:
    rows = [row for row in picked("train", 60) if row["label"] == "games"]
    (shop / "train.jsonl").write_text(as_lines(rows))


BAD = {
    "malformed TOML": (text("recipe.toml", "name = "), "not valid TOML"),
    "an unknown key": (recipe(data={"shufle": "1"}), "shufle is not a field of a recipe"),
    "an unknown pass": (recipe(passes='[[pass]]\nkind = "magic"\n'), "kind is 'magic'"),
    "a wrong order": (
        recipe(passes="".join(f'[[pass]]\nkind = "{kind}"\n' for kind in
                              ("export", "finetune", "verify", "package"))),
        "in the order finetune, vocabulary",
    ),
    "no recipe": (lambda shop: (shop / "recipe.toml").unlink(), "recipe.toml: cannot be read"),
    "no training data": (lambda shop: (shop / "train.jsonl").unlink(), "train.jsonl: cannot be"),
    "a wrong column": (recipe(data={"text": '"body"'}), "line 1: column 'body' is missing"),
    "one class": (one_class, "the labels hold 1 class (games)"),
    "no calibration": (recipe(data={"calibration": ""}), "calibration is missing"),
    "calibration is test": (recipe(data={"calibration": '"test.jsonl.xz"'}), "the same file"),
    "training is test": (recipe(data={"train": '"test.jsonl.xz"'}), "train and test are the same"),
    "training holds the test": (
        lambda shop: (shop / "train.jsonl").write_text(as_lines(picked("test", 25))),
        "100 of 100 test texts also stand in",
    ),
    "no model": (recipe(source={"model": '"./nowhere"'}), "no such folder"),
    "a generator": (config(model_type="gpt2"), "'gpt2' is not a text encoder"),
    "no tokenizer": (
        lambda shop: (shop / "encoder" / "tokenizer.json").unlink(), "tokenizer.json is missing"
    ),
    "a damaged tokenizer": (text("encoder/tokenizer.json", "{}"), "tokenizer.json: cannot be read"),
    "a tokenizer of another model": (config(vocab_size=500), "do not belong together"),
    "damaged weights": (text("encoder/model.safetensors", b"\x00" * 10**7), "cannot be loaded"),
    "weights that end early": (
        text("encoder/model.safetensors", b"\x00" * 100), "the file of weights has 100 bytes"
    ),
    "weights of another size": (config(intermediate_size=100), "cannot be loaded"),
    "too long for the model": (recipe(data={"max_length": "65"}), "takes at most 64 tokens"),
    "training too long for the model": (
        recipe(finetune={"max_length": "100"}), "takes at most 64 tokens"
    ),
    "an unknown quantization": (
        recipe(quantize='recipes = { litert = "w1" }\n'),
        "recipe.toml: quantization 'w1' is not known for engine litert; known are ",
    ),
    "an unknown engine in the recipe": (
        recipe(quantize='recipes = { tensorrt = "w8" }\n'), "names the engine 'tensorrt'"
    ),
    "an unknown quantization in the profile": (
        text("board.toml", PROFILE.replace("smooth_dynamic_w8_channel", "w3")),
        "profile board: quantization 'w3' is not known",
    ),
    "an unknown engine in the profile": (
        text("board.toml", PROFILE.replace('backend = "litert"', 'backend = "npu"')),
        "profile board: nothing exports to engine 'npu'",
    ),
    "a faulty profile": (text("board.toml", 'name = "x"\n'), "title is missing"),
    "a file where the output goes": (text("out", ""), "out: cannot be written to (File exists)"),
    "a damaged archive": (text("test.jsonl.xz", b"\xfd7zXZ\x00damaged"), "not a whole .xz file"),
    "no such recipe to go on from": (
        recipe(finetune={"freeze_backbone": "true", "continue_from": '"v0.toml"'}),
        "v0.toml: cannot be read",
    ),
    "a recipe that goes on from itself": (
        recipe(finetune={"freeze_backbone": "true", "continue_from": '"recipe.toml"'}),
        "must fine-tune an encoder itself",
    ),
    "a metric that is not known": (
        recipe(verify={"metric": '"acuracy"'}), "expected one of accuracy, macro-f1"
    ),
    "bounds that nothing reaches": (
        recipe(verify={"min_cosine": "1", "min_agreement": "1"}), "no variant is good enough: ort-"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_sentence(
    spoil: Spoil, says: str, edge_convert: EdgeConvert, converted: Conversion, shop: Path
) -> None:
    spoil(shop)
    sentence = one_sentence(*edge_convert(*run_arguments(shop)))
    assert says in sentence
    assert list(shop.rglob("*.edge")) == []


def test_a_recipe_that_goes_on_with_other_labels_is_refused(
    edge_convert: EdgeConvert, shop: Path
) -> None:
    for name in ("train", "test"):
        rows = [row for row in picked(name, 20) if row["label"] != "math"]
        (shop / f"{name}3.jsonl").write_text(as_lines(rows))
    write_recipe(
        shop / "v2.toml",
        data={"train": '"train3.jsonl"', "test": '"test3.jsonl"'},
        finetune={"freeze_backbone": "true", "continue_from": '"recipe.toml"'},
    )
    sentence = one_sentence(*edge_convert(*run_arguments(shop, "v2.toml")))
    assert "whose labels are others" in sentence


def test_an_unknown_profile_lists_the_known_ones(
    edge_convert: EdgeConvert, workshop: Path, tmp_path: Path
) -> None:
    found = edge_convert("run", workshop / "recipe.toml", "--profile", "toaster", "--out", tmp_path)
    assert "'toaster' is not known; known are android-nnapi" in one_sentence(*found)


def test_an_interrupt_that_a_toolchain_swallows_ends_the_run(
    edge_convert: EdgeConvert,
    converted: Conversion,
    workshop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from converters import steps
    from converters.quiet import quiet

    export = steps.export

    def swallowing(*arguments: Any) -> Any:
        with quiet():
            print("[START] LiteRT-Torch Convert")
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGINT)
        return export(*arguments)

    monkeypatch.setattr(steps, "export", swallowing)
    code, out, err = edge_convert(*run_arguments(workshop)[:-1], tmp_path)
    said = one_sentence(code, out, err, expected=130)
    assert said == "edge-convert: interrupted; finished passes stay in the cache"
    assert "START" not in err
    assert [line.split()[0] for line in err.splitlines()[1:-1]] == ["finetune"]


@pytest.mark.parametrize("verb", ["verify", "inspect"])
def test_only_a_run_has_passes_to_keep(
    verb: str, edge_convert: EdgeConvert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, verb, interrupted)
    assert edge_convert(verb, "a.edge") == (130, "", "edge-convert: interrupted\n")


def test_a_fresh_conversion_says_nothing_but_our_own_lines(tmp_path: Path) -> None:
    """Toolchains warn when they are first imported and when an encoder has weights to spare."""
    write_data(tmp_path)
    write_encoder(tmp_path / "encoder", pooler=True)
    write_recipe(
        tmp_path / "recipe.toml", task='"embedding"', data={"train": ""},
        passes="".join(f'[[pass]]\nkind = "{kind}"\n' for kind in ("export", "verify", "package")),
    )  # fmt: skip
    first, _, rest = PROFILE.partition('[[engine]]\nbackend = "litert"')
    (tmp_path / "board.toml").write_text(first + rest[rest.index("[sources]") :])
    done = subprocess.run(
        [sys.executable, "-m", "converters.cli", *map(str, run_arguments(tmp_path)),
         "--cache", str(tmp_path / "cache")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = ("small 1.0.0 for board", "    ", "  export ", "  verify ", "  package ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(ours)] == []
    assert "Traceback" not in done.stderr


def test_a_missing_toolchain_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, edge_convert: EdgeConvert, workshop: Path, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("converters.finetune")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    sentence = one_sentence(*edge_convert(*run_arguments(workshop)[:-1], tmp_path))
    assert "torch is not installed; converting needs edge-runtime[convert]" in sentence


# inspect, verify, profiles


def test_inspect_shows_what_a_bundle_holds(edge_convert: EdgeConvert, bundle: Path) -> None:
    code, out, err = edge_convert("inspect", bundle)
    assert (code, err) == (0, "")
    for part in ("small 1.0.0 for board: text-classification", "quality   accuracy", "n = 100",
                 "ort-cpu-smooth-dynamic-w8-channel", "tokenizer.json", "softmax"):  # fmt: skip
        assert part in out
    code, out, _ = edge_convert("inspect", bundle.with_suffix(""), "--json")
    told = json.loads(out)
    assert code == 0
    assert told["manifest"]["name"] == "small"
    assert len(told["manifest_sha256"]) == 64


def test_verify_proves_every_variant(edge_convert: EdgeConvert, bundle: Path) -> None:
    code, out, err = edge_convert("verify", bundle)
    assert (code, err) == (0, "")
    assert out.count("passed") == 2
    code, out, _ = edge_convert("verify", bundle, "--json")
    told = json.loads(out)
    assert (code, told["passed"], len(told["variants"])) == (0, True, 2)


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_tampered_bundle_is_not_to_be_trusted(
    verb: str, edge_convert: EdgeConvert, bundle: Path, tmp_path: Path
) -> None:
    changed = bytearray(bundle.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.edge").write_bytes(changed)
    sentence = one_sentence(*edge_convert(verb, tmp_path / "changed.edge"), expected=3)
    assert ".tflite' is damaged" in sentence
    (tmp_path / "short.edge").write_bytes(changed[:1000])
    one_sentence(*edge_convert(verb, tmp_path / "short.edge"), expected=3)


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_missing_bundle_is_one_sentence(
    verb: str, edge_convert: EdgeConvert, tmp_path: Path
) -> None:
    assert "nowhere.edge" in one_sentence(*edge_convert(verb, tmp_path / "nowhere.edge"))


def test_verify_fails_where_a_variant_lies(
    edge_convert: EdgeConvert, bundle: Path, tmp_path: Path
) -> None:
    """A bundle whose floor its own variant does not reach: genuine, and no good."""
    from edge_runtime.bundle.archive import FolderReader, pack

    folder = shutil.copytree(bundle.with_suffix(""), tmp_path / "folder")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"][0]["tolerance"]["floor"] = 1.0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pack(FolderReader(folder), tmp_path / "strict.edge")
    assert zipfile.is_zipfile(tmp_path / "strict.edge")
    code, out, _ = edge_convert("verify", tmp_path / "strict.edge")
    assert code == 1
    assert "FAILED" in out
    assert "at least 1 is needed" in out


def test_verify_fails_where_the_manifest_gives_an_output_another_size(
    edge_convert: EdgeConvert, bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bundle.with_suffix(""), tmp_path / "folder")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"][0]["shape"] = ["batch", 3]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = edge_convert("verify", folder)
    assert code == 1
    assert "gives output logits the shape [batch, 3], in golden case 0 it is [1, 4]" in out


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"litert"', '"tflite"', "nothing exports to engine 'tflite'; known are"),
        ('"dynamic_w8_channel"', '"int3"', "quantization 'int3' is not known for engine litert"),
    ],
)
def test_a_profile_that_cannot_be_converted_for_is_not_shown_as_sound(
    old: str, new: str, says: str, edge_convert: EdgeConvert, tmp_path: Path
) -> None:
    path = tmp_path / "board.toml"
    path.write_text(PROFILE)
    assert edge_convert("profiles", path)[0] == 0
    path.write_text(PROFILE.replace(old, new))
    assert says in one_sentence(*edge_convert("profiles", path))


def test_profiles_are_listed_and_shown(edge_convert: EdgeConvert) -> None:
    code, out, _ = edge_convert("profiles")
    assert code == 0
    assert "raspberry-pi-5" in out
    code, out, _ = edge_convert("profiles", "raspberry-pi-5")
    assert code == 0
    assert "4x Cortex-A76" in out
    code, out, _ = edge_convert("profiles", "raspberry-pi-5", "--json")
    assert (code, json.loads(out)["arch"]) == (0, "aarch64")
    code, out, _ = edge_convert("profiles", "--json")
    assert {one["name"] for one in json.loads(out)} >= {"generic-x86_64", "raspberry-pi-5"}
    one_sentence(*edge_convert("profiles", "toaster"))


# usage


@pytest.mark.parametrize(
    "arguments", [[], ["convert"], ["run"], ["run", "a.toml"], ["inspect"], ["verify", "a", "b"]]
)
def test_wrong_usage_is_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: edge-convert" in capfd.readouterr().err


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_shows_examples(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"examples:\n  edge-convert {verb}" in capfd.readouterr().out


def test_the_release_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capfd.readouterr().out == f"edge-convert {version('edge-runtime')}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["--version"], ["profiles"], ["profiles", "generic-x86_64"]],
)
def test_help_loads_no_toolchain(arguments: list[str]) -> None:
    code = (
        "import sys, converters.cli\n"
        f"sys.argv = ['edge-convert', *{arguments!r}]\n"
        "try: converters.cli.entry()\n"
        f"finally: print('HEAVY', [n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "HEAVY []"
    assert done.stdout


def test_inspect_loads_no_toolchain(bundle: Path) -> None:
    code = (
        "import sys, converters.cli\n"
        f"converters.cli.main(['inspect', {str(bundle)!r}])\n"
        f"print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


def test_a_reader_that_has_enough_ends_it_quietly(bundle: Path) -> None:
    command = f"{sys.executable} -m converters.cli inspect {bundle} --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
