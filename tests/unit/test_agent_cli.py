from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.cli import main
from edge_runtime.agent.state_folder import Hold
from tests.fakes.operators import ESCAPES, clean
from tests.fakes.senses import colours, meters, pcm, png, pumps, sound, tones, wav
from tests.fakes.tiny import LABELS, tiny_folder, variant_json

ROOT = Path(__file__).resolve().parents[2]
SPEECH = sound(("", 0.5), ("low", 0.3), ("", 0.5), ("high", 0.3), ("", 0.3))


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
        ('{"text": 5}', "text: expected a string, found int"),
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
        ["doctor", "--config", f"/nowhere/{ESCAPES}"],
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


def test_the_doctor_says_what_is_there_and_changes_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["doctor", "--config", str(config), "--json"]) == 0
    findings = {(f["id"], f["subject"]): f for f in json.loads(capsys.readouterr().out)}
    assert findings["machine.profile", ""]["text"].startswith("generic-x86_64")
    assert findings["engine.profile", "onnxruntime"]["level"] == "ok"
    assert "not signed" in findings["identity.root", ""]["text"]
    assert not (config.parent / "state").exists()


def test_the_doctor_fails_where_something_is_missing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('first_bundle = "gone.edge"\n' + config.read_text())
    assert main(["doctor", "--config", str(config)]) == 1
    assert "obstacle bundle" in capsys.readouterr().out


