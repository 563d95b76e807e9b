"""`python -m tests.hostile.cage`: run every attack and tell, a line of JSON each, what it did.

What a test's own process hides is measured here, in a process that does nothing else: how far its
resident memory rose above where it stood, how much processor time it took, and which files,
processes and connections Python was asked for that are none of the attacked code's business.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import decode_json
from tests.hostile.parsers import PARSERS, check_sentence
from tests.hostile.promises import scratch

CPU_S = 30
"""A single attack; the system ends whoever takes longer."""
MEMORY_BYTES = 3 << 30
"""Address space in all: what a bomb asks for beyond that it does not get."""
READABLE = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc/", "/sys/", "/usr/",
            "/run/systemd", "/etc/ssl", "/dev/null", "/dev/zero")  # fmt: skip
"""Where Python, its libraries and the clock look by themselves, and a secret that is no secret."""
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link",
           "os.truncate", "os.chmod", "os.chown", "os.utime", "shutil.rmtree")  # fmt: skip
LEAVES = ("subprocess.Popen", "os.exec", "os.system", "os.posix_spawn", "os.fork",
          "socket.connect", "socket.sendto", "socket.bind")  # fmt: skip
OWN_PEERS = (("127.0.0.1",), ("", 0))
"""Where a client of the tests' own servers connects to, and from."""


@dataclass(frozen=True)
class Report:
    """What an attack did. `error` is the name of the class; `flaw` what is wrong with its words.

    `size_bytes` is of the attack itself, `grown_bytes` how far memory rose above what it was with
    that already in it.
    """

    id: str
    error: str
    sentence: str
    flaw: str
    size_bytes: int
    grown_bytes: int
    cpu_s: float
    touched: tuple[str, ...]


class Watch:
    """Python's audit events, while it is on: what leaves the folders that are allowed."""

    def __init__(self) -> None:
        self.touched: list[str] = []
        self.readable = (str(scratch()), *READABLE)
        self.writable = ""
        self.on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            written = isinstance(mode, str) and bool(set(mode) & set("wax+"))
            if isinstance(flags, int):
                written |= bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            self._path(path, event, write=written)
        elif event in CHANGES:
            for path in arguments[:2]:
                self._path(path, event, write=True)
        elif event in LEAVES:
            away = event.startswith("socket.") and isinstance(arguments[1], tuple)
            if not (away and (arguments[1][:1] in OWN_PEERS or arguments[1] in OWN_PEERS)):  # type: ignore[index]
                self.touched.append(f"{event} {str(arguments)[:200]}")

    def _path(self, path: object, event: str, *, write: bool) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # A descriptor that was opened before.
        text = os.path.abspath(os.fsdecode(path))
        allowed = (self.writable,) if write else self.readable
        if not any(text.startswith(one) for one in allowed):
            self.touched.append(f"{event}{' to write' if write else ''} {text[:200]}")


def _leave() -> None:
    outside = scratch().parent / f"edge-hostile-probe-{os.getpid()}"
    outside.write_bytes(b"")
    outside.unlink()


def _connect() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))


PROBES: dict[str, Callable[[], object]] = {
    "writes": _leave,
    "reads": lambda: Path("/etc/hostname").exists() and Path("/etc/hostname").read_bytes(),
    "connects": _connect,
    "starts": lambda: subprocess.run(["true"], check=True),
    "fills": lambda: len(bytearray(100 << 20)),
    "computes": lambda: sum(range(3_000_000)),
    "stumbles": lambda: os.environ["EDGE_NO_SUCH_NAME"],
    "shouts": lambda: decode_json(b"{", max_bytes=9, where="two\nlines", error=InputError),
}
"""What no attack may do, by what it does: proof that the cage would see it."""


