"""Tests of labels in CSV files: their text, columns, files, labels, splits and groups."""

import os
import random
import re
import subprocess
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tl_keras import main
from tl_keras.config import Config
from tl_keras.config.csv_columns import CsvColumns
from tl_keras.config.pictures import PictureOptions
from tl_keras.data import catalog, folder, reading
from tl_keras.errors import DataError, UsageError
from tl_keras.experiment import validate
from tl_keras.pictures import csv_table
from tl_keras.pictures.csv_layout import find_csv_layout
from tl_keras.pictures.layout import Layout, find_layout

FOUR = "a.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n"
FILES = ("a.png", "b.png", "c.png", "d.png")
# (name, class) of FOUR, as `rows` returns it.
FOUR_ROWS = [("a.png", "cat"), ("b.png", "dog"), ("c.png", "cat"), ("d.png", "dog")]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root: Path, text: str | bytes, *files: str, name: str = "labels.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    touch(root, *(files or FILES))
    return path


def rows(found: Layout, split: str = "train") -> list[tuple[str, str]]:
    files = found.splits[split]
    return [
        (Path(path).name, found.classes[label])
        for path, label in zip(files.paths, files.labels, strict=True)
    ]


def find(path: Path, **columns: str) -> Layout:
    return find_csv_layout(path, CsvColumns(**columns))


def refused(path: Path, **columns: str) -> str:
    with pytest.raises(DataError) as raised:
        find(path, **columns)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert str(path.parent) in message
    return message


# The text of the file


def test_files_labels_and_classes_are_those_of_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label\n" + FOUR)
    found = find(path)
    assert found.classes == ["cat", "dog"] and found.notes == []
    assert list(found.splits) == ["train"]
    files = found.splits["train"]
    assert files.paths == [str(tmp_path / name) for name in FILES]
    assert files.labels.tolist() == [0, 1, 0, 1] and files.labels.dtype == np.int64
    assert files.groups is None


def table_of(delimiter: str = ",", end: str = "\n", quote: str = "") -> str:
    lines = [("file", "label"), *FOUR_ROWS]
    return "".join(delimiter.join(f"{quote}{x}{quote}" for x in line) + end for line in lines)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_each_common_form_gives_the_same(
    tmp_path: Path, delimiter: str, end: str, quote: str
) -> None:
    assert rows(find(write(tmp_path, table_of(delimiter, end, quote)))) == FOUR_ROWS


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + table_of().encode(),
        table_of().rstrip("\n"),
        "\n \n" + table_of() + "\n\n",
        table_of() + ",\n , \n",
        table_of().replace(",", " , "),
        table_of().replace(",", ', "').replace("\n", '" \n'),
        "label,other,file\n" + "".join(f"{label},x,{name}\n" for name, label in FOUR_ROWS),
        "file,label,\n" + "".join(f"{name},{label},\n" for name, label in FOUR_ROWS),
    ],
    ids=["mark", "last line", "blank lines", "blank fields", "blanks", "quotes", "others", "empty"],
)
def test_text_that_differs_in_form_gives_the_same(tmp_path: Path, text: str | bytes) -> None:
    if text == table_of().replace(",", ', "').replace("\n", '" \n'):
        # A blank between the closing quote and the end of the line is no CSV.
        assert "line 1: the row cannot be read" in refused(write(tmp_path, text))
        text = text.replace('" \n', '"\n')
    assert rows(find(write(tmp_path, text))) == FOUR_ROWS


def test_quoted_fields_may_have_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    text = 'file,label,notes\n"a,b.png","say ""a"", b",1\nc.png,dog,"two\nlines"\nd.png,,3\n'
    path = write(tmp_path, text, "a,b.png", "c.png")
    # The line break within a field counts as a line.
    assert f"{path}, line 5: it has no label" in refused(path)
    path.write_text(text.replace("d.png,,3\n", ""))
    assert rows(find(path)) == [("a,b.png", 'say "a", b'), ("c.png", "dog")]


