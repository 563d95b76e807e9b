"""The command line of `edge-fleet`: verbs, options, and what a word must look like.

A word that cannot be what it stands for is a usage error, before anything is connected.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.bundle.manifest import NAME, VERSION
from edge_runtime.errors import InputError
from edge_runtime.fleet import identity_options, trust_options
from edge_runtime.fleet.enrollment import options as enrollment_options
from edge_runtime.fleet.flash import options as flash_options
from edge_runtime.fleet.home import DEFAULT_HOME, HOME_VARIABLE
from edge_runtime.link.config import VERSIONS
from edge_runtime.messages.topics import DEFAULT_PREFIX, DEVICE_ID, Topics
from edge_runtime.version import VersionAction

PROG = "edge-fleet"
BROKER_VARIABLE = "EDGE_FLEET_BROKER"
TIMEOUT_S = 10.0
MAX_SECONDS = 1e6

EPILOG = f"""\
examples:
  export {BROKER_VARIABLE}=mqtt://broker.example:1883
  edge-fleet publish build/debian-sections-1.0.0-raspberry-pi-5.edge
      put a bundle on the broker; only chunks that are not there yet are sent
  edge-fleet deploy debian-sections==1.0.0 --device press-7 --device press-8 --wait 120
      say what these two should run, and follow them until they do
  edge-fleet status
      every device: what it serves, on which accelerator, what it is busy with
  edge-fleet watch --device press-7
      what it says, as it says it
  edge-fleet ask press-7 "A small and fast web server"
      ask its model a question over the broker; --file photo.jpg asks about a picture

devices that trust signatures only:
  edge-fleet init --broker mqtts://broker.example --passphrase-file pass
      make a fleet home in ./fleet: keys, and metadata that devices start from
  edge-fleet broker --passphrase-file pass
      a mosquitto that lets in this fleet and nobody else, ready to start
  edge-fleet enroll press-7 --profile raspberry-pi-5 --passphrase-file pass
      a device's key, certificate and agent.toml, in one folder to flash
  edge-fleet flash raspios.img.xz --device press-7 --bundle debian-sections==1.0.0 --to /dev/sdX
      a card that makes a Raspberry Pi that device, at its first boot
  edge-fleet publish build/debian-sections-1.0.0-raspberry-pi-5.edge --passphrase-file pass
      sign, then publish
  edge-fleet refresh
      daily: devices take no update once the timestamp has expired

a broker that asks who you are:
  edge-fleet status --broker mqtts://broker.example --ca ca.pem --username ops \\
      --password-file /etc/edge/ops.password

exit codes: 0 done, 1 failed (a device refused, the broker is away), 2 wrong usage,
3 a bundle or message is not to be trusted
"""

Add = Callable[..., argparse.ArgumentParser]


class Target(NamedTuple):
    """A release by its name and version."""

    name: str
    version: str


def target(text: str) -> Target:
    """`NAME==VERSION`."""
    name, equals, version = text.partition("==")
    named = bool(equals and version and re.fullmatch(NAME, name))
    if named and not re.fullmatch(VERSION, version):
        raise argparse.ArgumentTypeError(
            f"version {version!r} of {name} needs three numbers, as 1.0.0; "
            "more may follow, as 1.0.0-rc.1"
        )
    if not named:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no release, expected NAME==VERSION such as debian-sections==1.0.0"
        )
    return Target(name, version)


def profile(text: str) -> str:
    """A profile's name."""
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no profile, expected its name, such as raspberry-pi-5"
        )
    return text


def device_id(text: str) -> str:
    """One device's id."""
    if not re.fullmatch(DEVICE_ID, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no device id, expected up to 64 letters, digits, '-' or '_'"
        )
    return text


