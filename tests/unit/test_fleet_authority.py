"""What a fleet signs, judged by python-tuf's own client over the home's repository folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import ExpiredMetadataError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.errors import EdgeError, InputError, UntrustedError
from edge_runtime.fleet.authority import Rotation
from edge_runtime.fleet.enroll import newest_root
from edge_runtime.fleet.founding import Plan, RolePlan, found
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.keyring import Keyring
from edge_runtime.fleet.keys import make_key_pair, matching
from edge_runtime.fleet.metadata import MAX_BYTES, fresh
from edge_runtime.fleet.settings import EXPIRY_DAYS, ROLES
from edge_runtime.fleet.signed_publish import demand_complete, sign_bundle
from edge_runtime.fleet.tree import Tree
from tests.fakes.trusted import (
    DAY,
    FILE,
    NOW,
    PASSPHRASE,
    Client,
    PowerCut,
    authority,
    bundle,
    content,
    cut_at,
    keys_of,
    manifest_of,
    new_home,
    sign,
    tree,
)

pytestmark = pytest.mark.usefixtures("instant_disk")

LATER = NOW + 10 * DAY
SECOND = "demo@2.0.0@generic-x86_64.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that is copied, not used."""
    return new_home(tmp_path_factory.mktemp("made") / "fleet")


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(made.folder, tmp_path / "fleet")))


@pytest.fixture
def client(home: Home, tmp_path: Path) -> Client:
    return Client.of(tmp_path / "client", home)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("second"), "2.0.0")


def signed(home: Home, file: str) -> dict[str, object]:
    """The signed part of a file of the repository."""
    value = json.loads((home.metadata / file).read_bytes())["signed"]
    assert isinstance(value, dict)
    return value


def versions(home: Home) -> dict[str, int]:
    with authority(home) as by:
        return {role.role: role.version for role in by.outcome().roles}


def staged(home: Home) -> list[str]:
    return sorted(content(home.staged)) if home.staged.is_dir() else []


# A new home.


def test_a_new_home_is_what_a_client_of_tuf_accepts(home: Home, client: Client) -> None:
    assert client.target(tree(home)) is None
    assert sorted(content(home.metadata)) == [
        "1.root.json",
        "1.snapshot.json",
        "1.targets.json",
        "timestamp.json",
    ]


def test_every_file_says_when_it_was_signed_and_until_when_it_is_good(home: Home) -> None:
    files = ["1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"]
    for role, file in zip(ROLES, files, strict=True):
        found = signed(home, file)
        assert found["signed_at"] == "2026-11-24T12:00:00Z"
        expires = NOW + timedelta(days=EXPIRY_DAYS[role])
        assert found["expires"] == expires.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_home_is_made_once(home: Home, tmp_path: Path) -> None:
    before = content(home.folder)
    with pytest.raises(InputError, match="is a fleet home already"):
        new_home(home.folder)
    assert content(home.folder) == before
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"not empty and no fleet home"):
        new_home(taken)
    (tmp_path / "empty").mkdir()
    assert new_home(tmp_path / "empty").exists


