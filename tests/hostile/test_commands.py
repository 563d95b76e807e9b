"""What a person sees of an attack: an exit code, one line on stderr, nothing else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_runtime.agent import cli
from edge_runtime.errors import UntrustedError
from edge_runtime.text import MAX_ERROR
from tests.fakes.tiny import tiny_folder, tokenize_step, variant_json
from tests.hostile.attack import Attack
from tests.hostile.bundles import ALL, BundleAttack
from tests.hostile.models import EXTERNAL, MODEL_ATTACKS, external
from tests.hostile.settings import SETTINGS_ATTACKS

UNTRUSTED, FAILED = 3, 1
INFER = ("-m", "edge_runtime.agent.cli", "infer")
DOCTOR = ("-m", "edge_runtime.agent.cli", "doctor", "--config")
PUBLISH = ("-m", "edge_runtime.fleet.cli", "publish", "--broker", "mqtt://127.0.0.1:9")


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted(
        (str(path.relative_to(folder)), path.lstat().st_mtime_ns) for path in folder.rglob("*")
    )


def _one_line(text: str, command: str) -> str:
    assert text.endswith("\n")
    (line,) = text.splitlines()
    assert line.startswith(f"{command}: ")
    assert line.isprintable()
    assert len(line) <= MAX_ERROR + 20
    return line


def _run(arguments: Sequence[object], folder: Path, text: bytes = b'"a"\n') -> tuple[int, str, str]:
    """A command in a process of its own; nothing in `folder` may change."""
    (folder / "home").mkdir(exist_ok=True)
    before = _listing(folder)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=text,
        capture_output=True,
        cwd=folder,
        timeout=120,
        env=os.environ
        | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "home"), "RUST_BACKTRACE": "0"}
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert _listing(folder) == before
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def _bundle(name: str) -> BundleAttack:
    return next(attack for attack in ALL if attack.name == name)


def _attack(attacks: Sequence[Attack], id: str) -> Attack:
    return next(attack for attack in attacks if attack.id == id)


@pytest.mark.parametrize("name", ["compressed", "a parent path", "manifest: deep nesting"])
def test_infer_refuses_a_hostile_bundle(name: str, tmp_path: Path) -> None:
    attack = _bundle(name)
    path = attack.build(tmp_path)
    code, out, talk = _run([*INFER, path, "--input", "-"], tmp_path)
    assert (code, out) == (UNTRUSTED, "")
    assert attack.says in _one_line(talk, "edge-agent")


def test_publish_refuses_a_hostile_bundle(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="an operator's machine has it")
    path = _bundle("a link").build(tmp_path)
    code, out, talk = _run([*PUBLISH, path], tmp_path)
    assert (code, out) == (UNTRUSTED, "")
    assert "a link" in _one_line(talk, "edge-fleet")


@pytest.mark.parametrize("name", ["a key of endless parts", "a key that acts on terminals"])
def test_the_doctor_refuses_a_hostile_configuration(name: str, tmp_path: Path) -> None:
    attack = _attack(SETTINGS_ATTACKS, f"config: {name}")
    (tmp_path / "agent.toml").write_bytes(attack.build())
    code, out, talk = _run([*DOCTOR, tmp_path / "agent.toml"], tmp_path)
    assert (code, out) == (FAILED, "")
    assert attack.says in _one_line(talk, "edge-agent")


def test_infer_refuses_a_tokenizer_that_its_library_would_trip_over(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    attack = _attack(MODEL_ATTACKS, "tokenizer: a special token that is not there")
    variants = [variant_json("ort", "model.onnx")]
    folder = tiny_folder(tmp_path / "bad", variants, {"tokenizer.json": attack.build()})
    code, out, talk = _run([*INFER, folder, "--input", "-"], tmp_path)
    assert (code, out) == (FAILED, "")
    assert "cannot be used" in _one_line(talk, "edge-agent")


def test_infer_answers_the_lines_before_a_hostile_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = tiny_folder(tmp_path / "sound", [variant_json("ort", "model.onnx")])
    lines = b'"one"\n{"text": "\x1b]0;x\\u0007\\u202e"}\n'.replace(b"\x1b", b"\\u001b")
    code, out, talk = _run(
        [*INFER, folder, "--input", "-"], tmp_path, lines + b'{"text":' + b"[" * 100_000
    )
    assert code == FAILED
    assert len(out.splitlines()) == 2
    assert all(line.replace("\t", "").isprintable() for line in out.splitlines())
    assert "line 3: not valid JSON (nested deeper" in _one_line(talk, "edge-agent")


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_infer_tells_every_hostile_bundle_in_one_line(
    attack: BundleAttack,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = attack.build(tmp_path)
    # Read whole, as a device does that installs it: to run one variant, not every file is read.
    monkeypatch.setattr("edge_runtime.inference.model.verify", _verify_all)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    before = _listing(tmp_path)
    code = cli.main(["infer", str(path), "--input", "-"])
    out, talk = capsys.readouterr()
    assert code == (UNTRUSTED if attack.error is UntrustedError else FAILED)
    assert out == ""
    _one_line(talk, "edge-agent")
    assert _listing(tmp_path) == before


def _verify_all(reader: object, files: bool = True) -> object:
    from edge_runtime.bundle.verify import verify

    return verify(reader)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "attack",
    [a for a in SETTINGS_ATTACKS if a.parser == "config" and a.error],
    ids=lambda attack: attack.name,
)
def test_the_doctor_tells_every_hostile_configuration_in_one_line(
    attack: Attack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_bytes(attack.build())
    assert cli.main(["doctor", "--config", str(tmp_path / "agent.toml")]) == FAILED
    out, talk = capsys.readouterr()
    assert out == ""
    _one_line(talk, "edge-agent")
    assert {path.name for path in tmp_path.iterdir()} == {"agent.toml"}


@pytest.mark.parametrize(("name", "location"), EXTERNAL, ids=lambda value: str(value)[:20])
def test_a_model_whose_weights_are_elsewhere_is_never_loaded(
    name: str, location: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    folder = tiny_folder(
        tmp_path / "bad", [variant_json("ort", "m.onnx")], {"m.onnx": external(location)}
    )
    assert cli.main(["infer", str(folder), "--input", os.devnull]) == FAILED
    assert "keeps 'w' outside the file" in _one_line(capsys.readouterr().err, "edge-agent")


ORT_IN_DISGUISE = b"\x12\x06\0\0ORTM" + b"\x12\x04abcd" * 20
"""A whole protobuf to us; to ONNX Runtime, unless it is told otherwise, its own other format."""


def test_a_model_in_the_engines_other_format_is_read_as_onnx_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    folder = tiny_folder(
        tmp_path / "bad", [variant_json("ort", "m.onnx")], {"m.onnx": ORT_IN_DISGUISE}
    )
    assert cli.main(["infer", str(folder), "--input", os.devnull]) == FAILED
    line = _one_line(capsys.readouterr().err, "edge-agent")
    assert "cannot load" in line
    assert "ORT model verification" not in line


@pytest.mark.parametrize(
    "options",
    [
        {"graph_optimization_level": "x" * 100_000},
        {"session.x" * 10_000: "1"},
        {"threads": 10**299},
        {"ep.context_file_path": "/etc/x"},
        {"session.intra_op.allow_spinning": {"a": ["\x1b[2J\n"]}},
    ],
    ids=["long value", "long key", "threads", "a path", "an object"],
)
def test_a_bundles_strange_option_is_told_in_one_line(
    options: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    variants = [variant_json("ort", "model.onnx", options=options)]
    folder = tiny_folder(tmp_path / "bad", variants, preprocess=[tokenize_step()])
    assert json.loads((folder / "manifest.json").read_bytes())["variants"][0]["options"] == options
    assert cli.main(["infer", str(folder), "--input", os.devnull]) == FAILED
    assert len(_one_line(capsys.readouterr().err, "edge-agent")) < 1000
