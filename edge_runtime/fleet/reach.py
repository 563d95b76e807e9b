"""What a command line reaches: the fleet home, the broker, the passphrase.

An option goes before the environment, and that before what the home's `fleet.toml` says. On the
home's own broker the operator shows the certificate that the home made for that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.fleet import talk
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.home import Home, find_home, read_passphrase
from edge_runtime.fleet.options import BROKER_VARIABLE
from edge_runtime.fleet.settings import Settings
from edge_runtime.link.config import BrokerConfig
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.topics import Topics


class UsageError(Exception):
    """An option that argparse cannot judge is wrong."""


def home(arguments: argparse.Namespace) -> Home | None:
    """The fleet home, where one is named, or `./fleet` is one."""
    return find_home(arguments.home)


def settings(arguments: argparse.Namespace) -> Settings | None:
    """Those of the home; None where there is none.

    Raises:
        InputError: the folder that was named is no home, or its settings are faulty.
    """
    found = home(arguments)
    return found.read() if found is not None else None


def has_broker(arguments: argparse.Namespace) -> bool:
    """Whether anything says where the broker is.

    Raises:
        InputError: the home's settings are faulty.
    """
    if arguments.broker or os.environ.get(BROKER_VARIABLE):
        return True
    found = settings(arguments)
    return found is not None and bool(found.broker)


@contextlib.contextmanager
def connected(arguments: argparse.Namespace) -> Iterator[Connection]:
    """To the broker that the options name, or else the home.

    Raises:
        UsageError: they name none, or cannot be.
        InputError: the home's settings are faulty.
        TransferError: it cannot be reached.
    """
    found = settings(arguments)
    url = arguments.broker or os.environ.get(BROKER_VARIABLE)
    ours = found.broker if found is not None else ""
    if not url and not ours:
        raise UsageError(
            f"no broker; say where it is with --broker mqtt://HOST[:PORT] or in {BROKER_VARIABLE}"
        )
    files: dict[str, Path | None] = {
        "ca_file": arguments.ca,
        "cert_file": arguments.cert,
        "key_file": arguments.key,
    }
    if not url or url == ours:
        url = ours
        files = _identity(arguments, url, files)
    try:
        config = BrokerConfig.parse(
            url,
            username=arguments.username,
            password_file=arguments.password_file,
            version=arguments.mqtt_version,
            **files,
        )
    except InputError as reason:
        raise UsageError(str(reason)) from None
    topics = arguments.topics or (Topics(found.prefix) if found is not None else Topics())
    made = Connection(connector(config), topics, timeout_s=arguments.timeout)
    with contextlib.ExitStack() as stack:
        with talk.busy(f"connecting to {config.address}"):
            connection = stack.enter_context(made)
        arguments.warnings.connected = True
        yield connection


def _identity(
    arguments: argparse.Namespace, url: str, given: dict[str, Path | None]
) -> dict[str, Path | None]:
    """The operator's own certificate, where the home has one and nothing else was said."""
    found = home(arguments)
    if found is None or not url.strip().lower().startswith("mqtts:") or any(given.values()):
        return given
    if not found.operator_ca.is_file() or not found.operator_certificate.is_file():
        return given
    return {
        "ca_file": found.operator_ca,
        "cert_file": found.operator_certificate,
        "key_file": found.operator_key,
    }


def passphrase(arguments: argparse.Namespace) -> Callable[[], str | None]:
    """Tells the passphrase that the options name, or else the environment.

    A file is read at once, needed or not: a misspelt name in a timer would otherwise show half a
    year later. Stdin is read when it is needed, because somebody may have to type.

    Raises:
        InputError: the file cannot be read, or holds none.
    """
    file = arguments.passphrase_file
    if file is None or str(file) == "-":
        return lambda: read_passphrase(file)
    found = read_passphrase(file)
    return lambda: found
