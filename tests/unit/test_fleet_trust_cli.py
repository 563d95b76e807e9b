"""`edge-fleet` and its home as people and scripts meet them, on a broker in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.fleet import reach, trust_verbs
from edge_runtime.fleet.cli import main
from edge_runtime.fleet.home import Home
from edge_runtime.link.config import BrokerConfig
from edge_runtime.link.memory import MemoryBroker
from tests.fakes.bundles import write_for_boards
from tests.fakes.operators import ESCAPES, TOPICS, clean, keep
from tests.fakes.trusted import (
    DAY,
    FILE,
    NOW,
    PASSPHRASE,
    Client,
    bundle,
    content,
    keys_of,
    new_home,
    retained,
    tree,
)

pytestmark = pytest.mark.usefixtures("instant_disk")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def run(
    broker: MemoryBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """(exit code, stdout, stderr) of a command line, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reach, "connector", lambda _config: broker.link)
    monkeypatch.setattr(trust_verbs, "now", lambda: NOW + DAY)
    monkeypatch.setenv("EDGE_FLEET_BROKER", "mqtt://broker.example")
    monkeypatch.delenv("EDGE_FLEET_HOME", raising=False)
    monkeypatch.delenv("EDGE_FLEET_PASSPHRASE", raising=False)
    (tmp_path / "pass").write_text(f"{PASSPHRASE}\n")

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("made") / "fleet")


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    """In `./fleet`, where it is found without being named."""
    return Home(Path(shutil.copytree(made.folder, tmp_path / "fleet")))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return bundle(tmp_path)


PASS = ["--passphrase-file", "pass"]


def value(done: tuple[int, str, str]) -> Any:
    code, out, err = done
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def roles(told: Any) -> dict[str, int]:
    return {role["role"]: role["version"] for role in told["roles"]}


# init and key.


def test_init_makes_a_home_and_says_what_to_look_after(run: Run, tmp_path: Path) -> None:
    code, out, err = run("init", *PASS, "--broker", "mqtts://broker.example", "--prefix", "site/a")
    assert code == 0
    assert out.startswith("made fleet home fleet\nROLE ")
    assert "keep copies of fleet/keys" in err
    settings = Home(tmp_path / "fleet").read()
    assert (settings.broker, settings.prefix) == ("mqtts://broker.example", "site/a")
    code, out, err = run("init", *PASS)
    assert (code, out) == (1, "")
    assert err == (
        "edge-fleet: fleet: is a fleet home already, and its keys are not written over\n"
    )


def test_init_takes_keys_thresholds_and_expiry_for_each_role(run: Run, tmp_path: Path) -> None:
    made = value(run("key", "bob.pem", *PASS, "--json"))
    assert made == {"key": made["key"], "private": "bob.pem", "public": "bob.pub.pem"}
    command = ["init", "--home", "sub/home", *PASS, "--add", "root=bob.pub.pem"]
    wishes = ["--keys", "root=2", "--threshold", "root=2", "--expires", "timestamp=7"]
    told = value(run(*command, *wishes, "--json"))
    assert told["home"] == "sub/home"
    root, *_, timestamp = told["roles"]
    assert len(root["keys"]) == 3
    assert (root["signatures"], root["threshold"]) == (2, 2)
    assert len(root["keys_here"]) == 2
    assert timestamp["expires"] == "2026-12-02T12:00:00Z"
    assert keys_of(Home(tmp_path / "sub" / "home"), "root")[made["key"]] == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["init"], 1, "give a passphrase with --passphrase-file FILE or in EDGE_FLEET_PASSPHRASE"),
        (["init", *PASS, "--broker", "http://x"], 2, "URL starts with 'http'"),
        (["init", *PASS, "--keys", "admin=2"], 2, "'admin' is no role, expected root, targets"),
        (["init", *PASS, "--keys", "root"], 2, "expected ROLE=VALUE, such as root=3"),
        (["init", *PASS, "--threshold", "root=0"], 2, "'0' is no number, expected 1..16"),
        (["init", *PASS, "--threshold", "root=2"], 1, "threshold 2 with 1 keys"),
        (["init", "--passphrase-file", "none"], 1, "none: cannot be read"),
        (["key", "pass", *PASS], 1, "pass: is there already"),
        (["refresh"], 1, "fleet is no fleet home, fleet.toml is missing; make one with"),
        (["refresh", "--home", "elsewhere"], 1, "elsewhere is no fleet home"),
        (["publish", "x.edge", "--folder-only"], 2, "no fleet home"),
        (["publish", "x.edge", "--home", "elsewhere"], 1, "elsewhere is no fleet home"),
        (["rotate", "admin"], 2, "'admin' is no role"),
        (["revoke", "a==1"], 2, "needs three numbers"),
        (["revoke", "a/b"], 2, "is no device id"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: list[str], code: int, says: str, run: Run, tmp_path: Path
) -> None:
    if arguments[0] == "publish":
        bundle(tmp_path / "b").rename(tmp_path / "x.edge")
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err


