"""Every malformation of manifest, archive and folder is refused with the error that it deserves."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from edge_runtime.bundle.archive import open_bundle, pack
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import EdgeError
from tests.fakes.bundles import folder_reader
from tests.hostile.bundles import ALL, BundleAttack
from tests.hostile.manifests import MANIFEST_ATTACKS, ManifestAttack


@pytest.mark.parametrize("attack", MANIFEST_ATTACKS, ids=lambda attack: attack.name)
def test_a_hostile_manifest_is_refused(attack: ManifestAttack, tmp_path: Path) -> None:
    data = attack.build()
    with pytest.raises(attack.error, match=re.escape(attack.says)) as caught:
        Manifest.from_bytes(data)
    assert type(caught.value) is attack.error
    assert len(str(caught.value)) < 1000
    with pytest.raises(attack.error):
        StoreReader(ChunkStore(tmp_path), data)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_a_hostile_bundle_is_refused(attack: BundleAttack, tmp_path: Path) -> None:
    path = attack.build(tmp_path)
    with pytest.raises(attack.error, match=re.escape(attack.says)) as caught:
        verify(open_bundle(path))
    assert type(caught.value) is attack.error


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_a_hostile_bundle_is_never_packed(attack: BundleAttack, tmp_path: Path) -> None:
    path = attack.build(tmp_path)
    with pytest.raises(attack.error):
        pack(open_bundle(path), tmp_path / "out.edge")
    assert not (tmp_path / "out.edge").exists()


def test_no_flipped_bit_of_an_archive_goes_unnoticed_but_in_times_and_versions(
    tmp_path: Path,
) -> None:
    pack(folder_reader(tmp_path / "b"), tmp_path / "b.edge")
    sound = (tmp_path / "b.edge").read_bytes()
    manifest_sha256 = verify(open_bundle(tmp_path / "b.edge")).manifest_sha256
    rng = random.Random(7)
    places = [rng.randrange(len(sound)) for _ in range(200)]
    places += range(len(sound) - 500, len(sound))
    unnoticed = 0
    for place in places:
        data = bytearray(sound)
        data[place] ^= 1 << rng.randrange(8)
        (tmp_path / "bad.edge").write_bytes(data)
        try:
            verify(open_bundle(tmp_path / "bad.edge"), manifest_sha256=manifest_sha256)
            unnoticed += 1
        except EdgeError:
            pass
    # Six entries with two versions, a time, a date, and attributes that are no file type.
    assert unnoticed <= 6 * (2 + 2 + 4 + 8)
