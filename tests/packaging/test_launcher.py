"""The interpreter of the agent's children takes modules from its parent's folders and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.packaging.checkout import DEB

WRAPPER = DEB / "files" / "python"


def ask(folder: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", WRAPPER, *words],
        cwd=cwd,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_child_gets_its_parents_folders_and_arguments(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("import sys; print(__name__, sys.argv[1:], sys.executable)")
    done = ask(tmp_path, tmp_path, "-m", "child", "one", "-m", "two")
    assert done.stdout == f"__main__ ['one', '-m', 'two'] {WRAPPER}\n"


def test_the_current_folder_is_never_imported_from(tmp_path: Path) -> None:
    own, hostile = tmp_path / "own", tmp_path / "hostile"
    own.mkdir()
    hostile.mkdir()
    (own / "child.py").write_text("import json, colorsys; print(json.__file__, colorsys.__file__)")
    for name in ("json", "colorsys", "sitecustomize", "child"):
        (hostile / f"{name}.py").write_text("print('hostile')")
    done = ask(own, hostile, "-m", "child")
    assert done.returncode == 0, done.stderr
    assert "hostile" not in done.stdout


def test_anything_but_a_module_is_refused(tmp_path: Path) -> None:
    done = ask(tmp_path, tmp_path, "-c", "print('ran')")
    assert done.returncode != 0
    assert "usage" in done.stderr
    assert "ran" not in done.stdout
