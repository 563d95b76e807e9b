"""`edge-fleet flash` on real images of every flavour, run as a user who may do nothing special."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.config import load_config
from edge_runtime.agent.given import look_through
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.fleet.enroll import enroll
from edge_runtime.fleet.flash.partitions import Partition, read_table
from edge_runtime.profile import load_profile
from tests.fakes import images
from tests.fakes.bundles import manifest_json
from tests.fakes.trusted import PASSPHRASE, bundle, new_home, sign

ROOT = Path(__file__).resolve().parents[2]
SEED = "/var/lib/edge-agent-seed"
NOBODY = 65534
PROFILE = "generic-aarch64"
KEY = "ssh-ed25519 " + "A" * 68 + " me@here"
SECRET = "correct horse \\ staple"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        bool(images.missing_tools()), reason=f"needs {', '.join(images.missing_tools())}"
    ),
]


class Desk:
    """An operator's folder: home, packages, passphrase, key; and `flash` run as nobody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now = datetime.now(timezone.utc)
        self.home = new_home(folder / "fleet", now, broker="mqtts://broker.example")
        enroll(self.home, "press-7", PROFILE, passphrase=PASSPHRASE)
        enroll(self.home, "desk-1", "generic-x86_64", passphrase=PASSPHRASE)
        variants = [{**v, "needs": {}} for v in manifest_json()["variants"]]
        sign(self.home, bundle(folder / "bundles", profile=PROFILE, variants=variants), now)
        for suite in ("deb12", "deb13", "jammy"):
            images.deb(folder / "dist", suite, payload=suite.encode() * 1000)
        (folder / "wifi").write_text(f"{SECRET}\n")
        (folder / "key.pub").write_text(f"{KEY}\n")

    def start(self, image: Path, *options: str, tmp: str = "/var/tmp") -> subprocess.Popen[str]:
        """The command, as nobody."""
        command = [
            sys.executable, "-m", "edge_runtime.fleet.cli", "flash", str(image),
            "--device", "press-7", "--json", *options,
        ]  # fmt: skip
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", self.folder], check=True)
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                       "--no-new-privs", *command]  # fmt: skip
        # These tests may run under nohup, whose children ignore that the session is lost.
        return subprocess.Popen(
            ["env", "--default-signal=HUP", *command],
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "TMPDIR": tmp},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def flash(
        self, image: Path, *options: str, code: int = 0, tmp: str = "/var/tmp"
    ) -> dict[str, Any]:
        """What it says as JSON; where it fails, its sentence as `said`."""
        with self.start(image, *options, tmp=tmp) as running:
            try:
                said, talk = running.communicate(timeout=280)
            finally:
                running.kill()
        assert running.returncode == code, talk
        assert "Traceback" not in talk
        assert self.left() == []
        if code:
            return {"said": talk}
        found = json.loads(said)
        assert isinstance(found, dict)
        return found

    def left(self) -> list[str]:
        """Files of work that is not done."""
        return [p.name for p in self.folder.iterdir() if p.name.endswith((".part", ".root"))]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """In a folder that others may enter, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="edge-desk-"))
    folder.chmod(0o755)
    try:
        yield Desk(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Disk:
    """An image, looked at with e2fsprogs and mtools themselves."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self.table = read_table(image)
        self.root = next(p for p in self.table.partitions if p.name == "APP" or p.kind == "83")

    def debugfs(self, command: str) -> str:
        return images.run("debugfs", "-R", command, f"{self.image}?offset={self.root.start_bytes}")

    def clean(self) -> bool:
        images.run("e2fsck", "-fn", f"{self.image}?offset={self.root.start_bytes}")
        images.run("sfdisk", "-V", self.image)
        return True

    def listing(self, folder: str) -> dict[str, tuple[str, str, str]]:
        """(mode, uid, gid) by name."""
        rows = [line.split("/") for line in self.debugfs(f"ls -p {folder}").splitlines() if line]
        return {row[5]: (row[2], row[3], row[4]) for row in rows if row[5] not in (".", "..")}

    def seed(self, to: Path) -> Path:
        to.mkdir()
        self.debugfs(f"rdump {SEED} {to}")
        return to / Path(SEED).name

    def boot(self, name: str) -> str:
        return images.run("mtype", "-i", f"{self.image}@@4M", f"::/{name}")

    def fat(self) -> bytes:
        part = self.table.partitions[0]
        with self.image.open("rb") as file:
            file.seek(part.start_bytes)
            return file.read(part.size_bytes)


