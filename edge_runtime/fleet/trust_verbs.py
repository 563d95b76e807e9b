"""What the verbs around signed metadata do: `init`, `key`, `sign`, `rotate`, `revoke`, `refresh`.

Each changes the home first, then uploads, where a broker is known. What the home has signed stays
signed if the upload fails: doing it again only uploads.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import Json
from edge_runtime.fleet import reach, show, show_trust, talk
from edge_runtime.fleet.agent_publish import open_given
from edge_runtime.fleet.authority import Authority, Rotation
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.founding import Plan, RolePlan, found
from edge_runtime.fleet.home import DEFAULT_HOME, Home
from edge_runtime.fleet.keys import SHORT, check_passphrase, make_key_pair
from edge_runtime.fleet.metadata import Signed
from edge_runtime.fleet.options import PROG, Target
from edge_runtime.fleet.outcome import Outcome
from edge_runtime.fleet.reach import UsageError
from edge_runtime.fleet.repository import is_signed, read_catalog
from edge_runtime.fleet.settings import ROLES
from edge_runtime.fleet.signed_publish import (
    SignedRelease,
    demand_complete,
    publish_signed,
    sign_bundle,
)
from edge_runtime.fleet.takeover import take_over
from edge_runtime.fleet.upload import Upload, retire, upload
from edge_runtime.link.config import BrokerConfig
from edge_runtime.messages.fleet import Release, release_file
from edge_runtime.messages.topics import DEFAULT_PREFIX
from edge_runtime.text import json_line

MAX_STAGED_BYTES = 1 << 20


def now() -> datetime:
    """What the clock says, UTC."""
    return datetime.now(timezone.utc)


def demand_home(arguments: argparse.Namespace) -> Home:
    """The home, which must be named or lie in `./fleet`."""
    return reach.home(arguments) or Home(DEFAULT_HOME)


@contextlib.contextmanager
def authority(arguments: argparse.Namespace) -> Iterator[Authority]:
    """The home's, held while the block runs.

    Raises:
        InputError, UntrustedError, DeviceError: as `Authority.open` and `Home.hold`.
    """
    home = demand_home(arguments)
    home.read()
    with home.hold():
        yield Authority.open(home, now(), reach.passphrase(arguments), arguments.sign_with)


def signed_manifests(arguments: argparse.Namespace) -> Mapping[str, str]:
    """Digests of the manifests that the home has signed, by release file.

    Raises:
        InputError, UntrustedError, DeviceError: as `Authority.open`.
    """
    signed = Authority.open(demand_home(arguments), now()).signed_releases()
    return {file: release.manifest_sha256 for file, release in signed.items()}


def warn_unsigned(arguments: argparse.Namespace, wanted: Iterable[Release]) -> None:
    """Say which of the releases that are about to be deployed the home has not signed.

    Raises:
        InputError, UntrustedError, DeviceError: as `Authority.open`.
    """
    signed = signed_manifests(arguments)
    for release in dict.fromkeys(wanted):
        if not is_signed(release, signed):
            talk.say(
                f"{PROG}: warning: {release.name}=={release.version} for {release.profile} is not "
                "signed by this home: devices that trust signatures refuse it"
            )


def releases(arguments: argparse.Namespace) -> int:
    """`releases`, without a broker: what the home has signed."""
    signed = Authority.open(demand_home(arguments), now()).signed_releases().values()
    if arguments.json:
        rows = [{**release.as_json(), "signed": True} for release in signed]
        show.line(json_line({"releases": rows, "unreadable": []}))
    elif signed:
        show.print_table(show_trust.signed_table(signed))
    else:
        talk.say(f"{PROG}: {demand_home(arguments).folder} has signed no release yet")
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """`publish`, with a home."""
    reader, force = open_given(arguments.bundle), arguments.force
    with authority(arguments) as made_by:
        with talk.busy(f"signing {reader.where}"):
            made = sign_bundle(made_by, reader, force=force)
        _say_notes(made.outcome)
        demand_complete(made)
        words: dict[str, Json] = {"uploaded": False}
        text = f"{_signed_text(made)} in {made_by.tree.folder}"
        with _uploading(arguments) as connection:
            if connection is not None:
                with talk.bar(f"publishing {reader.where}") as bar:
                    done, sent = publish_signed(
                        connection, made_by, reader, force=force, on_progress=bar
                    )
                words = {"uploaded": True, **done.as_json(), **sent.as_json()}
                text = show.publication(done)
    show.line(json_line({**made.as_json(), **words}) if arguments.json else text)
    return 0


def _signed_text(made: SignedRelease) -> str:
    files = ", ".join(release.file for release in made.releases)
    return f"{'signed already:' if made.again else 'signed'} {files}"


def init(arguments: argparse.Namespace) -> int:
    """Make a home."""
    home = reach.home(arguments) or Home(DEFAULT_HOME)
    broker = arguments.broker or ""
    if broker:
        _check_url(broker)
    prefix = arguments.topics.prefix if arguments.topics else DEFAULT_PREFIX
    made, threshold = dict(arguments.keys), dict(arguments.threshold)
    named = {role: [word for each, word in arguments.add if each == role] for role in ROLES}
    roles = {
        role: RolePlan(made.get(role, 1), threshold.get(role, 1), named[role]) for role in ROLES
    }
    plan = Plan(prefix, broker, roles, dict(arguments.expires))
    outcome = found(home, plan, now(), reach.passphrase(arguments)).outcome()
    _say_notes(outcome)
    root = next(role for role in outcome.roles if role.role == "root")
    if len(root.keys) == 1:
        talk.say(
            f"{PROG}: keep copies of {home.keys} and of the passphrase in two safe places: who "
            "loses the only root key must flash every device anew"
        )
    _print(arguments, outcome, {"home": str(home.folder)}, f"made fleet home {home.folder}")
    return 0


def _check_url(url: str) -> None:
    try:
        BrokerConfig.parse(url)
    except InputError as reason:
        raise UsageError(str(reason)) from None


def key(arguments: argparse.Namespace) -> int:
    """A key pair for somebody else."""
    secret = check_passphrase(reach.passphrase(arguments)())
    made, public = make_key_pair(arguments.file, secret)
    if arguments.json:
        words = {"key": made.keyid, "private": str(arguments.file), "public": str(public)}
        show.line(json_line(words))
    else:
        show.line(f"made key {made.keyid[:SHORT]}: {arguments.file} to keep, {public} to give away")
    return 0


def sign(arguments: argparse.Namespace) -> int:
    """A bundle into the home's repository; or signatures onto what is staged."""
    if arguments.bundle and arguments.merge:
        raise UsageError("sign: a bundle and --merge are two different things")
    with authority(arguments) as made_by:
        if arguments.bundle:
            reader = open_given(arguments.bundle)
            with talk.busy(f"signing {reader.where}"):
                made = sign_bundle(made_by, reader, force=arguments.force)
            outcome, words = made.outcome, made.as_json()
            text = _signed_text(made)
        else:
            merged = [made_by.merge(_read_staged(path), str(path)) for path in arguments.merge]
            signed = merged or list(made_by.sign())
            made_by.settle()
            outcome, words = made_by.outcome(), {"signed_roles": signed}
            text = f"signed {', '.join(signed)}" if signed else "nothing here to sign with"
    _say_notes(outcome)
    _print(arguments, outcome, words, text)
    return 0


