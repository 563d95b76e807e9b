"""`python -m edge_runtime.update.trust`: the device's client of signed metadata, as a command.

It is the very client that decides over a device's updates, for whoever wants to look at a
repository as a device does, and for the TUF project's conformance suite, whose client protocol
this is: `init`, `refresh`, `download`, exit code 0 or 1 for whatever reason (2 for usage), and the
top-level metadata under plain names in `--metadata-dir`.

Unlike a device it believes the system's clock: the suite moves that one, and a person's is right.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from edge_runtime.bundle import durable
from edge_runtime.errors import EdgeError, InputError, UntrustedError
from edge_runtime.link.address import TlsFiles
from edge_runtime.link.config import PORTS as BROKERS
from edge_runtime.link.config import BrokerConfig
from edge_runtime.link.metadata import Reader
from edge_runtime.link.repository import METADATA_NAME, open_place
from edge_runtime.messages.topics import DEFAULT_PREFIX, Topics
from edge_runtime.text import MAX_ERROR, json_line, plain
from edge_runtime.update.clock import Clock, Machine
from edge_runtime.update.trust.client import MAX_ROOT_BYTES, Client, Files, Trusted

PROG = "python -m edge_runtime.update.trust"
ROOT = "initial_root"
FLOOR = "time_floor"
TARGETS = "targets"
DESCRIPTION = """\
Follow a repository of signed metadata (The Update Framework) as a device of this fleet does, and
fetch targets that it vouches for.
"""
EPILOG = """\
examples:
  begin with the root metadata that you trust; only who gave it to you can say whether it is right:
    python -m edge_runtime.update.trust --metadata-dir trusted init root.json
  follow a repository on a web server, in a folder, on a broker:
    … --metadata-dir trusted --metadata-url https://mirror.example/edge/metadata refresh
    … --metadata-dir trusted --metadata-url file:///media/usb/edge/metadata refresh
    … --metadata-dir trusted --metadata-url mqtts://broker.example:8883/edge/v1 refresh
  fetch a target that is vouched for:
    … --metadata-dir trusted --metadata-url https://tuf.example/metadata \\
      --target-name demo.txt --target-base-url https://tuf.example/targets \\
      --target-dir fetched download