def full(*more: str) -> list[str]:
    return ["--bundle", "demo==1.0.0", "--wifi", "Hall", "--wifi-passphrase-file", "wifi",
            "--country", "DE", "--user", "ops", "--ssh-key", "key.pub", *more]  # fmt: skip


def check_root(disk: Disk, desk: Desk, tmp_path: Path, suite: str) -> Path:
    """What every flavour has: returns the seed."""
    assert disk.clean()
    assert disk.listing("/var/lib")["edge-agent-seed"] == ("040700", "0", "0")
    seed = disk.seed(tmp_path / "seed")
    package = f"edge-agent_0.1.0+{suite}_arm64.deb"
    assert (seed / package).read_bytes() == (desk.folder / "dist" / package).read_bytes()
    assert disk.listing(SEED)["identity"] == ("040700", "0", "0")
    device = desk.home.device("press-7")
    for name, found in disk.listing(f"{SEED}/identity").items():
        if name != "repository":
            assert found == ("100600", "0", "0")
            assert (seed / "identity" / name).read_bytes() == (device / name).read_bytes()
    units = "/etc/systemd/system"
    assert disk.listing(units)["edge-agent-firstboot.service"] == ("100644", "0", "0")
    wants = f"{units}/multi-user.target.wants"
    assert disk.listing(wants)["edge-agent-firstboot.service"][0] == "120777"
    assert f'"{units}/edge-agent-firstboot.service"' in disk.debugfs(
        f"stat {wants}/edge-agent-firstboot.service"
    )
    return seed


def demand_first_bundle(seed: Path, tmp_path: Path) -> None:
    """The agent finds one release in it, whole, as in any repository that it is handed."""
    config = load_config(seed / "identity" / "agent.toml", {})
    profile, store = load_profile(config.profile), ChunkStore(tmp_path / "store")
    given = look_through(seed / "identity" / "repository", None, profile, store)
    assert "demo==1.0.0" in given.reader.where
    assert given.repository is not None


def test_bookworm_gets_everything_and_its_own_first_boot_stays(desk: Desk, tmp_path: Path) -> None:
    made = desk.flash(images.bookworm(desk.folder), *full())
    assert (made["flavour"], made["suite"], made["arch"]) == (
        "raspberry-pi-first-run", "deb12", "arm64",
    )  # fmt: skip
    out = desk.folder / made["out"]
    assert (out.name, stat.S_IMODE(out.stat().st_mode)) == ("press-7.img", 0o600)
    disk = Disk(out)
    seed = check_root(disk, desk, tmp_path, "deb12")
    demand_first_bundle(seed, tmp_path)
    assert not (seed / "user").exists()
    assert disk.boot("cmdline.txt") == images.CMDLINE
    assert 'name = "ops"' in disk.boot("custom.toml")
    connections = "/etc/NetworkManager/system-connections"
    assert disk.listing(connections) == {"edge-wifi.nmconnection": ("100600", "0", "0")}
    assert "psk=correct horse \\\\ staple" in disk.debugfs(
        f"cat {connections}/edge-wifi.nmconnection"
    )


