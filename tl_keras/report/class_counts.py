"""How many images each class has in each split, in lines for the log and the report.

Counts are {class name: {"train": int, "validation": int, "test": int}}, in the order of the labels.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

Counts = Mapping[str, Mapping[str, int]]

SPLITS = ("train", "validation", "test")
# Up to so many classes are listed one by one.
MAX_LISTED = 20
# Up to so many classes are named in a sentence.
MAX_NAMED = 5
# One image of a class with fewer test images changes its recall by more than 20 points.
MIN_TEST_IMAGES = 5
# Ratio of the largest to the smallest class of an even split.
MAX_EVEN_RATIO = 1.5
LINE_LENGTH = 100


def count(
    labels: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the images of each class.

    Args:
        labels: split -> (images,) int, indices into `class_names`.
        class_names: the classes, in the order of the labels.

    Returns:
        {class name: {split: images}}, in the order of `class_names` and of `labels`.
    """
    found = {
        split: np.bincount(those, minlength=len(class_names)) for split, those in labels.items()
    }
    return {
        name: {split: int(images[label]) for split, images in found.items()}
        for label, name in enumerate(class_names)
    }


def is_uneven(counts: Counts, split: str = "test") -> bool:
    """Return whether the largest class of a split has more than 1.5 times the smallest's images.

    Classes without images in the split do not count. If the test split is uneven, the tables have
    the balanced accuracy. Otherwise it is close to the accuracy.
    """
    present = _get_present(counts, split).values()
    return bool(present) and max(present) > MAX_EVEN_RATIO * min(present)


def format_split(counts: Counts, split: str) -> str:
    """Return the counts of one split in one line, for the log.

    Up to 20 classes are listed. Of more, the line has the smallest, the median and the largest of
    those with images, and names up to 5 without.
    """
    present = _get_present(counts, split)
    if not present:
        return "none"
    sizes = list(present.values())
    if min(sizes) == max(sizes):
        text = f"{sizes[0]} each"
    elif len(counts) <= MAX_LISTED:
        return ", ".join(f"{_show(name)}: {images[split]}" for name, images in counts.items())
    else:
        smallest, largest = (_show(end(present, key=present.__getitem__)) for end in (min, max))
        text = f"{min(sizes)} ({smallest}) to {max(sizes)} ({largest}), median {np.median(sizes):g}"
    absent = [_show(name) for name in counts if name not in present]
    return text + (f"; absent: {_join(absent)}" if absent else "")


def format_even(counts: Counts) -> str:
    """Return one sentence without its full stop if the counts need no table, else "".

    They need none if every class has training and test images, and no split is uneven.
    """
    has_all = all(images["train"] and images["test"] for images in counts.values())
    if not has_all or any(is_uneven(counts, split) for split in SPLITS):
        return ""
    train, validation, test = (_format_range(counts, split) for split in SPLITS)
    return (
        f"{len(counts)} classes, each with {train} train, {validation} validation and {test} test"
        " images"
    )


def format_few(counts: Counts) -> str:
    """Return a sentence that names up to 5 classes with fewer than 5 test images, or ""."""
    few = sorted(
        (images["test"], label, name)
        for label, (name, images) in enumerate(counts.items())
        if images["test"] < MIN_TEST_IMAGES
    )
    names = [f"{_show(name)} ({images or 'none'})" for images, _, name in few]
    return f"Fewer than {MIN_TEST_IMAGES} test images: {_join(names)}." if names else ""


def list_rows(counts: Counts) -> list[list[str]]:
    """Return a heading and a row of each class: the images of each split, and the name.

    The name is the last cell, so that the numbers are aligned whatever the width of the names.
    """
    rows = [
        [*(str(images[split]) for split in SPLITS), _show(name)] for name, images in counts.items()
    ]
    return [[*SPLITS, "class"], *rows]


def format_counts(counts: Counts) -> list[str]:
    """Return the counts as lines of up to 100 characters, unless a name is long.

    Even counts are one line, see `format_even`. Otherwise there is an empty line, and a table with
    a row for each of up to 20 classes, or one line for each split of more classes. A last sentence
    names the classes with few test images.
    """
    if even := format_even(counts):
        lines = [even]
    elif len(counts) <= MAX_LISTED:
        rows = list_rows(counts)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
        lines = [""]
        for *cells, name in rows:
            right = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("   ".join([*right, name]))
    else:
        lines = ["", f"{len(counts)} classes; images of a class:"]
        for split in SPLITS:
            lines += _wrap(f"{split:12} {format_split(counts, split)}", indent=13)
    return lines + _wrap(format_few(counts))


def _get_present(counts: Counts, split: str) -> dict[str, int]:
    """Return the images of the classes that have some in the split."""
    return {name: images[split] for name, images in counts.items() if images[split]}


def _format_range(counts: Counts, split: str) -> str:
    sizes = [images[split] for images in counts.values()]
    low, high = min(sizes), max(sizes)
    return f"{low}" if low == high else f"{low}-{high}"


def _show(name: str) -> str:
    """Return a class name that may come from a folder, escaped if it would break the line."""
    return name if name.isprintable() else repr(name)


def _join(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _wrap(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        LINE_LENGTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
