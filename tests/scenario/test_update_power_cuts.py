"""The power is cut at every point of an update: what serves afterwards, and how it goes on.

A point is each side of every rename and removal on the device's disk, and the moment after every
call to its host. After each cut the device boots without a network and must serve the old bundle
or the new one; then the broker is back, and it must end where it would have ended anyway.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.update.journal import Journal
from tests.fakes.fleet import Calls, Device, Fleet, bundle

V1 = bundle("1.0.0", size=150_000)
V2 = bundle("2.0.0", size=150_000)
V3 = bundle("3.0.0", size=150_000, backbone=5)


class PowerCut(BaseException):
    """No code of ours may catch it."""


class Cutter:
    """Cuts the power at the `at`-th point; counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
        self.at = -1
        self.passed = 0
        for name in ("replace", "unlink"):
            monkeypatch.setattr(os, name, self._around(getattr(os, name), str(state)))
        monkeypatch.setattr(Calls, "after", staticmethod(self.point))

    def point(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise PowerCut

    def _around(self, real: Callable[..., None], state: str) -> Callable[..., None]:
        def change(*paths: object) -> None:
            counts = str(paths[0]).startswith(state) and self.at >= 0
            if counts:
                self.point()
            real(*paths)
            if counts:
                self.point()

        return change


def good_update(fleet: Fleet, device: Device) -> None:
    fleet.deploy(device, V2)
    fleet.settle()
    fleet.pass_time(61)


def good_update_twice(fleet: Fleet, device: Device) -> None:
    good_update(fleet, device)
    fleet.deploy(device, V3)
    fleet.settle()
    fleet.pass_time(61)


def failing_self_test(fleet: Fleet, device: Device) -> None:
    device.flaws.fail.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()


def crash_in_trial(fleet: Fleet, device: Device) -> None:
    fleet.deploy(device, V2)
    fleet.settle()
    if device.serving == V2.digest:
        device.flaws.fail.add(V2.digest)
        device.crash()
        fleet.settle()


def second_thoughts(fleet: Fleet, device: Device) -> None:
    device.flaws.hang.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()
    fleet.deploy(device, V1)
    fleet.settle()


def retirement(fleet: Fleet, device: Device) -> None:
    fleet.deploy(device, None)
    fleet.settle()


Story = Callable[[Fleet, Device], None]


@pytest.mark.parametrize(
    ("story", "may_serve", "in_the_end"),
    [
        (good_update, {V1, V2}, V2),
        (good_update_twice, {V1, V2, V3}, V3),
        (failing_self_test, {V1}, V1),
        (crash_in_trial, {V1, V2}, V1),
        (second_thoughts, {V1}, V1),
        (retirement, {V1, None}, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_power_cut_at_any_point_ends_in_the_old_bundle_or_the_new(
    story: Story,
    may_serve: set[object],
    in_the_end: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tmp_path / "base"
    before = Fleet(base)
    before.update(before.add("a"), V1)
    digests = {getattr(made, "digest", None) for made in may_serve}
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        shutil.copytree(base, folder)
        fleet = Fleet(folder)
        for made in (V1, V2, V3):
            fleet.publish(made)
        device = fleet.add("a")
        fleet.deploy(device, V1)
        fleet.settle()
        with monkeypatch.context() as patch:
            cutter = Cutter(patch, folder)
            cutter.at = at
            try:
                story(fleet, device)
            except PowerCut:
                device.power_cut()
            else:
                assert cutter.passed < at
                assert device.serving == getattr(in_the_end, "digest", None)
                break
        assert Journal(device.state / "journal.json").load() is not None
        fleet.broker.go_offline()
        device.boot()
        fleet.settle()
        assert device.serving in digests, f"after a cut at point {at}"
        fleet.broker.go_online()
        story(fleet, device)
        fleet.pass_time(61)
        assert device.serving == getattr(in_the_end, "digest", None), f"after a cut at point {at}"
        assert device.status.state == "idle"
        shutil.rmtree(folder)
    assert at > 10


def test_a_power_cut_at_any_point_of_the_first_installation_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 0
    while True:
        at += 1
        fleet = Fleet(tmp_path / str(at))
        fleet.publish(V1)
        device = fleet.add("a")
        with monkeypatch.context() as patch:
            cutter = Cutter(patch, fleet.folder)
            cutter.at = at
            try:
                fleet.deploy(device, V1)
                fleet.settle()
                fleet.pass_time(61)
            except PowerCut:
                device.power_cut()
            else:
                break
        device.boot()
        fleet.pass_time(61)
        assert device.serving == V1.digest, f"after a cut at point {at}"
        assert device.status.refused == ()
    assert at > 10


def test_power_that_fails_again_and_again_still_ends_in_a_bundle_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path)
    device = fleet.add("a")
    fleet.update(device, V1)
    fleet.publish(V2)
    fleet.deploy(device, V2)
    for at in range(1, 60):
        with monkeypatch.context() as patch:
            cutter = Cutter(patch, fleet.folder)
            cutter.at = at % 7 + 3
            try:
                device.power_cut()
                device.boot()
                fleet.settle()
            except PowerCut:
                continue
    device.reboot()
    fleet.pass_time(200)
    assert device.serving in (V1.digest, V2.digest)
    assert device.status.state == "idle"
