"""One bundle for two boards, a real broker, two real agents: each has its own part of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.bundle.verify import verify
from tests.fakes.agents import Agent, agent, texts_request, wait_for
from tests.fakes.brokers import mosquitto
from tests.fakes.tiny import LABELS, tiny_folder, variant_json
from tests.system.test_fleet_cli import QUICK, Fleet

pytestmark = pytest.mark.system
BOARDS = {"pc": "generic-x86_64", "pi": "raspberry-pi-5"}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with mosquitto() as broker:
        yield Fleet(broker.url)


def both(folder: Path, version: str) -> tuple[Path, Manifest]:
    variants = [
        variant_json("pc-int8", "model-int8.onnx", needs={}, profiles=[BOARDS["pc"]]),
        variant_json("pi-float", "model.onnx", needs={}, profiles=[BOARDS["pi"]]),
    ]
    notes = {"notes.txt": version.encode()}
    path = tiny_folder(folder / version, variants, notes, version=version)
    return path, verify(FolderReader(path)).manifest


def stored(folder: Path) -> set[str]:
    return {path.name for path in (folder / "state" / "chunks").glob("*/*")}


def answer(one: Agent) -> str:
    status, value = one.call("POST", "/v2/models/tiny/infer", texts_request("a mail server"))
    assert status == 200
    return str(value["outputs"][0]["data"][0])


def test_two_boards_are_updated_in_one_go_and_fetch_their_own_part(
    fleet: Fleet, tmp_path: Path
) -> None:
    first, manifest = both(tmp_path, "1.0.0")
    manifest_bytes = (first / MANIFEST_NAME).stat().st_size
    assert fleet.json("publish", first)["profiles"] == list(BOARDS.values())
    rows = fleet.json("releases")["releases"]
    assert [row["profile"] for row in rows] == list(BOARDS.values())
    with (
        agent(tmp_path / "pc", broker=fleet.url, settings=QUICK, device="pc") as pc,
        agent(
            tmp_path / "pi", broker=fleet.url, settings=QUICK, device="pi", profile=BOARDS["pi"]
        ) as pi,
    ):
        wait_for(
            "both report their profiles",
            lambda: [d["reported"] and d["reported"]["profile"] for d in
                     fleet.json("status")["devices"]] == list(BOARDS.values()),
        )  # fmt: skip
        command = ["--device", "pc", "--device", "pi", "--wait", "60"]
        made = fleet.json("deploy", "tiny==1.0.0", *command)["devices"]
        assert [one["outcome"] for one in made] == ["serving"] * 2
        for one, profile in zip(made, BOARDS.values(), strict=True):
            needed = manifest.files_of(manifest.variants_for(profile))
            assert one["profile"] == profile
            assert one["fetched_bytes"] == manifest_bytes + sum(e.size_bytes for e in needed)
            held = {chunk.sha256 for entry in needed for chunk in entry.chunks}
            every = {chunk.sha256 for entry in manifest.files for chunk in entry.chunks}
            assert stored(tmp_path / one["device"]) & every == held
        variants = {
            d["device"]: d["reported"]["accelerator"]["variant"]
            for d in fleet.json("status")["devices"]
        }
        assert variants == {"pc": "pc-int8", "pi": "pi-float"}
        assert answer(pc) in LABELS
        assert answer(pi) in LABELS

        second, newer = both(tmp_path, "2.0.0")
        fleet.json("publish", second)
        made = fleet.json("deploy", "tiny==2.0.0", *command)["devices"]
        assert [one["outcome"] for one in made] == ["serving"] * 2
        news = newer.file("notes.txt").size_bytes + (second / MANIFEST_NAME).stat().st_size
        assert [one["fetched_bytes"] for one in made] == [news] * 2
