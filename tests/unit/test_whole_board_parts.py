"""The parts of the whole-board harness that need no board: image, card, firmware's words, page."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError
from tests.board import host
from tests.board.whole import base, bundles, page
from tests.board.whole.card import Card
from tests.board.whole.contract import Agreement
from tests.board.whole.fleet import board_profile, patient
from tests.board.whole.story import Outcome

needs_tools = pytest.mark.skipif(
    any(host._found(name) is None for name in ("sfdisk", "mkfs.vfat", "mcopy", "mke2fs")),
    reason="tools for images are not installed",
)
CARD_BYTES = 640 << 20


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    monkeypatch.setattr(base, "ROOM_MIB", 8)
    tree = tmp_path / "tree"
    (tree / "etc" / "edge-agent").mkdir(parents=True)
    (tree / "etc" / "edge-agent" / "device.key").write_text("secret")
    (tree / "etc" / "edge-agent" / "device.key").chmod(0o600)
    base._write(tmp_path / "base.img", tree, base.OVERLAY / "boot-bookworm")
    return Card(tmp_path, tmp_path / "base.img", CARD_BYTES)


@needs_tools
def test_an_image_has_what_a_raspberry_pi_starts_from_and_its_file_system_is_whole(
    card: Card,
) -> None:
    found = card.resting()
    assert "root=PARTUUID=1ab0c0de-02" in found.boot_text("cmdline.txt")
    assert found.names("/etc") == ["edge-agent"]
    assert found.names("/no/such") == []
    mode, user = found.modes("/etc/edge-agent")["device.key"]
    assert (mode & 0o777, user) == (0o600, 0)
    assert found.text("/etc/edge-agent/device.key") == "secret"
    found.repair()


@needs_tools
def test_a_jetsons_image_has_one_partition_and_no_fat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ROOM_MIB", 8)
    (tmp_path / "tree" / "etc").mkdir(parents=True)
    base._write_gpt(tmp_path / "base.img", tmp_path / "tree")
    found = Card(tmp_path, tmp_path / "base.img", CARD_BYTES).resting()
    assert found.boot is None
    assert (found.boot_text("cmdline.txt"), found.boot_bytes()) == ("", b"")
    assert "etc" in found.names("/")
    found.repair()


@needs_tools
def test_a_torn_file_system_is_told(card: Card) -> None:
    found = card.resting()
    with found.image.open("r+b") as file:
        file.seek(found.root_at + 4096)
        file.write(b"\xff" * 65536)
    with pytest.raises(DeviceError, match="e2fsck"):
        found.repair()


def test_the_boards_profile_and_settings_allow_for_an_emulator(tmp_path: Path) -> None:
    from edge_runtime.profile import load_profile

    path = tmp_path / f"{bundles.PROFILE}.toml"
    path.write_text(board_profile())
    profile = load_profile(str(path))
    assert profile.name == bundles.PROFILE
    assert profile.budget.latency_ms > 60_000
    assert "interval_s = 5.0" in patient("[telemetry]\n# interval_s = 10.0\n")


def test_the_page_says_that_it_is_emulated_and_keeps_the_other_flavours_figures(
    tmp_path: Path,
) -> None:
    path = tmp_path / "board.md"
    for flavour in ("bookworm", "trixie", "bookworm"):
        outcome = Outcome("tiny", flavour, seconds={f"boot of {flavour}": 61.5})
        outcome.agreements.append(Agreement("ort-int8", "cosine", 0.97, 3, 0.99, 0.9905, 1e-3))
        page.write(path, outcome)
    text = path.read_text()
    assert text.count("| boot of bookworm | 61.5 |") == text.count("| boot of trixie | 61.5 |") == 1
    assert " ".join(text.split()).count("no board was measured") == 3
    assert "0.99000 on the board and 0.99050 on x86-64" in " ".join(text.split())


def test_a_board_below_the_floor_is_broken() -> None:
    assert Agreement("v", "cosine", 0.97, 3, 0.98, 0.99, 0.0).broken == []
    (fault,) = Agreement("v", "cosine", 0.97, 3, 0.90, 0.99, 0.0).broken
    assert "on the board" in fault
