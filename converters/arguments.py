"""The arguments of `edge-convert`, verb by verb, with an example for each."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TypeAlias

from converters.cache import default_folder
from edge_runtime.version import VersionAction

PROG = "edge-convert"
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EPILOG = """\
examples:
  edge-convert run examples/debian-sections/recipe.toml --profile generic-x86_64 --out build
      fine-tune, export, quantize, measure, pack; report.html beside the bundle shows it all
  edge-convert run my/recipe.toml --profile raspberry-pi-5 --profile my/board.toml --out build
      the same model for two boards; what they share is computed once
  edge-convert optimize examples/debian-sections/recipe-search.toml --profile generic-x86_64 \\
      --budget faster=8,smaller=10,drop=1.4% --out build/search
      search for the best bundle within a budget: smaller shapes, distilled and quantized
  edge-convert join build/debian-sections-1.0.0-generic-x86_64.edge \\
      build/debian-sections-1.0.0-raspberry-pi-5.edge --out build
      one bundle for both boards; each fetches its own part of it
  edge-convert inspect build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert verify build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert compare build/debian-sections-1.0.0-generic-x86_64.edge \\
      build/search/debian-sections-small-1.0.0-generic-x86_64.edge
  edge-convert profiles
  edge-convert place my/model.tflite --profile imx93
      which operators run on its NPU, which do not and why
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog=PROG,
        description="Turn a pretrained model into a small, fast bundle for an edge device, and "
        "prove on the way that it still answers right.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=VersionAction, help="show the release and end")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (
        _run, _optimize, _join, _inspect, _verify, _compare, _profiles, _place, _setup_target,
    ):  # fmt: skip
        add(verbs)
    return top


def _run(verbs: Verbs) -> None:
    run = _verb(
        verbs,
        "run",
        "convert: recipe + profile → bundle and report",
        "Run a recipe's passes for each profile. Writes NAME-VERSION-PROFILE.edge, the same as a "
        "folder, and report.json and report.html. Results are cached: running again, or for "
        "another profile, takes seconds.",
        """\
  edge-convert run examples/debian-sections/recipe.toml --profile generic-x86_64 --out build
  edge-convert run my/recipe.toml --profile my/board.toml --out build --quick
""",
    )
    run.add_argument("recipe", type=Path, help="the recipe, a .toml file")
    run.add_argument(
        "--profile",
        action="append",
        required=True,
        metavar="NAME",
        help="device profile: a name from `edge-convert profiles`, or a .toml file; repeatable",
    )
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="where bundles go")
    run.add_argument(
        "--join", action="store_true", help="one bundle more, for all the profiles, see join"
    )
    run.add_argument(
        "--model", metavar="MODEL", help="another model than the recipe's: a Hugging Face id, a "
        "folder, python-package:NAME, a model file, or FILE.py:FUNCTION",
    )  # fmt: skip
    _add_shape(run)
    run.add_argument(
        "--quick",
        action="store_true",
        help="train on fewer rows and measure fewer, to see it work; figures say their n",
    )
    run.add_argument(
        "--allow-fallback",
        action="store_true",
        help="take a model of which an accelerator runs less than the profile's floor",
    )
    run.add_argument(
        "--require-proof",
        action="store_true",
        help="fail where nothing here tells which operators an accelerator will run",
    )
    run.add_argument(
        "--cache",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="where results of passes are kept (default: %(default)s; $EDGE_CACHE)",
    )
    run.add_argument("--json", action="store_true", help="the whole report on stdout, as JSON")


