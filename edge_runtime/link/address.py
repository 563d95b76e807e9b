"""Where a repository outside the broker is: the URL of a web server or of a folder, checked.

Nothing is opened here, and no HTTP library is loaded: a configuration is checked with it. Plain
http is refused off the loopback unless it was allowed in so many words: what is fetched is held to
digests and signatures either way, but anybody on the way may read it, or hold it back unseen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from edge_runtime.errors import InputError, TransferError

PORTS = {"http": 80, "https": 443}
_HOST = r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"
_LOOPBACK = r"localhost|127(\.[0-9]{1,3}){3}|::1"
_PATH = r"(/[!$&'()*+,./0-9:;=@A-Z_a-z~%-]*)?"
_TARGET = r"/[!-~]*"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """For https: `ca` vouches for the server in place of the system's authorities; `cert` and
    `key` say who we are to a server that asks.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


NO_FILES = TlsFiles()


@dataclass(frozen=True, slots=True)
class WebAddress:
    """What an http or https URL says. `path` is empty or begins with a slash, and ends with none.

    After a redirect it may carry a query: those often hold a secret, and are never shown.
    """

    tls: bool
    host: str
    port: int
    path: str = ""

    @property
    def authority(self) -> str:
        """`host` or `host:port`, as the Host header has it; an IPv6 host is in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self._scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """All of it, for messages."""
        return f"{self._scheme}://{self.authority}{self.path.partition('?')[0]}"

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    def file(self, path: str) -> WebAddress:
        """Where the file `path` of this place is."""
        return WebAddress(self.tls, self.host, self.port, f"{self.path}/{path}")

    def redirected(self, location: str) -> WebAddress:
        """Where a server at this address says that the file is.

        Only from https to https: on plain http anybody could send a device to whatever answers
        inside its own network.

        Raises:
            TransferError: it is no place to go to.
        """
        try:
            parts = urlsplit(urljoin(f"{self._scheme}://{self.authority}{self.path}", location))
            port = parts.port or PORTS["https"]
        except ValueError:
            raise TransferError(f"{self.url}: redirects to a malformed URL") from None
        if not location:
            raise TransferError(f"{self.url}: redirects without saying where")
        if not self.tls or parts.scheme != "https":
            raise TransferError(
                f"{self.url}: redirects to {parts.scheme[:8]!r}, only https may redirect, to https"
            )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not re.fullmatch(_HOST, parts.hostname or "") or not re.fullmatch(_TARGET, target):
            raise TransferError(f"{self.url}: redirects to a malformed URL")
        return WebAddress(True, parts.hostname or "", port, target)


def parse_source(url: str, *, allow_http: bool = False) -> WebAddress | Path:
    """From `https://host[:port][/path]`, `http://…` or `file:///path`.

    Raises:
        InputError: everything that is wrong, in one sentence that quotes no secret.
    """
    faults: list[str] = []
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError("source: the URL's host or port is malformed") from None
    found = _folder(parts, faults) if parts.scheme == "file" else _web(parts, port, faults)
    if parts.query or parts.fragment:
        faults.append("something follows the path after ? or #")
    if isinstance(found, WebAddress) and not (
        found.tls or allow_http or re.fullmatch(_LOOPBACK, found.host)
    ):
        faults.append("plain http is only for the loopback unless it is allowed; expected https")
    if faults:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise InputError(f"source {shown[:200]!r}: {'; '.join(faults)}")
    return found


def _folder(parts: SplitResult, faults: list[str]) -> Path:
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        faults.append("expected file:/// and an absolute path")
    return Path(path)


def _web(parts: SplitResult, port: int | None, faults: list[str]) -> WebAddress:
    host = parts.hostname or ""
    if parts.scheme not in PORTS:
        faults.append(f"starts with {parts.scheme or 'no scheme'!r}, expected https, http or file")
    elif not re.fullmatch(_HOST, host):
        faults.append("expected a host; an international one in its xn-- form")
    if "@" in parts.netloc:
        faults.append("holds credentials, which are not sent")
    if port == 0:
        faults.append("port is 0, expected 1..65535")
    if not re.fullmatch(_PATH, parts.path) or re.search(r"/\.\.?(/|$)", parts.path):
        faults.append("the path holds what a URL must not")
    tls = parts.scheme == "https"
    return WebAddress(tls, host, port or PORTS["https" if tls else "http"], parts.path.rstrip("/"))