def test_an_init_that_was_cut_short_leaves_nothing_in_the_home_s_place(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    for step in range(4):
        with pytest.raises(PowerCut), cut_at(step, after=True):
            new_home(folder)
        assert not folder.exists()
    new_home(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet"]


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ({"root": RolePlan(new=2, threshold=3)}, "role root: threshold 3 with 2 keys"),
        ({"targets": RolePlan(new=0)}, "role targets: threshold 1 with 0 keys"),
        ({"root": RolePlan(new=17)}, "17 keys"),
        ({"root": RolePlan(words=("nobody.pem",))}, r"nobody\.pem: cannot be read"),
    ],
)
def test_what_cannot_be_met_makes_no_home(
    roles: dict[str, RolePlan], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        new_home(tmp_path / "fleet", roles=roles)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("passphrase", "says"), [(None, "--passphrase-file"), ("short", "5 characters")]
)
def test_a_home_without_a_good_passphrase_is_not_made(
    passphrase: str | None, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        found(Home(tmp_path / "fleet"), Plan("edge/v1", ""), NOW, lambda: passphrase)
    assert list(tmp_path.iterdir()) == []


# Releases.


def test_a_signed_release_is_a_target_whose_bytes_are_all_there(
    home: Home, client: Client, first: Path
) -> None:
    made = sign(home, first)
    assert (made.complete, made.again) == (True, False)
    assert made.added_bytes == sum(map(len, content(home.chunks).values()))
    target = client.target(tree(home))
    assert target is not None
    assert manifest_of(home, target) == (first / "manifest.json").read_bytes()
    size_bytes = made.release.size_bytes
    assert target.custom == {
        "name": "demo", "version": "1.0.0", "profile": "generic-x86_64", "size_bytes": size_bytes,
    }  # fmt: skip
    for path, data in content(home.chunks).items():
        assert path == f"{sha256_hex(data)[:2]}/{sha256_hex(data)}"
    stored = Tree(home.repository)
    assert {path.rpartition("/")[2] for path in content(home.chunks)} == stored.chunks_of(
        made.release
    )


def test_signing_the_same_bundle_again_changes_nothing(home: Home, first: Path) -> None:
    sign(home, first)
    before = content(home.folder)
    made = sign(home, first, NOW + DAY)
    assert (made.again, made.added_bytes, made.complete) == (True, 0, True)
    assert made.outcome.written == ()
    assert content(home.folder) == before


def test_signing_again_needs_no_passphrase(home: Home, first: Path) -> None:
    sign(home, first)
    with authority(home, passphrase=None) as by:
        assert sign_bundle(by, FolderReader(first)).complete


def test_signing_again_brings_back_chunks_that_the_tree_lost(home: Home, first: Path) -> None:
    sign(home, first)
    before = content(home.folder)
    lost = next(home.chunks.rglob("??/*"))
    lost.unlink()
    assert sign(home, first).added_bytes > 0
    assert content(home.folder) == before


def test_another_bundle_of_the_same_name_is_refused_without_force(
    home: Home, client: Client, first: Path, tmp_path: Path
) -> None:
    sign(home, first)
    before = content(home.folder)
    other = bundle(tmp_path / "other", task="text-embedding")
    with pytest.raises(InputError, match=r"demo==1\.0\.0 for generic-x86_64: another bundle"):
        sign(home, other)
    assert content(home.folder) == before
    assert sign(home, other, force=True).complete
    target = client.target(tree(home))
    assert target is not None
    assert target.hashes["sha256"] == sha256_hex((other / "manifest.json").read_bytes())


def test_devices_may_still_read_what_the_last_timestamps_named(home: Home, tmp_path: Path) -> None:
    for minor in range(6):
        sign(home, bundle(tmp_path, f"1.{minor}.0"))
    files = sorted(file for file in content(home.metadata) if "@" not in file)
    numbered = [
        f"{version}.{role}.json" for version in (5, 6, 7) for role in ("snapshot", "targets")
    ]
    assert files == sorted(["1.root.json", "timestamp.json", *numbered])


def test_a_revoked_release_is_no_target_and_its_own_chunks_are_gone(
    home: Home, client: Client, first: Path, second: Path
) -> None:
    sign(home, first)
    before = content(home.chunks)
    sign(home, second)
    with authority(home, LATER) as by:
        (gone,) = by.remove("demo", "1.0.0")
        by.settle()
    assert str(gone) == "demo==1.0.0 for generic-x86_64"
    read = tree(home)
    assert client.target(read, FILE, LATER) is None
    target = client.target(read, SECOND, LATER)
    assert target is not None
    manifest_of(home, target)
    assert not (home.metadata / FILE).exists()
    after = content(home.chunks)
    assert len(before.keys() - after.keys()) == 2, "its manifest and its own golden vectors"
    (release,) = Tree(home.repository).releases().values()
    left = {path.rpartition("/")[2] for path in after}
    assert left == Tree(home.repository).chunks_of(release)


def test_a_release_is_revoked_for_one_profile_or_for_all(home: Home, tmp_path: Path) -> None:
    for profile in ("pi-5", "jetson"):
        sign(home, bundle(tmp_path / profile, profile=profile))
    with authority(home) as by:
        assert by.remove("demo", "2.0.0") == ()
        assert by.remove("demo", "1.0.0", "imx") == ()
        assert [each.profile for each in by.remove("demo", "1.0.0", "pi-5")] == ["pi-5"]
        by.settle()
        assert [each.profile for each in by.signed_releases().values()] == ["jetson"]


def test_too_much_metadata_is_refused_and_says_what_to_retire(home: Home, first: Path) -> None:
    sign(home, first)
    before = content(home.folder)
    with authority(home) as by:
        kept = by.desk.standing.targets
        assert kept is not None
        targets = fresh(kept.signed)
        for minor in range(700):
            custom = {"name": "big", "version": f"1.{minor}.0", "profile": "pi-5", "size_bytes": 1}
            file = f"big@1.{minor}.0@pi-5.json"
            targets.targets[file] = TargetFile(1, {"sha256": "0" * 64}, file, {"custom": custom})
        with pytest.raises(InputError) as refused:
            by.desk.draft("targets", targets)
    said = str(refused.value)
    assert f"at most {MAX_BYTES['targets']} pass every broker" in said
    assert "retire releases with `edge-fleet revoke`, such as big==1.0.0 --profile pi-5, " in said
    assert "(and 694 older ones more)" in said
    assert content(home.folder) == before


# Keys.


@pytest.mark.parametrize("role", ROLES)
def test_a_client_follows_the_rotation_of_any_role(
    role: str, home: Home, client: Client, first: Path
) -> None:
    sign(home, first)
    client.refresh(tree(home))
    old = keys_of(home, role)
    with authority(home, LATER) as by:
        by.rotate(role, Rotation())
        by.settle()
        outcome = by.outcome()
    new = keys_of(home, role)
    assert len(new) == 1
    assert not new.keys() & old.keys()
    assert outcome.published
    assert any("delete it, and every copy" in note for note in outcome.notes)
    assert client.target(tree(home), now=LATER) is not None
    root = Metadata[Root].from_file(str(home.metadata / "2.root.json")).signed
    assert set(root.roles[role].keyids) == set(new)


@pytest.mark.parametrize("role", ROLES)
def test_keys_that_were_rotated_away_sign_nothing_any_more(
    role: str, home: Home, client: Client, first: Path, tmp_path: Path
) -> None:
    thief = Home(Path(shutil.copytree(home.folder, tmp_path / "stolen")))
    with authority(home) as by:
        by.rotate(role, Rotation())
        by.settle()
    client.refresh(tree(home))
    sign(thief, first)
    for day in range(3):
        with authority(thief, LATER + day * DAY) as by:
            if role == "root":
                by.rotate(role, Rotation())
            by.refresh()
    read, genuine = tree(thief), tree(home)
    with pytest.raises(RepositoryError):
        # The thief serves the genuine new root, and has the keys of all other roles.
        client.refresh(lambda file: genuine(file) if file == "2.root.json" else read(file), LATER)


def test_a_client_that_was_away_follows_every_root(home: Home, client: Client) -> None:
    for role in ("root", "targets", "root", "timestamp"):
        with authority(home) as by:
            by.rotate(role, Rotation())
            by.settle()
    client.refresh(tree(home))
    assert versions(home)["root"] == 5
    assert sorted(f for f in content(home.metadata) if "root" in f)[0] == "1.root.json"


def test_keys_are_added_and_removed_by_name(home: Home, tmp_path: Path) -> None:
    key, public = make_key_pair(tmp_path / "bob.pem", PASSPHRASE.encode())
    (mine,) = keys_of(home, "targets")
    with authority(home) as by:
        by.rotate("targets", Rotation(add=[str(public)], threshold=2))
        by.settle()
        assert [each.role for each in by.outcome().staged] == ["targets"]
        notes = by.outcome().notes
    assert any("devices take no update until it is" in note for note in notes)
    assert dict(keys_of(home, "targets")) == {
        mine: f"file:keys/targets-{mine[:8]}.pem", key.keyid: "",
    }  # fmt: skip
    with authority(home, NOW, f"file:{tmp_path / 'bob.pem'}") as by:
        assert by.sign() == ("targets",)
        by.settle()
        assert by.outcome().published
        by.rotate("targets", Rotation(remove=[mine[:8]], threshold=1))
        by.settle()
    assert list(keys_of(home, "targets")) == [key.keyid]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Rotation(threshold=2), "role root: threshold 2 with 1 keys"),
        (Rotation(remove=["ffffffffff"]), "0 keys begin so, expected one of "),
        (Rotation(remove=[""]), "0 keys begin so"),
        (Rotation(add=["nobody.pem"]), r"nobody\.pem: cannot be read"),
        (Rotation(add=["hsm:2"]), r"write PUBLIC\.pem=hsm:2"),
    ],
)
def test_a_rotation_that_cannot_be_changes_nothing(change: Rotation, says: str, home: Home) -> None:
    before = content(home.folder)
    with authority(home) as by, pytest.raises(InputError, match=says):
        by.rotate("root", change)
    assert content(home.folder) == before