def _read_staged(path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_STAGED_BYTES)
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None


def rotate(arguments: argparse.Namespace) -> int:
    """Other keys for a role."""
    change = Rotation(
        tuple(arguments.add), arguments.keys, tuple(arguments.remove), arguments.threshold
    )
    with authority(arguments) as made_by:
        made_by.rotate(arguments.role, change, force=arguments.force)
        made_by.settle()
        outcome = made_by.outcome()
        waits = any(staged.role == "root" for staged in outcome.staged)
        _say_notes(outcome)
        words = {} if waits else _upload(arguments, made_by)
    text = "staged a new root" if waits else f"rotated the keys of {arguments.role}"
    _print(arguments, outcome, words, text)
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    """A release, or a device."""
    if isinstance(arguments.what, Target):
        return _revoke_release(arguments, arguments.what)
    if arguments.profile is not None:
        raise UsageError(
            f"revoke {arguments.what}: --profile goes with a release, this is a device"
        )
    from edge_runtime.fleet.enroll import revoke_device
    from edge_runtime.fleet.enrollment.tokens import Tokens

    home = demand_home(arguments)
    home.read()
    with home.hold():
        done = revoke_device(home, arguments.what, passphrase=reach.passphrase(arguments)())
        tokens = Tokens(home)
        if tokens.find(done.device) is not None:  # It would let the device in again.
            tokens.revoke(done.device)
    crl = done.broker_crl or done.crl
    if arguments.json:
        show.line(json_line(done.as_json()))
    else:
        show.line(f"revoked {len(done.gone)} certificates of {done.device}; put {crl} in force")
    return 0


