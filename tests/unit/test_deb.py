"""Reading a .deb: what dpkg made is read, and what a hostile one holds is refused before use."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import deb as module
from edge_runtime.bundle.agent_package import SITE, about
from edge_runtime.bundle.deb import Deb
from edge_runtime.errors import EdgeError, IncompatibleError, InputError, UntrustedError
from tests.fakes import debs


def opened(data: bytes) -> Deb:
    return Deb(io.BytesIO(data), "p.deb")


def contents(data: bytes) -> dict[str, bytes]:
    found = {}
    for entry, file in opened(data).walk(SITE):
        if file is not None:
            found[entry.path] = file.read()
    return found


@pytest.mark.parametrize("pack", ["", ".gz", ".xz"])
def test_files_below_the_folder_are_read_and_others_passed_over(pack: str) -> None:
    files = {"edge_runtime/a.py": b"a = 1\n" * 50_000, "numpy/core/b.so": bytes(range(256))}
    assert contents(debs.deb(debs.tree(files), pack=pack)) == files


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="where dpkg is")
@pytest.mark.parametrize("flag", ["-Zxz", "-Zgzip"])
def test_what_dpkg_builds_is_read(tmp_path: Path, flag: str) -> None:
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Maintainer: n <n@example.org>\n" + debs.control("1.2.3~rc1")
    )
    site = root / SITE / "edge_runtime"
    site.mkdir(parents=True)
    (site / "a.py").write_text("a = 1\n")
    (site / "tool").write_text("#!/bin/sh\n")
    (site / "tool").chmod(0o755)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/edge-agent").symlink_to("/usr/lib/edge-agent/x")
    path = tmp_path / "p.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", flag, "--build", str(root), str(path)],
        check=True,
        capture_output=True,
    )
    found = opened(path.read_bytes())
    assert about(found).version == "1.2.3-rc1"
    assert about(found).package == f"1.2.3~rc1+{debs.SUITE}"
    assert about(found).platform == f"python{debs.PYTHON}-{debs.MACHINE}"
    plain = {e.path: e.executable for e, _ in found.walk(SITE) if not e.is_folder}
    assert plain == {"edge_runtime/a.py": False, "edge_runtime/tool": True}


LINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
HOSTILE = {
    "a link": debs.member(f"{SITE}/a", **LINK),
    "a hard link": debs.member(f"{SITE}/a", type=tarfile.LNKTYPE, linkname="./etc/passwd"),
    "a device": debs.member(f"{SITE}/a", type=tarfile.BLKTYPE),
    "a pipe": debs.member(f"{SITE}/a", type=tarfile.FIFOTYPE),
    "setuid": debs.member(f"{SITE}/a", b"x", mode=0o4755),
    "setgid": debs.member(f"{SITE}/a", b"x", mode=0o2755),
    "a way out": debs.member(f"{SITE}/../../../etc/cron.d/x", b"x"),
    "an empty name": debs.member(f"{SITE}/a//b", b"x"),
    "a line break": debs.member(f"{SITE}/a\nb", b"x"),
    "not ASCII": debs.member(f"{SITE}/\u00e4", b"x"),
    "too deep": debs.member(f"{SITE}/" + "a/" * 30 + "b", b"x"),
    "too long": debs.member(f"{SITE}/" + "a" * 600, b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_must_not_be_in_the_software_s_folder_is_refused(name: str) -> None:
    data = debs.deb([*debs.tree({"ok.py": b"1"}), HOSTILE[name]])
    with pytest.raises(UntrustedError, match=r"p\.deb"):
        contents(data)


def test_one_path_twice_is_refused_also_in_other_letters() -> None:
    members = debs.tree({"a.py": b"1"})
    with pytest.raises(UntrustedError, match="twice"):
        contents(debs.deb([*members, debs.member(f"{SITE}/A.py", b"2")]))


def test_more_than_may_be_is_refused_while_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(UntrustedError, match="more than"):
        contents(debs.deb(debs.tree({"zeros": bytes(4 << 20)})))
    monkeypatch.setattr(module, "MAX_ENTRIES", 8)
    with pytest.raises(UntrustedError, match="more than 8 entries"):
        contents(debs.deb(debs.tree({f"f{n}": b"" for n in range(20)})))


def test_any_cut_of_a_package_is_a_sentence_and_no_traceback() -> None:
    data = debs.small()
    for end in [*range(0, 400, 7), *range(400, len(data) - 1, 101)]:
        with pytest.raises(EdgeError):
            contents(data[:end])


def test_flipped_bytes_are_a_sentence_or_pass_and_never_a_traceback() -> None:
    data = debs.small()
    for place in range(8, len(data), 37):
        spoiled = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            contents(spoiled)
        except EdgeError:
            continue


def test_zstd_is_named_as_what_is_not_read() -> None:
    with pytest.raises(IncompatibleError, match="expected xz or gz"):
        contents(debs.deb([], pack=".zst"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (debs.control(Package="edge-agent-dbg"), "expected edge-agent"),
        (debs.control(Version="0.2.0"), "a release and a suite"),
        (debs.control(Version="1:0.2.0+deb12"), "a release and a suite"),
        (debs.control(Architecture="riscv64"), "says? where it runs"),
        (debs.control(Depends="python3"), "says? where it runs"),
        (debs.control(Depends="python3.11, python3.13"), "says? where it runs"),
    ],
)
def test_a_package_that_does_not_say_where_it_belongs_is_refused(fields: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        about(opened(debs.deb(debs.tree({"a": b"1"}), fields)))


def test_other_files_are_no_packages() -> None:
    for data in (b"", b"PK\x03\x04", b"!<arch>\n", debs.ar([("debian-binary", b"2.0\n")])):
        with pytest.raises(InputError, match="no Debian package"):
            opened(data)