def test_run_without_bundle_or_broker_says_how_to_get_one(config: Path) -> None:
    done = agent("run", "--config", str(config))
    assert done.returncode == 1
    assert "give --bundle FILE, first_bundle or [broker]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_agent_on_one_state_folder_is_refused_and_the_doctor_sees_the_first(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = config.parent / "state"
    says = f"state folder {state} is in use by another agent (process {os.getpid()})"
    hold = Hold(state)
    done = agent("run", "--config", str(config), "--json")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"edge-agent: {says}\n")
    assert [path.name for path in state.iterdir()] == ["lock"]
    assert main(["doctor", "--config", str(config), "--json"]) == 0
    findings = {f["id"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["agent.running"]["values"] == {"pid": os.getpid()}
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
    for arguments in (
        [],
        ["fly"],
        ["run"],
        ["infer", "x"],
        ["infer", "x", "--input", "-", "--hop", "0"],
        ["listen", "x"],
        ["listen", "x", "-", "--threshold", "1.1"],
        ["listen", "x", "-", "--hop-ms", "nan"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()
    for verb in ("run", "infer", "listen", "doctor"):
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


# Pictures, sounds, rows.


@pytest.fixture(scope="module")
def senses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles and of what they take."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("senses")
    colours(folder / "colours")
    tones(folder / "tones")
    pumps(folder / "pumps", hop=40)
    meters(folder / "meters")
    meters(folder / "single", window=0)
    (folder / "red.png").write_bytes(png((250, 10, 10)))
    (folder / "speech.wav").write_bytes(wav(SPEECH))
    (folder / "speech.raw").write_bytes(pcm(SPEECH))
    (folder / "fast.wav").write_bytes(wav(SPEECH, 16_000))
    lines = [f"{at},{60 if at == 5 else 30},{'on' if at % 2 else 'off'}\n" for at in range(9)]
    (folder / "meters.csv").write_text("time,heat,state\n" + "".join(lines))
    return folder


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(senses: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """(exit code, stdout, stderr) of a command line in the folder."""
    monkeypatch.chdir(senses)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def lines_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_picture_is_answered_by_its_name_and_by_itself(say: Said, senses: Path) -> None:
    pytest.importorskip("PIL")
    assert say("infer", "colours", "--input", "red.png") == (0, "red\t1.000\tred.png\n", "")
    (senses / "pictures.jsonl").write_text('"red.png"\n{"image": "red.png"}\n')
    code, out, _ = say("infer", "colours", "--input", "pictures.jsonl", "--json")
    assert (code, [one["label"] for one in lines_of(out)]) == (0, ["red", "red"])
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime.agent.cli", "infer", str(senses / "colours"),
         "--input", "-"],
        input=png((0, 0, 255)), capture_output=True, timeout=60, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stdout == b"blue\t1.000\tstdin\n"
    (senses / "pictures.jsonl").write_text('"gone.png"\n')
    assert say("infer", "colours", "--input", "pictures.jsonl") == (
        1, "", "edge-agent: pictures.jsonl line 1: image gone.png: cannot be read "
        "(No such file or directory)\n",
    )  # fmt: skip


def test_a_sound_is_answered_whole_and_by_windows(say: Said) -> None:
    code, out, _ = say("infer", "pumps", "--input", "speech.wav")
    assert (code, lines_of(out)[0]["anomalous"]) == (0, False)
    code, out, _ = say("infer", "pumps", "--input", "speech.wav", "--hop", "100")
    assert (code, len(lines_of(out)), lines_of(out)[1]["start"]) == (0, 19, 0.1)
    code, out, _ = say("infer", "tones", "--input", "speech.wav", "--hop", "500")
    assert (code, [line.split("\t")[0] for line in out.splitlines()]) == (
        0, ["_silence_", "low", "_silence_", "high"],
    )  # fmt: skip
    assert out.splitlines()[1].endswith("\t0.5 to 0.6")
    assert say("infer", "pumps", "--input", "fast.wav")[2] == (
        "edge-agent: fast.wav: audio: 16000 samples a second, the model hears 8000: "
        "resample it first\n"
    )


def test_a_table_is_answered_by_rows_and_by_windows(say: Said, senses: Path) -> None:
    code, out, _ = say("infer", "single", "--input", "meters.csv")
    assert code == 0
    assert [at for at, one in enumerate(lines_of(out)) if one["anomalous"]] == [5]
    code, out, _ = say("infer", "meters", "--input", "meters.csv")
    assert [(one["start"], one["end"], one["anomalous"]) for one in lines_of(out)] == [
        (0, 4, False), (4, 8, True),
    ]  # fmt: skip
    code, out, _ = say("infer", "meters", "--input", "meters.csv", "--hop", "2")
    by_two = lines_of(out)
    assert [one["start"] for one in by_two] == [0, 2, 4]
    rows = [json.dumps({"heat": 60 if at == 5 else 30, "state": "on"}) for at in range(9)]
    (senses / "rows.jsonl").write_text("\n".join(rows))
    assert lines_of(say("infer", "meters", "--input", "rows.jsonl", "--hop", "2")[1]) == by_two
    (senses / "rows.jsonl").write_text(f"[{','.join(rows[:4])}]\n")
    assert len(lines_of(say("infer", "meters", "--input", "rows.jsonl")[1])) == 1
    (senses / "rows.jsonl").write_text(
        '[60, "on"]\n{"row": [30, "off"]}\n{"heat": 30, "state": "on"}'
    )
    out = say("infer", "single", "--input", "rows.jsonl")[1]
    assert [one["anomalous"] for one in lines_of(out)] == [True, False, False]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "column heat is missing, the first line has nothing"),
        ("heat\n1\n", "column state is missing, the first line has heat"),
        ("heat,state,heat\n", "two columns share a name"),
        ("heat,state\n1\n", "line 2: 1 cells for 2 columns"),
        ("heat,state\n1,on\n\nx,on\n", "line 4: row: heat is 'x', expected a number"),
        ("heat,state\n1,gone\n", "line 2: row: state is 'gone', expected one of off, on"),
        ("heat,state\n1,\xff\n", "line 2: not UTF-8"),
        ('heat,state\n1,"on"x\n', "line 2: not CSV"),
        ("heat,state\nnan,on\n", "line 2: row: heat is nan, expected a finite number"),
        ("heat,state\n" + "1" * (1 << 21) + ",on\n", "line 2: more than 1048576 bytes"),
    ],
)
def test_a_bad_table_is_told_with_its_line(say: Said, senses: Path, table: str, says: str) -> None:
    (senses / "bad.csv").write_bytes(table.encode("latin-1"))
    code, _, err = say("infer", "single", "--input", "bad.csv")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("edge-agent: bad.csv")
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["colours", "--input", "red.png", "--hop", "3"], "a hop is of a series in rows, or of a"),
        (["meters", "--input", "meters.csv", "--hop", "1.5"], "hop is 1.5, expected whole rows"),
        (["single", "--input", "meters.csv", "--hop", "2"], "one row, not a window of a series"),
        (["pumps", "--input", "meters.csv", "--hop", "2"], "a hop is of a series in rows, or of a"),
    ],
)
def test_a_hop_where_nothing_moves_is_refused(say: Said, arguments: list[str], says: str) -> None:
    code, out, err = say("infer", *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert says in err


def test_listen_says_what_it_hears_in_a_file(say: Said) -> None:
    code, out, err = say("listen", "tones", "speech.wav")
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [
        ["0.58 s", "low"], ["1.38 s", "high"],
    ]  # fmt: skip
    assert "0.46 to 0.56 s, " in out
    assert err.startswith("edge-agent: 91 windows in 1.9 s of sound, ")
    assert "dropped" not in err
    code, out, _ = say("listen", "tones", "speech.wav", "--json", "--threshold", "0.9",
                       "--hop-ms", "10")  # fmt: skip
    assert [one["label"] for one in lines_of(out)] == ["low", "high"]
    assert set(lines_of(out)[0]) == {"label", "score", "start_s", "end_s", "at_s", "latency_ms"}
    assert lines_of(out)[0]["score"] >= 0.9


def test_listen_hears_a_microphone_and_a_file_on_stdin(senses: Path) -> None:
    command = [sys.executable, "-m", "edge_runtime.agent.cli", "listen", str(senses / "tones"), "-",
               "--json"]  # fmt: skip

    def heard(done: subprocess.CompletedProcess[bytes]) -> list[str]:
        assert (done.returncode, b"dropped" in done.stderr) == (0, False), done.stderr
        return [json.loads(line)["label"] for line in done.stdout.splitlines()]

    with (senses / "speech.raw").open("rb") as raw:
        done = subprocess.run(command, stdin=raw, capture_output=True, timeout=60, cwd=ROOT)
    assert heard(done) == ["low", "high"]
    piped = [*command, "--wait"]
    done = subprocess.run(piped, input=pcm(SPEECH), capture_output=True, timeout=60, cwd=ROOT)
    assert heard(done) == ["low", "high"]
    # A microphone that gives all at once is one that the model is too slow for.
    done = subprocess.run(command, input=pcm(SPEECH), capture_output=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0
    assert done.stderr.count(b"\n") == 1


def test_listen_to_a_microphone_answers_while_it_goes_on_and_ends_with_ctrl_c(
    senses: Path,
) -> None:
    command = [sys.executable, "-m", "edge_runtime.agent.cli", "listen", str(senses / "tones"), "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        data = pcm(sound(("", 0.2), ("low", 0.3)))
        for at in range(0, len(data), 320):
            process.stdin.write(data[at : at + 320])
            process.stdin.flush()
            time.sleep(0.005)
        assert b"\tlow\t" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        said = process.stderr.read()
        assert (said.count(b"\n"), b" windows in 0." in said) == (1, True), said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tones", "gone.wav"], "gone.wav: cannot be read (No such file or directory)"),
        (["tones", "fast.wav"], "fast.wav: audio: 16000 samples a second, the model hears 8000"),
        (["tones", "red.png"], "red.png: audio: not a WAV file, it begins with b'"),
        (["colours", "speech.wav"], "takes image, there is nothing to listen to"),
        (["pumps", "speech.wav"], "only a model that gives labels to sounds can listen"),
        (["gone.edge", "speech.wav"], "gone.edge"),
    ],
)
def test_what_cannot_be_listened_to_is_one_sentence(
    say: Said, arguments: list[str], says: str
) -> None:
    code, out, err = say("listen", *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert says in err


def test_an_empty_sound_is_one_sentence(say: Said, senses: Path) -> None:
    (senses / "empty.wav").write_bytes(wav(SPEECH[:0]))
    assert say("listen", "tones", "empty.wav") == (
        1, "", "edge-agent: empty.wav: audio: holds no samples\n",
    )  # fmt: skip
    assert say("infer", "tones", "--input", "empty.wav") == (
        1, "", "edge-agent: empty.wav: audio: holds no samples\n",
    )  # fmt: skip
    cut = wav(SPEECH)[:20_000]
    (senses / "cut.wav").write_bytes(cut)
    code, out, err = say("listen", "tones", "cut.wav")
    assert (code, out.count("low")) == (1, 1)  # What was there was heard.
    assert "cut.wav: audio: the WAV file is cut off, 19956 of 30400 bytes" in err


@pytest.mark.parametrize(("bundle", "name"), [("colours", "empty.png"), ("tones", "empty.wav")])
def test_an_empty_picture_or_sound_is_no_list_of_none(
    say: Said, senses: Path, bundle: str, name: str
) -> None:
    (senses / name).write_bytes(b"")
    code, out, err = say("infer", bundle, "--input", name)
    assert (code, out) == (1, "")
    assert name in err
