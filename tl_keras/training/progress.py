"""The line that says how far a run is, on a terminal; nothing where nobody watches."""

import sys
import time


class Progress:
    """One line, written over itself, with speed, loss and the time that is left."""

    def __init__(self, title: str, total_steps: int, batch_size: int):
        self._title = title
        self._total = total_steps
        self._batch_size = batch_size
        self._started: tuple[float, int] | None = None
        self._shown = sys.stderr.isatty()

    def update(self, step: int, loss: float) -> None:
        """Show that `step` steps are done; speed counts from the first update, after tracing."""
        if not self._shown:
            return
        now = time.perf_counter()
        if self._started is None:
            self._started = (now, step)
        speed = (step - self._started[1]) / max(now - self._started[0], 1e-9)
        left = f"{(self._total - step) / speed:.0f} s left" if speed else ""
        line = (
            f"{self._title}: step {step}/{self._total}  {speed:.1f} steps/s"
            f"  {speed * self._batch_size:.0f} images/s  loss {loss:.4f}  {left}"
        )
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
