"""What a person reads of signed metadata: each role's state, and what waits for whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from edge_runtime.fleet.keys import SHORT
from edge_runtime.fleet.metadata import Signed
from edge_runtime.fleet.outcome import Outcome, RoleStatus, Staged, left
from edge_runtime.fleet.show import PIPE_WIDTH
from edge_runtime.text import plain, size

__all__ = ["roles_table", "signed_table", "staged_lines"]


def roles_table(outcome: Outcome) -> Table:
    """One row for each role."""
    table = _table("ROLE", "VERSION", "EXPIRES", "LEFT", "SIGNATURES", "KEYS")
    for role in outcome.roles:
        table.add_row(
            Text(role.role),
            Text(str(role.version) if role.version else "none yet"),
            Text(f"{role.expires:%Y-%m-%d}" if role.expires is not None else ""),
            _left(role),
            Text(f"{role.signatures}, needs {role.threshold}" if role.version else ""),
            Text(", ".join(_keys(role))),
        )
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(Text(head, no_wrap=True), no_wrap=True, overflow="ellipsis")
    return table


def _left(role: RoleStatus) -> Text:
    if role.expires is None:
        return Text("")
    return Text(left(role.left_s), "red") if role.left_s <= 0 else Text(left(role.left_s))


def _keys(role: RoleStatus) -> Iterator[str]:
    """A key that is somewhere else stands in brackets."""
    for keyid in role.keys:
        yield keyid[:SHORT] if keyid in role.here else f"({keyid[:SHORT]})"


def staged_lines(staged: Iterable[Staged]) -> Iterator[str]:
    """What waits for signatures, whose, and what it would change."""
    for each in staged:
        wanted = ", ".join(keyid[:SHORT] for keyid in each.unsigned)
        more = f"needs {each.missing} more of the signatures of {wanted}"
        yield f"staged {each.role} version {each.version} {more}: {each.file}"
        for change in each.changes:
            yield f"  {plain(change)}"


def signed_table(releases: Iterable[Signed]) -> Table:
    """What the home has signed, one row for each release."""
    table = _table("NAME", "VERSION", "PROFILE", "SIZE", "MANIFEST")
    for r in releases:
        row = (r.name, r.version, r.profile, size(r.size_bytes), r.manifest_sha256[:12])
        table.add_row(*(Text(plain(word, PIPE_WIDTH)) for word in row))
    return table
