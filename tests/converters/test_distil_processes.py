"""A training that is killed goes on to the same weights; two processes take the steps of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.cache import Cache
from converters.data import load_dataset
from converters.distil.__main__ import main
from converters.distil.checkpoint import Checkpoint
from converters.model import Job
from converters.network import HEAD_FILE, load_encoder, new_head, save_encoder, save_head
from converters.pipeline import begin, run_passes
from converters.progress import Silent
from converters.recipe import load_recipe
from edge_runtime.profile import load_profile
from tests.converters.small import FINETUNE, write_recipe

SETTINGS = {"depth": 1, "epochs": 2, "batch": 25, "lr": 1e-3, "precision": "float32", "rows": 110,
            "max_length": 24, "label": 0.5, "similarity": 1.0, "hidden": 0.5,
            "relation": 0.5}  # fmt: skip
FILES = {"train": "train.jsonl", "calibration": "calibration.jsonl", "test": "test.jsonl.xz"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process is told, apart from its cache: a teacher that answers something."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(11)
    save_encoder(load_encoder(workshop / "encoder"), folder / "encoder")
    save_head(new_head(128, 4), folder)
    tokenizer = json.loads((workshop / "encoder" / "tokenizer.json").read_text())
    tokenizer["padding"] = tokenizer["truncation"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return {
        "workshop": str(workshop),
        "encoder": str(folder / "encoder"),
        "head": str(folder / HEAD_FILE),
        "tokenizer": str(folder / "tokenizer.json"),
        "settings": SETTINGS,
    }


def run(told: dict[str, Any], folder: Path, *, kill_at: int = 0, processes: int = 1) -> int:
    """The exit code of a distillation with its cache in `folder`; figures go to out.json."""
    folder.mkdir(exist_ok=True)
    path = folder / "told.json"
    more = {"cache": str(folder / "cache"), "out": str(folder / "out.json"), "kill_at": kill_at}
    path.write_text(json.dumps(told | more))
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    one_core = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, "tests.converters.student_process", str(path)],
        cwd=ROOT, env=os.environ | one_core, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    if not kill_at:
        assert done.returncode == 0, done.stderr[-3000:]
    return done.returncode


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


@pytest.fixture(scope="module")
def alone(told: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of one process that nothing happens to."""
    folder = tmp_path_factory.mktemp("alone")
    run(told, folder)
    return figures(folder)


def test_killed_and_started_again_it_ends_with_the_same_weights(
    told: dict[str, Any], alone: dict[str, Any], tmp_path: Path
) -> None:
    assert run(told, tmp_path, kill_at=5) == -signal.SIGKILL
    (left,) = (tmp_path / "cache").rglob("*.unfinished")
    assert torch.load(left, weights_only=True)["step"] == 5
    run(told, tmp_path)
    done = figures(tmp_path)
    assert (done["encoder"], done["head"]) == (alone["encoder"], alone["head"])
    assert done["history"] == alone["history"]
    assert not list((tmp_path / "cache").rglob("*.unfinished*"))


def test_two_processes_take_the_steps_of_one(
    told: dict[str, Any], alone: dict[str, Any], tmp_path: Path
) -> None:
    run(told, tmp_path, processes=2)
    both = figures(tmp_path)
    assert both["processes"] == 2
    assert [point[0] for point in both["history"]] == [point[0] for point in alone["history"]]
    losses = [[point[1] for point in one["history"]] for one in (both, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[1][-1] < 0.9 * losses[1][0]
    assert both["held_out"]["cosine"] == pytest.approx(alone["held_out"]["cosine"], abs=1e-3)


def test_a_checkpoint_that_was_cut_short_is_none(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "folder" / "one", seconds=0)
    assert checkpoint.load() is None
    checkpoint.save({"step": 4, "learner": {"weight": torch.ones(3)}})
    found = checkpoint.load()
    assert found is not None
    assert found["step"] == 4
    path = tmp_path / "folder" / "one"
    path.write_bytes(path.read_bytes()[:-20])
    assert checkpoint.load() is None
    path.with_name("one.4711").write_bytes(b"half of one")
    checkpoint.remove()
    checkpoint.remove()
    assert list((tmp_path / "folder").iterdir()) == []


def test_checkpoints_are_written_now_and_then(tmp_path: Path) -> None:
    assert not Checkpoint(tmp_path / "one", seconds=60).due
    assert Checkpoint(tmp_path / "one", seconds=0).due


def test_the_launched_command_leaves_its_results_where_a_conversion_finds_them(
    workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = FINETUNE | {"epochs": "1", "rows": "32"}
    passes = "".join(f"{key} = {value}\n" for key, value in trained.items())
    path = write_recipe(
        tmp_path / "recipe.toml",
        source={"model": f'"{workshop / "encoder"}"'},
        data={name: f'"{workshop / file}"' for name, file in FILES.items()},
        passes=f'[[pass]]\nkind = "finetune"\n{passes}[[pass]]\nkind = "distil"\nrows = 64\n'
        + "".join(f'[[pass]]\nkind = "{kind}"\n' for kind in ("export", "verify", "package")),
    )
    assert main([str(path), "--cache", str(tmp_path / "cache")]) == 0
    recipe = load_recipe(path)
    job = Job(
        recipe, load_profile(str(workshop / "board.toml")), load_dataset(recipe.data, recipe.task),
        Cache(tmp_path / "cache"), Silent(), tmp_path,
    )  # fmt: skip
    done = run_passes(begin(recipe, job.data, job.cache), recipe.passes[:2], job)
    assert done.passes["distil"]["cached"] is True
    assert main([str(workshop / "recipe.toml"), "--cache", str(tmp_path / "cache")]) == 1
    assert "has no distil pass" in capfd.readouterr().err
