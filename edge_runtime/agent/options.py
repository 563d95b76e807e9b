"""The command line of `edge-agent`: verbs, options, and what a word must look like.

A word that cannot be what it stands for is a usage error, before anything is loaded.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from edge_runtime.version import VersionAction

PROG = "edge-agent"

EPILOG = """\
examples:
  edge-agent infer model.edge --input texts.jsonl
      answer each line, a JSON string or {"text": "…"}; no configuration needed
  echo '"a fast web server"' | edge-agent infer model.edge --input - --json
  edge-agent infer digits.edge --input photo.png
      a picture or a sound by itself
  arecord -q -t raw -f S16_LE -r 16000 -c 1 | edge-agent listen words.edge -
      the words that a microphone hears, as they are spoken
  edge-agent install --config agent.toml /media/usb/edge debian-sections==1.1.0
      bring in a release from a stick, signed like any other
  edge-agent doctor --config agent.toml
      is everything here that this device needs, and which variants of its bundle would run?
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
  edge-agent infer digits.edge --input photo.png
  edge-agent infer pump.edge --input readings.csv --hop 8 --json
      {"start": 0, "end": 64, "score": …, …}: one answer for each window of rows, 8 rows apart
  edge-agent infer pump.edge --input pump.wav --hop 32
      one answer for each window of a sound, 32 ms apart

a line is an input in JSON: a text; two texts as a list or {"text": …, "text_pair": …}; a row as
{"column": value, …} or a list; of a picture or a sound the path of its file. of a CSV file each row
is one, and where the model looks at a series, each window of rows.
for people a line is: label, score, the text, and a note where only its beginning was read.
"""

LISTEN_EPILOG = """\
examples:
  edge-agent listen words.edge speech.wav
  edge-agent listen words.edge speech.wav --realtime --json
      as fast as it sounds: what a microphone would have had of it
  arecord -q -t raw -f S16_LE -r 16000 -c 1 | edge-agent listen words.edge -
      {"label": …, "score": …, "start_s": …, "end_s": …, "at_s": …, "latency_ms": …} with --json

for people a line is: when it was certain, the label, its score, where it was heard.
a microphone does not wait: windows that the model is too slow for are dropped, and their number is
told at the end. --wait makes whoever writes to stdin wait instead: for a recording from a pipe.
how often the model hears, smoothing and thresholds are the bundle's: docs/bundle-format.md.
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

DOCTOR_EPILOG = """\
examples:
  edge-agent doctor --config agent.toml
      this device: machine, engines, disk, clock, broker, certificates, its bundle
  edge-agent doctor --profile raspberry-pi-5 --bundle model.edge
      which variants would run here, and why the others not; no configuration needed
  edge-agent doctor
      this machine, and which profile fits it
  edge-agent doctor --config agent.toml --json > findings.json

exit codes: 0 no obstacle, 1 an obstacle. every finding is explained in docs/doctor.md

"""

SETUP_S = 60.0
SETUP_EPILOG = """\
examples:
  sudo edge-agent setup --token edge1_…
      the token that `edge-fleet token press-7 --profile raspberry-pi-5` printed
  sudo edge-agent setup /media/usb/press-7
      the folder that `edge-fleet enroll press-7` wrote; needs no network
  sudo edge-agent setup /media/usb/press-7 --offline --json
      {"device": …, "ready": true, "bundle": "serves", "findings": […], "ok": true, …}

repeat it as you like: what is done already is left as it is. with a folder repository/ or a file
first.edge in FOLDER the device serves that bundle first.

exit codes: 0 it runs and the doctor found no obstacle, 1 not so, 3 the token is not good, or who
answered is not the fleet

"""

