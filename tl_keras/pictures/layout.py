"""The layout of a folder of images: which of its folders are splits, and which are classes.

    PATH/CLASS/*                              a fixed fifth of each class is the test split
    PATH/train/CLASS/*  PATH/test/CLASS/*     the splits as they are
    PATH/train/CLASS/*  PATH/valid/CLASS/*    the validation folder is the test split
    all three                                 the validation folder validates

A split folder is known by its name in any case: train, training; test, testing; val, valid,
validation, dev. It is never a class. A split folder of images without class folders has no labels:
it is left for prediction, and said in the log. Names that look the same are one class, whether
their accents are written in one character or in two (Unicode NFC and NFD).

A link may lead to another place in the folder. One that leads out of it is an error, or is followed
with --follow_links. One that leads in a circle, or nowhere, is an error. If it leads nowhere and
stands in a class, it may be an image that is gone: the reader of the images names it.
"""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures.links import Links

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
_MAX_LISTED = 10
_MAX_SHOWN = 100


class LabelledFiles(NamedTuple):
    """The files of one split, which may be no images.

    Attributes:
        paths: of the files.
        labels: (files,) int64, indices into the classes.
        groups: (files,) int64, equal for files that belong together, such as the photographs of one
            patient; None if nothing is known.
    """

    paths: list[str]
    labels: np.ndarray
    groups: np.ndarray | None = None


class Layout(NamedTuple):
    """The files of a dataset.

    Attributes:
        classes: names of the classes, sorted by their bytes, in the form NFC.
        splits: by "train" and, if there are such, "validation" and "test".
        notes: lines for the log, on what is left out and why.
    """

    classes: list[str]
    splits: dict[str, LabelledFiles]
    notes: list[str]


def find_layout(root: Path, follow_links: bool = False) -> Layout:
    """List the classes and files of a folder.

    Args:
        root: the folder, which may be a link.
        follow_links: follow links that lead out of the folder, instead of refusing them.

    Raises:
        DataError: there are fewer than two classes, a split folder has images where classes are
            expected, a test class has no training class, folders are nested too deeply, a folder
            cannot be read, or a link leads nowhere, in a circle, or out of the folder.
    """
    links = Links(root, follow_links)
    folders = links.list_folders(root)
    named = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    others = [name for name in folders if name not in named]
    for split in sorted(set(named.values())):
        same = [repr(name) for name, its in named.items() if its == split]
        if len(same) > 1:
            raise DataError(
                f"{root} has two folders for the {split} split: {' and '.join(same)}. Keep one of"
                " them"
            )
    by_split = {split: name for name, split in named.items()}
    if "train" in by_split:
        return _find_splits(links, by_split, others)
    if not others:
        raise DataError(
            f"{root} has {list_names(folders)} and no train folder. {ADVICE}"
            if folders
            else f"{root} has no class. {ADVICE}"
        )
    notes = [_leave_unlabelled(links, name) for name in named]
    classes = _list_classes(links, root, others)
    return _make_layout(check_classes(root, list(classes), ADVICE), {"train": classes}, notes)


ADVICE = (
    "Put the images of each class into a separate folder, in PATH/train and PATH/test, or in PATH"
)


def _find_splits(links: Links, by_split: dict[str, str], others: list[str]) -> Layout:
    """Return the layout of a folder with a train folder."""
    root = links.root
    if others:
        raise DataError(
            f"{root} has folders beside train and test: {', '.join(sorted(others))}. Move them"
            " away, or use one folder for each class instead of train and test"
        )
    notes: list[str] = []
    labelled: dict[str, dict[str, list[str]]] = {}
    for split in sorted(by_split, key=("train", "test", "validation").index):
        name = by_split[split]
        if names := links.list_folders(root / name):
            labelled[split] = _list_classes(links, root / name, names)
        elif split == "train":
            raise DataError(
                f"{root / name} has no class folders. {name!r} is the name of a split and no"
                f" class. {ADVICE}"
            )
        else:
            notes.append(_leave_unlabelled(links, name))
    notes += use_validation_as_test(labelled, root / by_split.get("validation", ""))
    classes = check_classes(root, list(labelled["train"]), ADVICE)
    for split, listed in labelled.items():
        place = root / (by_split.get(split) or by_split["validation"])
        check_trained(classes, listed, place, root / by_split["train"])
    return _make_layout(classes, labelled, notes)


def use_validation_as_test(splits: dict[str, Any], place: object) -> list[str]:
    """Make the validation split the test split if there is no other, and return notes on it.

    Args:
        splits: anything by the name of the split. It is changed.
        place: where the validation split is, for the note.
    """
    if "test" in splits or "validation" not in splits:
        return []
    splits["test"] = splits.pop("validation")
    return [f"{place} is the test split, as there is no other"]


def check_classes(place: object, classes: list[str], advice: str) -> list[str]:
    """Return the classes, or raise a DataError with advice if there are fewer than two."""
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class"
        raise DataError(f"{place} has {found}. {advice}")
    return classes


def check_trained(
    trained: Iterable[str], classes: Iterable[str], place: object, train_place: object
) -> None:
    """Raise DataError for classes of one split, at `place`, that the training split lacks."""
    if missing := sorted(set(classes).difference(trained), key=os.fsencode):
        raise DataError(f"{place} has classes that {train_place} lacks: {list_names(missing)}")


def _make_layout(
    classes: list[str], labelled: dict[str, dict[str, list[str]]], notes: list[str]
) -> Layout:
    splits = {}
    for split, listed in labelled.items():
        labels = [np.full(len(paths), classes.index(name)) for name, paths in listed.items()]
        paths = [path for listed_paths in listed.values() for path in listed_paths]
        splits[split] = LabelledFiles(paths, np.concatenate(labels).astype(np.int64))
    return Layout(classes, splits, notes)


def _leave_unlabelled(links: Links, name: str) -> str:
    """Return the note on a split folder without labels.

    Raises:
        DataError: there are class folders in it, and no train folder beside it.
    """
    root = links.root
    entries = links.list_visible(root / name)
    if not entries:
        raise DataError(f"{root / name} is empty. Remove it, or put images of each class into it")
    if any(entry.is_dir() for entry in entries):
        raise DataError(
            f"{root / name} has class folders, and {root} has no train folder. {ADVICE}"
        )
    return (
        f"{root / name} has no class folders: its images have no labels, and are left for"
        " prediction"
    )


def _list_classes(links: Links, folder: Path, names: list[str]) -> dict[str, list[str]]:
    """Return the files of every class, regular or not, by the class's name."""
    listed: dict[str, list[str]] = {}
    for name in names:
        files = links.list_visible(folder / name)
        nested = next((file.path for file in files if file.is_dir()), None)
        if nested:
            raise DataError(
                f"{nested!r} is a folder inside a class. Put images into PATH/CLASS, or into"
                " PATH/train/CLASS and PATH/test/CLASS (both)"
            )
        own = listed.setdefault(unicodedata.normalize("NFC", name), [])
        own += [file.path for file in files]
    return {
        name: sorted(listed[name], key=lambda path: os.fsencode(path.rpartition(os.sep)[2]))
        for name in sorted(listed, key=os.fsencode)
    }


def list_names(names: Sequence[str]) -> str:
    """Return up to ten names with their quotes, and how many more there are."""
    shown = [
        repr(name[:_MAX_SHOWN]) + "..." * (len(name) > _MAX_SHOWN) for name in names[:_MAX_LISTED]
    ]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
