"""What cannot be built is said in one sentence, with exit code 1."""

from __future__ import annotations

import shutil

import pytest

from tests.packaging.checkout import ARCH, LIBRARY, Checkout, wheel


def refusal(place: Checkout, *words: str, umask: int = 0o022, **variables: str) -> str:
    """The sentence."""
    done = place.build(*words, umask=umask, **variables)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("deb: ")]
    assert not list(place.folder.glob("out/*.deb"))
    return line


@pytest.mark.parametrize("arch", ["armhf", "armv7l", "i386"])
def test_a_32_bit_board_is_refused_with_the_reason(place: Checkout, arch: str) -> None:
    said = refusal(place, "--arch", arch)
    assert f"no package for {arch}" in said
    assert "32-bit" in said


def test_an_unknown_suite_lists_the_known_ones(place: Checkout) -> None:
    assert "deb12, deb13, jammy" in refusal(place, "--suite", "sid")


def test_a_wheel_with_other_bytes_than_the_locks_is_refused(place: Checkout) -> None:
    [path] = place.wheels.glob("gentle-*.whl")
    path.write_bytes(path.read_bytes() + b"x")
    # It counts as not there, and no index is to be asked.
    assert "pip cannot download" in refusal(place)


def test_a_wheel_for_another_processor_is_refused(place: Checkout) -> None:
    other = 62 if ARCH == "arm64" else 183
    foreign = LIBRARY[:18] + other.to_bytes(2, "little") + LIBRARY[20:]
    place.lock(wheel(place.wheels, "alien", "1.0", {"alien/a.so": foreign}, "MIT"))
    assert f"is not for {ARCH}" in refusal(place)


def test_a_library_that_nobody_has_is_refused(place: Checkout) -> None:
    foreign = LIBRARY.replace(b"\0libc.so.6\0", b"\0libq.so.6\0")
    place.lock(wheel(place.wheels, "lonely", "1.0", {"lonely/a.so": foreign}, "MIT"))
    assert "needs libq.so.6, which no known package has" in refusal(place)


def test_a_wheel_whose_licence_is_not_known_is_refused(place: Checkout) -> None:
    place.lock(wheel(place.wheels, "murky", "1.0", {"murky.py": b""}, "see the file LICENSE"))
    assert "murky: its licence" in refusal(place)


def test_a_member_that_leaves_the_folder_is_refused(place: Checkout) -> None:
    place.lock(wheel(place.wheels, "sly", "1.0", {"../../etc/cron.d/sly": b"x"}, "MIT"))
    assert "leaves its folder" in refusal(place)


def test_a_version_that_is_none_is_refused(place: Checkout) -> None:
    assert "expected one like 0.2.0" in refusal(place, "--version", "newest")


def test_a_time_that_is_none_is_refused(place: Checkout) -> None:
    assert "SOURCE_DATE_EPOCH" in refusal(place, SOURCE_DATE_EPOCH="yesterday")


def test_a_missing_lock_says_how_to_make_it(place: Checkout) -> None:
    (place.folder / f"packaging/deb/locks/deb13-{ARCH}.txt").unlink()
    assert "make it with locks.py" in refusal(place)


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")
def test_a_key_that_is_not_there_is_refused_before_anything_is_built(
    place: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    said = refusal(place, "--sign-key", "nobody@example.org", GNUPGHOME=str(home))
    assert "gpg cannot sign" in said
