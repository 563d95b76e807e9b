from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.agent.cli import main
from edge_runtime.agent.state_folder import Hold
from tests.fakes.operators import ESCAPES, clean
from tests.fakes.tiny import LABELS, tiny_folder, variant_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("bundle")
    return tiny_folder(folder, [variant_json("ort-int8", "model-int8.onnx")])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        'device_id = "d"\nprofile = "generic-x86_64"\nstate_dir = "state"\ntrust = "none"\n'
        "[api]\nport = 0\n"
    )
    return path


def agent(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_runtime.agent.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_infer_answers_strings_and_objects_line_by_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text('"mail server"\n\n{"text": "a puzzle game", "id": 5}\n')
    assert main(["infer", str(bundle), "--input", str(lines), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] in LABELS for answer in answers] == [True, True]
    assert main(["infer", str(bundle), "--input", str(lines)]) == 0
    label, score, text = capsys.readouterr().out.splitlines()[1].split("\t")
    assert (label in LABELS, 0 < float(score) <= 1, text) == (True, True, "a puzzle game")
    lines.write_text(json.dumps("mail " * 200))
    assert main(["infer", str(bundle), "--input", str(lines)]) == 0
    assert capsys.readouterr().out.endswith("\t(cut: longer than the model reads)\n")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("foo", "expected a JSON string"),
        ('"open', "not valid JSON"),
        ('{"txt": "a"}', "text is missing"),
        ('{"text": 5}', "text must be a string"),
        ("5", "expected a JSON string"),
        (json.dumps("x" * 5000), "4096"),
        ('"\\ud800"', "not valid JSON"),
    ],
)
def test_a_bad_line_is_named_after_those_before_it_were_answered(
    bundle: Path, line: str, says: str
) -> None:
    done = agent("infer", str(bundle), "--input", "-", "--json", stdin=f'"a"\n{line}\n"b"\n')
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.startswith("edge-agent: stdin line 2: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_files_and_unknown_variants_and_profiles_are_one_sentence(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in {
        (str(bundle), "--input", str(tmp_path / "none")): "cannot be read (No such file",
        (str(bundle), "--input", str(tmp_path)): "cannot be read",
        (str(tmp_path / "none.edge"), "--input", "-"): "none.edge",
        (str(bundle), "--input", "-", "--variant", "x"): "no variant 'x', there are ort-int8",
        (str(bundle), "--input", "-", "--profile", "x"): "known are",
    }.items():
        assert main(["infer", *arguments]) == 1
        said = capsys.readouterr()
        assert (says in said.err, said.out, said.err.count("\n")) == (True, "", 1), said


def test_a_damaged_bundle_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    folder = tiny_folder(tmp_path, [variant_json("ort-int8", "model-int8.onnx")])
    model = folder / "model-int8.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    assert main(["infer", str(folder), "--input", os.devnull]) == 3
    assert "model-int8.onnx" in capsys.readouterr().err


def test_what_a_bundle_and_a_text_say_reaches_no_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    steps = [
        {"step": "softmax", "options": {}},
        {"step": "top_k", "options": {"labels": [f"{n}{ESCAPES}" for n in range(len(LABELS))]}},
    ]
    variants = [variant_json("ort-int8", "model-int8.onnx")]
    folder = tiny_folder(tmp_path / "bundle", variants, postprocess=steps)
    lines = tmp_path / "in.jsonl"
    lines.write_text(json.dumps(f"mail {ESCAPES}") + "\n")
    assert main(["infer", str(folder), "--input", str(lines)]) == 0
    said = capsys.readouterr()
    assert (clean(said.out), said.out.count("\n"), said.out.count("pwned")) == (True, 1, 2)
    assert main(["infer", str(folder), "--input", str(lines), "--json"]) == 0
    out = capsys.readouterr().out
    assert (clean(out), out.isascii(), out.count("\n")) == (True, True, 1)
    assert json.loads(out)["label"].endswith(ESCAPES)


def test_an_error_that_quotes_a_stranger_is_one_plain_line(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["infer", str(bundle), "--input", f"/nowhere/{ESCAPES}"],
        ["infer", f"/nowhere/{ESCAPES}", "--input", "-"],
        ["check", "--config", f"/nowhere/{ESCAPES}"],
    ):
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert (clean(said.err), said.err.count("\n"), said.out) == (True, 1, ""), said


def test_a_reader_that_goes_away_is_no_error_message(bundle: Path, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text('"mail"\n' * 3000)
    command = (
        f"{sys.executable} -m edge_runtime.agent.cli infer {bundle} --input {lines} | head -n 1"
    )
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_check_says_what_is_there_and_changes_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["check", "--config", str(config), "--json"]) == 0
    findings = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["profile"]["text"].startswith("generic-x86_64")
    assert findings["engine onnxruntime"]["ok"]
    assert "not signed" in findings["trust"]["text"]
    assert not (config.parent / "state").exists()


def test_check_fails_where_something_is_missing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('first_bundle = "gone.edge"\n' + config.read_text())
    assert main(["check", "--config", str(config)]) == 1
    assert "FAILED  first bundle" in capsys.readouterr().out


def test_run_without_bundle_or_broker_says_how_to_get_one(config: Path) -> None:
    done = agent("run", "--config", str(config))
    assert done.returncode == 1
    assert "give --bundle FILE, first_bundle or [broker]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_agent_on_one_state_folder_is_refused_and_check_says_so(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = config.parent / "state"
    says = f"state folder {state} is in use by another agent (process {os.getpid()})"
    hold = Hold(state)
    done = agent("run", "--config", str(config), "--json")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"edge-agent: {says}\n")
    assert [path.name for path in state.iterdir()] == ["lock"]
    assert main(["check", "--config", str(config)]) == 1
    assert f"FAILED  state: {says}" in capsys.readouterr().out
    hold.close()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('profile = "generic-x86_64"', "trust is missing"),
        ('profile = "raspberry-pi-9"\ntrust = "none"', "'raspberry-pi-9' is not known"),
        ('profile = "generic-x86_64"\ntrust = "none"\n[api]\nhost = "192.0.2.1"', "cannot be used"),
        ('profile = "generic-x86_64"\ntrust = "none"\nstate_dir = "/proc/x"', "/proc/x"),
    ],
)
def test_run_refuses_what_it_cannot_be(tmp_path: Path, setting: str, says: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'device_id = "d"\n{setting}\n' + ("" if "[api]" in setting else "[api]\nport = 0\n")
    )
    done = agent("run", "--config", str(path))
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_is_exit_code_2_and_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fly"], ["run"], ["infer", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()
    for verb in ("run", "infer", "check"):
        for arguments in (["--help"], [verb, "--help"]):
            with pytest.raises(SystemExit) as caught:
                main(arguments)
            assert caught.value.code == 0
            assert f"examples:\n  edge-agent {verb} " in capsys.readouterr().out.replace(
                "examples:\n  edge-agent infer", f"examples:\n  edge-agent {verb}"
            )
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out.split()[0]) == (0, "edge-agent")
