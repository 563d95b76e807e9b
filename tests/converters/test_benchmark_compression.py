"""The benchmark against other tools: its figures, its protocol, and what fails becomes a line."""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compression import __main__ as command
from benchmarks.compression import environments
from benchmarks.compression.builds import Built
from benchmarks.compression.catalogue import BASE, PEERS, Peer
from benchmarks.compression.environments import HOST, PeerError, version
from benchmarks.compression.figures import difference, mcnemar, neighbours, recalls, right
from benchmarks.compression.measure import better, measure, slower
from benchmarks.compression.peer import Inputs
from benchmarks.compression.process import PeerProcess
from benchmarks.compression.reference import CLASSIFICATION, Reference
from benchmarks.compression.rows import Rows, load_rows, padded
from converters.network import new_head, save_head
from converters.progress import Silent
from tests.converters import small
from tests.fakes.tiny import VARIANTS, tiny_folder

PEER = """
import sys, time
import numpy as np
from benchmarks.compression import peer

class Module:
    def load(self, folder, variant):
        def run(ids):
            if variant == "fails":
                raise ValueError("no kernel\\nfor this")
            if variant == "slow":
                time.sleep(0.02)
            return np.eye(2, dtype=np.float32)[int(ids[0] % 2)]
        return run

print("a toolchain greets", file=sys.stderr)
peer.serve(Module(), sys.argv[1], None, sys.stdin, sys.stdout)
"""
SILENT = "import time; time.sleep(60)"
GARBAGE = "print('hello')"
CRASH = "import sys; sys.exit('no such wheel')"


def contender(name: str, *words: str) -> Built:
    return Built(name, name, (sys.executable, "-c", *words), 100)


def tiny_reference(folder: Path) -> Reference:
    """Four rows of class 0, 1, 0, 1; the tiny peer answers 0, 1, 1, 1."""
    rows = Rows(("a", "b", "c", "d"), tuple(np.array([n, 1]) for n in (2, 3, 5, 7)))
    rows.save(folder / "rows.npz")
    return Reference(
        name="tiny",
        task=CLASSIFICATION,
        inputs=Inputs(folder, folder, None, folder, "bert", 1, 1, 0, (16,)),
        inputs_file=folder / "inputs.json",
        rows_file=folder / "rows.npz",
        rows=rows,
        targets=np.array([0, 1, 0, 1]),
        embeddings=None,
        digest="",
    )


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 9, 2 * 11 / 1024),  # (C(10, 0) + C(10, 1)) / 2**10, both tails
        (0, 4, 2 / 16),
        (3000, 3000, 1.0),  # 2**6000 is no float
    ],
)
def test_mcnemar_counts_the_rows_on_which_one_alone_is_right(
    only_first: int, only_second: int, expected: float
) -> None:
    first = np.array([1.0] * only_first + [0.0] * only_second + [1.0, 0.0] * 50)
    second = np.array([0.0] * only_first + [1.0] * only_second + [1.0, 0.0] * 50)
    assert mcnemar(first, second) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(second, first) == pytest.approx(expected, abs=1e-12)


def test_a_difference_has_the_interval_of_the_paired_rows() -> None:
    first = np.array([1.0] * 900 + [0.0] * 100)
    second = np.array([1.0] * 880 + [0.0] * 120)
    found = difference(first, second)
    # Twenty rows differ, all one way: far narrower than two intervals of 1,000 rows would be.
    spread = 1.96 * (0.02 * 0.98 / 1000) ** 0.5
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - spread, 0.02 + spread), abs=1.5e-3)
    assert found.p == pytest.approx(2 / 2**20)


def test_a_row_that_is_not_finite_is_wrong() -> None:
    logits = np.array([[np.nan, 0], [0, 1], [1, 0]], np.float32)
    assert right(logits, np.array([0, 1, 1])).tolist() == [0, 1, 0]


def test_neighbours_leave_the_query_out_and_see_no_length() -> None:
    vectors = np.array([[1, 0], [9, 1], [0, 1], [0.1, 5]], np.float32)
    assert neighbours(vectors, 2).tolist() == [[1, 3], [0, 3], [3, 1], [2, 1]]


def test_recall_is_of_the_reference_neighbours_in_any_order() -> None:
    found = np.array([[3, 1], [2, 0]])
    assert recalls(found, np.array([[1, 3], [3, 2]])).tolist() == [1, 0.5]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = Rows(("ein Würfel", "x\ny"), (np.array([101, 5, 102]), np.array([101])))
    rows.save(tmp_path / "rows.npz")
    again = load_rows(tmp_path / "rows.npz")
    assert again.texts == rows.texts
    assert [ids.tolist() for ids in again.ids] == [[101, 5, 102], [101]]
    ids, mask = padded(again.ids[0], 5)
    assert (ids.tolist(), mask.tolist()) == ([[101, 5, 102, 0, 0]], [[1, 1, 1, 0, 0]])


