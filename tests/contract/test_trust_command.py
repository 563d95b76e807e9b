"""`python -m edge_runtime.update.trust`: what the TUF project's conformance suite asks of a client.

`init`, `refresh`, `download`; exit code 0 or 1; the trusted top-level metadata under plain names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.link.mqtt import MqttLink
from edge_runtime.messages.topics import Topics
from edge_runtime.update.trust.__main__ import PROG, main
from tests.fakes.brokers import ROOT, free_port
from tests.fakes.signed import SignedRepository, publish_retained, serving, signer

TOPICS = Topics("cli/edge")


@pytest.fixture
def repo(monkeypatch: pytest.MonkeyPatch) -> SignedRepository:
    """One that is fresh by the system's clock, which this command believes."""
    made = SignedRepository()
    monkeypatch.setattr("time.time", lambda: made.now_s)
    made.add("demo.txt", b"demo")
    made.publish()
    return made


@pytest.fixture
def folder(tmp_path: Path, repo: SignedRepository) -> Path:
    """Begun with the repository's root."""
    assert init(tmp_path / "trusted", tmp_path, repo.files["1.root.json"]) == 0
    return tmp_path / "trusted"


def init(folder: Path, tmp_path: Path, root: bytes) -> int:
    (tmp_path / "root.json").write_bytes(root)
    return main(["--metadata-dir", str(folder), "init", str(tmp_path / "root.json")])


def refresh(folder: Path, url: str, *more: str) -> int:
    return main(["--metadata-dir", str(folder), "--metadata-url", url, *more, "refresh"])


def download(folder: Path, url: str, base: str, name: str, to: Path) -> int:
    where = ["--metadata-dir", str(folder), "--metadata-url", url]
    what = ["--target-name", name, "--target-base-url", base, "--target-dir", str(to)]
    return main([*where, *what, "download"])


def versions(folder: Path) -> dict[str, int]:
    return {
        path.name: json.loads(path.read_bytes())["signed"]["version"]
        for path in folder.glob("*.json")
    }


@pytest.fixture(params=["http", "file", "mqtt"])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, repo: SignedRepository
) -> Iterator[Callable[[], str]]:
    """Where the repository is; each call serves it as it is now."""
    if request.param == "http":
        with serving(repo) as site:
            yield lambda: f"{site.url}/metadata"
    elif request.param == "file":

        def write() -> str:
            repo.write(tmp_path / "served")
            return (tmp_path / "served" / "metadata").as_uri()

        yield write
    else:
        link: MqttLink
        link, broker = request.getfixturevalue("metadata_broker")

        def publish() -> str:
            publish_retained(link, TOPICS, repo.files)
            return f"{broker}/{TOPICS.prefix}/"

        yield publish
        publish_retained(link, TOPICS, {}, repo.files)