# publish.


def test_publish_signs_and_sends(
    run: Run, home: Home, first: Path, broker: MemoryBroker, tmp_path: Path
) -> None:
    code, out, err = run("publish", first, *PASS)
    assert code == 0, err
    assert out.startswith("published demo==1.0.0, ")
    client = Client.of(tmp_path / "client", home)
    for read in (retained(broker), tree(home)):
        assert client.target(read) is not None
    told = value(run("publish", first, "--json"))
    assert (told["again"], told["uploaded"], told["signed"]) == (True, True, True)
    assert (told["sent_chunks"], told["metadata_sent"]) == (0, [])
    assert {"name", "version", "profile", "manifest_sha256", "sent_bytes", "roles"} <= set(told)


def test_a_bundle_for_two_boards_is_signed_for_each_and_revoked_for_one(
    run: Run, home: Home, broker: MemoryBroker, tmp_path: Path
) -> None:
    both = write_for_boards(tmp_path / "both")[0]
    of_pi = FILE.replace("generic-x86_64", "raspberry-pi-5")
    code, out, err = run("publish", both, *PASS)
    assert code == 0, err
    assert " for generic-x86_64, raspberry-pi-5: " in out
    client = Client.of(tmp_path / "client", home)
    for read in (retained(broker), tree(home)):
        signed = [client.target(read, file) for file in (FILE, of_pi)]
        assert len({one.hashes["sha256"] for one in signed if one is not None}) == 1
        assert None not in signed
    assert value(run("publish", both, "--json"))["again"] is True
    assert run("sign", both)[1].startswith(f"signed already: {FILE}, {of_pi}\n")
    listed = run("releases")[1].splitlines()[1:]
    assert [row.split()[2] for row in listed] == ["generic-x86_64", "raspberry-pi-5"]

    kept = {topic for topic in broker.retained if TOPICS.chunk_of(topic)}
    command = ["revoke", "demo==1.0.0", "--profile", "raspberry-pi-5"]
    assert run(*command, *PASS)[1].splitlines()[0] == f"revoked {of_pi}"
    assert {topic for topic in broker.retained if TOPICS.chunk_of(topic)} == kept
    assert client.target(retained(broker), of_pi) is None
    assert client.target(retained(broker), FILE) is not None


def test_publish_to_the_folder_leaves_the_broker_alone(
    run: Run, home: Home, first: Path, broker: MemoryBroker
) -> None:
    code, out, _ = run("publish", first, *PASS, "--folder-only")
    assert (code, out) == (0, f"signed {FILE} in fleet/repository\n")
    assert broker.retained == {}
    assert value(run("publish", first, "--folder-only", "--json"))["uploaded"] is False
    assert run("sign", first)[1].startswith(f"signed already: {FILE}\n")