def _optimize(verbs: Verbs) -> None:
    optimize = _verb(
        verbs,
        "optimize",
        "search: model + data + budget → the best bundle, and what others cost",
        "Prune, distil and quantize a text encoder in many ways, within a time, and keep the "
        "best bundle for a budget; of any other model, try every quantization of either engine. "
        "Writes the bundle, chosen.toml (the recipe that makes it again) and "
        "optimize.json and optimize.html (everything that was tried). What was computed is cached: "
        "interrupted, it goes on where it was. Ends with 1 where nothing meets the budget, and "
        "says what came nearest.",
        """\
  edge-convert optimize examples/debian-sections/recipe-search.toml --profile generic-x86_64 \\
      --budget faster=8,smaller=10,drop=1.4% --out build/search
  edge-convert optimize examples/glyphs/recipe-keras.toml --profile generic-x86_64 \\
      --budget smaller=3,drop=1% --out build/glyphs/search
  edge-convert optimize sentence-transformers/all-MiniLM-L6-v2 --data my/texts \\
      --profile raspberry-pi-5 --budget drop=2% --minutes 30 --out build/mine
  edge-convert optimize my/recipe.toml --profile generic-x86_64 --no-training --out build/ptq
""",
    )
    optimize.add_argument(
        "model", metavar="MODEL|RECIPE", help="a Hugging Face id, a folder, python-package:NAME; "
        "or a recipe, a .toml file",
    )  # fmt: skip
    optimize.add_argument(
        "--data", type=Path, metavar="DIR", help="train, calibration, test and perhaps unlabelled, "
        "each .jsonl or .jsonl.xz; not with a recipe",
    )  # fmt: skip
    optimize.add_argument(
        "--profile", required=True, metavar="NAME", help="device profile: a name or a .toml file"
    )
    optimize.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="BOUNDS",
        help="name=value with commas between, of latency_ms (on this host), size_bytes, "
        "ram_bytes, drop (of the metric), faster and smaller (times, than the float model) "
        "(default: drop=1%%)",
    )
    optimize.add_argument(
        "--minutes", type=float, default=60, metavar="N", help="about how long (default: 60)"
    )
    optimize.add_argument(
        "--no-training", action="store_true", help="only what is done after training: quantization"
    )
    optimize.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go")
    optimize.add_argument("--quick", action="store_true", help="fewer rows; figures say their n")
    optimize.add_argument(
        "--cache", type=Path, default=default_folder(), metavar="DIR",
        help="where results of passes are kept (default: %(default)s; $EDGE_CACHE)",
    )  # fmt: skip
    optimize.add_argument("--json", action="store_true", help="everything on stdout, as JSON")


def _join(verbs: Verbs) -> None:
    join = _verb(
        verbs,
        "join",
        "one bundle out of those of one model for several boards",
        "Put bundles of one model and version, each made for other profiles, into one, "
        "NAME-VERSION-joined.edge and the same as a folder. Its variants stand in the order of the "
        "bundles and say which boards they are for; a device fetches only the files that it can "
        "run, and what all share once. Every variant that runs on this host is proved on the "
        "golden vectors; the others are named as unproved.",
        """\
  edge-convert join build/debian-sections-1.0.0-generic-x86_64.edge \\
      build/debian-sections-1.0.0-raspberry-pi-5.edge --out build
  edge-convert run my/recipe.toml --profile raspberry-pi-5 --profile my/board.toml \\
      --out build --join
""",
    )
    join.add_argument(
        "bundles", nargs="+", type=Path, metavar="BUNDLE", help="an .edge file or a bundle's "
        "folder, two or more; the first one's profile is the bundle's own",
    )  # fmt: skip
    join.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    join.add_argument("--json", action="store_true", help="what was written, as JSON")


def _inspect(verbs: Verbs) -> None:
    inspect = _verb(
        verbs,
        "inspect",
        "show what a model or a bundle holds",
        "Of a model in any format: its task, tensors, operators, opset, parameters and licence, as "
        "far as it says them. Of a bundle: check every file against its manifest and show what the "
        "manifest says.",
        """\
  edge-convert inspect my/model.onnx
  edge-convert inspect my/model.keras --shape image=1,224,224,3
  edge-convert inspect my/network.py:make      what the function returns: (module, example)
  edge-convert inspect build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert inspect build/debian-sections-1.0.0-generic-x86_64      the same, as a folder
  edge-convert inspect --json my.edge | jq .manifest.variants
""",
    )
    inspect.add_argument(
        "what", metavar="MODEL|BUNDLE", help="an .onnx, .keras or .tflite file, a SavedModel's "
        "folder, FILE.py:FUNCTION, a Hugging Face id or folder; an .edge file or a bundle's folder",
    )  # fmt: skip
    _add_shape(inspect)
    inspect.add_argument("--json", action="store_true", help="everything, as JSON")


def _verify(verbs: Verbs) -> None:
    verify = _verb(
        verbs,
        "verify",
        "prove a bundle: every digest, then the golden vectors on each engine",
        "Check every file against the manifest, then run each variant's golden vectors on its own "
        "engine, as a device does before it activates a bundle. Of a variant for an accelerator "
        "this CPU proves the numbers only; one compiled for a chip is named as not provable here. "
        "Ends with 0 where none fails, 1 where one does, 3 where the bundle is not to be trusted.",
        """\
  edge-convert verify build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert verify --json my.edge | jq '.variants[] | {variant, proved, why, value}'
""",
    )
    verify.add_argument("bundle", type=Path, help="an .edge file or a bundle's folder")
    verify.add_argument("--json", action="store_true", help="one report a variant, as JSON")


