"""The operator's side of the agent's own update: packages as a release, wishes, verdicts."""

from __future__ import annotations

import dataclasses
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge_runtime.bundle.agent_package import package_in
from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.errors import EdgeError, InputError, UntrustedError
from edge_runtime.fleet.agent_publish import PackageReader, open_given
from edge_runtime.fleet.agent_rollout import line, plan, platform_of, verdict
from edge_runtime.fleet.choice import choose
from edge_runtime.fleet.inventory import Device
from edge_runtime.fleet.publish import publish
from edge_runtime.fleet.rollout import Outcome
from edge_runtime.fleet.rollout import plan as plan_bundle
from edge_runtime.fleet.show import status_table
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import (
    Desired,
    DesiredAgent,
    Refusal,
    Release,
    Reported,
    ReportedAgent,
    to_bytes,
)
from tests.fakes import debs
from tests.fakes.bundles import write_bundle
from tests.fakes.messages import RELEASE
from tests.fakes.operators import IDLE, TOPICS, keep, operator

PI = "python3.11-aarch64"
JETSON = "python3.10-aarch64"
AGENT = dataclasses.replace(RELEASE, name="edge-agent", version="0.2.0", profile=PI)
DIGEST = AGENT.manifest.sha256
CHANGES: tuple[dict[str, Any], ...] = ({"name": "edge-agent"}, {"task": "agent"})


def packages(folder: Path, version: str = "0.2.0") -> list[Path]:
    """For two platforms."""
    made = []
    for python in ("3.11", "3.10"):
        path = folder / f"{python}-{version}.deb"
        files = {"edge_runtime/a.py": python.encode() * 9000, "numpy/core.so": bytes(70_000)}
        path.write_bytes(
            debs.deb(debs.tree(files), debs.control(version, python=python, arch="arm64"))
        )
        made.append(path)
    return made


def stands(**changed: Any) -> ReportedAgent:
    return dataclasses.replace(ReportedAgent(PI, "", 0, "idle", None, (), None, ""), **changed)


def device(agent: ReportedAgent | None, desired: Desired | None = None) -> Device:
    return Device("d", online=True, reported=said(agent), desired=desired)


def said(agent: ReportedAgent | None) -> Reported:
    return dataclasses.replace(IDLE, agent_version="0.1.0", agent=agent)


# Publishing.


def test_packages_of_several_platforms_are_one_release_and_the_same_bytes_every_time(
    tmp_path: Path,
) -> None:
    one, two = packages(tmp_path)
    data = PackageReader([one, two]).read(MANIFEST_NAME, 1 << 20)
    assert PackageReader([two, one]).read(MANIFEST_NAME, 1 << 20) == data
    manifest = Manifest.from_bytes(data)
    assert (manifest.name, manifest.version, manifest.task) == ("edge-agent", "0.2.0", "agent")
    assert manifest.profiles == (JETSON, PI)
    assert package_in(manifest, PI).size_bytes == one.stat().st_size
    with pytest.raises(EdgeError, match="this device is python3"):
        package_in(manifest, "python3.13-x86_64")


def test_a_device_fetches_the_package_of_its_platform_only(tmp_path: Path) -> None:
    broker = MemoryBroker()
    with operator(broker) as connection:
        made = publish(connection, open_given(packages(tmp_path)))
    assert [release.profile for release in made.releases] == [JETSON, PI]
    manifest = Manifest.from_bytes(open_given(packages(tmp_path)).read(MANIFEST_NAME, 1 << 20))
    mine = manifest.files_of(manifest.variants_for(PI))
    assert [entry.path for entry in mine] == ["packages.json", f"{PI}.deb"]
    assert made.releases[1].size_bytes == sum(entry.size_bytes for entry in mine)