def test_publish_without_a_broker_says_that_it_is_not_uploaded(
    run: Run, home: Home, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_FLEET_BROKER")
    code, _, err = run("publish", first, *PASS)
    assert (code, err) == (0, "edge-fleet: not uploaded, because no broker is known\n")


def test_the_home_knows_broker_prefix_and_the_operator_s_certificate(
    run: Run, home: Home, first: Path, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[BrokerConfig] = []

    def connector(config: BrokerConfig) -> Any:
        asked.append(config)
        return broker.link

    monkeypatch.setattr(reach, "connector", connector)
    monkeypatch.delenv("EDGE_FLEET_BROKER")
    text = home.settings_file.read_text()
    changed = text.replace('broker = ""', 'broker = "mqtts://ours.example"')
    home.settings_file.write_text(changed.replace("edge/v1", "site/a"))
    assert run("publish", first, *PASS)[0] == 0
    assert all(topic.startswith("site/a/repo/") for topic in broker.retained)
    assert run("releases", "--broker", "mqtt://other.example")[0] == 0
    ours, other = asked
    assert ours.host == "ours.example"
    assert ours.cert_file is not None
    assert ours.cert_file.resolve() == home.operator_certificate
    assert (other.host, other.cert_file) == ("other.example", None)


def test_a_publish_that_lacks_signatures_sends_nothing_and_says_where_to_go(
    run: Run, home: Home, first: Path, broker: MemoryBroker
) -> None:
    for key in home.keys.glob("targets-*"):
        key.rename(key.name)
    code, out, err = run("publish", first)
    assert (code, out) == (1, "")
    assert err == (
        "edge-fleet: release demo==1.0.0 for generic-x86_64: waits for 1 more signatures in "
        "fleet/staged/2.targets.json; run `edge-fleet sign` where the keys are, then publish "
        "again\n"
    )
    assert broker.retained == {}
    code, out, _ = run("refresh", "--check")
    assert code == 1
    assert "staged targets version 2 needs 1 more of the signatures of " in out
    assert "  adds demo==1.0.0 for generic-x86_64 (manifest " in out
    (key,) = Path().glob("targets-*.pem")
    told = value(run("sign", *PASS, "--sign-with", f"file:{key}", "--json"))
    assert told["signed_roles"] == ["targets"]
    assert told["published"] is True
    assert run("publish", first)[0] == 0


def test_a_broker_that_fails_leaves_the_home_signed(
    run: Run, home: Home, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(home.folder.parent)
    monkeypatch.setattr(trust_verbs, "now", lambda: NOW + DAY)
    code, out, err = run(
        "publish", first, *PASS, "--broker", "mqtt://127.0.0.1:1", "--timeout", "0.2"
    )
    assert (code, out) == (1, "")
    assert (
        "edge-fleet: signed, but not uploaded whole; the same command repeats the upload\n" in err
    )
    assert (home.metadata / "2.targets.json").exists()


# releases.


def test_releases_say_what_is_signed(
    run: Run, home: Home, first: Path, broker: MemoryBroker, tmp_path: Path
) -> None:
    run("publish", first, *PASS)
    monkey = bundle(tmp_path / "other", "3.0.0")
    second = new_home(tmp_path / "second").folder
    code, _, err = run("publish", monkey, "--home", second, *PASS)
    assert (code, "keeps the metadata of another fleet" in err) == (1, True)
    assert not [topic for topic in broker.retained if "3.0.0" in topic]
    shutil.move(home.folder, tmp_path / "away")
    assert run("publish", monkey)[0] == 0
    code, out, _ = run("releases", "--home", "away")
    assert code == 0
    assert out.splitlines()[0].split()[-1] == "SIGNED"
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["yes", "NO"]
    listed = value(run("releases", "--home", "away", "--json"))
    assert [release["signed"] for release in listed["releases"]] == [True, False]
    assert "signed" not in value(run("releases", "--json"))["releases"][0]


def test_deploying_what_is_not_signed_is_warned_of(
    run: Run, home: Home, first: Path, tmp_path: Path
) -> None:
    run("publish", first, *PASS)
    command = ["deploy", "demo==1.0.0", "--device", "d1"]
    assert "not signed" not in run(*command)[2]
    shutil.move(home.folder, "away")
    unsigned = bundle(tmp_path, "2.0.0")
    run("publish", unsigned)
    assert "not signed" not in run("deploy", "demo==2.0.0", "--device", "d1")[2]
    code, _, err = run("deploy", "demo==2.0.0", "--device", "d1", "--home", "away")
    assert code == 0
    assert (
        "warning: demo==2.0.0 for generic-x86_64 is not signed by this home: devices that trust "
        "signatures refuse it"
    ) in err


def test_releases_without_a_broker_are_those_that_the_home_has_signed(
    run: Run, home: Home, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_FLEET_BROKER")
    assert run("releases") == (0, "", "edge-fleet: fleet has signed no release yet\n")
    run("sign", first, *PASS)
    assert run("releases")[1].splitlines()[1].split()[:3] == ["demo", "1.0.0", "generic-x86_64"]
    (release,) = value(run("releases", "--json"))["releases"]
    assert (release["version"], release["signed"]) == ("1.0.0", True)


# rotate, revoke, refresh.


def test_refresh_renews_sends_and_tells(run: Run, home: Home, broker: MemoryBroker) -> None:
    told = value(run("refresh", "--json"))
    assert roles(told) == {"root": 1, "targets": 1, "snapshot": 2, "timestamp": 2}
    assert told["metadata_sent"][-1] == "timestamp.json"
    assert told["roles"][3] == {
        "role": "timestamp", "version": 2, "expires": "2026-12-25T12:00:00Z",
        "left_s": 30 * 86400.0, "signatures": 1, "threshold": 1,
        "keys": list(keys_of(home, "timestamp")), "keys_here": list(keys_of(home, "timestamp")),
    }  # fmt: skip
    code, out, _ = run("refresh", "--folder-only")
    assert code == 0
    assert out.splitlines()[0].split() == [
        "ROLE",
        "VERSION",
        "EXPIRES",
        "LEFT",
        "SIGNATURES",
        "KEYS",
    ]
    assert out.splitlines()[4].split()[:5] == ["timestamp", "3", "2026-12-25", "30", "days"]


def test_a_copy_that_was_overtaken_takes_over_and_goes_on(
    run: Run, home: Home, first: Path, tmp_path: Path
) -> None:
    shutil.copytree(home.folder, "older")
    run("publish", first, *PASS)
    code, _, err = run("refresh", "--home", "older")
    assert code == 1
    assert "run `edge-fleet" not in err
    assert "take that over with `edge-fleet refresh --from-broker`, and do this again" in err
    code, out, err = run("refresh", "--home", "older", "--from-broker")
    assert code == 0, err
    assert "took over 2.targets.json, 2.snapshot.json, timestamp.json" in err
    assert out.splitlines()[4].split()[:2] == ["timestamp", "3"]
    assert run("refresh", "--check", "--from-broker")[0] == 2


def test_check_changes_nothing_and_fails_where_somebody_must_act(
    run: Run, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(home.folder)
    assert run("refresh", "--check")[0] == 0
    monkeypatch.setattr(trust_verbs, "now", lambda: NOW + 24 * DAY)
    code, _, err = run("refresh", "--check")
    assert code == 1
    assert "timestamp version 1 expires in 6 days; run `edge-fleet refresh`" in err
    monkeypatch.setattr(trust_verbs, "now", lambda: NOW + 31 * DAY)
    code, out, err = run("refresh", "--check")
    assert code == 1
    assert "timestamp version 1 has expired: devices take no update" in err
    assert out.splitlines()[4].split()[3] == "expired"
    assert content(home.folder) == before


def test_rotate_sends_the_new_root(
    run: Run, home: Home, broker: MemoryBroker, tmp_path: Path
) -> None:
    run("refresh")
    client = Client.of(tmp_path / "client", home)
    client.refresh(retained(broker))
    code, out, err = run("rotate", "timestamp", *PASS)
    assert code == 0
    assert out.startswith("rotated the keys of timestamp\n")
    assert "signs nothing any more: delete it, and every copy" in err
    client.refresh(retained(broker))
    assert TOPICS.metadata("2.root.json") in broker.retained


def test_a_rotation_that_waits_for_others_is_told(run: Run, home: Home) -> None:
    run("key", "bob.pem", *PASS)
    command = ["rotate", "root", "--add", "bob.pub.pem", "--threshold", "2"]
    told = value(run(*command, *PASS, "--json"))
    (staged,) = told["staged"]
    assert (staged["role"], staged["version"], staged["missing"]) == ("root", 2, 1)
    assert staged["file"] == "fleet/staged/2.root.json"
    assert staged["changes"][1] == "root: threshold 2, was 1"
    assert "uploaded" not in told
    code, out, _ = run("sign", *PASS, "--sign-with", "file:bob.pem")
    assert code == 0
    assert out.startswith("signed root\n")
    assert "staged" not in out


def test_signatures_of_a_copy_are_merged(run: Run, home: Home, tmp_path: Path) -> None:
    run("key", "bob.pem", *PASS)
    run("rotate", "root", "--add", "bob.pub.pem", "--threshold", "2", *PASS)
    shutil.copytree(home.folder, "copy")
    shutil.rmtree("copy/keys")
    assert run("sign", "--home", "copy", *PASS, "--sign-with", "file:bob.pem")[0] == 0
    told = value(run("sign", "--merge", "copy/repository/metadata/2.root.json", "--json"))
    assert roles(told)["root"] == 2
    assert run("sign", "--merge", "none.json")[0] == 1
    assert run("sign", "x", "--merge", "none.json")[0] == 2


def test_revoke_takes_a_release_from_home_and_broker(
    run: Run, home: Home, first: Path, broker: MemoryBroker, tmp_path: Path
) -> None:
    run("publish", first, *PASS)
    run("publish", bundle(tmp_path, "2.0.0"), *PASS)
    chunks = sum(TOPICS.chunk_of(topic) is not None for topic in broker.retained)
    told = value(run("revoke", "demo==1.0.0", *PASS, "--json"))
    assert [release["version"] for release in told["revoked"]] == ["1.0.0"]
    assert TOPICS.metadata(FILE) not in broker.retained
    left = sum(TOPICS.chunk_of(topic) is not None for topic in broker.retained)
    assert chunks - left == 2
    assert Client.of(tmp_path / "client", home).target(retained(broker)) is None
    assert run("revoke", "demo==1.0.0", *PASS) == (
        1, "", "edge-fleet: release demo==1.0.0: is not signed; signed are demo==2.0.0\n",
    )  # fmt: skip


def test_a_revoked_file_is_named_once(run: Run, home: Home, first: Path) -> None:
    run("publish", first, *PASS)
    code, out, _ = run("revoke", "demo==1.0.0", *PASS)
    assert (code, out.splitlines()[0]) == (0, f"revoked {FILE}")


@pytest.mark.parametrize("verb", [["refresh"], ["refresh", "--check"], ["sign", "--merge", "x"]])
def test_a_passphrase_file_that_is_not_there_is_told_though_nothing_needs_it(
    verb: list[str], run: Run, home: Home
) -> None:
    before = content(home.folder)
    code, _, err = run(*verb, "--passphrase-file", "nofile")
    assert (code, err) == (
        1, "edge-fleet: passphrase file nofile: cannot be read (No such file or directory)\n",
    )  # fmt: skip
    assert content(home.folder) == before


def test_the_advice_for_a_timestamp_that_a_thief_signed_ahead_of_time_works(
    run: Run, home: Home, first: Path, broker: MemoryBroker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run("publish", first, *PASS)
    shutil.copytree(home.folder, "stolen")
    client = Client.of(tmp_path / "client", home)
    for key in Path("stolen/keys").glob("[rt][oa]*"):
        key.unlink()
    monkeypatch.setattr(trust_verbs, "now", lambda: datetime(9998, 1, 1, tzinfo=NOW.tzinfo))
    run("refresh", "--home", "stolen")
    monkeypatch.setattr(trust_verbs, "now", lambda: NOW + DAY)
    client.refresh(retained(broker))
    second = bundle(tmp_path, "2.0.0")
    code, _, err = run("publish", second, *PASS)
    assert code == 1
    assert "take that over with `edge-fleet refresh --from-broker`" in err
    code, _, err = run("refresh", "--from-broker")
    assert code == 1
    assert "run `edge-fleet rotate timestamp`" in err
    for role in ("snapshot", "timestamp"):
        code, _, err = run("rotate", role, *PASS)
        assert code == 0, err
    assert run("publish", second, *PASS)[0] == 0
    assert client.target(retained(broker), now=NOW + DAY) is not None


def test_a_revocation_whose_upload_failed_is_finished_by_the_same_command(
    run: Run, home: Home, first: Path, broker: MemoryBroker
) -> None:
    run("publish", first, *PASS)
    assert run("revoke", "demo==1.0.0", *PASS, "--folder-only")[0] == 0
    assert TOPICS.metadata(FILE) in broker.retained
    code, out, err = run("revoke", "demo==1.0.0")
    assert code == 0, err
    assert out.startswith(f"revoked {FILE}\n")
    assert not [topic for topic in broker.retained if TOPICS.chunk_of(topic)]


def test_a_device_is_no_release(run: Run, home: Home) -> None:
    code, _, err = run("revoke", "press-7", "--profile", "x")
    assert (code, "--profile goes with a release" in err) == (2, True)
    code, _, err = run("revoke", "press-7", *PASS)
    assert code == 1
    assert "press-7" in err


def test_a_wrong_passphrase_is_one_sentence(run: Run, home: Home, first: Path) -> None:
    Path("wrong").write_text("not the right one\n")
    for command in (["publish", first, "--folder-only"], ["rotate", "root"], ["sign", first]):
        code, out, err = run(*command, "--passphrase-file", "wrong")
        assert (code, out) == (1, "")
        assert "the passphrase does not open it" in err
        assert "not the right one" not in err
        assert err.count("\n") == 1


def test_what_the_home_s_files_say_is_safe_to_print(
    run: Run, home: Home, broker: MemoryBroker
) -> None:
    keep(broker, TOPICS.metadata("timestamp.json"), ESCAPES.encode())
    path = home.metadata / "timestamp.json"
    path.write_text(json.dumps({"signed": {"_type": ESCAPES}, "signatures": []}))
    for command in (["refresh"], ["refresh", "--check"], ["releases"]):
        code, out, err = run(*command)
        assert code == 3
        assert clean(out)
        assert clean(err)


def test_on_a_terminal_the_talk_moves_and_the_result_stays(
    run: Run, home: Home, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert value(run("publish", first, *PASS, "--json"))["uploaded"] is True
    assert value(run("sign", first, "--json"))["again"] is True
    for command in (["refresh"], ["refresh", "--from-broker"], ["rotate", "root", *PASS]):
        assert value(run(*command, "--json"))["published"] is True