def seconds(text: str) -> float:
    """More than none, and finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time, expected seconds, more than 0 and at most {MAX_SECONDS:g}"
        )
    return value


def topics(text: str) -> Topics:
    """The topics under a prefix."""
    try:
        return Topics(text)
    except InputError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None


def _common(*, connects: bool = True) -> argparse.ArgumentParser:
    """What every verb takes; less where it never talks to a broker."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    common.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help=f"the fleet home (default: ${HOME_VARIABLE}, or {DEFAULT_HOME} where that is one)",
    )
    if not connects:
        return common
    broker = common.add_argument_group("the broker")
    broker.add_argument(
        "--broker",
        metavar="URL",
        help="mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT] "
        f"(default: ${BROKER_VARIABLE}, or the home's)",
    )
    broker.add_argument("--username", metavar="NAME", help="log in as this user")
    broker.add_argument(
        "--password-file", type=Path, metavar="FILE", help="holds the password, on its first line"
    )
    broker.add_argument(
        "--ca", type=Path, metavar="FILE", help="trust this certificate, not those of the system"
    )
    broker.add_argument("--cert", type=Path, metavar="FILE", help="client certificate, with --key")
    broker.add_argument("--key", type=Path, metavar="FILE", help="key of the client certificate")
    broker.add_argument(
        "--prefix",
        type=topics,
        dest="topics",
        metavar="TOPIC",
        help="what all topics begin with, as the agents have it "
        f"(default: the home's, or {DEFAULT_PREFIX})",
    )
    broker.add_argument(
        "--mqtt-version",
        choices=VERSIONS,
        default="auto",
        help="auto speaks MQTT 5 and falls back to 3.1.1 where it is refused (default: auto)",
    )
    broker.add_argument(
        "--timeout",
        type=seconds,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="give up after so long without any answer; raise it on a slow line "
        f"(default: {TIMEOUT_S:g})",
    )
    return common


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog=PROG,
        description="The operator's side of edge-runtime: publish bundles, roll them out to\n"
        "devices, see what the devices say. All of it goes through your MQTT broker, which\n"
        "keeps the state. What devices trust is signed with the keys in your fleet home, a\n"
        'folder that `init` makes; fleets whose devices have trust = "none" need none.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=VersionAction, help="show the release and end")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    common, local, signing = _common(), _common(connects=False), trust_options.signing()

    def add(
        name: str, *, signs: bool = False, connects: bool = True, **words: Any
    ) -> argparse.ArgumentParser:
        formatter = argparse.RawDescriptionHelpFormatter
        parents = [*([signing] if signs else []), common if connects else local]
        return verbs.add_parser(name, parents=parents, formatter_class=formatter, **words)

    _publish(add)
    _deploy(add)
    _status(add)
    _watch(add)
    _releases(add)
    _ask(add)
    trust_options.add_verbs(add, target, device_id, profile)
    identity_options.add_verbs(add)
    flash_options.add_verb(add, device_id)
    enrollment_options.add_verbs(add, device_id, seconds)
    return top


def _publish(add: Add) -> None:
    verb = add(
        "publish",
        help="put a bundle on the broker",
        description="Verify a bundle and put it on the broker, where devices fetch it from: its\n"
        "chunks, then the release that names them. No device takes it before `deploy`.\n"
        "Chunks that other releases brought are not sent again. Publishing the same bundle\n"
        "again sends what the broker has lost of it, usually nothing.\n"
        "With a fleet home the bundle goes into the home's repository folder and is signed\n"
        "first, unless it is already, and the signed metadata is sent last.",
        epilog="examples:\n"
        "  edge-fleet publish build/debian-sections-1.0.0-raspberry-pi-5.edge\n"
        "  edge-fleet publish build/debian-sections-1.0.0-raspberry-pi-5.edge --json\n"
        '      {"name": …, "version": …, "sent_bytes": …, "skipped_bytes": …, …}\n'
        "  edge-fleet publish build/debian-sections-1.0.0-raspberry-pi-5.edge \\\n"
        "      --home fleet --passphrase-file pass --folder-only\n"
        "      signed, and ready to be copied to a web server or a USB stick\n"
        "  edge-fleet publish dist/edge-agent_0.2.0+deb12_arm64.deb \\\n"
        "      dist/edge-agent_0.2.0+deb13_arm64.deb --passphrase-file pass\n"
        "      the agent itself, for two kinds of system; `deploy edge-agent==0.2.0` rolls it out",
        signs=True,
    )
    trust_options.folder_only(verb)
    verb.add_argument(
        "bundle",
        type=Path,
        nargs="+",
        help="an .edge file or a bundle's folder; or packages of the agent (.deb) of one version",
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="replace another bundle of the same name, version and profile; send every chunk",
    )