def test_the_last_key_of_a_role_is_not_removed(home: Home) -> None:
    (only,) = keys_of(home, "timestamp")
    with authority(home) as by, pytest.raises(InputError, match="threshold 1 with 0 keys"):
        by.rotate("timestamp", Rotation(remove=[only]))


def test_a_key_is_not_added_twice(home: Home, tmp_path: Path) -> None:
    _, public = make_key_pair(tmp_path / "bob.pem", PASSPHRASE.encode())
    with authority(home) as by:
        by.rotate("root", Rotation(add=[str(public)]))
        by.settle()
        with pytest.raises(InputError, match=r"has key .* already"):
            by.rotate("root", Rotation(add=[str(public)]))


def test_a_rotation_needs_a_key_that_is_a_file_here(home: Home) -> None:
    (only,) = keys_of(home, "timestamp")
    (home.keys / f"timestamp-{only[:8]}.pem").unlink()
    with (
        authority(home) as by,
        pytest.raises(InputError, match="say which with --remove"),
    ):
        by.rotate("timestamp", Rotation())


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_root_replaces_a_key_whose_file_was_lost(
    role: str, home: Home, client: Client, first: Path
) -> None:
    sign(home, first)
    (lost,) = keys_of(home, role)
    (home.keys / f"{role}-{lost[:8]}.pem").unlink()
    with authority(home) as by:
        by.rotate(role, Rotation(remove=[lost[:8]], new=1))
        by.settle()
        assert by.outcome().published
    assert client.target(tree(home)) is not None
    assert list(keys_of(home, role)) != [lost]


def test_devices_recover_from_versions_that_a_thief_of_the_online_keys_made_up(
    home: Home, client: Client, first: Path, tmp_path: Path
) -> None:
    thief = Home(Path(shutil.copytree(home.folder, tmp_path / "stolen")))
    with authority(thief) as by:
        for _ in range(40):
            by.refresh()
    path = thief.metadata / "timestamp.json"
    assert json.loads(path.read_bytes())["signed"]["version"] == 41
    client.refresh(tree(thief))
    with authority(home) as by:
        for role in ("snapshot", "timestamp"):
            by.rotate(role, Rotation())
            by.settle()
    sign(home, first)
    assert client.target(tree(home)) is not None