def test_semicolons_in_labels_do_not_hide_the_commas(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label;1;2;3,label\na.png,x;y;z;u,cat\nb.png,1,dog\n")
    assert rows(find(path)) == [("a.png", "cat"), ("b.png", "dog")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "labels.csv is empty"),
        (b"\xef\xbb\xbf\n \r\n\n", "labels.csv is empty"),
        (b"file,label\n", "has a header and no rows"),
        (b"file,label\n,\n\n", "has a header and no rows"),
        (b"file,label\na.png,cat\nb.png\nc.png,cat", "line 3: it has 1 fields, and the header 2"),
        (b"file,label\na.png,cat,x\n", "line 2: it has 3 fields, and the header 2"),
        (b"\n\nfile,label\na.png,cat\n\nb.png\n", "line 6: it has 1 fields"),
        (b"file,label\na.png,cat\nb.png, \n", "line 3: it has no label"),
        (b"file,label\n ,cat\n", "line 2: it names no file"),
        (b"file,label\na.png,ca\0t\n", "line 2: it has a NUL byte"),
        (b"\xff\xfef\0i\0l\0e\0", "line 1: it is not UTF-8"),
        (b"file,label\na.png,cat\nb.png,caf\xe9\n", "line 3: it is not UTF-8"),
        (b"file,label\na.png,\xed\xa0\x80\n", "line 2: it is not UTF-8"),
        (b'file,label\na.png,cat\n"b.png,dog\nc.png,cat\n', "line 3: the row cannot be read"),
        (b'file,label\n"a"b.png,dog\n', "line 2: the row cannot be read"),
        (b"file,label\na.png," + b"x" * 200_000, "line 2: .*field larger than field limit"),
        (b"file,label\na.png," + b"x" * (1 << 20), "line 2: it has 1,048,576 characters or more"),
        (b'file,label\na.png,cat\nb.png,"a\nb"\n', "line 4: the label 'a.nb' has control char"),
        (b"file,file,label\na.png,b,cat\n", "has two columns 'file'"),
        (b"file,label,group\na.png,cat, \n", "line 2: its group is empty"),
        (b"file,label,split\na.png,cat,3\n", "line 2: the split '3' is none of train, training,"),
        (b"file,label,split\na.png,cat,\n", "line 2: the split '' is none of train"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, text: bytes, message: str
) -> None:
    assert re.search(message, refused(write(tmp_path, text)))


def test_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "none.csv")
    (tmp_path / "folder").mkdir()
    assert "is a folder. Write folder:PATH" in refused(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in refused(tmp_path / "pipe")
    assert "cannot be read" in refused(tmp_path / ("x" * 300))
    assert "cannot be read: embedded null" in refused(tmp_path / "\0")


# Columns


def test_missing_column_is_told_with_those_there_are_and_the_flag(tmp_path: Path) -> None:
    path = write(tmp_path, "id;breed\na.png;cat\n")
    message = refused(path)
    assert f"{path} has no column 'file'. Its columns, by commas, semicolons or" in message
    assert " tabs, are 'id', 'breed'. Name" in message
    assert message.endswith("Name one of them by --csv_file_column")
    assert "has no column 'label'" in (message := refused(path, file="id"))
    assert message.endswith("--csv_label_column")
    for role in ("split", "group"):
        message = refused(path, file="id", label="breed", **{role: "other"})
        assert "has no column 'other'" in message and message.endswith(f"--csv_{role}_column")


def test_header_of_many_long_names_is_shortened(tmp_path: Path) -> None:
    path = write(tmp_path, ",".join(f"{index}{'x' * 1000}" for index in range(900)))
    assert "and 890 more" in (message := refused(path))
    assert len(message) < 2000


def test_columns_of_other_names_are_read(tmp_path: Path) -> None:
    text = "id,breed,fold,owner\na.png,cat,TRAIN,x\nb.png,dog,Training,y\nc.png,cat,Testing,z\n"
    found = find(write(tmp_path, text), file="id", label="breed", split="fold", group="owner")
    assert rows(found) == [("a.png", "cat"), ("b.png", "dog")]
    assert rows(found, "test") == [("c.png", "cat")]
    assert found.splits["train"].groups.tolist() == [0, 1]
    # Without their names, further columns mean nothing.
    found = find(tmp_path / "labels.csv", file="id", label="breed")
    assert list(found.splits) == ["train"] and found.splits["train"].groups is None


def test_column_of_a_role_has_no_other_role_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, "file,group,split\na.png,cat,x1\nb.png,dog,x2\n")
    found = find(path, label="group", group="split")
    assert list(found.splits) == ["train"] and found.classes == ["cat", "dog"]
    assert found.splits["train"].groups.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ""}, "--csv_file_column= is empty"),
        ({"label": ""}, "--csv_label_column= is empty"),
        ({"label": "file"}, "--csv_label_column=file and --csv_file_column=file are the same"),
        ({"split": "s", "group": "s"}, "--csv_group_column=s and --csv_split_column=s are the"),
    ],
)
def test_columns_that_are_not_different_are_refused(columns: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CsvColumns(**columns)
    with pytest.raises(UsageError, match=message):
        validate.check(Config(**{f"csv_{role}_column": name for role, name in columns.items()}))


# Files


def test_names_are_relative_or_absolute(tmp_path: Path) -> None:
    names = ["a.png", "./b.png", "x/y/c.png", "x//y/../d.png", f"{tmp_path}/x/e.png"]
    text = "file,label\n" + "".join(f"{name},{index % 2}\n" for index, name in enumerate(names))
    path = write(tmp_path, text, "a.png", "b.png", "x/y/c.png", "x/d.png", "x/e.png")
    files = find(path).splits["train"]
    real = [Path(one).resolve().relative_to(tmp_path).as_posix() for one in files.paths]
    assert real == ["a.png", "b.png", "x/y/c.png", "x/d.png", "x/e.png"]
    assert files.labels.tolist() == [0, 1, 0, 1, 0]


def test_names_are_relative_to_another_folder_if_one_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "lists", "file,label\na.png,cat\nb.png,dog\n", "a.png")
    touch(tmp_path / "images", "a.png", "b.png")
    assert "names 1 file that is not in the folder" in refused(path)
    found = find_csv_layout(path, CsvColumns(), folder=tmp_path / "images")
    assert found.splits["train"].paths == [str(tmp_path / "images" / n) for n in ("a.png", "b.png")]


