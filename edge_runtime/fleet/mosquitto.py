"""A mosquitto for the fleet, ready to start: `broker/` of the home, written whole each time.

Who may do what is the table `RIGHTS`; the `acl` file is made of it. A user is whom the certificate
names: a device by its id, or the operator. Every path in `mosquitto.conf` is absolute, because
mosquitto takes others as relative to where it was started; `installed` says where the folder will
lie. Without it, root's mosquitto becomes the user who wrote the folder, for nobody else may read
it; with it `mosquitto`, as Debian's does. Only options that mosquitto knew in 2.0.11 and still
takes are used.

Facts that the files rest on, all tried with mosquitto 2.0.11: a `pattern` line holds for every
user, also after a `user` line; what no line allows is forbidden; SIGHUP reads certificates,
revocation list and rights anew, but ends no connection; each autosave writes all that is kept, and
nothing else happens meanwhile.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_runtime.bundle.durable import replace
from edge_runtime.errors import InputError
from edge_runtime.fleet.ca import CertificateAuthority, copy_crl, renew_operator
from edge_runtime.fleet.certificates import OPERATOR, Role
from edge_runtime.fleet.home import Home, make_secret_folder, write_secret
from edge_runtime.fleet.issued import Entry, utc
from edge_runtime.fleet.settings import Settings
from edge_runtime.link.config import BrokerConfig

CONFIG, ACL, CA, CRL, CERTIFICATE, KEY, DATA = (
    "mosquitto.conf", "acl", "ca.pem", "crl.pem", "broker.pem", "broker.key", "data"
)  # fmt: skip
PROGRAM = "/usr/sbin/mosquitto"
"""Where it lies on Debian and others: no folder that a user's shell looks in."""
READ, WRITE, BOTH = "read", "write", "readwrite"
RIGHTS: tuple[tuple[Role, str, str], ...] = (
    (Role.DEVICE, READ, "device/<id>/desired"),
    (Role.DEVICE, READ, "device/<id>/command"),
    (Role.DEVICE, READ, "device/<id>/infer/+"),
    (Role.DEVICE, READ, "repo/metadata/#"),
    (Role.DEVICE, READ, "repo/chunk/#"),
    (Role.DEVICE, WRITE, "device/<id>/online"),
    (Role.DEVICE, WRITE, "device/<id>/reported"),
    (Role.DEVICE, WRITE, "device/<id>/telemetry"),
    (Role.DEVICE, WRITE, "device/<id>/event"),
    (Role.DEVICE, WRITE, "device/<id>/command/result"),
    (Role.DEVICE, WRITE, "device/<id>/infer/+/result"),
    (Role.OPERATOR, BOTH, "#"),
)
"""Role, right, topics under the prefix. `<id>` is the device's own. Nobody else may do anything."""
AUTOSAVE_S = 30
MAX_AUTOSAVE_S = 86400


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: `entry` and `operator` are new certificates, None where the old one stays.

    `start` is the path to start mosquitto with.
    """

    folder: Path
    start: str
    hosts: tuple[str, ...]
    port: int
    entry: Entry | None
    operator: Entry | None

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "folder": str(self.folder),
            "config": self.start,
            "hosts": list(self.hosts),
            "port": self.port,
            "broker_certificate": self.entry and self.entry.as_json(),
            "operator_certificate": self.operator and self.operator.as_json(),
        }


def broker_of(home: Home, settings: Settings) -> BrokerConfig:
    """The broker of `fleet.toml`, which the certificates of this fleet are for.

    Raises:
        InputError: there is none, it is not encrypted, or it wants a user name.
    """
    where = home.settings_file
    if not settings.broker:
        raise InputError(f'{where}: broker is empty, expected broker = "mqtts://HOST:8883"')
    try:
        found = BrokerConfig.parse(settings.broker)
    except InputError as reason:
        raise InputError(f"{where}: {reason}") from None
    if not found.tls or found.username is not None:
        what = "holds a user name" if found.tls else "is not encrypted"
        raise InputError(
            f"{where}: broker {what}; who shows a certificate needs mqtts://HOST[:PORT], no more"
        )
    return found


def write(
    home: Home,
    *,
    hosts: Sequence[str] = (),
    port: int | None = None,
    out: Path | None = None,
    installed: str | None = None,
    data: str | None = None,
    autosave_s: int = AUTOSAVE_S,
    passphrase: str | None = None,
    now: datetime | None = None,
) -> Written:
    """Write the folder. The caller holds the home.

    The broker's key and certificate stay while they are good and name the same hosts; the
    operator's certificate is renewed where it ends soon.

    Args:
        hosts: more names and addresses of the broker; the one in `fleet.toml` is always among them.
        port: where it listens, if that is not the port in `fleet.toml`.
        out: the folder, where it is not the home's own.
        installed: where the folder will lie on the broker's machine, if that is somewhere else.
        data: mosquitto's own folder there, if it is not `data` in that folder.
        autosave_s: how much of what was published a power cut may take.

    Raises:
        InputError: a faulty word, or the home lacks something.
        DeviceError: it cannot be written.
    """
    now = utc(now)
    settings = home.read()
    broker = broker_of(home, settings)
    names = tuple(dict.fromkeys((broker.host, *hosts)))
    port = broker.port if port is None else port
    folder = home.broker if out is None else out
    place = installed or str(folder.resolve())
    store = data or f"{place}/{DATA}"
    config = configuration(place, store, port, autosave_s, "" if installed else _writer())
    rights = acl(settings.prefix)

    operator = renew_operator(home, passphrase, now=now)
    authority = CertificateAuthority(home, passphrase)
    make_secret_folder(folder)
    entry = None
    if not authority.keeps(Role.BROKER, folder / CERTIFICATE, folder / KEY, names, now):
        made = authority.issue(Role.BROKER, "broker", names, now=now)
        write_secret(folder / KEY, made.key)
        replace(folder / CERTIFICATE, made.certificate)
        entry = made.entry
    replace(folder / CA, authority.certificate())
    replace(folder / CRL, authority.crl())
    copy_crl(home)
    write_secret(folder / ACL, rights.encode())
    if data is None:
        make_secret_folder(folder / DATA)
    replace(folder / CONFIG, config.encode())
    return Written(folder, f"{place}/{CONFIG}", names, port, entry, operator)


def acl(prefix: str) -> str:
    """The rights under `prefix`.

    Raises:
        InputError: mosquitto would read something else in the prefix.
    """
    if "%" in prefix:
        raise InputError(f"topic prefix {prefix!r}: mosquitto's rights cannot hold a %")
    lines = [
        f"pattern {right} {prefix}/{topics.replace('<id>', '%u')}"
        for role, right, topics in RIGHTS
        if role is Role.DEVICE
    ]
    lines += ["", f"user {OPERATOR}"]
    lines += [
        f"topic {right} {prefix}/{topics}"
        for role, right, topics in RIGHTS
        if role is Role.OPERATOR
    ]
    return ACL_HEADING + "\n".join([*lines, "topic read $SYS/#"]) + "\n"


ACL_HEADING = """\
# Written by `edge-fleet broker`. A user is the common name of a certificate: a device's id, or
# operator. Pattern lines hold for every user, and %u stands for the user. What no line allows is
# forbidden. mosquitto warns of the two patterns without %u; they are meant so: everybody may read
# the repository.