@pytest.mark.parametrize("passphrase", [None, "not the right one"])
def test_a_wrong_passphrase_is_one_sentence_and_changes_nothing(
    passphrase: str | None, home: Home, first: Path
) -> None:
    says = "the passphrase does not open it" if passphrase else "is encrypted; give its passphrase"
    before = content(home.metadata) | content(home.keys)
    with authority(home, passphrase=passphrase) as by:
        for act in (
            lambda: by.rotate("root", Rotation()),
            lambda: by.rotate("timestamp", Rotation()),
            lambda: sign_bundle(by, FolderReader(first)),
        ):
            with pytest.raises(InputError, match=says) as refused:
                act()
            assert "\n" not in str(refused.value)
            assert "not the right one" not in str(refused.value)
    assert not staged(home)
    after = content(home.metadata) | content(home.keys)
    # The release file only says how its chunks are fetched, and goes with the next change.
    assert {name: data for name, data in after.items() if name != FILE} == before
    with authority(home) as by:
        by.refresh()
    assert FILE not in content(home.metadata)


# Several holders.


class Holders:
    """Root keys 2 of 3: Alice has the home, Bob and Carol a key each, and copies of the home."""

    def __init__(self, folder: Path) -> None:
        self.keys = {}
        for name in ("bob", "carol"):
            (folder / name).mkdir(parents=True)
            self.keys[name], _ = make_key_pair(
                folder / name / "k.pem", f"{name}s own {name}".encode()
            )
        words = tuple(str(folder / name / "k.pub.pem") for name in self.keys)
        self.bob = folder / "bob" / "k.pem"
        self.alice = new_home(folder / "alice", roles={"root": RolePlan(1, 2, words)})
        self._folder = folder

    def copy(self, name: str) -> Home:
        """The home without its keys, as it goes to somebody else."""
        target = self._folder / name / "fleet"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.alice.folder, target)
        shutil.rmtree(target / "keys")
        return Home(target)

    def sign(self, name: str) -> Home:
        """What somebody's own copy is, signed with their own key."""
        home = self.copy(name)
        word = f"file:{self._folder / name / 'k.pem'}"
        with authority(home, NOW, word, passphrase=f"{name}s own {name}") as by:
            by.sign()
            by.settle()
        return home

    def complete(self) -> Home:
        """Alice's home, after Bob's signature came back."""
        bobs = self.sign("bob")
        shutil.copytree(bobs.repository, self.alice.repository, dirs_exist_ok=True)
        with authority(self.alice) as by:
            by.refresh()
        return self.alice


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    return Holders(tmp_path)


def test_the_first_root_waits_for_enough_holders(holders: Holders, tmp_path: Path) -> None:
    home = holders.alice
    assert staged(home) == ["1.root.json"]
    assert content(home.metadata) == {} if home.metadata.exists() else True
    with authority(home) as by:
        outcome = by.outcome()
        assert not outcome.published
        (waiting,) = outcome.staged
        assert (waiting.role, waiting.missing) == ("root", 1)
        assert set(waiting.unsigned) == {key.keyid for key in holders.keys.values()}
        with pytest.raises(InputError, match="lacks signatures"):
            by.remove("demo", "1.0.0")
    bobs = holders.sign("bob")
    assert staged(bobs) == []
    assert list(content(bobs.metadata)) == ["1.root.json"]
    holders.complete()
    assert staged(home) == []
    Client.of(tmp_path / "client", home).refresh(tree(home))


def test_two_of_three_holders_replace_a_lost_key(holders: Holders, tmp_path: Path) -> None:
    home = holders.complete()
    client = Client.of(tmp_path / "client", home)
    client.refresh(tree(home))

    _, public = make_key_pair(tmp_path / "dave.pem", PASSPHRASE.encode())
    lost = holders.keys["bob"].keyid
    with authority(home) as by:
        by.rotate("root", Rotation(add=[str(public)], remove=[lost[:8]]))
        by.settle()
        (waiting,) = by.outcome().staged
    assert waiting.missing == 1
    assert [change.partition(" key")[0] for change in waiting.changes] == [
        "root: adds", "root: removes",
    ]  # fmt: skip
    client.refresh(tree(home))
    assert versions(home)["root"] == 1

    # Carol signs a copy; only the staged file comes back.
    carols = holders.sign("carol")
    assert staged(carols) == []
    back = (carols.metadata / "2.root.json").read_bytes()
    with authority(home) as by:
        assert by.merge(back, "2.root.json") == "root"
        by.settle()
        assert by.outcome().published
    assert versions(home)["root"] == 2
    client.refresh(tree(home))
    root = Metadata[Root].from_file(str(home.metadata / "2.root.json"))
    assert len(root.signatures) >= 2
    assert lost not in root.signed.roles["root"].keyids