def test_relative_path_of_the_csv_file_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "file,label\n" + FOUR)
    monkeypatch.chdir(tmp_path)
    assert rows(find(Path("labels.csv"))) == FOUR_ROWS


def test_missing_files_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    lines = "".join(f"{index}.png,{index % 2}\n" for index in range(1200))
    path = write(tmp_path, "file,label\n" + lines, "0.png", "1.png")
    message = refused(path)
    assert f"names 1,198 files that are not in the folder {tmp_path}: '2.png', '3.png', " in message
    assert "'11.png' and 1,188 more, the first in line 4" in message


def test_extension_is_added_if_all_names_lack_it(tmp_path: Path) -> None:
    text = "file,label\n000,cat\nx/001,dog\nx/0.2,cat\n"
    path = write(tmp_path, text, "000.jpg", "x/001.jpg", "x/0.2.jpg", "000.txt", "000.png")
    found = find(path)
    assert rows(found) == [("000.jpg", "cat"), ("001.jpg", "dog"), ("0.2.jpg", "cat")]
    assert found.notes == [f"{path} names files without an extension: those with '.jpg' are read"]
    touch(tmp_path, "x/001.png", "x/0.2.png")
    assert "there are files with each of '.jpg', '.png'. Give the names in full" in refused(path)


def test_extension_is_added_in_its_own_case_and_beside_folders_of_the_same_name(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "file,label\na,cat\nb,dog\n", "a/x", "b/x", "a.JPG", "b.JPG", "a.jpg")
    assert rows(find(path)) == [("a.JPG", "cat"), ("b.JPG", "dog")]


