"""Measuring contenders in turn, A, B, C, A, B, C, and what their rounds say of one another."""

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


class FailedError(Exception):
    """A contender cannot go on; the message is one line."""


class Measure(NamedTuple):
    """What one round of one contender gave.

    Attributes:
        images_per_second: that it worked on.
        peak_mb: the most memory it had, in 10^6 bytes.
        input_wait: share of the time in which it waited for input; 0 where it is not known.
    """

    images_per_second: float
    peak_mb: float
    input_wait: float = 0.0


class Entrant(Protocol):
    """A contender, as far as turns go; each of these may raise a FailedError."""

    name: str

    def start(self) -> None:
        """Begin to get ready."""

    def ready(self) -> None:
        """Wait until it is ready, and have it do nothing until the next round."""

    def round(self) -> Measure:
        """Have it work for one round, and do nothing after."""

    def close(self) -> None:
        """End it, in whatever state it is; called once or more often."""


@dataclass
class Found:
    """What was measured of one contender: of each round in their order, and why it failed."""

    images_per_second: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    error: str = ""
    input_waits: list[float] = field(default_factory=list)


class Pace(NamedTuple):
    """How many rounds are measured, and how many go before them."""

    warmup: int = 2
    rounds: int = 7


class Ratio(NamedTuple):
    """How many times faster one is than another: median, least and most of all rounds."""

    median: float
    low: float
    high: float


def take_turns(entrants: Sequence[Entrant], pace: Pace) -> dict[str, Found]:
    """Measure each entrant once a round; one that fails leaves, and the others go on.

    Args:
        entrants: with different names; they are closed whatever happens.
        pace: how often.

    Returns:
        What was found of each, by name.
    """
    found = {entrant.name: Found() for entrant in entrants}
    with contextlib.ExitStack() as closing:
        for entrant in entrants:
            closing.callback(entrant.close)
        for entrant in entrants:
            _attempt(entrant, found, entrant.start)
        for entrant in entrants:
            _attempt(entrant, found, entrant.ready)
        for number in range(pace.warmup + pace.rounds):
            for entrant in entrants:
                measure = _attempt(entrant, found, entrant.round)
                if measure is not None and number >= pace.warmup:
                    own = found[entrant.name]
                    own.images_per_second.append(measure.images_per_second)
                    own.peak_mb = max(own.peak_mb, measure.peak_mb)
                    own.input_waits.append(measure.input_wait)
    return found


def _attempt(entrant: Entrant, found: dict[str, Found], action: Callable[[], Any]) -> Any:
    """Return what `action` gives; None where the entrant fails, or did before."""
    own = found[entrant.name]
    if own.error:
        return None
    try:
        return action()
    except FailedError as error:
        own.error = str(error)
        entrant.close()
        return None


def ratio(ours: Found, peer: Found) -> Ratio | None:
    """Return how many times faster `ours` is than `peer`; None where one of them failed."""
    if ours.error or peer.error or not peer.images_per_second:
        return None
    pairs = zip(ours.images_per_second, peer.images_per_second, strict=True)
    ratios = [own / other for own, other in pairs]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
