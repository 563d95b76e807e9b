"""All of it once, for one flavour: base image, agent's package, bundles, fleet, flash, story."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import DeviceError
from tests.board import image
from tests.board.whole import base, bundles
from tests.board.whole.card import Card
from tests.board.whole.fleet import DEVICE, Fleet, fleet
from tests.board.whole.machine import PiMachine
from tests.board.whole.story import Outcome, Story
from tests.fakes.brokers import free_port, served_folder

CARD_BYTES = 4 << 30
CONSOLES = "console-*.log"
SAID = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen. `logs` is where the consoles are kept."""

    flavour: str
    model: str
    logs: Path
    mirror: str = image.MIRROR
    package: Path | None = None
    seed: int = 1


def package(suite: str) -> Path:
    """The newest agent's package for `suite` in dist/.

    Raises:
        DeviceError: there is none.
    """
    found = sorted(
        (image.ROOT / "dist").glob(f"edge-agent_*+{suite}_arm64.deb"),
        key=lambda path: path.stat().st_mtime,
    )
    if not found:
        raise DeviceError(f"dist/edge-agent_*+{suite}_arm64.deb: is not there; run `make deb`")
    return found[-1]


def run(options: Options, say: SAID) -> Outcome:
    """The story, told step by step.

    Raises:
        EdgeError: something cannot be made, or does not come to its end; the consoles are kept.
    """
    outcome = Outcome(options.model, options.flavour)
    cache = image.cache_folder()
    flavour = base.FLAVOURS[options.flavour]
    made = base.make(cache, options.flavour, say, options.mirror)
    deb = options.package or package(flavour.deb)
    shutil.rmtree(options.logs, ignore_errors=True)
    options.logs.mkdir(parents=True)
    with served_folder() as place:
        folder = place / "board"
        folder.mkdir()
        versions = bundles.make(options.model, cache, place / "bundles", say)
        with fleet(place) as operator:
            card = _flashed(operator, made, deb, versions, folder, outcome, say)
            machine = PiMachine(made, card, folder, free_port())
            try:
                _tell(Story(operator, machine, versions, outcome, say, options.seed))
            finally:
                machine.close()
                for path in folder.glob("*.log"):
                    if path.name != "writes.log":
                        shutil.copyfile(path, options.logs / path.name)
    return outcome


def _tell(story: Story) -> None:
    story.first_boot()
    story.compare("1.0.0")
    story.update()
    story.compare("2.0.0")
    story.rest()
    story.in_1970()


def _flashed(
    operator: Fleet,
    made: base.Base,
    deb: Path,
    versions: dict[str, bundles.Made],
    folder: Path,
    outcome: Outcome,
    say: SAID,
) -> Card:
    first = versions["1.0.0"]
    operator.online_call("publish", first.folder)
    say("published 1.0.0, signed")
    begin_s = time.monotonic()
    out = folder / "card.img"
    answer = operator.call(
        "flash", made.image, "--device", DEVICE, "--package", deb,
        "--bundle", f"{first.manifest.name}==1.0.0", "--hostname", DEVICE, "--out", out,
    )  # fmt: skip
    outcome.seconds["edge-fleet flash"] = round(time.monotonic() - begin_s, 1)
    say(f"flashed: {answer}")
    return Card(folder, out, CARD_BYTES)
