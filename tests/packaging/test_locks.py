"""The locks in the checkout fit pyproject.toml and what the tests run on, and name no host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.checkout import ROOT, module

locks: Any = module("locks")
suites: Any = module("suites")

TARGETS = [
    suites.Target(suite, arch)
    for suite in suites.SUITES.values()
    for arch in suites.ARCHES.values()
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
class TestEachLock:
    def test_it_meets_what_pyproject_asks_for(self, target: Any) -> None:
        pins = {pin.name: pin.version for pin in locks.read_lock(target)}
        asked = locks.device_requirements(ROOT / "pyproject.toml", target)
        assert {"onnxruntime", "ai-edge-litert", "pillow"} <= {each.name for each in asked}
        for each in asked:
            assert each.specifier.contains(pins[canonicalize_name(each.name)]), str(each)

    def test_it_has_the_versions_that_the_tests_run_on(self, target: Any) -> None:
        file = ROOT / "constraints" / locks.CONSTRAINTS[target.suite.python_version]
        tested = locks.tested_versions(file, target)
        pins = locks.read_lock(target)
        checked = [pin for pin in pins if pin.name in tested]
        assert {"numpy", "onnxruntime", "ai-edge-litert"} <= {pin.name for pin in checked}
        for pin in checked:
            assert tested[pin.name] == f"=={pin.version}"

    def test_it_pins_each_wheel_by_one_hash_and_names_no_host(self, target: Any) -> None:
        text = locks.lock_file(target).read_text()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        for line in lines:
            assert re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]* --hash=sha256:[0-9a-f]{64}", line), line
        names = [line.partition("==")[0] for line in lines]
        assert names == sorted(set(names))
        assert "://" not in text

    def test_no_engine_that_reports_to_its_vendor_is_in_it(self, target: Any) -> None:
        [version] = [pin.version for pin in locks.read_lock(target) if pin.name == "onnxruntime"]
        assert tuple(map(int, version.split("."))) < (1, 28)


def test_markers_are_judged_by_the_target_and_not_by_this_python() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert any(Requirement(line).name == "tomli" for line in re.findall(r'"(tomli>=[^"]+)"', text))
    by_suite = {
        target.suite.name: {pin.name for pin in locks.read_lock(target)} for target in TARGETS
    }
    assert "tomli" in by_suite["jammy"]
    assert "tomli" not in by_suite["deb12"] | by_suite["deb13"]


def test_a_line_that_is_no_pin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCKS", tmp_path)
    (tmp_path / "deb12-arm64.txt").write_text("numpy==2.0\n")
    target = suites.Target(suites.SUITES["deb12"], suites.ARCHES["arm64"])
    with pytest.raises(suites.PackagingError, match="expected NAME==VERSION"):
        locks.read_lock(target)
