"""`edge-agent`: run a device, ask a bundle something, check a configuration.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not to be trusted.
What a verb needs is imported when it is asked for: a supervisor must stay small.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_runtime.errors import EdgeError, exit_code
from edge_runtime.text import MAX_ERROR, plain
from edge_runtime.version import VersionAction, release

PROG = "edge-agent"

EPILOG = """\
examples:
  edge-agent infer model.edge --input texts.jsonl
      answer each line, a JSON string or {"text": "…"}; no configuration needed
  echo '"a fast web server"' | edge-agent infer model.edge --input - --json
  edge-agent install --config agent.toml /media/usb/edge debian-sections==1.1.0
      bring in a release from a stick, signed like any other
  edge-agent check --config agent.toml
      is everything here that this device needs?
  edge-agent run --config agent.toml --bundle model.edge
      serve the bundle on http://127.0.0.1:8080/v2, report and take updates over MQTT

a smallest agent.toml:
  device_id = "press-7"
  profile = "generic-x86_64"
  state_dir = "/var/lib/edge-agent"
  trust = "none"

  [broker]
  url = "mqtt://broker.example:1883"
"""

RUN_EPILOG = """\
examples:
  edge-agent run --config agent.toml
      serve what is installed, or first_bundle, or what the broker asks for
  edge-agent run --config agent.toml --bundle model.edge
      install this bundle first; it serves once it has passed its self-test
  curl http://127.0.0.1:8080/v2/health/ready

while no bundle serves, /v2/health/live is 200 and all else 503 and one sentence.
one agent for each state_dir: a second one ends at once and names the first.

"""

INFER_EPILOG = """\
examples:
  edge-agent infer model.edge --input texts.jsonl
  echo '"a fast web server"' | edge-agent infer model.edge --input -
  edge-agent infer model.edge --input texts.jsonl --json > answers.jsonl
  edge-agent infer model.edge --input - --variant ort-int8 --profile generic-x86_64

for people a line is: label, score, the text, and a note where only its beginning was read.
"""

INSTALL_S = 600.0
INSTALL_EPILOG = """\
examples:
  edge-agent install --config agent.toml /media/usb/edge debian-sections==1.1.0
      out of a repository: what edge-fleet keeps in its folder repository/, on a stick
  edge-agent install --config agent.toml debian-sections-1.1.0-raspberry-pi-5.edge
      with trust "tuf" the release must be in signed metadata that this device can reach or has seen

exit codes: 0 it serves, 1 it cannot be installed, 3 it is not to be trusted

"""

CHECK_EPILOG = """\
examples:
  edge-agent check --config agent.toml
  edge-agent check --config agent.toml --json

"""

CONFIG_HELP = """\
every key may also be set in the environment: EDGE_AGENT_DEVICE_ID, EDGE_AGENT_BROKER_URL,
EDGE_AGENT_API_PORT and so on, after the table and the key
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog=PROG,
        description="The device's side of edge-runtime: prove a bundle on the real engine, serve "
        "it over HTTP, report over MQTT, take updates over MQTT without dropping a request.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=VersionAction, help="show the release and end")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    run = verbs.add_parser(
        "run",
        help="be a device: serve, report, update; until a signal ends it",
        description="Run the agent in the foreground. Its log goes to stderr; SIGTERM or Ctrl-C "
        "ends it in order.",
        epilog=RUN_EPILOG + CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _config(run)
    run.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="install this bundle first; what the broker asks for still takes precedence",
    )
    run.add_argument(
        "--json", action="store_true", help="print where the API is, one line of JSON on stdout"
    )

    install = verbs.add_parser(
        "install",
        help="install a bundle from a file, a folder or a stick",
        description="Bring in a bundle on a board that nobody reaches from afar, through the same "
        "checks as one over the broker: who signed it, every digest, the profile, the self-test. "
        "An agent that runs takes it over without dropping a request; where none runs, the bundle "
        "is tested here and serves from the next start on.",
        epilog=INSTALL_EPILOG + CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _config(install)
    install.add_argument(
        "path", type=Path, help="an .edge file, a bundle's folder, or a repository's folder"
    )
    install.add_argument(
        "release",
        nargs="?",
        metavar="NAME==VERSION",
        help="which release of a repository; not needed where it holds one for this profile",
    )
    install.add_argument(
        "--timeout",
        type=_seconds,
        default=INSTALL_S,
        metavar="SECONDS",
        help=f"give up after so long (default: {INSTALL_S:g})",
    )
    install.add_argument("--json", action="store_true", help="the result as JSON on stdout")

    infer = verbs.add_parser(
        "infer",
        help="answer lines of text with a bundle, here and now",
        description="Load a bundle and answer each line of input: a JSON string, or an object "
        'with a "text". Stops at the first line that is wrong, after answering those before it.',
        epilog=INFER_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    infer.add_argument("bundle", type=Path, help="an .edge file or a bundle's folder")
    infer.add_argument("--input", required=True, metavar="FILE|-", help="JSON lines; - is stdin")
    infer.add_argument("--variant", metavar="ID", help="run this variant, not the first that can")
    infer.add_argument("--profile", metavar="NAME", help="use this board's threads and options")
    infer.add_argument("--json", action="store_true", help="answers as JSON lines")

    check = verbs.add_parser(
        "check",
        help="look whether a configuration would run here",
        description="Validate a configuration and look for what it needs: profile, engines, state "
        "folder, port. Changes nothing, connects to nothing.",
        epilog=CHECK_EPILOG + CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _config(check)
    check.add_argument("--json", action="store_true", help="findings as JSON")
    return top


def _seconds(text: str) -> float:
    """A time to wait. NaN is never over, and never under way."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the device's agent.toml"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return VERBS[arguments.verb](arguments)
    except EdgeError as error:
        print(f"{PROG}: {plain(str(error), MAX_ERROR)}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent import logs
    from edge_runtime.agent.config import load_config
    from edge_runtime.agent.supervisor import Supervisor

    config = load_config(arguments.config)
    logs.configure(config.log_level, process="supervisor")
    connector = None
    if config.broker is not None:
        from edge_runtime.link.mqtt import connector as mqtt

        connector = mqtt(config.broker)
    supervisor = Supervisor(config, release() or "0", connector)
    if arguments.json:
        print(json.dumps({"port": supervisor.port, "pid": os.getpid()}), flush=True)
    supervisor.run(arguments.bundle)
    return 0


def _install(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent import logs
    from edge_runtime.agent.config import load_config
    from edge_runtime.agent.install import install

    config = load_config(arguments.config)
    logs.configure("warning", process="install")
    done = install(
        config,
        arguments.path,
        arguments.release,
        release() or "0",
        arguments.timeout,
        lambda state: print(f"{PROG}: {state}", file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(done.as_json()))
    else:
        when = "serves now" if done.running else "passed its self-test, serves from the next start"
        print(f"{done.bundle.name} {done.bundle.version} {when}")
    return 0


def _infer(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent.infer import infer

    logging.getLogger().addHandler(logging.NullHandler())
    infer(
        arguments.bundle,
        arguments.input,
        sys.stdout,
        variant=arguments.variant,
        profile=arguments.profile,
        as_json=arguments.json,
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent.check import check
    from edge_runtime.agent.config import load_config

    findings = check(load_config(arguments.config))
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        marks = {True: "ok", False: "FAILED", None: "note"}
        for finding in findings:
            print(f"{marks[finding.ok]:6}  {finding.what}: {plain(finding.text)}")
    return 1 if any(finding.ok is False for finding in findings) else 0


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "install": _install,
    "infer": _infer,
    "check": _check,
}


def entry() -> None:
    """Console command."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