def test_extension_is_not_added_if_a_file_has_none_or_another(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label\na,cat\nb,dog\n", "a.jpg", "b.png")
    message = refused(path)
    assert "names 2 files that are not in the folder" in message
    assert ", with or without the extension of an image: 'a', 'b'" in message
    touch(tmp_path, "b.jpg", "a")
    message = refused(path)
    assert "names 1 file that is not in the folder" in message and ": 'b', the first" in message
    assert "with or without" not in message


@pytest.mark.parametrize("name", ["x", "x/", "x/.", ".", "./", "x/.."])
def test_folder_instead_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f"file,label\na.png,cat\n{name},dog\n", "a.png", "x/y")
    assert f"line 3: {name!r} is a folder" in refused(path)


@pytest.mark.parametrize("name", ["a.png/b.png", "none/a.png", "n" * 300, "n" * 300 + "/a"])
def test_name_that_no_file_can_have_is_missing(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f"file,label\na.png,cat\n{name},dog\n")
    assert "names 1 file that is not in the folder" in refused(path)


def test_names_of_any_script_are_found(tmp_path: Path) -> None:
    names = ["語.png", "é.png", unicodedata.normalize("NFD", "ü.png"), "\U0001f600.png"]
    text = "file,label\n" + "".join(f"{name},{index}語\n" for index, name in enumerate(names))
    assert rows(find(write(tmp_path, text, *names))) == [
        (name, f"{index}語") for index, name in enumerate(names)
    ]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "de_DE.ISO-8859-1"])
def test_csv_is_read_the_same_in_any_locale(locale: str, tmp_path: Path) -> None:
    names = ["語.png", "é.png", "a.png", "b.png"]
    text = "file,label\n" + "".join(f"{name},{name[0]}\n" for name in names)
    path = write(tmp_path, text)
    for index, name in enumerate(names):
        Image.new("L", (6, 6), index).save(tmp_path / name)
    code = (
        "import sys; from tl_keras.data import reading;"
        "found = reading.open_dataset('csv:' + sys.argv[1]);"
        "print(ascii(found.class_names), found.read('train', 6).images[:, 0, 0, 0].tolist())"
    )
    environment = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    path.write_text(text + text.replace("file,label\n", ""), encoding="utf-8")
    split = "split".join(("file,label,", "\n"))
    lines = [f"{name},{name[0]},train\n" for name in names] + ["c.png,a,test\n"]
    path.write_text(split + "".join(lines), encoding="utf-8")
    Image.new("L", (6, 6), 9).save(tmp_path / "c.png")
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True, text=True, check=False, env=environment,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    classes = ascii(("a", "b", "é", "語"))
    assert done.stdout == f"{classes} [0, 1, 2, 3]\n", done.stderr


# Paths that leave the folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside that of the CSV file, with b.png in it."""
    touch(tmp_path / "outside", "b.png")
    return tmp_path / "outside"


@pytest.mark.parametrize("form", ["parent", "absolute", "file link", "folder link"])
def test_path_that_leaves_the_folder_needs_a_flag(tmp_path: Path, outside: Path, form: str) -> None:
    root = tmp_path / "root"
    name = {"parent": "../outside/b.png", "absolute": f"{outside}/b.png", "file link": "b.png"}.get(
        form, "linked/b.png"
    )
    path = write(root, f"file,label\na.png,cat\n{name},dog\n", "a.png")
    if form == "file link":
        (root / "b.png").symlink_to(outside / "b.png")
    (root / "linked").symlink_to(outside)
    message = refused(path)
    assert (
        message.startswith(f"{path}, line 3: ") and f"leads out of {root}, to '{outside}" in message
    )
    assert message.endswith("or give --follow_links")
    files = find_csv_layout(path, CsvColumns(), follow_links=True).splits["train"]
    assert [os.path.realpath(one) for one in files.paths] == [
        str(root / "a.png"),
        str(outside / "b.png"),
    ]