def test_nothing_secret_is_on_the_fat(desk: Desk) -> None:
    made = desk.flash(images.bookworm(desk.folder), *full())
    data = Disk(desk.folder / made["out"]).fat()
    assert b"press-7" in data
    key = (desk.home.device("press-7") / "device.key").read_bytes()
    for secret in (SECRET.encode(), b"horse", b"PRIVATE KEY", key.splitlines()[1]):
        assert secret not in data


def test_trixie_is_set_up_by_cloud_init(desk: Desk, tmp_path: Path) -> None:
    made = desk.flash(images.trixie(desk.folder), *full("--hostname", "hall"))
    assert (made["flavour"], made["suite"]) == ("raspberry-pi-cloud-init", "deb13")
    disk = Disk(desk.folder / made["out"])
    demand_first_bundle(check_root(disk, desk, tmp_path, "deb13"), tmp_path)
    data = disk.boot("user-data")
    assert data.startswith('#cloud-config\nhostname: "hall"\n')
    assert f'  - "{KEY}"' in data
    assert disk.boot("network-config") == "# none\n"
    assert disk.boot("meta-data") == "instance_id: rpios\n"


def test_a_jetson_boots_past_its_questions_where_there_is_a_user(
    desk: Desk, tmp_path: Path
) -> None:
    image = images.jetson(desk.folder)
    assert "--accept-license" in desk.flash(image, *full(), code=1)["said"]
    made = desk.flash(image, *full("--accept-license"))
    assert (made["flavour"], made["suite"]) == ("jetson", "jammy")
    disk = Disk(desk.folder / made["out"])
    seed = check_root(disk, desk, tmp_path, "jammy")
    assert (seed / "user").read_text() == "ops\n"
    assert (seed / "authorized_keys").read_text() == f"{KEY}\n"
    assert (seed / "country").read_text() == "DE\n"
    assert '"/lib/systemd/system/multi-user.target"' in disk.debugfs(
        "stat /etc/systemd/system/default.target"
    )


def test_a_jetson_without_a_user_starts_the_agent_while_it_asks(desk: Desk) -> None:
    made = desk.flash(images.jetson(desk.folder))
    disk = Disk(desk.folder / made["out"])
    assert '"nv-oem-config.target"' in disk.debugfs("stat /etc/systemd/system/default.target")
    assert "edge-agent-firstboot.service" in disk.listing(
        "/etc/systemd/system/nv-oem-config.target.wants"
    )