def _compare(verbs: Verbs) -> None:
    compare = _verb(
        verbs,
        "compare",
        "put two bundles side by side: size, quality, answers, latency",
        "Check both bundles, show what differs in their manifests, let both answer the texts of "
        "the first one's golden vectors, and time every variant of both in turns on this host. "
        "Says so where figures are not to be compared, such as of different test rows.",
        """\
  edge-convert compare build/debian-sections-1.0.0-generic-x86_64.edge \\
      build/search/debian-sections-small-1.0.0-generic-x86_64.edge
  edge-convert compare --json old.edge new.edge | jq .answers
""",
    )
    compare.add_argument("first", type=Path, help="an .edge file or a bundle's folder: A")
    compare.add_argument("second", type=Path, help="another: B")
    compare.add_argument(
        "--runs", type=int, default=30, metavar="N", help="latency runs of each (default: 30)"
    )
    compare.add_argument("--json", action="store_true", help="everything, as JSON")


def _profiles(verbs: Verbs) -> None:
    profiles = _verb(
        verbs,
        "profiles",
        "list device profiles, or explain one",
        "List the device profiles that are shipped: board, memory, what computes, and the system "
        "image. Or explain one, or check one of your own: what the board is, the ways it runs "
        "models in order, what each accelerator demands of a model, and the source of each value.",
        """\
  edge-convert profiles
  edge-convert profiles raspberry-pi-5
  edge-convert profiles my/board.toml
  edge-convert profiles qcs6490 --json | jq '.engines[0].demands'
""",
    )
    profiles.add_argument("name", nargs="?", help="explain this one: a name or a .toml file")
    profiles.add_argument("--json", action="store_true", help="as JSON")


def _place(verbs: Verbs) -> None:
    place = _verb(
        verbs,
        "place",
        "say which operators run on a board's accelerator, and why the others do not",
        "Ask the vendor's own compiler, or where there is none for this host the documented rules, "
        "about each engine of the profiles that has an accelerator: which operators run there, "
        "which fall to the CPU and why, the partitions, the vendor's estimate of the time, and how "
        "all that is known. Of a bundle, each variant is asked about. Ends with 1 where less runs "
        "there than the profile's floor.",
        """\
  edge-convert place my/model.tflite --profile imx93 --profile coral-dev-board
  edge-convert place my/model.onnx --profile qcs6490 --allow-fallback
  edge-convert place my/model.tflite --profile imx93 --out build/placed
  edge-convert place --json my.edge --profile imx93 | jq '.[] | {engine, share, evidence}'
""",
    )
    place.add_argument(
        "what", metavar="MODEL|BUNDLE", help="an .onnx or .tflite file; an .edge file or a "
        "bundle's folder",
    )  # fmt: skip
    place.add_argument(
        "--profile",
        action="append",
        required=True,
        metavar="NAME",
        help="device profile: a name from `edge-convert profiles`, or a .toml file; repeatable",
    )
    place.add_argument(
        "--allow-fallback", action="store_true", help="end with 0 whatever runs on the CPU"
    )
    place.add_argument("--nodes", action="store_true", help="a row for every node")
    place.add_argument(
        "--out", type=Path, metavar="DIR", help="where files that a tool compiled are kept"
    )
    place.add_argument("--json", action="store_true", help="everything, as JSON")


def _setup_target(verbs: Verbs) -> None:
    setup = _verb(
        verbs,
        "setup-target",
        "set up a vendor's tool, which says where operators run",
        "Make an environment of its own for a vendor's compiler or emulator, from the package "
        "index that pip is configured for ($PIP_ARGS is handed to it), in $EDGE_TARGETS or "
        "~/.cache/edge-runtime/targets. Done once; again it does nothing, unless with --force. "
        "Without a name, show which tools there are and which are set up.",
        """\
  edge-convert setup-target
  edge-convert setup-target vela
  PIP_ARGS="--index-url https://my.index/simple" edge-convert setup-target qnn openvino
""",
    )
    setup.add_argument("name", nargs="*", metavar="NAME", help="the target; several, one by one")
    setup.add_argument(
        "--force", action="store_true", help="make it anew, as when a package in it is spoiled"
    )
    setup.add_argument("--list", action="store_true", help="show what there is and what is set up")
    setup.add_argument("--json", action="store_true", help="as JSON")


def _add_shape(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--shape", action="append", default=[], metavar="NAME=1,3,224,224",
        help="sizes of an input that the model leaves free, 1 for the batch; repeatable",
    )  # fmt: skip


def _verb(
    verbs: Verbs,
    name: str,
    words: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=words,
        description=textwrap.fill(description, 80),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
