"""Who signs with which key, on this machine.

Signers are found by the URIs of `fleet.toml`, and opened when they are needed: `file:` and
`envvar:` here, any other scheme by securesystemslib. Every signature is verified before it is
believed: a token may hold another key than one thinks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import Key, Signature, Signer, SSlibKey

from edge_runtime.errors import InputError, TransferError
from edge_runtime.fleet.keys import (
    FILE,
    SHORT,
    VARIABLE,
    Held,
    check_scheme,
    from_home,
    is_here,
    matching,
    needs_passphrase,
    open_pem,
    read_word,
    scheme,
)

EXTRAS = {
    "hsm": "hsm",
    "gcpkms": "gcpkms",
    "awskms": "awskms",
    "azurekms": "azurekms",
    "hv": "vault",
    "tkey": "tkey",
}
"""What of securesystemslib to install for a scheme."""
PIN_VARIABLE = "EDGE_FLEET_PIN"
"""Of a hardware token; the passphrase, where it is not set."""


@dataclass(frozen=True, slots=True)
class Signing:
    """What came of signing: the signatures, and in sentences why a signer that is here failed."""

    signatures: tuple[Signature, ...]
    failures: tuple[str, ...]


class Keyring:
    """Signers by key id, opened when they are needed, and then kept.

    `uris` are as in `fleet.toml`; a file that is not there is a key that is somewhere else.
    `passphrase` is called at most once, and only where an encrypted key needs it.
    """

    def __init__(
        self,
        home: Path,
        uris: Mapping[str, str],
        passphrase: Callable[[], str | None] = lambda: None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._home = home
        self._uris = dict(uris)
        self._ask = passphrase
        self._environment = environment
        self._asked: list[str | None] = []
        self._signers: dict[str, Signer] = {}

    def passphrase(self) -> str | None:
        """The one passphrase of this run; None where none was given."""
        if not self._asked:
            self._asked.append(self._ask())
        return self._asked[0]

    def uri(self, keyid: str) -> str:
        """Of the signer of a key; empty where there is none."""
        return self._uris.get(keyid, "")

    def add(self, held: Held) -> None:
        """One more signer; nothing where `held` has none."""
        if held.uri:
            self._uris[held.key.keyid] = held.uri

    def add_word(self, word: str, keys: Mapping[str, Key]) -> None:
        """One more signer, as people name it: `[KEYID=]URI`; without an id `file:` or `envvar:`.

        Args:
            word: the key id may be cut short.
            keys: those that sign something in this fleet, by id.

        Raises:
            InputError: it is none of `keys`, or cannot be read.
        """
        if scheme(word):
            held = read_word(word, self._home, self.passphrase())
            if held.key.keyid not in keys:
                raise InputError(
                    f"key {word}: has id {held.key.keyid[:SHORT]}, which signs nothing in this "
                    "fleet"
                )
        else:
            start, _, uri = word.partition("=")
            check_scheme(uri)
            key = keys[matching(start, keys)]
            held = Held(_plain(key), from_home(uri, self._home))
        self.add(held)

    def is_here(self, keyid: str) -> bool:
        """Whether this machine has a signer for the key; it may still fail."""
        return is_here(self.uri(keyid), self._home)

    def is_ready(self, keyid: str) -> bool:
        """Whether it is here and needs no passphrase that was not given.

        Raises:
            InputError: it cannot be read.
        """
        return self.is_here(keyid) and (
            self.passphrase() is not None or not needs_passphrase(self.uri(keyid), self._home)
        )

    def check(self, keys: Iterable[Key]) -> None:
        """Open the signers of `keys` that are here, before anything is changed.

        Raises:
            InputError: there are some, and not one could be opened; says why.
        """
        failures: list[InputError] = []
        for key in keys:
            try:
                if self.is_here(key.keyid):
                    self._signer(key)
                    return
            except InputError as reason:
                failures.append(reason)
        if failures:
            raise failures[0]

    def sign(self, data: bytes, keys: Iterable[Key]) -> Signing:
        """Sign `data` with each of `keys` that has a signer here.

        Where some can sign, those that cannot are only told of: holders of other keys have other
        passphrases.

        Raises:
            InputError: there are signers here, and not one could be opened; says why.
            TransferError: there are, and not one signed.
        """
        made: list[Signature] = []
        failures: list[InputError | TransferError] = []
        for key in keys:
            try:
                if self.is_here(key.keyid):
                    made.append(self._sign(data, key))
            except (InputError, TransferError) as reason:
                failures.append(reason)
        if failures and not made:
            raise failures[0]
        return Signing(tuple(made), tuple(map(str, failures)))

    def _sign(self, data: bytes, key: Key) -> Signature:
        signer = self._signer(key)
        try:
            signature = signer.sign(data)
            key.verify_signature(signature, data)
        except Exception as reason:  # What the driver of a token raises is its own business.
            raise TransferError(
                f"{self._name(key)}: did not sign as it should ({_words(reason)})"
            ) from None
        return signature

    def _signer(self, key: Key) -> Signer:
        if key.keyid not in self._signers:
            self._signers[key.keyid] = self._open(key)
        return self._signers[key.keyid]

    def _open(self, key: Key) -> Signer:
        uri = self.uri(key.keyid)
        if scheme(uri) in (FILE, VARIABLE):
            secret = self.passphrase() if needs_passphrase(uri, self._home) else None
            return open_pem(uri, self._home, secret, _plain(key))
        check_scheme(uri)
        try:
            return Signer.from_priv_key_uri(uri, key, self._secret)
        except UnsupportedLibraryError as reason:
            extra = EXTRAS.get(scheme(uri), "")
            install = f"; pip install 'securesystemslib[{extra}]'" if extra else ""
            raise InputError(
                f"{self._name(key)}: something is not installed ({_words(reason)}){install}"
            ) from None
        except Exception as reason:
            raise InputError(f"{self._name(key)}: cannot be opened ({_words(reason)})") from None

    def _secret(self, _name: str) -> str:
        """What a token asks for; nobody is asked."""
        return self._environment.get(PIN_VARIABLE) or self.passphrase() or ""

    def _name(self, key: Key) -> str:
        return f"key {key.keyid[:SHORT]} ({self.uri(key.keyid)})"


def _plain(key: Key) -> SSlibKey:
    if not isinstance(key, SSlibKey):
        raise InputError(f"key {key.keyid[:SHORT]}: {key.keytype} keys cannot lie in a PEM file")
    return key


def _words(reason: Exception) -> str:
    """The first line of what a library said, or what it is called."""
    said = str(reason).strip().partition("\n")[0]
    return said[:300] if said else type(reason).__name__