def test_one_holder_alone_rotates_nothing(holders: Holders, tmp_path: Path) -> None:
    home = holders.complete()
    client = Client.of(tmp_path / "client", home)
    client.refresh(tree(home))
    for key in home.keys.glob("root-*"):
        key.unlink()
    word = f"file:{tmp_path / 'bob' / 'k.pem'}"
    with authority(home, NOW, word, passphrase="bobs own bob") as by:
        by.rotate("root", Rotation(threshold=1))
        by.settle()
        assert [(each.role, each.missing) for each in by.outcome().staged] == [("root", 1)]
        forged = (home.staged / "2.root.json").read_bytes()
    read = tree(home)
    with pytest.raises(UnsignedMetadataError):
        client.refresh(lambda file: forged if file == "2.root.json" else read(file))


def test_who_has_not_signed_may_not_change_what_others_have(
    holders: Holders, tmp_path: Path
) -> None:
    home = holders.complete()
    with authority(home) as by:
        by.rotate("root", Rotation(threshold=1))
        by.settle()
    for key in home.keys.glob("root-*"):
        key.unlink()
    before = content(home.folder)
    word = f"file:{tmp_path / 'carol' / 'k.pem'}"
    with authority(home, NOW, word, passphrase="carols own carol") as by:
        with pytest.raises(InputError, match="others have signed it and you have not"):
            by.rotate("root", Rotation(threshold=3))
        assert content(home.folder) == before
        by.sign()
        by.settle()
    assert versions(home)["root"] == 2


def test_signatures_on_something_else_are_not_taken_over(holders: Holders) -> None:
    home = holders.complete()
    with authority(home) as by:
        by.rotate("root", Rotation(threshold=3))
        for file in ("timestamp.json", "1.targets.json"):
            with pytest.raises(InputError, match="is no copy of anything"):
                by.merge((home.metadata / file).read_bytes(), file)
        with pytest.raises(InputError, match="is no copy of anything"):
            by.merge(b"garbage", "garbage")


def test_a_release_waits_for_the_second_signature_and_may_grow_meanwhile(
    home: Home, client: Client, first: Path, second: Path, tmp_path: Path
) -> None:
    _, public = make_key_pair(tmp_path / "bob.pem", PASSPHRASE.encode())
    word = f"file:{tmp_path / 'bob.pem'}"
    with authority(home) as by:
        by.rotate("targets", Rotation(add=[str(public)], threshold=2))
        by.settle()
    with authority(home, NOW, word) as by:
        by.sign()
        by.settle()
        assert by.outcome().published
    for each in (first, second):
        made = sign(home, each)
        assert not made.complete
        with pytest.raises(InputError, match="waits for 1 more signatures"):
            demand_complete(made)
    assert client.target(tree(home)) is None
    with authority(home, NOW, word) as by:
        (waiting,) = by.outcome().staged
        assert [change.split(" (")[0] for change in waiting.changes] == [
            "adds demo==1.0.0 for generic-x86_64",
            "adds demo==2.0.0 for generic-x86_64",
        ]
        by.sign()
        by.settle()
    for file in (FILE, SECOND):
        target = client.target(tree(home), file)
        assert target is not None
        manifest_of(home, target)


def test_a_machine_without_keys_prepares_and_the_offline_machine_signs(
    home: Home, client: Client, first: Path, tmp_path: Path
) -> None:
    offline = Home(Path(shutil.copytree(home.folder, tmp_path / "offline")))
    for key in [*home.keys.glob("root-*"), *home.keys.glob("targets-*")]:
        key.unlink()
    for key in [*offline.keys.glob("snapshot-*"), *offline.keys.glob("timestamp-*")]:
        key.unlink()
    with authority(home, passphrase=None) as by:
        assert not sign_bundle(by, FolderReader(first)).complete
    shutil.copy(home.staged / "2.targets.json", offline.staged)
    with authority(offline) as by:
        assert by.sign() == ("targets",)
        by.settle()
        assert not by.outcome().published
        assert any(note.startswith("snapshot: its key is not here") for note in by.outcome().notes)
    shutil.copy(offline.metadata / "2.targets.json", home.metadata)
    with authority(home, LATER, passphrase=None) as by:
        by.refresh()
        assert by.outcome().published
    assert staged(home) == []
    assert client.target(tree(home), now=LATER) is not None


def test_sign_says_whose_signatures_are_wanted(home: Home, holders: Holders) -> None:
    with authority(home) as by, pytest.raises(InputError, match="nothing waits for a signature"):
        by.sign()
    bobs = holders.copy("bob")
    with authority(bobs) as by, pytest.raises(InputError, match="none of them is here") as refused:
        by.sign()
    assert holders.keys["carol"].keyid[:8] in str(refused.value)


# Time.


def test_refresh_renews_what_would_expire_before_the_new_timestamp(
    home: Home, client: Client
) -> None:
    client.refresh(tree(home))
    with authority(home, LATER, passphrase=None) as by:
        by.refresh()
        assert by.outcome().notes == ()
    assert versions(home) == {"root": 1, "targets": 1, "snapshot": 2, "timestamp": 2}
    client.refresh(tree(home), now=LATER + 25 * DAY)


