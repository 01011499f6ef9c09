"""One look at all pictures of a dataset: blank ones, copies, leaks, and copies in two classes.

The form of `DataReport.as_json()`, which is stable:

    {"version": 1,
     "pictures": {"train": 800, "test": 200},
     "findings": {"exact_leak": {"count": 2, "examples": [[PICTURE, PICTURE], ...]}, ...}}

PICTURE is {"name": ..., "split": ..., "class": ...}. Each of `KINDS` is a finding, in that order,
with a count of 0 where there is nothing. There are at most 20 examples. An example is the one blank
picture, or two pictures: for a duplicate the one that is kept second, for a leak the test picture
second, for a conflict two pictures in different classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures.analysis import Analysis
from tl_keras.pictures.duplicates import Duplicates

# What is counted, and how the log names it.
KINDS = {
    "blank": "pictures are blank",
    "exact_duplicate": "pictures are copies of another in the same split",
    "near_duplicate": "pictures are nearly the same as another in the same split",
    "exact_leak": "training or validation pictures are copies of a test picture",
    "near_leak": "training or validation pictures are nearly the same as a test picture",
    "exact_conflict": "pictures have a copy in another class",
    "near_conflict": "pictures are nearly the same as one in another class",
}
# Those that on_duplicates=error refuses. Near duplicates of one split are legitimate: photographs
# in a row, frames of a video.
REFUSED = ("exact_duplicate", "exact_leak", "near_leak", "exact_conflict")
MODES = ("warn", "drop", "error")
MAX_EXAMPLES = 20
_MAX_NAMES = 3
_TEST = "test"
_VERSION = 1


@dataclass(frozen=True)
class Finding:
    """Pictures of one kind.

    Attributes:
        count: how many.
        examples: up to 20, each the indices of one or two pictures.
    """

    count: int
    examples: list[tuple[int, ...]]


class DataReport(NamedTuple):
    """The report. All arrays are about the n pictures.

    Attributes:
        labels: (n,) int64.
        splits: (n,) names of splits: "train", "validation", "test".
        names: of the files.
        class_names: names of the classes.
        duplicates: groups of the same pictures.
        findings: by each of KINDS.
    """

    labels: np.ndarray
    splits: np.ndarray
    names: Sequence[str]
    class_names: Sequence[str]
    duplicates: Duplicates
    findings: dict[str, Finding]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values; the module describes the form."""
        found, counts = np.unique(self.splits, return_counts=True)
        return {
            "version": _VERSION,
            "pictures": dict(zip(found.tolist(), counts.tolist(), strict=True)),
            "findings": {
                kind: {
                    "count": finding.count,
                    "examples": [[self._describe(i) for i in each] for each in finding.examples],
                }
                for kind, finding in self.findings.items()
            },
        }

    def log_lines(self) -> list[str]:
        """Return a line for each kind of finding, with the count and up to three names."""
        return [self.summarise(kind) for kind, finding in self.findings.items() if finding.count]

    def summarise(self, kind: str) -> str:
        """Return a line on one of KINDS: the count, and the names of up to three examples."""
        finding = self.findings[kind]
        examples = finding.examples[:_MAX_NAMES]
        listed = ", ".join(" and ".join(repr(self.names[i]) for i in each) for each in examples)
        more = ", ..." if finding.count > len(examples) else ""
        return f"{finding.count} {KINDS[kind]}: {listed}{more}"

    def _describe(self, index: int) -> dict[str, str]:
        # Bytes that are not UTF-8 would raise errors where the name is printed.
        name = os.fsencode(self.names[index]).decode("utf-8", "backslashreplace")
        return {
            "name": name,
            "split": str(self.splits[index]),
            "class": self.class_names[self.labels[index]],
        }


def make_report(
    analysis: Analysis,
    labels: np.ndarray,
    splits: np.ndarray,
    names: Sequence[str],
    class_names: Sequence[str],
) -> DataReport:
    """Report blank pictures and copies.

    Args:
        analysis: of the pictures of all splits.
        labels: (n,) int64, indices into `class_names`.
        splits: (n,) names of splits. Every split but "test" counts as training.
        names: n names of files.
        class_names: names of the classes.

    Raises:
        ValueError: the arguments differ in length.
    """
    splits = np.asarray(splits, np.str_)
    if not len(analysis.is_blank) == len(labels) == len(splits) == len(names):
        raise ValueError(
            f"{len(analysis.is_blank)} images, {len(labels)} labels, {len(splits)} splits and"
            f" {len(names)} names differ in number"
        )
    duplicates = analysis.duplicates
    exact, near = duplicates
    blank: list[tuple[int, ...]] = [(int(i),) for i in np.flatnonzero(analysis.is_blank)]
    exact_conflicts = _find_conflicts(exact, labels)
    near_conflicts = _find_conflicts(near, labels)
    exact_leaks, near_leaks = (_find_leaks(groups, splits == _TEST) for groups in duplicates)
    _, split_codes = np.unique(splits, return_inverse=True)
    exact_copies = _find_copies(exact, split_codes)
    near_copies = _find_copies(near, split_codes)
    found: dict[str, list[tuple[int, ...]]] = {
        "blank": blank,
        "exact_duplicate": exact_copies,
        "near_duplicate": _without(near_copies, exact_copies),
        "exact_leak": exact_leaks,
        "near_leak": _without(near_leaks, exact_leaks),
        "exact_conflict": exact_conflicts,
        "near_conflict": _without(near_conflicts, exact_conflicts),
    }
    findings = {kind: Finding(len(each), each[:MAX_EXAMPLES]) for kind, each in found.items()}
    return DataReport(labels, splits, names, class_names, duplicates, findings)


