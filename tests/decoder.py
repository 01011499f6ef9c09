"""Pictures decoded in processes of their own, which may crash, hang, or take too much memory.

Run as a program, it decodes the files whose paths come in, a line each, and answers with what
became of each: one of GOOD, or how it went wrong.
"""

import os
import queue
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tl_keras.pictures import decode, limits, picture_file
from tl_keras.pictures.picture_format import PictureFormat

PICTURE, REFUSED, NO_PICTURE = GOOD = ("a picture", "refused", "not a picture")

SECONDS = 30.0
# Beside what the process has when it begins. The largest picture that is allowed takes 0.9 GB.
MEMORY = 1_500_000_000


class Decoder:
    """A process that decodes; a new one takes its place when it is lost."""

    def __init__(self, path: Path, command: Sequence[str] = (sys.executable, __file__)):
        """Write what is to be decoded to `path`; `command` is what decodes."""
        self._path = path
        self._command = command
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def outcome(self, name: str, content: bytes) -> str:
        """Return what becomes of a file of that name and content: one of GOOD, or what went wrong.

        Args:
            name: whose extension the file has.
            content: of the file.
        """
        path = self._path.with_suffix(Path(name).suffix)
        path.write_bytes(content)
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        answer = self._process.stdout.readline().strip() if ready else ""
        path.unlink()
        if answer:
            return answer
        if ready:
            self._process.wait()
        self.close()
        code = self._process.returncode
        self._start()
        return f"ended with code {code}" if ready else f"not done after {SECONDS} seconds"


class Decoders:
    """As many decoders as there are processors."""

    def __init__(self, folder: Path):
        """Start them, with their files in `folder`."""
        count = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(count)
        self._idle: queue.Queue[Decoder] = queue.Queue()
        for index in range(count):
            self._idle.put(Decoder(folder / f"picture{index}"))

    def outcomes(self, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Return what becomes of each file, of a name and a content; see Decoder."""
        return list(self._pool.map(self._outcome, files))

    def _outcome(self, file: tuple[str, bytes]) -> str:
        decoder = self._idle.get()
        try:
            return decoder.outcome(*file)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
        while not self._idle.empty():
            self._idle.get().close()


# A crop of a size that most pictures are decoded to at a scale, and all ways of fitting.
FORMS = (
    PictureFormat(7, "crop"), PictureFormat(16, "pad"), PictureFormat(40, "stretch"),
    PictureFormat(28, framed=True),
)  # fmt: skip


def outcome_of(path: Path) -> str:
    """Decode a picture in all ways and return what became of it."""
    outcomes = {_try(lambda: _load(path))}
    for form in FORMS:
        outcomes.add(_try(lambda form=form: _fit(path, form)))
    # A part of a JPEG is enough for some ways.
    [*bad] = outcomes.difference(GOOD)
    return bad[0] if bad else min(outcomes, key=GOOD.index)


def _load(path: Path) -> str:
    image = picture_file.load(path)
    height, width, channels = image.shape
    fits = channels in (1, 3) and 0 < height * width <= limits.MAX_PIXELS
    return PICTURE if image.dtype == np.uint8 and fits else f"{image.dtype} {image.shape}"


def _fit(path: Path, form: PictureFormat) -> str:
    image = decode.decode(str(path), form).image
    fits = image.shape[:2] == (form.size, form.size) and image.shape[2] in (1, 3)
    return PICTURE if image.dtype == np.uint8 and fits else f"{image.dtype} {image.shape}"


def _try(decoding: Callable[[], str]) -> str:
    try:
        return decoding()
    except limits.NotAPictureError:
        return NO_PICTURE
    except limits.PictureError as error:
        return REFUSED if len(str(error).splitlines()) == 1 else f"said {str(error)!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Decode the files whose paths come in."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        print(" ".join(outcome_of(Path(line.removesuffix("\n"))).split()), flush=True)


if __name__ == "__main__":
    main()
