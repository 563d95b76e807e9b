"""`edge-agent`: run a device, ask a bundle something or let it listen, examine a machine.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not to be trusted.
What a verb needs is imported when it is asked for: a supervisor must stay small. The command
line is in `options`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.agent.options import PROG, parser
from edge_runtime.errors import EdgeError, exit_code
from edge_runtime.text import MAX_ERROR, plain
from edge_runtime.version import release


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return VERBS[arguments.verb](arguments)
    except EdgeError as error:
        print(f"{_head()}{PROG}: {plain(str(error), MAX_ERROR)}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _head() -> str:
    """Before an error: its priority, where stderr is the journal."""
    from edge_runtime.agent.logs import is_journal

    return "<3>" if is_journal() else ""


def _run(arguments: argparse.Namespace) -> int:
    import faulthandler

    from edge_runtime.agent import logs
    from edge_runtime.agent.config import load_config
    from edge_runtime.agent.supervisor import Supervisor
    from edge_runtime.agent.upgrade import places
    from edge_runtime.agent.upgrade.updates import Upgrades

    # The service manager ends one that hangs by SIGABRT: the log then says where it hung.
    faulthandler.enable()
    config = load_config(arguments.config)
    logs.configure(config.log_level, process="supervisor")
    connector = None
    if config.broker is not None:
        from edge_runtime.link.mqtt import connector as mqtt

        connector = mqtt(config.broker)
    packaged = places.found()
    upgrades = Upgrades(packaged, arguments.config) if packaged is not None else None
    supervisor = Supervisor(config, release() or "0", connector, upgrades)
    if arguments.json:
        print(json.dumps({"port": supervisor.port, "pid": os.getpid()}), flush=True)
    supervisor.run(arguments.bundle)
    return 0


def _install(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent import logs
    from edge_runtime.agent.config import load_config
    from edge_runtime.agent.handing import install

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
        hop=arguments.hop,
    )
    return 0


def _listen(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent.listen import Wishes, listen, summary
    from edge_runtime.inference.streaming import Heard

    def told(heard: Heard) -> None:
        if heard.windows:
            print(f"{PROG}: {summary(heard)}", file=sys.stderr)

    logging.getLogger().addHandler(logging.NullHandler())
    listen(
        arguments.bundle,
        arguments.source,
        sys.stdout,
        Wishes(arguments.realtime, arguments.wait, arguments.threshold, arguments.hop_ms),
        variant=arguments.variant,
        profile=arguments.profile,
        as_json=arguments.json,
        told=told,
    )
    return 0


def _page(findings: Sequence[Any]) -> str:
    """The doctor's findings for people."""
    import shutil

    from edge_runtime.agent.doctor.show import Page

    terminal = sys.stdout.isatty()
    page = Page(
        colour=terminal and not os.environ.get("NO_COLOR"),
        unicode=(sys.stdout.encoding or "").lower().startswith("utf"),
        wide=shutil.get_terminal_size().columns if terminal else 0,
    )
    return page.text(list(findings))


def _doctor(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from edge_runtime.agent.config import load_config
    from edge_runtime.agent.doctor.examine import examine
    from edge_runtime.agent.doctor.finding import exit_code as verdict
    from edge_runtime.agent.doctor.scene import Scene
    from edge_runtime.profile import load_profile

    logging.getLogger().addHandler(logging.NullHandler())
    config = load_config(arguments.config) if arguments.config is not None else None
    named = arguments.profile or (config.profile if config is not None else None)
    profile = load_profile(named) if named is not None else None
    if profile is not None and config is not None:
        profile = replace(profile, tasks=config.tasks)
    findings = examine(
        Scene(config=config, profile=profile, bundle=arguments.bundle, offline=arguments.offline)
    )
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        print(_page(findings), end="")
    return verdict(findings)


def _await_clock(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent.await_clock import await_clock

    waited = await_clock(arguments.timeout)
    if arguments.json:
        print(json.dumps(waited.as_json()))
    else:
        print(waited.sentence)
    return 0 if waited.right else 1


def _setup(arguments: argparse.Namespace) -> int:
    from edge_runtime.agent.setup.place import System
    from edge_runtime.agent.setup.steps import Wishes, setup
    from edge_runtime.messages.enrollment import MAX_TOKEN, Token

    logging.getLogger().addHandler(logging.NullHandler())
    token = arguments.token
    if token == "-":
        token = sys.stdin.readline(MAX_TOKEN + 1)
    wishes = Wishes(
        folder=arguments.folder,
        token=Token.parse(token) if token is not None else None,
        profile=arguments.profile,
        force=arguments.force,
        start=not arguments.no_start and arguments.root is None,
        offline=arguments.offline,
        timeout_s=arguments.timeout,
    )
    done = setup(
        wishes,
        System(arguments.root or Path("/")),
        lambda said: print(f"{PROG}: {plain(said)}", file=sys.stderr, flush=True),
    )
    if arguments.json:
        print(json.dumps(done.as_json(), indent=2))
    else:
        if done.findings:
            print(_page(list(done.findings)))
        print(plain(done.sentence, MAX_ERROR))
    return 0 if done.ok else 1


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "install": _install,
    "infer": _infer,
    "listen": _listen,
    "doctor": _doctor,
    "setup": _setup,
    "await-clock": _await_clock,
}


def entry() -> None:
    """Console command."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