def test_csv_file_may_be_in_a_linked_folder_and_link_inside(tmp_path: Path) -> None:
    write(tmp_path / "root", "file,label\na.png,cat\nx/b.png,dog\n", "a.png", "y/b.png")
    (tmp_path / "root" / "x").symlink_to("y")
    (tmp_path / "link").symlink_to("root")
    assert rows(find(tmp_path / "link" / "labels.csv")) == [("a.png", "cat"), ("b.png", "dog")]


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize(
    ("link", "target", "name"),
    [("b.png", "b.png", "b.png"), ("b.png", "none", "b.png"), ("x", "x", "x/b.png")],
)
def test_link_to_nowhere_is_refused_by_name(
    tmp_path: Path, link: str, target: str, name: str, follow_links: bool
) -> None:
    path = write(tmp_path, f"file,label\na.png,cat\n{name},dog\n", "a.png")
    (tmp_path / link).symlink_to(target)
    with pytest.raises(DataError, match=rf"{link}'? is a link that leads nowhere|{link}.*nowhere"):
        find_csv_layout(path, CsvColumns(), follow_links=follow_links)


def test_link_to_a_folder_is_no_file(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label\na.png,cat\nb.png,dog\n", "a.png", "x/y")
    (tmp_path / "b.png").symlink_to("x")
    assert "line 3: 'b.png' is a folder" in refused(path)


# Labels


def test_labels_are_in_one_form_and_sorted_by_their_bytes(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    labels = [decomposed, "Z", f" {composed} ", "a", "10", "9"]
    text = "file,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    found = find(write(tmp_path, text, *(f"{i}.png" for i in range(6))))
    assert found.classes == ["10", "9", "Z", "a", composed]
    assert found.splits["train"].labels.tolist() == [4, 2, 4, 3, 0, 1]


def test_file_with_two_labels_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label\na.png,cat\nb.png,dog\n./a.png,dog\n")
    message = refused(path)
    assert "line 4: './a.png' has the label 'dog', and in line 2 'cat'. Several labels a" in message
    path.write_text("file,label\na.png,cat\nb.png,dog\nc.png,dog\n")
    (tmp_path / "c.png").unlink()
    (tmp_path / "c.png").symlink_to("a.png")
    assert "line 4: 'c.png' has the label 'dog', and in line 2 'cat'" in refused(path)


def test_repeated_line_counts_once_and_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label\n" + FOUR + f"./a.png, cat\n{tmp_path}/b.png,dog\n")
    found = find(path)
    assert rows(found) == FOUR_ROWS
    [note] = found.notes
    assert note.startswith(f"{path}: 2 repeated lines are left out, of the files './a.png', ")


@pytest.mark.parametrize(("role", "values"), [("split", ("train", "test")), ("group", ("x", "y"))])
def test_file_in_two_splits_or_groups_is_refused(
    tmp_path: Path, role: str, values: tuple[str, str]
) -> None:
    first, second = values
    text = f"file,label,{role}\na.png,cat,{first}\nb.png,dog,{first}\na.png,cat,{second}\n"
    message = refused(write(tmp_path, text))
    assert f"line 4: 'a.png' has the {role} '{second}', and in line 2 '{first}'" in message


@pytest.mark.parametrize("several", ["cat|dog", "dog ; cat", '"cat,dog"', "cat|cat"])
def test_several_labels_in_a_field_are_refused(tmp_path: Path, several: str) -> None:
    path = write(tmp_path, f"file,label\na.png,cat\nb.png,dog\nc.png,{several}\n")
    message = refused(path)
    assert f"line 4: {several.strip(chr(34))!r} are several labels" in message
    assert message.endswith("Several labels a picture are not supported")


def test_label_with_a_separator_is_a_name_where_its_parts_are_none(tmp_path: Path) -> None:
    text = 'file,label\na.png,cat\nb.png,dog|fox\nc.png,"cat, small"\nd.png,|\n'
    path = write(tmp_path, text)
    found = find(path)
    assert found.classes == ["cat", "cat, small", "dog|fox", "|"]
    assert found.notes == [
        f"{path}: labels with | or ; in them are each the name of one class: 'dog|fox', '|'"
    ]


def test_one_class_is_too_few(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label\na.png,cat\nb.png,cat\n")
    assert "has only the class 'cat'. Give its files labels of two classes or more" in refused(path)
    path.write_text("file,label,split\na.png,cat,train\nb.png,dog,test\n")
    assert f"the train split of {path} has only the class 'cat'" in refused(path)


# Splits and groups


def splits_of(root: Path, *words: str) -> Path:
    lines = [f"{i}.png,{'ab'[i % 2]},{word}\n" for i, word in enumerate(words)]
    return write(root, "file,label,split\n" + "".join(lines), *(f"{i}.png" for i in range(9)))


def test_splits_are_those_of_the_column(tmp_path: Path) -> None:
    found = find(splits_of(tmp_path, "train", "Training", " TEST ", "testing", "dev", "val"))
    assert list(found.splits) == ["train", "validation", "test"] and not found.notes
    assert rows(found) == [("0.png", "a"), ("1.png", "b")]
    assert rows(found, "test") == [("2.png", "a"), ("3.png", "b")]
    assert rows(found, "validation") == [("4.png", "a"), ("5.png", "b")]


def test_validation_split_is_the_test_split_where_there_is_no_other(tmp_path: Path) -> None:
    path = splits_of(tmp_path, "train", "train", "Valid")
    found = find(path)
    assert rows(found, "test") == [("2.png", "a")] and set(found.splits) == {"train", "test"}
    assert found.notes == [
        f"the validation split of {path} is the test split, as there is no other"
    ]


def test_splits_without_training_files_are_refused(tmp_path: Path) -> None:
    assert "has no file in the train split" in refused(splits_of(tmp_path, "test", "test", "val"))


@pytest.mark.parametrize("split", ["test", "validation"])
def test_classes_that_are_not_trained_are_refused(tmp_path: Path, split: str) -> None:
    path = splits_of(tmp_path, "train", "train", split)
    path.write_text(path.read_text().replace("2.png,a", "2.png,c"))
    message = f"the {split} split of {path} has classes that the train split of {path} lacks: 'c'"
    assert refused(path) == message


def test_groups_are_codes_over_all_splits(tmp_path: Path) -> None:
    text = (
        "file,label,split,group\na.png,cat,train,p 1\nb.png,dog,train,p2\nc.png,cat,test,p3\n"
        "d.png,dog,train, p 1\n"
    )
    found = find(write(tmp_path, text))
    train, test = found.splits["train"], found.splits["test"]
    assert train.groups.dtype == test.groups.dtype == np.int64
    assert train.groups[0] == train.groups[2] != train.groups[1]
    assert test.groups[0] not in train.groups
    assert found.notes == []


def test_groups_in_two_splits_are_told(tmp_path: Path) -> None:
    text = "file,label,split,group\na.png,cat,train,p1\nb.png,dog,train,p2\nc.png,cat,test,p2\n"
    path = write(tmp_path, text)
    [note] = find(path).notes
    assert note.startswith(f"{path}: 1 of 2 groups are in more than one split")
    assert note.endswith(": 'p2'")


# The dataset


def paint(root: Path, count: int) -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("L", (6, 6), index).save(root / f"{index}.png")
    return [f"{index}.png,{'ab'[index % 2]}" for index in range(count)]


def test_dataset_of_a_csv_file_has_the_images_of_its_lines(tmp_path: Path) -> None:
    lines = paint(tmp_path, 10)
    splits = ["test" if index in (3, 6) else "train" for index in range(10)]
    text = "".join(f"{one},{split}\n" for one, split in zip(lines, splits, strict=True))
    (tmp_path / "l.csv").write_text("name,label,split\n" + text)
    name = f"csv:{tmp_path / 'l.csv'}"
    assert catalog.find(name).reader == "folder"
    dataset = reading.open_dataset(name, pictures=PictureOptions(csv_file_column="name"))
    assert dataset.decode
    dataset = dataset.decode(6)
    assert dataset.class_names == ("a", "b") and dataset.channels == 1
    test, train = dataset.read("test", 6), dataset.read("train", 6)
    for split, values in ((test, [3, 6]), (train, [0, 1, 2, 4, 5, 7, 8, 9])):
        assert split.images[:, 0, 0, 0].tolist() == values
        assert split.labels.tolist() == [value % 2 for value in values]


def test_dataset_names_corrupt_images_outside_of_the_folder(tmp_path: Path) -> None:
    lines = paint(tmp_path / "root", 4)
    (tmp_path / "bad.png").write_text("x")
    path = tmp_path / "root" / "l.csv"
    path.write_text("\n".join(["file,label", *lines, "../bad.png,a"]))
    with pytest.raises(DataError, match="leads out of"):
        reading.open_dataset(f"csv:{path}")
    with pytest.raises(DataError, match=r"unusable images \(1 in all\): '\.\./bad\.png' \(not a"):
        options = PictureOptions(follow_links=True)
        reading.open_dataset(f"csv:{path}", pictures=options).read("train", 6)


@pytest.mark.parametrize(
    ("name", "error"), [("csv:", UsageError), ("csv:~no-such-user/x", DataError)]
)
def test_dataset_without_a_file_is_refused(name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="Write csv:FILE|there is no file"):
        folder.open_dataset(name, "auto", PictureOptions())


def test_program_refuses_a_csv_file_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = write(tmp_path, "id,label\na.png,cat\nb.png,dog\n", "a.png")
    words = [f"--target=csv:{path}", "--image_size=8", f"--workdir={tmp_path / 'work'}"]
    assert main.main(["tl_keras", *words]) == 65
    assert "--csv_file_column" in capfd.readouterr().err.splitlines()[-1]
    assert main.main(["tl_keras", *words, "--csv_file_column=id"]) == 65
    assert "names 1 file that is not in" in capfd.readouterr().err.splitlines()[-1]
    assert main.main(["tl_keras", *words, "--csv_file_column=label"]) == 2
    assert "are the same column" in capfd.readouterr().err.splitlines()[-1]


# Fuzzing

PIECES = (
    *(b",", b";", b"\t", b'"', b'""', b"\n", b"\r\n", b"\r", b"\0", b" ", b"\xff", b"\xef\xbb\xbf"),
    *(b"file", b"label", b"split", b"group", b"train", b"TEST", b"val", b"cat", b"dog", b"cat|dog"),
    *(b"a.png", b"x/b.png", b"../o.png", b"/", b"/dev/zero", b"x", b"loop", b"gone", b"out", b"."),
    *("é語".encode(), "e\u0301".encode(), b"\xe2\x80\xa8", b"a" * 300, b"0", b"{}", b"%s", b"\\"),
)
ENTRIES = ("a.png", "b.png", "x/b.png", "x/a.jpg", "train/cat/0", "test/dog/1", "val/2", "é/0", "0")
GOOD_FILES = ("a.png", "b.png", "x/b.png")
GOOD_TREES = (GOOD_FILES, GOOD_FILES, ("train/cat/0", "train/dog/1"), ("cat/0", "dog/1"))
LINKS = ("nowhere", "loop", ".", "..", "x", "../outside", "/dev", "a.png", "../outside/o.png")


def make_tree(draw: random.Random, root: Path) -> None:
    """Make a folder of few files, folders, links and pipes."""
    root.mkdir()
    if draw.random() < 0.7:
        touch(root, *draw.choice(GOOD_TREES))
    for _ in range(draw.randrange(8)):
        path = root / draw.choice(ENTRIES)
        kind = draw.random()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind < 0.7:
                path.touch()
            elif kind < 0.9:
                path.symlink_to(draw.choice(LINKS))
            elif kind < 0.95:
                os.mkfifo(path)
            else:
                path.mkdir()
        except OSError:  # another entry is in the way
            continue
    if draw.random() < 0.2 and not os.path.lexists(root / "loop"):
        (root / "loop").symlink_to("loop")


def make_csv(draw: random.Random) -> bytes:
    """Make a table that is good, damaged, or no table at all."""
    kind = draw.random()
    if kind < 0.15:
        return b"".join(draw.choices(PIECES, k=draw.randrange(60)))
    if kind < 0.2:
        return draw.randbytes(draw.randrange(200))
    header = draw.choice([b"file,label", b"file,label,split", b"label,file,group,split"])
    names = [name.encode() for name in GOOD_FILES]
    row = {b"split": b"train", b"group": b"1"}
    lines = [header]
    for name in names if draw.random() < 0.7 else draw.choices(PIECES, k=draw.randrange(6)):
        row |= {b"file": name, b"label": b"cat" if name == names[0] else b"dog"}
        lines.append(b",".join(row[column] for column in header.split(b",")))
    content = draw.choice((b"\n", b"\r\n")).join(lines)
    if draw.random() < 0.3:
        content = content.replace(b",", draw.choice((b";", b"\t")))
    for _ in range(draw.choice((0, 0, 1, 3))):
        at = draw.randrange(len(content) + 1)
        end = at + draw.randrange(4)
        content = content[:at] + draw.choice((b"", *PIECES)) + content[end:]
    return content


def outcome(read: Callable[..., Layout], *given: object, **named: object) -> str:
    """Return what a reader did: "read", "refused", or what is wrong with it."""
    try:
        found = read(*given, **named)
    except (DataError, UsageError) as error:
        lines = str(error).splitlines()
        return "refused" if len(lines) == 1 and len(lines[0]) < 20_000 else f"said {lines[:2]}"
    if len(found.classes) < 2 or "train" not in found.splits:
        return f"classes {found.classes}"
    for files in found.splits.values():
        is_whole = len(files.paths) == len(files.labels)
        if not is_whole or not np.isin(files.labels, np.arange(len(found.classes))).all():
            return f"labels {files.labels} of {files.paths}"
    return "read"


def test_random_files_and_folders_are_read_or_refused(
    tmp_path: Path,
    rounds: Callable[..., int],
    tally: Callable[[str, int, int], None],
) -> None:
    draw = random.Random(0)
    touch(tmp_path / "outside", "o.png")
    count, found, bad = rounds(400, 10_000, 100_000), [], []
    tracemalloc.start()
    for index in range(count):
        if index % 10 == 0:
            root = tmp_path / str(index)
            make_tree(draw, root)
            found.append(outcome(find_layout, root, follow_links=index % 20 == 0))
        content = make_csv(draw)
        path = root / "labels.csv"
        path.write_bytes(content)
        follow = draw.random() < 0.5
        found.append(outcome(find_csv_layout, path, CsvColumns(), follow_links=follow))
        if found[-1] not in ("read", "refused"):
            bad.append((index, content, found[-1]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    good = found.count("read") + found.count("refused")
    tally("CSV files and folders, read or refused", good, len(found))
    assert good == len(found), bad[:3]
    assert found.count("read") > count // 20
    # Far less than the devices and pipes hold that a list may name.
    assert peak < 50_000_000


def test_line_without_an_end_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    with path.open("wb") as file:
        file.write(b"file,label\na.png,")
        file.truncate(1 << 30)
    tracemalloc.start()
    assert "line 2: it has 1,048,576 characters or more" in refused(path)
    path.write_bytes(b'file,label\n"' + b"a\n" * (csv_table.MAX_LINE * 2))
    assert "line 2: the row cannot be read" in refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
