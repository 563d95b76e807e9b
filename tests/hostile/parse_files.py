"""What a person wrote, and what stands on the device's disk, as the product reads it."""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import TYPE_CHECKING

from edge_runtime.bundle.files import sha256_hex
from edge_runtime.errors import EdgeError, InputError
from tests.hostile.parse_bundles import board
from tests.hostile.promises import check_sentence, demand, scratch

if TYPE_CHECKING:
    from edge_runtime.inference.tasks.table import Reader


def profile(data: bytes) -> object:
    """A board's profile."""
    from edge_runtime.profile import DeviceProfile

    return DeviceProfile.from_toml(data, where="board.toml")


def config(data: bytes) -> object:
    """The agent's configuration."""
    from edge_runtime.agent.config import load_config

    path = scratch() / "agent.toml"
    path.write_bytes(data)
    return load_config(path, {})


def broker_url(data: bytes) -> object:
    """Where a broker is."""
    from edge_runtime.link.config import BrokerConfig

    found = BrokerConfig.parse(data.decode("utf-8", "replace"))
    demand(found.host and 0 < found.port < 65536, "a broker has a host and a port")
    other = dataclasses.replace(found, password="another")
    demand(repr(other) == repr(found), "a password is never shown")
    return found


def source_url(data: bytes) -> object:
    """Where a repository is, and where a server says that a file of it is."""
    from edge_runtime.link.address import WebAddress, parse_source

    text = data.decode("utf-8", "replace")
    try:
        moved = WebAddress(True, "a.example", 443, "/edge").redirected(text)
        demand(moved.tls, "a redirect never leads out of TLS")
        for part in (moved.path, moved.authority):
            demand(part.isascii() and part.isprintable() and " " not in part, "a request is safe")
    except EdgeError as reason:
        check_sentence(str(reason))
    found = parse_source(text)
    if isinstance(found, WebAddress):
        demand(f"{found.path}{found.authority}".isprintable(), "a request is safe")
    return found


def infer_lines(data: bytes) -> object:
    """The lines that `edge-agent infer` answers."""
    from edge_runtime.agent.infer import raw_input, values

    return [_reader()(raw_input(value, "text")) for _, value in values(io.BytesIO(data), "-")]


@functools.cache
def _reader() -> Reader:
    """The steps of a small bundle of texts."""
    from edge_runtime.inference.tasks.table import declared_steps
    from tests.fakes.engine import fake_bundle

    bundle = fake_bundle(scratch("lines"))
    return declared_steps(bundle.manifest).open(bundle.read, None)


def picture(data: bytes) -> object:
    """A picture as a client sends it."""
    from edge_runtime.fields import Fields
    from edge_runtime.inference.tasks.image import DecodeImage

    decode = DecodeImage.parse(Fields({"max_pixels": 1 << 16}, "step", InputError))
    found = decode(data)
    demand(found.pixels.size <= 3 << 16, "no more pixels than are allowed are decoded")
    return found


def sound(data: bytes) -> object:
    """A WAV file as a client sends it."""
    from edge_runtime.fields import Fields
    from edge_runtime.inference.tasks.audio import DecodeAudio

    decode = DecodeAudio.parse(Fields({"sample_rate": 8000, "max_seconds": 1}, "step", InputError))
    found = decode(data)
    demand(0 < found.values.size <= 8000, "no more sound than is allowed")
    return found


def install(data: bytes) -> object:
    """What a person asked a running agent for, and what it left as its answer."""
    from edge_runtime.agent.installer import REQUEST, RESULT, Request, Result

    state = scratch("install")
    (state / RESULT).write_bytes(data)
    try:
        Result.find(state, "1")
    except EdgeError as reason:
        check_sentence(str(reason))
    (state / REQUEST).write_bytes(data)
    try:
        return Request.take(state)
    finally:
        demand(not (state / REQUEST).exists(), "a request is taken up once, sound or not")


def fleet_settings(data: bytes) -> object:
    """What an operator keeps in `fleet.toml`, and tools write back."""
    from edge_runtime.fleet.settings import Settings

    read = Settings.from_bytes(data, "fleet.toml")
    if not read.more:  # Of other parts: what they hold, dates and NaN among it, is theirs to check.
        again = Settings.from_bytes(read.to_bytes(), "fleet.toml")
        demand(again == read, "settings are what they were written from")
    return read


def certificates(data: bytes) -> object:
    """The index of the certificates that a fleet has issued."""
    from edge_runtime.fleet.issued import Issued

    path = scratch() / "issued.json"
    path.write_bytes(data)
    read = Issued.read(path)
    read.write(path)
    rows, again = ([one.as_json() for one in issued] for issued in (read, Issued.read(path)))
    demand(rows == again, "an index is what it was written from")
    return read


def journal(data: bytes) -> object:
    """The record of the update."""
    from edge_runtime.update import journal

    read = journal.from_bytes(data, "journal")
    again = journal.from_bytes(journal.to_bytes(read), "journal")
    demand(again == read, "a record is what it was written from")
    return read


def time_floor(data: bytes) -> object:
    """The latest time that was vouched for; a spoiled one is none."""
    from edge_runtime.update.clock import MAX_S, Clock

    path = scratch() / "time.json"
    path.write_bytes(data)
    now_s = Clock(path).now_s(0.0, ["a"])
    demand(0 < now_s <= MAX_S, "trusted time is a time")
    return now_s


def spool(data: bytes) -> object:
    """A segment of telemetry that waits; what is torn is passed over."""
    from edge_runtime.telemetry.spool import Spool

    folder = scratch("spool")
    for old in folder.iterdir():
        old.unlink()
    (folder / "000000000001.jsonl").write_bytes(data)
    kept = Spool(folder, max_bytes=8192)
    kept.append(b'{"n":1}', 0)
    demand(kept.size_bytes <= 8192, "a spool is bounded")
    lines: list[bytes] = []
    while some := kept.read(3):
        lines += some
        kept.done(len(some))
    kept.close()
    demand(lines[-1] == b'{"n":1}', "what was added comes out last")
    demand(all(line[:1] == b"{" and line[-1:] == b"}" for line in lines), "lines are whole")
    demand(len(lines) <= data.count(b"\n") + 2, "no line is two")
    return lines


def slot(data: bytes) -> object:
    """An installed bundle's manifest, under its own digest and under another."""
    from edge_runtime.bundle.store import ChunkStore
    from edge_runtime.update.slots import Slots

    folder = scratch("manifests")
    for old in folder.iterdir():
        old.unlink()
    slots = Slots(folder, ChunkStore(scratch("chunks")), board())
    digest, other = sha256_hex(data), "ab" * 32
    (folder / f"{digest}.json").write_bytes(data)
    (folder / f"{other}.json").write_bytes(data)
    found = slots.whole()
    demand(not (folder / f"{other}.json").exists(), "a spoiled manifest is removed")
    damage = slots.damage(digest)
    demand((damage is None) == (digest in [ref.manifest_sha256 for ref in found]), "whole is whole")
    if damage is not None:
        check_sentence(damage)
    demand(slots.damage(other), "a bundle that is gone is damaged")
    return found
