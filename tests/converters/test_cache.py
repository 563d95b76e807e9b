"""An entry appears whole or not at all, and is found again by all that it depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from converters.cache import Cache, default_folder, own_source
from converters.configs import ExportConfig
from edge_runtime.errors import DeviceError


def write(out: Path) -> None:
    (out / "result").write_text("done")


def never(out: Path) -> None:
    raise AssertionError("it was cached")


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    parts: dict[str, object] = {"config": ExportConfig(17, "torch"), "path": Path("a")}
    assert not Cache(tmp_path).holds("stage", parts)
    made = Cache(tmp_path).folder("stage", parts, write)
    assert (made / "result").read_text() == "done"
    assert Cache(tmp_path).holds("stage", parts)
    assert Cache(tmp_path).folder("stage", parts, never) == made


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("other", {"config": ExportConfig(17, "torch")}),
        ("stage", {"config": ExportConfig(18, "torch")}),
        ("stage", {"config": ExportConfig(17, "torch"), "seed": 1}),
    ],
)
def test_anything_else_is_another_entry(
    tmp_path: Path, stage: str, parts: dict[str, object]
) -> None:
    cache = Cache(tmp_path)
    cache.folder("stage", {"config": ExportConfig(17, "torch")}, write)
    assert not cache.holds(stage, parts)


def test_another_state_of_our_own_source_computes_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cache(tmp_path).folder("stage", {}, write)
    changed = tmp_path / "converters"
    changed.mkdir()
    (changed / "cache.py").write_text("# a pass that works otherwise")
    monkeypatch.setattr("converters.cache.__file__", str(changed / "cache.py"))
    own_source.cache_clear()
    try:
        assert not Cache(tmp_path).holds("stage", {})
    finally:
        own_source.cache_clear()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def half(out: Path) -> None:
        write(out)
        raise ValueError("power cut")

    cache = Cache(tmp_path)
    with pytest.raises(ValueError, match="power cut"):
        cache.folder("stage", {}, half)
    assert not cache.holds("stage", {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_half_entry_of_a_crash_is_replaced(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made = cache.folder("stage", {}, write)
    (made / "key.json").unlink()
    assert (cache.folder("stage", {}, write) / "key.json").is_file()


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match=r"cache .*file"):
        Cache(tmp_path / "file").folder("stage", {}, write)


def test_a_full_disk_is_one_sentence_whoever_writes(tmp_path: Path) -> None:
    def full(out: Path) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    with pytest.raises(DeviceError, match=r"stage: .*No space left"):
        Cache(tmp_path).folder("stage", {}, full)


def test_the_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("EDGE_CACHE", raising=False)
    assert default_folder() == Path("/xdg/edge-runtime")
    monkeypatch.setenv("EDGE_CACHE", "/chosen")
    assert default_folder() == Path("/chosen")
