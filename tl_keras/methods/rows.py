"""What a row of `tl_keras.methods.catalog` says of a method, a penalty or a pretraining."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from tl_keras.config import Config
from tl_keras.config.terms import Term, format_number
from tl_keras.errors import UsageError

# No strength is larger.
MAX_STRENGTH = 1e9

# Gives the reason why settings do not go together with a row, to go on from its flag; '' where they
# do.
Refusal = Callable[[Config], str]


def refuse_nothing(config: Config) -> str:
    """Return ''."""
    return ""


class Strength(NamedTuple):
    """A number behind a name.

    Attributes:
        default: where it is not given.
        low: the least that it may be.
        high: the most.
        whole: whether it counts something.
    """

    default: float
    low: float = 0.0
    high: float = MAX_STRENGTH
    whole: bool = False


@dataclass(frozen=True)
class Row:
    """What all rows say.

    Attributes:
        name: in its flag, and of the module of tl_keras.methods that has its code.
        summary: a line for `--help`.
        strengths: the numbers behind its name, by names, in their order.
    """

    name: str
    summary: str
    strengths: Mapping[str, Strength] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """How its flag names it, with its defaults: l2sp:ALPHA=0.1:BETA=0.01."""
        numbers = [f"{n.upper()}={format_number(s.default)}" for n, s in self.strengths.items()]
        return ":".join([self.name, *numbers])

    def numbers(self, term: Term, flag: str) -> tuple[float, ...]:
        """Return the strengths that a flag gives; those that it leaves out have their defaults.

        Args:
            term: of this row's name.
            flag: with its value, for errors.

        Raises:
            UsageError: there are too many, or one is out of its range.
        """
        allowed = list(self.strengths.values())
        if len(term.numbers) > len(allowed):
            form = ":".join([self.name, *(name.upper() for name in self.strengths)])
            raise UsageError(
                f"{flag}: {self.name} takes {len(allowed)} numbers at most ({form}), and"
                f" {len(term.numbers)} are given"
            )
        for number, strength in zip(term.numbers, allowed, strict=False):
            is_whole = number == int(number)
            if not strength.low <= number <= strength.high or (strength.whole and not is_whole):
                kind = "whole number" if strength.whole else "number"
                raise UsageError(
                    f"{flag}: '{format_number(number)}' is not a {kind} from {strength.low:g} to"
                    f" {strength.high:g}"
                )
        given = [
            int(number) if strength.whole else number
            for number, strength in zip(term.numbers, allowed, strict=False)
        ]
        return (*given, *(one.default for one in allowed[len(given) :]))


@dataclass(frozen=True)
class Penalty(Row):
    """What may be added to the loss of fine-tuning.

    Attributes:
        needs_source: whether it means nothing without a source.
        compares: whether it asks what the source model makes of each batch.
        needs_head: whether it asks for the source's head too.
    """

    needs_source: bool = True
    compares: bool = False
    needs_head: bool = False

    @property
    def make(self) -> Callable[..., Any]:
        """The penalty's `make(setting, *strengths)`; see tl_keras.methods.penalty."""
        return import_module(f"tl_keras.methods.{self.name}").make


@dataclass(frozen=True)
class Method(Row):
    """What is known of a method before it runs.

    Attributes:
        module: of tl_keras.methods, that has its `prepare`; empty for the one called as it is.
        copies_weights: whether its model starts from the source's weights.
        needs_source: whether it means nothing without a source.
        needs_head: whether it goes on with the source's head.
        streams: of which images a batch is part of each step: "target", "source".
        takes: names of the flags of the transfer that it heeds; others are refused.
        penalty: what it adds to the loss, without being named in `--penalty`.
        unfreeze: how it thaws the model, where `--unfreeze` does not say.
        refuses: the settings that do not go together with it.
        head_is_fresh: whether its head takes no row of the source's, whatever `--head` says.
    """

    module: str = ""
    copies_weights: bool = True
    needs_source: bool = True
    needs_head: bool = False
    streams: frozenset[str] = frozenset({"target"})
    takes: frozenset[str] = frozenset()
    penalty: str = ""
    unfreeze: str = "none"
    refuses: Refusal = refuse_nothing
    head_is_fresh: Callable[[Config], bool] = lambda config: False

    @property
    def prepare(self) -> Callable[..., Any]:
        """The method's `prepare(setting)`; see tl_keras.methods.interface."""
        return import_module(f"tl_keras.methods.{self.module or self.name}").prepare


@dataclass(frozen=True)
class Pretraining(Row):
    """What is known of a pretraining before it runs.

    Attributes:
        uses_labels: whether the source's labels are seen.
        refuses: the settings that do not go together with it.
    """

    uses_labels: bool = False
    refuses: Refusal = refuse_nothing

    @property
    def prepare(self) -> Callable[..., Any]:
        """The `prepare(setting)` of the pretraining.

        It gives a trained classifier where labels are used, and a trained body where they are not;
        see tl_keras.methods.interface.
        """
        return import_module(f"tl_keras.methods.{self.name}").prepare
