"""A table as people save it, read as text: delimiter and encoding are detected, and no row is dropped."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from extract.ground import files
from extract.ground.errors import InputError
from extract.images.header import sniff
from extract.tables import folders
from extract.tables.task import NONE, OPEN, SEPARATOR

TEXT = pd.StringDtype("python", np.nan)  # pyarrow, where it is installed, takes no name that is not UTF-8
COLUMNS = ("objectId", "value", "type", "path", "group")
REQUIRED = ("objectId", "value")
LABEL = "label:"  # before the name, in columns of several labels an image
DELIMITERS = ",;\t"
SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xls", ".ods", ".parquet", ".json", ".jsonl", ".html")
RULE = (
    "A table is text with commas, semicolons or tabs and the columns objectId,value and optionally type,path,group; "
    "for several labels an image, columns label:<name> in place of value"
)
# what surrounds a cell and is not seen: white space, zero-width characters, byte order and direction marks
EDGES = "".join(c for c in map(chr, (*range(0x3001), 0xFEFF)) if c.isspace() or unicodedata.category(c) == "Cf")
HEAD = 1 << 20  # characters that show whether a file is text
NOTHING = ("nan", "none", "na", "n/a", "#n/a", "null", "nil", "-", "--", "?")  # what programs write into empty cells


def strip(cell: str) -> str:
    """Return a cell without the spaces and unseen characters at its ends."""
    return cell.strip(EDGES)


def normal(name: str) -> str:
    """Return the one form of a name that differs from others only in Unicode normal form or spaces at its ends."""
    return unicodedata.normalize("NFC", strip(name))


def rows(source: Path, required: tuple[str, ...] = REQUIRED) -> tuple[list[str], list[int], list[list[str]]]:
    """Return header, line numbers and rows of a table, cells unchanged; blank rows are left out.

    A line number is that of a row's last line. Columns without a name at the right end, and their empty cells, are cut.
    Errors: InputError for a file that is not a table, a missing column, or a row with a wrong number of cells.
    """
    text, delimiter = _dialect(_text(source), required)
    found = _parse(source, text, delimiter)
    header = next(found, (0, []))[1]
    while header and not strip(header[-1]):
        header.pop()
    _check_header(source, list(map(strip, header)), required)
    width, lines, cells = len(header), [], []
    for line, row in found:
        if len(row) < width or any(map(strip, row[width:])):
            raise InputError(
                "table-cell-count",
                f"{source}, line {line}: {len(row)} cells",
                rule=f"The header has {width} columns ({', '.join(map(strip, header))})",
            )
        lines.append(line)
        cells.append([files.plain(cell) for cell in row[:width]])
    return header, lines, cells


def read(source: Path, required: tuple[str, ...] = REQUIRED) -> pd.DataFrame:
    """Read a label table as text: COLUMNS ("" where absent), index = line number in the file, attrs["notes"].

    Ids such as `0012` and `NA` stay themselves; spaces around a cell go. A row repeated word for word counts once.
    Errors: InputError naming line and column.
    """
    header, lines, cells = rows(source, required)
    at = {name: i for i, name in enumerate(map(strip, header))}
    raw = {name: [row[at[name]] for row in cells] if name in at else [""] * len(cells) for name in COLUMNS}
    columns = {name: list(map(strip, column)) for name, column in raw.items()}
    labels = [strip(name.removeprefix(LABEL)) for name in at if name.startswith(LABEL)]
    if labels:
        each = [[strip(row[i]) for name, i in at.items() if name.startswith(LABEL)] for row in cells]
        columns["value"] = _joined(source, lines, each, labels)
    table = pd.DataFrame(columns, index=pd.Index(lines, name="line"), dtype=TEXT)
    if table.empty:
        raise InputError("table-empty", f"The table {source} has no rows below its header")
    table = _one_row_an_id(source, table)
    spaces = [_spaces(name, raw[name], columns[name], lines) for name in ("objectId", "path")]
    table.attrs["source"] = str(source)  # for messages
    table.attrs["labels"] = tuple(labels)
    splits = folders.read_as("column type", table["type"].unique().tolist())
    table.attrs["notes"] = [*filter(None, spaces), *splits, *_empty_words(table)]
    return table


def _joined(source: Path, lines: list[int], rows: list[list[str]], labels: list[str]) -> list[str]:
    """Return the values of columns label:<name>, as `Task.encode` reads them. Errors: InputError for other cells."""
    marks = {"1": "", "1.0": "", "0": None, "0.0": None, "": OPEN}  # pandas writes 1.0 where a column has empty cells
    values = []
    for line, cells in zip(lines, rows, strict=True):
        if odd := [(name, cell) for name, cell in zip(labels, cells, strict=True) if cell not in marks]:
            raise InputError(
                "label-cell-invalid",
                f"{source}, line {line}, column {LABEL}{odd[0][0]}: {odd[0][1]!r}",
                rule="A cell is 1 (it has the label), 0 (it has not), or empty (nobody knows)",
            )
        marked = [(marks[cell], name) for name, cell in zip(labels, cells, strict=True)]
        words = [f"{mark}{name}" for mark, name in marked if mark is not None]
        values.append((SEPARATOR.join(words) or NONE) if any(cells) else "")
    return values


def _text(source: Path) -> str:
    """Return the text of a file. Errors: InputError naming what it is instead."""
    try:
        data = source.read_bytes()
        utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if utf_16 else "utf-8-sig", "surrogateescape")
    except (OSError, UnicodeError) as error:
        raise InputError(
            "table-unreadable", f"The table {source} cannot be read: {error}", then="Give DATA=path/to/table.csv"
        ) from error
    if kind := _kind(data, text[:HEAD]):
        raise InputError(
            "not-a-table",
            f"{source} is not a table but {kind}",
            rule=RULE,
            then="Save a table as CSV (UTF-8) and give that file; make predict takes a picture as INPUT",
        )
    return text


def _kind(data: bytes, head: str) -> str:
    """Name the kind of a file that is not a table; "" where it may be one. head: the beginning of its text."""
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive, such as an Excel workbook (.xlsx)"
    if "\0" in head:
        picture = sniff(io.BytesIO(data)).format
        return f"a picture ({picture})" if picture else "binary data, or UTF-16 without its byte order mark"
    return "JSON, HTML or XML" if strip(head).startswith(("{", "[", "<")) else ""


def _dialect(text: str, required: tuple[str, ...]) -> tuple[str, str]:
    """Return the text, without the line `sep=;` of a spreadsheet, and the delimiter that gives the columns' names."""
    if named := re.match(r'"?sep=([^\w\r\n"])"?[,;\t"]*(?=[\r\n])', text, re.IGNORECASE):
        return text[named.end() :], named[1]
    line = next((line for line in io.StringIO(text, newline="") if strip(line)), "")
    for delimiter in DELIMITERS:
        if set(required) <= set(map(strip, next(csv.reader([line], delimiter=delimiter)))):
            return text, delimiter
    return text, ","