def test_refresh_renews_root_and_targets_once_they_are_due(home: Home, client: Client) -> None:
    late = NOW + 160 * DAY
    with authority(home, late, passphrase=None) as by:
        by.refresh()
        (note,) = by.outcome().notes
    assert note == (
        "targets version 1 expires in 20 days; run `edge-fleet refresh` where its keys are"
    )
    assert versions(home)["targets"] == 1
    with authority(home, NOW + 350 * DAY) as by:
        by.refresh()
        assert by.outcome().notes == ()
        assert [role.version for role in by.outcome().roles] == [2, 2, 3, 3]
    client.refresh(tree(home), now=NOW + 370 * DAY)


def test_an_expired_timestamp_stops_a_client_until_it_is_refreshed(
    home: Home, client: Client, first: Path
) -> None:
    sign(home, first)
    late = NOW + 31 * DAY
    with pytest.raises(ExpiredMetadataError):
        client.refresh(tree(home), late)
    with authority(home, late, passphrase=None) as by:
        notes = by.outcome().notes
        assert [note.partition(":")[0] for note in notes] == [
            "snapshot version 2 has expired", "timestamp version 2 has expired",
        ]  # fmt: skip
        by.refresh()
        assert by.outcome().notes == ()
    assert client.target(tree(home), now=late) is not None


def test_refresh_takes_expiry_from_fleet_toml(home: Home) -> None:
    text = home.settings_file.read_text()
    head, _, tail = text.partition("[roles.timestamp]")
    home.settings_file.write_text(
        f"{head}[roles.timestamp]{tail.replace('expiry_days = 30', 'expiry_days = 7')}"
    )
    with authority(home) as by:
        by.refresh()
    assert signed(home, "timestamp.json")["expires"] == "2026-12-01T12:00:00Z"


def test_a_threshold_edited_in_fleet_toml_is_told_to_be_of_no_effect(home: Home) -> None:
    text = home.settings_file.read_text()
    home.settings_file.write_text(text.replace("threshold = 1", "threshold = 2", 1))
    with authority(home) as by:
        by.refresh()
        (note,) = by.outcome().notes
    assert note == "fleet.toml: root: threshold set to 1, as root version 1 has it; it was 2"
    assert home.read().roles["root"].threshold == 1


@pytest.mark.parametrize("act", ["refresh", "rotate", "publish"])
def test_a_clock_that_is_behind_signs_nothing(act: str, home: Home, first: Path) -> None:
    before = content(home.folder)
    with authority(home, NOW - DAY) as by:
        acts: dict[str, Callable[[], object]] = {
            "refresh": by.refresh,
            "rotate": lambda: by.rotate("timestamp", Rotation()),
            "publish": lambda: sign_bundle(by, FolderReader(first)),
        }
        with pytest.raises(
            InputError, match=r"clock says 2026-11-23 12:00:00 UTC, but .* 2026-11-24"
        ):
            acts[act]()
    assert content(home.folder) == before


def test_clocks_a_little_apart_are_borne_and_the_time_of_signing_never_goes_back(
    home: Home,
) -> None:
    with authority(home, NOW - timedelta(minutes=9)) as by:
        by.refresh()
    assert signed(home, "timestamp.json")["signed_at"] == "2026-11-24T12:00:00Z"


FUTURE = datetime(2030, 1, 1, tzinfo=NOW.tzinfo)


@pytest.mark.parametrize("with_passphrase", [False, True])
def test_what_was_signed_with_a_clock_ahead_is_mended_by_new_keys(
    home: Home, client: Client, with_passphrase: bool
) -> None:
    with authority(home, FUTURE, passphrase=PASSPHRASE if with_passphrase else None) as by:
        by.refresh()
    assert signed(home, "timestamp.json")["signed_at"] == "2030-01-01T00:00:00Z"
    client.refresh(tree(home))
    with (
        pytest.raises(InputError, match=r"2030-01-01 .*`edge-fleet rotate timestamp --force`"),
        authority(home, NOW + DAY) as by,
    ):
        by.refresh()
    with authority(home, NOW + DAY) as by:
        by.rotate("timestamp", Rotation(), force=True)
        by.settle()
        assert by.outcome().published
        by.refresh()
        assert not [note for note in by.outcome().notes if "ahead" in note]
    files = sorted(path.name for path in home.metadata.iterdir())
    newest = [max(file for file in files if role in file) for role in ROLES]
    assert {signed(home, file)["signed_at"] for file in newest if "root" not in file} <= {
        "2026-11-24T12:00:00Z", "2026-11-25T12:00:00Z",
    }  # fmt: skip
    assert signed(home, max(f for f in files if "root" in f))["signed_at"] == "2026-11-25T12:00:00Z"
    client.refresh(tree(home), now=NOW + DAY)


def test_a_time_that_only_the_stolen_key_signed_ends_with_it_without_force(
    home: Home, client: Client
) -> None:
    with authority(home, FUTURE, passphrase=None) as by:
        by.refresh()
    client.refresh(tree(home))
    with authority(home, NOW + DAY) as by:
        assert any("ahead of this machine's clock" in note for note in by.outcome().notes)
        by.rotate("timestamp", Rotation())
        by.settle()
        assert by.outcome().published
        by.refresh()
    assert signed(home, "timestamp.json")["signed_at"] == "2026-11-25T12:00:00Z"
    client.refresh(tree(home), now=NOW + DAY)


