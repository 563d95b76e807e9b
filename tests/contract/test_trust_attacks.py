"""What a device makes of attacks on signed metadata, out of a folder and from a broker alike.

For each row of `tests.fakes.attacks`: the client says what is wrong in one sentence; nothing that
is not honest is kept, and nothing older than before; and once the attack ends, the client goes on.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.attacks import ATTACKS, Attack, Scene
from tests.fakes.places import Device, Place
from tests.fakes.signed import SignedRepository


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves is another test's business; these would sync ten thousand files."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_attack_on_metadata(attack: Attack, place: Place, tmp_path: Path) -> None:
    repo = SignedRepository()
    repo.add("demo@1.0.0@board.json", b"{}")
    repo.publish()
    device = Device(tmp_path, place, repo)
    scene = Scene(repo, device.readings)
    scene.follow = lambda: device.refresh(scene.asks)
    if not attack.fresh:
        scene.follow()

    attack.do(scene)
    before = device.versions()
    if attack.error is None:
        device.refresh(scene.asks, scene.patience_s)
    else:
        with pytest.raises(attack.error, match=attack.says) as caught:
            device.refresh(scene.asks, scene.patience_s)
        assert len(str(caught.value).splitlines()) == 1
        assert "Error" not in str(caught.value)

    after = device.versions()
    assert all(after[name] >= before[name] for name in before)
    if not attack.stolen:
        assert set(device.kept().values()) <= repo.ever
    assert list(device.folder.glob("**/*.tmp")) == []

    # The attack is over.
    repo.files = dict(repo.honest)
    repo.now_s = device.readings.wall_s
    if attack.recover is not None:
        attack.recover(scene)
    repo.add("demo@1.1.0@board.json", b"{}")
    repo.publish(*repo.all_roles)
    trusted = device.refresh("demo@1.1.0@board.json")
    assert trusted.targets_version == repo.targets.version
    assert trusted.root_version == repo.root.version
    assert trusted.time_s == pytest.approx(repo.now_s)
    device.refresh(scene.asks)