def test_a_full_partition_grows_and_loses_nothing(desk: Desk, tmp_path: Path) -> None:
    folder = desk.folder / "bookworm"
    image = images.bookworm(desk.folder, root_mib=24)
    before = {p.number: p for p in read_table(image).partitions}
    (desk.folder / "dist" / "edge-agent_0.1.0+deb12_arm64.deb").unlink()
    payload = os.urandom(30 << 20)
    images.deb(desk.folder / "dist", "deb12", payload=payload)
    # The last blocks of the old partition hold content, which growing must not lose.
    filler = desk.folder / "filler"
    filler.write_bytes(os.urandom(9 << 20))
    offset = before[2].start_bytes
    images.run("debugfs", "-w", "-R", f"write {filler} /filler", f"{image}?offset={offset}")
    made = desk.flash(image, "--bundle", "demo==1.0.0")
    assert made["grown_bytes"] > 30 << 20
    disk = Disk(desk.folder / made["out"])
    assert disk.root.size_bytes == before[2].size_bytes + made["grown_bytes"]
    check_root(disk, desk, tmp_path, "deb12")
    disk.debugfs(f"dump /filler {tmp_path / 'back'}")
    assert (tmp_path / "back").read_bytes() == filler.read_bytes()
    (tmp_path / "all").mkdir()
    disk.debugfs(f"rdump / {tmp_path / 'all'}")
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert (tmp_path / "all" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_what_cannot_grow_is_refused(desk: Desk) -> None:
    images.deb(desk.folder / "dist", "jammy", payload=os.urandom(30 << 20))
    said = desk.flash(images.jetson(desk.folder, 24, last=False), code=1)["said"]
    assert "cannot grow: another partition lies behind it" in said
    assert not (desk.folder / "press-7.img").exists()


@pytest.mark.parametrize("kind", ["xz", "zip"])
def test_a_packed_image_is_read_directly(desk: Desk, kind: str) -> None:
    image = images.trixie(desk.folder)
    packed = desk.folder / f"image.{kind}"
    if kind == "xz":
        packed.write_bytes(lzma.compress(image.read_bytes(), preset=0))
    else:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(image, "sd-blob.img")
    made = desk.flash(packed, "--out", "a.img")
    assert Disk(desk.folder / made["out"]).clean()
    assert "exists" in desk.flash(packed, "--out", "a.img", code=1)["said"]
    desk.flash(packed, "--out", "a.img", "--force")


def test_an_image_that_was_flashed_before_is_refused(desk: Desk) -> None:
    made = desk.flash(images.bookworm(desk.folder))
    again = desk.folder / made["out"]
    said = desk.flash(again, "--out", "b.img", "--force", code=1)["said"]
    assert "take a fresh image" in said
    assert not (desk.folder / "b.img").exists()


def test_settings_of_somebody_else_are_kept_unless_forced(desk: Desk) -> None:
    image = images.trixie(desk.folder, "#cloud-config\nusers:\n- name: them\n")
    assert "settings of somebody's" in desk.flash(image, code=1)["said"]
    desk.flash(image, "--force")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("cut", "cut off"),
        ("no ext4", "no ext4 partition"),
        ("no system", "no system was found"),
        ("unknown system", "Debian GNU/Linux 14 .forky..* packages for bookworm"),
        ("32 bit", "for armhf; .*take the 64-bit image"),
        ("damaged ext4", "e2fsck says|cannot be read|damaged"),
    ],
)
def test_an_image_that_is_no_use_is_refused(desk: Desk, spoil: str, words: str) -> None:
    folder = desk.folder / "tree"
    if spoil == "unknown system":
        image = images.mbr_image(desk.folder / "x.img", images.tree(folder, "forky"), {})
    elif spoil == "32 bit":
        root = images.tree(folder, "bookworm", machine=images.ARM)
        image = images.mbr_image(desk.folder / "x.img", root, {})
    elif spoil == "no system":
        folder.mkdir()
        image = images.mbr_image(desk.folder / "x.img", folder, {})
    else:
        image = images.bookworm(desk.folder)
        root_part = read_table(image).partitions[1]
        with image.open("r+b") as file:
            if spoil == "cut":
                file.truncate(root_part.end_bytes - 4096)
            elif spoil == "no ext4":
                file.seek(root_part.start_bytes)
                file.write(bytes(4096))
            else:
                damage(file.fileno(), root_part)
    said = desk.flash(image, code=1)["said"]
    assert re.search(words, said), said
    assert not (desk.folder / "press-7.img").exists()


def damage(descriptor: int, root: Partition) -> None:
    """Its inode tables, but for the superblock and group descriptors in front."""
    os.pwrite(descriptor, os.urandom(512 << 10), root.start_bytes + (256 << 10))


def test_an_image_for_another_machine_than_the_profile_is_refused(desk: Desk) -> None:
    image = images.trixie(desk.folder)
    said = desk.flash(image, "--device", "desk-1", code=1)["said"]
    assert "for aarch64, but desk-1 is enrolled as generic-x86_64, which is x86_64" in said


def test_a_user_of_the_system_is_no_name_for_a_person(desk: Desk) -> None:
    root = images.tree(desk.folder / "tree", "trixie")
    (root / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\ngames:x:5:60::/:/x\npi:x:1000:1000::/home/pi:/bin/sh\n"
    )
    image = images.mbr_image(desk.folder / "x.img", root, {})
    for name in ("games", "root"):
        said = desk.flash(image, "--user", name, "--ssh-key", "key.pub", code=1)["said"]
        assert f"--user {name}: " in said
        assert "take another name" in said
    assert desk.flash(image, "--user", "pi", "--ssh-key", "key.pub")["user"] == "pi"


