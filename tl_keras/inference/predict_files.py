"""The predictions of `python -m tl_keras.predict`, as text and as files."""

import csv
import io
import json
import logging
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tl_keras.config.prediction import PredictionOptions
from tl_keras.errors import DataError, UsageError
from tl_keras.inference.picture_files import PictureFiles, list_files
from tl_keras.inference.trained_model import TrainedModel, load
from tl_keras.report import metrics
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

_MAX_LISTED = 10
STANDARD_INPUT = "-"


def run(options: PredictionOptions, pictures: Sequence[str]) -> str:
    """Predict pictures, write the files that are asked for, and return the text to print.

    Args:
        options: the flags.
        pictures: paths of files and folders; "-" for paths on the standard input.

    Raises:
        UsageError: the models have different classes, or there is no picture.
        DataError: a path or a model is missing, or no picture can be decoded.
        WriteError: a file cannot be written.
    """
    models = [load(path.strip()) for path in options.model.split(",")]
    _check_same_classes(models)
    paths = list_files(_read_paths(pictures))
    if not paths:
        raise DataError(f"there is no file in {', '.join(map(repr, pictures[:_MAX_LISTED]))}")
    probabilities, features, good = _predict(models, paths, options.max_pixels)
    paths = [path for path, is_good in zip(paths, good, strict=True) if is_good]
    names = models[0].class_names
    if options.csv:
        files.write_bytes(files.expand_user(options.csv), _format_csv(paths, probabilities, names))
    if options.embeddings:
        _write_embeddings(files.expand_user(options.embeddings), paths, features)
    format_line = _format_json if options.json else _format_text
    lines = [
        format_line(*one, names, options.top) for one in zip(paths, probabilities, strict=True)
    ]
    if options.true:
        lines += compare_with_folders(paths, probabilities, names, as_json=options.json)
    return "\n".join(lines)


def _read_paths(pictures: Sequence[str]) -> Iterator[str]:
    for path in pictures:
        if path == STANDARD_INPUT:
            yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        else:
            yield path


def _check_same_classes(models: Sequence[TrainedModel]) -> None:
    for model in models[1:]:
        if model.class_names != models[0].class_names:
            raise UsageError(
                f"--model: {model.path} has other classes than {models[0].path}, so that their"
                " probabilities have no mean"
            )


def _predict(
    models: Sequence[TrainedModel], paths: Sequence[str], max_pixels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict files with each model, and report the bad files.

    Returns:
        The mean probabilities of the good files, (good, classes) float32; the features that the
        first model has of them, (good, d) float32; and which files are good, (files,) bool.
    """
    good, outputs = np.ones(len(paths), bool), []
    for model in models:
        found = PictureFiles(paths, model.form, model.channels, max_pixels=max_pixels)
        outputs.append(model.run(found))
        good[[*found.problems, *found.no_pictures]] = False
        if model is models[0]:
            _report_problems(paths, found)
    if not good.any():
        raise DataError(f"none of the {len(paths)} files is a picture that can be decoded")
    probabilities = np.mean([one["probabilities"] for one in outputs], axis=0)
    return probabilities[good], outputs[0]["features"][good], good


def _report_problems(paths: Sequence[str], found: PictureFiles) -> None:
    """Name the corrupt files, and count those that are no pictures."""
    if found.no_pictures:
        LOG.info("%d files that are no pictures are left out", len(found.no_pictures))
    problems = [f"{paths[index]!r} ({why})" for index, why in sorted(found.problems.items())]
    if problems:
        more = f" and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        listed = ", ".join(problems[:_MAX_LISTED])
        LOG.warning("%d pictures cannot be decoded: %s%s", len(problems), listed, more)


def _format_text(path: str, probabilities: np.ndarray, names: Sequence[str], top: int) -> str:
    order = np.argsort(-probabilities, kind="stable")[:top]
    first, *others = (f"{_show(names[index])} {probabilities[index]:.1%}" for index in order)
    rest = f"  ({', '.join(others)})" if others else ""
    return f"{_show(path)}  {first}{rest}"


def _show(text: str) -> str:
    """Return text of others without what would control a terminal."""
    return text if text.isprintable() else repr(text)


def _format_json(path: str, probabilities: np.ndarray, names: Sequence[str], top: int) -> str:
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = [{"class": names[i], "probability": round(float(probabilities[i]), 6)} for i in order]
    return json.dumps({"file": path, "predictions": best})


def _format_csv(paths: Sequence[str], probabilities: np.ndarray, names: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "class", *names))
    for path, row in zip(paths, probabilities, strict=True):
        writer.writerow((path, names[int(row.argmax())], *(f"{value:.6g}" for value in row)))
    return text.getvalue().encode(errors="surrogateescape")


def _write_embeddings(path: Path, paths: Sequence[str], features: np.ndarray) -> None:
    """Write {"files": (n,), "embeddings": (n, d) float32}."""
    content = io.BytesIO()
    np.savez(content, files=np.array(paths), embeddings=features)
    files.write_bytes(path, content.getvalue())


def compare_with_folders(
    paths: Sequence[str], probabilities: np.ndarray, names: Sequence[str], *, as_json: bool
) -> list[str]:
    """Return lines on the accuracy, where folders are named after the classes of their files."""
    index_of = {name: index for index, name in enumerate(names)}
    # As in `layout`, names that look the same are one class.
    folders = [unicodedata.normalize("NFC", Path(path).parent.name) for path in paths]
    labels = np.array([index_of.get(folder, -1) for folder in folders])
    known = labels >= 0
    if not known.any():
        raise UsageError(
            "--true: no picture lies in a folder that is named after a class. The classes are"
            f" {', '.join(map(repr, names[:_MAX_LISTED]))}"
        )
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels)[known].sum())
    balanced = metrics.balanced_accuracy(labels[known], predicted[known])
    if as_json:
        found = {"pictures": int(known.sum()), "right": right, "accuracy": right / known.sum()}
        return [json.dumps({**found, "balanced_accuracy": balanced})]
    unknown = f"; {(~known).sum()} in folders of no class" if not known.all() else ""
    return [
        f"accuracy {right / known.sum():.2%} ({right} of {known.sum()} pictures{unknown}),"
        f" balanced {balanced:.2%}"
    ]
