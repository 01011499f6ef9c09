"""The progress line on a terminal. Without a terminal it prints nothing."""

import sys
import time


class Progress:
    """One updating line with speed, loss and remaining time."""

    def __init__(self, title: str, total_steps: int, batch_size: int):
        self._title = title
        self._total = total_steps
        self._batch_size = batch_size
        self._started: tuple[float, int] | None = None
        self._shown = sys.stderr.isatty()

    def update(self, step: int, loss: float) -> None:
        """Show the progress after `step` steps, with the speed since the first update."""
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
        """Clear the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
