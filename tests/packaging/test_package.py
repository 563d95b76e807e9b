"""What a package has in it and tells dpkg, judged by dpkg-deb."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.packaging.checkout import ARCH, EPOCH, ROOT, Checkout, field, listing

SITE = "/usr/lib/edge-agent"


@pytest.fixture(scope="module")
def tree(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package unpacked."""
    folder = tmp_path_factory.mktemp("tree")
    subprocess.run(["dpkg-deb", "-R", deb, folder], check=True)
    return folder


def test_dpkg_reads_name_version_and_processor(deb: Path) -> None:
    assert field(deb, "Package") == "edge-agent"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\+deb13", field(deb, "Version"))
    assert field(deb, "Architecture") == ARCH


def test_it_depends_on_exactly_one_python_and_on_what_its_libraries_load(deb: Path) -> None:
    depends = field(deb, "Depends").split(", ")
    assert {"python3 (>= 3.13)", "python3 (<< 3.14)", "systemd (>= 249)"} <= set(depends)
    assert any(re.fullmatch(r"libc6 \(>= 2\.\d+\)", each) for each in depends)
    # The one small library is C.
    assert not any("libstdc++6" in each for each in depends)


def test_everything_is_roots_and_nothing_but_plain_files_and_folders(deb: Path) -> None:
    entries = listing(deb)
    assert {mode.split()[1] for mode in entries.values()} == {"root/root"}
    modes = {mode.split()[0] for mode in entries.values()}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}
    executable = {path for path, mode in entries.items() if mode.startswith("-rwx")}
    assert executable == {"/usr/bin/edge-agent", "/usr/libexec/edge-agent/python"}


def test_the_devices_half_is_in_it_and_the_operators_is_not(deb: Path) -> None:
    paths = set(listing(deb))
    assert f"{SITE}/edge_runtime/agent/cli.py" in paths
    assert f"{SITE}/device_profiles/raspberry-pi-5.toml" in paths
    assert not [path for path in paths if "/fleet/" in path and "messages" not in path]
    assert not [path for path in paths if "converters" in path or "__pycache__" in path]


def test_ballast_of_wheels_stays_out(deb: Path) -> None:
    paths = set(listing(deb))
    assert {f"{SITE}/gentle/__init__.py", f"{SITE}/swift/_swift.so"} <= paths
    assert f"{SITE}/gentle-1.0.dist-info/METADATA" in paths
    ballast = r"/tests/|\.pyi$|\.h$|RECORD$|/scripts/|^/usr/bin/gentle"
    assert not [path for path in paths if re.search(ballast, path)]


def test_every_unit_of_the_checkout_is_in_it_unchanged(tree: Path) -> None:
    sources = [path for path in (ROOT / "packaging/systemd").iterdir() if path.is_file()]
    installed = tree / "usr/lib/systemd/system"
    assert {"edge-agent.service", "edge-agent.socket"} <= {path.name for path in sources}
    for source in sources:
        assert (installed / source.name).read_bytes() == source.read_bytes()


def test_the_version_that_python_reads_is_the_packages(tree: Path, deb: Path) -> None:
    [folder] = (tree / "usr/lib/edge-agent").glob("edge_runtime-*.dist-info")
    version = field(deb, "Version").partition("+")[0]
    assert folder.name == f"edge_runtime-{version}.dist-info"
    assert f"Version: {version}\n" in (folder / "METADATA").read_text()


def test_a_prerelease_sorts_before_its_release(place: Checkout) -> None:
    version = field(place.built("--version", "0.9.0rc1"), "Version")
    assert version == "0.9.0~rc1+deb13"
    subprocess.run(["dpkg", "--compare-versions", version, "lt", "0.9.0+deb13"], check=True)


def test_the_sums_of_the_package_are_those_of_its_files(tree: Path) -> None:
    subprocess.run(
        ["md5sum", "--check", "--quiet", "--strict", "DEBIAN/md5sums"], cwd=tree, check=True
    )


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_complete_and_a_shell_reads_them(tree: Path, script: str) -> None:
    path = tree / "DEBIAN" / script
    subprocess.run(["sh", "-n", path], check=True)
    text = path.read_text()
    assert not re.search(r"@[A-Z_]+@", text)
    assert "/usr/lib/edge-agent" in text


def test_the_bill_of_materials_names_every_wheel_with_its_digest(
    place: Checkout, tmp_path: Path
) -> None:
    deb = place.built()
    beside = deb.with_name(deb.name.replace(".deb", ".spdx.json")).read_text()
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path / "x"], check=True)
    assert (tmp_path / "x/usr/share/doc/edge-agent/sbom.spdx.json").read_text() == beside
    bill = json.loads(beside)
    assert bill["spdxVersion"] == "SPDX-2.3"
    named = {
        (part["name"], part["versionInfo"], part["checksums"][0]["checksumValue"])
        for part in bill["packages"]
        if part["SPDXID"].startswith("SPDXRef-wheel-")
    }
    lock = (place.folder / f"packaging/deb/locks/deb13-{ARCH}.txt").read_text()
    assert named == set(re.findall(r"^(\S+)==(\S+) --hash=sha256:(\S+)$", lock, re.M))
    contained = {each["relatedSpdxElement"] for each in bill["relationships"][1:]}
    assert contained == {part["SPDXID"] for part in bill["packages"][1:]}
    licences = {part["name"]: part["licenseDeclared"] for part in bill["packages"]}
    assert licences["swift"] == "BSD-3-Clause OR Apache-2.0"


def test_the_copyright_file_names_every_wheel_and_its_owner(tree: Path) -> None:
    text = (tree / "usr/share/doc/edge-agent/copyright").read_text()
    for name in ("gentle", "swift"):
        assert f" usr/lib/edge-agent/{name}-" in text or f"usr/lib/edge-agent/{name}/*" in text
    assert "(c) 2020 Somebody Else" in text
    used = set(re.findall(r"^License: (\S+)$", text, re.M))
    told = set(re.findall(r"^\n?License: (\S+)\n ", text, re.M))
    assert used == told


def test_the_man_page_has_every_verb(tree: Path) -> None:
    page = gzip.decompress((tree / "usr/share/man/man1/edge-agent.1.gz").read_bytes()).decode()
    for verb in ("run", "infer", "doctor", "install"):
        assert f".B {verb}\n" in page


def test_our_files_carry_the_one_time_that_was_given(tree: Path) -> None:
    for name in ("usr/lib/edge-agent/edge_runtime/agent/cli.py", "usr/bin/edge-agent"):
        assert (tree / name).stat().st_mtime == EPOCH
    # A wheel's are its own, so that they do not change from release to release.
    assert (tree / "usr/lib/edge-agent/gentle/__init__.py").stat().st_mtime == 1709208000
