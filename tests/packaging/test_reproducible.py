"""Same input, same bytes; and two releases differ only where they differ."""

from __future__ import annotations

from pathlib import Path

from tests.packaging.checkout import checkout


def test_two_builds_in_different_places_have_the_same_bytes(tmp_path: Path) -> None:
    one = checkout(tmp_path / "one")
    other = checkout(tmp_path / "some where" / "else")
    first = one.built(TZ="UTC", LC_ALL="C", HOME="/nonexistent")
    for path in other.folder.rglob("*.py"):
        path.chmod(0o750)
    second = other.built(umask=0o077, TZ="Pacific/Kiritimati", COLUMNS="40", PYTHONHASHSEED="7")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    sums = [place.folder / "out" / "SHA256SUMS" for place in (one, other)]
    assert sums[0].read_text() == sums[1].read_text()


def test_what_is_remembered_changes_no_byte(tmp_path: Path) -> None:
    place = checkout(tmp_path / "one")
    first = place.built().read_bytes()
    assert place.built().read_bytes() == first


def test_a_new_release_keeps_the_beginning_where_its_wheels_are(tmp_path: Path) -> None:
    place = checkout(tmp_path / "one")
    old = place.built("--version", "1.0.0").read_bytes()
    new = place.built("--version", "1.1.0", SOURCE_DATE_EPOCH="1800000000").read_bytes()
    vendored = old.find(b"data.tar.xz")
    old_data, new_data = old[vendored + 60 :], new[new.find(b"data.tar.xz") + 60 :]
    same = next(n for n, (a, b) in enumerate(zip(old_data, new_data, strict=False)) if a != b)
    # The wheels are a library of this size and little else.
    assert same > 50_000