def _parse(source: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line's number and the cells of each row that is not blank. Errors: InputError for a stray quote.

    Where a cell takes in lines that look like rows themselves, a quote was opened by mistake and met another one.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = width = 0
    try:
        for row in reader:
            if reader.line_num > before + 1 and any(_holds_a_row(row, at, delimiter, width) for at in range(len(row))):
                raise csv.Error("a cell holds rows")
            before = reader.line_num
            if any(map(strip, row)):
                width = width or max(at for at, cell in enumerate(row, 1) if strip(cell))  # of the header
                yield before, row
    except csv.Error as error:
        raise InputError(
            "table-stray-quote",
            f"{source}, line {before + 1}: a quote opens a cell there and is not closed, or takes in other rows",
            rule='A cell that begins with " ends with one, and each " inside it is doubled',
            then="Close that quote or remove it; or take the line breaks out of that cell",
        ) from error


def _holds_a_row(row: list[str], at: int, delimiter: str, width: int) -> bool:
    """Say whether row[at] holds a whole row, or the end of one and the beginning of another."""

    def is_row(cells: list[str]) -> bool:
        return len(cells) >= width and any(map(strip, cells)) and not any(map(strip, cells[width:]))

    first, *others = (line.split(delimiter) for line in re.split("\r\n|\r|\n", row[at]))
    if not others:
        return False
    return any(map(is_row, others)) or (is_row([*row[:at], *first]) and is_row([*others[-1], *row[at + 1 :]]))


def _check_header(source: Path, header: list[str], required: tuple[str, ...]) -> None:
    labels = [strip(name.removeprefix(LABEL)) for name in header if name.startswith(LABEL)]
    missing = [name for name in required if name not in header and not (labels and name == "value")]
    if missing:
        found = ", ".join(name[:40] for name in header[:10]) or "none"
        raise InputError(
            "table-column-missing",
            f"{source}, line 1: column {', '.join(missing)} is missing; found {found}",
            rule=RULE,
        )
    if labels and "value" in header:
        raise InputError(
            "value-beside-labels",
            f"{source}, line 1: there are both a column value and columns {LABEL}{labels[0]}, ...",
            rule="Labels are in one or in the others",
            then="Remove or rename the column value",
        )
    if odd := [name for name in labels if not name or SEPARATOR in name or name.startswith(OPEN) or name == NONE]:
        raise InputError(
            "class-name-reserved",
            f"{source}, line 1: {odd[0]!r} cannot be the name of a label",
            rule=f"{NONE!r} means none of the labels, {SEPARATOR} joins names, and {OPEN} before one means unknown",
        )
    twice = sorted({name for name in header if (name in COLUMNS or name.startswith(LABEL)) and header.count(name) > 1})
    if twice:
        raise InputError("table-column-duplicate", f"{source}, line 1: duplicate column: {', '.join(twice)}")


def _one_row_an_id(source: Path, table: pd.DataFrame) -> pd.DataFrame:
    empty = table.index[table["objectId"] == ""]
    if len(empty):
        raise InputError("table-empty-id", f"{source}, line {empty[0]}: objectId is empty")
    table = table.drop_duplicates()
    again = table["objectId"].duplicated(keep=False)
    if again.any():
        name = table.loc[again, "objectId"].iloc[0]
        same = table[table["objectId"] == name]
        column = next(c for c in COLUMNS if same[c].nunique() > 1)
        where = " and ".join(f"{cell!r} in line {line}" for line, cell in same[column].iloc[:2].items())
        raise InputError(
            "table-conflicting-rows",
            f"{source}: objectId {name!r} has two entries in column {column}: {where}",
            rule="One id names one image with one label, split, path and group; spaces around it do not count",
        )
    return table


def _spaces(column: str, raw: list[str], stripped: list[str], lines: list[int]) -> str:
    """Say how many cells of a column had spaces around them, and which first; "" where none had."""
    spaced = [(line, cell) for line, cell, bare in zip(lines, raw, stripped, strict=True) if cell != bare]
    if not spaced:
        return ""
    line, cell = spaced[0]
    return f"column {column}: spaces around {len(spaced):,} cells are left out, the first: {cell!r} in line {line}"


def _empty_words(table: pd.DataFrame) -> list[str]:
    """Return notes on words that mean nothing, such as nan, which count as a group or a class all the same."""
    notes = []
    for column, meaning in (("group", "one group"), ("value", "a class")):
        counts = Counter(table[column])
        for word, n in counts.most_common():
            if n > 1 and word.casefold() in NOTHING and (column, word) != ("value", "none"):
                rest = f"{n:,} of {len(table):,} rows, which count as {meaning}; leave such cells empty"
                notes.append(f"column {column}: {word!r} is in {rest}, if they mean nothing")
    return notes
