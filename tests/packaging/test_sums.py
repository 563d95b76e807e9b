"""Sums and signature, judged by sha256sum and gpg."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.checkout import Checkout

KEY = "release@edge.example"

needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A keyring of gpg's with one key."""
    folder = tmp_path / "gpg"
    folder.mkdir(mode=0o700)
    words = ["--batch", "--passphrase", "", "--quick-generate-key", KEY, "ed25519", "sign", "1y"]
    gpg(folder, *words)
    return folder


def gpg(home: Path, *words: str) -> int:
    """Run it with this keyring; its exit code."""
    variables = {**os.environ, "GNUPGHOME": str(home)}
    done = subprocess.run(["gpg", *words], env=variables, capture_output=True, check=False)
    return done.returncode


def test_the_sums_are_those_of_all_packages_and_bills(place: Checkout) -> None:
    out = place.built().parent
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, check=True)
    names = {line.split()[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert names == {path.name for path in out.iterdir()} - {"SHA256SUMS"}


@needs_gpg
def test_a_signature_verifies_until_a_sum_is_changed(place: Checkout, home: Path) -> None:
    done = place.build("--sign-key", KEY, GNUPGHOME=str(home))
    assert done.returncode == 0, done.stderr
    sums, signature = place.folder / "out/SHA256SUMS", place.folder / "out/SHA256SUMS.asc"
    assert gpg(home, "--verify", str(signature), str(sums)) == 0
    sums.write_text(sums.read_text().replace("0", "1", 1))
    assert gpg(home, "--verify", str(signature), str(sums)) != 0


def test_without_a_key_an_old_signature_does_not_stay(place: Checkout) -> None:
    old = place.folder / "out/SHA256SUMS.asc"
    old.parent.mkdir()
    old.write_text("of other sums")
    done = place.build()
    assert "not signed, no --sign-key was given" in done.stderr
    assert not old.exists()