def test_every_wrong_target_is_told_in_a_sentence(desk: Desk) -> None:
    image = images.trixie(desk.folder)
    (desk.folder / "plain").mkdir(mode=0o755)
    for out, words in {
        "/": "/: is a folder", "": ".: is a folder", "x" * 300: "x: cannot be made",
        "/root/x/a.img": "/root/x/a.img: cannot be made", "/etc/a.img": "/etc: the image cannot",
        str(image): "is the image that is read", "trixie.img/a.img": "trixie.img/a.img: cannot be",
    }.items():  # fmt: skip
        said = desk.flash(image, "--out", out, "--force", code=1)["said"]
        assert words in said
        assert said.strip().count("\n") == 0, said
    assert read_table(image).partitions


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_lost_session_leaves_nothing_secret_behind(desk: Desk, number: int) -> None:
    work = desk.folder / "work"
    work.mkdir()
    with desk.start(images.bookworm(desk.folder), *full(), tmp=str(work)) as running:
        until = time.monotonic() + 60
        while not list(work.glob("*/in-*")) and time.monotonic() < until:
            time.sleep(0.002)
        running.send_signal(number)
        assert running.wait(60) == 128 + number
    assert desk.left() == []
    assert list(work.iterdir()) == []
    assert not (desk.folder / "press-7.img").exists()


# A card


@pytest.fixture
def card(desk: Desk) -> Iterator[Path]:
    """A loop device, which is a disk to the kernel. Needs root."""
    backing = desk.folder / "card"
    with backing.open("wb") as file:
        file.truncate(160 << 20)
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", backing], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs loop devices, and root")
    device = Path(made.stdout.strip())
    before = device.stat()
    try:
        os.chown(device, NOBODY, NOBODY)
        yield device
    finally:
        os.chown(device, before.st_uid, before.st_gid)
        subprocess.run(["losetup", "--detach", device], check=False)


def test_a_card_is_written_and_read_back(desk: Desk, card: Path) -> None:
    image = images.bookworm(desk.folder)
    assert "built in" in desk.flash(image, "--to", str(card), code=1)["said"]
    assert "is a disk; --to" in desk.flash(image, "--out", str(card), "--force", code=1)["said"]
    said = desk.flash(image, "--to", str(card), "--force", code=1, tmp="/nope")["said"]
    assert "/nope: no folder can be made in it" in said
    made = desk.flash(image, *full("--to", str(card), "--force"))
    with card.open("rb") as file:
        data = file.read(made["size_bytes"])
    assert hashlib.sha256(data).hexdigest() == made["sha256"]
    assert not list(Path("/var/tmp").glob("edge-flash-*/press-7.img"))
    copy = desk.folder / "copy"
    copy.write_bytes(data)
    assert Disk(copy).clean()


def test_a_mounted_card_is_refused_even_with_force(desk: Desk, card: Path, tmp_path: Path) -> None:
    images.run("mke2fs", "-q", "-t", "ext4", card)
    try:
        images.run("mount", card, tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip("may not mount here")
    try:
        said = desk.flash(images.bookworm(desk.folder), "--to", str(card), "--force", code=1)
        assert f"mounted at {tmp_path}" in said["said"]
    finally:
        images.run("umount", tmp_path)


def test_a_card_that_is_too_small_is_told_before_it_is_touched(desk: Desk, card: Path) -> None:
    before = hashlib.sha256(card.read_bytes()).hexdigest()
    image = images.bookworm(desk.folder, root_mib=120)
    said = desk.flash(image, "--to", str(card), "--force", code=1)["said"]
    assert f"which is all there is room for on {card}" in said
    assert hashlib.sha256(card.read_bytes()).hexdigest() == before
