"""Which release each device gets: a version has one for each profile, perhaps all of one bundle.

A device gets the release of the profile that it reports, or of the one that the operator names.
One that has reported none gets the only bundle that there is. Everything is chosen before
anything is sent: where one device can have none, nothing is deployed to anyone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from edge_runtime.bundle.manifest import NAME
from edge_runtime.errors import IncompatibleError, InputError, UntrustedError
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.inventory import Device
from edge_runtime.fleet.repository import Catalog, read_catalog, read_release
from edge_runtime.messages.fleet import Release, release_file

MAX_NAMED = 10
"""Releases, profiles or devices in one sentence."""


def choose(
    connection: Connection,
    name: str,
    version: str,
    devices: Sequence[Device],
    profile: str | None = None,
    of: Callable[[Device], str] | None = None,
) -> tuple[Release, ...]:
    """The release of `name` `version` for each of `devices`, in their order.

    Args:
        profile: whose release all of them get, whatever they report.
        of: says what a device gets releases for; None: its profile. Where it says nothing, only
            a bundle that is made for all may be given to it.

    Raises:
        InputError: not published, or not for a device's profile; or a device has reported no
            profile, there are several, and `profile` does not say which.
        UntrustedError, IncompatibleError: a release that is wanted cannot be read.
        TransferError: the connection was lost.
    """
    own = of or profile_of
    wanted = [profile or own(device) for device in devices]
    # By their exact topics: a catalog may be longer than what the broker queues for us.
    found = {
        one: read_release(connection, name, version, one)
        for one in dict.fromkeys(wanted)
        if re.fullmatch(NAME, one)
    }
    releases = {one: release for one, release in found.items() if release is not None}
    if not all(one in releases for one in wanted):
        catalog = read_catalog(connection)
        published = profiles(catalog, name, version)
        where = f"release {name}=={version}"
        if not published:
            raise InputError(
                f"{where}: not on broker {connection.address}; {_known(catalog, name)}"
            )
        alike = of is None and _is_one_bundle(catalog, name, version, published)
        _demand(where, devices, wanted, published, profile, alike=alike)
        # What is left are devices that have reported none; or somebody published just now.
        for one in set(wanted) - releases.keys():
            release = read_release(connection, name, version, one or published[0])
            if release is None:
                raise InputError(f"{where}: left the broker just now; nothing was deployed")
            releases[one] = release
    if profile is not None:
        return tuple(_own(connection, own(device), releases[profile]) for device in devices)
    return tuple(releases[one] for one in wanted)


def _own(connection: Connection, own: str, named: Release) -> Release:
    """`named`, or where its bundle is made for the device's own profile too, that release of it."""
    if own == named.profile or not re.fullmatch(NAME, own):
        return named
    try:
        found = read_release(connection, named.name, named.version, own)
    except (UntrustedError, IncompatibleError):  # It is not the one that was asked for.
        return named
    return found if found is not None and found.ref == named.ref else named


def profile_of(device: Device) -> str:
    """The profile that it reports, as it says it; empty where it has reported none."""
    return device.reported.profile if device.reported is not None else ""


def profiles(catalog: Catalog, name: str, version: str) -> tuple[str, ...]:
    """Profiles that `name` `version` is published for, sorted, also where it is unreadable."""
    head, tail = release_file(name, version, "\n").split("\n")
    files = [release.file for release in catalog.releases]
    files += [file for file, _ in catalog.unreadable]
    found = {
        file[len(head) : -len(tail)]
        for file in files
        if file.startswith(head) and file.endswith(tail)
    }
    return tuple(sorted(one for one in found if re.fullmatch(NAME, one)))


def _is_one_bundle(catalog: Catalog, name: str, version: str, published: Sequence[str]) -> bool:
    """Whether all releases of a version are of one bundle, which is made for several boards."""
    found = [r for r in catalog.releases if (r.name, r.version) == (name, version)]
    return len(found) == len(published) and len({r.manifest.sha256 for r in found}) == 1


def _demand(
    where: str,
    devices: Sequence[Device],
    wanted: Sequence[str],
    published: Sequence[str],
    profile: str | None,
    *,
    alike: bool,
) -> None:
    """Raises InputError: a device's profile is not among those published, or is not known.

    It need not be known where the releases are `alike`: all of one bundle.
    """
    there = f"{where}: published for {_list(published)}"
    if profile and profile not in published:
        raise InputError(f"{there}, not for {profile}; nothing was deployed")
    other = {
        device.id: one
        for device, one in zip(devices, wanted, strict=True)
        if one and one not in published
    }
    if other:
        raise InputError(f"{there}, but {_profiles(other)}; nothing was deployed")
    silent = [device.id for device, one in zip(devices, wanted, strict=True) if not one]
    if silent and len(published) > 1 and not alike:
        raise InputError(
            f"{there}, and {_list(silent)} never reported which it is; say which of these, as in "
            f"--profile {published[0]}; nothing was deployed"
        )


def _profiles(of: Mapping[str, str]) -> str:
    return _list([f"{device} has profile {one}" for device, one in of.items()])


def _list(words: Sequence[str]) -> str:
    more = f" and {len(words) - MAX_NAMED} more" if len(words) > MAX_NAMED else ""
    return ", ".join(words[:MAX_NAMED]) + more


def _known(catalog: Catalog, name: str) -> str:
    every = _unique(f"{r.name}=={r.version}" for r in catalog.releases)
    near = _unique(f"{r.name}=={r.version}" for r in catalog.releases if r.name == name)
    return f"published are {_list(near or every)}" if every else "nothing is published there yet"


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