def test_inputs_come_back_as_they_were_written() -> None:
    inputs = Inputs(Path("m"), Path("e"), None, Path("c"), "bert", 12, 384, 0, (16, 128))
    assert Inputs.from_json(inputs.to_json()) == inputs


def test_contenders_are_measured_in_turn_and_a_failing_one_leaves_with_a_sentence(
    tmp_path: Path,
) -> None:
    everybody = [
        contender("quick", PEER, "quick"),
        contender("fails", PEER, "fails"),
        contender("slow", PEER, "slow"),
        contender("crash", CRASH),
        contender("garbage", GARBAGE),
        Built("missing", "missing", ("/no/such/python",), 100),
    ]
    reference = tiny_reference(tmp_path)
    found = measure(everybody, reference, (16,), 3, tmp_path, Silent())
    quick, fails, slow, crash, garbage, missing = found
    assert (quick.error, slow.error) == ("", "")
    assert quick.score() == slow.score() == 0.75
    assert len(quick.rounds_ms[16]) == 3
    p50 = slow.p50_ms(16)
    assert p50 is not None
    assert p50 >= 20
    ratio = slower(slow, quick, 16)
    assert ratio is not None
    assert ratio > 10
    assert fails.error == "ValueError: no kernel for this"
    assert crash.error == "ended with code 1 (no such wheel)"
    assert garbage.error == "said b'hello', which is no JSON"
    assert missing.error.startswith("cannot be started")
    assert fails.score() is fails.p50_ms(16) is slower(fails, quick, 16) is None
    same = better(quick, slow)
    assert same is not None
    assert (same.mean, same.p) == (0, 1)


def test_a_tool_that_hangs_is_ended(tmp_path: Path) -> None:
    with PeerProcess([sys.executable, "-c", SILENT], tmp_path / "log", limit_s=0.5) as process:
        with pytest.raises(PeerError, match=r"no reply within 0\.5 s"):
            process.reply()
        with pytest.raises(PeerError, match="ended with code"):
            process.ask(op="time", length=16, runs=1)


def test_the_catalogue_begins_with_the_base_and_names_environments_that_are_pinned() -> None:
    assert PEERS[0].id == BASE
    assert len({peer.id for peer in PEERS}) == len(PEERS)
    for environment in {peer.environment for peer in PEERS} - {HOST}:
        lines = version(environment).splitlines()
        assert all(line.startswith("#") or "==" in line for line in lines), environment


@pytest.mark.slow
def test_the_command_measures_a_bundle_beside_tools_some_of_which_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "reference"
    small.write_encoder(reference / "encoder")
    (reference / "encoder" / "tokenizer.json").rename(reference / "tokenizer.json")
    _write_splits(tmp_path)
    save_head(new_head(small.HIDDEN, len(small.CLASSES)), reference)
    (tmp_path / "uninstallable.txt").write_text(f"{tmp_path}/no-such-wheel.whl\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    peers = (
        Peer(BASE, "float", "ort", "float"),
        Peer("ort-dynamic", "dynamic", "ort", "dynamic"),
        Peer("broken", "broken", "ort", "no such variant"),
        Peer("uninstallable", "uninstallable", "ort", "float", "uninstallable"),
    )
    monkeypatch.setattr(command, "PEERS", peers)
    bundle = tiny_folder(tmp_path / "bundle")
    words = ["--reference", reference, "--ours", bundle, "--data", tmp_path, "--cache", tmp_path]
    words += ["--out", tmp_path, "--lengths", 16, 48, "--rounds", 2, "--json"]
    assert command.main([str(word) for word in words]) == 0
    (result,) = json.loads(capfd.readouterr().out)["results"]
    *ours, base, dynamic, broken, uninstallable = result["lines"]
    assert (result["metric"], result["n"], result["against"]) == (
        "accuracy",
        100,
        "bundle:ort-float",
    )
    assert [line["id"] for line in ours] == [f"bundle:{variant}" for variant in VARIANTS]
    assert all(line["ours"] and not line["error"] and line["score"] is not None for line in ours)
    assert base["smaller"] == base["faster"] == 1
    assert base["versus"]["mean"] == pytest.approx(base["score"] - ours[0]["score"])
    assert base["size_bytes"] > 6e6
    assert dynamic["smaller"] > 3
    assert dynamic["peak_rss_bytes"] > 20e6
    assert dynamic["build_s"] > 0
    assert set(base["p50_ms"]) == {"16", "48"}
    assert broken["error"] == "KeyError: 'no such variant'"
    assert uninstallable["error"].startswith("environment uninstallable: pip failed")
    assert broken["score"] is uninstallable["size_bytes"] is None
    what = "bundle:ort-int8: faster than the best tool (ort-dynamic)"
    assert what in [row["what"] for row in result["verdict"]]


def _write_splits(folder: Path) -> None:
    for name, each in (("train", 60), ("calibration", 10), ("test", 25)):
        with lzma.open(folder / f"{name}.jsonl.xz", "wt", encoding="utf-8") as out:
            out.write(small.as_lines(small.picked(name, each)))
