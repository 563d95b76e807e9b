"""The main job, end to end, on this machine: `make demo`.

Runs the product's own commands as a user would (each is printed before it runs): convert a real
model for two device profiles, serve the bundle by a real agent behind a real broker, ask it over
HTTP and MQTT, publish version 2, and watch the agent swap while a client keeps asking. Ends
everything that it started.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.demo.processes import (
    DEVICE,
    Agent,
    Asker,
    Failed,
    agent,
    broker,
    call,
    run,
    text_answer,
    text_request,
)

EXAMPLE = Path(__file__).resolve().parent.parent / "debian-sections"
PROFILES = ("generic-x86_64", "raspberry-pi-5")
CONVERT = "converters.cli"
FLEET = "edge_runtime.fleet.cli"
console = Console()


def main() -> int:
    """Command line; 0 when every step did its job."""
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__.splitlines()[0], epilog="DEMO_ARGS=... passes options"
    )
    parser.add_argument("--model", help="a Hugging Face id or folder instead of MiniLM-L6")
    parser.add_argument("--quick", action="store_true", help="train less, and say so")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="where results go")
    options = parser.parse_args()
    begin = time.monotonic()
    try:
        demo(options.out, _convert_options(options))
    except Failed as reason:
        console.print(f"[bold red]The demo stopped:[/] {reason}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"\n[bold green]Done[/] in {time.monotonic() - begin:.0f} s. Next: README.md.")
    return 0


def _convert_options(options: argparse.Namespace) -> list[str]:
    chosen = ["--quick"] if options.quick else []
    return [*chosen, "--model", options.model] if options.model else chosen


def demo(out: Path, convert_options: Sequence[str]) -> None:
    """Every step in turn."""
    texts = _test_texts(6)
    title("1. Train and convert: a text classifier for two boards")
    profiles = [word for profile in PROFILES for word in ("--profile", profile)]
    first = command(
        [CONVERT, "run", str(EXAMPLE / "recipe.toml"), *profiles, "--out", str(out / "v1")],
        convert_options,
    )
    show_bundles(first)
    bundle = _bundle(first)

    with broker(_log(out, "broker.log")) as url:
        title("2. An MQTT broker, and an agent that proves the bundle and serves it")
        console.print(f"Broker: {url}")
        with (
            telemetry(url, out) as heard,
            agent(out / "device", url, bundle, profile=PROFILES[0]) as device,
        ):
            name = first["name"]
            console.print(f"Agent: process {device.pid}, http://127.0.0.1:{device.port}/v2")
            show_status(url)
            title("3. Ask it, over HTTP and over MQTT")
            ask(device, url, name, texts)
            title("4. Version 2: the head trained further, on the same backbone")
            second = command(
                [CONVERT, "run", str(EXAMPLE / "recipe-v2.toml"), "--profile", PROFILES[0]]
                + ["--out", str(out / "v2")],
                convert_options,
            )
            update(device, url, name, _bundle(second), [text for text, _ in texts])
            show_status(url)
            time.sleep(3)  # one more telemetry message, so that the table ends with version 2
        title("5. The telemetry that arrived meanwhile")
        show_telemetry(heard)


def title(text: str) -> None:
    """A heading."""
    console.print(f"\n[bold cyan]{text}[/]")


def command(arguments: list[str], more: Sequence[str] = ()) -> Any:
    """Print a product command as a user would type it, run it, return its JSON."""
    names = {CONVERT: "edge-convert", FLEET: "edge-fleet"}
    shown = [names[arguments[0]], *arguments[1:], *more]
    console.print(f"[dim]$ {' '.join(shown)}[/]", soft_wrap=True, highlight=False)
    return run([*arguments, *more])


def _log(out: Path, name: str) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out / name


def _test_texts(count: int) -> list[tuple[str, str]]:
    """(text, label) of held-out rows, spread over the file."""
    with lzma.open(EXAMPLE / "test.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["text"], row["label"]) for row in rows[7 :: len(rows) // count]][:count]
