"""`edge-convert`: a recipe and a device profile become a bundle; a bundle is shown and proved.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not to be trusted.
Heavy toolchains are imported when a pass needs them, so that help and `inspect` are quick.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from converters.arguments import PROG, parser
from edge_runtime.errors import EdgeError, InputError, exit_code
from edge_runtime.text import MAX_ERROR, plain


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
        kept = (
            "; finished passes stay in the cache" if arguments.verb in ("run", "optimize") else ""
        )
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
    from converters.checks import load_board
    from converters.join import join
    from converters.pipeline import Options, convert
    from converters.progress import Terminal
    from converters.report import as_json, summary, write_reports
    from converters.sources.shapes import parse_shapes

    profiles = [load_board(name) for name in dict.fromkeys(arguments.profile)]
    shapes = parse_shapes(arguments.shape)
    options = Options(
        arguments.out, arguments.cache, arguments.quick, arguments.model, shapes,
        arguments.allow_fallback, arguments.require_proof,
    )  # fmt: skip
    if arguments.join and len(profiles) < 2:
        raise InputError("--join: expected two --profile or more, for there is nothing to join")
    done = convert(arguments.recipe, profiles, options, Terminal())
    reports = write_reports(done, arguments.out)
    joined = join([one.model.bundle for one in done if one.model.bundle], arguments.out) \
        if arguments.join else None  # fmt: skip
    if arguments.json:
        more = {"joined": joined.as_json()} if joined else {}
        print(json.dumps({**as_json(done), **more}, indent=2))
        return 0
    for conversion in done:
        print(summary(conversion))
    if joined:
        print(joined.text())
    print(f"report: {reports}")
    return 0


def _optimize(arguments: argparse.Namespace) -> int:
    from converters.interrupt import remembered_interrupts

    with remembered_interrupts():
        return _search(arguments)


def _search(arguments: argparse.Namespace) -> int:
    from converters.checks import load_board
    from converters.progress import Terminal
    from converters.search.base import base_recipe
    from converters.search.budget import Budget, parse_budget
    from converters.search.files import write_found
    from converters.search.search import NotMet, Options, optimize
    from converters.search.show import found_text

    if not 0 < arguments.minutes <= MOST_MINUTES:
        raise InputError(
            f"--minutes {arguments.minutes:g}: expected more than 0 and at most {MOST_MINUTES}"
        )
    budget = parse_budget(arguments.budget, Budget())
    profile = load_board(arguments.profile)
    recipe = base_recipe(arguments.model, arguments.data, arguments.out)
    options = Options(
        arguments.out, arguments.cache, arguments.minutes, not arguments.no_training,
        arguments.quick,
    )  # fmt: skip
    try:
        found = optimize(recipe, profile, budget, options, Terminal())
    except NotMet as reason:
        write_found(reason.found, arguments.out)
        print(
            json.dumps(reason.found.as_json(), indent=2) if arguments.json
            else found_text(reason.found)
        )  # fmt: skip
        raise
    report = write_found(found, arguments.out)
    print(json.dumps(found.as_json(), indent=2) if arguments.json else found_text(found))
    if not arguments.json:
        print(f"report: {report}")
    return 0


def _join(arguments: argparse.Namespace) -> int:
    from converters.join import join

    made = join(arguments.bundles, arguments.out)
    print(json.dumps(made.as_json(), indent=2) if arguments.json else made.text())
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from converters.package import is_bundle, open_verified
    from converters.show import bundle_json, bundle_text

    if not is_bundle(arguments.what):
        return _inspect_source(arguments)
    bundle = open_verified(Path(arguments.what))
    print(json.dumps(bundle_json(bundle), indent=2) if arguments.json else bundle_text(bundle))
    return 0


def _inspect_source(arguments: argparse.Namespace) -> int:
    from converters.progress import Terminal
    from converters.quiet import quiet
    from converters.show_source import source_json, source_text
    from converters.sources.shapes import parse_shapes
    from converters.sources.table import Asked, open_model

    asked = Asked(arguments.what, Path.cwd(), shapes=parse_shapes(arguments.shape))
    with Terminal().busy(f"opening {arguments.what}"), quiet():
        described = open_model(asked).describe()
    print(json.dumps(source_json(described), indent=2) if arguments.json
          else source_text(described))  # fmt: skip
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from converters.package import open_verified, profile_of
    from converters.proofs import prove
    from converters.show import proofs_json, proofs_text

    bundle = open_verified(arguments.bundle)
    proofs = prove(bundle)
    if arguments.json:
        print(json.dumps(proofs_json(bundle, proofs), indent=2))
    else:
        print(proofs_text(bundle, proofs, profile_of(bundle)))
    return 1 if any(proof.failed for proof in proofs) else 0


def _compare(arguments: argparse.Namespace) -> int:
    from converters.compare import compare, comparison_json, comparison_text

    if arguments.runs < 1:
        raise InputError(f"--runs {arguments.runs}: expected 1 or more")
    found = compare(arguments.first, arguments.second, runs=arguments.runs)
    print(json.dumps(comparison_json(found), indent=2) if arguments.json
          else comparison_text(found))  # fmt: skip
    return 0


def _profiles(arguments: argparse.Namespace) -> int:
    from converters.show_profile import print_profiles, profile_json, profile_text
    from edge_runtime.profile import load_profile, profile_names

    if arguments.name:
        from converters.checks import check_profile, doubts, load_board

        profile = load_board(arguments.name)
        check_profile(profile)
        for doubt in doubts(profile):
            print(f"{PROG}: {plain(doubt, MAX_ERROR)}", file=sys.stderr)
        print(json.dumps(profile_json(profile), indent=2) if arguments.json
              else profile_text(profile))  # fmt: skip
        return 0
    profiles = [load_profile(name) for name in profile_names()]
    if arguments.json:
        print(json.dumps([profile_json(profile) for profile in profiles], indent=2))
    else:
        print_profiles(profiles)
    return 0


def _place(arguments: argparse.Namespace) -> int:
    from converters.checks import load_board
    from converters.placement.ask import ask
    from converters.placement.show import show_placements
    from converters.progress import Terminal

    profiles = [load_board(name) for name in dict.fromkeys(arguments.profile)]
    found = ask(arguments.what, profiles, Terminal(), folder=arguments.out)
    if arguments.json:
        print(json.dumps([one.as_json() for one in found], indent=2))
    else:
        show_placements(found, every=arguments.nodes)
    missed = [
        one.missed for one in found if one.failed or (one.missed and not arguments.allow_fallback)
    ]
    for reason in missed:
        print(f"{PROG}: {reason}", file=sys.stderr)
    return 1 if missed else 0


def _setup_target(arguments: argparse.Namespace) -> int:
    from converters.placement.environments import set_up
    from converters.placement.show import show_targets, targets_json
    from converters.progress import Terminal

    if arguments.list or not arguments.name:
        if arguments.json:
            print(json.dumps(targets_json(), indent=2))
        else:
            show_targets()
        return 0
    progress = Terminal()
    made = [set_up(name, progress, force=arguments.force) for name in dict.fromkeys(arguments.name)]
    if arguments.json:
        print(json.dumps([one.as_json() for one in made], indent=2))
        return 0
    for one in made:
        print(one.words())
    return 0


MOST_MINUTES = 60 * 24 * 30
VERBS = {
    "run": _run,
    "optimize": _optimize,
    "join": _join,
    "inspect": _inspect,
    "verify": _verify,
    "compare": _compare,
    "profiles": _profiles,
    "place": _place,
    "setup-target": _setup_target,
}


def entry() -> None:
    """Console command."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