def test_other_holders_sign_a_rotation_that_ends_a_time_far_ahead(
    holders: Holders, tmp_path: Path
) -> None:
    home = holders.complete()
    with authority(home, FUTURE, passphrase=None) as by:
        by.refresh()
    with authority(home) as by:
        by.rotate("timestamp", Rotation())
    back = holders.sign("carol").metadata / "2.root.json"
    with authority(home) as by:
        by.merge(back.read_bytes(), "2.root.json")
        by.settle()
        assert by.outcome().published
    assert signed(home, "timestamp.json")["signed_at"] == "2026-11-24T12:00:00Z"


# What others do to the folder.


def test_metadata_that_somebody_changed_is_not_signed_again(home: Home, first: Path) -> None:
    sign(home, first)
    path = home.metadata / "2.targets.json"
    value = json.loads(path.read_bytes())
    value["signed"]["targets"]["evil@1.0.0@p.json"] = {"length": 1, "hashes": {"sha256": "0" * 64}}
    value["signed"]["version"] = 3
    (home.metadata / "3.targets.json").write_text(json.dumps(value))
    with (
        pytest.raises(UntrustedError, match=r"3\.targets\.json: is not signed by the keys"),
        authority(home) as by,
    ):
        by.refresh()


@pytest.mark.parametrize(
    "file", ["1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"]
)
@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 5000, b'{"signed": {"_type": "root"}}'])
def test_garbage_is_one_sentence(file: str, data: bytes, home: Home) -> None:
    (home.metadata / file).write_bytes(data)
    with pytest.raises(UntrustedError, match=file) as refused, authority(home):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("file", ["1.root.json", "timestamp.json"])
def test_what_nobody_can_have_signed_is_one_sentence(file: str, home: Home) -> None:
    value = json.loads((home.metadata / file).read_bytes())
    value["signed"]["x"] = 1.5
    (home.metadata / file).write_text(json.dumps(value))
    with pytest.raises(UntrustedError, match="has no canonical form"), authority(home):
        pass


def test_another_fleet_s_repository_is_not_taken_for_ours(home: Home, tmp_path: Path) -> None:
    other = new_home(tmp_path / "other")
    shutil.rmtree(home.repository)
    shutil.copytree(other.repository, home.repository)
    with (
        pytest.raises(UntrustedError, match=r"its first root is not the one that fleet\.toml"),
        authority(home),
    ):
        pass


def own_root(holders: Holders, folder: Path) -> Home:
    """Alice's home, in whose repository Bob, with his one key of three, is the fleet."""
    home = holders.complete()
    with open(holders.bob, "rb") as stream:
        key = load_pem_private_key(stream.read(), b"bobs own bob")
    assert isinstance(key, Ed25519PrivateKey)
    signer = CryptoSigner(key, holders.keys["bob"])
    root = Root(version=1, expires=NOW + 99 * DAY, consistent_snapshot=True)
    for role in ROLES:
        root.add_key(signer.public_key, role)
    metadata = Metadata(root)
    metadata.sign(signer)
    shutil.rmtree(home.metadata)
    home.metadata.mkdir()
    metadata.to_file(str(home.metadata / "1.root.json"))
    return home


def test_one_key_of_several_does_not_become_the_fleet(holders: Holders, tmp_path: Path) -> None:
    home = own_root(holders, tmp_path)
    with pytest.raises(UntrustedError, match="its first root is not the one"):
        newest_root(home, home.read())


def test_one_key_of_several_does_not_become_a_fleet_that_names_no_first_root(
    holders: Holders, tmp_path: Path
) -> None:
    home = own_root(holders, tmp_path)
    settings = replace(home.read(), first_root="")
    with pytest.raises(UntrustedError, match="none of its roots has the keys and the threshold"):
        newest_root(home, settings)
    # The same keys are not enough either.
    role = replace(settings.roles["root"], keys={holders.keys["bob"].keyid: ""})
    settings = replace(settings, roles={**settings.roles, "root": role})
    with pytest.raises(UntrustedError, match="none of its roots has the keys and the threshold"):
        newest_root(home, settings)


def test_a_home_that_named_no_first_root_does_once_it_signs(home: Home) -> None:
    named = home.read().first_root
    assert len(named) == 64
    home.write(replace(home.read(), first_root=""))
    with authority(home) as by:
        by.rotate("root", Rotation())
        # Cut here, fleet.toml has keys that are in no root yet.
    assert home.read().first_root == named
    with authority(home) as by:
        by.settle()
    home.write(replace(home.read(), first_root=""))
    with authority(home) as by:
        by.refresh()
    assert home.read().first_root == named


def test_a_first_root_that_is_changed_before_it_is_complete_is_the_one_that_counts(
    holders: Holders, tmp_path: Path
) -> None:
    home = holders.alice
    before = home.read().first_root
    with authority(home) as by:
        by.rotate("targets", Rotation())
    assert home.read().first_root not in ("", before)
    client = Client.of(tmp_path / "client", holders.complete())
    client.refresh(tree(home))