CLOCK_S = 20.0
AWAIT_CLOCK_EPILOG = """\
examples:
  edge-agent await-clock
  edge-agent await-clock --timeout 5 --json
      {"right": false, "now": 1.2, "waited_s": 5.0}

exit codes: 0 the clock is right, 1 nothing has set it in that time

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
        help="answer lines, pictures, sounds, rows with a bundle, here and now",
        description="Load a bundle and answer each line of input, or a file that is one input. "
        "Stops at the first line that is wrong, after answering those before it.",
        epilog=INFER_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    infer.add_argument("bundle", type=Path, help="an .edge file or a bundle's folder")
    infer.add_argument(
        "--input",
        required=True,
        metavar="FILE|-",
        help="JSON lines, CSV, a JPEG, PNG or WAV; - is stdin",
    )
    infer.add_argument(
        "--hop",
        type=_above_0,
        metavar="N",
        help="the input is one series: a window every N rows, or every N ms of a WAV",
    )
    _model(infer)
    infer.add_argument("--json", action="store_true", help="answers as JSON lines")

    listen = verbs.add_parser(
        "listen",
        help="say what a bundle hears in a sound, as it hears it",
        description="Load a bundle that gives labels to sounds and move its window over a WAV "
        "file, or over what a microphone delivers, and print each label that it is certain of.",
        epilog=LISTEN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listen.add_argument("bundle", type=Path, help="an .edge file or a bundle's folder")
    listen.add_argument(
        "source",
        metavar="FILE|-",
        help="a WAV file; - is stdin: raw 16-bit little-endian samples of one channel, at the "
        "bundle's rate",
    )
    listen.add_argument(
        "--realtime", action="store_true", help="deliver the WAV file as fast as it sounds"
    )
    listen.add_argument(
        "--wait", action="store_true", help="drop nothing where the model is too slow"
    )
    listen.add_argument(
        "--threshold", type=_share, metavar="P", help="be certain from this mean score on, 0 to 1"
    )
    listen.add_argument(
        "--hop-ms", type=_above_0, metavar="MS", help="a window every so many milliseconds"
    )
    _model(listen)
    listen.add_argument("--json", action="store_true", help="detections as JSON lines")

    doctor = verbs.add_parser(
        "doctor",
        help="look what of this machine, device and bundle would work, and why not",
        description="Look at machine, engines, accelerators, heat, clock, disk, broker, identity "
        "and bundle, and say what is wrong and what to do. Changes nothing.",
        epilog=DOCTOR_EPILOG + CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--config", type=Path, metavar="FILE", help="the device's agent.toml")
    doctor.add_argument(
        "--profile",
        metavar="NAME",
        help="hold the machine to this board: a name, or a .toml file (default: the "
        "configuration's)",
    )
    doctor.add_argument(
        "--bundle",
        type=Path,
        metavar="PATH",
        help="which of its variants would run: an .edge file or a folder (default: the active one)",
    )
    doctor.add_argument("--offline", action="store_true", help="do not contact the broker")
    doctor.add_argument("--json", action="store_true", help="findings as JSON")

    setup = verbs.add_parser(
        "setup",
        help="make this board a device of a fleet: identity, service, start, check",
        description="Put an identity in place, enable and start the service, see that it answers, "
        "and let the doctor look. Needs root, and the package edge-agent with its systemd units.",
        epilog=SETUP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = setup.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="a device's folder, from enroll"
    )
    source.add_argument("--token", metavar="TOKEN", help="a one-time token; - reads it from stdin")
    setup.add_argument(
        "--profile", metavar="NAME", help="another board than the fleet said: a name or a .toml"
    )
    setup.add_argument(
        "--force", action="store_true", help="though this board is another device already"
    )
    setup.add_argument(
        "--no-start", action="store_true", help="put all in place; enable, start and check nothing"
    )
    setup.add_argument(
        "--offline", action="store_true", help="the doctor does not contact the broker"
    )
    setup.add_argument(
        "--timeout",
        type=_seconds,
        default=SETUP_S,
        metavar="SECONDS",
        help=f"until it is ready, and a first bundle serves (default: {SETUP_S:g})",
    )
    setup.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    # For tests, and for images: below a folder nothing can be started.
    setup.add_argument("--root", type=Path, help=argparse.SUPPRESS)

    clock = verbs.add_parser(
        "await-clock",
        help="wait until the system's clock is right, but not for long",
        description="Wait until something has set the clock: systemd-timesyncd, chrony, ntpd. The "
        "service does so once a boot, see edge-agent-clock.service. Needs no configuration.",
        epilog=AWAIT_CLOCK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    clock.add_argument(
        "--timeout",
        type=_seconds,
        default=CLOCK_S,
        metavar="SECONDS",
        help=f"go on after so long (default: {CLOCK_S:g})",
    )
    clock.add_argument("--json", action="store_true", help="how it ended, as JSON on stdout")
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


def _above_0(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return number


def _model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--variant", metavar="ID", help="run this variant, not the first that can")
    verb.add_argument("--profile", metavar="NAME", help="use this board's threads and options")


def _config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the device's agent.toml"
    )