def _revoke_release(arguments: argparse.Namespace, what: Target) -> int:
    where = f"release {what.name}=={what.version}"
    with authority(arguments) as made_by:
        gone = made_by.remove(what.name, what.version, arguments.profile)
        made_by.settle()
        outcome = made_by.outcome()
        _say_notes(outcome)
        # Of the tree as it is now: what is only staged may still be had.
        kept = made_by.signed_releases()
        waits = [release for release in gone if release.file in kept]
        files = [release.file for release in gone if release.file not in kept]
        words: dict[str, Json] = {"revoked": [release.as_json() for release in gone]}
        if waits:
            text = f"staged: {where} leaves when others have signed"
        else:
            with _uploading(arguments) as connection:
                if connection is not None:
                    files += _leftovers(connection, what, arguments.profile, kept)
                    words.update(upload(connection, made_by).as_json())
                    retire(connection, files)
            text = f"revoked {', '.join(dict.fromkeys(files))}"
        if not gone and not files:
            known = ", ".join(sorted({f"{r.name}=={r.version}" for r in kept.values()})[:10])
            raise InputError(f"{where}: is not signed; signed are {known or 'none'}")
    _print(arguments, outcome, words, text)
    return 0


def _leftovers(
    connection: Connection, what: Target, profile: str | None, kept: Mapping[str, Signed]
) -> list[str]:
    """Files of the release that the broker keeps unsigned, as after a revocation cut short."""
    return [
        release.file
        for release in read_catalog(connection).releases
        if (release.name, release.version) == what
        and profile in (None, release.profile)
        and release_file(release.name, release.version, release.profile) not in kept
    ]


def refresh(arguments: argparse.Namespace) -> int:
    """Renew, and tell."""
    if arguments.check and arguments.from_broker:
        raise UsageError("refresh: --check changes nothing, and --from-broker does")
    reach.passphrase(arguments)  # Named and not there is told before anything is changed.
    if arguments.check:
        outcome = Authority.open(demand_home(arguments), now()).outcome()
        _say_notes(outcome)
        _print(arguments, outcome, {}, "")
        return 1 if outcome.notes or outcome.staged or not outcome.published else 0
    if arguments.from_broker:
        home = demand_home(arguments)
        home.read()
        with home.hold(), reach.connected(arguments) as connection:
            taken = take_over(connection, home, now())
        talk.say(f"{PROG}: took over {', '.join(taken) or 'nothing, all of it is here'}")
    with authority(arguments) as made_by:
        made_by.refresh()
        outcome = made_by.outcome()
        _say_notes(outcome)
        words = _upload(arguments, made_by) if outcome.published else {}
    _print(arguments, outcome, words, "")
    return 0 if outcome.published else 1


def _upload(arguments: argparse.Namespace, made_by: Authority) -> dict[str, Json]:
    with _uploading(arguments) as connection:
        sent = upload(connection, made_by) if connection is not None else Upload()
        return {"uploaded": connection is not None, **sent.as_json()}


@contextlib.contextmanager
def _uploading(arguments: argparse.Namespace) -> Iterator[Connection | None]:
    """A connection; None where there is no broker, or it is to be left alone.

    Raises:
        UsageError, TransferError: as `reach.connected`; says that only the upload is missing.
    """
    if arguments.folder_only or not reach.has_broker(arguments):
        if not arguments.folder_only:
            talk.say(f"{PROG}: not uploaded, because no broker is known")
        yield None
        return
    try:
        with reach.connected(arguments) as connection:
            yield connection
    except EdgeError:
        again = "`edge-fleet refresh`" if arguments.verb == "rotate" else "the same command"
        talk.say(f"{PROG}: signed, but not uploaded whole; {again} repeats the upload")
        raise


def _say_notes(outcome: Outcome) -> None:
    for note in outcome.notes:
        talk.say(f"{PROG}: warning: {note}")


def _print(
    arguments: argparse.Namespace, outcome: Outcome, words: Mapping[str, Json], text: str
) -> None:
    if arguments.json:
        show.line(json_line({**outcome.as_json(), **words}))
        return
    if text:
        show.line(text)
    show.print_table(show_trust.roles_table(outcome))
    for line in show_trust.staged_lines(outcome.staged):
        show.line(line)


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "init": init,
    "key": key,
    "sign": sign,
    "rotate": rotate,
    "revoke": revoke,
    "refresh": refresh,
}
