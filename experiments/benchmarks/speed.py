"""Rows that compare speed: ours against each of the others, with a goal for the ratio."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from experiments.benchmarks.processes import Worker
from experiments.benchmarks.turns import Found, Pace, ratio, take_turns

OURS = "tl_keras"


@dataclass(frozen=True)
class Opponent:
    """Whom we compare with.

    Attributes:
        name: as the table has it.
        goal: how many times faster we want to be; 0 for no goal.
        function: "package.module:name" of what it does, called as `worker` says.
        arguments: of that function.
    """

    name: str
    goal: float
    function: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Ours against others, each a long-lived process.

    Attributes:
        name: of the row.
        work: what a round is, in words.
        function: "package.module:name" of what we do, called as `worker` says.
        arguments: of that function.
        opponents: in the order of their turns, which come after ours.
        pace: how many rounds.
    """

    name: str
    work: str
    function: str
    arguments: Mapping[str, Any]
    opponents: Sequence[Opponent]
    pace: Pace = Pace()

    def measure(self) -> dict[str, Any]:
        """Return what `finding` makes of the rounds."""
        entrants = [Worker(OURS, self.function, self.arguments)]
        entrants += [Worker(one.name, one.function, one.arguments) for one in self.opponents]
        found = take_turns(entrants, self.pace)
        return finding(self.name, self.work, found, OURS, self.opponents)


def finding(
    name: str, work: str, found: Mapping[str, Found], ours: str, opponents: Sequence[Opponent]
) -> dict[str, Any]:
    """Return what a row found, ready for JSON.

    Args:
        name: of the row.
        work: what a round is, in words.
        found: of each contender, by name.
        ours: our name among them.
        opponents: with their goals.
    """
    against = []
    for one in opponents:
        factor = ratio(found[ours], found[one.name])
        against.append(
            {
                "name": one.name,
                "goal": one.goal or None,
                "ratio": factor._asdict() if factor else None,
                "reached": factor.median >= one.goal if factor and one.goal else None,
                **asdict(found[one.name]),
            }
        )
    own = {"name": ours, **asdict(found[ours])}
    return {"row": name, "kind": "speed", "work": work, "ours": own, "against": against}
