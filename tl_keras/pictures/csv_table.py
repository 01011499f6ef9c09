"""Read the columns of a CSV file: files, labels, and perhaps splits and groups.

The first line that is not blank is the header. Fields are separated by the comma, semicolon or tab
with which the header has the columns. They may be quoted, as in RFC 4180. The text is UTF-8, with
or without a byte order mark. Lines end in LF, CRLF or CR. Blanks around fields, and lines whose
fields are all blank, are ignored. Anything else is an error that names the line.
"""

import csv
import itertools
import os
import stat
import unicodedata
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tl_keras.config.csv_columns import CsvColumns
from tl_keras.errors import DataError
from tl_keras.pictures.layout import SPLITS, list_names

DELIMITERS = ",;\t"
# Characters of a line, which is read as a whole. A path has at most 4,096 bytes.
MAX_LINE = 1 << 20


class Coded(NamedTuple):
    """A column of few different values.

    Attributes:
        codes: (rows,) int64, indices into `values`.
        values: the different values, in the order of their first rows.
    """

    codes: np.ndarray
    values: list[str]


class Table(NamedTuple):
    """The columns of a CSV file.

    Attributes:
        lines: (rows,) int64, the number of the line that a row ends in, from 1.
        files: (rows,) names of files, as file names of the system.
        labels: names of classes in the form NFC, as file names of the system.
        splits: "train", "validation" or "test"; None without the column.
        groups: of files that belong together; None without the column.
    """

    lines: np.ndarray
    files: list[str]
    labels: Coded
    splits: Coded | None
    groups: Coded | None


def read_table(path: Path, columns: CsvColumns) -> Table:
    """Read a CSV file.

    Raises:
        DataError: the file cannot be read, is no CSV file in UTF-8, has a line of more than
            MAX_LINE characters, lacks a column or rows, or has a row with a wrong number of fields,
            without a file, a label or a group, or with an unknown split.
    """
    try:
        # A pipe would block until something is written.
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder. Write folder:PATH" if path.is_dir() else "no regular file"
            raise DataError(f"{path} is {kind}")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return _read_rows(path, file, columns)
    except (OSError, ValueError) as error:  # a name with a null is a ValueError
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


