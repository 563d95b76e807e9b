"""Rows out of a CSV file: its first line names the columns, those that the model knows are taken.

A spreadsheet's time stamps and remarks may stay in the file. Lines are bounded before they are
parsed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.tabular import Column

MAX_LINE_BYTES = 1 << 20


def csv_rows(
    file: BinaryIO, columns: Sequence[Column], where: str
) -> Iterator[tuple[int, dict[str, float | str]]]:
    """(line number, row) of every line that is not blank; a row is {column: number or word}.

    Args:
        where: what the file is called in an error.

    Raises:
        InputError: not UTF-8, no header, a column is missing, or a line is too long or of another
            number of cells; says which line.
    """
    reader = csv.reader(_lines(file, where), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [column.name for column in columns if column.name not in header]
        if missing:
            found = ", ".join(header)[:200] or "nothing"
            raise InputError(f"{where}: column {missing[0]} is missing, the first line has {found}")
        if len(set(header)) != len(header):
            raise InputError(f"{where}: two columns share a name")
        at = {column.name: header.index(column.name) for column in columns}
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{where} line {reader.line_num}: {len(cells)} cells for {len(header)} columns"
                )
            row = {column.name: _value(cells[at[column.name]], column) for column in columns}
            yield reader.line_num, row
    except csv.Error as reason:
        raise InputError(f"{where} line {reader.line_num}: not CSV ({reason})") from None


def _lines(file: BinaryIO, where: str) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{where} line {number}: more than {MAX_LINE_BYTES} bytes")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as reason:
            raise InputError(f"{where} line {number}: not UTF-8 ({reason.reason})") from None


def _value(cell: str, column: Column) -> float | str:
    """A cell as the step `columns` wants it, which complains about what is no number."""
    cell = cell.strip()
    if column.categories:
        return cell
    try:
        return float(cell)
    except ValueError:
        return cell
