"""The main job, end to end, on this machine: `make demo`.

Runs the product's own commands as a user would, each printed before it runs: convert a real model
for two boards, sign and publish the bundle, have a real agent behind a real broker prove and serve
it, ask it over HTTP and MQTT, publish version 2, and watch the agent swap while a client keeps
asking. Ends everything that it
started, also when something fails.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import lzma
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.verify import verify
from edge_runtime.fields import Json
from examples.demo.processes import (
    DEVICE,
    Agent,
    Asker,
    Failed,
    Watcher,
    agent,
    broker,
    call,
    run,
    show,
    text_answer,
    text_request,
    watcher,
)
from examples.demo.telemetry import telemetry_table

EXAMPLE = Path(__file__).resolve().parent.parent / "debian-sections"
PROFILES = ("generic-x86_64", "raspberry-pi-5")
CONVERT = "edge-convert"
FLEET = "edge-fleet"
TELEMETRY_S = 2.0
console = Console()


@dataclass(frozen=True, slots=True)
class Options:
    """The demo's own options."""

    out: Path
    convert: tuple[str, ...]
    """Handed to every conversion."""


def main() -> int:
    """Command line; 0 when every step did its job."""
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="The product's main job on a real model and real text, with the product's own "
        "commands. Pass options as DEMO_ARGS, e.g. make demo DEMO_ARGS=--quick.",
    )
    parser.add_argument(
        "--model",
        metavar="ID|DIR",
        help="a text encoder, a Hugging Face id or a folder; without it MiniLM-L6, which comes as "
        "a Python package and needs no download",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="train and measure on fewer rows; the figures say so",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="where results go (%(default)s)"
    )
    parsed = parser.parse_args()
    chosen = ["--quick"] if parsed.quick else []
    chosen += ["--model", parsed.model] if parsed.model else []
    begin_s = time.monotonic()
    try:
        demo(Options(parsed.out, tuple(chosen)))
    except Failed as reason:
        console.print(f"\n[bold red]The demo stopped:[/] {reason}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; what was trained and converted stays in the cache.")
        return 130
    taken_s = time.monotonic() - begin_s
    console.print(
        f"\n[bold green]Done[/] in {taken_s:.0f} s; everything that was started has ended. "
        f"Bundles, reports and logs are in {parsed.out}.\n"
        f"Look at {parsed.out / 'v1' / 'report.html'}, then go on with README.md.",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def demo(options: Options) -> None:
    """Every step in turn; one demo at a time in a folder."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failed(f"another demo is running in {out}; give this one --out") from None
        # The device of an earlier demo would go on where it ended: with version 2.
        for old in ("device", "fleet"):
            shutil.rmtree(out / old, ignore_errors=True)
        steps(options)


def steps(options: Options) -> None:
    """What the title of each says."""
    out = options.out
    rows = test_rows(6)

    title("1. Fine-tune a pretrained encoder and convert it for two boards")
    words = [word for profile in PROFILES for word in ("--profile", profile)]
    convert(EXAMPLE / "recipe.toml", out / "v1", words, options)
    first = bundle_of(out / "v1")

    title("2. A fleet of your own: keys, signed metadata, a broker, an agent that trusts them")
    home, passphrase = out / "fleet", out / "passphrase"
    passphrase.write_text(secrets.token_urlsafe(24) + "\n")
    signing = ("--home", str(home), "--passphrase-file", str(passphrase))
    command(FLEET, "init", *signing)
    root = home / "repository" / "metadata" / "1.root.json"
    with broker(out / "broker.log") as url, watcher(url, out / "watch.log") as watching:
        with agent(
            out / "device", url, None, profile=PROFILES[0], telemetry_s=TELEMETRY_S, root=root
        ) as device:
            say(f"broker {url}, agent process {device.pid}, http://127.0.0.1:{device.port}/v2")
            fleet(url, "publish", str(first), *signing)
            name, version = identity(first)
            wanted = (f"{name}=={version}", "--device", DEVICE, "--profile", PROFILES[0])
            fleet(url, "deploy", *wanted, "--wait", "120")
            fleet(url, "status")

            title("3. Ask it, over HTTP and over MQTT")
            ask_over_http(device, name, rows)
            fleet(url, "ask", DEVICE, *(text for text, _ in rows[:2]))

            title("4. Version 2: the head trained further on the same backbone")
            convert(EXAMPLE / "recipe-v2.toml", out / "v2", ["--profile", PROFILES[0]], options)
            texts = [text for text, _ in rows]
            update(device, url, bundle_of(out / "v2"), signing, texts)
            time.sleep(2 * TELEMETRY_S)  # so that the table below ends with version 2

        title("5. The telemetry that arrived meanwhile")
        show_telemetry(watching)


def title(text: str) -> None:
    """A heading."""
    console.print(f"\n[bold cyan]{text}[/]")


def say(text: str) -> None:
    """A plain line."""
    console.print(text, soft_wrap=True, highlight=False)


def command(name: str, *arguments: str) -> None:
    """Print a product command as a user would type it, and run it before the user's eyes."""
    shown = " ".join(json.dumps(word) if " " in word else word for word in arguments)
    console.print(f"[dim]$ {name} {shown}[/]", soft_wrap=True, highlight=False)
    show(name, *arguments)


def convert(recipe: Path, out: Path, more: Sequence[str], options: Options) -> None:
    """`edge-convert run`, its progress and its table shown."""
    command(CONVERT, "run", _near(recipe), *more, "--out", str(out), *options.convert)


def _near(path: Path) -> str:
    """`path` as a user in this folder would type it."""
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def fleet(url: str, verb: str, *arguments: str) -> None:
    """An `edge-fleet` command, its output shown."""
    command(FLEET, verb, *arguments, "--broker", url)


def bundle_of(out: Path) -> Path:
    """The bundle for the device that runs here, as the conversion's report names it."""
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    found = next(one for one in report["conversions"] if one["profile"] == PROFILES[0])
    return Path(found["passes"]["package"]["bundle"])


def identity(bundle: Path) -> tuple[str, str]:
    """Its name and version."""
    manifest = verify(open_bundle(bundle), files=False).manifest
    return manifest.name, manifest.version


def test_rows(count: int) -> list[tuple[str, str]]:
    """(text, label) of held-out rows, spread over the file."""
    with lzma.open(EXAMPLE / "test.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["text"], row["label"]) for row in rows[7 :: len(rows) // count]][:count]


def ask_over_http(device: Agent, name: str, rows: Sequence[tuple[str, str]]) -> None:
    """Each text by a request of its own; the answer beside what its packager chose."""
    path = f"/v2/models/{name}/infer"
    say(f"POST http://127.0.0.1:{device.port}{path}")
    for text, label in rows:
        status, answer = call(device.port, "POST", path, text_request(text))
        if status != 200:
            raise Failed(f"the agent answered HTTP {status}: {answer}")
        found, score = text_answer(answer)
        colour = "green" if found == label else "yellow"
        console.print(
            f"  [{colour}]{found:10}[/] {score:.2f}  Debian says {label:9} {text[:60]!r}",
            highlight=False,
            soft_wrap=True,
        )


def update(
    device: Agent, url: str, bundle: Path, signing: Sequence[str], texts: Sequence[str]
) -> None:
    """Publish and deploy `bundle` while two clients keep asking; figures at the end."""
    name, version = identity(bundle)
    askers = [
        Asker(device.port, name, texts, pause_s=0.01, reuse=True),
        Asker(device.port, name, texts, pause_s=0.01, reuse=False),
    ]
    for asker in askers:
        asker.start()
    try:
        begin_s = time.monotonic()
        fleet(url, "publish", str(bundle), *signing)
        fleet(url, "deploy", f"{name}=={version}", "--device", DEVICE, "--wait", "120")
        taken_s = time.monotonic() - begin_s
        time.sleep(1)  # the clients ask on, of version 2
    finally:
        for asker in askers:
            asker.finish()
    (found,) = run(FLEET, "status", "--device", DEVICE, "--broker", url)["devices"]
    size_bytes = verify(open_bundle(bundle), files=False).manifest.size_bytes
    show_update(found["reported"], size_bytes, taken_s, askers)


def show_update(
    reported: dict[str, Any], size_bytes: int, taken_s: float, askers: Sequence[Asker]
) -> None:
    """What the update cost, and what the clients saw of it."""
    fetched = int(reported["fetched_bytes"])
    sent = sum(asker.sent for asker in askers)
    failures = [failure for asker in askers for failure in asker.failures]
    versions = sum((asker.versions for asker in askers), start=type(askers[0].versions)())
    answered = ", ".join(f"{count} by {version}" for version, count in sorted(versions.items()))
    say(
        f"on the wire: {fetched / 1e6:.2f} MB of a bundle of {size_bytes / 1e6:.1f} MB "
        f"({fetched / size_bytes:.1%})\n"
        f"from publish to serving: {taken_s:.1f} s, of which the device took "
        f"{reported['update_s']:.1f} s\n"
        f"requests meanwhile: {sent} sent ({answered}), {len(failures)} failed"
    )
    if failures:
        raise Failed(f"{len(failures)} requests failed during the update, first: {failures[0]}")
    if len(versions) < 2:
        raise Failed(f"the clients were answered by one version only: {answered}")


def show_telemetry(watching: Watcher) -> None:
    """A small table, by what arrived over MQTT."""
    messages: list[dict[str, Json]] = watching.messages("telemetry")
    if not messages:
        raise Failed("no telemetry arrived")
    console.print(telemetry_table(messages))


if __name__ == "__main__":
    raise SystemExit(main())