def _deploy(add: Add) -> None:
    verb = add(
        "deploy",
        help="say what devices should run",
        description="Set the desired state of devices. Each fetches the chunks that it lacks,\n"
        "tests the bundle on its own engine and swaps without dropping a request; where the\n"
        "test fails, it keeps what it has. A device that is offline does so once it is back.\n"
        "Saying the same again changes nothing. Of a version that is published for several\n"
        "profiles, each device gets the release of its own profile; where one has none,\n"
        "nothing is deployed.",
        epilog="examples:\n"
        "  edge-fleet deploy debian-sections==1.1.0 --device press-7\n"
        "  edge-fleet deploy debian-sections==1.1.0 --device press-7 --device press-8 --wait 120\n"
        "  edge-fleet deploy debian-sections==1.1.0 --device press-7 --retry\n"
        "      it refused this bundle before; let it try again\n"
        "  edge-fleet deploy debian-sections==1.1.0 --device new-1 --profile raspberry-pi-5\n"
        "      it has never been on the broker; say which release it waits for\n"
        "  edge-fleet deploy edge-agent==0.2.0 --device press-7 --wait 600\n"
        "      the agent itself; where the new one is not healthy, the old one is started again\n"
        "\nwith --wait the exit code is 1 where a device refused, or took longer",
    )
    verb.add_argument(
        "release", type=target, metavar="NAME==VERSION", help="a release of `edge-fleet releases`"
    )
    verb.add_argument(
        "--device",
        type=device_id,
        action="append",
        required=True,
        metavar="ID",
        help="a device; repeatable",
    )
    verb.add_argument(
        "--profile",
        type=profile,
        metavar="NAME",
        help="the release made for this profile, whatever the devices report",
    )
    verb.add_argument(
        "--retry", action="store_true", help="let devices that refused this bundle try it again"
    )
    verb.add_argument(
        "--wait",
        type=seconds,
        metavar="SECONDS",
        help="follow the devices until each serves the bundle or refuses it, at most so long",
    )


def _status(add: Add) -> None:
    verb = add(
        "status",
        help="what every device serves and is busy with",
        description="What the broker keeps of each device: whether it is online, the bundle that\n"
        "it serves, what it is busy with, on which accelerator it really runs (DEGRADED where\n"
        "that is not the one requested), how it trusts bundles, and what it should run.",
        epilog="examples:\n"
        "  edge-fleet status\n"
        "  edge-fleet status --device press-7 --json\n"
        '      {"devices": [{"device": "press-7", "online": true, "reported": {…}, …}]}',
    )
    verb.add_argument(
        "--device", type=device_id, action="append", metavar="ID", help="only this; repeatable"
    )


def _watch(add: Add) -> None:
    verb = add(
        "watch",
        help="what devices say, as they say it",
        description="A line for each message of the devices: online, reported, telemetry, event.\n"
        "What the broker had kept comes first, marked `earlier`. Ends with Ctrl-C.",
        epilog="examples:\n"
        "  edge-fleet watch\n"
        "  edge-fleet watch --device press-7 --seconds 60 --json > press-7.jsonl",
    )
    verb.add_argument("--device", type=device_id, metavar="ID", help="only this one")
    verb.add_argument("--seconds", type=seconds, metavar="S", help="end after so long")


def _releases(add: Add) -> None:
    add(
        "releases",
        help="what is published",
        description="Every release on the broker: what `deploy` may name. With a fleet home also\n"
        "whether it is signed; without a broker, the releases that the home has signed.",
        epilog="examples:\n  edge-fleet releases\n  edge-fleet releases --json",
    )


def _ask(add: Add) -> None:
    verb = add(
        "ask",
        help="ask a device's model a question",
        description="Send texts, pictures, sounds or rows to the model that a device serves, over\n"
        "the broker, and print an answer for each. A question is of one kind: the model's.\n"
        "--timeout is how long the device may take.",
        epilog="examples:\n"
        '  edge-fleet ask press-7 "A small and fast web server"\n'
        '  edge-fleet ask press-7 "one text" "another text" --json\n'
        '      {"device": "press-7", "results": [{"label": …, "score": …, …}, …]}\n'
        "  edge-fleet ask gate-2 --file photo.jpg --file other.png\n"
        "  edge-fleet ask hall-1 --file word.wav\n"
        '  edge-fleet ask pump-3 --row \'{"heat": 71.5, "state": "on"}\'\n'
        '  edge-fleet ask desk-4 --pair "Is it open today?" "We are closed on Sundays."\n\n'
        "all files of a question together: at most 785,664 bytes, some 95,000 on brokers that\n"
        "pass messages of 128 KiB only",
    )
    verb.add_argument("device", type=device_id, metavar="DEVICE", help="the device's id")
    verb.add_argument("text", nargs="*", metavar="TEXT", help="what to classify or embed")
    verb.add_argument(
        "--pair",
        nargs=2,
        action="append",
        metavar=("TEXT", "TEXT"),
        help="two texts that belong together; repeatable",
    )
    verb.add_argument(
        "--file",
        type=Path,
        action="append",
        metavar="FILE",
        help="a picture (JPEG, PNG) or a sound (WAV); repeatable",
    )
    verb.add_argument(
        "--row",
        action="append",
        metavar="JSON",
        help='a row, {"column": value, …} or a list, or a list of rows of a series; repeatable',
    )