"""


def _writer() -> str:
    """Whom the files will belong to; empty where the user has no name, as in some containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def configuration(place: str, data: str, port: int, autosave_s: int, user: str = "") -> str:
    """`mosquitto.conf` for a folder that lies at `place`.

    `user` is whom root's mosquitto becomes; empty: whom it becomes by default.

    Raises:
        InputError: a path is not absolute or cannot stand there, or a number is out of range.
    """
    for path in (place, data):
        if not path.startswith("/") or path != path.strip() or not path.isprintable():
            raise InputError(f"folder {path!r}: expected an absolute path on the broker's machine")
    if not 1 <= port <= 65535:
        raise InputError(f"port is {port}, expected 1..65535")
    if not 1 <= autosave_s <= MAX_AUTOSAVE_S:
        raise InputError(f"autosave is {autosave_s} s, expected 1..{MAX_AUTOSAVE_S}")
    return CONFIG_TEMPLATE.format(
        program=PROGRAM,
        place=place.rstrip("/"),
        data=data.rstrip("/"),
        port=port,
        autosave_s=autosave_s,
        user=USER_TEMPLATE.format(user=user) if user else "",
    )


USER_TEMPLATE = """
# Whom the files belong to. Root's mosquitto becomes this user; anybody else's takes no notice.
user {user}
"""
CONFIG_TEMPLATE = """\
# Written by `edge-fleet broker` for mosquitto 2.0.11 or newer, to be used as it is:
#     {program} -c {place}/mosquitto.conf
# The files of its folder must be readable for the user that mosquitto runs as, and broker.key for
# nobody else.
{user}
# Nobody without a certificate, and nothing that acl does not name.
allow_anonymous false
acl_file {place}/acl

# What is retained survives: of a crash or a power cut it loses the last {autosave_s} seconds. Each
# time mosquitto writes all that it keeps, changed or not, and does nothing else meanwhile.
persistence true
persistence_location {data}
autosave_interval {autosave_s}

# What may wait for one client: more than there are devices, so that the operator sees all of them.
# A large number, for some versions of mosquitto take 0 for none at all.
max_queued_messages 100000
# Ours connect afresh each time. Sessions that others leave behind must not pile up.
persistent_client_expiration 1d
# The largest message is 1 MiB; a longer packet costs its sender the connection before it is read.
max_packet_size 1114112
# Small messages must not wait for the acknowledgement of those before them.
set_tcp_nodelay true
log_timestamp_format %Y-%m-%dT%H:%M:%S

# TLS 1.2 or later. Everybody shows a certificate of this fleet that is not in crl.pem, and is who
# the certificate says. After a change of crl.pem: SIGHUP, or `systemctl reload mosquitto`.
listener {port}
tls_version tlsv1.2
cafile {place}/ca.pem
crlfile {place}/crl.pem
certfile {place}/broker.pem
keyfile {place}/broker.key
require_certificate true
use_identity_as_username true
# Above about a thousand the process needs more open files: LimitNOFILE= in its systemd unit.
max_connections 10000
"""
