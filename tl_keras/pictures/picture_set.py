"""All pictures of a dataset, decoded once.

Decoded pictures are kept on disk for later commands (`kept_sets`). A set that is too large for that
is in memory, and one that is too large for memory is decoded anew whenever a picture is needed.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_keras.config.pictures import PictureOptions
from tl_keras.errors import DataError, WriteError
from tl_keras.pictures import decode, decoded_set, kept_sets, picture_file, pixels
from tl_keras.pictures.decode import Decoded
from tl_keras.pictures.decoded_set import (
    GOOD,
    NO_PICTURE,
    RECORD,
    UNUSABLE,
    DecodedSet,
    MemorySet,
    digest_image,
    to_channels,
)
from tl_keras.pictures.limits import NotAPictureError, PictureError
from tl_keras.pictures.parallel import map_in_parallel
from tl_keras.pictures.picture_format import PictureFormat, Rendering
from tl_keras.pictures.pixels import Levels
from tl_keras.runtime import interruption
from tl_keras.storage import memory

LOG = logging.getLogger(__name__)

_FILES_PER_CHUNK = 64
_SECONDS_PER_LINE = 10.0


class PictureSet(NamedTuple):
    """The checked pictures of a dataset.

    Attributes:
        records: (files,) RECORD.
        problems: why a file is unusable, by its index.
        form: how the pictures are decoded.
        channels: 1 if all pictures are grey, else 3.
        table: (good pictures, size, size, channels) uint8; None if they are decoded when needed.
        is_decoded: whether all pictures have been decoded, and not their headers alone.
        folder: the folder of a kept set; None if nothing is kept.
    """

    records: np.ndarray
    problems: dict[int, str]
    form: PictureFormat
    channels: int
    table: np.ndarray | None
    is_decoded: bool
    folder: Path | None


class _Outcome(NamedTuple):
    """What became of a file."""

    status: int
    decoded: Decoded | None = None
    problem: str = ""


def read_pictures(
    paths: Sequence[str], in_training: np.ndarray, form: PictureFormat, options: PictureOptions
) -> PictureSet:
    """Check and decode all files of a dataset, or read the pictures that an earlier command kept.

    Args:
        paths: of the files, in an order that is always the same.
        in_training: (files,) bool. The rendering is chosen from these pictures.
        form: the pictures that are wanted; its rendering is chosen here.
        options: the flags.

    Raises:
        DataError: there is not enough memory for a picture.
        StoppedError: a stop signal arrived. What is decoded is kept.
    """
    folder = kept_sets.KeptSets.from_options(options)
    streams = _streams(len(paths), form.size, folder, options)
    check_headers = streams and options.check_pictures != "all"
    work = _Work(paths, in_training, form, options.max_pixels, check_headers)
    size = 0 if streams else form.size
    if folder.has_room(kept_sets.needed_bytes(size, len(paths))):
        key = kept_sets.make_key(
            paths, in_training, form, options.max_pixels, streams, check_headers
        )
        try:
            with folder.open(key, size, len(paths)) as kept:
                return work.complete(kept)
        except WriteError as error:
            LOG.warning("decoded pictures are not kept: %s", error)
    return work.complete(MemorySet(size, len(paths)))


def _streams(count: int, size: int, folder: kept_sets.KeptSets, options: PictureOptions) -> bool:
    if options.stream_pictures != "auto":
        return options.stream_pictures == "always"
    needed = kept_sets.needed_bytes(size, count)
    # Not the available memory, which would make the same command stream today and not tomorrow.
    in_memory = needed <= memory.MEMORY_SHARE * memory.total_memory()
    return not in_memory and not folder.has_room(needed)


class _Work(NamedTuple):
    """The files to check and decode, see `read_pictures`."""

    paths: Sequence[str]
    in_training: np.ndarray
    form: PictureFormat
    max_pixels: int
    check_headers: bool

    def complete(self, target: DecodedSet) -> PictureSet:
        """Decode what `target` lacks, and return the whole set."""
        problems = self._append_missing(target, self._find_problems(target))
        rendering = _choose_rendering(target.records[self.in_training])
        stale = target.find_damaged()
        if target.done is None or target.done["rendering"] != list(rendering):
            stale = np.union1d(stale, _find_rendered(target.records, rendering))
        form = self.form._replace(rendering=rendering)
        if not self.check_headers:
            self._decode_again(target, stale, form)
        if target.done is None or len(stale):
            target.finish({"rendering": list(rendering)})
        rows = target.rows() if target.keeps_rows else None
        return PictureSet(
            target.records,
            problems,
            form,
            target.channels,
            rows,
            not self.check_headers,
            target.folder,
        )

    def _find_problems(self, target: DecodedSet) -> dict[int, str]:
        """Decode the unusable files of `target` again, and return their problems.

        A file may have become readable without being changed. Then all is decoded again.
        """
        unusable = np.flatnonzero(target.records["status"] == UNUSABLE).tolist()
        problems: dict[int, str] = {}
        for start in range(0, len(unusable), _FILES_PER_CHUNK):
            chunk = unusable[start : start + _FILES_PER_CHUNK]
            found = self._decode([self.paths[index] for index in chunk], self.form)
            if any(outcome.status != UNUSABLE for outcome in found):
                target.clear()
                return {}
            problems |= {i: outcome.problem for i, outcome in zip(chunk, found, strict=True)}
            _stop_if_requested()
        return problems

    def _append_missing(self, target: DecodedSet, problems: dict[int, str]) -> dict[int, str]:
        """Decode the files after the last record of `target`. Return the problems of all files."""
        first, count = len(target.records), len(self.paths)
        progress = _Progress("checking" if self.check_headers else "decoding", first, count)
        for start in range(first, count, _FILES_PER_CHUNK):
            found = self._decode(self.paths[start : start + _FILES_PER_CHUNK], self.form)
            decoded = [outcome.decoded for outcome in found if outcome.decoded]
            if target.channels == 1 and not all(one.is_grey for one in decoded):
                target.widen()
            images = [to_channels(one.image, target.channels) for one in decoded]
            target.append(_make_records(found), images)
            numbered = enumerate(found, start)
            problems |= {i: outcome.problem for i, outcome in numbered if outcome.problem}
            progress.log(start + len(found))
            _stop_if_requested()
        return problems

    def _decode_again(self, target: DecodedSet, indices: np.ndarray, form: PictureFormat) -> None:
        """Decode some good pictures again, and replace their rows.

        Raises:
            DataError: one of them cannot be decoded any more.
        """
        row_of = np.cumsum(target.records["status"] == GOOD) - 1
        for start in range(0, len(indices), _FILES_PER_CHUNK):
            chunk = indices[start : start + _FILES_PER_CHUNK].tolist()
            found = self._decode([self.paths[index] for index in chunk], form)
            for index, outcome in zip(chunk, found, strict=True):
                if outcome.decoded is None:
                    path, reason = self.paths[index], outcome.problem or "it is no picture"
                    raise DataError(f"{path!r} was good, and cannot be decoded again: {reason}")
                # A range of values that is too wide makes colours of 16 bits equal.
                if target.channels == 1 and not outcome.decoded.is_grey:
                    target.widen()
                [record] = _make_records([outcome])
                image = to_channels(outcome.decoded.image, target.channels)
                target.overwrite(index, int(row_of[index]), record, image)
            _stop_if_requested()

    def _decode(self, paths: Sequence[str], form: PictureFormat) -> list[_Outcome]:
        """Decode files in parallel, or check their headers."""
        one = _check_header if self.check_headers else decode.decode
        return list(
            map_in_parallel(
                lambda path: _try(one, path, form, self.max_pixels), paths, self.max_pixels
            )
        )


class _Progress:
    """Log lines of work that takes longer than some seconds."""

    def __init__(self, verb: str, done: int, count: int):
        """Begin after `done` of `count` files."""
        self._verb, self._count = verb, count
        self._time = time.monotonic()
        if done < count:
            LOG.info("%s %d of %d pictures", verb, count - done, count)

    def log(self, done: int) -> None:
        """Log how many files are done, at most every 10 seconds."""
        if time.monotonic() - self._time >= _SECONDS_PER_LINE:
            LOG.info("%s: %d of %d pictures", self._verb, done, self._count)
            self._time = time.monotonic()


def _stop_if_requested() -> None:
    if interruption.stop_requested():
        raise interruption.stopped_error()


def _find_rendered(records: np.ndarray, rendering: Rendering) -> np.ndarray:
    """Return the indices of the pictures that `rendering` changes, (n,) int64."""
    if rendering == Rendering():
        return np.empty(0, np.int64)
    rendered = records["is_deep"] | (records["opaque"] >= 0)
    return np.flatnonzero(rendered & (records["status"] == GOOD))


def _choose_rendering(records: np.ndarray) -> Rendering:
    good = records[records["status"] == GOOD]
    special = good[good["is_deep"] | (good["opaque"] >= 0)]
    return pixels.choose_rendering(
        [Levels(*(record[name].item() for name in Levels._fields)) for record in special]
    )


def _make_records(outcomes: Sequence[_Outcome]) -> np.ndarray:
    records = np.zeros(len(outcomes), RECORD)
    records["opaque"] = -1
    for record, outcome in zip(records, outcomes, strict=True):
        record["status"] = outcome.status
        if outcome.decoded:
            for name, value in outcome.decoded.levels._asdict().items():
                record[name] = value
            record["is_grey"] = outcome.decoded.is_grey
            digest = digest_image(outcome.decoded.image, outcome.decoded.is_grey)
            record["digest"] = np.frombuffer(digest, "<u8")
    return decoded_set.seal(records)


def _check_header(path: str, form: PictureFormat, max_pixels: int) -> Decoded:
    """Check the header of a picture. It is decoded if it belongs to those that need a rendering.

    Returns:
        An empty image of 1 channel if the picture is grey for sure, else of 3.
    """
    with picture_file.open_picture(path, max_pixels) as (picture, file):
        levels = Levels()
        if picture.format not in ("JPEG", "MPO") and pixels.needs_rendering(picture):
            levels = pixels.measure(picture_file.load_raster(picture, file))
        channels = 1 if form.framed or picture.mode in pixels.GREY_MODES else 3
    return Decoded(np.empty((0, 0, channels), np.uint8), channels == 1, levels)


def _try(
    function: Callable[[str, PictureFormat, int], Decoded],
    path: str,
    form: PictureFormat,
    max_pixels: int,
) -> _Outcome:
    try:
        # A pipe would block until something is written.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a Path costs more
            return _Outcome(NO_PICTURE)
        return _Outcome(GOOD, function(path, form, max_pixels))
    except NotAPictureError:
        return _Outcome(NO_PICTURE)
    except (PictureError, OSError) as error:
        return _Outcome(UNUSABLE, problem=str(error) or type(error).__name__)
    except MemoryError as error:  # the image is good: another run could decode it
        raise DataError(f"there is not enough memory to decode {path!r}") from error