def test_a_lost_root_is_asked_for(home: Home) -> None:
    with authority(home) as by:
        by.rotate("timestamp", Rotation())
        by.settle()
    (home.metadata / "1.root.json").unlink()
    with pytest.raises(InputError, match=r"1\.root\.json: is missing"), authority(home):
        pass


def test_a_root_that_the_last_one_did_not_sign_is_refused(home: Home, tmp_path: Path) -> None:
    other = new_home(tmp_path / "other")
    with authority(other) as by:
        by.rotate("root", Rotation())
        by.settle()
    shutil.copy(other.metadata / "2.root.json", home.metadata)
    with (
        pytest.raises(UntrustedError, match=r"2\.root\.json: is not signed as the root before"),
        authority(home),
    ):
        pass


def test_a_key_under_another_one_s_id_is_refused(home: Home) -> None:
    path = home.metadata / "1.root.json"
    value = json.loads(path.read_bytes())
    keys = value["signed"]["keys"]
    one, two, *_ = keys
    keys[one], keys[two] = keys[two], keys[one]
    path.write_text(json.dumps(value))
    with pytest.raises(UntrustedError, match="goes by the id"), authority(home):
        pass


def test_something_staged_for_a_version_that_is_past_says_so(home: Home, tmp_path: Path) -> None:
    other = Home(Path(shutil.copytree(home.folder, tmp_path / "other")))
    for copy, key in ((home, "timestamp"), (other, "snapshot")):
        with authority(copy) as by:
            by.rotate(key, Rotation())
            if copy is home:
                by.settle()
    home.staged.mkdir(exist_ok=True)
    shutil.copy(other.staged / "2.root.json", home.staged)
    with (
        pytest.raises(InputError, match=r"2\.root\.json: is version 2, but root stands at"),
        authority(home),
    ):
        pass


# Power cuts.


def cuts(act: Callable[[], object]) -> list[tuple[int, bool]]:
    """Every place where `act` can be cut, as `cut_at` wants it."""
    with cut_at(10_000, after=False) as done:
        act()
    return [(step, after) for step in range(len(done)) for after in (False, True)]


def test_signing_may_be_cut_anywhere_and_done_again(
    made: Home, first: Path, second: Path, tmp_path: Path
) -> None:
    base = Home(Path(shutil.copytree(made.folder, tmp_path / "base")))
    sign(base, first)
    trial = Home(Path(shutil.copytree(base.folder, tmp_path / "trial")))
    places = cuts(lambda: sign(trial, second))
    assert len(places) > 8
    for number, (step, after) in enumerate(places):
        home = Home(Path(shutil.copytree(base.folder, tmp_path / f"home{number}")))
        client = Client.of(tmp_path / f"client{number}", home)
        client.refresh(tree(home))
        with pytest.raises(PowerCut), cut_at(step, after=after):
            sign(home, second)
        # The old release is there, whole; the new one is whole or not there.
        old, new = client.target(tree(home)), client.target(tree(home), SECOND)
        assert old is not None
        manifest_of(home, old)
        if new is not None:
            manifest_of(home, new)
        assert sign(home, second).complete
        new = client.target(tree(home), SECOND)
        assert new is not None
        manifest_of(home, new)
        assert staged(home) == []


@pytest.mark.parametrize("role", ["targets", "timestamp"])
def test_a_rotation_may_be_cut_anywhere_and_refresh_goes_on(
    role: str, made: Home, tmp_path: Path
) -> None:
    trial = Home(Path(shutil.copytree(made.folder, tmp_path / "trial")))

    def rotate(home: Home) -> None:
        with authority(home) as by:
            by.rotate(role, Rotation())
            by.settle()

    for number, (step, after) in enumerate(cuts(lambda: rotate(trial))):
        home = Home(Path(shutil.copytree(made.folder, tmp_path / f"home{number}")))
        client = Client.of(tmp_path / f"client{number}", home)
        with pytest.raises(PowerCut), cut_at(step, after=after):
            rotate(home)
        with authority(home) as by:
            by.refresh()
            assert by.outcome().published
        client.refresh(tree(home))
        assert len(keys_of(home, role)) == 1


def test_every_error_of_a_broken_home_is_ours(home: Home) -> None:
    for path in [*sorted(home.folder.rglob("*.json")), home.settings_file]:
        data = path.read_bytes()
        for broken in (data[: len(data) // 2], data.replace(b"1", b"2"), b"\xff\xfe"):
            path.write_bytes(broken)
            with suppress(EdgeError), authority(home) as by:
                by.refresh()
        path.write_bytes(data)


def test_a_key_id_may_be_cut_short_but_not_be_ambiguous() -> None:
    known = ["abcd1", "abce2"]
    assert matching("abcd", known) == "abcd1"
    for start in ("abc", "x", ""):
        with pytest.raises(InputError, match="expected one of abcd1, abce2"):
            matching(start, known)


def test_an_empty_keyring_signs_nothing(tmp_path: Path) -> None:
    assert Keyring(tmp_path, {}).sign(b"x", []).signatures == ()
