"""Choose the training and the test split of a dataset of tensorflow-datasets."""

import functools
import logging

import numpy as np

from tl_keras.config.tfds import TfdsSelection
from tl_keras.data import catalog, tfds_prepare
from tl_keras.data.held_out import choose_test
from tl_keras.data.tfds_examples import Source, read_labels
from tl_keras.data.tfds_labels import check_labels, is_unlabelled, unlabelled_error
from tl_keras.errors import DataError, UsageError

LOG = logging.getLogger(__name__)

_TEST_SPLITS = ("test", "validation", "valid", "val")


class Splits:
    """The training and the test split of a dataset. Labels are read when they are needed.

    Attributes:
        train: the training split's name or slice.
        is_carved: whether the test split is a part of the training split.
    """

    def __init__(self, source: Source, train: str, tests: list[str]):
        """Use a training split, and candidates for the test split; see `choose_splits`."""
        self._source = source
        self.train, self._tests = train, tests
        self.is_carved = not tests

    def check_test(self) -> None:
        """Check the labels of the test split; see `Dataset.check_test`."""
        # The labels of a carved test split are checked with the training split's.
        if not self.is_carved:
            self._labelled_test_split  # noqa: B018

    @property
    def test(self) -> str:
        """The test split's name. Labels are read only if there are several candidates."""
        return self._tests[0] if len(self._tests) == 1 else self._labelled_test_split

    @functools.cached_property
    def _labelled_test_split(self) -> str:
        """The name of the first candidate with labels. A DataError is raised if none has labels."""
        for number, split in enumerate(self._tests):
            labels = read_labels(self._source, split)
            if is_unlabelled(self._source, labels):
                continue
            check_labels(self._source, split, labels)
            if number:
                unlabelled = " and ".join(repr(one) for one in self._tests[:number])
                name = self._source.name
                LOG.info("%s: tested on '%s', because %s has no labels", name, split, unlabelled)
            return split
        raise unlabelled_error(self._source, self._tests)

    @functools.cached_property
    def carved(self) -> np.ndarray:
        """Mask of the test examples in the training split, (examples,) bool."""
        return choose_test(
            check_labels(self._source, self.train, read_labels(self._source, self.train))
        )


def choose_splits(source: Source, selection: TfdsSelection) -> tuple[str, list[str]]:
    """Return the training split, and the candidates for the test split, best first.

    Without candidates, a part of the training split is the test split.

    Raises:
        UsageError: a split of the flags does not exist, is empty, or overlaps the other one.
        DataError: the dataset has no training split.
    """
    train, tests = _choose_usual(source, selection)
    ranges = _find_ranges(source, train, f"--{source.prefix}train_split")
    if selection.test_split:
        tested = _find_ranges(source, selection.test_split, f"--{source.prefix}test_split")
        if _share_examples(ranges, tested):
            raise UsageError(
                f"--{source.prefix}test_split={selection.test_split} shares examples with the"
                f" training split '{train}' of dataset '{source.name}'. Give"
                f" --{source.prefix}train_split without them, such as train[:80%] beside"
                " train[80%:]"
            )
        return train, [selection.test_split]
    if selection.train_split:
        tests = [one for one in tests if not _share_examples(ranges, _find_ranges(source, one, ""))]
    return train, tests


def _choose_usual(source: Source, selection: TfdsSelection) -> tuple[str, list[str]]:
    """Return the splits of the flags, else those of the catalog, else the usual ones."""
    there = [split for split, info in source.builder.info.splits.items() if info.num_examples]
    if source.name in catalog.DATASETS or "train" not in there:
        wanted = source.entry.splits
    else:
        wanted = ("train", next((split for split in _TEST_SPLITS if split in there), ""))
    if selection.train_split:
        wanted = ("", wanted[1] if wanted[1] in there else "")
    if selection.test_split:
        wanted = (wanted[0], "")
    missing = [split for split in wanted if split and split not in there]
    if missing:
        raise DataError(
            f"dataset '{source.name}' in {source.builder.data_dir} has no split"
            f" {' and no '.join(missing)}. It has {', '.join(there) or 'none'}. Name others by"
            f" --{source.prefix}train_split and --{source.prefix}test_split"
        )
    train, test = wanted[0] or selection.train_split, wanted[1]
    others = [split for split in _TEST_SPLITS if split in there and split not in (train, test)]
    return train, [test, *others] if test else []


# The name of a file, its first example, and the one after its last.
Range = tuple[str, int, int]


def _find_ranges(source: Source, split: str, flag: str) -> list[Range]:
    """Return which examples a split has, or raise UsageError if it has none, or some twice."""
    there = ", ".join(source.builder.info.splits)
    allowed = f"Give one of {there}, a slice such as train[:80%], or a sum of these with +"
    try:
        with tfds_prepare.silence_tfds():
            parts = source.builder.info.splits[split].file_instructions
    except (ValueError, NotImplementedError, KeyError) as error:
        lines = str(error.__cause__ or error).splitlines()
        raise UsageError(
            f"{flag}={split} is no split of dataset '{source.name}'"
            f" ({tfds_prepare.short_reason(ValueError(lines[-1] if lines else ''))}). {allowed}"
        ) from error
    ranges = [(str(part.filename), part.skip, part.skip + part.take) for part in parts]
    if not ranges or any(first >= last for _, first, last in ranges):
        raise UsageError(f"{flag}={split} has no examples of dataset '{source.name}'. {allowed}")
    if any(_share_examples([one], ranges[:place]) for place, one in enumerate(ranges)):
        raise UsageError(
            f"{flag}={split} has examples of dataset '{source.name}' twice. Give slices that do not"
            " overlap"
        )
    return ranges


def _share_examples(first: list[Range], second: list[Range]) -> bool:
    return any(
        file == other and start < other_end and other_start < end
        for file, start, end in first
        for other, other_start, other_end in second
    )
