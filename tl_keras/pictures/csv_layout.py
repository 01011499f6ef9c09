"""The layout of the images that a CSV file lists: `csv:FILE`.

    file,label,split,group
    left/0.png,cat,train,owner 1
    left/1.png,dog,test,owner 2

`csv_table` reads the file; see there for its form. The columns may have other names, which
`CsvColumns` gives, and further columns are ignored. Without the split column, all files are the
training split, of which the caller holds out a part.

- Names of files are relative to the folder of the CSV file, or absolute. Files outside of that
  folder are refused without --follow_links. If none of the names is that of a file, and with the
  same image extension all of them are, then that extension is meant.
- A file that is listed again with the same label, split and group counts once. With others it is an
  error: a picture has one label.
- `a|b`, `a;b` and `a,b` are several labels if each of their parts is a label elsewhere in the file.
  This is an error. Otherwise they are names of classes, and those with | or ; are logged.
- Files are in the order of their first lines, classes in that of their bytes.
"""

import os
from pathlib import Path

import numpy as np

from tl_keras.config.csv_columns import CsvColumns
from tl_keras.errors import DataError
from tl_keras.pictures.csv_table import Coded, Table, read_table
from tl_keras.pictures.layout import (
    LabelledFiles,
    Layout,
    check_classes,
    check_trained,
    list_names,
    use_validation_as_test,
)
from tl_keras.pictures.links import Links
from tl_keras.pictures.listed_files import find_files

SEPARATORS = "|;,"
# Commas are common in names.
LOGGED_SEPARATORS = "|;"


def find_csv_layout(
    path: Path, columns: CsvColumns, *, folder: Path | None = None, follow_links: bool = False
) -> Layout:
    """Read the splits, classes, groups and files from a CSV file.

    Args:
        path: the CSV file.
        columns: the names of its columns.
        folder: what names of files are relative to; None for the folder of the CSV file.
        follow_links: accept files outside of `folder`, and links that lead to them.

    Returns:
        The layout. The groups are int64 codes over all splits; None without the column.

    Raises:
        DataError: the file is no such table (see `csv_table.read_table`), a file is missing, is a
            folder, is outside of `folder` or has several labels, splits or groups, or there are
            fewer than two classes, no training file, or test classes without a training file.
    """
    table = read_table(path, columns)
    notes = _check_labels(path, table)
    links = Links(path.parent if folder is None else folder, follow_links)
    files = find_files(path, table.files, table.lines, links)
    rows, repeated = _find_first_rows(path, table, files.targets)
    members = _find_members(path, table.splits, rows)
    notes += files.notes + repeated + _list_shared_groups(path, table.groups, members)
    place = f"the validation split of {path}"
    promoted = use_validation_as_test(members, place)
    classes = _find_classes(path, table, members, {"test": place} if promoted else {})
    by_name = {name: index for index, name in enumerate(classes)}
    labels = np.array([by_name.get(name, -1) for name in table.labels.values], np.int64)
    splits = {
        split: LabelledFiles(
            [files.paths[row] for row in its],
            labels[table.labels.codes[its]],
            table.groups.codes[its] if table.groups else None,
        )
        for split, its in members.items()
    }
    return Layout(classes, splits, notes + promoted)


def _check_labels(path: Path, table: Table) -> list[str]:
    """Return a note on labels that look like several.

    Raises:
        DataError: a label is several others with a separator between them.
    """
    names, odd = set(table.labels.values), []
    for code, name in enumerate(table.labels.values):
        found = [separator for separator in SEPARATORS if separator in name]
        for separator in found:
            if names.issuperset(part.strip() for part in name.split(separator)):
                line = table.lines[np.argmax(table.labels.codes == code)]
                raise DataError(
                    f"{path}, line {line}: {list_names([name])} are several labels, as there are"
                    " files with each of them alone. Several labels a picture are not supported"
                )
        if set(found) & set(LOGGED_SEPARATORS):
            odd.append(name)
    if not odd:
        return []
    return [f"{path}: labels with | or ; in them are each the name of one class: {list_names(odd)}"]


def _find_first_rows(path: Path, table: Table, targets: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return the (files,) int64 row of each file, its first, and a note on repeated rows.

    Raises:
        DataError: a file is listed again with another label, split or group.
    """
    first: dict[str, int] = {}
    repeated = []
    for row, target in enumerate(targets):
        if first.setdefault(target, row) != row:
            repeated.append(row)
    columns = (("label", table.labels), ("split", table.splits), ("group", table.groups))
    for row in repeated:
        before = first[targets[row]]
        for role, column in columns:
            if column is not None and column.codes[row] != column.codes[before]:
                values = [column.values[column.codes[one]] for one in (row, before)]
                several = "Several labels a picture are not supported" if role == "label" else ""
                raise DataError(
                    f"{path}, line {table.lines[row]}: {list_names([table.files[row]])} has the"
                    f" {role} {list_names(values[:1])}, and in line {table.lines[before]}"
                    f" {list_names(values[1:])}. {several or 'Keep one of them'}"
                )
    if not repeated:
        return np.arange(len(targets)), []
    shown = list_names([table.files[row] for row in repeated])
    note = f"{path}: {len(repeated):,} repeated lines are left out, of the files {shown}"
    return np.fromiter(first.values(), np.int64), [note]


def _find_members(path: Path, splits: Coded | None, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of each split, or raise DataError if there is no training split."""
    if splits is None:
        return {"train": rows}
    members: dict[str, np.ndarray] = {
        name: rows[splits.codes[rows] == splits.values.index(name)]
        for name in ("train", "validation", "test")
        if name in splits.values
    }
    if "train" not in members:
        raise DataError(f"{path} has no file in the train split. Call a split train")
    return members


def _list_shared_groups(
    path: Path, groups: Coded | None, members: dict[str, np.ndarray]
) -> list[str]:
    """Return a note on groups that are in more than one split."""
    if groups is None:
        return []
    in_splits = np.zeros(len(groups.values), np.int64)
    for its in members.values():
        in_splits[np.unique(groups.codes[its])] += 1
    shared = np.flatnonzero(in_splits > 1)
    if not shared.size:
        return []
    return [
        f"{path}: {shared.size:,} of {len(groups.values):,} groups are in more than one split, so"
        " that test images may resemble training images:"
        f" {list_names([groups.values[group] for group in shared])}"
    ]


def _find_classes(
    path: Path, table: Table, members: dict[str, np.ndarray], places: dict[str, str]
) -> list[str]:
    """Return the classes of the training split, sorted by their bytes.

    Raises:
        DataError: there are fewer than two, or another split has further classes.
    """
    names = {
        split: [table.labels.values[code] for code in np.unique(table.labels.codes[its])]
        for split, its in members.items()
    }
    train = f"the train split of {path}" if table.splits else f"{path}"
    advice = "Give its files labels of two classes or more"
    classes = check_classes(train, sorted(names["train"], key=os.fsencode), advice)
    for split, its in names.items():
        check_trained(classes, its, places.get(split, f"the {split} split of {path}"), train)
    return classes