def _read_rows(path: Path, file: IO[str], columns: CsvColumns) -> Table:
    lines, blank = _read_lines(path, file), 0
    for header in lines:
        if header.strip():
            break
        blank += 1
    else:
        raise DataError(f"{path} is empty. Write a header and a line for each file")
    delimiter = _find_delimiter(header, columns)
    reader = csv.reader(
        itertools.chain([header], lines), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    done = blank
    try:
        names = [name.strip() for name in next(reader)]
        table = _TableBuilder(path, names, columns)
        done = reader.line_num + blank
        for row in reader:
            line = reader.line_num + blank
            table.add(line, row)
            done = line
    except csv.Error as error:
        raise DataError(
            f"{path}, line {done + 1}: the row cannot be read ({' '.join(str(error).split())})."
            " Check its quotes"
        ) from error
    return table.finish()


def _read_lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield lines, each with its end.

    Raises:
        DataError: a line is too long, or no UTF-8 text.
    """
    for number in itertools.count(1):
        line = file.readline(MAX_LINE)
        if not line:
            return
        if len(line) == MAX_LINE:
            raise DataError(f"{path}, line {number}: it has {MAX_LINE:,} characters or more")
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{path}, line {number}: it is not UTF-8. Save the file as text in UTF-8"
                ) from error
        if "\0" in line:
            raise DataError(
                f"{path}, line {number}: it has a NUL byte. Save the file as text in UTF-8"
            )
        yield line


def _find_delimiter(header: str, columns: CsvColumns) -> str:
    """Return the delimiter that gives the needed columns, else that of most columns."""

    def rank(delimiter: str) -> tuple[bool, int]:
        reader = csv.reader([header], delimiter=delimiter, skipinitialspace=True)
        try:
            names = [name.strip() for name in next(reader, [])]
        except csv.Error:
            return False, 0
        return {columns.file, columns.label} <= set(names), len(names)

    return max(DELIMITERS, key=rank)


class _TableBuilder:
    """Collects the rows of a table."""

    def __init__(self, path: Path, names: list[str], columns: CsvColumns):
        """Find the columns by the names in the header."""
        self._path = path
        self._width = len(names)
        self._file = self._find(names, "file", columns.file)
        self._lines = array("q")
        self._files: list[str] = []
        label = _CodedBuilder(self._find(names, "label", columns.label), self._parse_label)
        self._label = label
        named = {columns.file, columns.label, columns.split, columns.group}
        parsers = {"split": self._parse_split, "group": self._parse_group}
        self._others: dict[str, _CodedBuilder] = {}
        for role, column in (("split", columns.split), ("group", columns.group)):
            # A column that has another role is not the one of this name.
            if column or (role in names and role not in named):
                place = self._find(names, role, column or role)
                self._others[role] = _CodedBuilder(place, parsers[role])
        self._coded = [label, *self._others.values()]

    def _find(self, names: list[str], role: str, column: str) -> int:
        places = [place for place, name in enumerate(names) if name == column]
        if not places:
            raise DataError(
                f"{self._path} has no column {column!r}. Its columns, by commas, semicolons or"
                f" tabs, are {list_names(names)}. Name one of them by --csv_{role}_column"
            )
        if len(places) > 1:
            raise DataError(f"{self._path} has two columns {column!r}. Rename one of them")
        return places[0]

    def add(self, line: int, row: list[str]) -> None:
        """Append a row, unless all of its fields are blank."""
        if len(row) != self._width or not row[self._file]:
            if not "".join(row).strip():
                return
            if len(row) != self._width:
                raise DataError(
                    f"{self._path}, line {line}: it has {len(row)} fields, and the header"
                    f" {self._width}. Fields with a separator in them need quotes"
                )
        try:
            name = row[self._file].strip()
            if not name:
                raise ValueError("it names no file")
            for column in self._coded:
                column.add(row[column.place])
        except ValueError as error:
            raise DataError(f"{self._path}, line {line}: {error}") from None
        self._files.append(name if name.isascii() else _to_file_name(name))
        self._lines.append(line)

    def _parse_label(self, text: str) -> str:
        if not text:
            raise ValueError("it has no label. Give one, or remove the line")
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text):
            raise ValueError(f"the label {list_names([text])} has control characters")
        return _to_file_name(unicodedata.normalize("NFC", text))

    def _parse_split(self, text: str) -> str:
        if text.lower() not in SPLITS:
            raise ValueError(
                f"the split {list_names([text])} is none of {', '.join(SPLITS)}. Correct it, or"
                " rename the column if it is about something else"
            )
        return SPLITS[text.lower()]

    def _parse_group(self, text: str) -> str:
        if not text:
            raise ValueError(
                "its group is empty. Give a file that belongs to no group a unique group"
            )
        return unicodedata.normalize("NFC", text)

    def finish(self) -> Table:
        """Return the table, or raise DataError if it has no rows."""
        if not self._files:
            raise DataError(f"{self._path} has a header and no rows")
        others = {role: column.finish() for role, column in self._others.items()}
        return Table(
            np.array(self._lines, np.int64),
            self._files,
            self._label.finish(),
            others.get("split"),
            others.get("group"),
        )


class _CodedBuilder:
    """Collects the values of a column; each different text is parsed once."""

    def __init__(self, place: int, parse: Callable[[str], str]):
        """Remember the index of the field in a row, and what makes a value of its text."""
        self.place = place
        self._parse = parse
        self._by_text: dict[str, int] = {}
        self._by_value: dict[str, int] = {}
        self._codes = array("q")

    def add(self, text: str) -> None:
        """Append a value. Raise ValueError, whose message follows the line, if it is wrong."""
        code = self._by_text.get(text)
        if code is None:
            value = self._parse(text.strip())
            code = self._by_value.setdefault(value, len(self._by_value))
            self._by_text[text] = code
        self._codes.append(code)

    def finish(self) -> Coded:
        """Return the column."""
        return Coded(np.array(self._codes, np.int64), list(self._by_value))


def _to_file_name(text: str) -> str:
    """Return text as Python names a file with its bytes, which depends on the locale."""
    return os.fsdecode(text.encode())