def test_a_refresh_keeps_the_newest_metadata_under_plain_names(
    repo: SignedRepository,
    folder: Path,
    url: Callable[[], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refresh(folder, url()) == 0
    assert versions(folder) == {
        "root.json": 1,
        "timestamp.json": 2,
        "snapshot.json": 2,
        "targets.json": 2,
    }
    repo.publish("root", "timestamp")
    assert refresh(folder, url(), "--json") == 0
    assert versions(folder)["root.json"] == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told.pop("time_s") >= repo.now_s
    assert told == {"root": 2, "timestamp": 3, "snapshot": 2, "targets": 2}


def test_a_refresh_that_fails_says_why_in_one_sentence(
    repo: SignedRepository,
    folder: Path,
    url: Callable[[], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refresh(folder, url()) == 0
    repo.publish("timestamp")
    repo.replace("timestamp", repo.again("timestamp", signer("eve")))
    capsys.readouterr()
    assert refresh(folder, url()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{PROG}: timestamp.json: not signed by enough of the keys that are trusted for it: "
        "timestamp was signed by 0/1 keys"
    ]
    assert versions(folder)["timestamp.json"] == 2


def test_a_target_is_fetched_from_where_targets_are(
    repo: SignedRepository, folder: Path, url: Callable[[], str], tmp_path: Path
) -> None:
    repo.add("a b/ü.txt", b"umlaut")
    repo.publish()
    repo.write(tmp_path / "targets-here")
    bases = [(tmp_path / "targets-here" / "targets").as_uri()]
    with serving(repo) as site:
        for base in [*bases, f"{site.url}/targets/"]:
            out = tmp_path / base.partition(":")[0]
            assert download(folder, url(), base, "demo.txt", out) == 0
            assert download(folder, url(), base, "a b/ü.txt", out) == 0
            assert sorted(path.read_bytes() for path in out.iterdir()) == [b"demo", b"umlaut"]


def test_a_target_that_is_here_is_not_fetched_again(
    repo: SignedRepository, folder: Path, tmp_path: Path
) -> None:
    with serving(repo) as site:
        where = f"{site.url}/metadata", f"{site.url}/targets", "demo.txt", tmp_path / "out"
        assert download(folder, *where) == 0
        assert download(folder, *where) == 0
        assert sum(path.startswith("targets/") for path in site.asked) == 1


def test_a_target_that_was_exchanged_is_not_kept(
    repo: SignedRepository, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo.artifacts = dict.fromkeys(repo.artifacts, b"evil")
    with serving(repo) as site:
        where = f"{site.url}/metadata", f"{site.url}/targets", "demo.txt", tmp_path / "out"
        assert download(folder, *where) == 1
    assert list(tmp_path.glob("out/*")) == []
    assert "target demo.txt: mixed with other metadata" in capsys.readouterr().err


def test_a_target_that_nobody_signed_is_not_asked_for(
    repo: SignedRepository, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(repo) as site:
        where = f"{site.url}/metadata", f"{site.url}/targets", "other.txt", tmp_path / "out"
        assert download(folder, *where) == 1
        assert [path for path in site.asked if path.startswith("targets/")] == []
    assert capsys.readouterr().err == (
        f"{PROG}: target other.txt: not in the signed metadata, targets version 2\n"
    )
    assert versions(folder)["targets.json"] == 2  # The metadata was followed all the same.


def test_metadata_from_before_the_software_was_made_is_judged_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite has such repositories, and sets the clock back."""
    old = SignedRepository(now_s=1_600_000_000.0)
    old.write(tmp_path / "served")
    url = (tmp_path / "served" / "metadata").as_uri()
    assert init(tmp_path / "trusted", tmp_path, old.files["1.root.json"]) == 0
    monkeypatch.setattr("time.time", lambda: old.now_s)
    assert refresh(tmp_path / "trusted", url) == 0
    monkeypatch.setattr("time.time", lambda: old.now_s + 8 * 86_400)
    assert refresh(tmp_path / "trusted", url) == 1


@pytest.mark.parametrize("spoil", [b"{}", b"not JSON", b"", b" " * 200_000])
def test_an_initial_root_that_is_none_is_not_begun_with(
    spoil: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path / "trusted", tmp_path, spoil) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert refresh(tmp_path / "trusted", "http://127.0.0.1:9/metadata") == 1
    assert "holds no initial root" in capsys.readouterr().err


def test_a_folder_that_was_begun_keeps_its_root(
    repo: SignedRepository, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(folder, tmp_path, repo.files["1.root.json"]) == 0
    other = SignedRepository("other")
    capsys.readouterr()
    assert init(folder, tmp_path, other.files["1.root.json"]) == 1
    assert "was begun with another root" in capsys.readouterr().err
    assert (folder / "root.json").read_bytes() == repo.files["1.root.json"]


def test_init_asks_nobody(folder: Path) -> None:
    assert versions(folder) == {"root.json": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["refresh"],
        ["--metadata-dir", "x", "refresh"],
        ["--metadata-dir", "x", "init"],
        ["--metadata-dir", "x", "--metadata-url", "http://x", "refresh", "root.json"],
        ["--metadata-dir", "x", "--metadata-url", "http://x", "download"],
        ["--metadata-dir", "x", "forget"],
    ],
)
def test_wrong_usage_is_told_and_is_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/metadata",
        "mqtt://127.0.0.1:99999/x",
        "mqtt://[::1/x",
        "mqtt://127.0.0.1:{port}/a+b",
        "http://[::1/metadata",
        "ftp://127.0.0.1/metadata",
        "metadata",
        "file:///nowhere/at/all",
    ],
)
def test_a_place_that_is_none_is_told_in_one_sentence(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refresh(folder, url.format(port=free_port())) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{PROG}: ")
    assert err.count("\n") == 1


def test_the_command_runs_as_a_module(tmp_path: Path, repo: SignedRepository) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_runtime.update.trust", *arguments]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    repo.write(tmp_path / "served")
    trusted = str(tmp_path / "trusted")
    begun = run("--metadata-dir", trusted, "init", str(tmp_path / "served/metadata/1.root.json"))
    assert (begun.returncode, begun.stderr) == (0, "")
    failed = run("--metadata-dir", trusted, "--metadata-url", "file:///nowhere", "refresh")
    assert failed.returncode == 1
    assert failed.stderr == f"{PROG}: /nowhere: cannot be opened (No such file or directory)\n"
    assert "examples:" in run("--help").stdout