def test_what_does_not_go_together_is_refused_in_a_sentence(tmp_path: Path) -> None:
    one, two = packages(tmp_path)
    (newer, _) = packages(tmp_path, "0.3.0")
    other = tmp_path / "other.deb"
    other.write_bytes(debs.small(Package="curl"))
    text = tmp_path / "text.deb"
    text.write_text("text.\n")
    bundle = write_bundle(tmp_path / "bundle")[0]
    for paths, why in (
        ([one, one], "is for python3.11-aarch64, as"),
        ([two, newer], "found versions 0.2.0, 0.3.0"),
        ([one, bundle], "expected one bundle, or nothing but packages"),
        ([bundle, bundle], "expected one bundle"),
        ([other], "expected edge-agent"),
        ([tmp_path / "none.deb"], "none.deb: no such file or folder"),
        ([tmp_path / "none.deb", one], "none.deb: no such file or folder"),
        ([text], "text.deb: is no Debian package"),
        ([one, text], "text.deb: is no Debian package"),
    ):
        with pytest.raises(InputError, match=why):
            open_given(paths)


def test_what_is_no_package_is_a_bundle_as_ever(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")[0]
    pack(FolderReader(folder), tmp_path / "x.deb")  # A name says nothing.
    assert open_given([tmp_path / "x.deb"]).names()[0] == MANIFEST_NAME


def test_a_bundle_may_not_take_the_agent_s_name_nor_its_task(tmp_path: Path) -> None:
    for number, changed in enumerate(CHANGES):
        folder = write_bundle(tmp_path / str(number), **changed)[0]
        with (
            operator(MemoryBroker()) as connection,
            pytest.raises(InputError, match="kept for packages of the agent"),
        ):
            publish(connection, FolderReader(folder))


# The desired state.


def test_the_agent_is_desired_beside_the_bundle_and_neither_touches_the_other() -> None:
    before = Desired(4, RELEASE, 1)
    made = plan(device(stands(revision=3), before), AGENT)
    assert made.desired == Desired(5, RELEASE, 1, DesiredAgent(AGENT))
    after = plan_bundle(
        device(stands(), made.desired), dataclasses.replace(RELEASE, version="9.0.0")
    )
    assert after.desired.agent == DesiredAgent(AGENT)
    again = plan(device(stands(), made.desired), AGENT)
    assert not again.changed


def test_a_bundle_that_was_installed_by_hand_is_left_alone() -> None:
    made = plan(device(stands()), AGENT)
    assert made.desired.keeps
    sent = json.loads(made.desired.to_bytes())
    assert "release" not in sent, "an explicit null would take the bundle away"
    assert Desired.from_bytes(made.desired.to_bytes()) == made.desired


def test_a_desired_state_with_neither_is_malformed_as_ever() -> None:
    with pytest.raises(UntrustedError, match="release is missing"):
        Desired.from_bytes(b'{"format": 1, "revision": 1, "agent": null}')


def test_a_retry_raises_the_attempt_above_the_refusal() -> None:
    refused = (Refusal(DIGEST, 2, "it ended by itself", "edge-agent", "0.2.0"),)
    it = device(stands(refused=refused), Desired(1, RELEASE, 0, DesiredAgent(AGENT, 2)))
    assert "--retry" in plan(it, AGENT).warnings[0]
    assert plan(it, AGENT, retry=True).desired.agent == DesiredAgent(AGENT, 3)


# Which release.


def chosen(it: Device, *releases: Release, profile: str | None = None) -> tuple[Release, ...]:
    broker = MemoryBroker()
    for release in releases:
        keep(broker, TOPICS.metadata(release.file), release.to_bytes())
    with operator(broker) as connection:
        return choose(connection, "edge-agent", "0.2.0", [it], profile, platform_of)


def test_a_board_gets_the_release_of_its_platform() -> None:
    other = dataclasses.replace(AGENT, profile=JETSON)
    assert chosen(device(stands()), AGENT, other) == (AGENT,)
    assert chosen(Device("new"), AGENT, other, profile=JETSON) == (other,)
    with pytest.raises(InputError, match=r"d has profile python3\.11-aarch64"):
        chosen(device(stands()), other)
    with pytest.raises(InputError) as error:
        chosen(Device("new"), AGENT, other)
    assert str(error.value) == (
        f"release edge-agent==0.2.0: published for {JETSON}, {PI}, and new never reported which it "
        f"is; say which of these, as in --profile {JETSON}; nothing was deployed"
    )


def test_an_agent_that_cannot_update_itself_is_named() -> None:
    with pytest.raises(InputError, match=r"its agent \(0\.1\.0\) does not\s+update itself"):
        chosen(device(None), AGENT)


# The verdict.

WISH = Desired(7, RELEASE, 0, DesiredAgent(AGENT, 1))


@pytest.mark.parametrize(
    ("agent", "outcome", "reason"),
    [
        (None, Outcome.WAITING, "does not update itself"),
        (stands(revision=6), Outcome.WAITING, "has not seen"),
        (stands(revision=7, state="fetching"), Outcome.WAITING, "fetching"),
        (
            stands(revision=7, state="activating", running=DIGEST),
            Outcome.WAITING,
            "activating",
        ),
        (stands(revision=7, active=AGENT.ref), Outcome.WAITING, "idle"),
        (stands(revision=7, active=AGENT.ref, running=DIGEST), Outcome.SERVING, ""),
        (
            stands(revision=7, refused=(Refusal(DIGEST, 1, "it crashed"),)),
            Outcome.REFUSED,
            "it crashed",
        ),
        (stands(revision=7, refused=(Refusal(DIGEST, 0, "long ago"),)), Outcome.WAITING, "idle"),
    ],
)
def test_an_agent_counts_once_it_runs_and_is_past_its_trial(
    agent: ReportedAgent | None, outcome: Outcome, reason: str
) -> None:
    found = verdict(WISH, said(agent))
    assert found.outcome is outcome
    assert reason in found.reason
    assert verdict(WISH, None).outcome is Outcome.WAITING


def test_a_line_for_each_outcome_says_what_it_came_to() -> None:
    made = plan(device(stands()), AGENT)
    lines = [
        line("edge-agent 0.2.0", made, verdict(WISH, said(agent)), 60)
        for agent in (
            stands(revision=7, active=AGENT.ref, running=DIGEST),
            stands(revision=7, refused=(Refusal(DIGEST, 1, "it crashed"),)),
            stands(revision=7, state="testing"),
        )
    ]
    assert lines == [
        "d: runs edge-agent 0.2.0",
        "d: refused edge-agent 0.2.0: it crashed",
        "d: does not run edge-agent 0.2.0 after 60 s: testing",
    ]


def test_what_is_reported_survives_the_wire_and_older_devices_are_read() -> None:
    report = said(stands(refused=(Refusal(DIGEST, 1, "why", "edge-agent", "0.2.0"),)))
    assert Reported.from_bytes(to_bytes(report)) == report
    old = json.loads(to_bytes(report))
    del old["agent"]
    assert Reported.from_bytes(json.dumps(old).encode()).agent is None


def test_status_shows_the_agent_that_a_board_never_seen_is_to_run() -> None:
    console = Console(width=200, file=StringIO())
    console.print(status_table([Device("new", desired=Desired(1, None, 0, DesiredAgent(AGENT)))]))
    assert isinstance(console.file, StringIO)
    heads, row = console.file.getvalue().splitlines()
    assert heads.split()[6:] == ["AGENT", "WANTED"]
    assert "not yet 0.2.0: it has not reported anything" in row


def test_status_shows_the_agent_where_one_can_update_itself() -> None:
    refused = stands(revision=7, refused=(Refusal(DIGEST, 1, "it crashed"),))
    console = Console(width=200, file=StringIO())
    console.print(status_table([device(refused, WISH), device(None)]))
    assert isinstance(console.file, StringIO)
    heads, first, second = console.file.getvalue().splitlines()
    assert heads.split()[6:] == ["AGENT", "WANTED"]
    assert "0.1.0; refused 0.2.0: it crashed" in first
    assert "0.1.0" in second