exit codes: 0 done, 1 not done, with one sentence on stderr, 2 wrong usage
"""


class _SystemClock(Machine):
    """This machine, its clock taken for right."""

    def synchronized(self) -> bool:
        return True


Read = Callable[[str, int], bytes | None]


class _Places:
    """Metadata in one place, and targets, whose names begin with `targets/`, in another."""

    def __init__(self, metadata: Read, targets: Read | None = None) -> None:
        self._metadata = metadata
        self._targets = targets

    def read(self, name: str, max_bytes: int) -> bytes | None:
        _, slash, path = name.partition("/")
        if not slash or self._targets is None:
            if not re.fullmatch(METADATA_NAME, name):
                raise InputError(f"metadata file {name[:80]!r}: not a name that a file can have")
            return self._metadata(name, max_bytes)
        if any(level in ("", ".", "..") for level in path.split("/")) or "\0" in path:
            raise InputError(f"target {path[:80]!r}: not a path that a file can have")
        return self._targets(path, max_bytes)


@contextlib.contextmanager
def _files(a: argparse.Namespace) -> Iterator[Files]:
    """What the options name, open."""
    tls = TlsFiles(a.ca_file, a.cert_file, a.key_file)
    with contextlib.ExitStack() as opened:

        def place(url: str) -> Read:
            made = open_place(url, tls, allow_http=True)
            opened.callback(made.close)
            return made.get

        targets: Read | None = None
        if a.verb == "download":
            targets = place(a.target_base_url)
            if _scheme(a.target_base_url) != "file":
                there = targets
                targets = lambda path, max_bytes: there(quote(path), max_bytes)  # noqa: E731
        if _scheme(a.metadata_url) in BROKERS:
            yield _Places(opened.enter_context(_reader(a.metadata_url, tls)).read, targets)
        else:
            yield _Places(place(a.metadata_url), targets)


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _reader(url: str, tls: TlsFiles) -> Reader:
    """Of `mqtt[s]://[user[:password]@]host[:port][/prefix]`."""
    from edge_runtime.link.mqtt import connector

    scheme, _, rest = url.partition("://")
    server, _, prefix = rest.partition("/")
    config = BrokerConfig.parse(
        f"{scheme}://{server}", ca_file=tls.ca, cert_file=tls.cert, key_file=tls.key
    )
    return Reader(connector(config), Topics(prefix.strip("/") or DEFAULT_PREFIX))


def _client(folder: Path, root: bytes, files: Files) -> Client:
    # The suite has repositories that are older than this software, and sets the clock back.
    clock = Clock(folder / FLOOR, _SystemClock(), made_s=0.0)
    return Client(folder, root, files, clock)


def _read(path: Path, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_ROOT_BYTES + 1)
    except OSError as reason:
        raise InputError(f"{what} {path}: cannot be read ({reason.strerror})") from None
    if len(data) > MAX_ROOT_BYTES:
        raise InputError(f"{what} {path}: larger than {MAX_ROOT_BYTES} bytes")
    return data


def _init(a: argparse.Namespace) -> None:
    root = _read(a.root, "root metadata")
    folder: Path = a.metadata_dir
    kept = folder / ROOT
    if kept.exists() and _read(kept, "initial root") != root:
        raise InputError(f"{folder}: was begun with another root; take an empty folder")
    _client(folder, root, _Places(lambda _name, _max_bytes: None))
    durable.replace(kept, root)
    _say(a, {"metadata_dir": str(folder)}, f"{folder} begins with {a.root}")


def _refresh(a: argparse.Namespace) -> None:
    with _following(a) as (_, trusted):
        found = _versions(trusted)
        told = ", ".join(f"{role} {number}" for role, number in found.items())
        when = datetime.datetime.fromtimestamp(trusted.time_s, datetime.timezone.utc)
        _say(a, {**found, "time_s": trusted.time_s}, f"{told}; it is {when:%Y-%m-%d %H:%M} UTC")


def _download(a: argparse.Namespace) -> None:
    with _following(a) as (client, trusted):
        target = client.target(a.target_name)
        if target is None:
            raise UntrustedError(
                f"target {plain(a.target_name, 80)}: not in the signed metadata, "
                f"targets version {trusted.targets_version}"
            )
        path = client.download(target, a.target_dir, TARGETS)
        _say(a, {"path": str(path), "size_bytes": target.length}, str(path))


@contextlib.contextmanager
def _following(a: argparse.Namespace) -> Iterator[tuple[Client, Trusted]]:
    """A client that has followed the repository."""
    folder: Path = a.metadata_dir
    if not (folder / ROOT).exists():
        raise InputError(f"{folder}: holds no initial root; `init ROOT` puts one there")
    root = _read(folder / ROOT, "initial root")
    with _files(a) as files:
        client = _client(folder, root, files)
        yield client, client.refresh()


def _versions(trusted: Trusted) -> dict[str, int]:
    return {
        "root": trusted.root_version,
        "timestamp": trusted.timestamp_version,
        "snapshot": trusted.snapshot_version,
        "targets": trusted.targets_version,
    }


def _say(a: argparse.Namespace, value: dict[str, object], sentence: str) -> None:
    print(json_line(value) if a.json else plain(sentence, MAX_ERROR))


VERBS: dict[str, tuple[Callable[[argparse.Namespace], None], tuple[str, ...]]] = {
    "init": (_init, ("root",)),
    "refresh": (_refresh, ("metadata_url",)),
    "download": (
        _download,
        ("metadata_url", "target_name", "target_base_url", "target_dir"),
    ),
}
"""What each does, and what it needs besides the folder."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=PROG,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "verb", choices=VERBS, metavar="init|refresh|download", help="what to do, see below"
    )
    made.add_argument("root", nargs="?", type=Path, metavar="ROOT", help="init: the trusted root")
    made.add_argument(
        "--metadata-dir",
        required=True,
        type=Path,
        metavar="DIR",
        help="where trusted metadata is kept from run to run",
    )
    made.add_argument(
        "--metadata-url",
        metavar="URL",
        help="where metadata is: http(s)://…, file:///… or mqtt(s)://host:port/prefix",
    )
    made.add_argument("--target-name", metavar="NAME", help="download: the target's path")
    made.add_argument(
        "--target-base-url", metavar="URL", help="download: where targets are, http(s) or file"
    )
    made.add_argument(
        "--target-dir", type=Path, metavar="DIR", help="download: where the file shall be"
    )
    made.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="TLS: who vouches for the server"
    )
    made.add_argument("--cert-file", type=Path, metavar="FILE", help="TLS: our certificate")
    made.add_argument("--key-file", type=Path, metavar="FILE", help="TLS: its key")
    made.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.getLogger("edge_runtime").addHandler(logging.NullHandler())
    command = parser()
    a = command.parse_intermixed_args(argv)
    do, needs = VERBS[a.verb]
    missing = [name for name in needs if getattr(a, name) is None]
    if missing:
        shown = ("ROOT" if name == "root" else f"--{name.replace('_', '-')}" for name in missing)
        command.error(f"{a.verb} needs {', '.join(shown)}")
    if a.root is not None and "root" not in needs:
        command.error(f"{a.verb} takes no argument {str(a.root)!r}")
    try:
        do(a)
    except EdgeError as error:
        print(f"{PROG}: {plain(str(error), MAX_ERROR)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
