"""`edge-convert`: a recipe and a device profile become a bundle; a bundle is shown and proved.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not to be trusted.
Heavy toolchains are imported when a pass needs them, so that help and `inspect` are quick.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from converters.cache import default_folder
from edge_runtime.errors import EdgeError, exit_code
from edge_runtime.text import MAX_ERROR, plain
from edge_runtime.version import VersionAction

PROG = "edge-convert"

EPILOG = """\
examples:
  edge-convert run examples/debian-sections/recipe.toml --profile generic-x86_64 --out build
      fine-tune, export, quantize, measure, pack; report.html beside the bundle shows it all
  edge-convert run my/recipe.toml --profile raspberry-pi-5 --profile my/board.toml --out build
      the same model for two boards; what they share is computed once
  edge-convert inspect build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert verify build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert profiles
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
        "--model", metavar="ID|DIR", help="another model than the recipe's: a Hugging Face id, a "
        "folder, or python-package:NAME",
    )  # fmt: skip
    run.add_argument(
        "--quick",
        action="store_true",
        help="train on fewer rows and measure fewer, to see it work; figures say their n",
    )
    run.add_argument(
        "--cache",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="where results of passes are kept (default: %(default)s; $EDGE_CACHE)",
    )
    run.add_argument("--json", action="store_true", help="the whole report on stdout, as JSON")

    inspect = _verb(
        verbs,
        "inspect",
        "show what a bundle holds",
        "Check every file of a bundle against its manifest and show what the manifest says.",
        """\
  edge-convert inspect build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert inspect build/debian-sections-1.0.0-generic-x86_64      the same, as a folder
  edge-convert inspect --json my.edge | jq .manifest.variants
""",
    )
    inspect.add_argument("bundle", type=Path, help="an .edge file or a bundle's folder")
    inspect.add_argument("--json", action="store_true", help="the manifest and a summary, as JSON")

    verify = _verb(
        verbs,
        "verify",
        "prove a bundle: every digest, then the golden vectors on each engine",
        "Check every file against the manifest, then run each variant's golden vectors on its own "
        "engine, as a device does before it activates a bundle. Ends with 0 where every variant "
        "passes, 1 where one fails, 3 where the bundle is not to be trusted.",
        """\
  edge-convert verify build/debian-sections-1.0.0-generic-x86_64.edge
  edge-convert verify --json my.edge | jq '.variants[] | {variant, value, latency_p95_ms}'
""",
    )
    verify.add_argument("bundle", type=Path, help="an .edge file or a bundle's folder")
    verify.add_argument("--json", action="store_true", help="one report a variant, as JSON")

    profiles = _verb(
        verbs,
        "profiles",
        "list device profiles, or show one",
        "List the device profiles that are shipped; or show one, or check one of your own: its "
        "fields, the source of each, and that its engines can be converted for.",
        """\
  edge-convert profiles
  edge-convert profiles raspberry-pi-5
  edge-convert profiles my/board.toml
""",
    )
    profiles.add_argument("name", nargs="?", help="show this one: a name or a .toml file")
    profiles.add_argument("--json", action="store_true", help="as JSON")
    return top


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return VERBS[arguments.verb](arguments)
    except EdgeError as error:
        print(f"{PROG}: {plain(str(error), MAX_ERROR)}", file=sys.stderr)
        return exit_code(error)
    except ModuleNotFoundError as reason:
        print(
            f"{PROG}: {reason.name} is not installed; converting needs edge-runtime[convert]",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        kept = "; finished passes stay in the cache" if arguments.verb == "run" else ""
        print(f"{PROG}: interrupted{kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: argparse.Namespace) -> int:
    from converters.interrupt import remembered_interrupts

    with remembered_interrupts():
        return _convert(arguments)


def _convert(arguments: argparse.Namespace) -> int:
    from converters.pipeline import Options, convert
    from converters.progress import Terminal
    from converters.report import as_json, summary, write_reports
    from edge_runtime.profile import load_profile

    profiles = [load_profile(name) for name in dict.fromkeys(arguments.profile)]
    options = Options(arguments.out, arguments.cache, arguments.quick, arguments.model)
    done = convert(arguments.recipe, profiles, options, Terminal())
    reports = write_reports(done, arguments.out)
    if arguments.json:
        print(json.dumps(as_json(done), indent=2))
        return 0
    for conversion in done:
        print(summary(conversion))
    print(f"report: {reports}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from converters.package import open_verified
    from converters.show import bundle_json, bundle_text

    bundle = open_verified(arguments.bundle)
    print(json.dumps(bundle_json(bundle), indent=2) if arguments.json else bundle_text(bundle))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from converters.package import open_verified, profile_of, self_tests
    from converters.show import self_tests_json, self_tests_text

    bundle = open_verified(arguments.bundle)
    reports = self_tests(bundle)
    if arguments.json:
        print(json.dumps(self_tests_json(bundle, reports), indent=2))
    else:
        print(self_tests_text(bundle, reports, profile_of(bundle)))
    return 0 if all(report.passed for report in reports) else 1


def _profiles(arguments: argparse.Namespace) -> int:
    from converters.show import profile_json, profile_text, profiles_text
    from edge_runtime.profile import load_profile, profile_names

    if arguments.name:
        from converters.checks import check_profile

        profile = load_profile(arguments.name)
        check_profile(profile)
        print(json.dumps(profile_json(profile), indent=2) if arguments.json
              else profile_text(profile))  # fmt: skip
        return 0
    profiles = [load_profile(name) for name in profile_names()]
    if arguments.json:
        print(json.dumps([profile_json(profile) for profile in profiles], indent=2))
    else:
        print(profiles_text(profiles))
    return 0


VERBS = {"run": _run, "inspect": _inspect, "verify": _verify, "profiles": _profiles}


def entry() -> None:
    """Console command."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