def main() -> int:
    from tests.hostile.attacks import ATTACKS, BUNDLE_ATTACKS
    from tests.hostile.sound import EXAMPLES

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.chdir(scratch())
    for parser, examples in EXAMPLES.items():
        for data in examples().values():
            try:
                PARSERS[parser](data)
            except EdgeError:
                continue
    watch = Watch()
    for name, probe in PROBES.items():
        _tell(watch, f"probe: {name}", "topic", str(scratch()), 0, probe)
    for attack in ATTACKS:
        data, parse = attack.build(), PARSERS[attack.parser]
        _tell(watch, attack.id, attack.parser, str(scratch()), len(data), lambda: parse(data))  # noqa: B023
    for number, bundle in enumerate(BUNDLE_ATTACKS):
        folder = scratch(f"bundles/{number}")
        path = bundle.build(folder)
        state = scratch(f"bundles/{number}/state")
        before = _listing(folder)
        _tell(watch, bundle.id, "bundle", str(state), 0, lambda: _install(path, state))  # noqa: B023
        if _listing(folder) != before:
            raise SystemExit(f"bundle: {bundle.name}: something beside the state folder changed")
    return 0


def _tell(
    watch: Watch, id: str, parser: str, writable: str, size_bytes: int, act: Callable[[], object]
) -> None:
    signal.alarm(10 * CPU_S)
    resource.setrlimit(resource.RLIMIT_CPU, (int(_cpu_s()) + CPU_S, resource.RLIM_INFINITY))
    print(json.dumps({"begins": id}), flush=True)
    before_bytes, before_s = _settled_bytes(), _cpu_s()
    watch.touched, watch.writable, watch.on = [], writable, True
    error = sentence = flaw = ""
    try:
        act()
    except EdgeError as reason:
        error, sentence = type(reason).__name__, str(reason)
    except BaseException as reason:
        error, sentence, flaw = type(reason).__name__, str(reason)[:500], "no error of ours"
    watch.on = False
    grown_bytes, cpu_s = _peak_bytes() - before_bytes, _cpu_s() - before_s
    if sentence and not flaw:
        try:
            check_sentence(parser, sentence)
        except AssertionError as reason:
            flaw = str(reason)
    report = Report(id, error, sentence, flaw, size_bytes, grown_bytes, cpu_s, tuple(watch.touched))
    print(json.dumps(dataclasses.asdict(report)), flush=True)


def _install(path: Path, state: Path) -> None:
    """As the agent does with a bundle that a person hands in; the error of its verification."""
    from edge_runtime.bundle.archive import open_bundle
    from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
    from edge_runtime.bundle.store import ChunkStore
    from edge_runtime.bundle.verify import verify

    try:
        reader = open_bundle(path)
        manifest = Manifest.from_bytes(reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES))
        ChunkStore(state / "chunks").ingest(reader, manifest.files)
    except EdgeError:
        pass  # It is verified all the same.
    verify(open_bundle(path))


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Everything in `folder` but its state folder, by name, size and time of change."""
    found = []
    for inside, folders, files in os.walk(folder):
        if Path(inside) == folder:
            folders.remove("state")
        for name in files + folders:
            about = os.lstat(Path(inside, name))
            found.append((str(Path(inside, name)), about.st_size, about.st_mtime_ns))
    return sorted(found)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _settled_bytes() -> int:
    """Resident memory now, once what is free was given back; the peak starts anew from here."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _peak_bytes() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) * 1024


def reports() -> Iterator[Report]:
    """Run the cage in a process of its own; its reports, then an end that says where it broke."""
    command: Sequence[str] = [sys.executable, "-m", "tests.hostile.cage"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    ) as process:
        out, talk = process.communicate()
    begun = ""
    for line in out.decode().splitlines():
        value = json.loads(line)
        if "begins" in value:
            begun = value["begins"]
        else:
            yield Report(**value | {"touched": tuple(value["touched"])})
    if process.returncode or talk:
        said = talk.decode(errors="replace")[-2000:]
        yield Report(
            "the cage", "", said, f"ended with {process.returncode} in {begun!r}", 0, 0, 0, ()
        )


if __name__ == "__main__":
    sys.exit(main())