def resolve(report: DataReport, on_duplicates: str) -> np.ndarray:
    """Decide which pictures are kept.

    "warn" keeps all. "drop" removes, from all splits but "test":

    - pictures that are the same as a test picture, exactly or nearly: they would make the test
      result too good;
    - pictures with an exact copy in another class of these splits, all of them, as their label is
      unknown;
    - of other exact copies in these splits, all but the first.

    Near duplicates that no test picture is among stay, also in different classes. The test split is
    never changed.

    Args:
        report: from `make_report`.
        on_duplicates: one of MODES.

    Returns:
        (n,) bool, true for the pictures to keep.

    Raises:
        DataError: "error", and there are exact copies, near leaks or conflicts of exact copies; or
            "drop", and a class would lose all training pictures.
        ValueError: another mode.
    """
    if on_duplicates not in MODES:
        raise ValueError(f"on_duplicates is one of {', '.join(MODES)}, not {on_duplicates!r}")
    if on_duplicates == "error":
        _refuse(report)
    if on_duplicates != "drop":
        return np.ones(len(report.labels), bool)
    exact, near = report.duplicates
    is_test = report.splits == _TEST
    leaked = np.isin(near, near[is_test])
    training = np.flatnonzero(~is_test)
    first = np.zeros(len(exact), bool)
    first[training[np.unique(exact[training], return_index=True)[1]]] = True
    # A label in doubt: the copies in the training splits alone decide.
    mixed = training[_is_mixed(exact[training], report.labels[training])]
    keep = is_test | (first & ~leaked)
    keep[mixed] = False
    _check_classes_remain(report, keep)
    return keep


def _refuse(report: DataReport) -> None:
    found = [report.summarise(kind) for kind in REFUSED if report.findings[kind].count]
    if found:
        raise DataError(
            f"--on_duplicates=error: {'; '.join(found)}. Remove the copies, drop those outside the"
            " test split with --on_duplicates=drop, or keep all with --on_duplicates=warn"
        )


def _check_classes_remain(report: DataReport, keep: np.ndarray) -> None:
    is_train = report.splits == "train"
    lost = np.setdiff1d(report.labels[is_train], report.labels[is_train & keep])
    if lost.size:
        listed = ", ".join(repr(report.class_names[label]) for label in lost[:_MAX_NAMES])
        raise DataError(
            f"--on_duplicates=drop leaves no training picture of {lost.size} of the classes:"
            f" {listed}. All are copies of test pictures or of pictures in another class. Remove"
            " the wrong copies, or keep all with --on_duplicates=warn"
        )


def _find_copies(groups: np.ndarray, splits: np.ndarray) -> list[tuple[int, ...]]:
    """Return (copy, first) for all pictures but the first of a group in a split."""
    keys = groups * (int(splits.max(initial=0)) + 1) + splits
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    firsts = first[inverse]
    copies = np.flatnonzero(firsts != np.arange(len(groups)))
    return [(int(copy), int(firsts[copy])) for copy in copies]


def _find_leaks(groups: np.ndarray, is_test: np.ndarray) -> list[tuple[int, ...]]:
    """Return (picture, test picture) for all pictures in a group with a test picture."""
    tests = np.flatnonzero(is_test)
    values, first = np.unique(groups[tests], return_index=True)
    by_group = dict(zip(values.tolist(), tests[first].tolist(), strict=True))
    leaked = np.flatnonzero(~is_test & np.isin(groups, values))
    return [(int(index), by_group[int(groups[index])]) for index in leaked]


def _is_mixed(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return whether the group of a picture has several labels, (n,) bool."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    differs = labels != labels[first[inverse]]
    return np.bincount(inverse, differs, minlength=len(first))[inverse] > 0


def _find_conflicts(groups: np.ndarray, labels: np.ndarray) -> list[tuple[int, ...]]:
    """Return (picture, one in another class) for all pictures in a group of several classes."""
    mixed = np.flatnonzero(_is_mixed(groups, labels))
    members: dict[int, dict[int, int]] = {}
    for index in mixed.tolist():
        members.setdefault(int(groups[index]), {}).setdefault(int(labels[index]), index)
    found: list[tuple[int, ...]] = []
    for index in mixed.tolist():
        by_label = members[int(groups[index])]
        other = next(each for label, each in by_label.items() if label != labels[index])
        found.append((index, other))
    return found


def _without(pairs: list[tuple[int, ...]], known: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Leave out the pairs whose first picture is the first of a known one."""
    listed = {pair[0] for pair in known}
    return [pair for pair in pairs if pair[0] not in listed]
